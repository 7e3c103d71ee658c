//! What this node tells the others of its addresses, in its own record.
//!
//! One task for the life of a membership, woken by passes and by changes of the store. It writes only when the record does not say
//! what the last pass has seen, so that at rest nothing is written; whoever overwrites the addresses (an older agent that
//! changes the record does not know them) has them put back.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::debug;

use super::{
    configuration::{Decision, configure, put},
    reconciler::Pass,
};
use crate::{
    api::Refusal,
    model::{Cluster, Node, NodeId},
    store::{Store, record},
};

/// From one write, or try, to the next: an address that comes and goes is not worth more of the others' work.
const SPACING: Duration = Duration::from_secs(1);

/// What the task works on.
pub(super) struct Work {
    /// This node.
    pub(super) me: NodeId,
    /// Where it tells.
    pub(super) store: Arc<dyn Store>,
    /// The store's word.
    pub(super) clusters: watch::Receiver<Option<Arc<Cluster>>>,
    /// What this host is like.
    pub(super) passes: watch::Receiver<Option<Arc<Pass>>>,
}

/// Runs until the membership is gone.
pub(super) async fn keep(mut work: Work) {
    let mut not_before = Instant::now();
    loop {
        let cluster = work.clusters.borrow_and_update().clone();
        let pass = work.passes.borrow_and_update().clone();
        let node = cluster.as_ref().and_then(|cluster| cluster.nodes.get(&work.me));
        let seen = pass.as_ref().and_then(|pass| pass.addresses.as_ref());
        let news = node.zip(seen).and_then(|(node, seen)| news(node, seen));
        let mut again = None;
        if let Some(addresses) = news {
            if Instant::now() >= not_before {
                if let Err(refusal) = tell(&work, &addresses).await {
                    debug!("cannot tell the others of this node's addresses, trying again: {refusal}");
                }
                not_before = Instant::now() + SPACING;
            }
            // Also after a success: until it has come round, nobody knows.
            again = Some(not_before);
        }
        let due = async {
            match again {
                Some(again) => sleep_until(again).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            // In order, so that a run of the simulation can be repeated; nothing else hangs on it.
            biased;
            changed = work.clusters.changed() => if changed.is_err() { return },
            changed = work.passes.changed() => if changed.is_err() { return },
            () = due => {}
        }
    }
}

/// The addresses that a node's record should say and does not.
fn news(node: &Node, seen: &BTreeSet<IpAddr>) -> Option<BTreeSet<IpAddr>> {
    let addresses: BTreeSet<IpAddr> = seen.iter().copied().take(Node::ADDRESSES_MAX).collect();
    (node.addresses != addresses).then_some(addresses)
}

async fn tell(work: &Work, addresses: &BTreeSet<IpAddr>) -> Result<(), Refusal> {
    let decide = |fresh: &super::configuration::Fresh| {
        let Some(node) = fresh.cluster.nodes.get(&work.me).filter(|node| node.addresses != *addresses) else {
            return Ok(Decision::Already(()));
        };
        let node = Node { addresses: addresses.clone(), ..node.clone() };
        Ok(Decision::Write(vec![put(record::key_of_node(node.id), record::encode_node(&node))], ()))
    };
    configure(&*work.store, decide).await.map(drop)
}
