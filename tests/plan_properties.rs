//! The laws of `plan`, for any two host states that could be.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use proptest::prelude::*;
use weft::{
    kernel::{FakeKernel, Faults},
    model::{
        Attachment, ChainName, Family, HostState, NextHop, PolicyAction, PolicyRule, Route, RouteTable, Rule, Ruleset,
        SetKey, SetName, SetValue, Slot, Sysctl,
    },
    plan::{Step, plan},
};

mod plan_world;

use plan_world::world;

/// Every row with its value, apart from what hangs on a device that the way from `from` to `to` makes anew.
fn lasting_rows(state: &HostState, from: &HostState, to: &HostState) -> BTreeSet<String> {
    let HostState { vtep, fdb, neighbours, routes, policy, links, sysctls, ruleset } = state;
    let vtep_stays = vtep_stays(from, to);
    let stays = |device: &str| match device {
        "weft.vx" => vtep_stays,
        _ => from.links.iter().any(|(name, link)| {
            name.as_str() == device && to.links.get(name).is_some_and(|other| other.is_same_pair(link))
        }),
    };
    let mut rows = BTreeSet::new();
    if vtep_stays {
        rows.extend(vtep.iter().map(|vtep| format!("vtep {}", vtep.local)));
        rows.extend(fdb.iter().map(|row| format!("fdb {row:?}")));
        rows.extend(neighbours.iter().map(|row| format!("neighbour {row:?}")));
    }
    for ((table, prefix), route) in routes {
        let device = match &route.next_hop {
            NextHop::Tunnel(_) | NextHop::TunnelLink => Some("weft.vx"),
            NextHop::Link(name) => Some(name.as_str()),
            NextHop::Local | NextHop::Unreachable => None,
        };
        if device.is_none_or(stays) {
            rows.insert(format!("route {prefix} {table:?} {route:?}"));
        }
    }
    rows.extend(policy.iter().map(|rule| format!("policy {rule:?}")));
    rows.extend(links.iter().map(|link| format!("link {link:?}")));
    // A pair lives on whatever its MTU, and whichever path leads to it.
    rows.extend(links.iter().map(|(name, Attachment { netns, ifname, addresses, mtu: _ })| {
        format!("pair {name} {} {ifname} {addresses:?}", netns.inode)
    }));
    for (Sysctl(path), value) in sysctls {
        if path.split('/').find(|word| word.starts_with("weft.")).is_none_or(stays) {
            rows.insert(format!("sysctl {path} {value}"));
        }
    }
    if let Some(Ruleset { sets, chains }) = ruleset {
        rows.extend(chains.iter().map(|chain| format!("chain {chain:?}")));
        for (set, elements) in sets {
            rows.insert(format!("set {set}"));
            rows.extend(elements.iter().map(|element| format!("element {set} {element:?}")));
        }
    }
    rows
}

fn vtep_stays(from: &HostState, to: &HostState) -> bool {
    matches!((&from.vtep, &to.vtep), (Some(from), Some(to)) if from.local == to.local)
}

/// What leads to something that is not there, by law.
fn loose_ends(state: &HostState) -> BTreeMap<&'static str, String> {
    let mut ends = BTreeMap::new();
    if let Some(row) = state.neighbours.iter().find(|(_, mac)| !state.fdb.contains_key(mac)) {
        ends.insert("neighbours resolve to known VTEPs", format!("{row:?}"));
    }
    let goes_nowhere = |rule: &&PolicyRule| match rule.action {
        PolicyAction::Lookup(table) => !state.routes.keys().any(|(of, _)| *of == table),
        PolicyAction::Goto(_) | PolicyAction::Nop => false,
    };
    if let Some(rule) = state.policy.iter().find(goes_nowhere) {
        ends.insert("policy rules lead to tables with routes", format!("{rule:?}"));
    }
    let Some(ruleset) = &state.ruleset else {
        if let Some(link) = state.links.keys().next() {
            ends.insert("containers are guarded", format!("{link}"));
        }
        return ends;
    };
    let is_routed = |address: IpAddr| {
        let leads = |route: &Route| route.next_hop != NextHop::Unreachable;
        let mut covering = state.routes.iter().filter(|((table, _), route)| *table == RouteTable::MAIN && leads(route));
        covering.any(|((_, prefix), _)| prefix.contains(&address))
    };
    // Every slot that a connection can be given leads somewhere.
    let entrances = [ChainName::NatPrerouting, ChainName::NatOutput];
    let is_open = entrances.iter().any(|name| ruleset.chains.get(name).is_some_and(|chain| !chain.rules.is_empty()));
    let entered = ruleset.sets.values().flat_map(BTreeMap::values).filter_map(|value| value.chain());
    for rule in entered.filter(|_| is_open).flat_map(|chain| &ruleset.chains[&chain].rules) {
        let (map, first, slots) = match *rule {
            Rule::BalancePort { family, shard, first, slots, .. }
            | Rule::RememberPort { family, shard, first, slots, .. } => (SetName::Targets(family, shard), first, slots),
            Rule::BalanceVip { family, shard, first, slots, .. }
            | Rule::RememberVip { family, shard, first, slots, .. } => (SetName::Replicas(family, shard), first, slots),
            _ => continue,
        };
        let map = &ruleset.sets[&map];
        for slot in first.0..first.0 + u32::from(slots) {
            let target = match map.get(&SetKey::Slot(Slot(slot))) {
                Some(SetValue::Address(address)) => Some(*address),
                Some(SetValue::Target(target)) => Some(target.ip()),
                Some(
                    SetValue::Nothing
                    | SetValue::Goto(_)
                    | SetValue::Mark(_)
                    | SetValue::Zone(_)
                    | SetValue::Service(_),
                )
                | None => None,
            };
            if !target.is_some_and(is_routed) {
                ends.insert("replicas have routes", format!("{rule} slot {slot}: {target:?}"));
            }
        }
    }
    // Nor is anybody remembered whom nothing leads to.
    for family in Family::BOTH.into_iter().filter(|_| is_open) {
        for key in ruleset.sets.get(&SetName::Takers(family)).into_iter().flat_map(BTreeMap::keys) {
            if !matches!(key, SetKey::Address(taker) if is_routed(*taker)) {
                ends.insert("replicas have routes", format!("{key:?}"));
            }
        }
    }
    for value in ruleset.sets.get(&SetName::Vteps).into_iter().flat_map(BTreeMap::values) {
        let SetValue::Mark(mark) = value else { continue };
        if !state.policy.iter().any(|rule| rule.mark.0 == *mark) {
            ends.insert("marks lead to policy rules", format!("{mark:#x}"));
        }
    }
    let covered = |address: IpAddr| {
        let networks = ruleset.sets.get(&SetName::Networks(Family::of(address))).into_iter().flat_map(BTreeMap::keys);
        networks.into_iter().any(|key| matches!(key, SetKey::Prefix(prefix) if prefix.contains(&address)))
    };
    let is_closed = ruleset.chains.get(&ChainName::Forward).is_some_and(|chain| !chain.rules.is_empty());
    let mut addresses = state.links.values().flat_map(|link| &link.addresses);
    if let Some(address) = addresses.find(|address| !is_closed || !covered(**address)) {
        ends.insert("containers are guarded", address.to_string());
    }
    ends
}

fn lines(steps: &[Step]) -> String {
    steps.iter().map(Step::to_string).collect::<Vec<_>>().join("\n")
}

/// Does what can be done, as the agent does: a step that fails does not keep the others from being done.
fn pass(kernel: &FakeKernel, desired: &HostState) -> usize {
    let steps = plan(desired, &kernel.state());
    steps.iter().filter(|step| kernel.apply_now(step).is_err()).count()
}

proptest! {
    #[test]
    fn nothing_is_planned_where_nothing_differs(world in world()) {
        let state = world.state();
        prop_assert_eq!(plan(&state, &state), vec![]);
    }

    #[test]
    fn a_plan_leads_from_any_state_to_any_other(from in world(), to in world()) {
        let (from, to) = (from.state(), to.state());
        let kernel = FakeKernel::new(from.clone());
        let steps = plan(&to, &from);
        for step in &steps {
            let done = kernel.apply_now(step);
            prop_assert!(done.is_ok(), "{}\nin\n{}", done.unwrap_err(), lines(&steps));
        }
        prop_assert_eq!(kernel.state(), to, "after\n{}", lines(&steps));
    }

    #[test]
    fn what_stays_is_never_missing(from in world(), to in world()) {
        let (from, to) = (from.state(), to.state());
        let before = lasting_rows(&from, &from, &to);
        let after = lasting_rows(&to, &from, &to);
        let stays: BTreeSet<&String> = before.intersection(&after).collect();
        let kernel = FakeKernel::new(from.clone());
        let steps = plan(&to, &from);
        for (index, step) in steps.iter().enumerate() {
            kernel.apply_now(step).unwrap();
            let now = lasting_rows(&kernel.state(), &from, &to);
            let missing = stays.iter().find(|row| !now.contains(**row));
            prop_assert_eq!(missing, None, "after\n{}\nof\n{}", lines(&steps[..=index]), lines(&steps));
        }
    }

    #[test]
    fn nothing_ever_leads_to_what_is_not_there(from in world(), to in world()) {
        let (from, to) = (from.state(), to.state());
        let mut excused: BTreeSet<&str> = loose_ends(&from).keys().chain(loose_ends(&to).keys()).copied().collect();
        if from.vtep.is_some() && !vtep_stays(&from, &to) {
            excused.extend(["policy rules lead to tables with routes", "replicas have routes"]);
        }
        if to.ruleset.is_none() {
            // The mesh's entrances are closed first; that takes no marks from connections that are let die anyway.
            excused.insert("marks lead to policy rules");
        }
        let kernel = FakeKernel::new(from.clone());
        let steps = plan(&to, &from);
        let links_done = steps.iter().rposition(|step| matches!(step, Step::CreateLink(..))).unwrap_or(0);
        if steps[..links_done].iter().any(|step| matches!(step, Step::DeleteLink(_))) {
            // A pair that stood in the way went before the mesh knew.
            excused.insert("replicas have routes");
        }
        for (index, step) in steps.iter().enumerate() {
            kernel.apply_now(step).unwrap();
            let end = loose_ends(&kernel.state()).into_iter().find(|(law, _)| !excused.contains(law));
            prop_assert_eq!(end, None, "after\n{}\nof\n{}", lines(&steps[..=index]), lines(&steps));
        }
    }

    #[test]
    fn a_failed_step_is_made_up_for_by_the_next_pass(from in world(), to in world()) {
        let (from, to) = (from.state(), to.state());
        for failing in 0..plan(&to, &from).len() {
            let kernel = FakeKernel::new(from.clone());
            kernel.set_faults(Faults::After(failing));
            pass(&kernel, &to);
            prop_assert_eq!(pass(&kernel, &to), 0, "after the failure of step {}", failing);
            prop_assert_eq!(kernel.state(), to.clone());
        }
    }

    #[test]
    fn a_kernel_that_fails_at_random_is_brought_round(from in world(), to in world(), seed in any::<u64>()) {
        let (from, to) = (from.state(), to.state());
        let kernel = FakeKernel::new(from);
        let mut random = seed;
        kernel.set_faults(Faults::When(Box::new(move |_| {
            // A linear congruential generator (Knuth's MMIX constants); a third of the steps fail.
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % 3 == 0
        })));
        for _ in 0..3 {
            pass(&kernel, &to);
        }
        kernel.set_faults(Faults::None);
        prop_assert_eq!(pass(&kernel, &to), 0);
        prop_assert_eq!(kernel.state(), to);
    }
}
