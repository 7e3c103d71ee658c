use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

use super::ChainName;
use crate::model::{DeviceName, Family, L4, Mac, ServiceId};

/// A set's or map's name in the table. Backend maps are sharded: binding a rule to a map walks every element of it, and
/// finding a set walks the list of all sets, so neither one map for all services nor one map for each will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// `ports`: protocol . port to the chain of a published port.
    Ports,
    /// `bound4`, `bound6`: address . protocol . port to the chain of a port that answers at that address alone.
    Bound(Family),
    /// `devports`: device . protocol . port to the chain of a port that answers to what arrives by that device alone.
    DevicePorts,
    /// `vips4`, `vips6`: VIP to the chain of its service.
    Vips(Family),
    /// `target4_NN`, `target6_NN`: a published port's slot to a replica's address and port.
    Targets(Family, u8),
    /// `replica4_NN`, `replica6_NN`: a VIP's slot to a replica's address; the port stays.
    Replicas(Family, u8),
    /// `sticky4`, `sticky6`: service . client to the replica that the client came to last. The kernel fills and empties it as
    /// connections come and times run out; weft makes it and never looks into it.
    Sticky(Family),
    /// `takers4`, `takers6`: a replica's address to its service, if it takes new connections and the service has affinity.
    Takers(Family),
    /// `hairpin4`, `hairpin6`: source . destination of a local replica that calls itself.
    Hairpin(Family),
    /// `vteps`: a remote VTEP's MAC to the mark that names its node.
    Vteps,
    /// `zones`: a remote VTEP's MAC to the conntrack zone of its node.
    Zones,
    /// `peers4`, `peers6`: the underlay addresses of the other nodes.
    Peers(Family),
    /// `nodes4`, `nodes6`: every address that means one of the other nodes.
    Nodes(Family),
    /// `networks4`, `networks6`: every network's prefix.
    Networks(Family),
    /// `within4`, `within6`: source . destination prefix, both of the same network.
    Within(Family),
    /// `vipranges4`, `vipranges6`: the part of every network's prefix that VIPs come from.
    VipRanges(Family),
    /// `internal4`, `internal6`: prefixes of networks that are kept from the outside.
    Internal(Family),
}

/// What a set's keys and values are made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetSchema {
    /// [`SetKey::Port`] to [`SetValue::Goto`].
    PortToChain,
    /// [`SetKey::Address`] to [`SetValue::Goto`].
    AddressToChain(Family),
    /// [`SetKey::AddressPort`] to [`SetValue::Goto`].
    AddressPortToChain(Family),
    /// [`SetKey::DevicePort`] to [`SetValue::Goto`].
    DevicePortToChain,
    /// Service and client to a replica's address, each with a time to live, put there by the kernel alone.
    ClientToAddress(Family),
    /// [`SetKey::Address`] to [`SetValue::Service`].
    AddressToService(Family),
    /// [`SetKey::AddressPair`] alone.
    AddressPairs(Family),
    /// [`SetKey::Slot`] to [`SetValue::Target`].
    SlotToTarget(Family),
    /// [`SetKey::Slot`] to [`SetValue::Address`].
    SlotToAddress(Family),
    /// [`SetKey::Mac`] to [`SetValue::Mark`].
    MacToMark,
    /// [`SetKey::Mac`] to [`SetValue::Zone`].
    MacToZone,
    /// [`SetKey::Address`] alone.
    Addresses(Family),
    /// [`SetKey::Prefix`] alone, intervals.
    Prefixes(Family),
    /// [`SetKey::PrefixPair`] alone, intervals of a concatenation.
    PrefixPairs(Family),
}

impl SetName {
    /// What the set is made of.
    pub fn schema(self) -> SetSchema {
        match self {
            Self::Ports => SetSchema::PortToChain,
            Self::Bound(family) => SetSchema::AddressPortToChain(family),
            Self::DevicePorts => SetSchema::DevicePortToChain,
            Self::Vips(family) => SetSchema::AddressToChain(family),
            Self::Sticky(family) => SetSchema::ClientToAddress(family),
            Self::Takers(family) => SetSchema::AddressToService(family),
            Self::Hairpin(family) => SetSchema::AddressPairs(family),
            Self::Targets(family, _) => SetSchema::SlotToTarget(family),
            Self::Replicas(family, _) => SetSchema::SlotToAddress(family),
            Self::Vteps => SetSchema::MacToMark,
            Self::Zones => SetSchema::MacToZone,
            Self::Peers(family) | Self::Nodes(family) => SetSchema::Addresses(family),
            Self::Networks(family) | Self::Internal(family) | Self::VipRanges(family) => SetSchema::Prefixes(family),
            Self::Within(family) => SetSchema::PrefixPairs(family),
        }
    }

    /// Whether the kernel itself puts elements into the set, so that they are no part of the [`super::Ruleset`]: such a set is
    /// observed empty, and what is in it goes with it alone.
    pub fn is_dynamic(self) -> bool {
        matches!(self.schema(), SetSchema::ClientToAddress(_))
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports => f.write_str("ports"),
            Self::Bound(family) => write!(f, "bound{}", family.digit()),
            Self::DevicePorts => f.write_str("devports"),
            Self::Vips(family) => write!(f, "vips{}", family.digit()),
            Self::Sticky(family) => write!(f, "sticky{}", family.digit()),
            Self::Takers(family) => write!(f, "takers{}", family.digit()),
            Self::Hairpin(family) => write!(f, "hairpin{}", family.digit()),
            Self::Targets(family, shard) => write!(f, "target{}_{shard}", family.digit()),
            Self::Replicas(family, shard) => write!(f, "replica{}_{shard}", family.digit()),
            Self::Vteps => f.write_str("vteps"),
            Self::Zones => f.write_str("zones"),
            Self::Peers(family) => write!(f, "peers{}", family.digit()),
            Self::Nodes(family) => write!(f, "nodes{}", family.digit()),
            Self::VipRanges(family) => write!(f, "vipranges{}", family.digit()),
            Self::Networks(family) => write!(f, "networks{}", family.digit()),
            Self::Within(family) => write!(f, "within{}", family.digit()),
            Self::Internal(family) => write!(f, "internal{}", family.digit()),
        }
    }
}

impl FromStr for SetName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a set of weft's");
        let (stem, shard) = match text.split_once('_') {
            Some((stem, shard)) => (stem, Some(shard.parse::<u8>().map_err(|_| refuse())?)),
            None => (text, None),
        };
        let (kind, family) = match stem.strip_suffix('4') {
            Some(kind) => (kind, Some(Family::V4)),
            None => stem.strip_suffix('6').map_or((stem, None), |kind| (kind, Some(Family::V6))),
        };
        match (kind, family, shard) {
            ("ports", None, None) => Ok(Self::Ports),
            ("vteps", None, None) => Ok(Self::Vteps),
            ("zones", None, None) => Ok(Self::Zones),
            ("bound", Some(family), None) => Ok(Self::Bound(family)),
            ("devports", None, None) => Ok(Self::DevicePorts),
            ("vips", Some(family), None) => Ok(Self::Vips(family)),
            ("sticky", Some(family), None) => Ok(Self::Sticky(family)),
            ("takers", Some(family), None) => Ok(Self::Takers(family)),
            ("hairpin", Some(family), None) => Ok(Self::Hairpin(family)),
            ("peers", Some(family), None) => Ok(Self::Peers(family)),
            ("nodes", Some(family), None) => Ok(Self::Nodes(family)),
            ("vipranges", Some(family), None) => Ok(Self::VipRanges(family)),
            ("networks", Some(family), None) => Ok(Self::Networks(family)),
            ("within", Some(family), None) => Ok(Self::Within(family)),
            ("internal", Some(family), None) => Ok(Self::Internal(family)),
            ("target", Some(family), Some(shard)) => Ok(Self::Targets(family, shard)),
            ("replica", Some(family), Some(shard)) => Ok(Self::Replicas(family, shard)),
            _ => Err(refuse()),
        }
    }
}

/// A place in a service's round: the service port's number in the high 16 bits, its turn in the low 16. A chain's
/// `numgen inc mod N offset FIRST` runs through the N slots from the first; the number keeps services apart that share a map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u32);

/// An element's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetKey {
    /// Protocol and port.
    Port(L4, u16),
    /// An address.
    Address(IpAddr),
    /// A destination address with protocol and port.
    AddressPort(IpAddr, L4, u16),
    /// The device that a packet arrives by, with protocol and port.
    DevicePort(DeviceName, L4, u16),
    /// A source and a destination address.
    AddressPair(IpAddr, IpAddr),
    /// A slot.
    Slot(Slot),
    /// A MAC address.
    Mac(Mac),
    /// A prefix.
    Prefix(IpNet),
    /// A source and a destination prefix.
    PrefixPair(IpNet, IpNet),
}

/// An element's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetValue {
    /// The set is not a map.
    Nothing,
    /// `goto` this chain.
    Goto(ChainName),
    /// A packet mark.
    Mark(u32),
    /// A conntrack zone.
    Zone(u16),
    /// The service that a replica belongs to.
    Service(ServiceId),
    /// A replica's address.
    Address(IpAddr),
    /// A replica's address and port.
    Target(SocketAddr),
}

impl SetValue {
    /// The chain that the element leads to; it has to be there before the element.
    pub fn chain(self) -> Option<ChainName> {
        match self {
            Self::Goto(chain) => Some(chain),
            Self::Nothing | Self::Mark(_) | Self::Zone(_) | Self::Service(_) | Self::Address(_) | Self::Target(_) => {
                None
            }
        }
    }
}
