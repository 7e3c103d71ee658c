use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::PoisonError,
};

use async_trait::async_trait;
use tokio::sync::Mutex;

use super::{
    Changes, FlowTest, Kernel, KernelError, LocalPrefix, Rtnetlink,
    conntrack::Conntrack,
    netns,
    nft::{Nft, NftChanges},
    sysctl,
};
use crate::{
    model::{ChainName, Connections, HostState, NetnsRef, Sysctl},
    plan::Step,
};

/// The kernel of this host, in the network namespace of the thread that opened it: rtnetlink, settings, and the rule set.
pub struct LinuxKernel {
    rtnetlink: Rtnetlink,
    nft: Nft,
    conntrack: Conntrack,
    changes: Mutex<(Changes, NftChanges)>,
    /// The settings that are observed besides the usual ones.
    settings: std::sync::Mutex<BTreeSet<Sysctl>>,
}

impl LinuxKernel {
    /// Opens the sockets. Needs a tokio runtime. Settings are those of the namespace of whichever thread does a step, so
    /// an agent's threads have to be in one namespace, as those of a process are.
    pub async fn open() -> Result<Self, KernelError> {
        let rtnetlink = Rtnetlink::open()?;
        let nft = Nft::open()?;
        let conntrack = Conntrack::open()?;
        let changes = Mutex::new((rtnetlink.subscribe().await?, nft.subscribe()?));
        Ok(Self { rtnetlink, nft, conntrack, changes, settings: std::sync::Mutex::default() })
    }

    /// Waits until something of ours, or a foreign device that may be the underlay, has changed. For one task at a time;
    /// what happens while nobody waits is kept by the kernel.
    pub async fn changed(&self) -> Result<(), KernelError> {
        let mut subscriptions = self.changes.lock().await;
        let (rows, ruleset) = &mut *subscriptions;
        tokio::select! {
            told = rows.next() => told,
            told = ruleset.changed() => told,
        }
    }

    /// See [`Rtnetlink::underlay_mtu`].
    pub async fn underlay_mtu(&self, local: IpAddr) -> Result<u32, KernelError> {
        self.rtnetlink.underlay_mtu(local).await
    }

    /// See [`Rtnetlink::route_mtu`].
    pub async fn route_mtu(&self, peers: &[IpAddr]) -> Result<Option<u32>, KernelError> {
        self.rtnetlink.route_mtu(peers).await
    }

    /// The devices, none of them ours, on which this host heeds router advertisements. From here on what is wanted of them and of
    /// IPv6 forwarding is observed.
    pub fn begin_ipv6(&self) -> Result<BTreeSet<String>, KernelError> {
        let devices = sysctl::advertised_to()?;
        let settings = devices.iter().map(|device| Sysctl::accept_ra(device));
        let settings = settings.chain([Sysctl(Sysctl::FORWARDING_V6.to_owned())]).collect();
        *self.settings.lock().unwrap_or_else(PoisonError::into_inner) = settings;
        Ok(devices)
    }

    /// No setting of IPv6 is wanted, and none is observed.
    pub fn end_ipv6(&self) {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// See [`Rtnetlink::default_address`].
    pub async fn default_address(&self) -> Result<IpAddr, KernelError> {
        self.rtnetlink.default_address().await
    }

    /// See [`Rtnetlink::local_prefixes`].
    pub async fn local_prefixes(&self) -> Result<Vec<LocalPrefix>, KernelError> {
        self.rtnetlink.local_prefixes().await
    }

    /// See [`Rtnetlink::local_addresses`].
    pub async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        self.rtnetlink.local_addresses().await
    }

    /// See [`Rtnetlink::told_addresses`].
    pub async fn told_addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        self.rtnetlink.told_addresses().await
    }

    /// This host's connections, for whoever wants to hear of them.
    pub fn conntrack(&self) -> &Conntrack {
        &self.conntrack
    }

    /// See [`Rtnetlink::rp_filter_all`].
    pub fn rp_filter_all(&self) -> Result<u8, KernelError> {
        self.rtnetlink.rp_filter_all()
    }

    /// Sets `lo` up in a namespace that nobody else looks after.
    pub async fn set_loopback_up(&self, netns: &NetnsRef) -> Result<(), KernelError> {
        Rtnetlink::set_loopback_up(&netns::open(netns)?).await
    }
}

#[async_trait]
impl Kernel for LinuxKernel {
    async fn observe(&self) -> Result<HostState, KernelError> {
        let (state, ruleset) = tokio::join!(self.rtnetlink.observe(), self.nft.observe());
        let settings = self.settings.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Ok(HostState { sysctls: sysctl::observe(&settings)?, ruleset: ruleset?, ..state? })
    }

    async fn connections(&self) -> Result<BTreeMap<ChainName, Connections>, KernelError> {
        self.nft.connections().await
    }

    async fn open_connections(&self, replicas: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        self.conntrack.open_connections(replicas).await
    }

    async fn forget_flows(&self, is_stale: FlowTest) -> Result<u32, KernelError> {
        self.conntrack.forget(is_stale).await
    }

    async fn apply(&self, step: &Step) -> Result<(), KernelError> {
        match step {
            Step::PutSysctl(key, value) => sysctl::write(key, value),
            Step::ChangeRuleset(changes) => self.nft.apply(changes).await,
            Step::CreateVtep(_)
            | Step::SetVtepMtu(_)
            | Step::DeleteVtep
            | Step::PutFdb(..)
            | Step::DeleteFdb(_)
            | Step::PutNeighbour(..)
            | Step::DeleteNeighbour(_)
            | Step::PutRoute(..)
            | Step::DeleteRoute(..)
            | Step::AddPolicy(_)
            | Step::DeletePolicy(_)
            | Step::CreateLink(..)
            | Step::UpdateLink(..)
            | Step::DeleteLink(_) => self.rtnetlink.apply(step).await,
        }
    }
}
