//! Watches how this node's connections to replicas begin, and ejects those that fail them.
//!
//! One task for the life of a membership. It must never slow traffic, nor cost more than its share: it hears at most [`EVENTS_MAX`]
//! events in each [`WINDOW`], and then closes its ears until the next one, in which time the kernel does no work for it. So above
//! that rate it sees a sample, which is enough to find out who fails. Of the connections that it hears of a bounded number is
//! watched ([`mesh::Attempts`]), and whether one was answered is not guessed from events, which may be lost, but read from
//! the kernel's table: when its time is over, or when another connection to the same replica was refused, so that the order of
//! failures and answers is that in which the connections began. An agent that stops forgets its ejections; they end with it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tracing::{info, warn};

use super::tally::Tally;
use crate::{
    agent::{member::Member, metrics::Metrics},
    kernel::{
        KernelError,
        conntrack::{Conntrack, FlowEvent, FlowEvents, FlowHandle, Happening},
    },
    mesh::{self, Attempt, Attempts, Ejections, Outcome, Roster},
    model::{Cluster, EndpointId, Judgement, L4, NodeId},
};

/// Events are counted in windows of this length.
const WINDOW: Duration = Duration::from_millis(100);

/// Events heard in a window: 10,000 a second, at some microseconds each a few hundredths of a core.
const EVENTS_MAX: usize = 1000;

/// After the socket failed.
const RETRY: Duration = Duration::from_secs(5);

/// Wakes without a cause, to look whether the membership is still there.
const IDLE_MAX: Duration = Duration::from_secs(5);

/// Runs until the membership is gone.
pub(in crate::agent) async fn eject_failing(
    member: Weak<Member>,
    conntrack: Conntrack,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
) {
    if let Err(error) = conntrack.count_bytes() {
        warn!("{error}; the bytes of connections are not counted");
    }
    loop {
        match conntrack.listen() {
            Ok(events) => {
                let Some(watcher) = Watcher::new(&member, &conntrack, &tally, &metrics) else { return };
                match watcher.run(&member, events).await {
                    Ok(()) => return,
                    Err(error) => warn!("{error}; trying again"),
                }
                let Some(member) = member.upgrade() else { return };
                forget_ejections(&member.judgements);
            }
            Err(error) => warn!("replicas that fail connections are not noticed: {error}; trying again"),
        }
        sleep(RETRY).await;
    }
}

/// Takes back all ejections: whoever would end them has ended, and the next one may be long in coming.
fn forget_ejections(judgements: &watch::Sender<Judgement>) {
    judgements.send_if_modified(|judgement| {
        let is_changed = !judgement.ejected.is_empty();
        judgement.ejected.clear();
        is_changed
    });
}

struct Watcher {
    conntrack: Conntrack,
    tally: Arc<Tally>,
    metrics: Arc<Metrics>,
    started: Instant,
    clusters: watch::Receiver<Option<Arc<Cluster>>>,
    judgements: watch::Receiver<Judgement>,
    /// The cluster that the next three were made from, and the nodes that do not answer.
    cluster: Option<(Arc<Cluster>, BTreeSet<NodeId>)>,
    roster: Roster,
    ejections: Ejections,
    attempts: Attempts<FlowHandle>,
}

impl Watcher {
    fn new(member: &Weak<Member>, conntrack: &Conntrack, tally: &Arc<Tally>, metrics: &Arc<Metrics>) -> Option<Self> {
        let member = member.upgrade()?;
        Some(Self {
            conntrack: conntrack.clone(),
            tally: Arc::clone(tally),
            metrics: Arc::clone(metrics),
            started: Instant::now(),
            clusters: member.clusters.clone(),
            judgements: member.judgements.subscribe(),
            cluster: None,
            roster: Roster::default(),
            ejections: Ejections::default(),
            attempts: Attempts::default(),
        })
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    async fn run(mut self, member: &Weak<Member>, mut events: FlowEvents) -> Result<(), KernelError> {
        let mut window = Instant::now();
        let mut heard = 0;
        loop {
            {
                let Some(member) = member.upgrade() else { return Ok(()) };
                self.follow();
                self.ejections.end_due(self.now());
                self.publish(&member);
            }
            if window.elapsed() >= WINDOW {
                (window, heard) = (Instant::now(), 0);
                events.unmute()?;
            }
            let is_full = heard >= EVENTS_MAX;
            if is_full && !events.is_muted() {
                events.mute()?;
                self.metrics.flow_pauses.inc();
            }
            let mut batch = Vec::new();
            let wake = if is_full { window + WINDOW } else { self.next_wake() };
            let is_lossy = tokio::select! {
                biased;
                changed = self.clusters.changed() => if changed.is_err() { return Ok(()) } else { false },
                changed = self.judgements.changed() => if changed.is_err() { return Ok(()) } else { false },
                () = sleep_until(wake) => false,
                lossy = events.next(EVENTS_MAX - heard, |event| batch.push(event)), if !is_full => lossy?,
            };
            heard += batch.len();
            if is_lossy {
                self.metrics.flow_pauses.inc();
            }
            self.digest(batch).await?;
        }
    }

    fn next_wake(&self) -> Instant {
        let next = [self.attempts.next_due(), self.ejections.next_end()].into_iter().flatten().min();
        let idle = Instant::now() + IDLE_MAX;
        next.map_or(idle, |next| (self.started + next).min(idle))
    }

    /// Takes over what the store says, if that or the peers' silence has changed.
    fn follow(&mut self) {
        let Some(cluster) = self.clusters.borrow_and_update().clone() else { return };
        let silent = self.judgements.borrow_and_update().silent.clone();
        if self.cluster.as_ref().is_some_and(|(known, peers)| Arc::ptr_eq(known, &cluster) && *peers == silent) {
            return;
        }
        // What was begun while a node did not answer tells of the way to it, not of its replicas.
        let known = self.cluster.take().map(|(_, silent)| silent).unwrap_or_default();
        let turned: BTreeSet<NodeId> = known.symmetric_difference(&silent).copied().collect();
        if !turned.is_empty() {
            let there = cluster.endpoints.values().filter(|endpoint| turned.contains(&endpoint.node));
            for id in self.attempts.of(&there.map(|endpoint| endpoint.id).collect()) {
                self.attempts.end(id);
            }
        }
        self.roster = Roster::of(&cluster);
        self.ejections.set_services(mesh::candidates(&cluster, &silent));
        self.tally.follow(&cluster, &self.roster);
        self.cluster = Some((cluster, silent));
    }

    fn publish(&self, member: &Member) {
        let ejected = self.ejections.ejected();
        member.judgements.send_if_modified(|judgement| {
            let is_changed = judgement.ejected != ejected;
            if is_changed {
                for back in judgement.ejected.difference(&ejected) {
                    info!(replica = %self.name_of(*back), "takes connections from this node again");
                }
                judgement.ejected.clone_from(&ejected);
            }
            is_changed
        });
    }

    fn name_of(&self, replica: EndpointId) -> String {
        let endpoint = self.cluster.as_ref().and_then(|(cluster, _)| cluster.endpoints.get(&replica));
        endpoint.map_or_else(|| replica.to_string(), |endpoint| endpoint.name.to_string())
    }

    /// Takes in what was heard, and what has had its time.
    async fn digest(&mut self, batch: Vec<FlowEvent>) -> Result<(), KernelError> {
        let now = self.now();
        // By turn, so that they are told in the order of their beginning.
        let mut outcomes = BTreeMap::new();
        let mut refusing = BTreeSet::new();
        for FlowEvent { happening, handle, flow } in batch {
            let Some(spread) = self.roster.spread(&flow) else { continue };
            match happening {
                Happening::Began => {
                    self.tally.began(spread);
                    if flow.protocol == L4::Tcp {
                        let to = (spread.replica, flow.replica.port());
                        self.attempts.begin(handle.id(), spread.service, to, handle, now);
                    }
                }
                Happening::Ended => {
                    self.tally.ended(spread, flow.bytes.unwrap_or(0));
                    // A reset in answer to the SYN ends the entry at once (`nf_conntrack_tcp_packet`), before its answer counts as one.
                    let outcome = if flow.is_answered { Outcome::Answered } else { Outcome::Failed };
                    if let Some(attempt) = self.attempts.end(handle.id()) {
                        if outcome == Outcome::Failed {
                            refusing.insert(attempt.replica);
                        }
                        outcomes.insert(attempt.turn, (attempt, outcome));
                    }
                }
            }
        }
        let due = self.attempts.due(now);
        let beside = self.attempts.of(&refusing).into_iter().filter(|id| !due.contains(id)).collect();
        for (ids, silence) in [(due, Some(Outcome::Failed)), (beside, None)] {
            self.look(ids, silence, &mut outcomes).await?;
        }
        for (Attempt { service, replica, port, .. }, outcome) in outcomes.into_values() {
            if self.ejections.note(service, replica, port, outcome, now) {
                info!(replica = %self.name_of(replica), "ejected on this node: connections to it failed");
                self.tally.ejected(service, replica);
            }
        }
        Ok(())
    }

    /// Looks at watched connections. One that has not been answered has the outcome `silence`, if that is one yet.
    async fn look(
        &mut self,
        ids: Vec<u32>,
        silence: Option<Outcome>,
        outcomes: &mut BTreeMap<u64, (Attempt<FlowHandle>, Outcome)>,
    ) -> Result<(), KernelError> {
        if ids.is_empty() {
            return Ok(());
        }
        let handles = ids.iter().filter_map(|id| self.attempts.handle(*id).cloned()).collect();
        let looked = self.conntrack.look_at(handles).await?;
        for (id, flow) in ids.into_iter().zip(looked) {
            let outcome = match flow {
                Some(flow) if flow.is_answered => Some(Outcome::Answered),
                Some(_) => silence,
                // Over already; how, the event tells, or nobody does.
                None if silence.is_none() => continue,
                None => None,
            };
            if (outcome.is_some() || silence.is_some())
                && let Some(attempt) = self.attempts.end(id)
                && let Some(outcome) = outcome
            {
                outcomes.insert(attempt.turn, (attempt, outcome));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ejections_end_with_the_watcher_that_failed() {
        let silent = BTreeSet::from([NodeId::new(3).unwrap()]);
        let ejected = BTreeSet::from([EndpointId(1), EndpointId(2)]);
        let (sender, mut judgements) = watch::channel(Judgement { silent: silent.clone(), ejected });
        forget_ejections(&sender);
        assert!(judgements.has_changed().unwrap());
        assert_eq!(*judgements.borrow_and_update(), Judgement { silent, ejected: BTreeSet::new() });
        forget_ejections(&sender);
        assert!(!judgements.has_changed().unwrap(), "nobody is woken for nothing");
    }
}
