//! What must always hold, and what must hold once everything has come to rest.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use futures::FutureExt as _;

use super::{edges::FakeHost, world::World};
use crate::{
    agent::configuration::{Fresh, read},
    desired::desired,
    mesh,
    model::{ChainName, Cluster, EndpointState, HostState, Judgement, LinkName, Rule, SetKey, SetName, SetValue, Slot},
};

/// Laws of every moment: nobody who was told that an endpoint is attached is let down, no address is held twice, no two
/// blocks overlap.
pub(super) fn check_always(world: &World) -> Result<(), String> {
    let told = world.ledger.told();
    if let Some(broken) = told.broken.first() {
        return Err(broken.clone());
    }
    let mut holders = BTreeMap::new();
    for (id, live) in &told.live {
        for address in &live.addresses {
            if world.seen.version_of_endpoint(*id, live.network, *address).is_none() {
                return Err(format!("{} was attached with {address}, and its record is gone", live.name));
            }
            if let Some(other) = holders.insert(*address, &live.name) {
                return Err(format!("{address} is held by both {other} and {}", live.name));
            }
        }
    }
    let Ok(cluster) = world.seen.cluster() else { return Ok(()) };
    let back = told.drained.iter().filter_map(|id| cluster.endpoints.get(id));
    if let Some(back) = back.into_iter().find(|endpoint| endpoint.state != EndpointState::Draining) {
        return Err(format!("{} was drained, and is {:?}", back.name, back.state));
    }
    let prefixes: Vec<_> = cluster.blocks.keys().collect();
    match prefixes.windows(2).find(|pair| pair[0].contains(pair[1]) || pair[1].contains(pair[0])) {
        Some(pair) => Err(format!("the blocks {} and {} overlap", pair[0], pair[1])),
        None => Ok(()),
    }
}

/// Laws of rest: no faults, all agents running, nothing left to do.
pub(super) fn check_at_rest(world: &World) -> Result<(), String> {
    let Fresh { cluster, .. } = read(&*world.store).now_or_never().unwrap().map_err(|refusal| refusal.to_string())?;
    // An agent that dies within a removal, while another one crosses it, may leave records of a network that is gone. They
    // are shown to people with their mend, and keep its number from being given away.
    let is_left = |reason: &str| !world.ledger.told().unsure.is_empty() && reason.contains("is not there");
    if let Some(record) = cluster.unreadable.iter().find(|record| !is_left(&record.reason)) {
        return Err(format!("{}: {}", record.key, record.reason));
    }
    let newest = cluster.drains.values().max().copied().unwrap_or_default();
    let silent = mesh::unconfirmed(&cluster, newest);
    if newest > 0 && !silent.is_empty() {
        return Err(format!("{silent:?} have not confirmed what drains since {newest}"));
    }
    let mut linked: BTreeMap<IpAddr, LinkName> = BTreeMap::new();
    for node in &world.nodes {
        let Some(member) = &node.member else { continue };
        let mut state = node.host.kernel.state();
        let wanted = desired(&cluster, member.me(), &FakeHost::facts(member.me(), &cluster), &Judgement::default())
            .ok_or_else(|| format!("{} runs, and the store has no record of it", node.name))?;
        // A setting of the host is never taken back.
        state.sysctls.retain(|name, _| wanted.sysctls.contains_key(name));
        if state != wanted {
            return Err(format!("{} holds {}", node.name, difference(&state, &wanted)));
        }
        for (link, attachment) in &state.links {
            for address in &attachment.addresses {
                if let Some(other) = linked.insert(*address, link.clone()) {
                    return Err(format!("{address} is held by both {other} and {link}"));
                }
            }
        }
        check_mesh(&cluster, &state).map_err(|broken| format!("{}: {broken}", node.name))?;
    }
    check_endpoints(world, &cluster, &linked)
}

/// No link without a record and no record without a link follow from what kernels should hold; here: no record that
/// nobody asked for, and none of a namespace that is gone.
fn check_endpoints(world: &World, cluster: &Cluster, linked: &BTreeMap<IpAddr, LinkName>) -> Result<(), String> {
    let told = world.ledger.told();
    for endpoint in cluster.endpoints.values() {
        let is_known = told.live.contains_key(&endpoint.id) || told.doubtful.contains(endpoint.name.as_str());
        if !is_known {
            return Err(format!("nobody asked for {}, and there is a record of it", endpoint.name));
        }
        if !cluster.nodes.contains_key(&endpoint.node) {
            return Err(format!("{} has outlived its {:?}", endpoint.name, endpoint.node));
        }
        let may_be_faulty = matches!(endpoint.state, EndpointState::Unhealthy | EndpointState::Draining);
        if let Some(fault) = endpoint.fault.as_ref().filter(|_| !may_be_faulty) {
            return Err(format!("{} is {}, and its record says: {fault}", endpoint.name, endpoint.state.as_str()));
        }
        let is_orphan = endpoint.service.is_some_and(|service| !cluster.services.contains_key(&service));
        if is_orphan && told.unsure.is_empty() {
            return Err(format!("{} is a replica of a service that is gone", endpoint.name));
        }
    }
    for live in told.live.values() {
        if let Some(address) = live.addresses.iter().find(|address| !linked.contains_key(*address)) {
            return Err(format!("{} was attached with {address}, and no kernel has a link with it", live.name));
        }
    }
    for block in cluster.blocks.values() {
        if !cluster.nodes.contains_key(&block.owner) {
            return Err(format!("the block {} has outlived its {:?}", block.prefix, block.owner));
        }
    }
    Ok(())
}

/// The rule set alone, read as a kernel reads it, leads to exactly the replicas that should take connections.
fn check_mesh(cluster: &Cluster, state: &HostState) -> Result<(), String> {
    let ruleset = state.ruleset.as_ref().ok_or("there is no table")?;
    let within = |set: SetName, first: Slot, slots: u16| -> BTreeSet<IpAddr> {
        let elements = ruleset.sets.get(&set).into_iter().flatten();
        let range = first.0..first.0 + u32::from(slots);
        elements
            .filter(|(key, _)| matches!(key, SetKey::Slot(slot) if range.contains(&slot.0)))
            .filter_map(|(_, value)| match value {
                SetValue::Address(address) => Some(*address),
                SetValue::Target(target) => Some(target.ip()),
                _ => None,
            })
            .collect()
    };
    let reached = |chain: ChainName| -> Option<BTreeSet<IpAddr>> {
        let rules = &ruleset.chains.get(&chain)?.rules;
        Some(
            rules
                .iter()
                .flat_map(|rule| match *rule {
                    Rule::BalancePort { family, shard, first, slots, .. } => {
                        within(SetName::Targets(family, shard), first, slots)
                    }
                    Rule::BalanceVip { family, shard, first, slots, .. } => {
                        within(SetName::Replicas(family, shard), first, slots)
                    }
                    _ => BTreeSet::new(),
                })
                .collect(),
        )
    };
    let mut ports = 0;
    for service in cluster.services.values() {
        let takers: BTreeSet<IpAddr> = mesh::balancing(cluster, service.id, &Judgement::default())
            .iter()
            .filter(|(_, verdict)| verdict.takes_connections())
            .flat_map(|(id, _)| cluster.endpoints[id].addresses.iter().copied())
            .collect();
        let chains = service.ports.iter().map(|port| ChainName::Port(port.protocol, port.published.get(), port.bind));
        for chain in chains.chain([ChainName::Vip(service.id)]) {
            let found = reached(chain).ok_or_else(|| format!("{} has no chain {chain}", service.name))?;
            if found != takers {
                return Err(format!("{} should lead to {takers:?} and {chain} leads to {found:?}", service.name));
            }
        }
        ports += service.ports.len();
    }
    match ruleset.sets.get(&SetName::Ports).map_or(0, BTreeMap::len) {
        found if found == ports => Ok(()),
        found => Err(format!("{found} ports are answered and {ports} are published")),
    }
}

/// Whether a kernel sends new connections of a service to an address.
pub(super) fn sends_to(state: &HostState, address: IpAddr) -> bool {
    let sets = state.ruleset.iter().flat_map(|ruleset| &ruleset.sets);
    sets.flat_map(|(_, elements)| elements.values()).any(|value| match value {
        SetValue::Address(of) => *of == address,
        SetValue::Target(target) => target.ip() == address,
        _ => false,
    })
}

fn difference(state: &HostState, wanted: &HostState) -> String {
    let steps = crate::plan::plan(wanted, state);
    let steps: Vec<String> = steps.iter().map(ToString::to_string).collect();
    if steps.is_empty() {
        return format!("what no step would change: {state:?}\n\ninstead of {wanted:?}");
    }
    format!("not what it should: {}", steps.join("; "))
}
