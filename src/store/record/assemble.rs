//! One cluster of many records. It depends on what the records say alone, not on the order in which they came: where two
//! objects cannot both be, the one with the lower number stays, and the other one is disabled and named.

use std::{collections::BTreeMap, net::IpAddr, num::NonZeroU16, sync::Arc};

use ipnet::IpNet;

use super::{
    CLUSTER_KEY, RecordError,
    key::Key,
    state::{Held, State},
};
use crate::model::{
    Availability, Block, Cluster, ClusterSettings, Draining, Endpoint, EndpointId, EndpointState, Name, Network,
    NetworkId, Node, NodeId, PublishedPort, Report, Service, ServiceId, UnreadableRecord,
};

/// The cluster in a state.
pub(super) fn assemble(state: &State) -> Result<Cluster, RecordError> {
    let settings = match &state.cluster {
        None => return Err(RecordError::NotInitialised),
        Some(Held { content: Ok(settings), .. }) => settings,
        Some(Held { content: Err(reason), .. }) => {
            return Err(RecordError::Unreadable(UnreadableRecord {
                key: CLUSTER_KEY.to_owned(),
                reason: reason.clone(),
            }));
        }
    };
    let mut builder = Builder::new(settings.clone());
    builder.cluster.revision = state.revision.0;
    for (key, misplaced) in &state.misplaced {
        builder.cluster.unreadable.push(UnreadableRecord { key: key.clone(), reason: misplaced.reason.clone() });
    }
    if let Some(Held { content: Err(reason), .. }) = &state.generation {
        builder.refuse(Key::Generation, reason.clone());
    }
    // In the order of dependence: whoever rests on something refused is refused as well.
    builder.nodes(&state.nodes);
    builder.alive(&state.alive, &state.nodes);
    builder.reports(&state.reports);
    builder.trust(state);
    builder.networks(&state.networks);
    builder.blocks(&state.blocks);
    builder.services(&state.services);
    builder.endpoints(&state.endpoints);
    builder.drains(state);
    let mut cluster = builder.cluster;
    cluster.unreadable.sort_by(|left, right| left.key.cmp(&right.key));
    Ok(cluster)
}

struct Builder {
    cluster: Cluster,
}

impl Builder {
    fn new(settings: ClusterSettings) -> Self {
        Self { cluster: Cluster::empty(settings) }
    }

    fn refuse(&mut self, key: Key, reason: String) {
        self.cluster.unreadable.push(UnreadableRecord { key: key.to_text(), reason });
    }

    fn nodes(&mut self, nodes: &BTreeMap<NodeId, Held<Node>>) {
        let mut names: BTreeMap<&Name, NodeId> = BTreeMap::new();
        for (id, held) in nodes {
            let accepted = held.content.as_ref().map_err(Clone::clone).and_then(|node| {
                check_key(*id == node.id, || Key::Node(node.id))?;
                claim(&mut names, &node.name, *id, || format!("the name {}", node.name))?;
                Ok(node)
            });
            match accepted {
                Ok(node) => _ = self.cluster.nodes.insert(*id, node.clone()),
                Err(reason) => self.refuse(Key::Node(*id), reason),
            }
        }
    }

    /// That the key is there is the fact, for it is there as long as the lease; the name in it only tells people. Were an
    /// unreadable name to count as death, an upgraded node would be out of balancing on all that are not upgraded yet.
    fn alive(&mut self, alive: &BTreeMap<NodeId, Held<Name>>, nodes: &BTreeMap<NodeId, Held<Node>>) {
        for (id, held) in alive {
            let Some(node) = self.cluster.nodes.get(id) else {
                // The lease of a node that has been removed runs out soon. One whose record cannot be used lives.
                if nodes.contains_key(id) {
                    self.cluster.alive.insert(*id);
                }
                continue;
            };
            match &held.content {
                Ok(name) if *name == node.name => _ = self.cluster.alive.insert(*id),
                Ok(name) => {
                    let mend = format!("stop the agent of {name}, or remove that node");
                    let reason = format!("node {id} is {}, but {name} lives under this number: {mend}", node.name);
                    self.refuse(Key::Alive(*id), reason);
                }
                Err(reason) => {
                    self.cluster.alive.insert(*id);
                    self.refuse(Key::Alive(*id), reason.clone());
                }
            }
        }
    }

    /// Only of nodes that live: a report goes with the lease, but not in the same instant.
    fn reports(&mut self, reports: &BTreeMap<NodeId, Held<Report>>) {
        for (id, held) in reports {
            match &held.content {
                Ok(report) if self.cluster.alive.contains(id) => _ = self.cluster.reports.insert(*id, report.clone()),
                Ok(_) => {}
                Err(reason) => self.refuse(Key::Report(*id), reason.clone()),
            }
        }
    }

    /// As with leases, the key of an admission is the fact, and the name in it only tells people.
    fn trust(&mut self, state: &State) {
        match &state.token {
            Some(Held { content: Ok(token), .. }) => self.cluster.trust.token = Some(token.clone()),
            Some(Held { content: Err(reason), .. }) => self.refuse(Key::Token, reason.clone()),
            None => {}
        }
        for (fingerprint, held) in &state.admitted {
            self.cluster.trust.admitted.insert(*fingerprint);
            if let Err(reason) = &held.content {
                self.refuse(Key::Admitted(*fingerprint), reason.clone());
            }
        }
    }

    fn networks(&mut self, networks: &BTreeMap<NetworkId, Held<Network>>) {
        let mut names: BTreeMap<&Name, NetworkId> = BTreeMap::new();
        let mut prefixes = Prefixes::default();
        for (id, held) in networks {
            let accepted = held.content.as_ref().map_err(Clone::clone).and_then(|network| {
                check_key(*id == network.id, || Key::Network(network.id))?;
                for subnet in &network.subnets {
                    if let Some((other, owner)) = prefixes.meets(subnet.prefix) {
                        return Err(format!(
                            "its prefix {} overlaps with {other} of network {owner}: remove one of the two networks",
                            subnet.prefix
                        ));
                    }
                }
                claim(&mut names, &network.name, *id, || format!("the name {}", network.name))?;
                Ok(network)
            });
            match accepted {
                Ok(network) => {
                    network.subnets.iter().for_each(|subnet| prefixes.insert(subnet.prefix, *id));
                    self.cluster.networks.insert(*id, network.clone());
                }
                Err(reason) => self.refuse(Key::Network(*id), reason),
            }
        }
    }

    fn blocks(&mut self, blocks: &BTreeMap<(NetworkId, IpNet), Held<Block>>) {
        for ((network_id, prefix), held) in blocks {
            let accepted = held.content.as_ref().map_err(Clone::clone).and_then(|block| {
                check_key((*network_id, *prefix) == (block.network, block.prefix), || {
                    Key::Block(block.network, block.prefix)
                })?;
                check_block(block, self.network(*network_id)?)?;
                Ok(*block)
            });
            match accepted {
                Ok(block) => _ = self.cluster.blocks.insert(*prefix, block),
                Err(reason) => self.refuse(Key::Block(*network_id, *prefix), reason),
            }
        }
    }

    fn services(&mut self, services: &BTreeMap<ServiceId, Held<Service>>) {
        let mut names: BTreeMap<&Name, ServiceId> = BTreeMap::new();
        let mut vips: BTreeMap<IpAddr, ServiceId> = BTreeMap::new();
        let mut ports = Ports::default();
        for (id, held) in services {
            let accepted = held.content.as_ref().map_err(Clone::clone).and_then(|service| {
                check_key(*id == service.id, || Key::Service(service.id))?;
                let network = self.network(service.network)?;
                if let Some(vip) = service.vips.iter().find(|vip| !network.contains(**vip)) {
                    return Err(outside(*vip, network));
                }
                // Everything is free before anything is taken, so that a refused service takes nothing.
                check_free(&names, &&service.name, || format!("the name {}", service.name))?;
                for vip in &service.vips {
                    check_free(&vips, vip, || format!("the VIP {vip}"))?;
                }
                for (index, port) in service.ports.iter().enumerate() {
                    let what = || format!("the published port {}/{}", port.published, port.protocol);
                    if let Some(owner) = ports.meets(port) {
                        return Err(format!(
                            "{} is already that of {owner:?}: change or remove one of the two",
                            what()
                        ));
                    }
                    if service.ports.iter().take(index).any(|own| own.conflicts_with(port)) {
                        return Err(format!("it has {} twice: remove one of them", what()));
                    }
                }
                Ok(service)
            });
            match accepted {
                Ok(service) => {
                    names.insert(&service.name, *id);
                    vips.extend(service.vips.iter().map(|vip| (*vip, *id)));
                    ports.insert(service);
                    self.cluster.services.insert(*id, service.clone());
                }
                Err(reason) => self.refuse(Key::Service(*id), reason),
            }
        }
    }

    fn endpoints(&mut self, endpoints: &BTreeMap<(NetworkId, IpAddr), Held<Arc<Endpoint>>>) {
        let mut accepted: Vec<(EndpointId, Key, &Endpoint)> = Vec::with_capacity(endpoints.len());
        for ((network_id, address), held) in endpoints {
            let key = Key::Endpoint(*network_id, *address);
            let checked = held.content.as_ref().map_err(Clone::clone).and_then(|endpoint| {
                let is_its_key = *network_id == endpoint.network && endpoint.addresses.contains(address);
                let first = endpoint.addresses.first().copied().unwrap_or(*address);
                check_key(is_its_key, || Key::Endpoint(endpoint.network, first))?;
                let network = self.network(*network_id)?;
                if let Some(address) = endpoint.addresses.iter().find(|address| !network.contains(**address)) {
                    return Err(outside(*address, network));
                }
                check_twin(endpoint, *address, endpoints)?;
                Ok((endpoint, first))
            });
            match checked {
                Ok((endpoint, first)) if first == *address => accepted.push((endpoint.id, key, endpoint)),
                // The twin of a record that has been taken.
                Ok(_) => {}
                Err(reason) => self.refuse(key, reason),
            }
        }
        // The sort is stable: of two with one id the lower address stays.
        accepted.sort_by_key(|(id, _, _)| *id);
        let mut duplicates = Vec::new();
        accepted.dedup_by(|(id, key, _), (kept_id, kept_key, _)| {
            let is_duplicate = id == kept_id;
            if is_duplicate {
                duplicates.push((*key, *kept_key));
            }
            is_duplicate
        });
        for (key, kept) in duplicates {
            self.refuse(key, format!("its id is also the one of {}: detach and attach it again", kept.to_text()));
        }
        self.cluster.endpoints = accepted.into_iter().map(|(id, _, endpoint)| (id, endpoint.clone())).collect();
    }

    /// An endpoint without a service is in no balancing that it could be taken out of.
    fn drains(&mut self, state: &State) {
        let nodes = self.cluster.nodes.values().filter(|node| node.availability == Availability::Drain);
        let nodes = nodes.filter_map(|node| Some((Draining::Node(node.id), state.nodes.get(&node.id)?.version.0)));
        let replicas = self.cluster.endpoints.values();
        let replicas = replicas
            .filter(|endpoint| endpoint.service.is_some() && endpoint.state == EndpointState::Draining)
            .filter_map(|endpoint| {
                let of_address = |address: &IpAddr| Some(state.endpoints.get(&(endpoint.network, *address))?.version.0);
                let version = endpoint.addresses.iter().filter_map(of_address).max()?;
                Some((Draining::Endpoint(endpoint.id), version))
            });
        self.cluster.drains = nodes.chain(replicas).collect();
    }

    fn network(&self, id: NetworkId) -> Result<&Network, String> {
        self.cluster.networks.get(&id).ok_or_else(|| {
            format!("its network {id} is not there or cannot be read: put that record right, or delete this key")
        })
    }
}

/// The published ports of the accepted services.
#[derive(Default)]
pub(super) struct Ports {
    by_number: BTreeMap<NonZeroU16, Vec<(PublishedPort, ServiceId)>>,
}

impl Ports {
    /// Whose port is in conflict with `port`.
    pub(super) fn meets(&self, port: &PublishedPort) -> Option<ServiceId> {
        let mut others = self.by_number.get(&port.published)?.iter();
        others.find(|(other, _)| other.conflicts_with(port)).map(|(_, owner)| *owner)
    }

    pub(super) fn insert(&mut self, service: &Service) {
        for port in &service.ports {
            self.by_number.entry(port.published).or_default().push((port.clone(), service.id));
        }
    }
}

/// The prefixes of the accepted networks. They do not overlap, so that they are ordered by their ends as by their starts.
#[derive(Default)]
pub(super) struct Prefixes {
    by_start: BTreeMap<IpAddr, (IpNet, NetworkId)>,
}

impl Prefixes {
    /// One that overlaps with `prefix`, and whose it is. If any does, then the last one that starts before its end does.
    pub(super) fn meets(&self, prefix: IpNet) -> Option<(IpNet, NetworkId)> {
        let (_, found) = self.by_start.range(..=prefix.broadcast()).next_back()?;
        (found.0.broadcast() >= prefix.network()).then_some(*found)
    }

    pub(super) fn insert(&mut self, prefix: IpNet, owner: NetworkId) {
        self.by_start.insert(prefix.network(), (prefix, owner));
    }
}

fn check_key(is_its_key: bool, right_key: impl Fn() -> Key) -> Result<(), String> {
    if is_its_key {
        return Ok(());
    }
    Err(format!("its content belongs under {}: move it there, or delete this key", right_key().to_text()))
}

/// Blocks of one length inside one prefix either are the same one, which has one key, or do not overlap.
pub(super) fn check_block(block: &Block, network: &Network) -> Result<(), String> {
    let prefix = block.prefix;
    let Some(subnet) = network.subnets.iter().find(|subnet| subnet.prefix.contains(&prefix)) else {
        return Err(format!("{prefix} lies outside of network {}: delete this key", network.id));
    };
    if prefix.prefix_len() != subnet.block_len {
        return Err(format!(
            "{prefix} overlaps with other blocks, for network {} is cut into blocks of /{}: delete this key",
            network.id, subnet.block_len
        ));
    }
    let vips = subnet.vip_range();
    if vips.contains(&prefix) || prefix.contains(&vips) {
        return Err(format!(
            "{prefix} overlaps with {vips}, where network {} has its VIPs: delete this key",
            network.id
        ));
    }
    Ok(())
}

/// An endpoint with two addresses has them only if the same record lies under both: otherwise one of them may be somebody else's.
fn check_twin(
    endpoint: &Arc<Endpoint>,
    address: IpAddr,
    endpoints: &BTreeMap<(NetworkId, IpAddr), Held<Arc<Endpoint>>>,
) -> Result<(), String> {
    for other in endpoint.addresses.iter().filter(|other| **other != address) {
        let twin = endpoints.get(&(endpoint.network, *other)).map(|held| &held.content);
        let fault = match twin {
            Some(Ok(twin)) if twin == endpoint => continue,
            Some(Ok(_)) => "is another one",
            Some(Err(_)) => "cannot be read",
            None => "is missing",
        };
        let twin_key = Key::Endpoint(endpoint.network, *other).to_text();
        return Err(format!("its twin {twin_key} {fault}: detach and attach endpoint {} again", endpoint.id));
    }
    Ok(())
}

fn check_free<K: Ord, I: std::fmt::Debug>(
    taken: &BTreeMap<K, I>,
    key: &K,
    what: impl Fn() -> String,
) -> Result<(), String> {
    match taken.get(key) {
        None => Ok(()),
        Some(owner) => Err(format!("{} is already that of {owner:?}: change or remove one of the two", what())),
    }
}

fn claim<K: Ord, I: std::fmt::Debug>(
    taken: &mut BTreeMap<K, I>,
    key: K,
    owner: I,
    what: impl Fn() -> String,
) -> Result<(), String> {
    check_free(taken, &key, what)?;
    taken.insert(key, owner);
    Ok(())
}

fn outside(address: IpAddr, network: &Network) -> String {
    format!("{address} lies outside of network {}: delete this key and create the object again", network.id)
}
