//! Follows the store: a snapshot, then changes, as one value that is always whole.
//!
//! One task for the life of a membership; it ends when the membership is dropped. While the store is away the last
//! cluster stays as it was: nothing is forgotten because somebody could not be asked, or because a record turned unreadable
//! ([`record::carry_over`]). A new membership, and so a new agent, begins without that memory.

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::metrics::Metrics;
use crate::{
    model::Cluster,
    store::{
        Store, StoreError,
        record::{self, RecordError},
    },
};

/// The first and the longest wait before asking a store again that could not be reached.
const RETRY_MIN: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// How the store is, as seen from here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoreHealth {
    /// Not asked yet.
    Connecting,
    /// Its changes arrive.
    Connected,
    /// Its changes arrive, but make no cluster, and why.
    Unusable(String),
    /// It cannot be reached, and why.
    Away(String),
}

/// What a follower tells others.
#[derive(Debug)]
pub(super) struct Followed {
    /// The newest cluster; nothing until the first snapshot.
    pub(super) cluster: watch::Sender<Option<Arc<Cluster>>>,
    /// How the store is.
    pub(super) health: watch::Sender<StoreHealth>,
}

/// Follows for ever. When the way to the store has healed it begins anew at once: a watch over a connection that was broken may
/// not have noticed.
pub(super) async fn follow(
    store: Arc<dyn Store>,
    followed: Arc<Followed>,
    metrics: Arc<Metrics>,
    mut heals: watch::Receiver<u64>,
) {
    let mut retry = RETRY_MIN;
    loop {
        let end = tokio::select! {
            // In order, so that a run of the simulation can be repeated; nothing else hangs on it.
            biased;
            Ok(()) = heals.changed() => continue,
            end = follow_once(&*store, &followed, &metrics, &mut retry) => end,
        };
        if matches!(end, StoreError::Compacted(_)) {
            // Not an outage: the watch was too far behind, and a snapshot puts it right.
            continue;
        }
        match followed.health.send_replace(StoreHealth::Away(end.to_string())) {
            StoreHealth::Connected | StoreHealth::Unusable(_) => {
                warn!("the store is away, what is programmed stays: {end}");
            }
            StoreHealth::Connecting | StoreHealth::Away(_) => {}
        }
        metrics.store_up.set(0);
        tokio::select! {
            biased;
            Ok(()) = heals.changed() => retry = RETRY_MIN,
            () = sleep(retry) => retry = (retry * 2).min(RETRY_MAX),
        }
    }
}

/// One snapshot and the changes after it, until something fails.
async fn follow_once(store: &dyn Store, followed: &Followed, metrics: &Metrics, retry: &mut Duration) -> StoreError {
    let snapshot = match store.snapshot(record::PREFIX).await {
        Ok(snapshot) => snapshot,
        Err(error) => return error,
    };
    let mut watch = match store.watch(record::PREFIX, snapshot.revision).await {
        Ok(watch) => watch,
        Err(error) => return error,
    };
    let mut state = record::State::from_snapshot(&snapshot);
    if matches!(*followed.health.borrow(), StoreHealth::Connecting | StoreHealth::Away(_)) {
        info!(revision = snapshot.revision.0, "the store is connected");
    }
    publish(&state, followed, metrics);
    metrics.store_up.set(1);
    *retry = RETRY_MIN;
    while let Some(changes) = watch.next().await {
        match changes {
            Ok(changes) => {
                state.apply(&changes);
                publish(&state, followed, metrics);
            }
            Err(error) => return error,
        }
    }
    StoreError::Unavailable { store: "the cluster's store".to_owned(), reason: "the watch ended".to_owned() }
}

fn publish(state: &record::State, followed: &Followed, metrics: &Metrics) {
    match state.cluster() {
        Ok(mut cluster) => {
            if let Some(previous) = &*followed.cluster.borrow() {
                record::carry_over(previous, &mut cluster);
            }
            metrics.store_revision.set(i64::try_from(cluster.revision).unwrap_or(i64::MAX));
            metrics.unreadable.set(i64::try_from(cluster.unreadable.len()).unwrap_or(i64::MAX));
            followed.cluster.send_replace(Some(Arc::new(cluster)));
            followed.health.send_replace(StoreHealth::Connected);
        }
        // Without its own record there is no cluster to speak of; the last one stays.
        Err(error) => {
            let reason = match error {
                RecordError::NotInitialised => "the store holds no cluster: it was wiped or restored empty".to_owned(),
                RecordError::Unreadable(_) => error.to_string(),
            };
            let health = StoreHealth::Unusable(reason.clone());
            if followed.health.send_replace(health.clone()) != health {
                warn!("the store cannot be used, the last known state stays: {reason}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ClusterId, ClusterSettings, Name, Network, NetworkId, Subnet},
        store::{Transaction, Write, memory::MemoryStore},
    };

    /// Ends the task with the test.
    struct Following(tokio::task::JoinHandle<()>);

    impl Drop for Following {
        fn drop(&mut self) {
            self.0.abort();
        }
    }

    #[tokio::test]
    async fn what_was_published_stays_while_its_record_cannot_be_read() {
        let id = NetworkId::new(3).unwrap();
        let subnet = Subnet { prefix: "10.9.0.0/16".parse().unwrap(), block_len: 26 };
        let name: Name = "blue".parse().unwrap();
        let network = Network { id, name, subnets: vec![subnet], internal: false, mtu: None };
        let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: vec![] };
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let commit = async |writes| store.commit(Transaction { compares: vec![], writes }).await.unwrap();
        let put = |key: String, value: Vec<u8>| Write::Put { key, value, lease: None };
        let key = record::key_of_network(id);
        let network_record = put(key.clone(), record::encode_network(&network));
        commit(vec![put(record::CLUSTER_KEY.into(), record::encode_cluster(&settings)), network_record]).await;

        let followed = Arc::new(Followed {
            cluster: watch::Sender::new(None),
            health: watch::Sender::new(StoreHealth::Connecting),
        });
        let mut clusters = followed.cluster.subscribe();
        let metrics = Arc::new(Metrics::new().unwrap());
        let _following = Following(tokio::spawn(follow(
            Arc::clone(&store),
            Arc::clone(&followed),
            metrics,
            watch::Sender::new(0).subscribe(),
        )));
        let mut seen = async |what: &str, holds: fn(&Cluster) -> bool| {
            let told = clusters.wait_for(|cluster| cluster.as_ref().is_some_and(|cluster| holds(cluster)));
            let told = tokio::time::timeout(Duration::from_secs(10), told).await;
            told.unwrap_or_else(|_| panic!("{what} was never published")).unwrap().clone().unwrap()
        };
        seen("the network", |cluster| cluster.networks.len() == 1).await;
        commit(vec![put(key.clone(), b"{".to_vec())]).await;
        let spoilt = seen("the unreadable record", |cluster| !cluster.unreadable.is_empty()).await;
        assert_eq!(spoilt.networks.get(&id), Some(&network));
        // Kept on, whatever else changes.
        commit(vec![put(record::GENERATION_KEY.into(), b"{".to_vec())]).await;
        let later = seen("a second unreadable record", |cluster| cluster.unreadable.len() == 2).await;
        assert_eq!(later.networks.get(&id), Some(&network));
        // As after a restore of nothing.
        let mut health = followed.health.subscribe();
        let cluster_record = put(record::CLUSTER_KEY.into(), record::encode_cluster(&settings));
        for spoil in [Write::Delete { key: record::CLUSTER_KEY.into() }, put(record::CLUSTER_KEY.into(), b"{".to_vec())]
        {
            commit(vec![spoil]).await;
            let told = health.wait_for(|health| matches!(health, StoreHealth::Unusable(_)));
            let told = tokio::time::timeout(Duration::from_secs(10), told).await.unwrap().unwrap().clone();
            assert!(!format!("{told:?}").contains("delete"), "{told:?}");
            assert!(followed.cluster.borrow().is_some());
            commit(vec![cluster_record.clone()]).await;
            let mended = health.wait_for(|health| *health == StoreHealth::Connected);
            tokio::time::timeout(Duration::from_secs(10), mended).await.unwrap().unwrap();
        }
        commit(vec![Write::Delete { key }]).await;
        seen("the deletion", |cluster| cluster.networks.is_empty()).await;
    }
}
