use std::{net::IpAddr, num::NonZeroU16};

use serde::{Deserialize, Serialize};

use crate::model::{self, Network};

/// What a container's device is called unless somebody says otherwise.
pub const DEFAULT_IFNAME: &str = "eth0";

/// An endpoint: one attached container, process or namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointView {
    /// Its id, 16 hexadecimal digits.
    pub id: String,
    /// Its name, unique in its network.
    pub name: String,
    /// The name of its network.
    pub network: String,
    /// Its addresses, one per family of the network.
    pub addresses: Vec<String>,
    /// The name of its node.
    pub node: String,
    /// The name of the service whose replica it is.
    pub service: Option<String>,
    /// Where it stands.
    pub state: EndpointState,
    /// More names for it.
    pub aliases: Vec<String>,
    /// Its share of its service's connections.
    pub weight: u16,
    /// The name of its device in its namespace.
    pub ifname: String,
    /// The path of its namespace on its node.
    pub netns: String,
    /// The name of its device's other side, in its host's namespace.
    pub link: String,
    /// The MAC of its device.
    pub mac: String,
    /// What the probe said that made it unhealthy; if the node that answers holds it, what the last one said that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
}

impl EndpointView {
    /// Where its programs ask for names: its node answers there, in each family that it has.
    pub fn resolvers(&self) -> Vec<IpAddr> {
        let has = |family: fn(&IpAddr) -> bool| {
            self.addresses.iter().filter_map(|address| address.parse().ok()).any(|address| family(&address))
        };
        let (v4, v6) = (has(IpAddr::is_ipv4), has(IpAddr::is_ipv6));
        let resolvers = [v4.then_some(Network::RESOLVER_V4.into()), v6.then_some(Network::RESOLVER_V6.into())];
        resolvers.into_iter().flatten().collect()
    }
}

/// Where an endpoint stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
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
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        model::EndpointState::from(self).as_str()
    }
}

impl From<model::EndpointState> for EndpointState {
    fn from(state: model::EndpointState) -> Self {
        match state {
            model::EndpointState::Starting => Self::Starting,
            model::EndpointState::Ready => Self::Ready,
            model::EndpointState::Unhealthy => Self::Unhealthy,
            model::EndpointState::Draining => Self::Draining,
        }
    }
}

impl From<EndpointState> for model::EndpointState {
    fn from(state: EndpointState) -> Self {
        match state {
            EndpointState::Starting => Self::Starting,
            EndpointState::Ready => Self::Ready,
            EndpointState::Unhealthy => Self::Unhealthy,
            EndpointState::Draining => Self::Draining,
        }
    }
}

/// `POST /v1/endpoints`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttachRequest {
    /// The namespace.
    pub netns: NetnsTarget,
    /// The name of the network.
    pub network: String,
    /// The endpoint's name; without one, the agent makes one up.
    #[serde(default)]
    pub name: Option<String>,
    /// More names for it.
    #[serde(default)]
    pub aliases: Vec<String>,
    /// The name of the service whose replica it is.
    #[serde(default)]
    pub service: Option<String>,
    /// The address it asks for; without one, the node chooses.
    #[serde(default)]
    pub ip: Option<String>,
    /// The name of its device.
    #[serde(default = "default_ifname")]
    pub ifname: String,
    /// Its share of its service's connections.
    #[serde(default = "default_weight")]
    pub weight: NonZeroU16,
    /// Whether to set `lo` up in the namespace; container runtimes do so themselves.
    #[serde(default)]
    pub loopback_up: bool,
}

/// Which network namespace, as its host's agent finds it: `{"path":"/run/netns/web1"}` or `{"pid":4711}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NetnsTarget {
    /// By a path that leads to it.
    Path(String),
    /// By a process in it.
    Pid(u32),
}

/// The answer to [`AttachRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachReply {
    /// `false` if it was attached already, with the same words.
    pub created: bool,
    /// The endpoint.
    pub endpoint: EndpointView,
}

fn default_ifname() -> String {
    DEFAULT_IFNAME.to_owned()
}

fn default_weight() -> NonZeroU16 {
    NonZeroU16::MIN
}
