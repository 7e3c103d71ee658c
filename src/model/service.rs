use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr};

use super::{L4, Name, NetworkId};

/// A service's number in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceId(NonZeroU16);

impl ServiceId {
    /// `number` as a service id, if it is not 0.
    pub fn new(number: u16) -> Option<Self> {
        NonZeroU16::new(number).map(Self)
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "service {}", self.0)
    }
}

impl FromStr for ServiceId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Self::new).ok_or_else(|| format!("{text:?} is not a service number"))
    }
}

/// A port that every node answers, and the replicas' port behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublishedPort {
    /// The port on every node.
    pub published: NonZeroU16,
    /// The port in the container.
    pub target: NonZeroU16,
    /// The protocol.
    pub protocol: L4,
}

/// A name, a VIP and published ports in front of endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Its number.
    pub id: ServiceId,
    /// Its name, unique in the cluster.
    pub name: Name,
    /// The network of its replicas and its VIPs.
    pub network: NetworkId,
    /// One per family of the network.
    pub vips: Vec<IpAddr>,
    /// Its published ports, no two with the same port and protocol in the cluster.
    pub ports: Vec<PublishedPort>,
}
