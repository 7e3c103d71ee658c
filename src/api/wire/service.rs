use std::{fmt, num::NonZeroU16, str::FromStr};

use serde::{Deserialize, Serialize};

use super::EndpointState;
use crate::model::{self, L4};

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its number in the cluster.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// The name of its network.
    pub network: String,
    /// Its virtual addresses, one per family of the network.
    pub vips: Vec<String>,
    /// Its published ports.
    pub ports: Vec<PortSpec>,
    /// How many of its replicas take new connections.
    pub replicas_ready: u32,
    /// How many replicas it has.
    pub replicas_total: u32,
    /// How it is, by these two numbers.
    pub status: ServiceStatus,
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ServiceStatus {
    /// It has no replicas.
    Empty,
    /// It has replicas, and none takes new connections.
    Down,
    /// Some of its replicas take new connections.
    Degraded,
    /// All of its replicas take new connections.
    Ready,
}

impl ServiceStatus {
    /// How a service is that has so many replicas, of which so many take new connections.
    pub fn of(replicas_ready: u32, replicas_total: u32) -> Self {
        match (replicas_ready, replicas_total) {
            (_, 0) => Self::Empty,
            (0, _) => Self::Down,
            (ready, total) if ready < total => Self::Degraded,
            _ => Self::Ready,
        }
    }

    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Empty => "empty",
            Self::Down => "down",
            Self::Degraded => "degraded",
            Self::Ready => "ready",
        }
    }
}

/// A replica of a service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaView {
    /// Its endpoint's name.
    pub endpoint: String,
    /// Its endpoint's id.
    pub id: String,
    /// The name of its node.
    pub node: String,
    /// Its address, the network's first family.
    pub address: String,
    /// Where it stands.
    pub state: EndpointState,
    /// Its share of the service's connections.
    pub weight: u16,
    /// Whether it takes new connections.
    pub balanced: bool,
    /// Why it does not.
    pub reason: Option<String>,
}

/// A published port: `PUBLISHED:TARGET[/tcp|udp]` as text, `{"published":8080,"target":80,"protocol":"tcp"}` in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSpec {
    /// The port on every node.
    pub published: NonZeroU16,
    /// The port in the container.
    pub target: NonZeroU16,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

impl From<model::PublishedPort> for PortSpec {
    fn from(port: model::PublishedPort) -> Self {
        let model::PublishedPort { published, target, protocol, bind: _, mode: _ } = port;
        Self { published, target, protocol: protocol.into() }
    }
}

impl From<PortSpec> for model::PublishedPort {
    fn from(port: PortSpec) -> Self {
        let PortSpec { published, target, protocol } = port;
        Self { published, target, protocol: protocol.into(), bind: model::Bind::Any, mode: model::PortMode::Kernel }
    }
}

/// What tells a published port from every other of the cluster: `PUBLISHED[/tcp|udp]` as text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortKey {
    /// The port on every node.
    pub published: NonZeroU16,
    /// The protocol.
    #[serde(default)]
    pub protocol: Protocol,
}

impl From<PortSpec> for PortKey {
    fn from(port: PortSpec) -> Self {
        Self { published: port.published, protocol: port.protocol }
    }
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl From<L4> for Protocol {
    fn from(protocol: L4) -> Self {
        match protocol {
            L4::Tcp => Self::Tcp,
            L4::Udp => Self::Udp,
            L4::Sctp => Self::Sctp,
        }
    }
}

impl From<Protocol> for L4 {
    fn from(protocol: Protocol) -> Self {
        match protocol {
            Protocol::Tcp => Self::Tcp,
            Protocol::Udp => Self::Udp,
            Protocol::Sctp => Self::Sctp,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(L4::from(*self).as_str())
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<L4>() {
            Ok(protocol) => Ok(protocol.into()),
            Err(_) => Err(format!("the protocol {text:?} is not supported; tcp, udp and sctp are")),
        }
    }
}

/// `POST /v1/services`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceCreateRequest {
    /// Its name.
    pub name: String,
    /// The name of its network.
    pub network: String,
    /// Its published ports.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
}

/// The answer to [`ServiceCreateRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceCreateReply {
    /// `false` if it was there already, with the same words.
    pub created: bool,
    /// The service.
    pub service: ServiceView,
}

/// `PATCH /v1/services/{service}`. What is not named stays.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceUpdateRequest {
    /// Published ports in place of all that it has.
    #[serde(default)]
    pub ports: Option<Vec<PortSpec>>,
    /// Ports to publish besides, in place of those with the same port and protocol.
    #[serde(default)]
    pub add_ports: Vec<PortSpec>,
    /// Published ports to take away; those that are not there are passed over.
    #[serde(default)]
    pub remove_ports: Vec<PortKey>,
}

impl ServiceUpdateRequest {
    /// The ports of a service that had `ports`: replaced, then taken away from, then added to.
    pub fn apply_to(&self, ports: &[PortSpec]) -> Vec<PortSpec> {
        let replaced_by_added =
            |port: &PortSpec| self.add_ports.iter().any(|added| PortKey::from(*added) == (*port).into());
        let mut ports: Vec<PortSpec> = self.ports.as_deref().unwrap_or(ports).to_vec();
        ports.retain(|port| !self.remove_ports.contains(&(*port).into()) && !replaced_by_added(port));
        ports.extend_from_slice(&self.add_ports);
        ports
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_services_status_follows_from_its_replicas() {
        for (ready, total, status) in [
            (0, 0, ServiceStatus::Empty),
            (0, 3, ServiceStatus::Down),
            (1, 3, ServiceStatus::Degraded),
            (3, 3, ServiceStatus::Ready),
        ] {
            assert_eq!(ServiceStatus::of(ready, total), status);
        }
    }

    #[test]
    fn an_update_replaces_removes_and_adds() {
        let ports = |words: &str| words.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<PortSpec>>();
        let keys = |words: &str| words.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<PortKey>>();
        for (had, replace, add, remove, has) in [
            ("80:8080", None, "", "", "80:8080"),
            ("80:8080", Some(""), "", "", ""),
            ("80:8080", Some("81:81 82:82"), "", "", "81:81 82:82"),
            ("80:8080", None, "53:53/udp", "", "80:8080 53:53/udp"),
            ("80:8080", None, "80:9090", "", "80:9090"),
            ("80:8080 80:53/udp", None, "", "80/udp 99", "80:8080"),
            ("80:8080", None, "80:1", "80", "80:1"),
        ] {
            let request =
                ServiceUpdateRequest { ports: replace.map(ports), add_ports: ports(add), remove_ports: keys(remove) };
            assert_eq!(request.apply_to(&ports(had)), ports(has), "{request:?} to {had}");
        }
    }
}
