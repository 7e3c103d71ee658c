//! Services and their published ports.

use std::{net::IpAddr, num::NonZeroU16, time::Duration};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{Record, VERSION, network_id, one_per_family, parse_name, service_id};
use crate::model::{
    Bind, EndpointMode, HealthCheck, L4, Lb, PortMode, Probe, ProxyMode, ProxyProtocol, PublishedPort, Service,
};

/// What is as usual is left out: most services are.
#[derive(Serialize, Deserialize)]
pub(in super::super) struct ServiceRecord {
    v: u32,
    id: u16,
    name: String,
    network: u16,
    vips: Vec<IpAddr>,
    #[serde(default)]
    ports: Vec<PortRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lb: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    affinity_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint_mode: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    health: Option<HealthRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    drain_ms: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct PortRecord {
    published: NonZeroU16,
    target: NonZeroU16,
    protocol: ProtocolWord,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    proxy: Option<ProxyRecord>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum ProtocolWord {
    Tcp,
    Udp,
    Sctp,
}

#[derive(Serialize, Deserialize)]
struct ProxyRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    send: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    accept_from: Vec<IpNet>,
}

#[derive(Serialize, Deserialize)]
struct HealthRecord {
    /// `tcp`, or an HTTP path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http_path: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http_status: Option<(u16, u16)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    port: Option<NonZeroU16>,
    interval_ms: u64,
    timeout_ms: u64,
    rise: u8,
    fall: u8,
}

impl From<&Service> for ServiceRecord {
    fn from(service: &Service) -> Self {
        let Service { id, name, network, vips, ports, lb, affinity, endpoint_mode, health, drain } = service;
        Self {
            v: VERSION,
            id: id.get(),
            name: name.to_string(),
            network: network.get(),
            vips: vips.clone(),
            ports: ports.iter().map(Into::into).collect(),
            lb: (*lb != Lb::default()).then(|| lb.as_str().to_owned()),
            affinity_ms: affinity.map(milliseconds),
            endpoint_mode: (*endpoint_mode != EndpointMode::default()).then(|| endpoint_mode.as_str().to_owned()),
            health: health.as_ref().map(Into::into),
            drain_ms: (*drain != Service::DRAIN_DEFAULT).then(|| milliseconds(*drain)),
        }
    }
}

impl From<&PublishedPort> for PortRecord {
    fn from(port: &PublishedPort) -> Self {
        let PublishedPort { bind, published, target, protocol, mode } = port;
        let (address, device) = match bind {
            Bind::Any => (None, None),
            Bind::Address(address) => (Some(*address), None),
            Bind::Device(device) => (None, Some(device.to_string())),
        };
        Self {
            published: *published,
            target: *target,
            protocol: match protocol {
                L4::Tcp => ProtocolWord::Tcp,
                L4::Udp => ProtocolWord::Udp,
                L4::Sctp => ProtocolWord::Sctp,
            },
            address,
            device,
            proxy: match mode {
                PortMode::Kernel => None,
                PortMode::Proxy(ProxyMode { send, accept_from }) => Some(ProxyRecord {
                    send: send.map(|version| version.as_str().to_owned()),
                    accept_from: accept_from.clone(),
                }),
            },
        }
    }
}

impl From<&HealthCheck> for HealthRecord {
    fn from(check: &HealthCheck) -> Self {
        let HealthCheck { probe, port, interval, timeout, rise, fall } = check;
        let (http_path, http_status) = match probe {
            Probe::Tcp => (None, None),
            Probe::Http { path, status } => (Some(path.clone()), Some((*status.start(), *status.end()))),
        };
        Self {
            http_path,
            http_status,
            port: *port,
            interval_ms: milliseconds(*interval),
            timeout_ms: milliseconds(*timeout),
            rise: *rise,
            fall: *fall,
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// A time of a record, which somebody else may have written: one that no command accepts shall neither be waited for nor take
/// the service down.
fn at_most(milliseconds: u64, most: Duration) -> Duration {
    Duration::from_millis(milliseconds).min(most)
}

impl Record for ServiceRecord {
    type Model = Service;

    const KIND: &'static str = "service";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Service, String> {
        let Self { v: _, id, name, network, vips, ports, lb, affinity_ms, endpoint_mode, health, drain_ms } = self;
        one_per_family(vips.iter().copied(), "VIPs")?;
        Ok(Service {
            id: service_id(id)?,
            name: parse_name(&name)?,
            network: network_id(network)?,
            vips,
            ports: ports.into_iter().map(PortRecord::into_model).collect::<Result<_, _>>()?,
            lb: lb.map(|word| word.parse()).transpose()?.unwrap_or_default(),
            affinity: affinity_ms.map(|affinity| at_most(affinity, Service::AFFINITY_MAX)),
            endpoint_mode: endpoint_mode.map(|word| word.parse()).transpose()?.unwrap_or_default(),
            health: health.map(HealthRecord::into_model).transpose()?,
            drain: drain_ms.map_or(Service::DRAIN_DEFAULT, |drain| at_most(drain, Service::DRAIN_MAX)),
        })
    }
}

impl PortRecord {
    fn into_model(self) -> Result<PublishedPort, String> {
        let Self { published, target, protocol, address, device, proxy } = self;
        Ok(PublishedPort {
            bind: match (address, device) {
                (None, None) => Bind::Any,
                (Some(address), None) => Bind::Address(address),
                (None, Some(device)) => Bind::Device(device.parse()?),
                (Some(_), Some(_)) => {
                    return Err(format!(
                        "its port {published} is bound to an address and to a device: keep one of them"
                    ));
                }
            },
            published,
            target,
            protocol: match protocol {
                ProtocolWord::Tcp => L4::Tcp,
                ProtocolWord::Udp => L4::Udp,
                ProtocolWord::Sctp => L4::Sctp,
            },
            mode: match proxy {
                None => PortMode::Kernel,
                Some(ProxyRecord { send, accept_from }) => PortMode::Proxy(ProxyMode {
                    send: send.map(|word| word.parse::<ProxyProtocol>()).transpose()?,
                    accept_from,
                }),
            },
        })
    }
}

impl HealthRecord {
    fn into_model(self) -> Result<HealthCheck, String> {
        let Self { http_path, http_status, port, interval_ms, timeout_ms, rise, fall } = self;
        let (first, last) = http_status.unwrap_or((*Probe::STATUS_DEFAULT.start(), *Probe::STATUS_DEFAULT.end()));
        if first > last || interval_ms == 0 || timeout_ms == 0 || rise == 0 || fall == 0 {
            return Err(
                "its health check cannot be carried out: a time or a count is 0, or a range is empty".to_owned()
            );
        }
        Ok(HealthCheck {
            probe: http_path.map_or(Probe::Tcp, |path| Probe::Http { path, status: first..=last }),
            port,
            interval: at_most(interval_ms, HealthCheck::INTERVAL_MAX),
            timeout: at_most(timeout_ms, HealthCheck::TIMEOUT_MAX),
            rise,
            fall,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_others_records_are_bounded() {
        let service = |milliseconds: u64| {
            let text = format!(
                r#"{{"v":1,"id":1,"name":"web","network":1,"vips":[],"affinity_ms":{milliseconds},"drain_ms":{milliseconds},
                "health":{{"interval_ms":{milliseconds},"timeout_ms":{milliseconds},"rise":1,"fall":1}}}}"#
            );
            serde_json::from_str::<ServiceRecord>(&text).unwrap().into_model().unwrap()
        };
        let times = |service: &Service| {
            let health = service.health.as_ref().unwrap();
            (service.affinity.unwrap(), service.drain, health.interval, health.timeout)
        };
        let second = Duration::from_secs(1);
        assert_eq!(times(&service(1000)), (second, second, second, second));
        let most = (Service::AFFINITY_MAX, Service::DRAIN_MAX, HealthCheck::INTERVAL_MAX, HealthCheck::TIMEOUT_MAX);
        assert_eq!(times(&service(u64::MAX)), most);
    }
}
