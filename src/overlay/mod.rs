//! The tunnel and everything that leads into it: device, forwarding entries, neighbours, routes, policy rules.
//!
//! State grows with nodes and blocks, not with containers: starting a container changes nothing on any other node.

mod device;
mod gateway;
mod policy;
mod routes;

pub use device::{carries_ipv6, fdb, neighbours, overhead, vtep};
pub use gateway::{gateway, gateways, own_address};
pub use policy::policy;
pub use routes::{attachments, routes};

use std::collections::BTreeSet;

use crate::model::{Cluster, Family, Node, NodeId};

/// The families that some network uses; rows of a family that nobody uses are not made.
pub fn families(cluster: &Cluster) -> BTreeSet<Family> {
    cluster
        .networks
        .values()
        .flat_map(|network| &network.subnets)
        .map(|subnet| Family::of(subnet.prefix.addr()))
        .collect()
}

/// All nodes but this one, living or not: a lost lease says nothing of the data plane.
pub fn peers(cluster: &Cluster, me: NodeId) -> impl Iterator<Item = &Node> {
    cluster.nodes.values().filter(move |node| node.id != me)
}
