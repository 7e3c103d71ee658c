//! The end of a day: all faults end, and the cluster comes to rest.

use std::time::Duration;

use futures::FutureExt as _;

use super::World;
use crate::{
    kernel::Faults,
    model,
    store::{Revision, Store as _, record},
};

/// Time in which everything must come to rest: the longest retry is 5 s, the longest wait of an operation 15 s, and an
/// operation may wait for a few of them one after the other.
const REST_MAX: Duration = Duration::from_mins(3);
/// The least time that counts as rest: a periodic look (10 s) has found nothing to do.
const REST_MIN: Duration = Duration::from_secs(12);
/// Steps without time passing after which nobody will ever rest.
const STEPS_MAX: usize = 200_000;

impl World {
    /// Ends all faults, brings every agent back, and waits until there is nothing left to do.
    pub(super) async fn rest(&mut self) -> Result<(), String> {
        self.ledger.log("rest");
        for index in 0..self.nodes.len() {
            self.nodes[index].wire.heal();
            self.nodes[index].host.kernel.set_faults(Faults::None);
            self.nodes[index].host.kernel.fail_observations(0);
            self.nodes[index].host.sicken(0);
            self.nodes[index].host.isolate(0);
            self.start(index);
        }
        let mut rested = Duration::ZERO;
        loop {
            let mut steps = 0;
            while self.executor.step(&self.dice) {
                self.welcome();
                self.check()?;
                steps += 1;
                if steps > STEPS_MAX {
                    return Err("the agents never come to rest".to_owned());
                }
            }
            let restless = self.restless();
            match restless {
                None if rested >= REST_MIN => return self.stay_quiet().await,
                Some(why) if rested >= REST_MAX => return Err(format!("no rest after {REST_MAX:?}: {why}")),
                _ => {}
            }
            self.pass_time(500).await;
            rested += Duration::from_millis(500);
        }
    }

    /// Nobody writes into the store of a cluster in which nothing happens: no report leads to the next.
    async fn stay_quiet(&mut self) -> Result<(), String> {
        let before = self.revision();
        for _ in 0..24 {
            self.pass_time(500).await;
            while self.executor.step(&self.dice) {}
        }
        match self.revision() - before {
            0 => Ok(()),
            writes => Err(format!("{writes} writes within 12 s of a cluster at rest")),
        }
    }

    /// What keeps the cluster from rest.
    fn restless(&self) -> Option<String> {
        if let Some(operation) = self.executor.operations().next() {
            return Some(format!("{operation} has not ended"));
        }
        let snapshot = self.store.snapshot(record::PREFIX).now_or_never()?.ok()?;
        for node in &self.nodes {
            let Some(member) = &node.member else { continue };
            let alive = record::key_of_alive(member.me());
            if !snapshot.entries.iter().any(|entry| entry.key == alive) {
                return Some(format!("{} gives no sign of life", node.name));
            }
            let Some(pass) = member.reconciler.last_pass() else {
                return Some(format!("{} has never looked at its kernel", node.name));
            };
            if Revision(pass.revision) < snapshot.revision {
                return Some(format!("{} is behind the store", node.name));
            }
            if let Some(failure) = pass.failures.first() {
                return Some(format!("{}: {}", node.name, failure.message));
            }
            if let Some(silent) = member.judgement().silent.first() {
                return Some(format!("{} takes {silent:?} for silent", node.name));
            }
            let cluster = member.cluster()?;
            let is_sick = |state| matches!(state, model::EndpointState::Starting | model::EndpointState::Unhealthy);
            if let Some(sick) = cluster.endpoints_on(member.me()).find(|each| is_sick(each.state)) {
                return Some(format!("{} of {} is {}", sick.name, node.name, sick.state.as_str()));
            }
            if let Some(bereft) = pass.bereft.first() {
                return Some(format!("{}: {bereft} has no namespace", node.name));
            }
        }
        None
    }
}
