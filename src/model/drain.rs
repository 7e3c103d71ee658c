use super::{EndpointId, NodeId};

/// What can be on its way out of balancing by somebody's wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Draining {
    /// All replicas of a node.
    Node(NodeId),
    /// One replica.
    Endpoint(EndpointId),
}
