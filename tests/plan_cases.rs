//! What is planned, row by row: each case edits what is wanted, what is there, or both, and lists the steps.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use weft::{
    kernel::FakeKernel,
    model::{HostState, SetKey, SetValue, Slot},
    plan::{NftChange, Step, plan},
};

#[path = "plan_cases/base.rs"]
mod base;
#[path = "plan_cases/drift.rs"]
mod drift;
#[path = "plan_cases/links.rs"]
mod links;
#[path = "plan_cases/rows.rs"]
mod rows;
#[path = "plan_cases/table.rs"]
mod table;

use base::{REPLICAS, base, elements, ip};
use drift::drift_cases;
use links::{link_cases, living_link_cases};
use rows::{device_cases, peer_cases, policy_cases, row_cases};
use table::table_cases;

type Edit = fn(&mut HostState);

/// What is tried, how the wanted and the observed state differ from the base, and the steps that are planned.
struct Case(&'static str, Edit, Edit, &'static [&'static str]);

const AS_IS: Edit = |_| {};

fn cases() -> Vec<Case> {
    [
        device_cases(),
        row_cases(),
        policy_cases(),
        peer_cases(),
        link_cases(),
        living_link_cases(),
        table_cases(),
        drift_cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn each_difference_has_its_steps() {
    for Case(name, edit_desired, edit_observed, expected) in cases() {
        let (mut desired, mut observed) = (base(), base());
        edit_desired(&mut desired);
        edit_observed(&mut observed);
        let steps = plan(&desired, &observed);
        let lines: Vec<String> = steps.iter().map(Step::to_string).collect();
        assert_eq!(lines, expected, "{name}");
    }
}

#[test]
fn each_plan_can_be_carried_out() {
    for Case(name, edit_desired, edit_observed, _) in cases() {
        let (mut desired, mut observed) = (base(), base());
        edit_desired(&mut desired);
        edit_observed(&mut observed);
        let kernel = FakeKernel::new(observed.clone());
        for step in plan(&desired, &observed) {
            kernel.apply_now(&step).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(plan(&desired, &kernel.observe_now().unwrap()), [], "{name}");
    }
}

#[test]
fn long_lists_stay_one_change_and_one_short_line() {
    let mut desired = base();
    for slot in 0..20_000 {
        elements(&mut desired, REPLICAS).insert(SetKey::Slot(Slot(0x20000 + slot)), SetValue::Address(ip("10.9.1.5")));
    }
    let steps = plan(&desired, &base());
    let [Step::ChangeRuleset(changes)] = steps.as_slice() else { panic!("{steps:?}") };
    assert!(matches!(changes.as_slice(), [NftChange::AddElements(REPLICAS, elements)] if elements.len() == 20_000));
    assert_eq!(
        steps[0].to_string(),
        "nft add element replica4_17 { 131072 : 10.9.1.5, 131073 : 10.9.1.5, 131074 : 10.9.1.5, and 19997 more }"
    );
}

#[test]
fn every_kind_of_step_has_its_label() {
    let labels = |steps: Vec<Step>| steps.iter().map(Step::kind).collect::<std::collections::BTreeSet<_>>();
    let all = ["fdb", "link", "neighbour", "policy", "route", "ruleset", "sysctl", "vtep"];
    assert_eq!(labels(plan(&base(), &HostState::default())), all.into());
    assert_eq!(labels(plan(&HostState::default(), &base())), ["link", "policy", "route", "ruleset", "vtep"].into());
}
