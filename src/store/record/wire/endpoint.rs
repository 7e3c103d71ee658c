//! Endpoints.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use super::{Record, VERSION, network_id, node_id, one_per_family, parse_name, service_id};
use crate::model::{Endpoint, EndpointState, Fault, NetnsRef, ServiceId};

#[derive(Serialize, Deserialize)]
pub(in super::super) struct EndpointRecord {
    v: u32,
    id: String,
    network: u16,
    addresses: Vec<IpAddr>,
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    node: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    service: Option<u16>,
    state: StateWord,
    #[serde(default = "default_weight")]
    weight: u16,
    netns: NetnsRecord,
    ifname: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fault: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum StateWord {
    Starting,
    Ready,
    Unhealthy,
    Draining,
}

#[derive(Serialize, Deserialize)]
struct NetnsRecord {
    path: String,
    inode: u64,
}

fn default_weight() -> u16 {
    1
}

impl From<&Endpoint> for EndpointRecord {
    fn from(endpoint: &Endpoint) -> Self {
        let Endpoint { id, network, addresses, name, aliases, node, service, state, weight, netns, ifname, fault } =
            endpoint;
        Self {
            v: VERSION,
            id: id.to_string(),
            network: network.get(),
            addresses: addresses.clone(),
            name: name.to_string(),
            aliases: aliases.iter().map(ToString::to_string).collect(),
            node: node.get(),
            service: service.map(ServiceId::get),
            state: match state {
                EndpointState::Starting => StateWord::Starting,
                EndpointState::Ready => StateWord::Ready,
                EndpointState::Unhealthy => StateWord::Unhealthy,
                EndpointState::Draining => StateWord::Draining,
            },
            weight: *weight,
            netns: NetnsRecord { path: netns.path.clone(), inode: netns.inode },
            ifname: ifname.clone(),
            fault: fault.as_ref().map(ToString::to_string),
        }
    }
}

impl Record for EndpointRecord {
    type Model = Endpoint;

    const KIND: &'static str = "endpoint";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Endpoint, String> {
        let Self { v: _, id, network, addresses, name, aliases, node, service, state, weight, netns, ifname, fault } =
            self;
        if addresses.is_empty() {
            return Err("it has no address".to_owned());
        }
        one_per_family(addresses.iter().copied(), "addresses")?;
        // These words end up in a link's alias, between spaces.
        let NetnsRecord { path, inode } = netns;
        if path.is_empty() || path.len() > NetnsRef::PATH_LEN_MAX || path.contains(char::is_whitespace) {
            return Err(format!(
                "{path:?} is not a path of a network namespace of 1 to {} bytes",
                NetnsRef::PATH_LEN_MAX
            ));
        }
        if !is_device_name(&ifname) {
            return Err(format!("{ifname:?} is not a device's name"));
        }
        Ok(Endpoint {
            id: id.parse()?,
            network: network_id(network)?,
            addresses,
            name: parse_name(&name)?,
            aliases: aliases.iter().map(|alias| parse_name(alias)).collect::<Result<_, _>>()?,
            node: node_id(node)?,
            service: service.map(service_id).transpose()?,
            state: match state {
                StateWord::Starting => EndpointState::Starting,
                StateWord::Ready => EndpointState::Ready,
                StateWord::Unhealthy => EndpointState::Unhealthy,
                StateWord::Draining => EndpointState::Draining,
            },
            weight,
            netns: NetnsRef { path, inode },
            ifname,
            fault: fault.as_deref().map(Fault::new),
        })
    }
}

/// What the kernel takes for a device's name (`dev_valid_name` in net/core/dev.c).
fn is_device_name(name: &str) -> bool {
    let permitted = |letter: char| !letter.is_whitespace() && letter != '/' && letter != ':';
    (1..=15).contains(&name.len()) && name != "." && name != ".." && name.chars().all(permitted)
}
