//! What the agent has to know of its own host besides the rows that it manages, and the one thing that it does there
//! besides them.

use std::{
    collections::BTreeSet,
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
};

use async_trait::async_trait;

use crate::{
    kernel::{Kernel, KernelError, LinuxKernel, LocalPrefix, conntrack::Conntrack, netns},
    mesh::health::Answer,
    model::{Cluster, Family, HealthCheck, HostFacts, MarkMask, NetnsRef, NodeId, VTEP_LINK},
    overlay,
    probe::{self, Echo, EchoSocket, ProbeError},
};

/// The host that an agent runs on. The simulation has one of its own.
#[async_trait]
pub(super) trait Host: Send + Sync {
    /// Its kernel.
    fn kernel(&self) -> Arc<dyn Kernel>;

    /// Its connections, for whoever wants to hear of them; nothing where there are none to hear of.
    fn conntrack(&self) -> Option<Conntrack>;

    /// The facts that the desired state depends on, read anew: an MTU or a kernel setting may have changed.
    async fn facts(&self, me: NodeId, cluster: &Cluster) -> Result<HostFacts, KernelError>;

    /// Waits until something of ours, a device that may be the underlay, or an address of this host has changed.
    async fn changed(&self) -> Result<(), KernelError>;

    /// The address to advertise: the given one, if this host carries it, or that of its default route.
    async fn advertised(&self, given: Option<IpAddr>) -> Result<IpAddr, KernelError>;

    /// All prefixes that this host reaches by other means than weft.
    async fn local_prefixes(&self) -> Result<Vec<LocalPrefix>, KernelError>;

    /// The addresses of this host, on whichever device.
    async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError>;

    /// See [`netns::inspect`].
    fn inspect_netns(&self, path: &str) -> Result<NetnsRef, KernelError>;

    /// See [`netns::is_alive`].
    fn is_alive(&self, netns: &NetnsRef) -> bool;

    /// Sets `lo` up in a namespace that nobody else looks after.
    async fn set_loopback_up(&self, netns: &NetnsRef) -> Result<(), KernelError>;

    /// 64 random bits.
    fn random(&self) -> Result<u64, KernelError>;

    /// Asks a replica on this host, see [`probe::ask`].
    async fn probe(&self, target: SocketAddr, check: &HealthCheck) -> Answer;

    /// A way for node `me` to send echoes over the tunnel. Fails while there is no tunnel.
    fn echoes(&self, me: NodeId) -> io::Result<Box<dyn Echoes>>;
}

/// See [`EchoSocket`].
#[async_trait]
pub(super) trait Echoes: Send + Sync {
    /// See [`EchoSocket::send`].
    fn send(&self, to: Ipv4Addr, stamp: u64) -> io::Result<()>;

    /// See [`EchoSocket::answers`].
    async fn answers(&self) -> io::Result<Vec<Echo>>;

    /// See [`EchoSocket::answers_now`].
    fn answers_now(&self) -> io::Result<Vec<Echo>>;
}

#[async_trait]
impl Echoes for EchoSocket {
    fn send(&self, to: Ipv4Addr, stamp: u64) -> io::Result<()> {
        Self::send(self, to, stamp)
    }

    async fn answers(&self) -> io::Result<Vec<Echo>> {
        Self::answers(self).await
    }

    fn answers_now(&self) -> io::Result<Vec<Echo>> {
        Self::answers_now(self)
    }
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

    fn conntrack(&self) -> Option<Conntrack> {
        Some(self.kernel.conntrack().clone())
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
        let addresses = self.kernel.told_addresses().await?;
        Ok(HostFacts { underlay_mtu, mark_mask: self.mark_mask, rp_filter_all, advertised_to, addresses })
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

    async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        self.kernel.local_addresses().await
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

    async fn probe(&self, target: SocketAddr, check: &HealthCheck) -> Answer {
        match probe::ask(target, &check.probe, check.timeout).await {
            Ok(()) => Answer::Good,
            Err(error @ ProbeError::NotAsked { .. }) => Answer::NotAsked(error.to_string()),
            Err(error) => Answer::Bad(error.to_string()),
        }
    }

    fn echoes(&self, me: NodeId) -> io::Result<Box<dyn Echoes>> {
        let IpAddr::V4(source) = overlay::gateway(Family::V4, me) else {
            return Err(io::ErrorKind::Unsupported.into());
        };
        Ok(Box::new(EchoSocket::open(VTEP_LINK, source, getrandom::u64().map_err(io::Error::other)?)?))
    }
}
