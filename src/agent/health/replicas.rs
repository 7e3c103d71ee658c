use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use super::{Work, locked};
use crate::{
    mesh::health::{Answer, Question, Rounds},
    model::{Cluster, EndpointId, EndpointState},
};

/// Probes under way at once. Each holds a socket and some KiB; with a thousand replicas that all let a probe wait for its whole
/// second, a round takes four.
const PROBES_MAX: usize = 256;

/// Where nothing is due; the next change of the cluster comes first or it is nothing lost to look.
const IDLE: Duration = Duration::from_hours(1);

/// Asks this node's replicas for ever.
pub(in crate::agent) async fn keep(mut work: Work, verdicts: watch::Sender<BTreeMap<EndpointId, EndpointState>>) {
    let began = Instant::now();
    let mut rounds = Rounds::default();
    let mut asked = FuturesUnordered::new();
    let mut cluster = None;
    loop {
        if work.clusters.has_changed().unwrap_or(true) || cluster.is_none() {
            cluster.clone_from(&work.clusters.borrow_and_update());
            if let Some(cluster) = &cluster {
                rounds.follow(cluster, work.me, began.elapsed());
            }
        }
        while asked.len() < PROBES_MAX
            && let Some(question) = rounds.ask(began.elapsed())
        {
            let host = Arc::clone(&work.host);
            asked.push(async move {
                let answer = host.probe(question.target, &question.check).await;
                (question, answer)
            });
        }
        publish(&work, &rounds, &verdicts);
        let due = rounds
            .next_due()
            .filter(|_| asked.len() < PROBES_MAX)
            .map_or_else(|| Instant::now() + IDLE, |due| began + due);
        tokio::select! {
            // In order, so that a run of the simulation can be repeated; nothing else hangs on it.
            biased;
            changed = work.clusters.changed() => match changed {
                // Seen at the top.
                Ok(()) => work.clusters.mark_changed(),
                Err(_) => return,
            },
            Some((question, answer)) = asked.next() => {
                note(&work, cluster.as_deref(), &question, &answer);
                if let Some(state) = rounds.answer(&question, answer) {
                    tell(cluster.as_deref(), &rounds, question.replica, state);
                }
            }
            () = sleep_until(due) => {}
        }
    }
}

fn note(work: &Work, cluster: Option<&Cluster>, question: &Question, answer: &Answer) {
    let result = match answer {
        Answer::Good => "good",
        Answer::Bad(fault) => {
            debug!(endpoint = %name(cluster, question.replica), "probe failed: {fault}");
            "bad"
        }
        Answer::NotAsked(fault) => {
            debug!(endpoint = %name(cluster, question.replica), "probe not made: {fault}");
            "not_asked"
        }
    };
    work.metrics.probes.with_label_values(&[result]).inc();
}

/// What people want to know: each change of a state, with its reason.
fn tell(cluster: Option<&Cluster>, rounds: &Rounds, id: EndpointId, state: EndpointState) {
    let endpoint = name(cluster, id);
    match rounds.fault_of(id) {
        Some(fault) => warn!(%endpoint, "{}: {fault}", state.as_str()),
        None => info!(%endpoint, "{}: its probes succeed", state.as_str()),
    }
}

fn name(cluster: Option<&Cluster>, id: EndpointId) -> String {
    let endpoint = cluster.and_then(|cluster| cluster.endpoints.get(&id));
    endpoint.map_or_else(|| id.to_string(), |endpoint| endpoint.name.to_string())
}

fn publish(work: &Work, rounds: &Rounds, verdicts: &watch::Sender<BTreeMap<EndpointId, EndpointState>>) {
    *locked(&work.findings.faults) = rounds.faults();
    let new = rounds.verdicts();
    verdicts.send_if_modified(|told| {
        let is_new = *told != new;
        *told = new;
        is_new
    });
}
