//! `weft service`: each command is one request and what is printed of its answer.

mod settings;

use clap::{ArgGroup, Args, Subcommand, builder::NonEmptyStringValueParser};

use self::settings::{Settings, unusual};
use super::{
    endpoint::state,
    output::{Cell, Format, Sheet, Table},
};
use crate::api::{
    Operations, Refusal,
    wire::{
        EndpointMode, PortKey, PortSpec, ReplicaTraffic, ReplicaView, ServiceCreateReply, ServiceCreateRequest,
        ServiceStatus, ServiceTraffic, ServiceUpdateRequest, ServiceView,
    },
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
    /// Change the published ports of a service, or how it behaves
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
    /// A port that every node answers, such as 8080:80:
    /// [ADDR:|DEVICE:]PUBLISHED:TARGET[/tcp|udp|sctp][,mode=kernel|proxy][,proxy-protocol=v1|v2][,proxy-from=CIDR]...;
    /// PUBLISHED 0 lets the cluster choose from 30000-32767
    #[arg(long = "publish", value_name = "SPEC", allow_hyphen_values = true)]
    ports: Vec<PortSpec>,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    format: Format,
}

/// What an update may name, at least one of them: the fields of [`Change`] and [`Settings`].
const UPDATES: [&str; 14] = [
    "publish",
    "publish_add",
    "publish_rm",
    "lb",
    "affinity",
    "endpoint_mode",
    "health",
    "health_port",
    "health_interval",
    "health_timeout",
    "health_rise",
    "health_fall",
    "health_status",
    "drain",
];

/// `weft service update`.
#[derive(Args)]
#[command(override_usage = "weft service update <SERVICE> --OPTION VALUE...")]
#[command(group(ArgGroup::new("update").args(UPDATES).required(true).multiple(true)))]
pub(super) struct UpdateArgs {
    /// Its name
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    service: String,
    #[command(flatten)]
    change: Change,
    #[command(flatten)]
    settings: Settings,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
struct Change {
    /// Published ports in place of all that it has; as with `create`
    #[arg(long = "publish", value_name = "SPEC", allow_hyphen_values = true, conflicts_with_all = ["publish_add", "publish_rm"])]
    publish: Vec<PortSpec>,
    /// A port to publish besides, or with another target
    #[arg(long, value_name = "SPEC", allow_hyphen_values = true)]
    publish_add: Vec<PortSpec>,
    /// A published port to take away: [ADDR:|DEVICE:]PUBLISHED[/tcp|udp|sctp]
    #[arg(long, value_name = "PORT", allow_hyphen_values = true)]
    publish_rm: Vec<PortKey>,
}

impl ServiceCommand {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        match self {
            Self::Create(CreateArgs { name, network, ports, settings, format }) => {
                let leaves_choice = ports.iter().any(|port| port.published == 0);
                let request = ServiceCreateRequest { name, network, ports, ..settings.into_create() };
                let reply = agent.service_create(request).await?;
                format.show(&reply, |reply| created(reply, leaves_choice))
            }
            Self::Ls(format) => format.show(&agent.service_list().await?, |services| table(services)),
            Self::Ps(ServiceArgs { service, format }) => {
                format.show(&agent.service_replicas(&service).await?, |replicas| replica_table(replicas))
            }
            Self::Inspect(ServiceArgs { service, format }) => {
                format.show(&agent.service_inspect(&service).await?, sheet)
            }
            Self::Update(UpdateArgs { service, change, settings, format }) => {
                let Change { publish, publish_add, publish_rm } = change;
                let ports = if publish.is_empty() { None } else { Some(publish) };
                let change = settings.into_update();
                let request =
                    ServiceUpdateRequest { ports, add_ports: publish_add, remove_ports: publish_rm, ..change };
                format.show(&agent.service_update(&service, request).await?, updated)
            }
            Self::Rm { service } => {
                agent.service_remove(&service).await?;
                Ok(format!("service {service} removed\n"))
            }
        }
    }
}

/// Whoever leaves the choice of a port to the cluster is told the ports.
fn created(reply: &ServiceCreateReply, leaves_choice: bool) -> String {
    let ServiceCreateReply { created, service } = reply;
    let verb = if *created { "created" } else { "already exists" };
    let addresses = match service.endpoint_mode {
        EndpointMode::Vip => service.vips.join(", "),
        EndpointMode::Dnsrr => "its name stands for its replicas".to_owned(),
    };
    let ports = if leaves_choice { format!(", {}", publishes(service)) } else { String::new() };
    format!("service {} {verb}: {addresses}{ports}", service.name)
}

fn updated(service: &ServiceView) -> String {
    let settings: Vec<String> = unusual(service).iter().map(|(name, value)| format!("{name} {value}")).collect();
    let settings = if settings.is_empty() { String::new() } else { format!("; {}", settings.join(", ")) };
    format!("service {} {}{settings}", service.name, publishes(service))
}

fn publishes(service: &ServiceView) -> String {
    let ports: Vec<String> = service.ports.iter().map(ToString::to_string).collect();
    if ports.is_empty() { "publishes no ports".to_owned() } else { format!("publishes {}", ports.join(", ")) }
}

fn table(services: &[ServiceView]) -> Table {
    Table::new(
        &["NAME", "NETWORK", "VIP", "REPLICAS", "PORTS", "SETTINGS", "STATUS"],
        services.iter().map(|service| {
            [
                Cell::from(service.name.as_str()),
                Cell::from(service.network.as_str()),
                Cell::list(&service.vips),
                Cell::from(replicas(service)),
                Cell::list(&service.ports),
                Cell::list(unusual(service).iter().map(|(name, value)| {
                    // A health check's details are for `inspect`.
                    format!("{name}={}", value.split_once(' ').map_or(value.as_str(), |(word, _)| word))
                })),
                status(service),
            ]
        }),
    )
}

fn replica_table(replicas: &[ReplicaView]) -> Table {
    if replicas.iter().any(|replica| replica.traffic.is_some()) {
        return counted_table(replicas);
    }
    Table::new(&["ENDPOINT", "NODE", "ADDRESS", "STATE", "WEIGHT", "BALANCED"], replicas.iter().map(replica_row))
}

/// With what each replica got from the node that answers.
fn counted_table(replicas: &[ReplicaView]) -> Table {
    Table::new(
        &[
            "ENDPOINT",
            "NODE",
            "ADDRESS",
            "STATE",
            "WEIGHT",
            "BALANCED",
            "CONNECTIONS HERE",
            "BYTES HERE",
            "EJECTIONS HERE",
        ],
        replicas.iter().map(|replica| {
            let ReplicaTraffic { connections, bytes, ejections } = replica.traffic.clone().unwrap_or_default();
            let [endpoint, node, address, state, weight, balanced] = replica_row(replica);
            let [connections, bytes, ejections] = [connections, bytes, ejections].map(|n| Cell::from(n.to_string()));
            [endpoint, node, address, state, weight, balanced, connections, bytes, ejections]
        }),
    )
}

fn replica_row(replica: &ReplicaView) -> [Cell; 6] {
    [
        Cell::from(replica.endpoint.as_str()),
        Cell::from(replica.node.as_str()),
        // An agent of before tells the first one alone.
        if replica.addresses.is_empty() {
            Cell::from(replica.address.as_str())
        } else {
            Cell::list(&replica.addresses)
        },
        state(replica.state),
        Cell::from(replica.weight.to_string()),
        match (replica.balanced, &replica.reason) {
            (true, _) => Cell::good("yes"),
            (false, Some(reason)) => Cell::bad(format!("no: {reason}")),
            (false, None) => Cell::bad("no"),
        },
    ]
}

/// What has entered a service at the node that answers, a line for each entrance.
fn entered(traffic: &ServiceTraffic) -> Vec<String> {
    let mut lines: Vec<String> = traffic
        .entrances
        .iter()
        .map(|entrance| format!("{}: {} connections, {} bytes", entrance.via, entrance.connections, entrance.bytes))
        .collect();
    lines.push(format!("{} ejections, {} drains", traffic.ejections, traffic.drains));
    lines
}

fn sheet(service: &ServiceView) -> Sheet {
    let traffic = service.traffic.iter();
    let seen: Vec<(String, Cell)> = traffic
        .flat_map(|traffic| entered(traffic).into_iter().map(|line| (traffic.node.clone(), Cell::from(line))))
        .collect();
    let node = seen.first().map(|(node, _)| format!("Seen by {node}")).unwrap_or_default();
    Sheet::default()
        .with("ID", service.id.to_string())
        .with("Name", service.name.as_str())
        .with("Network", service.network.as_str())
        .with("VIP", Cell::list(&service.vips))
        .with_each("Ports", lines(service.ports.iter().map(ToString::to_string)))
        .with_each("Settings", unusual(service).iter().map(|(name, value)| Cell::from(format!("{name} {value}"))))
        .with("Replicas", replicas(service))
        .with("Status", status(service))
        .with_each(&node, seen.into_iter().map(|(_, line)| line))
}

/// One line for each, or a hyphen if there are none.
fn lines(words: impl Iterator<Item = String>) -> Vec<Cell> {
    let cells: Vec<Cell> = words.map(Cell::from).collect();
    if cells.is_empty() { vec![Cell::from("-")] } else { cells }
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
