//! What the agent has to know of its own host besides the rows that it manages.

use std::{net::IpAddr, sync::Arc};

use crate::{
    kernel::{KernelError, LinuxKernel, LocalPrefix},
    model::{Cluster, HostFacts, MarkMask, NetnsRef, NodeId},
};

/// This host.
#[derive(Clone)]
pub(super) struct Host {
    /// Its kernel.
    pub(super) kernel: Arc<LinuxKernel>,
    /// The bits of the mark that are ours, by configuration.
    pub(super) mark_mask: MarkMask,
}

impl Host {
    /// The facts that the desired state depends on, read anew: an MTU or a kernel setting may have changed.
    pub(super) async fn facts(&self, me: NodeId, cluster: &Cluster) -> Result<HostFacts, KernelError> {
        let local = cluster.nodes.get(&me).map(|node| node.underlay);
        let underlay_mtu = match local {
            Some(local) => self.kernel.underlay_mtu(local).await?,
            None => 0,
        };
        Ok(HostFacts { underlay_mtu, mark_mask: self.mark_mask, rp_filter_all: self.kernel.rp_filter_all()? })
    }

    /// The address to advertise: the given one, if this host carries it, or that of its default route.
    pub(super) async fn advertised(&self, given: Option<IpAddr>) -> Result<IpAddr, KernelError> {
        match given {
            Some(address) => self.kernel.underlay_mtu(address).await.map(|_| address),
            None => self.kernel.default_address().await,
        }
    }

    /// All prefixes that this host reaches by other means than weft.
    pub(super) async fn local_prefixes(&self) -> Result<Vec<LocalPrefix>, KernelError> {
        self.kernel.local_prefixes().await
    }

    /// Sets `lo` up in a namespace that nobody else looks after.
    pub(super) async fn set_loopback_up(&self, netns: &NetnsRef) -> Result<(), KernelError> {
        self.kernel.set_loopback_up(netns).await
    }
}
