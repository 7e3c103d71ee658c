use std::{fmt, str::FromStr};

use crate::model::{L4, ServiceId};

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
    /// `input`: what containers may ask of the host.
    Input,
    /// `forward`: isolation.
    Forward,
    /// `mangle_postrouting`: clears the mark.
    ManglePostrouting,
    /// `nat_postrouting`: masquerades what leaves.
    NatPostrouting,
    /// `from_underlay`: packets to the tunnel's port, before conntrack.
    FromUnderlay,
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
            Self::Input => hook("filter", 1, "input", 0),
            Self::Forward => hook("filter", 2, "forward", 0),
            Self::ManglePostrouting => hook("filter", 4, "postrouting", -150),
            Self::NatPostrouting => hook("nat", 4, "postrouting", 100),
            Self::FromUnderlay | Self::FromTunnel | Self::FromContainer | Self::Vip(_) | Self::Port(..) => None,
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
            Self::Input => f.write_str("input"),
            Self::Forward => f.write_str("forward"),
            Self::ManglePostrouting => f.write_str("mangle_postrouting"),
            Self::NatPostrouting => f.write_str("nat_postrouting"),
            Self::FromUnderlay => f.write_str("from_underlay"),
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
            "input" => Self::Input,
            "forward" => Self::Forward,
            "mangle_postrouting" => Self::ManglePostrouting,
            "nat_postrouting" => Self::NatPostrouting,
            "from_underlay" => Self::FromUnderlay,
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
