use std::net::{IpAddr, SocketAddr};

use crate::model::{
    Chain, ChainName, Cluster, Endpoint, EndpointId, Family, Judgement, L4, Lb, Memory, Pick, PublishedPort, Rule,
    Ruleset, Service, SetKey, SetName, SetValue, Slot,
};

use super::{
    balancing,
    doors::{Door, Doors, shard_of},
    interleave, share_out,
};

/// The chains and maps of all services: each published port and each VIP set has a chain of its own with its own
/// `numgen`, so that every service counts its own exact round.
///
/// A port that the agent carries has none: its connections fall to the agent's listener. What only such a port can do (the
/// fewest open connections) is taken in turns where the kernel does it.
pub fn tables(cluster: &Cluster, judgement: &Judgement) -> Ruleset {
    let mut ruleset = Ruleset::default();
    let doors = Doors::of(cluster);
    for service in cluster.services.values() {
        let verdicts = balancing(cluster, service.id, judgement);
        let takers: Vec<&Endpoint> = cluster
            .replicas_of(service.id)
            .filter(|replica| verdicts.get(&replica.id).is_some_and(|verdict| verdict.takes_connections()))
            .collect();
        let choice = Choice::of(service, &takers);
        let entrances: Vec<(&PublishedPort, Door)> =
            service.ports.iter().filter_map(|port| Some((port, doors.door(port)?))).collect();
        if choice.memory.is_some() && !(entrances.is_empty() && service.vips.is_empty()) {
            remember(&mut ruleset, service, &choice);
        }
        for (port, door) in entrances {
            publish(&mut ruleset, port, &door, &choice);
        }
        answer_vips(&mut ruleset, service, &choice);
    }
    ruleset
}

/// How a service chooses a replica for a new connection.
struct Choice {
    pick: Pick,
    memory: Option<Memory>,
    /// The addresses that the slots lead to, by family.
    rounds: [Vec<IpAddr>; 2],
}

impl Choice {
    fn of(service: &Service, takers: &[&Endpoint]) -> Self {
        let pick = match service.lb {
            Lb::Rr | Lb::LeastConn => Pick::Turn,
            Lb::Random => Pick::Chance,
            Lb::Source => Pick::Source,
        };
        let memory = service.affinity.map(|timeout| Memory {
            service: service.id,
            // The kernel takes 0 for no end.
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX).clamp(1, TIMEOUT_MS_MAX),
        });
        Self { pick, memory, rounds: Family::BOTH.map(|family| round(family, pick, takers)) }
    }

    /// The addresses that the slots of a family lead to.
    fn round(&self, family: Family) -> &[IpAddr] {
        let [v4, v6] = &self.rounds;
        match family {
            Family::V4 => v4,
            Family::V6 => v6,
        }
    }
}

/// A year. Longer than anybody waits, and far from where the kernel's arithmetic ends.
const TIMEOUT_MS_MAX: u64 = 365 * 24 * 60 * 60 * 1000;

/// The service's part of what session affinity looks up: the map that the kernel fills, and who may still be chosen.
fn remember(ruleset: &mut Ruleset, service: &Service, choice: &Choice) {
    for family in Family::BOTH {
        ruleset.sets.entry(SetName::Sticky(family)).or_default();
        let takers = ruleset.sets.entry(SetName::Takers(family)).or_default();
        takers
            .extend(choice.round(family).iter().map(|taker| (SetKey::Address(*taker), SetValue::Service(service.id))));
    }
}

fn publish(ruleset: &mut Ruleset, port: &PublishedPort, door: &Door, choice: &Choice) {
    let Door { chain, entrance: (map, key), shard, first, families } = *door;
    let (protocol, target) = (port.protocol, port.target.get());
    let mut rules = Vec::new();
    for family in families.iter().copied() {
        let round = choice.round(family);
        let (Some(slots), Some(shard)) = (count(round), shard) else { continue };
        let elements = round.iter().map(|address| SetValue::Target(SocketAddr::new(*address, target)));
        fill(ruleset, SetName::Targets(family, shard), first, elements);
        let pick = choice.pick;
        if let Some(memory) = choice.memory {
            rules.push(Rule::RecallPort { family, protocol, target, memory });
            rules.push(Rule::RememberPort { family, protocol, shard, first, slots, pick, memory });
        }
        rules.push(Rule::BalancePort { family, protocol, shard, first, slots, pick });
    }
    rules.push(match protocol {
        L4::Tcp => Rule::RefuseTcp,
        L4::Udp | L4::Sctp => Rule::RefuseOther,
    });
    ruleset.chains.insert(chain, Chain { rules });
    ruleset.sets.entry(map).or_default().insert(key, SetValue::Goto(chain));
}

fn answer_vips(ruleset: &mut Ruleset, service: &Service, choice: &Choice) {
    if service.vips.is_empty() {
        return;
    }
    let name = ChainName::Vip(service.id);
    let first = Slot(u32::from(service.id.get()) << 16);
    let shard = shard_of(service.id.get());
    let mut rules = Vec::new();
    for family in Family::BOTH {
        if !service.vips.iter().any(|vip| Family::of(*vip) == family) {
            continue;
        }
        let round = choice.round(family);
        let Some(slots) = count(round) else { continue };
        fill(ruleset, SetName::Replicas(family, shard), first, round.iter().copied().map(SetValue::Address));
        let pick = choice.pick;
        if let Some(memory) = choice.memory {
            rules.push(Rule::RecallVip { family, memory });
            rules.push(Rule::RememberVip { family, shard, first, slots, pick, memory });
        }
        rules.push(Rule::BalanceVip { family, shard, first, slots, pick });
    }
    rules.extend([Rule::RefuseTcp, Rule::RefuseOther]);
    ruleset.chains.insert(name, Chain { rules });
    for vip in &service.vips {
        let vips = ruleset.sets.entry(SetName::Vips(Family::of(*vip))).or_default();
        vips.insert(SetKey::Address(*vip), SetValue::Goto(name));
    }
}

/// The addresses of a family that the slots lead to: as often and in the order that the takers' weights ask for, or as the
/// clients are shared out.
fn round(family: Family, pick: Pick, takers: &[&Endpoint]) -> Vec<IpAddr> {
    let candidates: Vec<(IpAddr, EndpointId, u16)> = takers
        .iter()
        .filter_map(|taker| {
            let address = taker.addresses.iter().find(|address| Family::of(**address) == family)?;
            Some((*address, taker.id, taker.weight))
        })
        .collect();
    let turns = match pick {
        Pick::Turn | Pick::Chance => interleave(&candidates.iter().map(|(_, _, weight)| *weight).collect::<Vec<_>>()),
        Pick::Source => share_out(&candidates.iter().map(|(_, id, weight)| (*id, *weight)).collect::<Vec<_>>()),
    };
    turns.into_iter().filter_map(|index| candidates.get(index)).map(|(address, _, _)| *address).collect()
}

/// The number of slots, if there are any; [`super::SLOTS_MAX`] keeps it within the type.
fn count(round: &[IpAddr]) -> Option<u16> {
    u16::try_from(round.len()).ok().filter(|slots| *slots > 0)
}

fn fill(ruleset: &mut Ruleset, map: SetName, first: Slot, values: impl Iterator<Item = SetValue>) {
    let elements = ruleset.sets.entry(map).or_default();
    elements.extend((first.0..).map(|slot| SetKey::Slot(Slot(slot))).zip(values));
}
