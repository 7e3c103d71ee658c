//! The edges of a simulated host: its way to the store, its kernel, and what else there is to know of it. Each call is
//! a step of its own, and may fail as the dice say.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use futures::StreamExt as _;
use tokio::sync::{Notify, watch};

use super::{dice::Dice, executor::step};
use crate::{
    agent::host::{Echoes, Host},
    kernel::{FakeKernel, FlowTest, Kernel, KernelError, LocalPrefix, conntrack::Conntrack},
    mesh::health::Answer,
    model::{ChainName, Cluster, Connections, HealthCheck, HostFacts, HostState, MarkMask, NetnsRef, NodeId},
    plan::Step,
    probe::Echo,
    store::{LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Transaction, Watch, memory::MemoryStore},
};

/// Whether the store has changed, or may have, since somebody looked.
#[derive(Clone, Default)]
pub(super) struct Touched(Arc<AtomicBool>);

impl Touched {
    pub(super) fn set(&self) {
        self.0.store(true, Ordering::Release);
    }

    pub(super) fn take(&self) -> bool {
        self.0.swap(false, Ordering::AcqRel)
    }
}

/// One host's way to the store.
pub(super) struct Wire {
    store: Arc<MemoryStore>,
    dice: Dice,
    touched: Touched,
    is_cut: watch::Sender<bool>,
    loss_per_mille: AtomicU64,
}

impl Wire {
    pub(super) fn new(store: &Arc<MemoryStore>, dice: &Dice, touched: &Touched) -> Self {
        Self {
            store: Arc::clone(store),
            dice: dice.clone(),
            touched: touched.clone(),
            is_cut: watch::Sender::new(false),
            loss_per_mille: AtomicU64::new(0),
        }
    }

    /// The store is away, and the watches end.
    pub(super) fn cut(&self) {
        self.is_cut.send_replace(true);
    }

    /// So many calls in a thousand fail; of the commits among them half have been carried out.
    pub(super) fn lose(&self, per_mille: u64) {
        self.loss_per_mille.store(per_mille, Ordering::Release);
    }

    pub(super) fn heal(&self) {
        self.is_cut.send_replace(false);
        self.lose(0);
    }

    async fn cross(&self) -> Result<(), StoreError> {
        step().await;
        if *self.is_cut.borrow() || self.dice.strikes(self.loss_per_mille.load(Ordering::Acquire)) {
            return Err(StoreError::Unavailable { store: "memory".to_owned(), reason: "the wire is cut".to_owned() });
        }
        Ok(())
    }
}

#[async_trait]
impl Store for Wire {
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        self.cross().await?;
        self.store.snapshot(prefix).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        self.cross().await?;
        let mut is_cut = self.is_cut.subscribe();
        let until_cut = async move {
            let _ = is_cut.wait_for(|is_cut| *is_cut).await;
        };
        let changes = self.store.watch(prefix, after).await?;
        Ok(changes
            .then(|changes| async {
                step().await;
                changes
            })
            .take_until(Box::pin(until_cut))
            .boxed())
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.cross().await?;
        let outcome = self.store.commit(transaction).await;
        self.touched.set();
        // The answer comes in a step of its own: between the deed and the answer an agent may die, or the answer be lost.
        self.cross().await?;
        outcome
    }

    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError> {
        self.cross().await?;
        self.store.grant_lease(ttl_s).await
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.cross().await?;
        self.store.renew_lease(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.cross().await?;
        self.store.revoke_lease(lease).await
    }
}

/// A kernel whose every call is a step of its own.
struct SteppedKernel(Arc<FakeKernel>);

#[async_trait]
impl Kernel for SteppedKernel {
    async fn observe(&self) -> Result<HostState, KernelError> {
        step().await;
        self.0.observe_now()
    }

    async fn apply(&self, wanted: &Step) -> Result<(), KernelError> {
        step().await;
        self.0.apply_now(wanted)
    }

    async fn connections(&self) -> Result<BTreeMap<ChainName, Connections>, KernelError> {
        step().await;
        self.0.connections().await
    }

    async fn open_connections(&self, replicas: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        step().await;
        self.0.open_connections(replicas).await
    }

    async fn forget_flows(&self, is_stale: FlowTest) -> Result<u32, KernelError> {
        step().await;
        self.0.forget_flows(is_stale).await
    }
}

/// A host in memory. It outlives its agents.
pub(super) struct FakeHost {
    pub(super) kernel: Arc<FakeKernel>,
    pub(super) changed: Notify,
    dice: Dice,
    namespaces: Mutex<BTreeMap<String, u64>>,
    next_inode: AtomicU64,
    /// So many probes and echoes in a thousand fail.
    sickness_per_mille: Arc<AtomicU64>,
    loss_per_mille: Arc<AtomicU64>,
}

/// Echoes that come back at once, or never.
struct FakeEchoes {
    dice: Dice,
    loss_per_mille: Arc<AtomicU64>,
    answers: Mutex<Vec<Echo>>,
    arrived: Notify,
}

impl FakeHost {
    pub(super) fn new(dice: &Dice) -> Self {
        Self {
            kernel: Arc::default(),
            changed: Notify::new(),
            dice: dice.clone(),
            namespaces: Mutex::default(),
            next_inode: AtomicU64::new(1),
            sickness_per_mille: Arc::default(),
            loss_per_mille: Arc::default(),
        }
    }

    /// So many probes of its replicas in a thousand fail from now on.
    pub(super) fn sicken(&self, per_mille: u64) {
        self.sickness_per_mille.store(per_mille, Ordering::Release);
    }

    /// So many of its echoes in a thousand are not answered from now on.
    pub(super) fn isolate(&self, per_mille: u64) {
        self.loss_per_mille.store(per_mille, Ordering::Release);
    }

    /// What every simulated host is like: it has the address that it advertises and no other.
    pub(super) fn facts(me: NodeId, cluster: &Cluster) -> HostFacts {
        let addresses = cluster.nodes.get(&me).map(|node| node.underlay).into_iter().collect();
        HostFacts {
            underlay_mtu: 1500,
            mark_mask: MarkMask::DEFAULT,
            rp_filter_all: 0,
            advertised_to: [].into(),
            addresses,
        }
    }

    /// The inode of the namespace at a path.
    pub(super) fn inspect(&self, path: &str) -> Option<u64> {
        self.namespaces().get(path).copied()
    }

    /// Makes a namespace at a path, in place of what was there.
    pub(super) fn make_namespace(&self, path: &str) {
        let inode = self.next_inode.fetch_add(1, Ordering::AcqRel);
        self.namespaces().insert(path.to_owned(), inode);
        self.tell_kernel();
    }

    /// Ends a namespace, and what reaches into it.
    pub(super) fn end_namespace(&self, path: &str) {
        self.namespaces().remove(path);
        self.tell_kernel();
    }

    fn tell_kernel(&self) {
        let live = self.namespaces().values().copied().collect();
        self.kernel.set_live_namespaces(live);
        self.changed.notify_one();
    }

    fn namespaces(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.namespaces.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Host for FakeHost {
    fn kernel(&self) -> Arc<dyn Kernel> {
        Arc::new(SteppedKernel(Arc::clone(&self.kernel)))
    }

    fn conntrack(&self) -> Option<Conntrack> {
        None
    }

    async fn facts(&self, me: NodeId, cluster: &Cluster) -> Result<HostFacts, KernelError> {
        Ok(Self::facts(me, cluster))
    }

    async fn changed(&self) -> Result<(), KernelError> {
        self.changed.notified().await;
        Ok(())
    }

    async fn advertised(&self, given: Option<IpAddr>) -> Result<IpAddr, KernelError> {
        given.ok_or_else(|| KernelError::new("choose an address to advertise", "the simulation names each"))
    }

    async fn local_prefixes(&self) -> Result<Vec<LocalPrefix>, KernelError> {
        Ok(vec![])
    }

    async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        Ok(BTreeSet::new())
    }

    fn inspect_netns(&self, path: &str) -> Result<NetnsRef, KernelError> {
        let inode = self.namespaces().get(path).copied();
        let inode = inode.ok_or_else(|| KernelError::new(format!("use {path}"), "there is nothing at this path"))?;
        Ok(NetnsRef { path: path.to_owned(), inode })
    }

    fn is_alive(&self, netns: &NetnsRef) -> bool {
        self.namespaces().get(&netns.path) == Some(&netns.inode)
    }

    async fn set_loopback_up(&self, _: &NetnsRef) -> Result<(), KernelError> {
        Ok(())
    }

    fn random(&self) -> Result<u64, KernelError> {
        Ok(self.dice.bits())
    }

    async fn probe(&self, _: SocketAddr, _: &HealthCheck) -> Answer {
        step().await;
        if !self.dice.strikes(self.sickness_per_mille.load(Ordering::Acquire)) {
            return Answer::Good;
        }
        if self.dice.strikes(200) {
            Answer::NotAsked("bad luck".to_owned())
        } else {
            Answer::Bad("bad luck".to_owned())
        }
    }

    fn echoes(&self, _: NodeId) -> io::Result<Box<dyn Echoes>> {
        Ok(Box::new(FakeEchoes {
            dice: self.dice.clone(),
            loss_per_mille: Arc::clone(&self.loss_per_mille),
            answers: Mutex::default(),
            arrived: Notify::new(),
        }))
    }
}

#[async_trait]
impl Echoes for FakeEchoes {
    fn send(&self, to: Ipv4Addr, stamp: u64) -> io::Result<()> {
        if !self.dice.strikes(self.loss_per_mille.load(Ordering::Acquire)) {
            self.answers.lock().unwrap_or_else(PoisonError::into_inner).push(Echo { from: to, stamp });
            self.arrived.notify_one();
        }
        Ok(())
    }

    async fn answers(&self) -> io::Result<Vec<Echo>> {
        self.arrived.notified().await;
        self.answers_now()
    }

    fn answers_now(&self) -> io::Result<Vec<Echo>> {
        Ok(std::mem::take(&mut *self.answers.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}
