use std::{fmt, net::IpAddr, num::NonZeroU16, ops::RangeInclusive, str::FromStr};

use ipnet::IpNet;

use super::L4;

/// A port that every node answers, and the replicas' port behind it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishedPort {
    /// Where it answers on each node.
    pub bind: Bind,
    /// The port on every node.
    pub published: NonZeroU16,
    /// The port in the container.
    pub target: NonZeroU16,
    /// The protocol.
    pub protocol: L4,
    /// Who carries its connections.
    pub mode: PortMode,
}

impl PublishedPort {
    /// From these the cluster chooses where a person leaves the choice to it: below the ports that Linux hands out to clients
    /// (`net.ipv4.ip_local_port_range` begins at 32768, ip-sysctl.rst).
    pub const CHOSEN: RangeInclusive<u16> = 30_000..=32_767;

    /// A port with the usual settings: on every address, carried by the kernel.
    pub fn new(published: NonZeroU16, target: NonZeroU16, protocol: L4) -> Self {
        Self { bind: Bind::Any, published, target, protocol, mode: PortMode::Kernel }
    }

    /// Whether both cannot be at once on one node: the same port and protocol, and no way to tell their destinations apart.
    /// What answers everywhere conflicts with what answers on one address, as it does for `bind(2)`. An address and a device do
    /// not where the kernel carries both: the address is the narrower one and is looked up first. Where the agent listens they
    /// do: `bind(2)` takes a socket at a device, which has every address, and one at an address for the same place.
    pub fn conflicts_with(&self, other: &Self) -> bool {
        let is_proxied = [self, other].iter().any(|port| matches!(port.mode, PortMode::Proxy(_)));
        (self.published, self.protocol) == (other.published, other.protocol)
            && (self.bind.overlaps(&other.bind) || (is_proxied && self.bind.mixes_with(&other.bind)))
    }
}

/// Where a published port answers on each node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Bind {
    /// On every address of the node.
    #[default]
    Any,
    /// On this address alone, on the node that has it.
    Address(IpAddr),
    /// To what arrives by the device of this name alone.
    Device(DeviceName),
}

impl Bind {
    /// Whether one destination can be meant by both.
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _) | (_, Self::Any) => true,
            (Self::Address(one), Self::Address(two)) => one == two,
            (Self::Device(one), Self::Device(two)) => one == two,
            (Self::Address(_), Self::Device(_)) | (Self::Device(_), Self::Address(_)) => false,
        }
    }

    /// Whether one is an address and the other a device.
    fn mixes_with(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Address(_), Self::Device(_)) | (Self::Device(_), Self::Address(_)))
    }
}

/// A network device's name as the kernel takes it (`dev_valid_name` in net/core/dev.c): 1 to 15 bytes without white space,
/// `/` and `:`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeviceName {
    bytes: [u8; Self::LEN_MAX],
    len: u8,
}

impl DeviceName {
    /// The longest name, in bytes (`IFNAMSIZ` less the closing zero).
    pub const LEN_MAX: usize = 15;

    /// The name as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.bytes[..usize::from(self.len)]).unwrap_or_default()
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let permitted = |letter: char| !letter.is_whitespace() && letter != '/' && letter != ':';
        let refuse = || format!("{text:?} is not a device's name");
        if text.is_empty() || text == "." || text == ".." || !text.chars().all(permitted) {
            return Err(refuse());
        }
        let mut bytes = [0; Self::LEN_MAX];
        bytes.get_mut(..text.len()).ok_or_else(refuse)?.copy_from_slice(text.as_bytes());
        let len = u8::try_from(text.len()).map_err(|_| refuse())?;
        Ok(Self { bytes, len })
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Who carries the connections of a published port.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum PortMode {
    /// The kernel: nothing is copied, the client's address stays, and it outlives the agent.
    #[default]
    Kernel,
    /// The agent, for what the kernel cannot do.
    Proxy(ProxyMode),
}

/// What a proxied port does besides carrying bytes.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ProxyMode {
    /// Tell the replica the client's address by a header of this version.
    pub send: Option<ProxyProtocol>,
    /// Peers whose own header is believed, such as a load balancer in front; from them one is required.
    pub accept_from: Vec<IpNet>,
}

/// A version of the PROXY protocol (haproxy.org, proxy-protocol.txt).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProxyProtocol {
    /// A line of text (section 2.1).
    V1,
    /// Binary (section 2.2).
    V2,
}

impl ProxyProtocol {
    /// The word for people, programs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
        }
    }
}

impl FromStr for ProxyProtocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "v1" => Ok(Self::V1),
            "v2" => Ok(Self::V2),
            _ => Err(format!("{text:?} is not a version of the PROXY protocol; v1 and v2 are")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_are_the_kernels() {
        for (text, accepted) in [
            ("eth0", true),
            ("a", true),
            ("enp0s31f6.1000x", true),
            ("enp0s31f6.1000xy", false),
            ("", false),
            (".", false),
            ("..", false),
            ("a b", false),
            ("a/b", false),
            ("a:b", false),
        ] {
            let parsed = text.parse::<DeviceName>();
            assert_eq!(parsed.is_ok(), accepted, "{text:?}");
            if let Ok(name) = parsed {
                assert_eq!(name.as_str(), text);
            }
        }
    }

    #[test]
    fn ports_conflict_as_sockets_do() {
        let address = |text: &str| Bind::Address(text.parse().unwrap());
        let device = |text: &str| Bind::Device(text.parse().unwrap());
        for (one, two, conflict) in [
            (Bind::Any, Bind::Any, true),
            (Bind::Any, address("192.0.2.1"), true),
            (Bind::Any, device("eth0"), true),
            (address("192.0.2.1"), address("192.0.2.1"), true),
            (address("192.0.2.1"), address("192.0.2.2"), false),
            (address("192.0.2.1"), address("2001:db8::1"), false),
            (device("eth0"), device("eth0"), true),
            (device("eth0"), device("eth1"), false),
            (device("eth0"), address("192.0.2.1"), false),
        ] {
            assert_eq!(one.overlaps(&two), conflict, "{one:?} {two:?}");
            assert_eq!(two.overlaps(&one), conflict, "{two:?} {one:?}");
        }
        let port = |bind, mode| PublishedPort { bind, mode, ..PublishedPort::new(number(80), number(8080), L4::Tcp) };
        let proxy = || PortMode::Proxy(ProxyMode::default());
        for (one, two, conflict) in [
            (port(device("eth0"), PortMode::Kernel), port(address("192.0.2.1"), PortMode::Kernel), false),
            (port(device("eth0"), proxy()), port(address("192.0.2.1"), proxy()), true),
            (port(device("eth0"), proxy()), port(address("192.0.2.1"), PortMode::Kernel), true),
            (port(device("eth0"), PortMode::Kernel), port(address("2001:db8::1"), proxy()), true),
            (port(device("eth0"), proxy()), port(device("eth1"), proxy()), false),
            (port(address("192.0.2.1"), proxy()), port(address("192.0.2.2"), proxy()), false),
        ] {
            assert_eq!(one.conflicts_with(&two), conflict, "{one:?} {two:?}");
            assert_eq!(two.conflicts_with(&one), conflict, "{two:?} {one:?}");
        }
    }

    fn number(port: u16) -> NonZeroU16 {
        NonZeroU16::new(port).unwrap()
    }
}
