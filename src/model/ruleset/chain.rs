use std::{fmt, str::FromStr};

use crate::model::{Bind, L4, ServiceId};

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
    /// `to_tunnel`: packets that leave by the tunnel.
    ToTunnel,
    /// `clamp_mss`: TCP packets that open a connection over the tunnel.
    ClampMss,
    /// `unused_vip`: where VIPs come from, and no service has it.
    UnusedVip,
    /// `vip_ID`: balances a service's VIPs.
    Vip(ServiceId),
    /// `port_PROTOCOL_PORT`, and for one that answers not everywhere `port_PROTOCOL_PORT_at_ADDRESS` (with `-` for the colons of
    /// IPv6, which nft does not take in names) or `port_PROTOCOL_PORT_on_DEVICE`: balances a published port.
    Port(L4, u16, Bind),
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
            Self::FromUnderlay
            | Self::FromTunnel
            | Self::FromContainer
            | Self::ToTunnel
            | Self::ClampMss
            | Self::UnusedVip
            | Self::Vip(_)
            | Self::Port(..) => None,
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
            Self::ToTunnel => f.write_str("to_tunnel"),
            Self::ClampMss => f.write_str("clamp_mss"),
            Self::UnusedVip => f.write_str("unused_vip"),
            Self::Vip(service) => write!(f, "vip_{service}"),
            Self::Port(protocol, port, bind) => {
                write!(f, "port_{protocol}_{port}")?;
                match bind {
                    Bind::Any => Ok(()),
                    Bind::Address(address) => write!(f, "_at_{}", address.to_string().replace(':', "-")),
                    Bind::Device(device) => write!(f, "_on_{device}"),
                }
            }
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
            "to_tunnel" => Self::ToTunnel,
            "clamp_mss" => Self::ClampMss,
            "unused_vip" => Self::UnusedVip,
            // A device's name may have more of these.
            _ => match text.splitn(5, '_').collect::<Vec<_>>().as_slice() {
                ["vip", service] => Self::Vip(service.parse().map_err(|_| refuse())?),
                ["port", protocol, port, bind @ ..] => {
                    let bind = match bind {
                        [] => Bind::Any,
                        ["at", address] => Bind::Address(address.replace('-', ":").parse().map_err(|_| refuse())?),
                        ["on", device] => Bind::Device(device.parse().map_err(|_| refuse())?),
                        _ => return Err(refuse()),
                    };
                    Self::Port(protocol.parse().map_err(|_| refuse())?, port.parse().map_err(|_| refuse())?, bind)
                }
                _ => return Err(refuse()),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_come_back() {
        for text in [
            "nat_prerouting",
            "to_tunnel",
            "vip_7",
            "port_tcp_80",
            "port_udp_53_at_192.0.2.1",
            "port_sctp_65535_at_2001-db8--1",
            "port_tcp_80_at_--ffff-192.0.2.1",
            "port_tcp_80_on_enp0s31f6.1000",
            "port_tcp_80_on_a_b_c",
        ] {
            assert_eq!(text.parse::<ChainName>().map(|name| name.to_string()), Ok(text.to_owned()));
        }
        for text in ["port_tcp", "port_tcp_80_", "port_tcp_80_at", "port_tcp_80_at_eth0", "port_tcp_80_on_", "vip_0"] {
            assert!(text.parse::<ChainName>().is_err(), "{text}");
        }
    }
}
