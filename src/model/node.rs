use std::{collections::BTreeMap, fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

use super::{Fingerprint, Name};

/// A node's number in its cluster, 1 to 4095: small, because it is also the node's mark on connections that entered
/// the mesh there (12 bits of the packet mark) and the number of the routing table that leads back to it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NonZeroU16);

impl NodeId {
    /// The greatest number a node can have.
    pub const MAX: u16 = 4095;

    /// `number` as a node id, if it lies in 1 to 4095.
    pub fn new(number: u16) -> Option<Self> {
        (number <= Self::MAX).then(|| NonZeroU16::new(number)).flatten().map(Self)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }

    /// All node ids in order.
    pub fn all() -> impl Iterator<Item = Self> {
        (1..=Self::MAX).filter_map(Self::new)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "node {}", self.0)
    }
}

impl FromStr for NodeId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| format!("{text:?} is not a node number from 1 to 4095"))
    }
}

/// The TCP port for the store and for joining nodes, on every node's underlay address.
pub const PEER_PORT: u16 = 7780;

/// Whether a person wants a node's replicas balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Availability {
    /// Takes new connections.
    Active,
    /// Takes no new connections; those it has go on.
    Drain,
}

impl Availability {
    /// The word for people, programs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Drain => "drain",
        }
    }
}

/// A host that runs the agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its number.
    pub id: NodeId,
    /// Its name, unique in the cluster.
    pub name: Name,
    /// Where the other nodes send its tunnel packets.
    pub underlay: IpAddr,
    /// Free words, `key=value`.
    pub labels: BTreeMap<String, String>,
    /// What a person wants of it.
    pub availability: Availability,
    /// The key pair that it speaks to other nodes with; without one it is let in nowhere.
    pub fingerprint: Option<Fingerprint>,
}
