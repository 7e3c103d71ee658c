//! What the tests of the nftables edge share.

use weft::{model::Ruleset, plan::NftChange};

/// All changes that make a ruleset from nothing.
pub(crate) fn making(ruleset: &Ruleset) -> Vec<NftChange> {
    let sets = ruleset.sets.keys().map(|set| NftChange::AddSet(*set));
    let chains = ruleset.chains.keys().map(|chain| NftChange::AddChain(*chain));
    let elements = ruleset
        .sets
        .iter()
        .filter(|(_, elements)| !elements.is_empty())
        .map(|(set, elements)| NftChange::AddElements(*set, elements.iter().map(|(k, v)| (*k, *v)).collect()));
    let rules = ruleset.chains.iter().map(|(name, chain)| NftChange::SetRules(*name, chain.clone()));
    [NftChange::AddTable].into_iter().chain(sets).chain(chains).chain(elements).chain(rules).collect()
}
