//! How a replica's state comes into the store.
//!
//! What the probes say is compared with what the store says, and the difference is written; so it does not matter how often a
//! write was tried, whether its answer was lost, or how long the store was away. Only the record of the very endpoint is rewritten,
//! by compare-and-swap under all its addresses, and only its state: a replica that drains goes on draining. With a state goes why it is
//! so; what later probes say is not written, so that a replica that stays unhealthy costs the store nothing.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, warn};

use super::Work;
use crate::{
    agent::configuration::put,
    model::{Cluster, Endpoint, EndpointId, EndpointState, Fault},
    store::{Compare, Outcome, Store, StoreError, Transaction, record},
};

/// Tries against others who write the same record at the same moment: a drain, a detach. There are few of them.
const TRIES_MAX: usize = 8;
/// The first and the longest wait before trying again with a store that could not be reached.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(2);

/// Writes for ever what the probes say.
pub(in crate::agent) async fn keep(mut work: Work, mut verdicts: watch::Receiver<BTreeMap<EndpointId, EndpointState>>) {
    let mut heals = work.heals.subscribe();
    let mut retry = RETRY_MIN;
    loop {
        let cluster = work.clusters.borrow_and_update().clone();
        let told = verdicts.borrow_and_update().clone();
        let done = match &cluster {
            Some(cluster) => write_all(&work, cluster, &told).await,
            None => Ok(()),
        };
        let again = match done {
            Ok(()) => {
                retry = RETRY_MIN;
                None
            }
            Err(error) => {
                warn!("the states of replicas cannot be written, trying again: {error}");
                let again = Instant::now() + retry;
                retry = (retry * 2).min(RETRY_MAX);
                Some(again)
            }
        };
        tokio::select! {
            // In order, so that a run of the simulation can be repeated; nothing else hangs on it.
            biased;
            changed = verdicts.changed() => if changed.is_err() { return },
            // While the store is away it does not change; when it is back it may not have changed.
            changed = work.clusters.changed() => if changed.is_err() { return },
            Ok(()) = heals.changed() => {}
            () = sleep_until(again.unwrap_or_else(Instant::now)), if again.is_some() => {}
        }
    }
}

async fn write_all(
    work: &Work,
    cluster: &Arc<Cluster>,
    verdicts: &BTreeMap<EndpointId, EndpointState>,
) -> Result<(), StoreError> {
    for (id, state) in verdicts {
        let Some(endpoint) = cluster.endpoints.get(id).filter(|endpoint| endpoint.node == work.me) else { continue };
        if endpoint.state != *state && endpoint.state != EndpointState::Draining {
            let fault = work.findings.fault_of(*id).filter(|_| *state == EndpointState::Unhealthy);
            let is = Condition { state: *state, fault: fault.as_deref().map(Fault::new) };
            write(&*work.store, endpoint, &is).await?;
        }
    }
    Ok(())
}

/// How a replica is.
struct Condition {
    state: EndpointState,
    fault: Option<Fault>,
}

/// Rewrites an endpoint's record with another state, unless it is gone, draining, or so already.
async fn write(store: &dyn Store, endpoint: &Endpoint, is: &Condition) -> Result<(), StoreError> {
    for _ in 0..TRIES_MAX {
        let Some(transaction) = transaction(store, endpoint, is).await? else { return Ok(()) };
        match store.commit(transaction).await? {
            Outcome::Committed(_) => return Ok(()),
            Outcome::Conflict => debug!(endpoint = %endpoint.name, "its record changed meanwhile"),
        }
    }
    // Somebody changes it all the time, so there will be another cluster, and with it another try.
    Ok(())
}

async fn transaction(
    store: &dyn Store,
    endpoint: &Endpoint,
    is: &Condition,
) -> Result<Option<Transaction>, StoreError> {
    let mut transaction = Transaction::default();
    for address in &endpoint.addresses {
        let key = record::key_of_endpoint(endpoint.network, *address);
        let records = record::State::from_snapshot(&store.snapshot(&key).await?);
        let Some((held, version)) = records.endpoint_at(endpoint.network, *address) else { return Ok(None) };
        if held.id != endpoint.id || held.state == EndpointState::Draining {
            return Ok(None);
        }
        if held.state != is.state {
            let Condition { state, fault } = is;
            let value = record::encode_endpoint(&Endpoint { state: *state, fault: fault.clone(), ..held.clone() });
            transaction.writes.push(put(key.clone(), value));
        }
        // The others too: its records shall stay the same.
        transaction.compares.push(Compare::Unchanged(key, version));
    }
    Ok(Some(transaction).filter(|transaction| !transaction.writes.is_empty()))
}
