use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{
    number::whole,
    output::{Cell, Format, Sheet, Table, yes_no},
};
use crate::api::{
    Operations, Refusal,
    wire::{NetworkCreateRequest, NetworkView},
};

/// `weft network`.
#[derive(Subcommand)]
pub(super) enum NetworkCommand {
    /// Make a network
    Create(CreateArgs),
    /// List the networks
    Ls(Format),
    /// Show one network
    Inspect {
        /// Its name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: String,
        #[command(flatten)]
        format: Format,
    },
    /// Remove a network that nothing uses
    Rm {
        /// Its name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        network: String,
    },
}

/// `weft network create`.
#[derive(Args)]
pub(super) struct CreateArgs {
    /// Its name: a-z, 0-9 and inner hyphens, 63 characters at most
    name: String,
    /// Its prefix, such as `10.9.0.0/16` or `fd00:9::/64`; one of each family [default: IPv4, cut from the cluster's pools]
    #[arg(long = "subnet", value_name = "CIDR")]
    subnets: Vec<String>,
    /// Give it IPv6 too, cut from the cluster's pools
    #[arg(long)]
    ipv6: bool,
    /// Keep containers from opening connections to the outside
    #[arg(long)]
    internal: bool,
    /// The containers' MTU in bytes, from 1280 to 65535 [default: the tunnel's]
    #[arg(long, value_name = "N", allow_negative_numbers = true,
        value_parser = whole(NetworkCreateRequest::MTU_MIN, NetworkCreateRequest::MTU_MAX))]
    mtu: Option<u32>,
    #[command(flatten)]
    format: Format,
}

impl NetworkCommand {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        match self {
            Self::Create(CreateArgs { name, subnets, ipv6, internal, mtu, format }) => {
                let reply = agent.network_create(NetworkCreateRequest { name, subnets, ipv6, internal, mtu }).await?;
                format.show(&reply, |reply| {
                    let verb = if reply.created { "created" } else { "already exists" };
                    format!("network {} {verb}: {}", reply.network.name, prefixes(&reply.network).join(", "))
                })
            }
            Self::Ls(format) => format.show(&agent.network_list().await?, |networks| table(networks)),
            Self::Inspect { network, format } => format.show(&agent.network_inspect(&network).await?, sheet),
            Self::Rm { network } => {
                agent.network_remove(&network).await?;
                Ok(format!("network {network} removed\n"))
            }
        }
    }
}

fn table(networks: &[NetworkView]) -> Table {
    Table::new(
        &["NAME", "SUBNET", "INTERNAL", "MTU", "ENDPOINTS", "SERVICES"],
        networks.iter().map(|network| {
            [
                Cell::from(network.name.as_str()),
                Cell::list(prefixes(network)),
                Cell::from(yes_no(network.internal)),
                mtu(network),
                Cell::from(network.endpoints.to_string()),
                Cell::from(network.services.to_string()),
            ]
        }),
    )
}

fn sheet(network: &NetworkView) -> Sheet {
    let subnets = network.subnets.iter().map(|subnet| {
        Cell::from(format!("{}, blocks of /{}, VIPs from {}", subnet.prefix, subnet.block_len, subnet.vip_range))
    });
    Sheet::default()
        .with("ID", network.id.to_string())
        .with("Name", network.name.as_str())
        .with_each("Subnets", subnets)
        .with("Internal", yes_no(network.internal))
        .with("MTU", mtu(network))
        .with("Endpoints", network.endpoints.to_string())
        .with("Services", network.services.to_string())
}

fn prefixes(network: &NetworkView) -> Vec<&str> {
    network.subnets.iter().map(|subnet| subnet.prefix.as_str()).collect()
}

fn mtu(network: &NetworkView) -> Cell {
    match network.mtu {
        Some(mtu) => Cell::from(mtu.to_string()),
        None => Cell::from("tunnel"),
    }
}
