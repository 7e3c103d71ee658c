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
const EJECTION_MAX: Duration = Duration::from_mins(5);

/// After so long without an ejection, the next one is a first one.
const MEMORY: Duration = Duration::from_mins(15);

/// So many times that number eject without anybody else's answer meanwhile: where each client has its replica, others may have
/// nobody who asks them.
const UNCONFIRMED: u32 = 3;

/// Ports kept for each service, those that answered last: more than a service has, as a rule.
const PORTS_MAX: usize = 16;

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
    services: BTreeMap<ServiceId, Group>,
    /// Those replicas of which there is something to remember.
    records: BTreeMap<EndpointId, Record>,
}

/// A service.
#[derive(Debug, Clone, Default)]
struct Group {
    /// The replicas that would take connections if none were ejected.
    replicas: BTreeSet<EndpointId>,
    /// Ports on which a replica has answered, the last one last. On another port failing proves nothing: a VIP takes every port, and
    /// most are closed.
    ports: Vec<Port>,
}

#[derive(Debug, Clone)]
struct Port {
    number: u16,
    answers: u64,
    runs: BTreeMap<EndpointId, Run>,
}

/// Failures in a row.
#[derive(Debug, Clone, Copy)]
struct Run {
    failures: u32,
    /// The port's answers before it.
    answers_before: u64,
}

/// The ejections of a replica.
#[derive(Debug, Clone, Copy)]
struct Record {
    /// How many, within [`MEMORY`] of each other.
    times: u32,
    /// When the last one ends or ended.
    until: Duration,
    is_ejected: bool,
}

impl Ejections {
    /// Takes over who can be chosen at all, ejected or not. What is known of anybody else is forgotten, and ejections that
    /// would be more than half of a service's replicas end, those that are nearest to their end first.
    pub fn set_services(&mut self, services: BTreeMap<ServiceId, BTreeSet<EndpointId>>) {
        self.services.retain(|service, _| services.contains_key(service));
        for (service, replicas) in services {
            let group = self.services.entry(service).or_default();
            for port in &mut group.ports {
                port.runs.retain(|replica, _| replicas.contains(replica));
            }
            group.replicas = replicas;
        }
        let known: BTreeSet<EndpointId> = self.services.values().flat_map(|group| &group.replicas).copied().collect();
        self.records.retain(|replica, _| known.contains(replica));
        for Group { replicas, .. } in self.services.values() {
            let mut ejected: Vec<(Duration, EndpointId)> = replicas
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

    /// Takes note of how a connection to a port of one of `service`'s replicas began. True if that ejected it. What comes late for one that
    /// is ejected tells nothing of now.
    pub fn note(
        &mut self,
        service: ServiceId,
        replica: EndpointId,
        port: u16,
        outcome: Outcome,
        now: Duration,
    ) -> bool {
        let may_eject = self.may_eject(service);
        let (is_ejected, enough) = match self.records.get(&replica) {
            None => (false, FAILURES),
            Some(record) if record.is_over(now) => (record.is_ejected, FAILURES),
            Some(record) => (record.is_ejected, FAILURES_ON_TRIAL),
        };
        let Some(group) = self.services.get_mut(&service).filter(|group| group.replicas.contains(&replica)) else {
            return false;
        };
        if is_ejected {
            return false;
        }
        match outcome {
            Outcome::Answered => {
                group.answered(port, replica);
                false
            }
            Outcome::Failed if group.failed(port, replica, enough) && may_eject => {
                for port in &mut group.ports {
                    port.runs.remove(&replica);
                }
                self.eject(replica, now);
                true
            }
            Outcome::Failed => false,
        }
    }

    fn eject(&mut self, replica: EndpointId, now: Duration) {
        let times = self.records.get(&replica).filter(|record| !record.is_over(now)).map_or(0, |record| record.times);
        let length = EJECTION_MIN.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX)).min(EJECTION_MAX);
        // Sixteen doublings are far beyond the longest.
        let times = times.saturating_add(1).min(16);
        self.records.insert(replica, Record { times, until: now.saturating_add(length), is_ejected: true });
    }

    fn may_eject(&self, service: ServiceId) -> bool {
        let Some(Group { replicas, .. }) = self.services.get(&service) else { return false };
        let ejected = replicas.iter().filter(|replica| self.is_ejected(**replica)).count();
        ejected < replicas.len() / 2
    }

    fn is_ejected(&self, replica: EndpointId) -> bool {
        self.records.get(&replica).is_some_and(|record| record.is_ejected)
    }

    /// Ends the ejections whose time is over: those replicas are tried again.
    pub fn end_due(&mut self, now: Duration) {
        for record in self.records.values_mut() {
            record.is_ejected &= record.until > now;
        }
        self.records.retain(|_, record| !record.is_over(now));
    }

    /// When the next ejection ends.
    pub fn next_end(&self) -> Option<Duration> {
        self.records.values().filter(|record| record.is_ejected).map(|record| record.until).min()
    }

    /// Who is ejected.
    pub fn ejected(&self) -> BTreeSet<EndpointId> {
        self.records.iter().filter(|(_, record)| record.is_ejected).map(|(replica, _)| *replica).collect()
    }
}

impl Record {
    /// Whether it is so long ago that the next ejection is a first one.
    fn is_over(&self, now: Duration) -> bool {
        !self.is_ejected && now.saturating_sub(self.until) >= MEMORY
    }
}

impl Group {
    fn answered(&mut self, number: u16, replica: EndpointId) {
        let mut port = match self.ports.iter().position(|port| port.number == number) {
            Some(place) => self.ports.remove(place),
            None => Port { number, answers: 0, runs: BTreeMap::new() },
        };
        port.answers += 1;
        port.runs.remove(&replica);
        if self.ports.len() >= PORTS_MAX {
            self.ports.remove(0);
        }
        self.ports.push(port);
    }

    /// Whether these are failures enough: with somebody else's answer meanwhile, or very many.
    fn failed(&mut self, number: u16, replica: EndpointId, enough: u32) -> bool {
        let Some(port) = self.ports.iter_mut().find(|port| port.number == number) else { return false };
        let fresh = Run { failures: 0, answers_before: port.answers };
        let run = port.runs.entry(replica).or_insert(fresh);
        run.failures = run.failures.saturating_add(1);
        let is_confirmed = port.answers > run.answers_before;
        run.failures >= if is_confirmed { enough } else { enough * UNCONFIRMED }
    }
}

#[cfg(test)]
mod tests;
