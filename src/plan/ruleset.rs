//! The table `inet weft`: at most four transactions, each with no more in it than what differs.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::IpNet;

use super::NftChange;
use crate::model::{Chain, ChainName, Ruleset, SetKey, SetName, SetSchema, SetValue};

/// The table's changes by phase (see the ordering law); an empty list is no transaction.
#[derive(Default)]
pub(super) struct Transactions {
    /// Phase 2.
    pub(super) guard: Vec<NftChange>,
    /// Phase 8.
    pub(super) mesh: Vec<NftChange>,
    /// Phase 10.
    pub(super) unguard: Vec<NftChange>,
    /// Phase 11.
    pub(super) sweep: Vec<NftChange>,
}

/// What has to change in the table.
pub(super) fn transactions(desired: Option<&Ruleset>, observed: Option<&Ruleset>) -> Transactions {
    match (desired, observed) {
        (None, None) => Transactions::default(),
        (None, Some(observed)) => Transactions {
            mesh: close_entrances(observed),
            unguard: vec![NftChange::DeleteTable],
            ..Transactions::default()
        },
        (Some(desired), None) => {
            let mut transactions = difference(desired, &Ruleset::default());
            transactions.guard.insert(0, NftChange::AddTable);
            transactions
        }
        (Some(desired), Some(observed)) => difference(desired, observed),
    }
}

/// What a set or chain is for, which decides when it changes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Keeps networks apart and strangers out: stands before what it guards, and outlives it.
    Guard,
    /// Leads connections to replicas and replies to ingress nodes: comes after the ways that it uses, and goes before them.
    Mesh,
}

fn part_of_chain(chain: ChainName) -> Part {
    match chain {
        ChainName::RawPrerouting
        | ChainName::RawOutput
        | ChainName::ManglePrerouting
        | ChainName::Input
        | ChainName::Forward
        | ChainName::ManglePostrouting
        | ChainName::NatPostrouting
        | ChainName::FromUnderlay
        | ChainName::FromTunnel
        | ChainName::FromContainer
        | ChainName::ToTunnel
        | ChainName::ClampMss => Part::Guard,
        ChainName::NatPrerouting
        | ChainName::NatOutput
        | ChainName::UnusedVip
        | ChainName::Vip(_)
        | ChainName::Port(..) => Part::Mesh,
    }
}

fn part_of_set(set: SetName) -> Part {
    match set {
        SetName::Peers(_)
        | SetName::Nodes(_)
        | SetName::Networks(_)
        | SetName::VipRanges(_)
        | SetName::Within(_)
        | SetName::Internal(_) => Part::Guard,
        // The VTEPs' marks choose the policy rules that lead back to the ingress node: those come first.
        SetName::Vteps
        | SetName::Zones
        | SetName::Ports
        | SetName::Bound(_)
        | SetName::DevicePorts
        | SetName::Vips(_)
        | SetName::Sticky(_)
        | SetName::Takers(_)
        // A replica that is not yet balanced cannot be sent to itself.
        | SetName::Hairpin(_)
        | SetName::Targets(..)
        | SetName::Replicas(..) => Part::Mesh,
    }
}

/// A removed mesh has no entrance: what its replicas' addresses lead to is about to go.
fn close_entrances(observed: &Ruleset) -> Vec<NftChange> {
    let entrances = [ChainName::NatPrerouting, ChainName::NatOutput];
    let open = |name: &ChainName| observed.chains.get(name).is_some_and(|chain| !chain.rules.is_empty());
    entrances.into_iter().filter(open).map(|name| NftChange::SetRules(name, Chain::default())).collect()
}

fn difference(desired: &Ruleset, observed: &Ruleset) -> Transactions {
    let Ruleset { sets, chains } = desired;
    let empty_set = BTreeMap::new();
    let empty_chain = Chain::default();

    // What the guard's rules refer to has to be there with them, whosever part it is.
    let guard_rules =
        || chains.iter().filter(|(name, _)| part_of_chain(**name) == Part::Guard).flat_map(|(_, chain)| &chain.rules);
    let guard_sets: BTreeSet<SetName> = guard_rules().flat_map(|rule| rule.sets()).collect();
    let guard_chains: BTreeSet<ChainName> = guard_rules().filter_map(|rule| rule.chain()).collect();
    let set_comes_with = |name: SetName| if guard_sets.contains(&name) { Part::Guard } else { part_of_set(name) };
    let chain_comes_with =
        |name: ChainName| if guard_chains.contains(&name) { Part::Guard } else { part_of_chain(name) };

    let mut transactions = Transactions::default();
    let Transactions { guard, mesh, unguard, sweep } = &mut transactions;

    // Sets and chains first, both empty, then rules, then elements: the kernel walks a map's elements whenever a rule is
    // bound to it (`nf_tables_bind_set`), so the rule is cheaper before them.
    for name in sets.keys().filter(|name| !observed.sets.contains_key(name)) {
        match set_comes_with(*name) {
            Part::Guard => guard.push(NftChange::AddSet(*name)),
            Part::Mesh => mesh.push(NftChange::AddSet(*name)),
        }
    }
    for name in chains.keys().filter(|name| !observed.chains.contains_key(name)) {
        match chain_comes_with(*name) {
            Part::Guard => guard.push(NftChange::AddChain(*name)),
            Part::Mesh => mesh.push(NftChange::AddChain(*name)),
        }
    }
    for (name, chain) in chains {
        if observed.chains.get(name).unwrap_or(&empty_chain) != chain {
            match part_of_chain(*name) {
                Part::Guard => guard.push(NftChange::SetRules(*name, chain.clone())),
                Part::Mesh => mesh.push(NftChange::SetRules(*name, chain.clone())),
            }
        }
    }
    // Comparing whole sets first costs one walk through those that are equal, nearly always nearly all of them.
    for (name, elements) in sets.iter().filter(|(name, elements)| observed.sets.get(name) != Some(elements)) {
        let change = Elements::between(*name, elements, observed.sets.get(name).unwrap_or(&empty_set));
        match part_of_set(*name) {
            Part::Guard => {
                guard.extend(delete_elements(*name, change.replaced));
                guard.extend(add_elements(*name, change.added));
                unguard.extend(delete_elements(*name, change.surplus));
            }
            Part::Mesh => {
                mesh.extend(delete_elements(*name, change.replaced));
                mesh.extend(delete_elements(*name, change.surplus));
                mesh.extend(add_elements(*name, change.added));
            }
        }
    }

    // What goes is emptied first, so that it points to nothing, and goes in a later transaction. The guard's sets point to
    // nothing as it is: only the mesh's lead to chains.
    let doomed_set = |name: &SetName| !sets.contains_key(name);
    let doomed_chain = |name: &ChainName| !chains.contains_key(name);
    for (name, elements) in observed.sets.iter().filter(|(name, _)| doomed_set(name)) {
        match part_of_set(*name) {
            Part::Guard => {}
            Part::Mesh => {
                mesh.extend(delete_elements(*name, elements.iter().map(|(key, value)| (*key, *value)).collect()));
            }
        }
    }
    for (name, _) in observed.chains.iter().filter(|(name, chain)| doomed_chain(name) && !chain.rules.is_empty()) {
        let emptied = NftChange::SetRules(*name, Chain::default());
        match part_of_chain(*name) {
            Part::Guard => unguard.push(emptied),
            Part::Mesh => mesh.push(emptied),
        }
    }
    sweep.extend(observed.chains.keys().filter(|name| doomed_chain(name)).map(|name| NftChange::DeleteChain(*name)));
    sweep.extend(observed.sets.keys().filter(|name| doomed_set(name)).map(|name| NftChange::DeleteSet(*name)));
    transactions
}

/// How a set's elements differ.
struct Elements {
    /// To be removed before `added` in the same transaction: the key has another value, or the interval meets a new one.
    replaced: Vec<(SetKey, SetValue)>,
    /// To be removed, and in nobody's way.
    surplus: Vec<(SetKey, SetValue)>,
    /// To be added.
    added: Vec<(SetKey, SetValue)>,
}

impl Elements {
    fn between(set: SetName, desired: &BTreeMap<SetKey, SetValue>, observed: &BTreeMap<SetKey, SetValue>) -> Self {
        let lacking = |elements: &BTreeMap<SetKey, SetValue>, others: &BTreeMap<SetKey, SetValue>| {
            let lacking = elements.iter().filter(|(key, value)| others.get(key) != Some(value));
            lacking.map(|(key, value)| (*key, *value)).collect::<Vec<_>>()
        };
        let added = lacking(desired, observed);
        let meets_new = |key: SetKey| has_intervals(set) && added.iter().any(|(new, _)| overlap(key, *new));
        let (replaced, surplus) =
            lacking(observed, desired).into_iter().partition(|(key, _)| desired.contains_key(key) || meets_new(*key));
        Self { replaced, surplus, added }
    }
}

/// Interval sets hold a few elements for each network, so that comparing each with each is cheap; the maps that grow with
/// services and replicas are not among them.
fn has_intervals(set: SetName) -> bool {
    match set.schema() {
        SetSchema::Prefixes(_) | SetSchema::PrefixPairs(_) => true,
        SetSchema::PortToChain
        | SetSchema::AddressToChain(_)
        | SetSchema::AddressPortToChain(_)
        | SetSchema::DevicePortToChain
        | SetSchema::ClientToAddress(_)
        | SetSchema::AddressToService(_)
        | SetSchema::AddressPairs(_)
        | SetSchema::SlotToTarget(_)
        | SetSchema::SlotToAddress(_)
        | SetSchema::MacToMark
        | SetSchema::MacToZone
        | SetSchema::Addresses(_) => false,
    }
}

/// Whether two intervals have an address in common. The kernel refuses such a pair in one set (`nft_set_rbtree.c`,
/// `nft_set_pipapo.c`); keys that are no intervals never meet.
fn overlap(left: SetKey, right: SetKey) -> bool {
    let meet = |left: IpNet, right: IpNet| left.contains(&right) || right.contains(&left);
    match (left, right) {
        (SetKey::Prefix(left), SetKey::Prefix(right)) => meet(left, right),
        (SetKey::PrefixPair(source, destination), SetKey::PrefixPair(other_source, other_destination)) => {
            meet(source, other_source) && meet(destination, other_destination)
        }
        (
            SetKey::Port(..)
            | SetKey::Address(_)
            | SetKey::AddressPort(..)
            | SetKey::DevicePort(..)
            | SetKey::AddressPair(..)
            | SetKey::Slot(_)
            | SetKey::Mac(_)
            | SetKey::Prefix(_)
            | SetKey::PrefixPair(..),
            _,
        ) => false,
    }
}

fn add_elements(set: SetName, elements: Vec<(SetKey, SetValue)>) -> Option<NftChange> {
    (!elements.is_empty()).then_some(NftChange::AddElements(set, elements))
}

fn delete_elements(set: SetName, elements: Vec<(SetKey, SetValue)>) -> Option<NftChange> {
    (!elements.is_empty()).then_some(NftChange::DeleteElements(set, elements))
}
