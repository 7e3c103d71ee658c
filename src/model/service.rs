use std::{fmt, net::IpAddr, num::NonZeroU16, str::FromStr, time::Duration};

use super::{HealthCheck, Name, NetworkId, PublishedPort};

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

/// How a service's new connections are spread over its replicas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Lb {
    /// In turn, exactly, by weight.
    #[default]
    Rr,
    /// By chance, by weight.
    Random,
    /// To the replica with the fewest open connections; only a proxied port can.
    LeastConn,
    /// By the client's address: a client comes to the same replica by whichever node, and a replica that goes moves only
    /// its own clients.
    Source,
}

impl Lb {
    /// The word for people, programs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Random => "random",
            Self::LeastConn => "least-conn",
            Self::Source => "source",
        }
    }
}

impl FromStr for Lb {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "rr" => Ok(Self::Rr),
            "random" => Ok(Self::Random),
            "least-conn" => Ok(Self::LeastConn),
            "source" => Ok(Self::Source),
            _ => Err(format!("{text:?} is not a way to balance; rr, random, least-conn and source are")),
        }
    }
}

/// What a service's name stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum EndpointMode {
    /// Its VIPs.
    #[default]
    Vip,
    /// Its balanced replicas' own addresses; it has no VIPs.
    Dnsrr,
}

impl EndpointMode {
    /// The word for people, programs and records.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Vip => "vip",
            Self::Dnsrr => "dnsrr",
        }
    }
}

impl FromStr for EndpointMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "vip" => Ok(Self::Vip),
            "dnsrr" => Ok(Self::Dnsrr),
            _ => Err(format!("{text:?} is not an endpoint mode; vip and dnsrr are")),
        }
    }
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
    /// One per family of the network; none in [`EndpointMode::Dnsrr`].
    pub vips: Vec<IpAddr>,
    /// Its published ports, no two of the cluster in conflict ([`PublishedPort::conflicts_with`]).
    pub ports: Vec<PublishedPort>,
    /// How new connections are spread.
    pub lb: Lb,
    /// How long a client stays with the replica that it came to, counted from its last new connection; nothing to let every
    /// connection go its own way.
    pub affinity: Option<Duration>,
    /// What its name stands for.
    pub endpoint_mode: EndpointMode,
    /// How its replicas are probed; without it one is ready as soon as it is attached.
    pub health: Option<HealthCheck>,
    /// How long a draining replica's connections may take to finish.
    pub drain: Duration,
}

impl Service {
    /// [`Self::drain`] unless somebody says otherwise: the time that Docker gives a container to stop.
    pub const DRAIN_DEFAULT: Duration = Duration::from_secs(10);
    /// The longest that a draining replica is waited for.
    pub const DRAIN_MAX: Duration = Duration::from_hours(1);
    /// The shortest [`Self::affinity`].
    pub const AFFINITY_MIN: Duration = Duration::from_secs(1);
    /// The longest: every client is remembered so long on every node.
    pub const AFFINITY_MAX: Duration = Duration::from_hours(24);

    /// A service with the usual settings.
    pub fn new(id: ServiceId, name: Name, network: NetworkId, vips: Vec<IpAddr>, ports: Vec<PublishedPort>) -> Self {
        Self {
            id,
            name,
            network,
            vips,
            ports,
            lb: Lb::default(),
            affinity: None,
            endpoint_mode: EndpointMode::default(),
            health: None,
            drain: Self::DRAIN_DEFAULT,
        }
    }
}
