use std::collections::{BTreeMap, BTreeSet};

use super::{EndpointId, NodeId};

/// What this node has found out by itself, and acts upon without asking or telling the store: its own way to others may be
/// broken while everybody else's is well.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Judgement {
    /// Nodes that do not answer over the tunnel.
    pub silent: BTreeSet<NodeId>,
    /// Replicas that have left too many of this node's connections unanswered or refused.
    pub ejected: BTreeSet<EndpointId>,
}

/// What a node tells the others about itself, under its lease.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Report {
    /// Up to this revision of the store the node's kernel does what the store says, as far as draining goes: whatever was
    /// draining at it gets no new connections by way of that node.
    pub revision: u64,
    /// The connections still open to each of its replicas that drains; 0 for one that is done.
    pub open: BTreeMap<EndpointId, u32>,
}
