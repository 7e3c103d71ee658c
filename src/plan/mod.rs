//! The difference between what should be and what is, as steps in an order that never breaks traffic.
//!
//! [`plan`] is a pure function; whoever applies its steps has nothing left to decide. A step that fails leaves the others
//! as they are: the next pass observes again and plans what is still missing.
//!
//! # The ordering law
//!
//! Rows that are there with the same value before and after are there all the time (make before break), but for those
//! that hang on a device that has to be made anew: the kernel drops them with the device, and the plan puts all of them
//! again. To that end every plan runs through these phases, and leaves out what is not needed:
//!
//! 1. **Kernel settings** that belong to no device of ours. IPv6 forwarding after all others: it makes the kernel forget the default
//!    routes of devices that are not told before to keep them.
//! 2. **The guard**: sets and chains that keep networks apart and strangers out of the tunnel, additions only. It stands
//!    before the tunnel device is up and before a new container can send its first packet. None of its rules needs a
//!    device, for all match devices by name.
//! 3. **The tunnel device**, then its settings, which exist only as long as the device does.
//! 4. **Forwarding entries**, then **neighbours**: whoever can be routed to can be resolved.
//! 5. **Links** and their settings. Living pairs first, for people wait for their connections: they get another MTU, or
//!    another path to the same namespace, in place. After the tunnel device whichever way its MTU goes. If it grew, no
//!    container may send more than the tunnel already takes. If it shrank, then the way below it has shrunk before, and
//!    packets that are too large get lost down there; a tunnel of the right MTU has this host answer them with "packet too
//!    big" (RFC 1191, RFC 8201) at once and for all containers, while changing their links takes time for each. A pair that stands in the way of a new one (its name with another attachment, or its
//!    place in the same namespace) is removed directly before, the one removal among the additions: both cannot be.
//! 6. **Routes**, wide prefixes first, so that a new block's `unreachable` route is there before an address in it is.
//! 7. **Policy rules**, targets of `goto` before those who go there.
//! 8. **The mesh**: dispatch and balancing, additions and removals in one transaction. All that it may now choose has a
//!    route; what it no longer chooses still has one, for the packets under way.
//! 9. **Removals** in reverse: policy rules, routes (narrow prefixes first), neighbours, forwarding entries, links, tunnel
//!    device. Rows that go with their device are not removed one by one.
//! 10. **The guard's removals**, after the last container that they guarded is gone.
//! 11. **Chains and sets that nothing points to any more.** Before Linux 6.2 a chain cannot be deleted in the transaction
//!     that removes the last thing that points to it, so this is one of its own.
//!
//! Phases 2, 8 and 10 become one transaction where nothing lies between them: after `nft flush ruleset` all is back at once.
//! Where the whole table goes, phase 8 closes the mesh's entrances, and the table with its guard goes last.
//!
//! A kernel setting that is no longer wanted is left as it is: nobody knows what it was before, or who else relies on it.

mod display;
mod rows;
mod ruleset;
mod step;

pub use step::{NftChange, Step};

use crate::model::HostState;

/// The steps that turn `observed` into `desired`, in the order in which they have to be done; none if they are the same.
pub fn plan(desired: &HostState, observed: &HostState) -> Vec<Step> {
    // A new field of the state has to be planned for: without its name here it does not build.
    let HostState { vtep: _, fdb: _, neighbours: _, routes: _, policy: _, links: _, sysctls: _, ruleset } = desired;
    let additions = rows::additions(desired, observed);
    let removals = rows::removals(desired, observed);
    let transactions = ruleset::transactions(ruleset.as_ref(), observed.ruleset.as_ref());
    let mut phases = Phases::default();
    phases.steps(additions.settings);
    phases.transaction(transactions.guard);
    phases.steps(additions.rows);
    phases.transaction(transactions.mesh);
    phases.steps(removals);
    phases.transaction(transactions.unguard);
    phases.close();
    phases.transaction(transactions.sweep);
    phases.close();
    phases.steps
}

/// Gathers the phases, and joins transactions that nothing lies between.
#[derive(Default)]
struct Phases {
    steps: Vec<Step>,
    open: Vec<NftChange>,
}

impl Phases {
    fn steps(&mut self, steps: Vec<Step>) {
        if !steps.is_empty() {
            self.close();
            self.steps.extend(steps);
        }
    }

    fn transaction(&mut self, changes: Vec<NftChange>) {
        if changes.contains(&NftChange::DeleteTable) {
            // The table takes with it whatever would have been changed in it.
            self.open.clear();
        }
        self.open.extend(changes);
    }

    fn close(&mut self) {
        if !self.open.is_empty() {
            self.steps.push(Step::ChangeRuleset(std::mem::take(&mut self.open)));
        }
    }
}
