use std::collections::BTreeMap;

use crate::model::{Availability, Cluster, Endpoint, EndpointId, EndpointState, NodeId, ServiceId};

/// Whether a replica takes new connections, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancing {
    /// It does.
    Balanced,
    /// It does although its node's lease is lost: no other replica is left, and a silent agent is not a dead container.
    LastResort,
    /// It is still being attached.
    Starting,
    /// It is on its way out.
    Draining,
    /// A person drains its node.
    NodeDrained,
    /// Its node's lease is lost.
    NodeSuspended,
    /// Its node has been removed.
    NodeUnknown,
}

impl Balancing {
    /// Whether it takes new connections.
    pub fn takes_connections(self) -> bool {
        matches!(self, Self::Balanced | Self::LastResort)
    }

    /// What there is to say about it besides yes: why it takes none, or why it still does.
    pub fn reason(self) -> Option<&'static str> {
        match self {
            Self::Balanced => None,
            Self::LastResort => Some("its node is silent, and no other replica is left"),
            Self::Starting => Some("starting"),
            Self::Draining => Some("draining"),
            Self::NodeDrained => Some("its node is drained"),
            Self::NodeSuspended => Some("its node is silent"),
            Self::NodeUnknown => Some("its node was removed"),
        }
    }
}

/// Whether a node's lease lives.
pub fn is_alive(cluster: &Cluster, node: NodeId) -> bool {
    cluster.alive.contains(&node)
}

/// The verdict on each replica of a service, in the order of their ids.
///
/// A lost lease suspends a node's replicas at once. If that would leave a service with none, they are kept: an agent that
/// is down, or a store that forgot a lease, must not close a front door behind which the replicas still answer.
pub fn balancing(cluster: &Cluster, service: ServiceId) -> BTreeMap<EndpointId, Balancing> {
    let mut verdicts: BTreeMap<EndpointId, Balancing> =
        cluster.replicas_of(service).map(|replica| (replica.id, verdict(cluster, replica))).collect();
    if !verdicts.values().any(|verdict| verdict.takes_connections()) {
        for verdict in verdicts.values_mut().filter(|verdict| **verdict == Balancing::NodeSuspended) {
            *verdict = Balancing::LastResort;
        }
    }
    verdicts
}

fn verdict(cluster: &Cluster, replica: &Endpoint) -> Balancing {
    match replica.state {
        EndpointState::Starting => return Balancing::Starting,
        EndpointState::Draining => return Balancing::Draining,
        EndpointState::Ready => {}
    }
    match cluster.nodes.get(&replica.node).map(|node| node.availability) {
        None => Balancing::NodeUnknown,
        Some(Availability::Drain) => Balancing::NodeDrained,
        Some(Availability::Active) if is_alive(cluster, replica.node) => Balancing::Balanced,
        Some(Availability::Active) => Balancing::NodeSuspended,
    }
}
