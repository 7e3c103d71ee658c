use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::Arc,
};

use ipnet::IpNet;

use crate::{
    mesh,
    model::{Cluster, Endpoint, EndpointId, EndpointState, Judgement, Name, NetworkId, NodeId, Service, ServiceId},
};

/// A cluster with the indexes that answers need, as one node sees it. It is immutable: a change makes a new one.
///
/// Building walks each endpoint a few times and nothing twice over, so that it costs in proportion to the cluster: some 0.1 s for
/// 10,000 services with 10 replicas each.
#[derive(Debug)]
pub struct Zone {
    pub(super) cluster: Arc<Cluster>,
    networks: HashMap<NetworkId, Names>,
    network_ids: HashMap<Box<str>, NetworkId>,
    balanced: HashMap<ServiceId, Vec<EndpointId>>,
    owners: HashMap<IpAddr, Owner>,
    askers: HashMap<IpAddr, Arc<Asker>>,
    prefixes: Vec<(IpNet, NetworkId)>,
}

/// Who asks.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Asker {
    /// The networks of its namespace, in the order of their numbers.
    pub(super) networks: Vec<NetworkId>,
    /// Whether it has a way out of the cluster at all: one of its networks is not internal.
    pub(super) has_way_out: bool,
}

/// Whose an address is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Owner {
    Endpoint(EndpointId),
    Vip(ServiceId),
}

/// The names of one network.
#[derive(Debug, Default)]
struct Names {
    services: HashMap<Box<str>, ServiceId>,
    endpoints: HashMap<Box<str>, Vec<EndpointId>>,
    aliases: HashMap<Box<str>, Vec<EndpointId>>,
}

/// What a plain name in a network stands for.
pub(super) enum Host<'a> {
    Service(&'a Service),
    /// Its endpoints, if any of them can be told.
    Endpoints(&'a [EndpointId]),
}

impl Zone {
    /// The zone of a cluster at the node `me`.
    pub fn build(cluster: Arc<Cluster>, me: NodeId, judgement: &Judgement) -> Self {
        let mut networks: HashMap<NetworkId, Names> =
            cluster.networks.keys().map(|id| (*id, Names::default())).collect();
        let mut owners = HashMap::with_capacity(cluster.endpoints.len() + cluster.services.len());
        for service in cluster.services.values() {
            if let Some(names) = networks.get_mut(&service.network) {
                names.services.insert(boxed(&service.name), service.id);
            }
            owners.extend(service.vips.iter().map(|vip| (*vip, Owner::Vip(service.id))));
        }
        let mut replicas: HashMap<ServiceId, Vec<&Endpoint>> = HashMap::with_capacity(cluster.services.len());
        let mut holders: HashMap<(NetworkId, &Name), Vec<&Endpoint>> = HashMap::new();
        for endpoint in cluster.endpoints.values() {
            if let Some(service) = endpoint.service {
                replicas.entry(service).or_default().push(endpoint);
            }
            // Once each, lest a replica be named twice in one answer.
            for alias in endpoint.aliases.iter().collect::<BTreeSet<_>>() {
                holders.entry((endpoint.network, alias)).or_default().push(endpoint);
            }
            if endpoint.state == EndpointState::Starting {
                continue;
            }
            if let Some(names) = networks.get_mut(&endpoint.network) {
                names.endpoints.entry(boxed(&endpoint.name)).or_default().push(endpoint.id);
            }
            owners.extend(endpoint.addresses.iter().map(|address| (*address, Owner::Endpoint(endpoint.id))));
        }
        let takers = |group: &[&Endpoint]| -> Vec<EndpointId> {
            let verdicts = mesh::balancing_among(&cluster, group.iter().copied(), judgement);
            verdicts.into_iter().filter(|(_, verdict)| verdict.takes_connections()).map(|(id, _)| id).collect()
        };
        let balanced = replicas.iter().map(|(service, group)| (*service, takers(group))).collect();
        for ((network, alias), group) in &holders {
            if let Some(names) = networks.get_mut(network) {
                names.aliases.insert(boxed(alias), takers(group));
            }
        }
        let askers = askers(&cluster, me);
        let network_ids = cluster.networks.values().map(|network| (boxed(&network.name), network.id)).collect();
        let prefixes = cluster
            .networks
            .values()
            .flat_map(|network| network.subnets.iter().map(|subnet| (subnet.prefix, network.id)))
            .collect();
        Self { cluster, networks, network_ids, balanced, owners, askers, prefixes }
    }

    /// The store's revision that it was built from.
    pub fn revision(&self) -> u64 {
        self.cluster.revision
    }

    /// Whether a namespace on this node has the address.
    pub fn knows(&self, address: IpAddr) -> bool {
        self.askers.contains_key(&address)
    }

    pub(super) fn asker(&self, address: IpAddr) -> Option<&Asker> {
        self.askers.get(&address).map(|asker| &**asker)
    }

    pub(super) fn network_named(&self, label: &str) -> Option<NetworkId> {
        self.network_ids.get(label).copied()
    }

    pub(super) fn service(&self, network: NetworkId, label: &str) -> Option<&Service> {
        let id = self.networks.get(&network)?.services.get(label)?;
        self.cluster.services.get(id)
    }

    pub(super) fn host(&self, network: NetworkId, label: &str) -> Option<Host<'_>> {
        if let Some(service) = self.service(network, label) {
            return Some(Host::Service(service));
        }
        let names = self.networks.get(&network)?;
        names.endpoints.get(label).or_else(|| names.aliases.get(label)).map(|ids| Host::Endpoints(ids))
    }

    /// The replicas of a service that take connections.
    pub(super) fn balanced(&self, service: ServiceId) -> &[EndpointId] {
        self.balanced.get(&service).map_or(&[], Vec::as_slice)
    }

    pub(super) fn owner(&self, address: IpAddr) -> Option<Owner> {
        self.owners.get(&address).copied()
    }

    /// The prefix of ours that holds all of `part`, which may be a single address.
    pub(super) fn prefix_around(&self, part: &IpNet) -> Option<(IpNet, NetworkId)> {
        self.prefixes.iter().find(|(prefix, _)| prefix.contains(part)).copied()
    }
}

/// Everybody on this node who may ask, by address. Namespaces in several networks have the names of all of them, whichever
/// address they ask from.
fn askers(cluster: &Cluster, me: NodeId) -> HashMap<IpAddr, Arc<Asker>> {
    let mut namespaces: HashMap<u64, (BTreeSet<NetworkId>, Vec<IpAddr>)> = HashMap::new();
    for endpoint in cluster.endpoints_on(me) {
        let (networks, addresses) = namespaces.entry(endpoint.netns.inode).or_default();
        networks.insert(endpoint.network);
        addresses.extend(&endpoint.addresses);
    }
    let mut askers = HashMap::new();
    for (networks, addresses) in namespaces.into_values() {
        let has_way_out = networks.iter().any(|id| cluster.networks.get(id).is_some_and(|network| !network.internal));
        let asker = Arc::new(Asker { networks: networks.into_iter().collect(), has_way_out });
        askers.extend(addresses.into_iter().map(|address| (address, Arc::clone(&asker))));
    }
    askers
}

fn boxed(name: &Name) -> Box<str> {
    name.as_str().into()
}
