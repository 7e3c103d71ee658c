use std::{num::NonZeroU16, path::PathBuf};

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{
    drain::{self, Of, watching},
    named_netns::NamedNetns,
    number::whole,
    output::{Cell, Format, Sheet, Table},
    progress::waiting,
};
use crate::api::{
    Operations, Refusal, RefusalKind,
    wire::{
        AttachRequest, DEFAULT_IFNAME, DetachRequest, DrainRequest, EndpointState, EndpointView, NetnsTarget, Span,
    },
};

/// The greatest number of a process that a kernel gives (`PID_MAX_LIMIT` in linux/threads.h).
const PID_MAX: u32 = 4 << 20;

/// `weft endpoint`.
#[derive(Subcommand)]
pub(super) enum EndpointCommand {
    /// List the endpoints of the cluster
    Ls(Format),
    /// Show one endpoint
    Inspect {
        #[command(flatten)]
        endpoint: EndpointArgs,
        #[command(flatten)]
        format: Format,
    },
    /// Give an endpoint, of whichever node, no new connections, and wait until those that it has are finished
    ///
    /// First every live node confirms that it sends no new connections there. Then the open ones may take as long as
    /// --timeout says. The endpoint stays attached, and takes no connections until it is detached and attached again.
    Drain(DrainArgs),
}

/// `weft endpoint drain`.
#[derive(Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// How long its connections may take, such as 30s or 5m, at most 24h [default: what its service says]
    #[arg(long, value_name = "D", allow_hyphen_values = true)]
    timeout: Option<Span>,
}

/// `weft detach`.
#[derive(Args)]
pub(super) struct DetachArgs {
    #[command(flatten)]
    endpoint: EndpointArgs,
    /// Do not wait for the other nodes, nor for its connections: what is under way is lost
    #[arg(long)]
    force: bool,
}

/// One endpoint.
#[derive(Args)]
pub(super) struct EndpointArgs {
    /// Its id, its name, or NETWORK/NAME
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    endpoint: String,
}

/// `weft attach`.
#[derive(Args)]
pub(super) struct AttachArgs {
    #[command(flatten)]
    target: Target,
    /// The network
    #[arg(long, value_name = "NET")]
    network: String,
    /// The endpoint's name [default: made up]
    #[arg(long)]
    name: Option<String>,
    /// One more name for it
    #[arg(long = "alias", value_name = "ALIAS")]
    aliases: Vec<String>,
    /// The service whose replica it is
    #[arg(long)]
    service: Option<String>,
    /// The address that it shall have [default: one of the node's]
    #[arg(long, value_name = "ADDR")]
    ip: Option<String>,
    /// The name of its device
    #[arg(long, value_name = "NAME", default_value = DEFAULT_IFNAME)]
    ifname: String,
    /// Its share of the service's connections, from 1 to 65535
    #[arg(long, value_name = "N", default_value = "1", allow_negative_numbers = true,
        value_parser = whole(NonZeroU16::MIN, NonZeroU16::MAX))]
    weight: NonZeroU16,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Target {
    /// The namespace, by a path that leads to it, such as /run/netns/web1
    #[arg(long, value_name = "PATH")]
    netns: Option<PathBuf>,
    /// The namespace, by a process in it
    #[arg(long, allow_negative_numbers = true, value_parser = whole(1, PID_MAX))]
    pid: Option<u32>,
}

impl EndpointCommand {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        match self {
            Self::Ls(format) => format.show(&agent.endpoint_list().await?, |endpoints| table(endpoints)),
            Self::Inspect { endpoint: EndpointArgs { endpoint }, format } => {
                format.show(&agent.endpoint_inspect(&endpoint).await?, sheet)
            }
            Self::Drain(args) => args.run(agent).await,
        }
    }
}

impl DrainArgs {
    /// Drains it and returns what to print.
    async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        let Self { endpoint: EndpointArgs { endpoint }, timeout } = self;
        let work = agent.endpoint_drain(&endpoint, DrainRequest { timeout });
        let reply = watching(&format!("draining {endpoint}"), agent, Of::Endpoint(&endpoint), work).await?;
        drain::tell(&reply);
        let verb = if reply.warnings.is_empty() { "drained" } else { "takes no new connections" };
        Ok(format!("endpoint {endpoint} {verb}\n"))
    }
}

impl DetachArgs {
    /// Detaches it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        let Self { endpoint: EndpointArgs { endpoint }, force } = self;
        let netns = NamedNetns::left_by(agent, &endpoint).await;
        let work = agent.detach(&endpoint, DetachRequest { force });
        let reply = watching(&format!("detaching {endpoint}"), agent, Of::Endpoint(&endpoint), work).await;
        if let Some(netns) = netns {
            // It may have failed after the record was deleted: then nothing is left to detach that would remove the file later.
            let is_gone = reply.is_ok()
                || agent.endpoint_inspect(&endpoint).await.is_err_and(|refusal| refusal.kind == RefusalKind::NotFound);
            if is_gone {
                netns.remove_resolv_conf();
            }
        }
        drain::tell(&reply?);
        Ok(format!("endpoint {endpoint} detached\n"))
    }
}

impl AttachArgs {
    /// Attaches it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        let Self { target, network, name, aliases, service, ip, ifname, weight, format } = self;
        let what = format!("attaching to {network}");
        let netns = target.resolve()?;
        let named = match &netns {
            NetnsTarget::Path(path) => NamedNetns::of_path(path),
            NetnsTarget::Pid(_) => None,
        };
        let request = AttachRequest { netns, network, name, aliases, service, ip, ifname, weight, loopback_up: false };
        let reply = waiting(&what, agent.attach(request)).await?;
        if let Some(named) = named {
            named.write_resolv_conf(&reply.endpoint);
        }
        format.show(&reply, |reply| {
            let verb = if reply.created { "attached" } else { "already attached" };
            format!("endpoint {} {verb}: {}", reply.endpoint.name, reply.endpoint.addresses.join(", "))
        })
    }
}

impl Target {
    /// As the agent finds it, whose working folder is another.
    fn resolve(self) -> Result<NetnsTarget, Refusal> {
        match self {
            Self { pid: Some(pid), .. } => Ok(NetnsTarget::Pid(pid)),
            Self { netns, pid: None } => {
                let netns = netns.unwrap_or_default();
                let refuse = |why: &dyn std::fmt::Display| {
                    Refusal::invalid(format!("cannot use the namespace {}: {why}", netns.display()))
                };
                let path = std::path::absolute(&netns).map_err(|error| refuse(&error))?;
                let path = path.into_os_string().into_string().map_err(|_| refuse(&"its path is not UTF-8"))?;
                Ok(NetnsTarget::Path(path))
            }
        }
    }
}

/// Where an endpoint stands, in its colour.
pub(super) fn state(state: EndpointState) -> Cell {
    let word = state.as_str();
    match state {
        EndpointState::Starting | EndpointState::Draining => Cell::warning(word),
        EndpointState::Ready => Cell::good(word),
        EndpointState::Unhealthy => Cell::bad(word),
    }
}

fn table(endpoints: &[EndpointView]) -> Table {
    Table::new(
        &["ID", "NAME", "NETWORK", "ADDRESS", "NODE", "SERVICE", "STATE"],
        endpoints.iter().map(|endpoint| {
            [
                Cell::from(endpoint.id.as_str()),
                Cell::from(endpoint.name.as_str()),
                Cell::from(endpoint.network.as_str()),
                Cell::list(&endpoint.addresses),
                Cell::from(endpoint.node.as_str()),
                Cell::optional(endpoint.service.as_ref()),
                state(endpoint.state),
            ]
        }),
    )
}

fn sheet(endpoint: &EndpointView) -> Sheet {
    let sheet = Sheet::default()
        .with("ID", endpoint.id.as_str())
        .with("Name", endpoint.name.as_str())
        .with("Aliases", Cell::list(&endpoint.aliases))
        .with("Network", endpoint.network.as_str())
        .with("Addresses", Cell::list(&endpoint.addresses))
        .with("Node", endpoint.node.as_str())
        .with("Service", Cell::optional(endpoint.service.as_ref()))
        .with("State", state(endpoint.state))
        .with("Weight", endpoint.weight.to_string())
        .with("Namespace", endpoint.netns.as_str())
        .with("Device", format!("{}, MAC {}", endpoint.ifname, endpoint.mac))
        .with("Host's device", endpoint.link.as_str());
    match &endpoint.fault {
        Some(fault) => sheet.with("Last probe", Cell::bad(fault.as_str())),
        None => sheet,
    }
}
