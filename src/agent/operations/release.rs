//! Gives back the addresses of endpoints whose namespace is gone: a container that was killed, a host that was rebooted.
//!
//! One task for the life of a membership, woken by the passes of the reconcile loop, which notice it. A namespace that is
//! gone is a fact of this host's own kernel, not a suspicion, so its record is deleted and not suspended.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use futures::future::join_all;
use tokio::sync::watch;
use tracing::{info, warn};

use super::{
    drain::{self, Patience},
    endpoints::withdraw,
};
use crate::{
    agent::{configuration::read, member::Member, reconciler::Pass},
    api::Refusal,
    model::{Endpoint, EndpointId},
};

/// Runs until the membership is gone.
pub(in crate::agent) async fn release_bereft(member: Weak<Member>, mut passes: watch::Receiver<Option<Arc<Pass>>>) {
    // Seen bereft in two passes: an attach that is just under way may still be refused, and cleans up after itself.
    let mut seen = BTreeSet::new();
    let mut last = 0;
    while passes.changed().await.is_ok() {
        let Some(pass) = passes.borrow_and_update().clone() else { continue };
        // The same pass once more, now for a later revision.
        if std::mem::replace(&mut last, pass.number) == pass.number {
            continue;
        }
        let bereft = pass.bereft.clone();
        let Some(member) = member.upgrade() else { return };
        // All at once: each waits for the other nodes.
        join_all(bereft.iter().filter(|id| seen.contains(*id)).map(|id| release(&member, *id))).await;
        if bereft.difference(&seen).next().is_some() {
            member.reconciler.mark_dirty();
        }
        seen = bereft;
    }
}

async fn release(member: &Member, id: EndpointId) {
    let Some(cluster) = member.cluster() else { return };
    let Some(endpoint) = cluster.endpoints.get(&id) else { return };
    match drain_and_withdraw(member, endpoint).await {
        Ok(true) => {
            member.reconciler.forget(id);
            info!(endpoint = %endpoint.name, "released: its namespace {} is gone", endpoint.netns.path);
        }
        Ok(false) => {}
        Err(refusal) => warn!(endpoint = %endpoint.name, "cannot be released yet: {refusal}"),
    }
}

/// The other nodes first: its address shall not be given away while one of them still sends a service's connections there.
async fn drain_and_withdraw(member: &Member, endpoint: &Endpoint) -> Result<bool, Refusal> {
    if endpoint.service.is_some() {
        drain::leave(member, read(&*member.store).await?, endpoint.id, Patience::Nodes).await?;
    }
    Ok(withdraw(member, endpoint).await?.is_some())
}
