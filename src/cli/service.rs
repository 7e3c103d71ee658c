use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{
    endpoint::state,
    output::{Cell, Format, Sheet, Table},
};
use crate::api::{
    Operations, Refusal,
    wire::{PortKey, PortSpec, ReplicaView, ServiceCreateRequest, ServiceStatus, ServiceUpdateRequest, ServiceView},
};

/// `weft service`.
#[derive(Subcommand)]
pub(super) enum ServiceCommand {
    /// Make a service
    Create(CreateArgs),
    /// List the services
    Ls(Format),
    /// List the replicas of a service
    Ps(ServiceArgs),
    /// Show one service
    Inspect(ServiceArgs),
    /// Change the published ports of a service
    Update(UpdateArgs),
    /// Remove a service that has no replicas
    Rm {
        /// Its name
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        service: String,
    },
}

/// One service.
#[derive(Args)]
pub(super) struct ServiceArgs {
    /// Its name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    service: String,
    #[command(flatten)]
    format: Format,
}

/// `weft service create`.
#[derive(Args)]
pub(super) struct CreateArgs {
    /// Its name: a-z, 0-9 and inner hyphens, 63 characters at most
    name: String,
    /// The network of its replicas
    #[arg(long, value_name = "NET")]
    network: String,
    /// A port that every node answers: PUBLISHED:TARGET[/tcp|udp], such as 8080:80
    #[arg(long = "publish", value_name = "SPEC")]
    ports: Vec<PortSpec>,
    #[command(flatten)]
    format: Format,
}

/// `weft service update`.
#[derive(Args)]
pub(super) struct UpdateArgs {
    /// Its name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    service: String,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
#[group(required = true, multiple = true)]
struct Change {
    /// Published ports in place of all that it has: PUBLISHED:TARGET[/tcp|udp]
    #[arg(long = "publish", value_name = "SPEC", conflicts_with_all = ["publish_add", "publish_rm"])]
    publish: Vec<PortSpec>,
    /// A port to publish besides, or with another target
    #[arg(long, value_name = "SPEC")]
    publish_add: Vec<PortSpec>,
    /// A published port to take away: PUBLISHED[/tcp|udp]
    #[arg(long, value_name = "PORT")]
    publish_rm: Vec<PortKey>,
}

impl ServiceCommand {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        match self {
            Self::Create(CreateArgs { name, network, ports, format }) => {
                let reply = agent.service_create(ServiceCreateRequest { name, network, ports }).await?;
                format.show(&reply, |reply| {
                    let verb = if reply.created { "created" } else { "already exists" };
                    format!("service {} {verb}: {}", reply.service.name, reply.service.vips.join(", "))
                })
            }
            Self::Ls(format) => format.show(&agent.service_list().await?, |services| table(services)),
            Self::Ps(ServiceArgs { service, format }) => {
                format.show(&agent.service_replicas(&service).await?, |replicas| replica_table(replicas))
            }
            Self::Inspect(ServiceArgs { service, format }) => {
                format.show(&agent.service_inspect(&service).await?, sheet)
            }
            Self::Update(UpdateArgs { service, change, format }) => {
                let Change { publish, publish_add, publish_rm } = change;
                let ports = if publish.is_empty() { None } else { Some(publish) };
                let request = ServiceUpdateRequest { ports, add_ports: publish_add, remove_ports: publish_rm };
                let service = agent.service_update(&service, request).await?;
                format.show(&service, |service| match service.ports.as_slice() {
                    [] => format!("service {} publishes no ports", service.name),
                    ports => {
                        let ports: Vec<String> = ports.iter().map(ToString::to_string).collect();
                        format!("service {} publishes {}", service.name, ports.join(", "))
                    }
                })
            }
            Self::Rm { service } => {
                agent.service_remove(&service).await?;
                Ok(format!("service {service} removed\n"))
            }
        }
    }
}

fn table(services: &[ServiceView]) -> Table {
    Table::new(
        &["NAME", "NETWORK", "VIP", "REPLICAS", "PORTS", "STATUS"],
        services.iter().map(|service| {
            [
                Cell::from(service.name.as_str()),
                Cell::from(service.network.as_str()),
                Cell::list(&service.vips),
                Cell::from(replicas(service)),
                Cell::list(&service.ports),
                status(service),
            ]
        }),
    )
}

fn replica_table(replicas: &[ReplicaView]) -> Table {
    Table::new(
        &["ENDPOINT", "NODE", "ADDRESS", "STATE", "WEIGHT", "BALANCED"],
        replicas.iter().map(|replica| {
            [
                Cell::from(replica.endpoint.as_str()),
                Cell::from(replica.node.as_str()),
                Cell::from(replica.address.as_str()),
                state(replica.state),
                Cell::from(replica.weight.to_string()),
                match (replica.balanced, &replica.reason) {
                    (true, _) => Cell::good("yes"),
                    (false, Some(reason)) => Cell::bad(format!("no: {reason}")),
                    (false, None) => Cell::bad("no"),
                },
            ]
        }),
    )
}

fn sheet(service: &ServiceView) -> Sheet {
    Sheet::default()
        .with("ID", service.id.to_string())
        .with("Name", service.name.as_str())
        .with("Network", service.network.as_str())
        .with("VIP", Cell::list(&service.vips))
        .with("Ports", Cell::list(&service.ports))
        .with("Replicas", replicas(service))
        .with("Status", status(service))
}

fn replicas(service: &ServiceView) -> String {
    format!("{}/{}", service.replicas_ready, service.replicas_total)
}

fn status(service: &ServiceView) -> Cell {
    let word = service.status.as_str();
    match service.status {
        ServiceStatus::Empty => Cell::from(word),
        ServiceStatus::Down => Cell::bad(word),
        ServiceStatus::Degraded => Cell::warning(word),
        ServiceStatus::Ready => Cell::good(word),
    }
}
