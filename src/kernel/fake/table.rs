//! The table `inet weft`, with the refusals of `nf_tables`: a transaction is done as a whole or not at all.

use std::collections::BTreeSet;

use ipnet::IpNet;

use crate::{
    model::{ChainName, Family, Ruleset, SetKey, SetName, SetSchema, SetValue},
    plan::NftChange,
};

/// Does a transaction.
pub(super) fn change(table: &mut Option<Ruleset>, changes: &[NftChange]) -> Result<(), String> {
    let undone = |reason: String| format!("{reason}, so nothing of the transaction was done");
    // Before Linux 6.2 what a transaction releases is in use until it ends.
    let before = References::of(table.as_ref());
    let mut draft = table.clone();
    for change in changes {
        apply(&mut draft, change, &before).map_err(undone)?;
    }
    let after = References::of(draft.as_ref());
    if let Some(Ruleset { sets, chains }) = &draft {
        if let Some(chain) = after.chains.iter().find(|chain| !chains.contains_key(chain)) {
            return Err(undone(format!("the chain {chain} is in use")));
        }
        if let Some(set) = after.sets.iter().find(|set| !sets.contains_key(set)) {
            return Err(undone(format!("the set {set} is in use")));
        }
    }
    *table = draft;
    Ok(())
}

/// What is pointed to, by rules and by elements.
#[derive(Default)]
struct References {
    chains: BTreeSet<ChainName>,
    sets: BTreeSet<SetName>,
}

impl References {
    fn of(table: Option<&Ruleset>) -> Self {
        let mut references = Self::default();
        let Some(Ruleset { sets, chains }) = table else { return references };
        for rule in chains.values().flat_map(|chain| &chain.rules) {
            references.chains.extend(rule.chain());
            references.sets.extend(rule.sets());
        }
        references
            .chains
            .extend(sets.values().flat_map(|elements| elements.values()).filter_map(|value| value.chain()));
        references
    }
}

fn apply(draft: &mut Option<Ruleset>, change: &NftChange, before: &References) -> Result<(), String> {
    match change {
        NftChange::AddTable => {
            draft.get_or_insert_default();
            return Ok(());
        }
        NftChange::DeleteTable => {
            return draft.take().map(drop).ok_or_else(|| "there is no table to delete".to_owned());
        }
        NftChange::AddSet(_)
        | NftChange::AddChain(_)
        | NftChange::SetRules(..)
        | NftChange::AddElements(..)
        | NftChange::DeleteElements(..)
        | NftChange::DeleteChain(_)
        | NftChange::DeleteSet(_) => {}
    }
    let table = draft.as_mut().ok_or_else(|| "there is no table inet weft".to_owned())?;
    match change {
        NftChange::AddTable | NftChange::DeleteTable => {}
        NftChange::AddSet(set) => _ = table.sets.entry(*set).or_default(),
        NftChange::AddChain(chain) => _ = table.chains.entry(*chain).or_default(),
        NftChange::SetRules(name, chain) => {
            for rule in &chain.rules {
                if let Some(set) = rule.sets().find(|set| !table.sets.contains_key(set)) {
                    return Err(format!("a rule of {name} looks up in {set}, which does not exist"));
                }
                if let Some(target) = rule.chain().filter(|target| !table.chains.contains_key(target)) {
                    return Err(format!("a rule of {name} goes to {target}, which does not exist"));
                }
            }
            let present = table.chains.get_mut(name).ok_or_else(|| format!("there is no chain {name}"))?;
            *present = chain.clone();
        }
        NftChange::AddElements(set, elements) => {
            for (key, value) in elements {
                add_element(table, *set, *key, *value)?;
            }
        }
        NftChange::DeleteElements(set, elements) => {
            let present = table.sets.get_mut(set).ok_or_else(|| format!("there is no set {set}"))?;
            for (key, value) in elements {
                if present.remove(key) != Some(*value) {
                    return Err(format!("{set} has no element {key:?} with the value {value:?}"));
                }
            }
        }
        NftChange::DeleteChain(chain) => {
            if before.chains.contains(chain) {
                return Err(format!("the chain {chain} is in use"));
            }
            table.chains.remove(chain).ok_or_else(|| format!("there is no chain {chain}"))?;
        }
        NftChange::DeleteSet(set) => {
            if before.sets.contains(set) {
                return Err(format!("the set {set} is in use"));
            }
            table.sets.remove(set).ok_or_else(|| format!("there is no set {set}"))?;
        }
    }
    Ok(())
}

fn add_element(table: &mut Ruleset, set: SetName, key: SetKey, value: SetValue) -> Result<(), String> {
    if !fits(set.schema(), key, value) {
        return Err(format!("{set} is not made of elements such as {key:?} with the value {value:?}"));
    }
    if let Some(chain) = value.chain().filter(|chain| !table.chains.contains_key(chain)) {
        return Err(format!("an element of {set} goes to {chain}, which does not exist"));
    }
    let elements = table.sets.get_mut(&set).ok_or_else(|| format!("there is no set {set}"))?;
    match elements.get(&key) {
        Some(present) if *present == value => return Ok(()),
        Some(present) => return Err(format!("{set} has the element {key:?} with the other value {present:?}")),
        None => {}
    }
    let is_interval = matches!(set.schema(), SetSchema::Prefixes(_) | SetSchema::PrefixPairs(_));
    if is_interval && elements.keys().any(|present| overlap(*present, key)) {
        return Err(format!("{key:?} overlaps with another interval of {set}"));
    }
    elements.insert(key, value);
    Ok(())
}

fn fits(schema: SetSchema, key: SetKey, value: SetValue) -> bool {
    match (schema, key, value) {
        (SetSchema::PortToChain, SetKey::Port(..), SetValue::Goto(_))
        | (SetSchema::MacToMark, SetKey::Mac(_), SetValue::Mark(_))
        | (SetSchema::DevicePortToChain, SetKey::DevicePort(..), SetValue::Goto(_))
        | (SetSchema::MacToZone, SetKey::Mac(_), SetValue::Zone(_)) => true,
        (SetSchema::AddressToChain(family), SetKey::Address(address), SetValue::Goto(_))
        | (SetSchema::AddressPortToChain(family), SetKey::AddressPort(address, ..), SetValue::Goto(_))
        | (SetSchema::AddressToService(family), SetKey::Address(address), SetValue::Service(_))
        | (SetSchema::Addresses(family), SetKey::Address(address), SetValue::Nothing)
        | (SetSchema::SlotToAddress(family), SetKey::Slot(_), SetValue::Address(address)) => {
            Family::of(address) == family
        }
        (SetSchema::SlotToTarget(family), SetKey::Slot(_), SetValue::Target(target)) => {
            Family::of(target.ip()) == family
        }
        (SetSchema::Prefixes(family), SetKey::Prefix(prefix), SetValue::Nothing) => Family::of(prefix.addr()) == family,
        (SetSchema::AddressPairs(family), SetKey::AddressPair(source, destination), SetValue::Nothing) => {
            [source, destination].into_iter().all(|address| Family::of(address) == family)
        }
        (SetSchema::PrefixPairs(family), SetKey::PrefixPair(source, destination), SetValue::Nothing) => {
            [source, destination].into_iter().all(|prefix| Family::of(prefix.addr()) == family)
        }
        _ => false,
    }
}

fn overlap(left: SetKey, right: SetKey) -> bool {
    let meet = |left: IpNet, right: IpNet| left.contains(&right) || right.contains(&left);
    match (left, right) {
        (SetKey::Prefix(left), SetKey::Prefix(right)) => meet(left, right),
        (SetKey::PrefixPair(left, left_to), SetKey::PrefixPair(right, right_to)) => {
            meet(left, right) && meet(left_to, right_to)
        }
        _ => false,
    }
}
