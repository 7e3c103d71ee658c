//! One pass: what the cluster asks for now, what the kernel holds, the steps in between, and how they went.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::PoisonError,
    time::{Duration, Instant},
};

use tracing::{debug, info, warn};

use super::{Reconciler, Work};
use crate::{
    desired::desired,
    kernel::KernelError,
    model::{Cluster, EndpointId, HostFacts, HostState, Judgement, LinkName, NextHop, Route},
    plan::{Step, plan},
};

/// Rounds of one pass. The first does the work, the second finds nothing left; a third is needed only if somebody
/// interferes meanwhile, and after that the next pass takes over.
const ROUNDS_MAX: usize = 3;

/// How a pass went.
#[derive(Debug, Clone)]
pub(in crate::agent) struct Pass {
    /// Which pass it is, counted from 1.
    pub(in crate::agent) number: u64,
    /// All requests up to this one are covered by it.
    pub(in crate::agent) covers: u64,
    /// The store's revision that it worked from, or a later one that asks the same of the kernel.
    pub(in crate::agent) revision: u64,
    /// Whether the rule set is as that revision wants it: who is out of balancing there gets nothing new by way of this node.
    pub(in crate::agent) balances: bool,
    /// When it ended.
    pub(in crate::agent) ended: Instant,
    /// How long it took.
    pub(in crate::agent) duration: Duration,
    /// How many steps were carried out.
    pub(in crate::agent) steps: usize,
    /// What failed.
    pub(in crate::agent) failures: Vec<Failure>,
    /// What of ours the kernel holds after it, and how large the tunnel's packets may be.
    pub(in crate::agent) mtu: Option<u32>,
    /// This host's addresses of which it tells the others; nothing where it did not come so far as to look.
    pub(in crate::agent) addresses: Option<BTreeSet<IpAddr>>,
    /// Endpoints of this node whose namespace is gone.
    pub(in crate::agent) bereft: BTreeSet<EndpointId>,
}

/// A step that failed, or something that could not even be planned.
#[derive(Debug, Clone)]
pub(in crate::agent) struct Failure {
    /// Whom it lets down.
    pub(in crate::agent) concerns: Concern,
    /// What failed and why.
    pub(in crate::agent) message: String,
}

/// Whom a failure lets down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::agent) enum Concern {
    /// All that waits for the pass: it was cut short, and may have done nothing.
    Everything,
    /// A veth pair, or the route to it.
    Link(LinkName),
    /// Rows that no endpoint waits for.
    Other,
}

impl Reconciler {
    /// Carries out the pass of this number, which covers the requests up to `covers`. `settled` is how the last one left the kernel,
    /// if nothing was left to do then.
    pub(super) async fn pass(
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
