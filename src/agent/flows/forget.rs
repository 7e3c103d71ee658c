//! Makes the kernel forget connections that lead nowhere.
//!
//! One task for the life of a membership, woken by the passes of the reconcile loop: only once the rules lead elsewhere may a
//! connection begin anew, or it would begin where it was. It reconciles, and hears of no events: what is stale is decided from the
//! cluster as it is, so an agent that was away, or a look that failed, loses nothing. A look reads the whole table (some 1 us an
//! entry), so one is taken only when there may be something to find, and rarely besides.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    agent::{member::Member, reconciler::Pass},
    mesh::StaleFlows,
};

/// Looks without a cause: against what nobody thought of.
const PERIOD: Duration = Duration::from_mins(5);

/// After a look that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until the membership is gone.
pub(in crate::agent) async fn forget_stale(member: Weak<Member>, mut passes: watch::Receiver<Option<Arc<Pass>>>) {
    let mut seen = StaleFlows::default();
    let mut revision = None;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            biased;
            changed = passes.changed() => if changed.is_err() { return },
            () = sleep_until(next) => {}
        }
        let Some(member) = member.upgrade() else { return };
        let Some((pass, cluster)) = passes.borrow_and_update().clone().zip(member.cluster()) else {
            next = Instant::now() + RETRY;
            continue;
        };
        if pass.revision < cluster.revision {
            // Another pass is on its way.
            next = next.max(Instant::now() + RETRY);
            continue;
        }
        let is_due = Instant::now() >= next;
        if revision == Some(cluster.revision) && !is_due {
            continue;
        }
        let stale = StaleFlows::of(&cluster);
        if stale.may_have_more_than(&seen) || is_due {
            next = Instant::now() + if look(&member, &stale).await { PERIOD } else { RETRY };
        }
        // What failed may be that the rules still lead to where they did.
        if pass.failures.is_empty() {
            seen = stale;
            revision = Some(cluster.revision);
        }
    }
}

/// Whether the look could be taken.
async fn look(member: &Member, stale: &StaleFlows) -> bool {
    let forgotten = async {
        let local = member.host.local_addresses().await?;
        let stale = stale.clone();
        member.host.kernel().forget_flows(Arc::new(move |flow| stale.contains(flow, &local))).await
    };
    match forgotten.await {
        Ok(0) => debug!("no connection leads nowhere"),
        Ok(count) => info!(count, "forgot connections that led nowhere"),
        Err(error) => {
            warn!("{error}; trying again");
            return false;
        }
    }
    true
}
