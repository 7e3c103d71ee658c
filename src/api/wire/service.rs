use serde::{Deserialize, Serialize};

use super::{
    Affinity, EndpointMode, EndpointState, HealthRequest, HealthView, Lb, PortKey, PortSpec, ReplicaTraffic,
    ServiceTraffic, Span, port::changed_ports,
};

/// A service.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its number in the cluster.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// The name of its network.
    pub network: String,
    /// Its virtual addresses, one per family of the network; none if its name stands for its replicas' own.
    pub vips: Vec<String>,
    /// Its published ports.
    pub ports: Vec<PortSpec>,
    /// How new connections are spread.
    pub lb: Lb,
    /// How long a client stays with the replica that it came to.
    pub affinity: Affinity,
    /// What its name stands for.
    pub endpoint_mode: EndpointMode,
    /// How its replicas are probed; without it one is ready as soon as it is attached.
    pub health: Option<HealthView>,
    /// How long a draining replica's connections may take to finish.
    pub drain: Span,
    /// How many of its replicas take new connections.
    pub replicas_ready: u32,
    /// How many replicas it has.
    pub replicas_total: u32,
    /// How it is, by these two numbers.
    pub status: ServiceStatus,
    /// What has entered it at the node that answers; only where one service is asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<ServiceTraffic>,
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
    /// The first of its addresses.
    pub address: String,
    /// Its addresses, one per family of the network.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Where it stands.
    pub state: EndpointState,
    /// Its share of the service's connections.
    pub weight: u16,
    /// Whether it takes new connections.
    pub balanced: bool,
    /// Why it does not.
    pub reason: Option<String>,
    /// What it got from the node that answers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic: Option<ReplicaTraffic>,
}

/// `POST /v1/services`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceCreateRequest {
    /// Its name.
    pub name: String,
    /// The name of its network.
    pub network: String,
    /// Its published ports.
    #[serde(default)]
    pub ports: Vec<PortSpec>,
    /// How new connections are spread.
    #[serde(default)]
    pub lb: Lb,
    /// How long a client stays with the replica that it came to.
    #[serde(default)]
    pub affinity: Affinity,
    /// What its name stands for.
    #[serde(default)]
    pub endpoint_mode: EndpointMode,
    /// How its replicas are probed.
    #[serde(default)]
    pub health: HealthRequest,
    /// How long a draining replica's connections may take to finish [default: 10s].
    #[serde(default)]
    pub drain: Option<Span>,
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
    /// Ports to publish besides, in place of those that answer at the same place.
    #[serde(default)]
    pub add_ports: Vec<PortSpec>,
    /// Published ports to take away.
    #[serde(default)]
    pub remove_ports: Vec<PortKey>,
    /// How new connections are spread.
    #[serde(default)]
    pub lb: Option<Lb>,
    /// How long a client stays with the replica that it came to.
    #[serde(default)]
    pub affinity: Option<Affinity>,
    /// What its name stands for.
    #[serde(default)]
    pub endpoint_mode: Option<EndpointMode>,
    /// How its replicas are probed.
    #[serde(default)]
    pub health: HealthRequest,
    /// How long a draining replica's connections may take to finish.
    #[serde(default)]
    pub drain: Option<Span>,
}

impl ServiceUpdateRequest {
    /// The ports of a service that had `ports`: replaced, then taken away from, then added to.
    pub fn apply_to(&self, ports: &[PortSpec]) -> Vec<PortSpec> {
        changed_ports(ports, self.ports.as_deref(), &self.remove_ports, &self.add_ports)
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
}
