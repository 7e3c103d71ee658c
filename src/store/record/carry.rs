//! What stays in force while its record cannot be read.

use std::collections::BTreeSet;

use super::{
    assemble::{Ports, Prefixes, check_block},
    key::{Key, Place},
};
use crate::model::{Cluster, Draining, NetworkId, NodeId, ServiceId};

/// Keeps in `next` what `previous` had and what lies under a key that `next` names as unreadable: a record that becomes
/// corrupt, or that a newer agent has written, must not take down what runs. No change of such an object is seen until it can be
/// read again, and the reason says so. With it stays what rests on it: the endpoints of a network whose record is unreadable.
///
/// What can be read goes first: an object that would now share a name, an address, a prefix or a port with a readable one, or
/// whose network is gone, is not kept. One whose key has been deleted is gone as well; an endpoint with two addresses is kept
/// only while there is a record under both. Nothing is kept of another cluster, which is one whose id differs.
///
/// Call it with the cluster that it was last called for: what was kept is kept on. **The limit:** the memory is the caller's.
/// An agent that starts while a record is unreadable has no previous cluster, and so does without the object, and its
/// first pass removes what is programmed for it here: the links of endpoints on this node, and routes and rules that lead to
/// it. Put the record right, or upgrade the node, before its agent is started again.
pub fn carry_over(previous: &Cluster, next: &mut Cluster) {
    if next.unreadable.is_empty() || previous.settings.id != next.settings.id {
        return;
    }
    let unreadable: BTreeSet<Key> = next
        .unreadable
        .iter()
        .filter_map(|record| match Place::of(&record.key) {
            Place::Of(key) => Some(key),
            Place::Nowhere(_) | Place::Foreign => None,
        })
        .collect();
    let mut carrying = Carrying { previous, next, kept: BTreeSet::new() };
    // In the order of dependence: whoever rests on something that is kept may be kept as well.
    for key in &unreadable {
        match key {
            Key::Node(id) => carrying.node(*id),
            Key::Network(id) => carrying.network(*id),
            // The whole cluster stays with the first. The others are no objects: a counter, whether a lease lives, what a node
            // says, whom somebody has just let in. A token that cannot be read lets nobody in.
            Key::Cluster
            | Key::Generation
            | Key::Alive(_)
            | Key::Report(_)
            | Key::Token
            | Key::Admitted(_)
            | Key::Block(..)
            | Key::Endpoint(..)
            | Key::Service(_) => {}
        }
    }
    carrying.blocks(&unreadable);
    carrying.services(&unreadable);
    carrying.endpoints(&unreadable);
    let Carrying { kept, .. } = carrying;
    for record in &mut next.unreadable {
        if matches!(Place::of(&record.key), Place::Of(key) if kept.contains(&key)) {
            record.reason.push_str("; until then its last readable state stays in force");
        }
    }
}

struct Carrying<'a> {
    previous: &'a Cluster,
    next: &'a mut Cluster,
    /// The keys of what was kept.
    kept: BTreeSet<Key>,
}

impl Carrying<'_> {
    fn node(&mut self, id: NodeId) {
        let Some(node) = self.previous.nodes.get(&id) else { return };
        if self.next.nodes.contains_key(&id) || self.next.node_named(&node.name).is_some() {
            return;
        }
        self.next.nodes.insert(id, node.clone());
        self.draining(Draining::Node(id));
        self.kept.insert(Key::Node(id));
    }

    /// What was on its way out stays so, since when it was.
    fn draining(&mut self, who: Draining) {
        if let Some(since) = self.previous.drains.get(&who) {
            self.next.drains.insert(who, *since);
        }
    }

    fn network(&mut self, id: NetworkId) {
        let Some(network) = self.previous.networks.get(&id) else { return };
        if self.next.networks.contains_key(&id) || self.next.network_named(&network.name).is_some() {
            return;
        }
        let mut taken = Prefixes::default();
        for other in self.next.networks.values() {
            other.subnets.iter().for_each(|subnet| taken.insert(subnet.prefix, other.id));
        }
        if network.subnets.iter().any(|subnet| taken.meets(subnet.prefix).is_some()) {
            return;
        }
        self.next.networks.insert(id, network.clone());
        self.kept.insert(Key::Network(id));
    }

    fn blocks(&mut self, unreadable: &BTreeSet<Key>) {
        for block in self.previous.blocks.values() {
            let key = Key::Block(block.network, block.prefix);
            if !unreadable.contains(&key) || self.next.blocks.contains_key(&block.prefix) {
                continue;
            }
            let Some(network) = self.next.networks.get(&block.network) else { continue };
            if check_block(block, network).is_ok() {
                self.next.blocks.insert(block.prefix, *block);
                self.kept.insert(key);
            }
        }
    }

    fn services(&mut self, unreadable: &BTreeSet<Key>) {
        let wanted: Vec<ServiceId> = self
            .previous
            .services
            .keys()
            .filter(|id| unreadable.contains(&Key::Service(**id)) && !self.next.services.contains_key(id))
            .copied()
            .collect();
        if wanted.is_empty() {
            return;
        }
        // By number: the services of `next` are changed while these are used.
        let (mut names, mut vips, mut ports) = (BTreeSet::new(), BTreeSet::new(), Ports::default());
        for service in self.next.services.values() {
            names.insert(service.name.clone());
            vips.extend(service.vips.iter().copied());
            ports.insert(service);
        }
        for id in wanted {
            let Some(service) = self.previous.services.get(&id) else { continue };
            let network = self.next.networks.get(&service.network);
            let has_room = network.is_some_and(|network| service.vips.iter().all(|vip| network.contains(*vip)));
            let is_free = !names.contains(&service.name)
                && !service.vips.iter().any(|vip| vips.contains(vip))
                && !service.ports.iter().any(|port| ports.meets(port).is_some());
            // Those that are kept come from one cluster, where they did not get in each other's way.
            if has_room && is_free {
                self.next.services.insert(id, service.clone());
                self.kept.insert(Key::Service(id));
            }
        }
    }

    fn endpoints(&mut self, unreadable: &BTreeSet<Key>) {
        if !unreadable.iter().any(|key| matches!(key, Key::Endpoint(..))) {
            return;
        }
        for (id, endpoint) in &self.previous.endpoints {
            // An address has one key. If that is unreadable, then nobody else has the address.
            let keys: Vec<Key> =
                endpoint.addresses.iter().map(|address| Key::Endpoint(endpoint.network, *address)).collect();
            if self.next.endpoints.contains_key(id) || !keys.iter().all(|key| unreadable.contains(key)) {
                continue;
            }
            let network = self.next.networks.get(&endpoint.network);
            if network.is_some_and(|network| endpoint.addresses.iter().all(|address| network.contains(*address))) {
                self.next.endpoints.insert(*id, endpoint.clone());
                self.draining(Draining::Endpoint(*id));
                self.kept.extend(keys);
            }
        }
    }
}
