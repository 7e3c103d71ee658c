//! The kernel's network, in the model's words: what of ours is there, and how to change it.

pub mod conntrack;
mod fake;
mod linux;
mod netlink;
pub mod netns;
pub mod nft;
mod sysctl;

pub use conntrack::FlowTest;
pub use fake::{Attempt, FakeKernel, Faults};
pub use linux::LinuxKernel;
pub use netlink::{Changes, LocalPrefix, ROUTE_METRIC, Rtnetlink};

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::IpAddr,
};

use async_trait::async_trait;

use crate::{
    model::{ChainName, Connections, HostState},
    plan::Step,
};

/// What the agent needs of a kernel.
#[async_trait]
pub trait Kernel: Send + Sync {
    /// All rows that are ours and nothing else: links named `weft.*`, what hangs on them, routes and policy rules with our
    /// protocol number, the table `inet weft`, and the given kernel settings.
    async fn observe(&self) -> Result<HostState, KernelError>;

    /// Does one step. Idempotent; a failed step has changed nothing and may be tried again.
    async fn apply(&self, step: &Step) -> Result<(), KernelError>;

    /// What the chains of services have counted. A chain begins again at zero when its rules are replaced.
    async fn connections(&self) -> Result<BTreeMap<ChainName, Connections>, KernelError>;

    /// The connections still open to each of these containers' addresses, by whichever way they came in: those that either
    /// side may still have data for. TCP until everything sent has been acknowledged, unanswered for a moment only, SCTP while
    /// the association lasts, UDP from its first answer until connection tracking forgets it. Each address is in the answer.
    ///
    /// Counted are the connections that this host's connection tracking knows: all of a container that lives here.
    async fn open_connections(&self, replicas: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, u32>, KernelError>;

    /// Makes connection tracking forget every connection that `is_stale` says so of, and tells how many. Their next packet is
    /// the first of a connection again. Idempotent; what comes up meanwhile may be missed.
    async fn forget_flows(&self, is_stale: FlowTest) -> Result<u32, KernelError>;
}

/// What the kernel refused.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action}: {reason}")]
pub struct KernelError {
    /// What was wanted, on what: `create the tunnel device weft.vx`.
    pub action: String,
    /// Why not, and the mend where one is known.
    pub reason: String,
}

impl KernelError {
    /// An error about one action.
    pub fn new(action: impl Into<String>, reason: impl fmt::Display) -> Self {
        Self { action: action.into(), reason: reason.to_string() }
    }
}
