//! The nftables table `inet weft` as values: chains of rules that seldom change, and sets whose elements do.
//!
//! A [`Rule`] says what it is for, not which bytes the kernel gets; `kernel/nft` knows those. It is written into the
//! kernel's rule as a comment ([`Rule`]'s text), which is also how an observer reads it back: `nft list` shows people why a
//! rule is there, and rules compare as values.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
};

use ipnet::IpNet;

use super::{Mac, ServiceId};

/// The table's content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// Sets and maps with their elements.
    pub sets: BTreeMap<SetName, BTreeMap<SetKey, SetValue>>,
    /// Chains with their rules in order.
    pub chains: BTreeMap<ChainName, Chain>,
}

/// A chain's rules in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// The rules.
    pub rules: Vec<Rule>,
}

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Version 4.
    V4,
    /// Version 6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// `4` or `6`.
    pub fn digit(self) -> u8 {
        match self {
            Self::V4 => 4,
            Self::V6 => 6,
        }
    }
}

/// A transport protocol that can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum L4 {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl L4 {
    /// The number in the IP header (IANA protocol numbers).
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }

    /// The word for people, programs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

impl fmt::Display for L4 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for L4 {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(format!("{text:?} is not a protocol; tcp and udp are")),
        }
    }
}

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
    /// A replica's address.
    Address(IpAddr),
    /// A replica's address and port.
    Target(SocketAddr),
}

/// A chain's name in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChainName {
    /// `raw_prerouting`, before conntrack.
    RawPrerouting,
    /// `raw_output`, before conntrack.
    RawOutput,
    /// `mangle_prerouting`: which way a packet came.
    ManglePrerouting,
    /// `nat_prerouting`: the mesh's way in from outside and from containers.
    NatPrerouting,
    /// `nat_output`: the mesh's way in from the host itself.
    NatOutput,
    /// `forward`: isolation.
    Forward,
    /// `mangle_postrouting`: clears the mark.
    ManglePostrouting,
    /// `nat_postrouting`: masquerades what leaves.
    NatPostrouting,
    /// `from_tunnel`: packets that arrived on the tunnel.
    FromTunnel,
    /// `from_container`: packets that arrived from a local container.
    FromContainer,
    /// `vip_ID`: balances a service's VIPs.
    Vip(ServiceId),
    /// `port_PROTOCOL_PORT`: balances a published port.
    Port(L4, u16),
}

/// Where the kernel enters a base chain (nft(8), ADDRESS FAMILIES and CHAINS).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hook {
    /// `filter`, `nat` or `route`.
    pub kind: &'static str,
    /// The hook's number: `NF_INET_PRE_ROUTING` and so on (linux/netfilter.h).
    pub number: u32,
    /// The hook's name for nft.
    pub name: &'static str,
    /// The priority among chains of the same hook.
    pub priority: i32,
}

impl ChainName {
    /// Where the kernel enters the chain; nothing for those that only our rules enter. Every base chain's policy is
    /// accept: what is not ours passes untouched.
    pub fn hook(self) -> Option<Hook> {
        let hook = |kind, number, name, priority| Some(Hook { kind, number, name, priority });
        match self {
            Self::RawPrerouting => hook("filter", 0, "prerouting", -300),
            Self::RawOutput => hook("filter", 3, "output", -300),
            Self::ManglePrerouting => hook("filter", 0, "prerouting", -150),
            Self::NatPrerouting => hook("nat", 0, "prerouting", -100),
            Self::NatOutput => hook("nat", 3, "output", -100),
            Self::Forward => hook("filter", 2, "forward", 0),
            Self::ManglePostrouting => hook("filter", 4, "postrouting", -150),
            Self::NatPostrouting => hook("nat", 4, "postrouting", 100),
            Self::FromTunnel | Self::FromContainer | Self::Vip(_) | Self::Port(..) => None,
        }
    }
}

impl fmt::Display for ChainName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RawPrerouting => f.write_str("raw_prerouting"),
            Self::RawOutput => f.write_str("raw_output"),
            Self::ManglePrerouting => f.write_str("mangle_prerouting"),
            Self::NatPrerouting => f.write_str("nat_prerouting"),
            Self::NatOutput => f.write_str("nat_output"),
            Self::Forward => f.write_str("forward"),
            Self::ManglePostrouting => f.write_str("mangle_postrouting"),
            Self::NatPostrouting => f.write_str("nat_postrouting"),
            Self::FromTunnel => f.write_str("from_tunnel"),
            Self::FromContainer => f.write_str("from_container"),
            Self::Vip(service) => write!(f, "vip_{service}"),
            Self::Port(protocol, port) => write!(f, "port_{protocol}_{port}"),
        }
    }
}

impl FromStr for ChainName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a chain of weft's");
        Ok(match text {
            "raw_prerouting" => Self::RawPrerouting,
            "raw_output" => Self::RawOutput,
            "mangle_prerouting" => Self::ManglePrerouting,
            "nat_prerouting" => Self::NatPrerouting,
            "nat_output" => Self::NatOutput,
            "forward" => Self::Forward,
            "mangle_postrouting" => Self::ManglePostrouting,
            "nat_postrouting" => Self::NatPostrouting,
            "from_tunnel" => Self::FromTunnel,
            "from_container" => Self::FromContainer,
            _ => match text.split('_').collect::<Vec<_>>().as_slice() {
                ["vip", service] => Self::Vip(service.parse().map_err(|_| refuse())?),
                ["port", protocol, port] => {
                    Self::Port(protocol.parse().map_err(|_| refuse())?, port.parse().map_err(|_| refuse())?)
                }
                _ => return Err(refuse()),
            },
        })
    }
}

/// One rule, named by its purpose. Its text is the comment in the kernel, at most 128 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// `ip saddr @peers4 udp dport PORT notrack accept`: tunnel packets need no conntrack entry.
    TunnelFromPeer(Family, u16),
    /// `fib daddr type local udp dport PORT drop`: only nodes of the cluster may send into the tunnel.
    TunnelFromStranger(u16),
    /// `ip daddr @peers4 udp dport PORT notrack`.
    TunnelToPeer(Family, u16),
    /// `iifname "weft.vx" goto from_tunnel`.
    EnterFromTunnel,
    /// `iifname "weft.*" goto from_container`.
    EnterFromContainer,
    /// `ct state new ct mark set ether saddr map @vteps`: the connection remembers its ingress node.
    RememberIngress,
    /// `fib saddr . iif oif missing drop`: a container sends from its own addresses alone.
    DropSpoofed,
    /// `ct direction reply ct mark & MASK != 0 meta mark set ct mark & MASK`: the reply takes the way to its ingress node.
    ReturnToIngress(u32),
    /// `ip daddr vmap @vips4`.
    DispatchVip(Family),
    /// `fib daddr type local meta l4proto . th dport vmap @ports`, in prerouting.
    DispatchPublished,
    /// `fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @ports` (`ip6 daddr != ::1`), in output:
    /// a connection to loopback has a loopback source, which would need a translation that the kernel path does not do.
    DispatchPublishedLocally(Family),
    /// `[meta nfproto FAMILY] meta l4proto tcp|udp dnat ip to numgen inc mod SLOTS offset FIRST map @target4_SHARD`.
    BalancePort {
        /// The replicas' family.
        family: Family,
        /// The published protocol.
        protocol: L4,
        /// The map.
        shard: u8,
        /// The first slot.
        first: Slot,
        /// How many slots.
        slots: u16,
    },
    /// `meta nfproto FAMILY dnat ip to numgen inc mod SLOTS offset FIRST map @replica4_SHARD`: address only, every protocol,
    /// the port stays. The family comes first, or packets of the other one would take turns.
    BalanceVip {
        /// The replicas' family.
        family: Family,
        /// The map.
        shard: u8,
        /// The first slot.
        first: Slot,
        /// How many slots.
        slots: u16,
    },
    /// `meta l4proto tcp reject with tcp reset`: nobody is there.
    RefuseTcp,
    /// `reject with icmpx port-unreachable`: nobody is there.
    RefuseOther,
    /// `ct state established,related accept`: always first, so that a connection pays for the rest once.
    AcceptEstablished,
    /// `ip saddr . ip daddr @within4 accept`.
    AcceptWithin(Family),
    /// `iifname "weft.*" ip saddr @networks4 ip daddr @networks4 ct original ip daddr @networks4 reject with icmpx
    /// admin-prohibited`: two networks do not meet, but for a published port (its original destination is a node's address).
    RefuseCrossing(Family),
    /// `ip saddr @internal4 oifname != "weft.*" reject with icmpx admin-prohibited`: no way out of an internal network.
    RefuseInternalOut(Family),
    /// `iifname != "weft.*" ip daddr @networks4 ct status & dnat == 0 reject with icmpx admin-prohibited`: from outside only by
    /// published ports.
    RefuseUnpublished(Family),
    /// `oifname "weft.vx" meta mark & MASK != 0 meta mark set meta mark & ~MASK`: the outer packet must not inherit the mark.
    ClearMark(u32),
    /// `ip saddr . ip daddr @within4 accept`, ahead of the masquerade.
    KeepWithin(Family),
    /// `ip saddr @networks4 masquerade`: towards the outside a container speaks with its node's address.
    Masquerade(Family),
    /// A rule in a chain of ours that is not of our making, or of another version's, by its handle in the kernel. Only
    /// ever observed, never desired: so a chain that holds one differs from every desired chain.
    Foreign(u64),
}

impl Rule {
    /// The set or map that the rule looks something up in; it has to be there before the rule and stay as long.
    pub fn set(self) -> Option<SetName> {
        match self {
            Self::TunnelFromPeer(family, _) | Self::TunnelToPeer(family, _) => Some(SetName::Peers(family)),
            Self::RememberIngress => Some(SetName::Vteps),
            Self::DispatchVip(family) => Some(SetName::Vips(family)),
            Self::DispatchPublished | Self::DispatchPublishedLocally(_) => Some(SetName::Ports),
            Self::BalancePort { family, shard, .. } => Some(SetName::Targets(family, shard)),
            Self::BalanceVip { family, shard, .. } => Some(SetName::Replicas(family, shard)),
            Self::AcceptWithin(family) | Self::KeepWithin(family) => Some(SetName::Within(family)),
            Self::RefuseCrossing(family) | Self::RefuseUnpublished(family) | Self::Masquerade(family) => {
                Some(SetName::Networks(family))
            }
            Self::RefuseInternalOut(family) => Some(SetName::Internal(family)),
            Self::TunnelFromStranger(_)
            | Self::EnterFromTunnel
            | Self::EnterFromContainer
            | Self::DropSpoofed
            | Self::ReturnToIngress(_)
            | Self::RefuseTcp
            | Self::RefuseOther
            | Self::AcceptEstablished
            | Self::ClearMark(_)
            | Self::Foreign(_) => None,
        }
    }

    /// The chain that the rule goes to by itself, not by an element of a map; it has to be there before the rule.
    pub fn chain(self) -> Option<ChainName> {
        match self {
            Self::EnterFromTunnel => Some(ChainName::FromTunnel),
            Self::EnterFromContainer => Some(ChainName::FromContainer),
            Self::TunnelFromPeer(..)
            | Self::TunnelFromStranger(_)
            | Self::TunnelToPeer(..)
            | Self::RememberIngress
            | Self::DropSpoofed
            | Self::ReturnToIngress(_)
            | Self::DispatchVip(_)
            | Self::DispatchPublished
            | Self::DispatchPublishedLocally(_)
            | Self::BalancePort { .. }
            | Self::BalanceVip { .. }
            | Self::RefuseTcp
            | Self::RefuseOther
            | Self::AcceptEstablished
            | Self::AcceptWithin(_)
            | Self::RefuseCrossing(_)
            | Self::RefuseInternalOut(_)
            | Self::RefuseUnpublished(_)
            | Self::ClearMark(_)
            | Self::KeepWithin(_)
            | Self::Masquerade(_)
            | Self::Foreign(_) => None,
        }
    }
}

impl SetValue {
    /// The chain that the element leads to; it has to be there before the element.
    pub fn chain(self) -> Option<ChainName> {
        match self {
            Self::Goto(chain) => Some(chain),
            Self::Nothing | Self::Mark(_) | Self::Address(_) | Self::Target(_) => None,
        }
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TunnelFromPeer(family, port) => write!(f, "tunnel-from-peer {} {port}", family.digit()),
            Self::TunnelFromStranger(port) => write!(f, "tunnel-from-stranger {port}"),
            Self::TunnelToPeer(family, port) => write!(f, "tunnel-to-peer {} {port}", family.digit()),
            Self::EnterFromTunnel => f.write_str("enter-from-tunnel"),
            Self::EnterFromContainer => f.write_str("enter-from-container"),
            Self::RememberIngress => f.write_str("remember-ingress"),
            Self::DropSpoofed => f.write_str("drop-spoofed"),
            Self::ReturnToIngress(mask) => write!(f, "return-to-ingress {mask}"),
            Self::DispatchVip(family) => write!(f, "dispatch-vip {}", family.digit()),
            Self::DispatchPublished => f.write_str("dispatch-published"),
            Self::DispatchPublishedLocally(family) => write!(f, "dispatch-published-locally {}", family.digit()),
            Self::BalancePort { family, protocol, shard, first, slots } => {
                write!(f, "balance-port {} {protocol} {shard} {} {slots}", family.digit(), first.0)
            }
            Self::BalanceVip { family, shard, first, slots } => {
                write!(f, "balance-vip {} {shard} {} {slots}", family.digit(), first.0)
            }
            Self::RefuseTcp => f.write_str("refuse-tcp"),
            Self::RefuseOther => f.write_str("refuse-other"),
            Self::AcceptEstablished => f.write_str("accept-established"),
            Self::AcceptWithin(family) => write!(f, "accept-within {}", family.digit()),
            Self::RefuseCrossing(family) => write!(f, "refuse-crossing {}", family.digit()),
            Self::RefuseInternalOut(family) => write!(f, "refuse-internal-out {}", family.digit()),
            Self::RefuseUnpublished(family) => write!(f, "refuse-unpublished {}", family.digit()),
            Self::ClearMark(mask) => write!(f, "clear-mark {mask}"),
            Self::KeepWithin(family) => write!(f, "keep-within {}", family.digit()),
            Self::Masquerade(family) => write!(f, "masquerade {}", family.digit()),
            Self::Foreign(handle) => write!(f, "foreign rule with handle {handle}"),
        }
    }
}

impl FromStr for Family {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "4" => Ok(Self::V4),
            "6" => Ok(Self::V6),
            _ => Err(format!("{text:?} is not an IP version")),
        }
    }
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        fn word<T: FromStr>(text: &str) -> Result<T, String> {
            text.parse().map_err(|_| format!("{text:?} does not belong in a rule of weft's"))
        }
        Ok(match text.split(' ').collect::<Vec<_>>().as_slice() {
            ["tunnel-from-peer", family, port] => Self::TunnelFromPeer(word(family)?, word(port)?),
            ["tunnel-from-stranger", port] => Self::TunnelFromStranger(word(port)?),
            ["tunnel-to-peer", family, port] => Self::TunnelToPeer(word(family)?, word(port)?),
            ["enter-from-tunnel"] => Self::EnterFromTunnel,
            ["enter-from-container"] => Self::EnterFromContainer,
            ["remember-ingress"] => Self::RememberIngress,
            ["drop-spoofed"] => Self::DropSpoofed,
            ["return-to-ingress", mask] => Self::ReturnToIngress(word(mask)?),
            ["dispatch-vip", family] => Self::DispatchVip(word(family)?),
            ["dispatch-published"] => Self::DispatchPublished,
            ["dispatch-published-locally", family] => Self::DispatchPublishedLocally(word(family)?),
            ["balance-port", family, protocol, shard, first, slots] => Self::BalancePort {
                family: word(family)?,
                protocol: word(protocol)?,
                shard: word(shard)?,
                first: Slot(word(first)?),
                slots: word(slots)?,
            },
            ["balance-vip", family, shard, first, slots] => Self::BalanceVip {
                family: word(family)?,
                shard: word(shard)?,
                first: Slot(word(first)?),
                slots: word(slots)?,
            },
            ["refuse-tcp"] => Self::RefuseTcp,
            ["refuse-other"] => Self::RefuseOther,
            ["accept-established"] => Self::AcceptEstablished,
            ["accept-within", family] => Self::AcceptWithin(word(family)?),
            ["refuse-crossing", family] => Self::RefuseCrossing(word(family)?),
            ["refuse-internal-out", family] => Self::RefuseInternalOut(word(family)?),
            ["refuse-unpublished", family] => Self::RefuseUnpublished(word(family)?),
            ["clear-mark", mask] => Self::ClearMark(word(mask)?),
            ["keep-within", family] => Self::KeepWithin(word(family)?),
            ["masquerade", family] => Self::Masquerade(word(family)?),
            _ => return Err(format!("{text:?} is not a rule of weft's")),
        })
    }
}
