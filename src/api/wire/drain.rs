use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Span;

/// How long live nodes may take to confirm a drain before it goes on without them. An agent that has died meanwhile may come
/// back and confirm, or its lease (10 s) ends; what is alive after that and still silent does not work.
pub const CONFIRM_WAIT: Duration = Duration::from_secs(15);

/// `POST /v1/endpoints/{endpoint}/drain`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrainRequest {
    /// How long its connections may take to finish; without it, as long as its service says.
    #[serde(default)]
    pub timeout: Option<Span>,
}

impl DrainRequest {
    /// The longest [`Self::timeout`]. Who wants more asks again.
    pub const TIMEOUT_MAX: Duration = Duration::from_hours(24);
}

/// `DELETE /v1/endpoints/{endpoint}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DetachRequest {
    /// Whether to take it off at once, without waiting for the other nodes and for its connections.
    #[serde(default)]
    pub force: bool,
}

/// How a drain, a detach or a release went.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DrainReply {
    /// The connections still open when the waiting ended, where they were waited for and are known.
    pub connections: Option<u32>,
    /// What did not go as it should: nodes that have not confirmed, connections that were still open.
    pub warnings: Vec<String>,
}

/// How far a drain is, of a node or of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainView {
    /// Whether it drains at all.
    pub draining: bool,
    /// The live nodes, each of which has to confirm that it sends no new connections.
    pub nodes: u32,
    /// The names of those that have not confirmed yet.
    pub waiting_for: Vec<String>,
    /// The replicas that drain, by name.
    pub replicas: Vec<DrainingReplica>,
    /// The longest time that their services give their connections to finish.
    pub timeout: Span,
    /// Whether all have confirmed and no connection is open any more.
    pub done: bool,
}

/// A replica that drains.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainingReplica {
    /// The name of its endpoint.
    pub name: String,
    /// The connections still open to it; not known before all nodes have confirmed.
    pub connections: Option<u32>,
}
