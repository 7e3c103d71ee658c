//! What the agent has to know of its own host besides the rows that it manages.

use std::net::IpAddr;

use crate::{
    kernel::{KernelError, netns, underlay},
    model::{Cluster, HostFacts, MarkMask, NetnsRef, NodeId},
};

/// This host.
#[derive(Debug, Clone)]
pub(super) struct Host {
    /// The bits of the mark that are ours, by configuration.
    pub(super) mark_mask: MarkMask,
}

impl Host {
    /// The facts that the desired state depends on, read anew: an MTU or a kernel setting may have changed.
    pub(super) async fn facts(&self, me: NodeId, cluster: &Cluster) -> Result<HostFacts, KernelError> {
        let local = cluster.nodes.get(&me).map(|node| node.underlay);
        let underlay_mtu = match local {
            Some(local) => underlay::mtu(local).await?,
            None => 0,
        };
        Ok(HostFacts { underlay_mtu, mark_mask: self.mark_mask, rp_filter_all: underlay::rp_filter_all()? })
    }

    /// Whether a namespace is still the one that was attached.
    pub(super) fn is_netns_alive(&self, netns: &NetnsRef) -> bool {
        netns::is_alive(netns)
    }

    /// The address to advertise: the given one, if this host carries it, or that of its default route.
    pub(super) async fn advertised(given: Option<IpAddr>) -> Result<IpAddr, KernelError> {
        match given {
            Some(address) => underlay::mtu(address).await.map(|_| address),
            None => underlay::default_address().await,
        }
    }
}
