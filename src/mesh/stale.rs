//! Which flows in connection tracking lead nowhere. Pure: who forgets them is `agent/flows/forget.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
};

use ipnet::IpNet;

use super::{doors::is_kernels, nodes::addresses_of_nodes};
use crate::model::{Bind, Cluster, Flow, L4, ServiceId};

/// Which of the connections that a kernel tracks lead nowhere, and would go on leading their packets there.
///
/// Translation is decided by a connection's first packet, and UDP has no last one: a client that keeps sending keeps the entry,
/// long after the replica is gone or before there was one. TCP meets the same when a client comes back with the source port of
/// a connection whose replica vanished without a word: the new SYN belongs to the old entry (for five days, by the usual
/// time-out). A draining replica keeps its record and so its connections.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StaleFlows {
    /// The networks' prefixes.
    prefixes: BTreeSet<IpNet>,
    /// The endpoints' addresses, and whose replicas they are.
    endpoints: BTreeMap<IpAddr, Option<ServiceId>>,
    /// The VIPs.
    vips: BTreeMap<IpAddr, ServiceId>,
    /// The ports that the kernel answers, where each does, and the service behind it: several if each answers elsewhere.
    ports: BTreeMap<(L4, u16), BTreeSet<(Bind, ServiceId)>>,
    /// The nodes' addresses, whose published ports a container here asks in vain: it is served here.
    nodes: BTreeSet<IpAddr>,
}

impl StaleFlows {
    /// As a cluster has it.
    pub fn of(cluster: &Cluster) -> Self {
        let mut ports: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for service in cluster.services.values() {
            for port in service.ports.iter().filter(|port| is_kernels(port)) {
                ports.entry((port.protocol, port.published.get())).or_default().insert((port.bind, service.id));
            }
        }
        let services = cluster.services.values();
        Self {
            prefixes: cluster.networks.values().flat_map(|network| &network.subnets).map(|s| s.prefix).collect(),
            endpoints: cluster
                .endpoints
                .values()
                .flat_map(|endpoint| endpoint.addresses.iter().map(|address| (*address, endpoint.service)))
                .collect(),
            vips: services.flat_map(|service| service.vips.iter().map(|vip| (*vip, service.id))).collect(),
            ports,
            nodes: addresses_of_nodes(cluster).into_keys().collect(),
        }
    }

    /// Whether flows that were well before may be stale now: an endpoint has gone, or there is one more way in.
    pub fn may_have_more_than(&self, before: &Self) -> bool {
        before.endpoints.iter().any(|(address, service)| self.endpoints.get(address) != Some(service))
            || self.vips.iter().any(|(vip, service)| before.vips.get(vip) != Some(service))
            || self.ports.iter().any(|(port, services)| before.ports.get(port) != Some(services))
            || !self.nodes.is_subset(&before.nodes)
    }

    /// Whether a connection leads nowhere, on a host with the addresses `local`.
    pub fn contains(&self, flow: &Flow, local: &BTreeSet<IpAddr>) -> bool {
        if flow.is_translated() {
            return self.leads_to_nobody(flow);
        }
        flow.protocol == L4::Udp && self.should_have_been_translated(flow.client.ip(), flow.asked, local)
    }

    /// Translated to an address that nobody has any more, or that somebody else has now.
    fn leads_to_nobody(&self, flow: &Flow) -> bool {
        match self.endpoints.get(&flow.replica.ip()) {
            None => self.is_ours(flow.replica.ip()),
            Some(service) => match self.vips.get(&flow.asked.ip()) {
                Some(vip) => *service != Some(*vip),
                None if self.is_ours(flow.asked.ip()) => false,
                None => {
                    let mut behind = self.published_at(flow.protocol, flow.asked).peekable();
                    // With nobody behind the port, it was by a rule that is not ours.
                    behind.peek().is_some() && behind.all(|(_, behind)| *service != Some(behind))
                }
            },
        }
    }

    /// Begun before its port was published or its VIP given: its packets pass the front door for ever (kubernetes#59368).
    fn should_have_been_translated(&self, client: IpAddr, asked: SocketAddr, local: &BTreeSet<IpAddr>) -> bool {
        if self.vips.contains_key(&asked.ip()) {
            return true;
        }
        // To loopback nothing is translated: those are served by the agent itself.
        let is_local = local.contains(&asked.ip()) && !asked.ip().is_loopback();
        let is_from_here = || local.contains(&client) || self.is_ours(client);
        self.published_at(L4::Udp, asked).any(|(bind, _)| match bind {
            Bind::Any => is_local || (self.nodes.contains(&asked.ip()) && is_from_here()),
            // Who asks from here is served here, whoever has the address.
            Bind::Address(_) => is_local || is_from_here(),
            // By which device it came, the entry does not say: it may be another program's.
            Bind::Device(_) => false,
        })
    }

    /// Where a port that may answer at this destination answers, and the service behind it.
    fn published_at(&self, protocol: L4, asked: SocketAddr) -> impl Iterator<Item = (Bind, ServiceId)> {
        let places = self.ports.get(&(protocol, asked.port())).into_iter().flatten();
        places.copied().filter(move |(bind, _)| match bind {
            Bind::Address(address) => *address == asked.ip(),
            Bind::Any | Bind::Device(_) => true,
        })
    }

    fn is_ours(&self, address: IpAddr) -> bool {
        self.prefixes.iter().any(|prefix| prefix.contains(&address))
    }
}

#[cfg(test)]
mod tests;
