use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    num::NonZeroU16,
    str::FromStr,
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Name;

/// A network's number in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetworkId(NonZeroU16);

impl NetworkId {
    /// `number` as a network id, if it is not 0.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for NetworkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "network {}", self.0)
    }
}

impl FromStr for NetworkId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| format!("{text:?} is not a network number"))
    }
}

/// One family's address space of a network: a prefix, cut into blocks of one size, whose last sixteenth holds VIPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Subnet {
    /// The whole prefix.
    pub prefix: IpNet,
    /// The prefix length of each block; written down when the network is created and never changed.
    pub block_len: u8,
}

impl Subnet {
    /// The last sixteenth of the prefix, from which services get their VIPs. It is never cut into blocks.
    pub fn vip_range(&self) -> IpNet {
        let len = self.prefix.prefix_len() + 4;
        match (self.prefix, self.prefix.broadcast()) {
            (IpNet::V4(_), IpAddr::V4(last)) => {
                Ipv4Net::new(last, len).map_or(self.prefix, |net| IpNet::V4(net.trunc()))
            }
            (_, last) => {
                let last = match last {
                    IpAddr::V6(last) => last,
                    IpAddr::V4(_) => Ipv6Addr::UNSPECIFIED,
                };
                Ipv6Net::new(last, len).map_or(self.prefix, |net| IpNet::V6(net.trunc()))
            }
        }
    }

    /// Whether `address` may be given to somebody: inside the prefix, neither its first nor (IPv4) its last address.
    pub fn is_assignable(&self, address: IpAddr) -> bool {
        self.prefix.contains(&address)
            && address != self.prefix.network()
            && (address.is_ipv6() || address != self.prefix.broadcast())
    }
}

/// A named address space that containers attach to. Networks are isolated from each other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// Its number.
    pub id: NetworkId,
    /// Its name, unique in the cluster.
    pub name: Name,
    /// One per family, at least one; they never overlap with another network's.
    pub subnets: Vec<Subnet>,
    /// Whether containers are kept from opening connections to the outside.
    pub internal: bool,
    /// The containers' MTU where a person set one, in bytes; otherwise the tunnel's.
    pub mtu: Option<u32>,
}

impl Network {
    /// Whether `address` lies in one of the network's prefixes.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.subnets.iter().any(|subnet| subnet.prefix.contains(&address))
    }

    /// The container's default gateway in IPv4: link-local (RFC 3927), the same for every container on every host.
    pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
    /// The container's default gateway in IPv6.
    pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

    /// Where every node answers its own containers' questions for names, in IPv4: their gateway.
    pub const RESOLVER_V4: Ipv4Addr = Self::GATEWAY_V4;
    /// The same in IPv6. Not the gateway: `fe80::1` means nothing without a device's name, which a resolv.conf should not have to
    /// give. It is unique local (RFC 4193) and no network's: see [`Self::OWN_V6`].
    pub const RESOLVER_V6: Ipv6Addr = Ipv6Addr::new(0xfd77, 0x6566, 0, 0, 0, 0, 0, 1);
    /// Whether the network has IPv6 addresses.
    pub fn has_ipv6(&self) -> bool {
        self.subnets.iter().any(|subnet| subnet.prefix.addr().is_ipv6())
    }

    /// What is kept free of networks for the nodes' own use, in IPv6; in IPv4 it is link-local, and so kept free anyway.
    pub const OWN_V6: &'static str = "fd77:6566::/32";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vips_come_from_the_last_sixteenth() {
        for (prefix, range) in [
            ("10.9.0.0/16", "10.9.240.0/20"),
            ("10.9.1.0/24", "10.9.1.240/28"),
            ("fd00:9::/64", "fd00:9:0:0:f000::/68"),
        ] {
            let subnet = Subnet { prefix: prefix.parse().unwrap(), block_len: 28 };
            assert_eq!(subnet.vip_range(), range.parse::<IpNet>().unwrap(), "{prefix}");
        }
    }
}
