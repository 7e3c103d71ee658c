//! Gives back the addresses of endpoints whose namespace is gone: a container that was killed, a host that was rebooted.
//!
//! One task for the life of a membership, woken by the passes of the reconcile loop, which notice it. A namespace that is
//! gone is a fact of this host's own kernel, not a suspicion, so its record is deleted and not suspended.

use std::{
    collections::BTreeSet,
    sync::{Arc, Weak},
};

use tokio::sync::watch;
use tracing::{info, warn};

use super::endpoints::withdraw;
use crate::{
    agent::{member::Member, reconciler::Pass},
    model::EndpointId,
};

/// Runs until the membership is gone.
pub(in crate::agent) async fn release_bereft(member: Weak<Member>, mut passes: watch::Receiver<Option<Arc<Pass>>>) {
    // Seen bereft in two passes: an attach that is just under way may still be refused, and cleans up after itself.
    let mut seen = BTreeSet::new();
    while passes.changed().await.is_ok() {
        let bereft = passes.borrow_and_update().as_ref().map(|pass| pass.bereft.clone()).unwrap_or_default();
        let Some(member) = member.upgrade() else { return };
        for id in bereft.iter().filter(|id| seen.contains(*id)) {
            release(&member, *id).await;
        }
        if bereft.difference(&seen).next().is_some() {
            member.reconciler.mark_dirty();
        }
        seen = bereft;
    }
}

async fn release(member: &Member, id: EndpointId) {
    let Some(cluster) = member.cluster() else { return };
    let Some(endpoint) = cluster.endpoints.get(&id) else { return };
    match withdraw(member, endpoint).await {
        Ok(Some(_)) => {
            member.reconciler.forget(id);
            info!(endpoint = %endpoint.name, "released: its namespace {} is gone", endpoint.netns.path);
        }
        Ok(None) => {}
        Err(refusal) => warn!(endpoint = %endpoint.name, "cannot be released yet: {refusal}"),
    }
}
