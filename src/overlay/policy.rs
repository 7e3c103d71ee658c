use std::collections::BTreeSet;

use crate::model::{Cluster, Family, HostFacts, NodeId, PolicyAction, PolicyRule, RouteTable};

use super::{families, peers};

/// Our rules' places. They stand after `local` (0) and well before `main` (32766); three numbers side by side, so that a
/// foreign rule between them is unlikely.
const SKIP: u32 = 7700;
const RETURN: u32 = 7701;
const LANDING: u32 = 7702;

/// The policy rules that send a mesh reply back through its ingress node: one per remote node, which a packet
/// without our mark jumps over in one step.
pub fn policy(cluster: &Cluster, me: NodeId, facts: &HostFacts) -> BTreeSet<PolicyRule> {
    let mask = facts.mark_mask;
    families(cluster)
        .into_iter()
        .flat_map(|family| {
            let rule = move |priority, mark, action| PolicyRule { priority, ipv6: family == Family::V6, mark, action };
            let skip = rule(SKIP, (0, mask.bits()), PolicyAction::Goto(LANDING));
            let landing = rule(LANDING, (0, 0), PolicyAction::Nop);
            let returns = peers(cluster, me).map(move |peer| {
                rule(
                    RETURN,
                    (mask.mark_of(peer.id), mask.bits()),
                    PolicyAction::Lookup(RouteTable::of_ingress(peer.id)),
                )
            });
            [skip, landing].into_iter().chain(returns)
        })
        .collect()
}
