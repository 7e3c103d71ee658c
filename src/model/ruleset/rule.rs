use std::{fmt, str::FromStr};

use super::{ChainName, SetName, Slot};
use crate::model::{Family, L4};

/// One rule, named by its purpose. Its text is the comment in the kernel, at most 128 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    /// `udp dport PORT goto from_underlay`: one compare for every packet that is not the tunnel's.
    EnterFromUnderlay(u16),
    /// `ip saddr @peers4 notrack accept`: tunnel packets need no conntrack entry.
    TunnelFromPeer(Family),
    /// `fib daddr type local drop`: only nodes of the cluster may send into the tunnel.
    TunnelFromStranger,
    /// `udp dport PORT ip daddr @peers4 notrack`.
    TunnelToPeer(Family, u16),
    /// `iifname "weft.vx" ct original zone set ether saddr map @zones`: one client may use one source port towards two nodes
    /// at once, and the mesh may send both connections to one replica. There their packets look alike; the zone keeps
    /// their conntrack entries apart by ingress node, and as answers carry none, NAT gives the later one a free port.
    SeparateIngress,
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
    /// `iifname "weft.*" ip daddr vmap @vips4`, in prerouting: VIPs are for containers.
    DispatchVip(Family),
    /// `ip daddr vmap @vips4`, in output: and for the host itself.
    DispatchVipLocally(Family),
    /// `iifname "weft.*" ip daddr @peers4 meta l4proto . th dport vmap @ports`, in prerouting: a container that calls another
    /// node's published port is served here. By way of that node it might be sent back to a replica on its own, where a packet
    /// with the host's own source address would come out of the tunnel.
    DispatchPublishedAtPeer(Family),
    /// `ip daddr @peers4 meta l4proto . th dport vmap @ports`, in output: the same for the host itself.
    DispatchPublishedAtPeerLocally(Family),
    /// `fib daddr type local meta l4proto . th dport vmap @ports`, in prerouting.
    DispatchPublished,
    /// `fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @ports` (`ip6 daddr != ::1`), in output:
    /// a connection to loopback has a loopback source, which would need a translation that the kernel path does not do.
    DispatchPublishedLocally(Family),
    /// `meta nfproto FAMILY meta l4proto tcp|udp counter dnat ip to numgen inc mod SLOTS offset FIRST map @target4_SHARD`.
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
    /// `meta nfproto FAMILY counter dnat ip to numgen inc mod SLOTS offset FIRST map @replica4_SHARD`: address only, every protocol,
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
    /// `meta l4proto tcp counter reject with tcp reset`: nobody is there.
    RefuseTcp,
    /// `counter reject with icmpx port-unreachable`: nobody is there.
    RefuseOther,
    /// `ct state established,related accept`: always first, so that a connection pays for the rest once.
    AcceptEstablished,
    /// `iifname "weft.*" ip saddr . ip daddr @within4 accept`: not from outside, where a source address proves nothing.
    AcceptWithin(Family),
    /// `iifname "weft.*" ip saddr @networks4 ip daddr @networks4 ct original ip daddr @networks4 reject with icmpx
    /// admin-prohibited`: two networks do not meet, but for a published port (its original destination is a node's address).
    RefuseCrossing(Family),
    /// `ip saddr @internal4 oifname != "weft.*" reject with icmpx admin-prohibited`: no way out of an internal network.
    RefuseInternalOut(Family),
    /// `iifname "weft.*" tcp dport PORT reject with tcp reset`, in input: the store and the gate are no containers' business.
    RefusePeerPort(u16),
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
            Self::TunnelFromPeer(family) | Self::TunnelToPeer(family, _) => Some(SetName::Peers(family)),
            Self::RememberIngress => Some(SetName::Vteps),
            Self::SeparateIngress => Some(SetName::Zones),
            Self::DispatchVip(family) | Self::DispatchVipLocally(family) => Some(SetName::Vips(family)),
            Self::DispatchPublished
            | Self::DispatchPublishedLocally(_)
            | Self::DispatchPublishedAtPeer(_)
            | Self::DispatchPublishedAtPeerLocally(_) => Some(SetName::Ports),
            Self::BalancePort { family, shard, .. } => Some(SetName::Targets(family, shard)),
            Self::BalanceVip { family, shard, .. } => Some(SetName::Replicas(family, shard)),
            Self::AcceptWithin(family) | Self::KeepWithin(family) => Some(SetName::Within(family)),
            Self::RefuseCrossing(family) | Self::RefuseUnpublished(family) | Self::Masquerade(family) => {
                Some(SetName::Networks(family))
            }
            Self::RefuseInternalOut(family) => Some(SetName::Internal(family)),
            Self::TunnelFromStranger
            | Self::EnterFromUnderlay(_)
            | Self::EnterFromTunnel
            | Self::EnterFromContainer
            | Self::DropSpoofed
            | Self::RefusePeerPort(_)
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
            Self::EnterFromUnderlay(_) => Some(ChainName::FromUnderlay),
            Self::EnterFromTunnel => Some(ChainName::FromTunnel),
            Self::EnterFromContainer => Some(ChainName::FromContainer),
            Self::TunnelFromPeer(..)
            | Self::TunnelFromStranger
            | Self::TunnelToPeer(..)
            | Self::SeparateIngress
            | Self::RememberIngress
            | Self::DropSpoofed
            | Self::RefusePeerPort(_)
            | Self::ReturnToIngress(_)
            | Self::DispatchVip(_)
            | Self::DispatchVipLocally(_)
            | Self::DispatchPublishedAtPeer(_)
            | Self::DispatchPublishedAtPeerLocally(_)
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

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EnterFromUnderlay(port) => write!(f, "enter-from-underlay {port}"),
            Self::TunnelFromPeer(family) => write!(f, "tunnel-from-peer {}", family.digit()),
            Self::TunnelFromStranger => f.write_str("tunnel-from-stranger"),
            Self::TunnelToPeer(family, port) => write!(f, "tunnel-to-peer {} {port}", family.digit()),
            Self::SeparateIngress => f.write_str("separate-ingress"),
            Self::EnterFromTunnel => f.write_str("enter-from-tunnel"),
            Self::EnterFromContainer => f.write_str("enter-from-container"),
            Self::RememberIngress => f.write_str("remember-ingress"),
            Self::DropSpoofed => f.write_str("drop-spoofed"),
            Self::ReturnToIngress(mask) => write!(f, "return-to-ingress {mask}"),
            Self::DispatchVip(family) => write!(f, "dispatch-vip {}", family.digit()),
            Self::DispatchVipLocally(family) => write!(f, "dispatch-vip-locally {}", family.digit()),
            Self::DispatchPublishedAtPeer(family) => write!(f, "dispatch-published-at-peer {}", family.digit()),
            Self::DispatchPublishedAtPeerLocally(family) => {
                write!(f, "dispatch-published-at-peer-locally {}", family.digit())
            }
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
            Self::RefusePeerPort(port) => write!(f, "refuse-peer-port {port}"),
            Self::RefuseUnpublished(family) => write!(f, "refuse-unpublished {}", family.digit()),
            Self::ClearMark(mask) => write!(f, "clear-mark {mask}"),
            Self::KeepWithin(family) => write!(f, "keep-within {}", family.digit()),
            Self::Masquerade(family) => write!(f, "masquerade {}", family.digit()),
            Self::Foreign(handle) => write!(f, "foreign rule with handle {handle}"),
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
            ["enter-from-underlay", port] => Self::EnterFromUnderlay(word(port)?),
            ["tunnel-from-peer", family] => Self::TunnelFromPeer(word(family)?),
            ["tunnel-from-stranger"] => Self::TunnelFromStranger,
            ["tunnel-to-peer", family, port] => Self::TunnelToPeer(word(family)?, word(port)?),
            ["separate-ingress"] => Self::SeparateIngress,
            ["enter-from-tunnel"] => Self::EnterFromTunnel,
            ["enter-from-container"] => Self::EnterFromContainer,
            ["remember-ingress"] => Self::RememberIngress,
            ["drop-spoofed"] => Self::DropSpoofed,
            ["return-to-ingress", mask] => Self::ReturnToIngress(word(mask)?),
            ["dispatch-vip", family] => Self::DispatchVip(word(family)?),
            ["dispatch-vip-locally", family] => Self::DispatchVipLocally(word(family)?),
            ["dispatch-published-at-peer", family] => Self::DispatchPublishedAtPeer(word(family)?),
            ["dispatch-published-at-peer-locally", family] => Self::DispatchPublishedAtPeerLocally(word(family)?),
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
            ["refuse-peer-port", port] => Self::RefusePeerPort(word(port)?),
            ["refuse-unpublished", family] => Self::RefuseUnpublished(word(family)?),
            ["clear-mark", mask] => Self::ClearMark(word(mask)?),
            ["keep-within", family] => Self::KeepWithin(word(family)?),
            ["masquerade", family] => Self::Masquerade(word(family)?),
            _ => return Err(format!("{text:?} is not a rule of weft's")),
        })
    }
}
