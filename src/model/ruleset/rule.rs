use std::net::IpAddr;

use super::{ChainName, SetName, Slot};
use crate::model::{Family, L4, ServiceId};

/// How a chain finds the slot of a new connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Pick {
    /// `numgen inc mod SLOTS offset FIRST`: the next one.
    Turn,
    /// `numgen random mod SLOTS offset FIRST`: any.
    Chance,
    /// `jhash ip saddr mod SLOTS seed SOURCE_SEED offset FIRST`: always the same one for a client.
    Source,
}

/// The seed of [`Pick::Source`]'s hash: the same on all nodes, or a client would meet another replica by each.
pub const SOURCE_SEED: u32 = 0x7765_6674;

/// How long the kernel remembers which replica of a service a client came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Memory {
    /// The service: by whichever door of it a client comes, it is remembered for all.
    pub service: ServiceId,
    /// From the client's last new connection, in milliseconds.
    pub timeout_ms: u64,
}

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
    /// `iifname "weft.*" ip daddr @vipranges4 goto unused_vip`, in prerouting, behind the VIPs: an address there that no service has. The
    /// range has a route into the tunnel, for the host's own connections are routed before they are translated, and of what is
    /// lost in there nobody is told.
    EnterUnusedVip(Family),
    /// `ip daddr @vipranges4 goto unused_vip`, in output: the same for the host itself.
    EnterUnusedVipLocally(Family),
    /// `iifname "weft.*" ip daddr @nodes4 meta l4proto . th dport vmap @ports`, in prerouting: a container that calls another
    /// node's published port is served here, at whichever of its addresses. By way of that node it might be sent back to a replica on its own, where a packet
    /// with the host's own source address would come out of the tunnel.
    DispatchPublishedAtPeer(Family),
    /// `ip daddr @nodes4 meta l4proto . th dport vmap @ports`, in output: the same for the host itself.
    DispatchPublishedAtPeerLocally(Family),
    /// `fib daddr type local ip daddr . meta l4proto . th dport vmap @bound4`, in prerouting: ports that answer at one address
    /// of the node. Ahead of the general ones.
    DispatchBound(Family),
    /// `iifname "weft.*" ip daddr . meta l4proto . th dport vmap @bound4`, in prerouting: a container that calls such an address
    /// is served here, whichever node has it, for the reason of [`Rule::DispatchPublishedAtPeer`]. An address that one port
    /// is bound to need not be known as a node's, so the map itself says which they are.
    DispatchBoundInside(Family),
    /// `ip daddr . meta l4proto . th dport vmap @bound4`, in output: the same for the host itself.
    DispatchBoundLocally(Family),
    /// `fib daddr type local iifname . meta l4proto . th dport vmap @devports`, in prerouting: ports that answer to what
    /// arrives by one device. Behind those of an address, which are narrower, and ahead of the general ones.
    DispatchDevice,
    /// Questions for names, at the resolver's address (port 53), are the agent's: a service that publishes port 53 on every
    /// address of every node shall not take them.
    SpareResolver(IpAddr),
    /// `fib daddr type local meta l4proto . th dport vmap @ports`, in prerouting.
    DispatchPublished,
    /// `fib daddr type local ip daddr != 127.0.0.0/8 meta l4proto . th dport vmap @ports` (`ip6 daddr != ::1`), in output:
    /// a connection to loopback has a loopback source, which would need a translation that the kernel path does not do.
    DispatchPublishedLocally(Family),
    /// `meta nfproto FAMILY meta l4proto PROTOCOL`, then `0xSERVICE . ip saddr map @sticky4` gives the replica that the client came
    /// to last; if it is still there (`REPLICA map @takers4 0xSERVICE`), `update @sticky4 { 0xSERVICE . ip saddr timeout TIMEOUT :
    /// REPLICA } counter dnat ip to REPLICA . TARGET`. nft has no words for a value that is looked up once and used three times; what
    /// it lists is close to this and cannot be loaded.
    RecallPort {
        /// The replicas' family.
        family: Family,
        /// The published protocol.
        protocol: L4,
        /// The replicas' port.
        target: u16,
        /// Whose client, and for how long.
        memory: Memory,
    },
    /// The same for a VIP: every protocol, the port stays.
    RecallVip {
        /// The replicas' family.
        family: Family,
        /// Whose client, and for how long.
        memory: Memory,
    },
    /// As [`Rule::BalancePort`], and ahead of the translation `delete @sticky4 { 0xSERVICE . ip saddr : REPLICA } update @sticky4 {
    /// 0xSERVICE . ip saddr timeout TIMEOUT : REPLICA }`: an update alone keeps the value that is there. Where the map is full
    /// the rule does not match, so one that balances without remembering has to follow.
    RememberPort {
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
        /// Which of them.
        pick: Pick,
        /// Whose client, and for how long.
        memory: Memory,
    },
    /// The same for a VIP, as [`Rule::BalanceVip`].
    RememberVip {
        /// The replicas' family.
        family: Family,
        /// The map.
        shard: u8,
        /// The first slot.
        first: Slot,
        /// How many slots.
        slots: u16,
        /// Which of them.
        pick: Pick,
        /// Whose client, and for how long.
        memory: Memory,
    },
    /// `meta nfproto FAMILY meta l4proto PROTOCOL counter dnat ip to PICK map @target4_SHARD`.
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
        /// Which of them.
        pick: Pick,
    },
    /// `meta nfproto FAMILY counter dnat ip to PICK map @replica4_SHARD`: address only, every protocol, the port stays. The family comes first, or packets of the other one would take turns.
    BalanceVip {
        /// The replicas' family.
        family: Family,
        /// The map.
        shard: u8,
        /// The first slot.
        first: Slot,
        /// How many slots.
        slots: u16,
        /// Which of them.
        pick: Pick,
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
    /// `oifname "weft.vx" goto to_tunnel`.
    EnterToTunnel,
    /// `meta mark & MASK != 0 meta mark set meta mark & ~MASK`: the outer packet must not inherit the mark.
    ClearMark(u32),
    /// `@th,104,8 & 0x2 != 0 goto clamp_mss`: the flag SYN (RFC 9293, 3.1), without the two expressions that would first ask for
    /// TCP, since every packet on the tunnel walks this. What other protocols have at this place sends some of theirs there in
    /// vain.
    EnterClampMss,
    /// `meta nfproto FAMILY tcp option maxseg size set MSS`, which never makes it larger: neither end sends what the tunnel does
    /// not carry, even where one's link allows more and nobody hears ICMP's "too big".
    ClampMss(Family, u16),
    /// `ip saddr . ip daddr @hairpin4 snat ip to ADDRESS`, ahead of the next: a replica that calls itself by a published port
    /// or a VIP would answer itself directly, past the translation.
    TranslateHairpin(IpAddr),
    /// `oifname "weft.vx" ip saddr @nodes4 ct status & dnat != 0 snat ip to ADDRESS`: another node, or a container behind it, that asks
    /// this one at an address or device where its own mesh does not answer. Its own replica may be chosen, and no host takes a packet
    /// with its own source address out of a tunnel.
    TranslatePeer(IpAddr),
    /// `ip saddr . ip daddr @within4 accept`, ahead of the masquerade.
    KeepWithin(Family),
    /// `ip saddr @networks4 masquerade`: towards the outside a container speaks with its node's address.
    Masquerade(Family),
    /// A rule in a chain of ours that is not of our making, or of another version's, by its handle in the kernel. Only
    /// ever observed, never desired: so a chain that holds one differs from every desired chain.
    Foreign(u64),
}

impl Rule {
    /// The sets and maps that the rule uses; they have to be there before the rule and stay as long.
    pub fn sets(self) -> impl Iterator<Item = SetName> {
        let sets = match self {
            Self::TunnelFromPeer(family) | Self::TunnelToPeer(family, _) => [Some(SetName::Peers(family)), None],
            Self::EnterUnusedVip(family) | Self::EnterUnusedVipLocally(family) => {
                [Some(SetName::VipRanges(family)), None]
            }
            Self::RememberIngress => [Some(SetName::Vteps), None],
            Self::SeparateIngress => [Some(SetName::Zones), None],
            Self::DispatchVip(family) | Self::DispatchVipLocally(family) => [Some(SetName::Vips(family)), None],
            Self::DispatchBound(family) | Self::DispatchBoundInside(family) | Self::DispatchBoundLocally(family) => {
                [Some(SetName::Bound(family)), None]
            }
            Self::DispatchDevice => [Some(SetName::DevicePorts), None],
            Self::DispatchPublished | Self::DispatchPublishedLocally(_) => [Some(SetName::Ports), None],
            Self::DispatchPublishedAtPeer(family) | Self::DispatchPublishedAtPeerLocally(family) => {
                [Some(SetName::Nodes(family)), Some(SetName::Ports)]
            }
            Self::RecallPort { family, .. } | Self::RecallVip { family, .. } => {
                [Some(SetName::Sticky(family)), Some(SetName::Takers(family))]
            }
            Self::RememberPort { family, shard, .. } => {
                [Some(SetName::Targets(family, shard)), Some(SetName::Sticky(family))]
            }
            Self::RememberVip { family, shard, .. } => {
                [Some(SetName::Replicas(family, shard)), Some(SetName::Sticky(family))]
            }
            Self::BalancePort { family, shard, .. } => [Some(SetName::Targets(family, shard)), None],
            Self::BalanceVip { family, shard, .. } => [Some(SetName::Replicas(family, shard)), None],
            Self::AcceptWithin(family) | Self::KeepWithin(family) => [Some(SetName::Within(family)), None],
            Self::RefuseCrossing(family) | Self::RefuseUnpublished(family) | Self::Masquerade(family) => {
                [Some(SetName::Networks(family)), None]
            }
            Self::RefuseInternalOut(family) => [Some(SetName::Internal(family)), None],
            Self::TranslateHairpin(address) => [Some(SetName::Hairpin(Family::of(address))), None],
            Self::TranslatePeer(address) => [Some(SetName::Nodes(Family::of(address))), None],
            Self::TunnelFromStranger
            | Self::EnterFromUnderlay(_)
            | Self::EnterFromTunnel
            | Self::EnterFromContainer
            | Self::EnterToTunnel
            | Self::EnterClampMss
            | Self::ClampMss(..)
            | Self::DropSpoofed
            | Self::RefusePeerPort(_)
            | Self::SpareResolver(_)
            | Self::ReturnToIngress(_)
            | Self::RefuseTcp
            | Self::RefuseOther
            | Self::AcceptEstablished
            | Self::ClearMark(_)
            | Self::Foreign(_) => [None, None],
        };
        sets.into_iter().flatten()
    }

    /// The chain that the rule goes to by itself, not by an element of a map; it has to be there before the rule.
    pub fn chain(self) -> Option<ChainName> {
        match self {
            Self::EnterFromUnderlay(_) => Some(ChainName::FromUnderlay),
            Self::EnterFromTunnel => Some(ChainName::FromTunnel),
            Self::EnterFromContainer => Some(ChainName::FromContainer),
            Self::EnterToTunnel => Some(ChainName::ToTunnel),
            Self::EnterClampMss => Some(ChainName::ClampMss),
            Self::EnterUnusedVip(_) | Self::EnterUnusedVipLocally(_) => Some(ChainName::UnusedVip),
            Self::TunnelFromPeer(..)
            | Self::TunnelFromStranger
            | Self::TunnelToPeer(..)
            | Self::SeparateIngress
            | Self::RememberIngress
            | Self::DropSpoofed
            | Self::RefusePeerPort(_)
            | Self::SpareResolver(_)
            | Self::ReturnToIngress(_)
            | Self::DispatchVip(_)
            | Self::DispatchVipLocally(_)
            | Self::DispatchPublishedAtPeer(_)
            | Self::DispatchPublishedAtPeerLocally(_)
            | Self::DispatchPublished
            | Self::DispatchPublishedLocally(_)
            | Self::DispatchBound(_)
            | Self::DispatchBoundInside(_)
            | Self::DispatchBoundLocally(_)
            | Self::DispatchDevice
            | Self::RecallPort { .. }
            | Self::RecallVip { .. }
            | Self::RememberPort { .. }
            | Self::RememberVip { .. }
            | Self::ClampMss(..)
            | Self::TranslateHairpin(_)
            | Self::TranslatePeer(_)
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
