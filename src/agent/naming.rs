//! Keeps the zone of names up to date with the cluster, and serves it to the containers of this node.
//!
//! Two tasks for the life of a membership, which share nothing but the zone. A zone is built beside the old one, off the
//! runtime's threads, and then takes its place.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::member::Member;
use crate::{
    dns::{self, Tally, Trouble},
    names::Zone,
    store::Revision,
};

/// After a build there is a rest of so many times its length, so that a cluster of any size that never stops changing takes a
/// fifth of a core at most; what changes meanwhile is in the next.
const REST: u32 = 4;

/// The longest rest: names have to follow within a second.
const REST_MAX: Duration = Duration::from_millis(400);

/// How long somebody waits for his names; it is a kindness, not a condition.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The names of a membership.
#[derive(Debug, Default)]
pub(super) struct Naming {
    zones: watch::Sender<Option<Arc<Zone>>>,
    trouble: watch::Sender<Trouble>,
}

impl Naming {
    /// Why an address is not served, a line each.
    pub(super) fn troubles(&self) -> Vec<String> {
        self.trouble.borrow().values().cloned().collect()
    }

    /// Waits until the zone knows of the store's `revision`, if names are served at all: a program that starts right after its
    /// namespace was attached shall not be a stranger.
    pub(super) async fn catch_up(&self, revision: Revision) {
        if self.zones.borrow().is_none() {
            return;
        }
        let mut zones = self.zones.subscribe();
        let reached = zones.wait_for(|zone| zone.as_ref().is_some_and(|zone| zone.revision() >= revision.0));
        if timeout(WAIT_MAX, reached).await.is_err() {
            debug!("names follow late: revision {} is not in them yet", revision.0);
        }
    }
}

/// Serves names for as long as the membership lives.
pub(super) fn start(member: &Member, resolv_conf: PathBuf, tally: Arc<dyn Tally>) {
    let Naming { zones, trouble } = &member.naming;
    let service = dns::Service { zones: zones.subscribe(), resolv_conf, tally, trouble: trouble.clone() };
    member.also_run(keep(member, zones.clone()));
    member.also_run(dns::serve(service));
}

fn keep(member: &Member, zones: watch::Sender<Option<Arc<Zone>>>) -> impl Future<Output = ()> + Send + 'static {
    let (me, mut clusters, mut judgements) = (member.me(), member.clusters.clone(), member.judgements.subscribe());
    async move {
        loop {
            let judgement = judgements.borrow_and_update().clone();
            let cluster = clusters.borrow_and_update().clone();
            if let Some(cluster) = cluster {
                let begun = Instant::now();
                match spawn_blocking(move || Zone::build(cluster, me, &judgement)).await {
                    Ok(zone) => {
                        zones.send_replace(Some(Arc::new(zone)));
                    }
                    Err(error) => warn!("names stay as they were, the new ones could not be worked out: {error}"),
                }
                sleep((begun.elapsed() * REST).min(REST_MAX)).await;
            }
            let changed = tokio::select! {
                changed = clusters.changed() => changed,
                changed = judgements.changed() => changed,
            };
            if changed.is_err() {
                return;
            }
        }
    }
}
