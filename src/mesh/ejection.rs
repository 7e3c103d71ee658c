//! Passive ejection: a replica that leaves this node's connections unanswered, or refuses them, gets none for a while.
//!
//! What one node sees is its own affair: nothing is told to the store. A service's replicas are never all in doubt at once: at most half
//! of them are ejected, so a single one never is.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::model::{EndpointId, ServiceId};

/// So many failures in a row eject. One is a lost packet or a full backlog; with five, chance alone would have to drop each
/// of ten packets.
const FAILURES: u32 = 5;

/// After an ejection so many are enough: the doubt is old.
const FAILURES_ON_TRIAL: u32 = 2;

/// The first ejection's length: long beside a restart of a process, short beside a person's patience.
const EJECTION_MIN: Duration = Duration::from_secs(10);

/// Each further one is twice as long, up to this.
const EJECTION_MAX: Duration = Duration::from_secs(300);

/// After so long without an ejection, the next one is a first one.
const MEMORY: Duration = Duration::from_secs(900);

/// How a connection to a replica began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The replica has answered.
    Answered,
    /// It refused, or stayed silent.
    Failed,
}

/// What this node thinks of the replicas that it sends connections to. Times are counted from any fixed moment.
#[derive(Debug, Clone, Default)]
pub struct Ejections {
    /// The replicas that would take connections if none were ejected, by service.
    services: BTreeMap<ServiceId, BTreeSet<EndpointId>>,
    /// Those among them of which there is something to say.
    records: BTreeMap<EndpointId, Record>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Record {
    /// Failures since the last answer.
    failures: u32,
    /// Ejections within [`MEMORY`] of each other.
    times: u32,
    /// When the last one ends or ended.
    until: Option<Duration>,
    /// Whether it is ejected.
    is_ejected: bool,
}

impl Ejections {
    /// Takes over who can be chosen at all, ejected or not. What is known of anybody else is forgotten, and ejections that
    /// would be more than half of a service's replicas end, those that are nearest to their end first.
    pub fn set_services(&mut self, services: BTreeMap<ServiceId, BTreeSet<EndpointId>>) {
        self.services = services;
        let known: BTreeSet<EndpointId> = self.services.values().flatten().copied().collect();
        self.records.retain(|replica, _| known.contains(replica));
        for replicas in self.services.values() {
            let mut ejected: Vec<(Option<Duration>, EndpointId)> = replicas
                .iter()
                .filter_map(|replica| Some((self.records.get(replica)?, *replica)))
                .filter(|(record, _)| record.is_ejected)
                .map(|(record, replica)| (record.until, replica))
                .collect();
            ejected.sort_unstable();
            let too_many = ejected.len().saturating_sub(replicas.len() / 2);
            for (_, replica) in ejected.into_iter().take(too_many) {
                self.records.remove(&replica);
            }
        }
    }

    /// Takes note of how a connection to one of `service`'s replicas began. True if that ejected it.
    pub fn note(&mut self, service: ServiceId, replica: EndpointId, outcome: Outcome, now: Duration) -> bool {
        if !self.services.get(&service).is_some_and(|replicas| replicas.contains(&replica)) {
            return false;
        }
        match outcome {
            Outcome::Answered => {
                let Some(record) = self.records.get_mut(&replica).filter(|record| !record.is_ejected) else {
                    // The answer to a connection from before its ejection tells nothing of now.
                    return false;
                };
                record.failures = 0;
                if record.times == 0 {
                    self.records.remove(&replica);
                }
                false
            }
            Outcome::Failed => self.note_failure(service, replica, now),
        }
    }

    fn note_failure(&mut self, service: ServiceId, replica: EndpointId, now: Duration) -> bool {
        let may_eject = self.may_eject(service);
        let record = self.records.entry(replica).or_default();
        if record.is_ejected {
            return false;
        }
        if record.until.is_some_and(|until| now.saturating_sub(until) >= MEMORY) {
            *record = Record { failures: record.failures, ..Record::default() };
        }
        record.failures = record.failures.saturating_add(1);
        let enough = if record.times == 0 { FAILURES } else { FAILURES_ON_TRIAL };
        if record.failures < enough || !may_eject {
            return false;
        }
        let length = EJECTION_MIN.saturating_mul(1_u32.checked_shl(record.times).unwrap_or(u32::MAX));
        *record = Record {
            failures: 0,
            times: record.times.saturating_add(1).min(16),
            until: Some(now.saturating_add(length.min(EJECTION_MAX))),
            is_ejected: true,
        };
        true
    }

    fn may_eject(&self, service: ServiceId) -> bool {
        let Some(replicas) = self.services.get(&service) else { return false };
        let ejected = replicas.iter().filter(|replica| self.is_ejected(**replica)).count();
        ejected < replicas.len() / 2
    }

    fn is_ejected(&self, replica: EndpointId) -> bool {
        self.records.get(&replica).is_some_and(|record| record.is_ejected)
    }

    /// Ends the ejections whose time is over: those replicas are tried again.
    pub fn end_due(&mut self, now: Duration) {
        for record in self.records.values_mut() {
            record.is_ejected &= record.until.is_none_or(|until| until > now);
        }
        self.records.retain(|_, record| {
            let is_remembered = record.until.is_some_and(|until| now.saturating_sub(until) < MEMORY);
            record.is_ejected || record.failures > 0 || is_remembered
        });
    }

    /// When the next ejection ends.
    pub fn next_end(&self) -> Option<Duration> {
        self.records.values().filter(|record| record.is_ejected).filter_map(|record| record.until).min()
    }

    /// Who is ejected.
    pub fn ejected(&self) -> BTreeSet<EndpointId> {
        self.records.iter().filter(|(_, record)| record.is_ejected).map(|(replica, _)| *replica).collect()
    }
}

#[cfg(test)]
mod tests;
