//! The decoded records, kept up to date.

use std::{collections::BTreeMap, net::IpAddr, sync::Arc};

use ipnet::IpNet;

use super::{
    GENERATION_KEY, PREFIX, RecordError, assemble,
    codec::decode,
    key::{Key, Place},
    wire::{
        AdmittedRecord, AliveRecord, BlockRecord, ClusterRecord, EndpointRecord, GenerationRecord, NetworkRecord,
        NodeRecord, Record, ReportRecord, ServiceRecord, TokenRecord,
    },
};
use crate::{
    model::{
        Block, Cluster, ClusterSettings, Endpoint, EndpointId, Fingerprint, JoinToken, Name, Network, NetworkId, Node,
        NodeId, Report, Service, ServiceId, UnreadableRecord,
    },
    store::{Changes, Entry, Event, Revision, Snapshot},
};

/// All records under [`PREFIX`], decoded once each. A snapshot and the changes that lead to it make the same state.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct State {
    pub(super) revision: Revision,
    pub(super) cluster: Option<Held<ClusterSettings>>,
    pub(super) generation: Option<Held<u64>>,
    pub(super) nodes: BTreeMap<NodeId, Held<Node>>,
    pub(super) alive: BTreeMap<NodeId, Held<Name>>,
    pub(super) reports: BTreeMap<NodeId, Held<Report>>,
    pub(super) token: Option<Held<JoinToken>>,
    pub(super) admitted: BTreeMap<Fingerprint, Held<Name>>,
    pub(super) networks: BTreeMap<NetworkId, Held<Network>>,
    pub(super) blocks: BTreeMap<(NetworkId, IpNet), Held<Block>>,
    /// The two records of an endpoint with two addresses share one value as long as they are the same.
    pub(super) endpoints: BTreeMap<(NetworkId, IpAddr), Held<Arc<Endpoint>>>,
    pub(super) services: BTreeMap<ServiceId, Held<Service>>,
    /// Keys among our objects that are no object's place, with the reason.
    pub(super) misplaced: BTreeMap<String, Misplaced>,
    foreign: BTreeMap<String, Foreign>,
}

/// The counter that serialises changes of configuration, as it was last seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Generation {
    /// Its value, 0 if there is no record yet.
    pub value: u64,
    /// The version to compare with when it is bumped; nothing if it has to be created.
    pub version: Option<Revision>,
}

/// A record as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Held<T> {
    pub(super) version: Revision,
    /// Its content, or what is wrong with it and the mend.
    pub(super) content: Result<T, String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Misplaced {
    version: Revision,
    pub(super) reason: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Foreign {
    version: Revision,
    value: Vec<u8>,
}

impl State {
    /// The state in a snapshot.
    pub fn from_snapshot(snapshot: &Snapshot) -> Self {
        let mut state = Self { revision: snapshot.revision, ..Self::default() };
        snapshot.entries.iter().for_each(|entry| state.put(entry));
        state
    }

    /// Goes on to a later revision. Only the records that changed are decoded.
    pub fn apply(&mut self, changes: &Changes) {
        for event in &changes.events {
            match event {
                Event::Put(entry) => self.put(entry),
                Event::Delete { key } => self.delete(key),
            }
        }
        self.revision = changes.revision;
    }

    /// The revision reached.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// The records as a whole, checked against each other. It looks at all objects and copies them: 165 ms of processor time
    /// for 10,000 services with ten replicas of two addresses each, so once for a batch of changes, not once for each.
    pub fn cluster(&self) -> Result<Cluster, RecordError> {
        assemble::assemble(self)
    }

    /// The version of whatever lies under a key, for a compare; nothing if the key is not there.
    pub fn version_of(&self, key: &str) -> Option<Revision> {
        match Place::of(key) {
            Place::Of(Key::Cluster) => self.cluster.as_ref().map(|held| held.version),
            Place::Of(Key::Generation) => self.generation.as_ref().map(|held| held.version),
            Place::Of(Key::Node(id)) => self.nodes.get(&id).map(|held| held.version),
            Place::Of(Key::Alive(id)) => self.alive.get(&id).map(|held| held.version),
            Place::Of(Key::Report(id)) => self.reports.get(&id).map(|held| held.version),
            Place::Of(Key::Token) => self.token.as_ref().map(|held| held.version),
            Place::Of(Key::Admitted(key)) => self.admitted.get(&key).map(|held| held.version),
            Place::Of(Key::Network(id)) => self.networks.get(&id).map(|held| held.version),
            Place::Of(Key::Block(network, prefix)) => self.blocks.get(&(network, prefix)).map(|held| held.version),
            Place::Of(Key::Endpoint(network, address)) => {
                self.endpoints.get(&(network, address)).map(|held| held.version)
            }
            Place::Of(Key::Service(id)) => self.services.get(&id).map(|held| held.version),
            Place::Nowhere(_) => self.misplaced.get(key).map(|misplaced| misplaced.version),
            Place::Foreign => self.foreign.get(key).map(|foreign| foreign.version),
        }
    }

    /// The readable blocks of a network, with their versions; not checked against other records, so that a snapshot of
    /// the blocks alone will do.
    pub fn blocks_of(&self, network: NetworkId) -> impl Iterator<Item = (Block, Revision)> {
        self.blocks.iter().filter(move |((of, _), _)| *of == network).filter_map(|(_, held)| {
            let block = held.content.as_ref().ok()?;
            Some((*block, held.version))
        })
    }

    /// The prefixes of a network under which a block's record lies, be it readable or not: where no other can be claimed.
    pub fn claimed_in(&self, network: NetworkId) -> impl Iterator<Item = IpNet> {
        self.blocks.keys().filter(move |(of, _)| *of == network).map(|(_, prefix)| *prefix)
    }

    /// The version of an endpoint's record under one of its addresses; nothing if another has the address by now.
    pub fn version_of_endpoint(&self, id: EndpointId, network: NetworkId, address: IpAddr) -> Option<Revision> {
        let held = self.endpoints.get(&(network, address))?;
        held.content.as_ref().is_ok_and(|endpoint| endpoint.id == id).then_some(held.version)
    }

    /// The readable endpoint whose record lies under an address, with the record's version.
    pub fn endpoint_at(&self, network: NetworkId, address: IpAddr) -> Option<(&Endpoint, Revision)> {
        let held = self.endpoints.get(&(network, address))?;
        held.content.as_ref().ok().map(|endpoint| (&**endpoint, held.version))
    }

    /// The configuration's generation, to be compared and bumped with every change of nodes, networks and services.
    pub fn generation(&self) -> Result<Generation, RecordError> {
        match &self.generation {
            None => Ok(Generation { value: 0, version: None }),
            Some(Held { version, content: Ok(value) }) => Ok(Generation { value: *value, version: Some(*version) }),
            Some(Held { version: _, content: Err(reason) }) => Err(RecordError::Unreadable(UnreadableRecord {
                key: GENERATION_KEY.to_owned(),
                reason: reason.clone(),
            })),
        }
    }

    /// The token that lets nodes join, checked against nothing else, so that a snapshot of its key alone will do.
    pub fn token(&self) -> Option<&JoinToken> {
        self.token.as_ref().and_then(|held| held.content.as_ref().ok())
    }

    /// The value under a key that is no record of this folder's.
    pub fn foreign(&self, key: &str) -> Option<&[u8]> {
        self.foreign.get(key).map(|foreign| foreign.value.as_slice())
    }

    fn put(&mut self, entry: &Entry) {
        if !entry.key.starts_with(PREFIX) {
            return;
        }
        match Place::of(&entry.key) {
            Place::Of(Key::Cluster) => self.cluster = Some(held::<ClusterRecord>(entry)),
            Place::Of(Key::Generation) => self.generation = Some(held::<GenerationRecord>(entry)),
            Place::Of(Key::Node(id)) => _ = self.nodes.insert(id, held::<NodeRecord>(entry)),
            Place::Of(Key::Alive(id)) => _ = self.alive.insert(id, held::<AliveRecord>(entry)),
            Place::Of(Key::Report(id)) => _ = self.reports.insert(id, held::<ReportRecord>(entry)),
            Place::Of(Key::Token) => self.token = Some(held::<TokenRecord>(entry)),
            Place::Of(Key::Admitted(key)) => _ = self.admitted.insert(key, held::<AdmittedRecord>(entry)),
            Place::Of(Key::Network(id)) => _ = self.networks.insert(id, held::<NetworkRecord>(entry)),
            Place::Of(Key::Block(network, prefix)) => {
                self.blocks.insert((network, prefix), held::<BlockRecord>(entry));
            }
            Place::Of(Key::Endpoint(network, address)) => {
                let Held { version, content } = held::<EndpointRecord>(entry);
                let content = content.map(|endpoint| self.shared(endpoint));
                self.endpoints.insert((network, address), Held { version, content });
            }
            Place::Of(Key::Service(id)) => _ = self.services.insert(id, held::<ServiceRecord>(entry)),
            Place::Nowhere(reason) => {
                self.misplaced.insert(entry.key.clone(), Misplaced { version: entry.version, reason });
            }
            Place::Foreign => {
                let foreign = Foreign { version: entry.version, value: entry.value.clone() };
                self.foreign.insert(entry.key.clone(), foreign);
            }
        }
    }

    /// The same endpoint as it already lies under another of its addresses, or a new one.
    fn shared(&self, endpoint: Endpoint) -> Arc<Endpoint> {
        let held = endpoint.addresses.iter().filter_map(|address| self.endpoints.get(&(endpoint.network, *address)));
        let mut decoded = held.filter_map(|held| held.content.as_ref().ok());
        match decoded.find(|twin| ***twin == endpoint) {
            Some(twin) => Arc::clone(twin),
            None => Arc::new(endpoint),
        }
    }

    fn delete(&mut self, key: &str) {
        match Place::of(key) {
            Place::Of(Key::Cluster) => self.cluster = None,
            Place::Of(Key::Generation) => self.generation = None,
            Place::Of(Key::Node(id)) => _ = self.nodes.remove(&id),
            Place::Of(Key::Alive(id)) => _ = self.alive.remove(&id),
            Place::Of(Key::Report(id)) => _ = self.reports.remove(&id),
            Place::Of(Key::Token) => self.token = None,
            Place::Of(Key::Admitted(key)) => _ = self.admitted.remove(&key),
            Place::Of(Key::Network(id)) => _ = self.networks.remove(&id),
            Place::Of(Key::Block(network, prefix)) => _ = self.blocks.remove(&(network, prefix)),
            Place::Of(Key::Endpoint(network, address)) => _ = self.endpoints.remove(&(network, address)),
            Place::Of(Key::Service(id)) => _ = self.services.remove(&id),
            Place::Nowhere(_) => _ = self.misplaced.remove(key),
            Place::Foreign => _ = self.foreign.remove(key),
        }
    }
}

fn held<R: Record>(entry: &Entry) -> Held<R::Model> {
    Held { version: entry.version, content: decode::<R>(&entry.value) }
}
