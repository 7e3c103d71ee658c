use std::collections::BTreeMap;

use crate::model::{Availability, Cluster, Endpoint, EndpointId, EndpointState, Judgement, NodeId, ServiceId};

/// Whether a replica takes new connections, and if not, why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Balancing {
    /// It does.
    Balanced,
    /// It does although its node's lease is lost or it was ejected: no other replica is left.
    LastResort,
    /// It is still being attached, or not yet found healthy.
    Starting,
    /// Its health check fails.
    Unhealthy,
    /// This node's connections to it failed too often.
    Ejected,
    /// This node does not reach its node.
    NodeSilent,
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
            Self::LastResort => Some("in doubt, but no other replica is left"),
            Self::Starting => Some("starting"),
            Self::Unhealthy => Some("unhealthy"),
            Self::Ejected => Some("ejected here: connections to it failed"),
            Self::NodeSilent => Some("its node does not answer this one"),
            Self::Draining => Some("draining"),
            Self::NodeDrained => Some("its node is drained"),
            Self::NodeSuspended => Some("its node's lease is lost"),
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
/// A lost lease suspends a node's replicas at once, and too many failed connections eject one. If that would leave a
/// service with none, they are kept, the ejected ones first: an agent that is down, or a store that forgot a lease, must not
/// close a front door behind which the replicas still answer. A node that does not answer over the tunnel is no last resort:
/// nothing gets there, and a refusal at once is better than silence.
pub fn balancing(cluster: &Cluster, service: ServiceId, judgement: &Judgement) -> BTreeMap<EndpointId, Balancing> {
    balancing_among(cluster, cluster.replicas_of(service), judgement)
}

/// As [`balancing`] for any group of endpoints that stand in for each other.
pub fn balancing_among<'a>(
    cluster: &Cluster,
    group: impl Iterator<Item = &'a Endpoint>,
    judgement: &Judgement,
) -> BTreeMap<EndpointId, Balancing> {
    let mut verdicts: BTreeMap<EndpointId, Balancing> =
        group.map(|replica| (replica.id, verdict(cluster, replica, judgement))).collect();
    for doubtful in [Balancing::Ejected, Balancing::NodeSuspended] {
        if !verdicts.values().any(|verdict| verdict.takes_connections()) {
            for verdict in verdicts.values_mut().filter(|verdict| **verdict == doubtful) {
                *verdict = Balancing::LastResort;
            }
        }
    }
    verdicts
}

fn verdict(cluster: &Cluster, replica: &Endpoint, judgement: &Judgement) -> Balancing {
    match replica.state {
        EndpointState::Starting => return Balancing::Starting,
        EndpointState::Unhealthy => return Balancing::Unhealthy,
        EndpointState::Draining => return Balancing::Draining,
        EndpointState::Ready => {}
    }
    match cluster.nodes.get(&replica.node).map(|node| node.availability) {
        None => Balancing::NodeUnknown,
        Some(Availability::Drain) => Balancing::NodeDrained,
        Some(Availability::Active) if judgement.silent.contains(&replica.node) => Balancing::NodeSilent,
        Some(Availability::Active) if !is_alive(cluster, replica.node) => Balancing::NodeSuspended,
        Some(Availability::Active) if judgement.ejected.contains(&replica.id) => Balancing::Ejected,
        Some(Availability::Active) => Balancing::Balanced,
    }
}
