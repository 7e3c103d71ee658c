use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use super::{Fingerprint, Name, Network};

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
    /// All addresses of both families by which it may be asked or ask, as it says itself; none if its agent is older.
    pub addresses: BTreeSet<IpAddr>,
    /// The key pair that it speaks to other nodes with; without one it is let in nowhere.
    pub fingerprint: Option<Fingerprint>,
}

impl Node {
    /// So many addresses a node tells of at most; whichever come first in their order.
    pub const ADDRESSES_MAX: usize = 64;

    /// Whether others may mean a node by this address of it: neither one that every host has nor one that means something on
    /// its link alone, nor the tunnel's.
    pub fn is_told(address: IpAddr) -> bool {
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return false;
        }
        match address {
            IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_broadcast(),
            IpAddr::V6(v6) => !v6.is_unicast_link_local() && v6.to_ipv4_mapped().is_none() && !is_of_tunnel(v6),
        }
    }
}

/// Whether it lies in [`Network::OWN_V6`].
fn is_of_tunnel(address: Ipv6Addr) -> bool {
    address.segments()[..2] == Network::RESOLVER_V6.segments()[..2]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_tells_of_its_addresses() {
        for (address, is_told) in [
            ("192.0.2.1", true),
            ("10.1.2.3", true),
            ("2001:db8::1", true),
            ("fd00::1", true),
            ("127.0.0.2", false),
            ("169.254.64.1", false),
            ("0.0.0.0", false),
            ("255.255.255.255", false),
            ("224.0.0.1", false),
            ("::1", false),
            ("::", false),
            ("fe80::1", false),
            ("ff02::1", false),
            ("::ffff:192.0.2.1", false),
            ("fd77:6566::1:7", false),
        ] {
            assert_eq!(Node::is_told(address.parse().unwrap()), is_told, "{address}");
        }
        let own: ipnet::Ipv6Net = Network::OWN_V6.parse().unwrap();
        assert!(is_of_tunnel(own.network()) && is_of_tunnel(own.broadcast()));
    }
}
