//! The loop that makes the kernel hold what the store says: observe, compare, change, observe again.
//!
//! One task for the life of a membership. Whatever happens (the store changed, somebody touched the kernel, an attach
//! waits, a retry or the periodic look is due) only marks the loop dirty; it takes one snapshot of everything per pass. It
//! may be cut off at any step: the next pass, of this process or another, converges. It never runs before the first whole
//! snapshot of the store, so nothing is pruned for want of knowledge.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
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
use tracing::{debug, info, warn};

use super::{host::Host, metrics::Metrics};
use crate::{
    desired::desired,
    kernel::{Kernel, KernelError},
    model::{Cluster, Endpoint, EndpointId, HostFacts, HostState, Judgement, LinkName, NextHop, NodeId, Route},
    plan::{Step, plan},
};

/// How often to look although nothing was heard: a notification can be lost, a host can sleep.
const PERIOD: Duration = Duration::from_secs(10);
/// The first and the longest wait before trying again what failed.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Rounds of one pass. The first does the work, the second finds nothing left; a third is needed only if somebody
/// interferes meanwhile, and after that the next pass takes over.
const ROUNDS_MAX: usize = 3;
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

/// How a pass went.
#[derive(Debug, Clone)]
pub(super) struct Pass {
    /// Which pass it is, counted from 1.
    pub(super) number: u64,
    /// All requests up to this one are covered by it.
    covers: u64,
    /// The store's revision that it worked from, or a later one that asks the same of the kernel.
    pub(super) revision: u64,
    /// Whether the rule set is as that revision wants it: who is out of balancing there gets nothing new by way of this node.
    pub(super) balances: bool,
    /// When it ended.
    pub(super) ended: Instant,
    /// How long it took.
    pub(super) duration: Duration,
    /// How many steps were carried out.
    pub(super) steps: usize,
    /// What failed.
    pub(super) failures: Vec<Failure>,
    /// What of ours the kernel holds after it, and how large the tunnel's packets may be.
    pub(super) mtu: Option<u32>,
    /// This host's addresses of which it tells the others; nothing where it did not come so far as to look.
    pub(super) addresses: Option<BTreeSet<IpAddr>>,
    /// Endpoints of this node whose namespace is gone.
    pub(super) bereft: BTreeSet<EndpointId>,
}

/// A step that failed, or something that could not even be planned.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Whom it lets down.
    pub(super) concerns: Concern,
    /// What failed and why.
    pub(super) message: String,
}

/// Whom a failure lets down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Concern {
    /// All that waits for the pass: it was cut short, and may have done nothing.
    Everything,
    /// A veth pair, or the route to it.
    Link(LinkName),
    /// Rows that no endpoint waits for.
    Other,
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

    /// The steps without the removal of links that go by themselves, unless such a link stands in the way of a new one.
    fn without_leaving(&self, steps: Vec<Step>, observed: &HostState) -> Vec<Step> {
        let leaving = self.leaving.lock().unwrap_or_else(PoisonError::into_inner);
        if leaving.is_empty() {
            return steps;
        }
        let wanted: BTreeSet<(u64, String)> = steps
            .iter()
            .filter_map(|step| match step {
                Step::CreateLink(_, attachment) => Some((attachment.netns.inode, attachment.ifname.clone())),
                _ => None,
            })
            .collect();
        let goes_by_itself = |name: &LinkName| {
            leaving.get(name).is_some_and(|until| *until > Instant::now())
                && observed
                    .links
                    .get(name)
                    .is_some_and(|link| !wanted.contains(&(link.netns.inode, link.ifname.clone())))
        };
        steps.into_iter().filter(|step| !matches!(step, Step::DeleteLink(name) if goes_by_itself(name))).collect()
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

    async fn pass(
        &self,
        (number, covers): (u64, u64),
        work: &Work,
        cluster: &Cluster,
        judgement: &Judgement,
        settled: &mut Option<HostState>,
    ) -> Pass {
        let began = Instant::now();
        let (view, bereft) = self.view(work, cluster);
        let mut pass = Pass {
            number,
            covers,
            revision: cluster.revision,
            balances: false,
            ended: began,
            duration: Duration::ZERO,
            steps: 0,
            failures: Vec::new(),
            mtu: None,
            addresses: None,
            bereft,
        };
        match work.host.facts(work.me, cluster).await {
            Ok(facts) => {
                self.converge(work, &view, &facts, judgement, settled, &mut pass).await;
                pass.addresses = Some(facts.addresses);
            }
            Err(error) => pass.failures.push(error.into()),
        }
        pass.ended = Instant::now();
        pass.duration = pass.ended - began;
        work.metrics.passes.inc();
        work.metrics.pass_seconds.observe(pass.duration.as_secs_f64());
        report(&pass, self.last_pass().as_deref());
        pass
    }

    async fn converge(
        &self,
        work: &Work,
        view: &Cluster,
        facts: &HostFacts,
        judgement: &Judgement,
        settled: &mut Option<HostState>,
        pass: &mut Pass,
    ) {
        let Some(wanted) = desired(view, work.me, facts, judgement) else {
            pass.failures.push(Failure {
                concerns: Concern::Everything,
                message: format!(
                    "the store has no readable record of {:?}; what is programmed stays as it is",
                    work.me
                ),
            });
            return;
        };
        pass.mtu = wanted.vtep.map(|vtep| vtep.mtu);
        for round in 0..ROUNDS_MAX {
            let observed = match work.kernel.observe().await {
                Ok(observed) => observed,
                Err(error) => return pass.failures.push(error.into()),
            };
            if round == 0 {
                count_drift(work, settled.as_ref(), &observed, &wanted);
            }
            let steps = self.without_leaving(plan(&wanted, &observed), &observed);
            pass.balances = true;
            if steps.is_empty() {
                *settled = Some(observed);
                return;
            }
            *settled = None;
            let mut is_guarded = true;
            for step in &steps {
                if matches!(step, Step::ChangeRuleset(_)) {
                    work.metrics.count_connections(&*work.kernel, view).await;
                }
                if matches!(step, Step::CreateLink(..)) && !is_guarded {
                    // Without the rules that keep it to its own network and addresses a container shall not send at all.
                    let message = "not linked, because its rules could not be set".to_owned();
                    pass.failures.push(Failure { concerns: concern_of(step), message });
                    continue;
                }
                debug!("{step}");
                match work.kernel.apply(step).await {
                    Ok(()) => {
                        pass.steps += 1;
                        work.metrics.steps.with_label_values(&[step.kind()]).inc();
                    }
                    Err(error) => {
                        is_guarded &= !matches!(step, Step::ChangeRuleset(_));
                        pass.balances &= !matches!(step, Step::ChangeRuleset(_));
                        work.metrics.step_errors.with_label_values(&[step.kind()]).inc();
                        pass.failures.push(Failure { concerns: concern_of(step), message: error.to_string() });
                    }
                }
            }
            if !pass.failures.is_empty() {
                return;
            }
        }
        pass.failures.push(Failure {
            concerns: Concern::Other,
            message: "somebody keeps changing what weft has set; look for another program that manages these rows"
                .to_owned(),
        });
    }

    /// The store's word with this node's own knowledge laid over it: endpoints that are being attached are there already,
    /// and those whose namespace is gone are not, for a kernel cannot link what does not exist.
    fn view(&self, work: &Work, cluster: &Cluster) -> (Cluster, BTreeSet<EndpointId>) {
        let mut view = cluster.clone();
        {
            let mut starting = self.lock_starting();
            starting.retain(|id, _| !cluster.endpoints.contains_key(id));
            // One whose network has just been removed cannot be linked any more.
            let linkable = starting.iter().filter(|(_, endpoint)| cluster.networks.contains_key(&endpoint.network));
            view.endpoints.extend(linkable.map(|(id, endpoint)| (*id, endpoint.clone())));
        }
        let bereft: BTreeSet<EndpointId> = view
            .endpoints_on(work.me)
            .filter(|endpoint| !work.host.is_alive(&endpoint.netns))
            .map(|endpoint| endpoint.id)
            .collect();
        view.endpoints.retain(|id, _| !bereft.contains(id));
        (view, bereft)
    }
}

/// What differs from how we left it, and is not what we want anyway, was changed by somebody else.
fn count_drift(work: &Work, settled: Option<&HostState>, observed: &HostState, wanted: &HostState) {
    let Some(settled) = settled.filter(|settled| *settled != observed && *observed != *wanted) else { return };
    for step in plan(settled, observed) {
        info!("found changed by somebody else: {step}");
        work.metrics.drift.with_label_values(&[step.kind()]).inc();
    }
}

fn concern_of(step: &Step) -> Concern {
    match step {
        Step::CreateLink(name, _)
        | Step::UpdateLink(name, _)
        | Step::DeleteLink(name)
        | Step::PutRoute(_, _, Route { next_hop: NextHop::Link(name) }) => Concern::Link(name.clone()),
        _ => Concern::Other,
    }
}

/// Says each failure once, not once a retry.
fn report(pass: &Pass, last: Option<&Pass>) {
    let known: BTreeSet<&str> =
        last.iter().flat_map(|last| &last.failures).map(|failure| failure.message.as_str()).collect();
    for failure in &pass.failures {
        if known.contains(failure.message.as_str()) {
            debug!("still: {}", failure.message);
        } else {
            warn!("{}", failure.message);
        }
    }
    if pass.failures.is_empty() && !known.is_empty() {
        info!("what had failed is mended");
    }
    if pass.steps > 0 {
        info!(steps = pass.steps, ms = pass.duration.as_millis(), revision = pass.revision, "reconciled");
    }
}

impl From<KernelError> for Failure {
    fn from(error: KernelError) -> Self {
        Self { concerns: Concern::Everything, message: error.to_string() }
    }
}
