use std::net::IpAddr;

use async_trait::async_trait;

use super::{Changes, Kernel, KernelError, LocalPrefix, Rtnetlink, sysctl};
use crate::{model::HostState, plan::Step};

/// The kernel of this host, in the network namespace of the thread that opened it: rtnetlink, settings, and the rule set.
pub struct LinuxKernel {
    rtnetlink: Rtnetlink,
}

impl LinuxKernel {
    /// Opens the sockets. Settings are those of the namespace of whichever thread does a step, so
    /// an agent's threads have to be in one namespace, as those of a process are.
    pub fn open() -> Result<Self, KernelError> {
        Ok(Self { rtnetlink: Rtnetlink::open()? })
    }

    /// Subscribes to changes of devices, forwarding entries, neighbours, routes and policy rules of ours, and of foreign
    /// devices that may be the underlay. Changes from here on are told.
    pub async fn subscribe(&self) -> Result<Changes, KernelError> {
        self.rtnetlink.subscribe().await
    }

    /// See [`Rtnetlink::underlay_mtu`].
    pub async fn underlay_mtu(&self, local: IpAddr) -> Result<u32, KernelError> {
        self.rtnetlink.underlay_mtu(local).await
    }

    /// See [`Rtnetlink::default_address`].
    pub async fn default_address(&self) -> Result<IpAddr, KernelError> {
        self.rtnetlink.default_address().await
    }

    /// See [`Rtnetlink::local_prefixes`].
    pub async fn local_prefixes(&self) -> Result<Vec<LocalPrefix>, KernelError> {
        self.rtnetlink.local_prefixes().await
    }

    /// See [`Rtnetlink::rp_filter_all`].
    pub fn rp_filter_all(&self) -> Result<u8, KernelError> {
        self.rtnetlink.rp_filter_all()
    }
}

#[async_trait]
impl Kernel for LinuxKernel {
    async fn observe(&self) -> Result<HostState, KernelError> {
        let state = self.rtnetlink.observe().await?;
        Ok(HostState { sysctls: sysctl::observe()?, ..state })
    }

    async fn apply(&self, step: &Step) -> Result<(), KernelError> {
        match step {
            Step::PutSysctl(key, value) => sysctl::write(key, value),
            Step::ChangeRuleset(_) => {
                Err(KernelError::new("change the nftables table inet weft", "this kernel was opened without nftables"))
            }
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
            | Step::DeleteLink(_) => self.rtnetlink.apply(step).await,
        }
    }
}
