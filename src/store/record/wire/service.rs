//! Services and their published ports.

use std::{net::IpAddr, num::NonZeroU16};

use serde::{Deserialize, Serialize};

use super::{Record, VERSION, network_id, one_per_family, parse_name, service_id};
use crate::model::{L4, PublishedPort, Service};

#[derive(Serialize, Deserialize)]
pub(in super::super) struct ServiceRecord {
    v: u32,
    id: u16,
    name: String,
    network: u16,
    vips: Vec<IpAddr>,
    #[serde(default)]
    ports: Vec<PortRecord>,
}

#[derive(Serialize, Deserialize)]
struct PortRecord {
    published: NonZeroU16,
    target: NonZeroU16,
    protocol: ProtocolWord,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProtocolWord {
    Tcp,
    Udp,
}

impl From<&Service> for ServiceRecord {
    fn from(service: &Service) -> Self {
        let Service { id, name, network, vips, ports } = service;
        let port = |PublishedPort { published, target, protocol }: &PublishedPort| PortRecord {
            published: *published,
            target: *target,
            protocol: match protocol {
                L4::Tcp => ProtocolWord::Tcp,
                L4::Udp => ProtocolWord::Udp,
            },
        };
        Self {
            v: VERSION,
            id: id.get(),
            name: name.to_string(),
            network: network.get(),
            vips: vips.clone(),
            ports: ports.iter().map(port).collect(),
        }
    }
}

impl Record for ServiceRecord {
    type Model = Service;

    const KIND: &'static str = "service";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Service, String> {
        let Self { v: _, id, name, network, vips, ports } = self;
        one_per_family(vips.iter().copied(), "VIPs")?;
        let port = |PortRecord { published, target, protocol }| PublishedPort {
            published,
            target,
            protocol: match protocol {
                ProtocolWord::Tcp => L4::Tcp,
                ProtocolWord::Udp => L4::Udp,
            },
        };
        Ok(Service {
            id: service_id(id)?,
            name: parse_name(&name)?,
            network: network_id(network)?,
            vips,
            ports: ports.into_iter().map(port).collect(),
        })
    }
}
