//! What nodes have told each other about replicas on their way out.

use std::collections::BTreeSet;

use crate::model::{Cluster, Draining, Endpoint, NodeId};

/// The revision from which a replica is out of balancing by somebody's wish, by its own or its node's; nothing if nobody wishes it.
pub fn drained_since(cluster: &Cluster, replica: &Endpoint) -> Option<u64> {
    replica.service?;
    let wishes = [Draining::Endpoint(replica.id), Draining::Node(replica.node)];
    wishes.iter().filter_map(|wish| cluster.drains.get(wish)).min().copied()
}

/// The replicas of a node that are on their way out, and the revision from which each is.
pub fn draining_on(cluster: &Cluster, node: NodeId) -> impl Iterator<Item = (&Endpoint, u64)> {
    cluster.endpoints_on(node).filter_map(|replica| Some((replica, drained_since(cluster, replica)?)))
}

/// The live nodes that have not confirmed yet that their kernels do what the store says as of `revision`: by way of them a
/// replica that drains since then may still get new connections.
pub fn unconfirmed(cluster: &Cluster, revision: u64) -> BTreeSet<NodeId> {
    cluster.alive.iter().filter(|node| !has_confirmed(cluster, **node, revision)).copied().collect()
}

/// Whether a node has said that its kernel does what the store says as of `revision`.
pub fn has_confirmed(cluster: &Cluster, node: NodeId, revision: u64) -> bool {
    cluster.reports.get(&node).is_some_and(|report| report.revision >= revision)
}

/// The connections still open to a draining replica, as its node has counted them after every live node had taken it out
/// of balancing; nothing while that is not known.
pub fn open_connections(cluster: &Cluster, replica: &Endpoint) -> Option<u32> {
    let since = drained_since(cluster, replica)?;
    let report = cluster.reports.get(&replica.node).filter(|report| report.revision >= since)?;
    report.open.get(&replica.id).copied()
}
