use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

use super::ChainName;
use crate::model::{Family, L4, Mac};

/// A set's or map's name in the table. Backend maps are sharded: binding a rule to a map walks every element of it, and
/// finding a set walks the list of all sets, so neither one map for all services nor one map for each will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SetName {
    /// `ports`: protocol . port to the chain of a published port.
    Ports,
    /// `vips4`, `vips6`: VIP to the chain of its service.
    Vips(Family),
    /// `target4_NN`, `target6_NN`: a published port's slot to a replica's address and port.
    Targets(Family, u8),
    /// `replica4_NN`, `replica6_NN`: a VIP's slot to a replica's address; the port stays.
    Replicas(Family, u8),
    /// `vteps`: a remote VTEP's MAC to the mark that names its node.
    Vteps,
    /// `zones`: a remote VTEP's MAC to the conntrack zone of its node.
    Zones,
    /// `peers4`, `peers6`: the underlay addresses of the other nodes.
    Peers(Family),
    /// `networks4`, `networks6`: every network's prefix.
    Networks(Family),
    /// `within4`, `within6`: source . destination prefix, both of the same network.
    Within(Family),
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
            Self::Vips(family) => SetSchema::AddressToChain(family),
            Self::Targets(family, _) => SetSchema::SlotToTarget(family),
            Self::Replicas(family, _) => SetSchema::SlotToAddress(family),
            Self::Vteps => SetSchema::MacToMark,
            Self::Zones => SetSchema::MacToZone,
            Self::Peers(family) => SetSchema::Addresses(family),
            Self::Networks(family) | Self::Internal(family) => SetSchema::Prefixes(family),
            Self::Within(family) => SetSchema::PrefixPairs(family),
        }
    }
}

impl fmt::Display for SetName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ports => f.write_str("ports"),
            Self::Vips(family) => write!(f, "vips{}", family.digit()),
            Self::Targets(family, shard) => write!(f, "target{}_{shard}", family.digit()),
            Self::Replicas(family, shard) => write!(f, "replica{}_{shard}", family.digit()),
            Self::Vteps => f.write_str("vteps"),
            Self::Zones => f.write_str("zones"),
            Self::Peers(family) => write!(f, "peers{}", family.digit()),
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
            ("vips", Some(family), None) => Ok(Self::Vips(family)),
            ("peers", Some(family), None) => Ok(Self::Peers(family)),
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
            Self::Nothing | Self::Mark(_) | Self::Zone(_) | Self::Address(_) | Self::Target(_) => None,
        }
    }
}
