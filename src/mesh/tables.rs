use std::net::SocketAddr;

use crate::model::{
    Chain, ChainName, Cluster, Endpoint, Family, Judgement, L4, PublishedPort, Rule, Ruleset, Service, SetKey, SetName,
    SetValue, Slot,
};

use super::{balancing, interleave};

/// The chains and maps of all services: each published port and each VIP set has a chain of its own with its own
/// `numgen`, so that every service counts its own exact round.
pub fn tables(cluster: &Cluster, judgement: &Judgement) -> Ruleset {
    let mut ruleset = Ruleset::default();
    for service in cluster.services.values() {
        let verdicts = balancing(cluster, service.id, judgement);
        let takers: Vec<&Endpoint> = cluster
            .replicas_of(service.id)
            .filter(|replica| verdicts.get(&replica.id).is_some_and(|verdict| verdict.takes_connections()))
            .collect();
        for port in &service.ports {
            publish(&mut ruleset, port, &takers);
        }
        answer_vips(&mut ruleset, service, &takers);
    }
    ruleset
}

fn publish(ruleset: &mut Ruleset, port: &PublishedPort, takers: &[&Endpoint]) {
    let published = port.published.get();
    let name = ChainName::Port(port.protocol, published);
    let first = first_slot(published, port.protocol);
    let shard = shard_of(published);
    let mut rules = Vec::new();
    for family in Family::BOTH {
        let round = round(family, takers);
        if let Some(slots) = count(&round) {
            let elements = round.iter().map(|address| SetValue::Target(SocketAddr::new(*address, port.target.get())));
            fill(ruleset, SetName::Targets(family, shard), first, elements);
            rules.push(Rule::BalancePort { family, protocol: port.protocol, shard, first, slots });
        }
    }
    rules.push(match port.protocol {
        L4::Tcp => Rule::RefuseTcp,
        L4::Udp | L4::Sctp => Rule::RefuseOther,
    });
    ruleset.chains.insert(name, Chain { rules });
    ruleset
        .sets
        .entry(SetName::Ports)
        .or_default()
        .insert(SetKey::Port(port.protocol, published), SetValue::Goto(name));
}

fn answer_vips(ruleset: &mut Ruleset, service: &Service, takers: &[&Endpoint]) {
    let name = ChainName::Vip(service.id);
    let first = Slot(u32::from(service.id.get()) << 16);
    let shard = shard_of(service.id.get());
    let mut rules = Vec::new();
    for family in Family::BOTH {
        if !service.vips.iter().any(|vip| Family::of(*vip) == family) {
            continue;
        }
        let round = round(family, takers);
        if let Some(slots) = count(&round) {
            fill(ruleset, SetName::Replicas(family, shard), first, round.into_iter().map(SetValue::Address));
            rules.push(Rule::BalanceVip { family, shard, first, slots });
        }
    }
    rules.extend([Rule::RefuseTcp, Rule::RefuseOther]);
    ruleset.chains.insert(name, Chain { rules });
    for vip in &service.vips {
        let vips = ruleset.sets.entry(SetName::Vips(Family::of(*vip))).or_default();
        vips.insert(SetKey::Address(*vip), SetValue::Goto(name));
    }
}

/// One round of a family: the takers' addresses, as often and in the order that their weights ask for.
fn round(family: Family, takers: &[&Endpoint]) -> Vec<std::net::IpAddr> {
    let candidates: Vec<(std::net::IpAddr, u16)> = takers
        .iter()
        .filter_map(|taker| {
            let address = taker.addresses.iter().find(|address| Family::of(**address) == family)?;
            Some((*address, taker.weight))
        })
        .collect();
    let weights: Vec<u16> = candidates.iter().map(|(_, weight)| *weight).collect();
    interleave(&weights).into_iter().filter_map(|index| candidates.get(index)).map(|(address, _)| *address).collect()
}

/// The number of slots, if there are any; [`super::SLOTS_MAX`] keeps it within the type.
fn count(round: &[std::net::IpAddr]) -> Option<u16> {
    u16::try_from(round.len()).ok().filter(|slots| *slots > 0)
}

fn fill(ruleset: &mut Ruleset, map: SetName, first: Slot, values: impl Iterator<Item = SetValue>) {
    let elements = ruleset.sets.entry(map).or_default();
    elements.extend((first.0..).map(|slot| SetKey::Slot(Slot(slot))).zip(values));
}

/// A published port's first slot: the port in the high 16 bits, the protocol in the next two, 14 for the turn.
fn first_slot(published: u16, protocol: L4) -> Slot {
    let protocol = match protocol {
        L4::Tcp => 0,
        L4::Udp => 1,
        L4::Sctp => 2,
    };
    Slot(u32::from(published) << 16 | protocol << 14)
}

/// 256 maps: by measurement the number at which neither the walk of a map's elements (when a rule is bound to it) nor
/// the walk of the list of maps (when one is looked up) shows, up to 10,000 services.
fn shard_of(number: u16) -> u8 {
    number.to_be_bytes()[1]
}
