//! The loop that makes the kernel hold what the store says: observe, compare, change, observe again.
//!
//! One task for the life of a membership. Whatever happens (the store changed, somebody touched the kernel, an attach
//! waits, a retry or the periodic look is due) only marks the loop dirty; it takes one snapshot of everything per pass. It
//! may be cut off at any step: the next pass, of this process or another, converges. It never runs before the first whole
//! snapshot of the store, so nothing is pruned for want of knowledge.

mod pass;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::{
    sync::{Notify, watch},
    time::{sleep_until, timeout},
};

pub(super) use self::pass::{Concern, Failure, Pass};
use super::{host::Host, metrics::Metrics};
use crate::{
    kernel::Kernel,
    model::{Cluster, Endpoint, EndpointId, HostState, Judgement, LinkName, NodeId},
};

/// How often to look although nothing was heard: a notification can be lost, a host can sleep.
const PERIOD: Duration = Duration::from_secs(10);
/// The first and the longest wait before trying again what failed.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// How long a link is left to end with its namespace. The kernel takes some 10 ms for that, and it takes 25 ms of a pass to
/// remove a pair, for which everybody who attaches meanwhile would wait.
const LEAVING_MAX: Duration = Duration::from_secs(1);
/// How long an operation waits for the pass that carries it out.
const PASS_WAIT: Duration = Duration::from_secs(15);

/// What others see of the loop, and how they make it run.
#[derive(Debug)]
pub(super) struct Reconciler {
    /// Endpoints that are being attached: linked like those of the store, not yet told to anybody.
    starting: Mutex<BTreeMap<EndpointId, Endpoint>>,
    /// Links whose namespaces are about to end and take them along, and until when they are left to that.
    leaving: Mutex<BTreeMap<LinkName, Instant>>,
    /// The number of the last request for a pass.
    requested: AtomicU64,
    dirty: Notify,
    passes: watch::Sender<Option<Arc<Pass>>>,
}

/// What the loop works on.
pub(super) struct Work {
    /// The kernel.
    pub(super) kernel: Arc<dyn Kernel>,
    /// What has to be known of this host.
    pub(super) host: Arc<dyn Host>,
    /// This node.
    pub(super) me: NodeId,
    /// The store's word.
    pub(super) clusters: watch::Receiver<Option<Arc<Cluster>>>,
    /// What this node has found out by itself.
    pub(super) judgements: watch::Receiver<Judgement>,
    /// Counters.
    pub(super) metrics: Arc<Metrics>,
}

impl Reconciler {
    /// A loop that has not run yet.
    pub(super) fn new() -> Self {
        Self {
            starting: Mutex::default(),
            leaving: Mutex::default(),
            requested: AtomicU64::new(0),
            dirty: Notify::new(),
            passes: watch::Sender::new(None),
        }
    }

    /// Something may have changed.
    pub(super) fn mark_dirty(&self) {
        self.dirty.notify_one();
    }

    /// The last pass.
    pub(super) fn last_pass(&self) -> Option<Arc<Pass>> {
        self.passes.borrow().clone()
    }

    /// All passes from here on.
    pub(super) fn passes(&self) -> watch::Receiver<Option<Arc<Pass>>> {
        self.passes.subscribe()
    }

    /// Waits for a pass that began after this call and knew of the store's `revision`.
    pub(super) async fn pass_with(&self, revision: u64) -> Option<Arc<Pass>> {
        let mut passes = self.passes.subscribe();
        let request = self.requested.fetch_add(1, Ordering::AcqRel) + 1;
        self.mark_dirty();
        let wanted =
            passes.wait_for(|pass| pass.as_ref().is_some_and(|p| p.covers >= request && p.revision >= revision));
        timeout(PASS_WAIT, wanted).await.ok()?.ok()?.clone()
    }

    /// Lets `endpoint` be linked ahead of its record.
    pub(super) fn start(&self, endpoint: Endpoint) {
        self.lock_starting().insert(endpoint.id, endpoint);
    }

    /// Ends what [`Self::start`] began; without a record the next pass removes its link.
    pub(super) fn forget(&self, id: EndpointId) {
        self.lock_starting().remove(&id);
    }

    /// The endpoints that are being attached.
    pub(super) fn starting(&self) -> Vec<Endpoint> {
        self.lock_starting().values().cloned().collect()
    }

    /// The endpoint's namespace is about to end: its link is left to go with it.
    pub(super) fn let_go(&self, id: EndpointId) {
        let mut leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        leaving.retain(|_, until| *until > Instant::now());
        leaving.insert(LinkName::of_endpoint(id), Instant::now() + LEAVING_MAX);
    }

    fn lock_starting(&self) -> std::sync::MutexGuard<'_, BTreeMap<EndpointId, Endpoint>> {
        self.starting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs for ever.
    pub(super) async fn run(&self, mut work: Work) {
        let mut settled: Option<HostState> = None;
        let mut retry = RETRY_MIN;
        for number in 1.. {
            // Before anything is looked at: who asks after this may have seen what this pass does not know of yet.
            let covers = self.requested.load(Ordering::Acquire);
            let cluster = work.clusters.borrow_and_update().clone();
            let judgement = work.judgements.borrow_and_update().clone();
            let mut wait = PERIOD;
            if let Some(cluster) = &cluster {
                let pass = self.pass((number, covers), &work, cluster, &judgement, &mut settled).await;
                if pass.failures.is_empty() {
                    retry = RETRY_MIN;
                } else {
                    wait = retry;
                    retry = (retry * 2).min(RETRY_MAX);
                }
                if self.leaving.lock().unwrap_or_else(PoisonError::into_inner).values().any(|until| *until > pass.ended)
                {
                    wait = wait.min(LEAVING_MAX);
                }
                self.passes.send_replace(Some(Arc::new(pass)));
            }
            if self.until_due(&mut work, cluster, wait).await.is_err() {
                return;
            }
        }
    }

    /// Waits until the next pass is due, at most for `wait`. What nodes say of themselves asks nothing of a kernel: the last
    /// pass then holds for the newer cluster too.
    async fn until_due(
        &self,
        work: &mut Work,
        mut done: Option<Arc<Cluster>>,
        wait: Duration,
    ) -> Result<(), watch::error::RecvError> {
        let until = tokio::time::Instant::now() + wait;
        loop {
            tokio::select! {
                // In order, so that a run of the simulation can be repeated; nothing else hangs on it.
                biased;
                () = self.dirty.notified() => return Ok(()),
                changed = work.clusters.changed() => {
                    changed?;
                    let newer = work.clusters.borrow_and_update().clone();
                    match (&newer, &done) {
                        (Some(newer), Some(done)) if newer.asks_the_same(done) => self.carry_on(newer.revision),
                        _ => return Ok(()),
                    }
                    done = newer;
                }
                changed = work.judgements.changed() => return changed,
                () = sleep_until(until) => return Ok(()),
            }
        }
    }

    /// The last pass holds for a later revision too.
    fn carry_on(&self, revision: u64) {
        self.passes.send_if_modified(|last| {
            let Some(pass) = last else { return false };
            *pass = Arc::new(Pass { revision, ..Pass::clone(pass) });
            true
        });
    }
}
