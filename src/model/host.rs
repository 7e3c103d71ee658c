use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{IpAddr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

use super::{Attachment, EndpointId, Mac, NodeId, Ruleset};

/// The tunnel device's name. Ours are the links whose names begin with `weft.`, and no others.
pub const VTEP_LINK: &str = "weft.vx";

/// Our number in the kernel's field for who made a route or a policy rule (`rtm_protocol`, rtnetlink(7)). The package
/// names it `weft` in `/etc/iproute2/rt_protos.d`.
pub const ROUTE_PROTOCOL: u8 = 77;

/// The routing table that leads back to ingress node 0; node `n` has this plus `n`.
pub const FIRST_NODE_TABLE: u32 = 77_000;

/// What the kernel holds of ours, or should hold. Desired and observed are this one type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostState {
    /// The tunnel device.
    pub vtep: Option<Vtep>,
    /// The tunnel's forwarding database: a remote VTEP's MAC to its underlay address.
    pub fdb: BTreeMap<Mac, IpAddr>,
    /// Permanent neighbours on the tunnel: a remote node's gateway address to its VTEP's MAC.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Routes by table and prefix.
    pub routes: BTreeMap<(RouteTable, IpNet), Route>,
    /// Policy rules.
    pub policy: BTreeSet<PolicyRule>,
    /// Veth pairs by the name of their host side.
    pub links: BTreeMap<LinkName, Attachment>,
    /// Kernel settings that the rows above need.
    pub sysctls: BTreeMap<Sysctl, String>,
    /// The nftables table `inet weft`; nothing if it is not there.
    pub ruleset: Option<Ruleset>,
}

/// The VXLAN device of a node (RFC 7348). Always without learning, with an explicit local address, and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vtep {
    /// Its MAC, [`Mac::of_vtep`].
    pub mac: Mac,
    /// The VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// The UDP port, ours and every peer's.
    pub port: u16,
    /// The source address of the outer packets.
    pub local: IpAddr,
    /// Its MTU in bytes.
    pub mtu: u32,
    /// Its own address, link-local and with full length. Nobody sends to it. It is there because Linux holds a packet that
    /// comes in by a device without an IPv4 address to be forged as soon as any reverse-path filter is on
    /// (`__fib_validate_source` in `net/ipv4/fib_frontend.c`), loose or not.
    pub address: IpAddr,
    /// Its own IPv6 address, with full length, where some network has IPv6 and the tunnel carries it. What this host itself
    /// says to containers comes from here if the host has no IPv6 otherwise: without any address the kernel sends its
    /// errors (no route, too big, nobody there) from `::1`, which every container drops.
    pub address6: Option<Ipv6Addr>,
}

/// A routing table's number; `main` is 254.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteTable(pub u32);

impl RouteTable {
    /// The table that everything not told otherwise is routed by.
    pub const MAIN: Self = Self(254);

    /// The table of the host's own addresses, looked up before all others. Nearly all in it is the kernel's.
    pub const LOCAL: Self = Self(255);

    /// The table whose default route leads back to an ingress node.
    pub fn of_ingress(node: NodeId) -> Self {
        Self(FIRST_NODE_TABLE + u32::from(node.get()))
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// The next hop.
    pub next_hop: NextHop,
}

/// The next hop of a route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NextHop {
    /// Through the tunnel to the node with this gateway address: `via GATEWAY dev weft.vx onlink`.
    Tunnel(IpAddr),
    /// Straight out of the tunnel device, scope link: so that the host itself has a way to VIPs, and to the other nodes'
    /// gateway addresses.
    TunnelLink,
    /// To this host itself: `local PREFIX dev lo`. The host takes what comes for such an address as its own, and no device
    /// carries it: nothing announces it, and it stays when devices go. `lo` has to be up, as on every host.
    Local,
    /// Straight to a container: `dev LINK scope link`.
    Link(LinkName),
    /// Nowhere: `unreachable`, so that an address nobody has is refused at once instead of leaving by the default route.
    Unreachable,
}

/// A veth pair's host side: `weft.` and ten hexadecimal digits of the endpoint's id (15 characters, `IFNAMSIZ` less one).
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkName(String);

impl LinkName {
    /// What all our links' names begin with.
    pub const PREFIX: &'static str = "weft.";

    /// The host side of an endpoint's pair.
    pub fn of_endpoint(id: EndpointId) -> Self {
        Self(format!("{}{:010x}", Self::PREFIX, id.0 & 0xff_ffff_ffff))
    }

    /// A name as seen in the kernel, if it is the host side of a pair of ours.
    pub fn from_kernel(name: &str) -> Option<Self> {
        (name.starts_with(Self::PREFIX) && name != VTEP_LINK).then(|| Self(name.to_owned()))
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A policy rule of ours (`ip rule`). Rules are walked in order of priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyRule {
    /// Its place; lower ones come first.
    pub priority: u32,
    /// `true` for the IPv6 rules; the families have separate lists.
    pub ipv6: bool,
    /// The mark that a packet must carry under the mask, and the mask: `fwmark MARK/MASK`. A mask of 0 matches all.
    pub mark: (u32, u32),
    /// What then.
    pub action: PolicyAction,
}

/// What a policy rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PolicyAction {
    /// Look the route up in a table.
    Lookup(RouteTable),
    /// Go on at the rule with this priority.
    Goto(u32),
    /// Nothing: a place for a `goto` to land.
    Nop,
}

/// A kernel setting, by its path under `/proc/sys`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sysctl(pub String);

impl Sysctl {
    /// Whether this host forwards IPv6.
    pub const FORWARDING_V6: &'static str = "net/ipv6/conf/all/forwarding";

    /// Whether a device heeds router advertisements: 0 never, 1 unless it forwards, 2 always (ip-sysctl.rst).
    pub fn accept_ra(device: &str) -> Self {
        Self(format!("net/ipv6/conf/{device}/accept_ra"))
    }
}

/// Which bits of the packet and connection mark are ours. They hold the ingress node's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MarkMask(u32);

impl MarkMask {
    /// Bits 16 to 27: clear of Kubernetes (14, 15), Docker's small numbers and Tailscale (bits 16 to 23 only under its
    /// own values); another place can be chosen in `weft.toml`.
    pub const DEFAULT: Self = Self(0x0fff_0000);

    /// `bits` as a mask: at least 12 bits side by side.
    pub fn new(bits: u32) -> Result<Self, String> {
        let width = bits.count_ones();
        let contiguous = bits != 0 && (bits >> bits.trailing_zeros()).trailing_ones() == width;
        if contiguous && width >= 12 {
            Ok(Self(bits))
        } else {
            Err(format!(
                "{bits:#010x} is not a mask of 12 or more bits side by side, such as {:#010x}",
                Self::DEFAULT.0
            ))
        }
    }

    /// The mask's bits.
    pub fn bits(self) -> u32 {
        self.0
    }

    /// The mark that names a node.
    pub fn mark_of(self, node: NodeId) -> u32 {
        u32::from(node.get()) << self.0.trailing_zeros()
    }
}

impl FromStr for MarkMask {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x").unwrap_or(text);
        u32::from_str_radix(digits, 16)
            .map_err(|_| format!("{text:?} is not a hexadecimal mask such as {:#010x}", Self::DEFAULT.0))
            .and_then(Self::new)
    }
}

/// What the desired state has to know of this very host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// The MTU of the way to the other nodes, in bytes.
    pub underlay_mtu: u32,
    /// The bits of the mark that are ours.
    pub mark_mask: MarkMask,
    /// `net.ipv4.conf.all.rp_filter`: the kernel takes the stricter of this and the device's.
    pub rp_filter_all: u8,
    /// The devices, none of them ours, on which this host heeds router advertisements: an IPv6 default route may hang on it.
    /// Looked up only where some network has IPv6.
    pub advertised_to: BTreeSet<String>,
    /// This host's own addresses of which it tells the others ([`super::Node::is_told`]).
    pub addresses: BTreeSet<IpAddr>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_mask_is_twelve_bits_side_by_side() {
        for (bits, accepted) in [
            (0x0fff_0000, true),
            (0xffff_ffff, true),
            (0x0000_0fff, true),
            (0, false),
            (0x07ff_0000, false),
            (0x0fff_1000, false),
        ] {
            assert_eq!(MarkMask::new(bits).is_ok(), accepted, "{bits:#x}");
        }
        let id = NodeId::new(4095).unwrap();
        assert_eq!(MarkMask::DEFAULT.mark_of(id), 0x0fff_0000);
    }

    #[test]
    fn link_names_fit_the_kernel() {
        let name = LinkName::of_endpoint(EndpointId(u64::MAX));
        assert_eq!(name.as_str().len(), 15);
        assert_eq!(LinkName::from_kernel(name.as_str()), Some(name));
        assert_eq!(LinkName::from_kernel(VTEP_LINK), None);
        assert_eq!(LinkName::from_kernel("eth0"), None);
    }
}
