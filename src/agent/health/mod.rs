//! Health, as far as this node can see: its own replicas, which it probes and of which it tells the store, and its peers, of which
//! it tells nobody but its own reconcile loop.
//!
//! Four tasks for the life of a membership: [`replicas::keep`] asks replicas, [`verdicts::keep`] writes what came of it into the
//! store, [`peers::keep`] sends echoes, [`stranded::keep`] frees connections from silent peers. None waits for another: with the store away, probing goes on, and the verdicts are written
//! when it is back. What they know is lost with them, and is found out again in a few seconds; a replica's state is not, it lies in
//! its record.

pub(super) mod peers;
pub(super) mod replicas;
pub(super) mod stranded;
pub(super) mod verdicts;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::future::BoxFuture;
use tokio::sync::watch;

use super::{host::Host, metrics::Metrics, reconciler::Reconciler, views};
use crate::{
    api::wire::{EndpointState, ReplicaView},
    mesh::peers::PeerReport,
    model::{self, Cluster, EndpointId, Judgement, NodeId},
    store::Store,
};

/// What has been found out besides what the store and the judgement say, for people.
#[derive(Debug, Default)]
pub(super) struct Findings {
    faults: Mutex<BTreeMap<EndpointId, String>>,
    peers: Mutex<BTreeMap<NodeId, PeerReport>>,
}

impl Findings {
    /// What is wrong with a replica of this node, if its last probe failed.
    pub(super) fn fault_of(&self, id: EndpointId) -> Option<String> {
        locked(&self.faults).get(&id).cloned()
    }

    /// Adds to the replicas of this node what is wrong with those that are not balanced for it.
    pub(super) fn explain(&self, replicas: &mut [ReplicaView]) {
        let faults = locked(&self.faults);
        for replica in replicas.iter_mut().filter(|replica| !replica.balanced) {
            let fault = replica.id.parse().ok().and_then(|id: EndpointId| faults.get(&id));
            if let (EndpointState::Starting | EndpointState::Unhealthy, Some(fault)) = (replica.state, fault) {
                replica.reason = Some(format!("{}: {fault}", replica.state.as_str()));
            }
        }
    }

    /// Whether a peer answers, if it is listened for and there is an answer to that.
    pub(super) fn is_reachable(&self, id: NodeId) -> Option<bool> {
        locked(&self.peers).get(&id).filter(|peer| peer.round_trip.is_some()).map(|peer| !peer.is_silent)
    }

    /// What people should look at.
    pub(super) fn warnings(&self, cluster: &Cluster) -> Vec<String> {
        let peers = locked(&self.peers);
        let name = |id| views::node_name(cluster, id);
        let silent = peers.iter().filter(|(_, peer)| peer.is_silent).map(|(id, _)| {
            format!("the node {} does not answer over the tunnel: its replicas get no connections from here", name(*id))
        });
        let mute = peers.iter().filter(|(_, peer)| peer.is_mute).map(|(id, _)| {
            format!(
                "the node {} has never answered an echo over the tunnel: if it falls silent, that is seen by its lease alone (is ICMP filtered there?)",
                name(*id)
            )
        });
        silent.chain(mute).collect()
    }

    /// Brings the gauges up to date.
    pub(super) fn gather(&self, cluster: &Cluster, metrics: &Metrics) {
        metrics.peer_up.reset();
        metrics.peer_round_trip.reset();
        for (id, peer) in &*locked(&self.peers) {
            let name = views::node_name(cluster, *id);
            metrics.peer_up.with_label_values(&[name.as_str()]).set(i64::from(!peer.is_silent && !peer.is_mute));
            if let Some(round_trip) = peer.round_trip {
                metrics.peer_round_trip.with_label_values(&[name.as_str()]).set(round_trip.as_secs_f64());
            }
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What the tasks work on.
#[derive(Clone)]
pub(super) struct Work {
    /// This node.
    pub(super) me: NodeId,
    /// This host.
    pub(super) host: Arc<dyn Host>,
    /// Where states are written.
    pub(super) store: Arc<dyn Store>,
    /// The node whose agent holds the store, if one does.
    pub(super) holds_store: Arc<dyn Fn(&Cluster) -> Option<NodeId> + Send + Sync>,
    /// The store's word.
    pub(super) clusters: watch::Receiver<Option<Arc<Cluster>>>,
    /// Where silent peers are told.
    pub(super) judgements: watch::Sender<Judgement>,
    /// Told each time that a way to others has healed, by which requests to the store may have been stuck.
    pub(super) heals: watch::Sender<u64>,
    /// The loop that acts upon what is told.
    pub(super) reconciler: Arc<Reconciler>,
    /// What people are shown.
    pub(super) findings: Arc<Findings>,
    /// Counters.
    pub(super) metrics: Arc<Metrics>,
}

/// All that has to run.
pub(super) fn tasks(work: Work) -> Vec<BoxFuture<'static, ()>> {
    let (verdicts, told) = watch::channel(BTreeMap::<EndpointId, model::EndpointState>::new());
    vec![
        Box::pin(replicas::keep(work.clone(), verdicts)),
        Box::pin(verdicts::keep(work.clone(), told)),
        Box::pin(stranded::keep(work.clone())),
        Box::pin(peers::keep(work)),
    ]
}
