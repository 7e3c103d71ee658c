//! What the agent has to know of its own host besides the rows that it manages, and the one thing that it does there
//! besides them.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use async_trait::async_trait;

use crate::{
    kernel::{Kernel, KernelError, LinuxKernel, LocalPrefix, netns},
    model::{Cluster, Family, HostFacts, MarkMask, NetnsRef, NodeId},
    overlay,
};

/// The host that an agent runs on. The simulation has one of its own.
#[async_trait]
pub(super) trait Host: Send + Sync {
    /// Its kernel.
    fn kernel(&self) -> Arc<dyn Kernel>;

    /// The facts that the desired state depends on, read anew: an MTU or a kernel setting may have changed.
    async fn facts(&self, me: NodeId, cluster: &Cluster) -> Result<HostFacts, KernelError>;

    /// Waits until something of ours, or a device that may be the underlay, has changed.
    async fn changed(&self) -> Result<(), KernelError>;

    /// The address to advertise: the given one, if this host carries it, or that of its default route.
    async fn advertised(&self, given: Option<IpAddr>) -> Result<IpAddr, KernelError>;

    /// All prefixes that this host reaches by other means than weft.
    async fn local_prefixes(&self) -> Result<Vec<LocalPrefix>, KernelError>;

    /// See [`netns::inspect`].
    fn inspect_netns(&self, path: &str) -> Result<NetnsRef, KernelError>;

    /// See [`netns::is_alive`].
    fn is_alive(&self, netns: &NetnsRef) -> bool;

    /// Sets `lo` up in a namespace that nobody else looks after.
    async fn set_loopback_up(&self, netns: &NetnsRef) -> Result<(), KernelError>;

    /// 64 random bits.
    fn random(&self) -> Result<u64, KernelError>;
}

/// This host.
pub(super) struct LinuxHost {
    /// Its kernel.
    pub(super) kernel: Arc<LinuxKernel>,
    /// The bits of the mark that are ours, by configuration.
    pub(super) mark_mask: MarkMask,
}

#[async_trait]
impl Host for LinuxHost {
    fn kernel(&self) -> Arc<dyn Kernel> {
        Arc::<LinuxKernel>::clone(&self.kernel)
    }

    async fn facts(&self, me: NodeId, cluster: &Cluster) -> Result<HostFacts, KernelError> {
        let local = cluster.nodes.get(&me).map(|node| node.underlay);
        let underlay_mtu = match local {
            Some(local) => {
                let reached = overlay::peers(cluster, me).map(|peer| peer.underlay);
                let peers: Vec<IpAddr> = reached.filter(|peer| peer.is_ipv4() == local.is_ipv4()).collect();
                let device = self.kernel.underlay_mtu(local).await?;
                self.kernel.route_mtu(&peers).await?.unwrap_or(device)
            }
            None => 0,
        };
        let advertised_to = if overlay::families(cluster).contains(&Family::V6) {
            self.kernel.begin_ipv6()?
        } else {
            self.kernel.end_ipv6();
            BTreeSet::new()
        };
        let rp_filter_all = self.kernel.rp_filter_all()?;
        Ok(HostFacts { underlay_mtu, mark_mask: self.mark_mask, rp_filter_all, advertised_to })
    }

    async fn changed(&self) -> Result<(), KernelError> {
        self.kernel.changed().await
    }

    async fn advertised(&self, given: Option<IpAddr>) -> Result<IpAddr, KernelError> {
        match given {
            Some(address) => self.kernel.underlay_mtu(address).await.map(|_| address),
            None => self.kernel.default_address().await,
        }
    }

    async fn local_prefixes(&self) -> Result<Vec<LocalPrefix>, KernelError> {
        self.kernel.local_prefixes().await
    }

    fn inspect_netns(&self, path: &str) -> Result<NetnsRef, KernelError> {
        netns::inspect(path)
    }

    fn is_alive(&self, netns: &NetnsRef) -> bool {
        netns::is_alive(netns)
    }

    async fn set_loopback_up(&self, netns: &NetnsRef) -> Result<(), KernelError> {
        self.kernel.set_loopback_up(netns).await
    }

    fn random(&self) -> Result<u64, KernelError> {
        getrandom::u64().map_err(|error| KernelError::new("draw a random number", error))
    }
}
