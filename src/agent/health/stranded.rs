//! Makes the kernel forget connections that wait for a first answer from a node that has fallen silent.
//!
//! Where a connection goes is decided by its first packet. Without this, a client's next SYN (a second later, and then two: RFC
//! 6298) would go to the same silent node, and so would a later connection from the same source port. Forgotten, it is the first
//! packet of a connection again, and goes to a replica that answers. Connections that were answered stay: their node may come back.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use tracing::{debug, warn};

use super::Work;
use crate::{
    mesh::peers::is_stranded,
    model::{Cluster, NodeId},
};

/// Runs for ever.
pub(in crate::agent) async fn keep(work: Work) {
    let mut judgements = work.judgements.subscribe();
    let mut known = BTreeSet::new();
    loop {
        let silent = judgements.borrow_and_update().silent.clone();
        let new: BTreeSet<NodeId> = silent.difference(&known).copied().collect();
        known = silent;
        if !new.is_empty() {
            forget(&work, &new).await;
        }
        if judgements.changed().await.is_err() {
            return;
        }
    }
}

async fn forget(work: &Work, silent: &BTreeSet<NodeId>) {
    // Once the rules lead elsewhere, or they would begin where they were.
    if work.reconciler.pass_with(0).await.is_none() {
        return;
    }
    let Some(cluster) = work.clusters.borrow().clone() else { return };
    let replicas = addresses_on(&cluster, silent);
    let kernel = work.host.kernel();
    match kernel.forget_flows(Arc::new(move |flow| is_stranded(flow, &replicas))).await {
        Ok(count) => debug!(count, "forgot connections that silent nodes had not answered"),
        Err(error) => warn!("{error}; connections that silent nodes have not answered stay there"),
    }
}

fn addresses_on(cluster: &Cluster, nodes: &BTreeSet<NodeId>) -> BTreeSet<IpAddr> {
    let there = cluster.endpoints.values().filter(|endpoint| nodes.contains(&endpoint.node));
    there.flat_map(|endpoint| endpoint.addresses.iter().copied()).collect()
}
