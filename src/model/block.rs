use ipnet::IpNet;

use super::{NetworkId, NodeId};

/// A slice of a network's prefix that one node owns: it assigns addresses inside it without asking anybody, and every
/// other node has one route to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Block {
    /// The network that it is a slice of.
    pub network: NetworkId,
    /// The slice.
    pub prefix: IpNet,
    /// The node that assigns from it.
    pub owner: NodeId,
}
