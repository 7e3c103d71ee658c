//! What this node tells the others about draining: that its kernel has taken out of balancing whatever drains, and how many
//! connections its own draining replicas still have.
//!
//! One task for the life of a membership, woken by passes and by changes of the store. It writes one key under the node's lease,
//! and only when there is something new to say: a drain that its last report does not cover, or a count that has changed. A write of
//! its own asks nothing of any kernel ([`Cluster::asks_the_same`]) and covers itself, so that none leads to the next. What a
//! dead agent has said goes with its lease; the next one says it again.
//!
//! Connections are counted only once every live node has confirmed that it sends no new ones: a count of 0 that is told is the
//! end, whoever reads it.
//!
//! Nothing is confirmed while a record cannot be read whose object stays in force here, and in balancing: it may say by now that
//! the object drains. The others wait as for a node that is silent, and say so.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::reconciler::Pass;
use crate::{
    api::wire::CONFIRM_WAIT,
    kernel::Kernel,
    mesh,
    model::{Cluster, Draining, Endpoint, EndpointId, NodeId, Report},
    store::{LeaseId, Outcome, Store, StoreError, Transaction, Write, record},
};

/// How often open connections are counted at first: who waits for the last one's end shall hear of it at once.
const COUNT_EVERY_MIN: Duration = Duration::from_millis(100);
/// And at last: on a node that stays drained for days the count is of interest to nobody but people.
const COUNT_EVERY_MAX: Duration = Duration::from_secs(5);
/// The share of one core that counting may take: a host with hundreds of thousands of connections takes a while to list them.
const COUNT_SHARE: u32 = 10;
/// How often a changed count is told while it is not 0: it is for people to look at.
const TELL_EVERY: Duration = Duration::from_secs(1);
/// Before the store is asked again that could not be reached, and before the next lease is looked for.
const RETRY_AFTER: Duration = Duration::from_millis(500);

/// What the task works on.
pub(super) struct Work {
    /// This node.
    pub(super) me: NodeId,
    /// Where it tells.
    pub(super) store: Arc<dyn Store>,
    /// The lease that it tells under.
    pub(super) lease: Arc<Mutex<Option<LeaseId>>>,
    /// The kernel that counts.
    pub(super) kernel: Arc<dyn Kernel>,
    /// The store's word.
    pub(super) clusters: watch::Receiver<Option<Arc<Cluster>>>,
    /// What the kernel does.
    pub(super) passes: watch::Receiver<Option<Arc<Pass>>>,
}

/// Runs until the membership is gone.
pub(super) async fn keep(mut work: Work) {
    let mut reporter = Reporter::default();
    loop {
        let cluster = work.clusters.borrow_and_update().clone();
        let pass = work.passes.borrow_and_update().clone();
        let again = match (cluster, pass) {
            (Some(cluster), Some(pass)) => reporter.turn(&work, &cluster, &pass).await,
            _ => None,
        };
        let due = async {
            match again {
                Some(again) => sleep_until(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In order, so that a run of the simulation can be repeated; nothing else hangs on it.
            biased;
            changed = work.clusters.changed() => if changed.is_err() { return },
            changed = work.passes.changed() => if changed.is_err() { return },
            () = due => {}
        }
    }
}

/// What the task remembers. Losing it costs a count and a report.
#[derive(Default)]
struct Reporter {
    /// The last report, the revision that it was written at, and when.
    told: Option<(Report, u64, Instant)>,
    /// The revision of the last cluster that was heeded, and of the last one that may hide a drain ([`hides_a_drain`]).
    heeded: Option<u64>,
    hidden: Option<u64>,
    /// Since when each draining replica has been seen to drain.
    seen: BTreeMap<EndpointId, Instant>,
    /// The newest counts, each with the revision since which the replica drains.
    counted: BTreeMap<EndpointId, (u64, u32)>,
    /// When to count again.
    count_at: Option<Instant>,
}

impl Reporter {
    /// Says what there is to say; gives when to look again although nothing is heard.
    async fn turn(&mut self, work: &Work, cluster: &Cluster, pass: &Pass) -> Option<Instant> {
        self.heed(cluster);
        if cluster.drains.is_empty() {
            let (heeded, hidden) = (self.heeded, self.hidden);
            *self = Self { told: self.told.take(), heeded, hidden, ..Self::default() };
            return None;
        }
        let now = Instant::now();
        let said = self.said(cluster, work.me);
        let mut report = Report { revision: said.as_ref().map_or(0, |said| said.revision), open: BTreeMap::new() };
        let owed = cluster.drains.values().max().copied().unwrap_or_default();
        if report.revision < owed && pass.balances && pass.revision >= owed && self.may_confirm(pass.revision) {
            // The pass may have seen a newer cluster, which has not been heeded.
            report.revision = pass.revision.min(cluster.revision);
        }
        let replicas: Vec<(&Endpoint, u64)> = mesh::draining_on(cluster, work.me).collect();
        self.seen.retain(|id, _| replicas.iter().any(|(replica, _)| replica.id == *id));
        let mut again = None;
        let mut countable = Vec::new();
        for (replica, since) in replicas {
            let seen = *self.seen.entry(replica.id).or_insert(now);
            let mut waiting = mesh::unconfirmed(cluster, since);
            if report.revision >= since {
                waiting.remove(&work.me);
            }
            if waiting.is_empty() || now >= seen + CONFIRM_WAIT {
                countable.push((replica, since));
            } else {
                again = Some(earlier(again, seen + CONFIRM_WAIT));
            }
        }
        self.count(work, &countable, now).await;
        report.open = self.counted.iter().map(|(id, (_, open))| (*id, *open)).collect();
        again = self.count_at.map_or(again, |at| Some(earlier(again, at)));
        match self.news(&report, said.as_ref(), now) {
            News::Nothing => again,
            News::Later(at) => Some(earlier(again, at)),
            News::Now => match self.tell(work, report).await {
                Ok(()) => again,
                Err(()) => Some(earlier(again, Instant::now() + RETRY_AFTER)),
            },
        }
    }

    /// Remembers whether a cluster may hide a drain.
    fn heed(&mut self, cluster: &Cluster) {
        if self.heeded != Some(cluster.revision) {
            self.heeded = Some(cluster.revision);
            self.hidden = if hides_a_drain(cluster) {
                Some(cluster.revision)
            } else {
                self.hidden.filter(|hidden| *hidden < cluster.revision)
            };
        }
    }

    /// Whether a pass by the cluster of this revision knew all that drains.
    fn may_confirm(&self, revision: u64) -> bool {
        self.hidden.is_none_or(|hidden| revision > hidden)
    }

    /// What the others have heard of this node, or are about to: its own write may not have come round yet.
    fn said(&self, cluster: &Cluster, me: NodeId) -> Option<Report> {
        match &self.told {
            Some((report, at, _)) if *at > cluster.revision => Some(report.clone()),
            _ => cluster.reports.get(&me).cloned(),
        }
    }

    /// Counts, if it is time or a replica has not been counted yet.
    async fn count(&mut self, work: &Work, countable: &[(&Endpoint, u64)], now: Instant) {
        let is_counted = |counted: &BTreeMap<EndpointId, (u64, u32)>, replica: &Endpoint, since: u64| {
            counted.get(&replica.id).is_some_and(|(then, _)| *then == since)
        };
        self.counted
            .retain(|id, (then, _)| countable.iter().any(|(replica, since)| replica.id == *id && since == then));
        if countable.is_empty() {
            self.count_at = None;
            return;
        }
        let is_new = countable.iter().any(|(replica, since)| !is_counted(&self.counted, replica, *since));
        if !is_new && self.count_at.is_none_or(|at| now < at) {
            return;
        }
        let addresses: BTreeSet<IpAddr> =
            countable.iter().flat_map(|(replica, _)| replica.addresses.iter().copied()).collect();
        let began = Instant::now();
        match work.kernel.open_connections(&addresses).await {
            Ok(open) => {
                for (replica, since) in countable {
                    let open = replica.addresses.iter().filter_map(|address| open.get(address)).sum();
                    self.counted.insert(replica.id, (*since, open));
                }
            }
            Err(error) => warn!("the connections of draining replicas are not counted this time: {error}"),
        }
        let is_open = |(replica, since): &&(&Endpoint, u64)| {
            self.counted.get(&replica.id).is_none_or(|(then, open)| then != since || *open > 0)
        };
        let youngest = countable.iter().filter(is_open).filter_map(|(replica, _)| self.seen.get(&replica.id)).max();
        self.count_at = youngest.map(|seen| {
            let age = now.saturating_duration_since(*seen) / 100;
            now + age.max(began.elapsed() * COUNT_SHARE).clamp(COUNT_EVERY_MIN, COUNT_EVERY_MAX)
        });
    }

    /// Whether a report says more than the last one.
    fn news(&self, report: &Report, said: Option<&Report>, now: Instant) -> News {
        if report.revision > said.map_or(0, |said| said.revision) {
            return News::Now;
        }
        let Some(said) = said else { return News::Nothing };
        let mut changed = report.open.iter().filter(|(id, open)| said.open.get(id) != Some(open)).peekable();
        if changed.peek().is_none() {
            return News::Nothing;
        }
        if changed.any(|(id, open)| *open == 0 || !said.open.contains_key(id)) {
            return News::Now;
        }
        match &self.told {
            Some((_, _, when)) if now < *when + TELL_EVERY => News::Later(*when + TELL_EVERY),
            _ => News::Now,
        }
    }

    async fn tell(&mut self, work: &Work, report: Report) -> Result<(), ()> {
        let held = *work.lease.lock().unwrap_or_else(PoisonError::into_inner);
        // Without a lease this node is not alive to the others, and nobody waits for it.
        let Some(lease) = held else { return Err(()) };
        let value = record::encode_report(&report);
        let write = Write::Put { key: record::key_of_report(work.me), value, lease: Some(lease) };
        match work.store.commit(Transaction { compares: vec![], writes: vec![write] }).await {
            Ok(Outcome::Committed(at)) => {
                debug!(revision = report.revision, open = ?report.open, "reported");
                self.told = Some((report, at.0, Instant::now()));
                Ok(())
            }
            // Nothing was compared; and a new lease is looked for.
            Ok(Outcome::Conflict) | Err(StoreError::LeaseGone(_)) => Err(()),
            Err(error) => {
                debug!("cannot report on what drains, trying again: {error}");
                Err(())
            }
        }
    }
}

/// Whether an unreadable record may say that something drains which is balanced here: its last readable state stays in force
/// ([`record::carry_over`]).
fn hides_a_drain(cluster: &Cluster) -> bool {
    let unreadable: BTreeSet<&str> = cluster.unreadable.iter().map(|record| record.key.as_str()).collect();
    if unreadable.is_empty() {
        return false;
    }
    let is_hidden = |drain: Draining, keys: &[String]| {
        !cluster.drains.contains_key(&drain) && keys.iter().any(|key| unreadable.contains(key.as_str()))
    };
    let mut replicas = cluster.endpoints.values().filter(|endpoint| endpoint.service.is_some());
    cluster.nodes.keys().any(|id| is_hidden(Draining::Node(*id), &[record::key_of_node(*id)]))
        || replicas.any(|replica| is_hidden(Draining::Endpoint(replica.id), &record::keys_of_endpoint(replica)))
}

/// Whether there is something to say.
enum News {
    Nothing,
    Now,
    /// Not before this moment.
    Later(Instant),
}

fn earlier(one: Option<Instant>, other: Instant) -> Instant {
    one.map_or(other, |one| one.min(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        Availability, ClusterId, ClusterSettings, EndpointState, NetnsRef, NetworkId, Node, ServiceId, UnreadableRecord,
    };

    const REPLICA: EndpointId = EndpointId(2);

    fn me() -> NodeId {
        NodeId::new(1).unwrap()
    }

    /// One node with one replica.
    fn cluster(revision: u64, unreadable: &[&str]) -> Cluster {
        let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: vec![] };
        let mut cluster = Cluster { revision, ..Cluster::empty(settings) };
        let node = Node {
            id: me(),
            name: "h1".parse().unwrap(),
            underlay: "192.0.2.1".parse().unwrap(),
            labels: BTreeMap::new(),
            availability: Availability::Active,
            fingerprint: None,
        };
        cluster.nodes.insert(node.id, node);
        let replica = Endpoint {
            id: REPLICA,
            network: NetworkId::new(3).unwrap(),
            addresses: vec!["10.9.0.2".parse().unwrap()],
            name: "web-1".parse().unwrap(),
            aliases: vec![],
            node: me(),
            service: ServiceId::new(1),
            state: EndpointState::Ready,
            weight: 1,
            netns: NetnsRef { path: "/run/netns/x".into(), inode: 1 },
            ifname: "eth0".into(),
        };
        cluster.endpoints.insert(replica.id, replica);
        cluster.unreadable = unreadable
            .iter()
            .map(|key| UnreadableRecord { key: format!("{}{key}", record::PREFIX), reason: "torn".to_owned() })
            .collect();
        cluster
    }

    #[test]
    fn a_record_hides_a_drain_while_its_object_stays_balanced() {
        for (key, hides) in [
            ("nodes/1", true),
            ("endpoints/3/10.9.0.2", true),
            // Nothing of these is in force.
            ("nodes/2", false),
            ("endpoints/3/10.9.0.3", false),
            ("services/1", false),
        ] {
            assert_eq!(hides_a_drain(&cluster(1, &[key])), hides, "{key}");
        }
        for (drain, key) in [(Draining::Node(me()), "nodes/1"), (Draining::Endpoint(REPLICA), "endpoints/3/10.9.0.2")] {
            let mut drained = cluster(1, &[key]);
            drained.drains.insert(drain, 1);
            assert!(!hides_a_drain(&drained), "{key} drains already");
        }
        let mut alone = cluster(1, &["endpoints/3/10.9.0.2"]);
        alone.endpoints.values_mut().for_each(|endpoint| endpoint.service = None);
        assert!(!hides_a_drain(&alone), "no replica");
    }

    #[test]
    fn nothing_is_confirmed_that_an_unreadable_record_may_have_hidden() {
        let mut reporter = Reporter::default();
        reporter.heed(&cluster(5, &[]));
        assert!(reporter.may_confirm(5));
        reporter.heed(&cluster(6, &["endpoints/3/10.9.0.2"]));
        assert!(!reporter.may_confirm(6));
        reporter.heed(&cluster(7, &["endpoints/3/10.9.0.2"]));
        reporter.heed(&cluster(8, &[]));
        assert!(!reporter.may_confirm(7), "that pass did not know");
        assert!(reporter.may_confirm(8));
    }
}
