use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use super::balancing;
use crate::model::{Cluster, EndpointId, Flow, Judgement, L4, NodeId, ServiceId};

use super::Balancing;

/// By which of a service's entrances a connection came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Via {
    /// One of its VIPs.
    Vip,
    /// A published port.
    Port(L4, u16),
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vip => f.write_str("vip"),
            Self::Port(protocol, published) => write!(f, "{published}/{protocol}"),
        }
    }
}

/// What a connection that this node spread was: whom it asked for and who got it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Spread {
    /// The service.
    pub service: ServiceId,
    /// Its entrance.
    pub via: Via,
    /// The replica.
    pub replica: EndpointId,
}

/// Services and replicas by address, to tell what a connection is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Roster {
    replicas: BTreeMap<IpAddr, (EndpointId, ServiceId)>,
    vips: BTreeMap<IpAddr, ServiceId>,
    ports: BTreeSet<(ServiceId, L4, u16)>,
}

impl Roster {
    /// As a cluster has it.
    pub fn of(cluster: &Cluster) -> Self {
        let endpoints = cluster.endpoints.values();
        let services = cluster.services.values();
        Self {
            replicas: endpoints
                .filter_map(|endpoint| Some((endpoint, endpoint.service?)))
                .flat_map(|(endpoint, service)| endpoint.addresses.iter().map(move |a| (*a, (endpoint.id, service))))
                .collect(),
            vips: services.clone().flat_map(|service| service.vips.iter().map(|vip| (*vip, service.id))).collect(),
            ports: services
                .flat_map(|s| s.ports.iter().map(|port| (s.id, port.protocol, port.published.get())))
                .collect(),
        }
    }

    /// What a connection is; nothing if this node did not translate it for a service.
    pub fn spread(&self, flow: &Flow) -> Option<Spread> {
        if !flow.is_translated() {
            return None;
        }
        let (replica, service) = *self.replicas.get(&flow.replica.ip())?;
        let via = match self.vips.get(&flow.asked.ip()) {
            Some(owner) if *owner == service => Via::Vip,
            Some(_) => return None,
            None => {
                let published = flow.asked.port();
                self.ports.get(&(service, flow.protocol, published))?;
                Via::Port(flow.protocol, published)
            }
        };
        Some(Spread { service, via, replica })
    }

    /// Whether a replica is still in it.
    pub fn replicas(&self) -> BTreeSet<EndpointId> {
        self.replicas.values().map(|(replica, _)| *replica).collect()
    }
}

/// Who takes connections from this node, or would but for an ejection: in doubt for no other reason. By service.
pub fn candidates(cluster: &Cluster, silent: &BTreeSet<NodeId>) -> BTreeMap<ServiceId, BTreeSet<EndpointId>> {
    let judgement = Judgement { silent: silent.clone(), ejected: BTreeSet::new() };
    let of = |service| {
        let verdicts = balancing(cluster, service, &judgement);
        verdicts.into_iter().filter(|(_, verdict)| *verdict == Balancing::Balanced).map(|(id, _)| id).collect()
    };
    cluster.services.keys().map(|service| (*service, of(*service))).collect()
}
