//! This node's sign of life: a key under a lease, renewed for as long as the agent runs.
//!
//! One task for the life of a membership. It does not end the lease when it stops: an agent that is restarted or
//! upgraded within the lease's time is never missed, and its replicas, which nobody stopped, stay in balance.

use std::{sync::Arc, time::Duration};

use tokio::{sync::watch, time::sleep};
use tracing::warn;

use super::identity::Identity;
use crate::store::{LeaseId, Store, StoreError, Transaction, Write, record};

/// How long a silent node counts as alive. Long enough for a restart of the agent or of the store, short enough that a
/// person who pulls a plug sees it in `node ls` at the second look.
pub(super) const LEASE_S: u32 = 10;
/// Three tries fit into a lease, and one more after a failure.
const RENEW_EVERY: Duration = Duration::from_secs(3);
const RETRY_AFTER: Duration = Duration::from_millis(500);
const REFUSED_AFTER: Duration = Duration::from_secs(5);

/// Keeps the sign of life up for ever. `lease` always holds the lease in use, for whoever wants to end it. When the way to the
/// store has healed, what is under way is given up and begun anew, for it may be stuck.
pub(super) async fn keep(
    store: Arc<dyn Store>,
    identity: Identity,
    lease: Arc<std::sync::Mutex<Option<LeaseId>>>,
    mut heals: watch::Receiver<u64>,
) {
    loop {
        tokio::select! {
            // In order, so that a run of the simulation can be repeated; nothing else hangs on it.
            biased;
            Ok(()) = heals.changed() => {}
            () = renew_once(&*store, &identity, &lease) => {}
        }
    }
}

/// Renews or grants the lease, and waits for as long as that is good.
async fn renew_once(store: &dyn Store, identity: &Identity, lease: &std::sync::Mutex<Option<LeaseId>>) {
    let set = |value| *lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = value;
    let held = *lease.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    let done = match held {
        Some(held) => store.renew_lease(held).await,
        None => announce(store, identity).await.map(|granted| set(Some(granted))),
    };
    match done {
        Ok(()) => sleep(RENEW_EVERY).await,
        Err(StoreError::LeaseGone(_)) => set(None),
        // It will be refused again: this node may have been removed.
        Err(error @ StoreError::Refused(_)) => {
            warn!("this node's sign of life is refused, trying again: {error}");
            sleep(REFUSED_AFTER).await;
        }
        Err(error) => {
            warn!("cannot renew this node's sign of life, trying again: {error}");
            sleep(RETRY_AFTER).await;
        }
    }
}

async fn announce(store: &dyn Store, identity: &Identity) -> Result<LeaseId, StoreError> {
    let lease = store.grant_lease(LEASE_S).await?;
    let key = record::key_of_alive(identity.node);
    let value = record::encode_alive(&identity.name);
    let transaction = Transaction { compares: vec![], writes: vec![Write::Put { key, value, lease: Some(lease) }] };
    store.commit(transaction).await?;
    Ok(lease)
}
