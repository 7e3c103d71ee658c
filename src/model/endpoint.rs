use std::{fmt, net::IpAddr, str::FromStr};

use super::{Mac, Name, NetworkId, NodeId, ServiceId};

/// An endpoint's identity, 64 random bits, written as 16 hexadecimal digits. A name or an address may come back with
/// another endpoint; an id never does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointId(pub u64);

impl fmt::Display for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for EndpointId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "endpoint {self}")
    }
}

impl FromStr for EndpointId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.len() != 16 {
            return Err(format!("{text:?} is not an endpoint id of 16 hexadecimal digits"));
        }
        u64::from_str_radix(text, 16)
            .map(Self)
            .map_err(|_| format!("{text:?} is not an endpoint id of 16 hexadecimal digits"))
    }
}

/// Where an endpoint stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointState {
    /// Linked, not yet balanced: being attached, or not yet found healthy.
    Starting,
    /// Takes new connections.
    Ready,
    /// Takes none until its health check succeeds again.
    Unhealthy,
    /// Takes no new connections; those it has go on.
    Draining,
}

impl EndpointState {
    /// The word for people, programs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Unhealthy => "unhealthy",
            Self::Draining => "draining",
        }
    }
}

/// A network namespace: a path that leads to it on its node, and the inode that tells whether the path still leads to
/// the same one (namespaces(7): `st_ino` identifies it while it lives).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsRef {
    /// Such as `/run/netns/web1` or `/proc/4711/ns/net`. At most [`NetnsRef::PATH_LEN_MAX`] bytes, no white space.
    pub path: String,
    /// Its inode number on nsfs.
    pub inode: u64,
}

impl NetnsRef {
    /// The longest path, in bytes: the whole attachment has to fit a link's alias (`IFALIASZ`, 256 bytes).
    pub const PATH_LEN_MAX: usize = 128;
}

/// One attached container, process or namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Its identity.
    pub id: EndpointId,
    /// The network that it is attached to.
    pub network: NetworkId,
    /// One address per family of the network, at least one, the network's first family first.
    pub addresses: Vec<IpAddr>,
    /// Its name, unique in its network.
    pub name: Name,
    /// More names for it; several endpoints may share one.
    pub aliases: Vec<Name>,
    /// The node where it runs.
    pub node: NodeId,
    /// The service whose replica it is.
    pub service: Option<ServiceId>,
    /// Where it stands.
    pub state: EndpointState,
    /// Its share of a service's connections, 1 unless somebody said otherwise.
    pub weight: u16,
    /// The namespace that it lives in.
    pub netns: NetnsRef,
    /// The name of its device there, such as `eth0`.
    pub ifname: String,
    /// Why it is unhealthy, as the probe said that made it so. Later ones that say something else change nothing: a record is
    /// written when a state changes.
    pub fault: Option<Fault>,
}

/// What a probe said that failed, for people: at most [`Fault::LEN_MAX`] bytes and no control characters, whatever a replica
/// answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(String);

impl Fault {
    /// The longest text, in bytes.
    pub const LEN_MAX: usize = 200;

    /// A text, cut off where it is too long.
    pub fn new(text: &str) -> Self {
        let mut kept = String::new();
        for letter in text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }) {
            if kept.len() + letter.len_utf8() > Self::LEN_MAX {
                break;
            }
            kept.push(letter);
        }
        Self(kept)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The least MTU of a device with IPv6, in bytes (RFC 8200, 5). Linux takes IPv6 with all its addresses and routes off a device
/// whose MTU falls below (`addrconf_notify`), and does not give them back.
pub const IPV6_MTU_MIN: u32 = 1280;

/// A container's veth pair in all that matters to a kernel. Its host side carries this as its alias, written last, so
/// that a pair that was made only half way does not look whole.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attachment {
    /// The namespace of the container's side.
    pub netns: NetnsRef,
    /// The device's name there.
    pub ifname: String,
    /// The container's addresses, each with full length (/32 or /128).
    pub addresses: Vec<IpAddr>,
    /// Both sides' MTU in bytes; 0 in an observed pair whose sides may differ.
    pub mtu: u32,
}

impl Attachment {
    /// The MAC of the container's side.
    pub fn mac(&self) -> Mac {
        Mac::of_container(self.addresses.first().copied().unwrap_or(IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED)))
    }

    /// Whether both are one pair, which can be brought from one to the other while it lives: a namespace, a device in it and
    /// addresses make a pair; its MTU, and the path that leads to the namespace, may change.
    pub fn is_same_pair(&self, other: &Self) -> bool {
        let Self { netns: NetnsRef { path: _, inode }, ifname, addresses, mtu: _ } = self;
        (*inode, ifname, addresses) == (other.netns.inode, &other.ifname, &other.addresses)
    }

    /// As the host side's alias: `weft ADDRESS[,ADDRESS] IFNAME MTU INODE PATH`.
    pub fn to_alias(&self) -> String {
        let addresses: Vec<String> = self.addresses.iter().map(ToString::to_string).collect();
        format!("weft {} {} {} {} {}", addresses.join(","), self.ifname, self.mtu, self.netns.inode, self.netns.path)
    }

    /// Back from an alias; nothing if it is not one of ours or not whole.
    pub fn from_alias(alias: &str) -> Option<Self> {
        let mut words = alias.strip_prefix("weft ")?.splitn(5, ' ');
        let addresses = words.next()?.split(',').map(str::parse).collect::<Result<Vec<IpAddr>, _>>().ok()?;
        let ifname = words.next()?.to_owned();
        let mtu = words.next()?.parse().ok()?;
        let inode = words.next()?.parse().ok()?;
        let path = words.next()?.to_owned();
        Some(Self { netns: NetnsRef { path, inode }, ifname, addresses, mtu })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_is_short_and_plain() {
        let euros = "\u{20ac}".repeat(100);
        for (text, kept) in [
            ("connection refused", "connection refused"),
            ("a\u{1b}[31m\nb", "a [31m b"),
            (&"x".repeat(201), &"x".repeat(200)),
            // Three bytes each: the 67th would reach beyond.
            (&euros, &"\u{20ac}".repeat(66)),
        ] {
            assert_eq!(Fault::new(text).to_string(), kept);
            assert_eq!(Fault::new(kept), Fault::new(text));
        }
    }

    #[test]
    fn an_alias_reads_back() {
        let attachment = Attachment {
            netns: NetnsRef { path: "/run/netns/web1".into(), inode: 4_026_532_000 },
            ifname: "eth0".into(),
            addresses: vec!["10.9.1.5".parse().unwrap(), "fd00::5".parse().unwrap()],
            mtu: 1450,
        };
        assert_eq!(Attachment::from_alias(&attachment.to_alias()), Some(attachment));
        for foreign in ["", "weft", "weft 10.9.1.5 eth0 1450 12", "weft x eth0 1450 12 /a", "my uplink"] {
            assert_eq!(Attachment::from_alias(foreign), None, "{foreign:?}");
        }
    }
}
