use std::collections::BTreeMap;

use clap::{Args, Subcommand, builder::NonEmptyStringValueParser};

use super::{
    drain::{self, Of, watching},
    output::{Cell, Format, Sheet, Table, yes_no},
};
use crate::api::{
    Operations, Refusal,
    wire::{Availability, NodeLabelRequest, NodeStatus, NodeView, Span},
};

/// `weft node`.
#[derive(Subcommand)]
pub(super) enum NodeCommand {
    /// List the nodes; `*` marks this one
    Ls(Format),
    /// Show one node
    Inspect(NodeArgs),
    /// Give a node's replicas no new connections, and wait until those that they have are finished
    ///
    /// Every live node confirms first that it sends no new connections there. When the time has passed, or this command is
    /// interrupted, the node stays drained, and what is still open goes on.
    Drain(DrainArgs),
    /// Give a drained node's replicas new connections again
    Activate(NodeArgs),
    /// Set labels of a node (KEY=VALUE) or remove them (KEY-)
    Label(LabelArgs),
    /// Forget a node that is gone for good, with its blocks and endpoints
    Rm {
        /// Its name or number
        #[arg(value_parser = NonEmptyStringValueParser::new())]
        node: String,
    },
}

/// One node.
#[derive(Args)]
pub(super) struct NodeArgs {
    /// Its name or number
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    node: String,
    #[command(flatten)]
    format: Format,
}

/// `weft node drain`.
#[derive(Args)]
pub(super) struct DrainArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// How long the connections may take, such as 30s or 5m; 0s not to wait for them [default: the longest that a service of its replicas says]
    #[arg(long, value_name = "D", allow_hyphen_values = true)]
    timeout: Option<Span>,
}

/// `weft node label`.
#[derive(Args)]
pub(super) struct LabelArgs {
    /// Its name or number
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    node: String,
    /// A label to set, or to remove
    #[arg(required = true, value_name = "KEY=VALUE|KEY-", value_parser = label)]
    labels: Vec<(String, Option<String>)>,
    #[command(flatten)]
    format: Format,
}

impl NodeCommand {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        match self {
            Self::Ls(format) => format.show(&agent.node_list().await?, |nodes| table(nodes)),
            Self::Inspect(NodeArgs { node, format }) => format.show(&agent.node_inspect(&node).await?, sheet),
            Self::Drain(DrainArgs { node: NodeArgs { node, format }, timeout }) => {
                let view = agent.node_set_availability(&node, Availability::Drain).await?;
                let work = drain::node(agent, &view.name, timeout);
                let end = watching(&format!("draining {}", view.name), agent, Of::Node(&view.name), work).await?;
                if end.draining && !end.done {
                    drain::tell_unfinished(&end);
                }
                format.show(&view, |node| match (end.draining, end.done) {
                    (true, true) => format!("node {} drained", node.name),
                    (true, false) => format!("node {} takes no new connections", node.name),
                    (false, _) => format!("node {} was activated meanwhile", node.name),
                })
            }
            Self::Activate(NodeArgs { node, format }) => {
                let node = agent.node_set_availability(&node, Availability::Active).await?;
                format.show(&node, |node| format!("node {} takes new connections", node.name))
            }
            Self::Label(LabelArgs { node, labels, format }) => {
                let request = NodeLabelRequest { labels: labels.into_iter().collect() };
                let node = agent.node_label(&node, request).await?;
                format.show(&node, |node| format!("node {} has labels: {}", node.name, words(&node.labels)))
            }
            Self::Rm { node } => {
                agent.node_remove(&node).await?;
                Ok(format!("node {node} removed\n"))
            }
        }
    }
}

/// How a node is, in its colour.
pub(super) fn status(node: &NodeView) -> Cell {
    let word = node.status.as_str();
    match node.status {
        NodeStatus::Ready | NodeStatus::Suspended if node.reachable == Some(false) => {
            Cell::bad(format!("{word}, unreachable from here"))
        }
        NodeStatus::Ready => Cell::good(word),
        NodeStatus::Suspended => Cell::bad(word),
    }
}

/// What a person wants of a node, in its colour.
pub(super) fn availability(node: &NodeView) -> Cell {
    let word = node.availability.to_string();
    match node.availability {
        Availability::Active => Cell::from(word),
        Availability::Drain => Cell::warning(word),
    }
}

fn table(nodes: &[NodeView]) -> Table {
    Table::new(
        &["ID", "NAME", "ADDRESS", "STATUS", "AVAILABILITY", "ENDPOINTS", "STORE", "LABELS"],
        nodes.iter().map(|node| {
            [
                Cell::from(node.id.to_string()),
                Cell::from(if node.is_self { format!("{} *", node.name) } else { node.name.clone() }),
                Cell::from(node.address.as_str()),
                status(node),
                availability(node),
                Cell::from(node.endpoints.to_string()),
                Cell::from(yes_no(node.store)),
                Cell::from(words(&node.labels)),
            ]
        }),
    )
}

fn sheet(node: &NodeView) -> Sheet {
    Sheet::default()
        .with("ID", node.id.to_string())
        .with("Name", node.name.as_str())
        .with("Address", node.address.as_str())
        .with_each("All addresses", node.addresses.iter().map(|address| Cell::from(address.as_str())))
        .with("Status", status(node))
        .with("Availability", availability(node))
        .with("Labels", words(&node.labels))
        .with("Endpoints", node.endpoints.to_string())
        .with("Holds the store", yes_no(node.store))
        .with("This node", yes_no(node.is_self))
        .with("Version", Cell::optional(node.version.as_ref()))
}

fn words(labels: &BTreeMap<String, String>) -> String {
    if labels.is_empty() {
        return "-".to_owned();
    }
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

/// `KEY=VALUE` sets, `KEY-` removes, as kubectl has it.
fn label(text: &str) -> Result<(String, Option<String>), String> {
    let (key, value) = match text.split_once('=') {
        Some((key, value)) => (key, Some(value.to_owned())),
        None => match text.strip_suffix('-') {
            Some(key) => (key, None),
            None => return Err("neither KEY=VALUE nor KEY-".to_owned()),
        },
    };
    if key.is_empty() { Err("the label has no key".to_owned()) } else { Ok((key.to_owned(), value)) }
}
