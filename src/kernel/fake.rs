//! A kernel in memory, for tests and simulations: it holds one [`HostState`], does steps to it with the real kernel's
//! cascades and refusals, remembers every step, and fails when it is told to.
//!
//! Where kernels differ it is the strictest of them. It has no tasks; all its methods return at once.

mod rows;
mod table;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;

use super::{FlowTest, Kernel, KernelError};
use crate::{
    model::{ChainName, Connections, HostState},
    plan::Step,
};

/// A kernel in memory. It may be shared by many tasks.
#[derive(Default)]
pub struct FakeKernel {
    inner: Mutex<Inner>,
}

/// A step that the fake was asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// The step.
    pub step: Step,
    /// Why it was refused; nothing if it was done.
    pub refusal: Option<String>,
}

/// When the fake refuses steps that a kernel would do.
#[derive(Default)]
pub enum Faults {
    /// Never.
    #[default]
    None,
    /// Once: the step after this many others, counted from now.
    After(usize),
    /// Whenever this says so. A seeded generator in it makes a random run that can be repeated.
    When(Box<dyn FnMut(&Step) -> bool + Send>),
}

#[derive(Default)]
struct Inner {
    state: HostState,
    /// The inodes of the namespaces that live; nothing if all do.
    live_namespaces: Option<BTreeSet<u64>>,
    attempts: Vec<Attempt>,
    faults: Faults,
    failing_observations: usize,
    open_connections: BTreeMap<IpAddr, u32>,
}

impl FakeKernel {
    /// A kernel that holds `state`.
    pub fn new(state: HostState) -> Self {
        Self { inner: Mutex::new(Inner { state, ..Inner::default() }) }
    }

    /// What it holds now.
    pub fn state(&self) -> HostState {
        self.lock().state.clone()
    }

    /// Changes what it holds behind the agent's back: drift.
    pub fn edit(&self, change: impl FnOnce(&mut HostState)) {
        change(&mut self.lock().state);
    }

    /// Says which namespaces live, by inode; until then all do. The links into those that do not are gone with them.
    pub fn set_live_namespaces(&self, inodes: BTreeSet<u64>) {
        let mut inner = self.lock();
        let links = inner.state.links.iter();
        let dead: Vec<_> =
            links.filter(|(_, link)| !inodes.contains(&link.netns.inode)).map(|(name, _)| name.clone()).collect();
        for name in &dead {
            rows::drop_link(&mut inner.state, name);
        }
        inner.live_namespaces = Some(inodes);
    }

    /// Says when steps fail from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Lets the next `count` observations fail.
    pub fn fail_observations(&self, count: usize) {
        self.lock().failing_observations = count;
    }

    /// Says how many connections are open to a container's address; until then none are.
    pub fn set_open_connections(&self, replica: IpAddr, count: u32) {
        self.lock().open_connections.insert(replica, count);
    }

    /// Every step since the last call, done or refused, in order.
    pub fn take_attempts(&self) -> Vec<Attempt> {
        std::mem::take(&mut self.lock().attempts)
    }

    /// [`Kernel::observe`] for callers without an executor.
    pub fn observe_now(&self) -> Result<HostState, KernelError> {
        let mut inner = self.lock();
        if let Some(left) = inner.failing_observations.checked_sub(1) {
            inner.failing_observations = left;
            return Err(KernelError::new("observe the kernel", "the fake was told to fail"));
        }
        Ok(inner.state.clone())
    }

    /// [`Kernel::apply`] for callers without an executor.
    pub fn apply_now(&self, step: &Step) -> Result<(), KernelError> {
        let mut inner = self.lock();
        let done = inner.apply(step);
        inner.attempts.push(Attempt { step: step.clone(), refusal: done.clone().err() });
        done.map_err(|reason| KernelError::new(step.to_string(), reason))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A test that panicked has already failed; the state is still whole, for steps are done to it one at a time.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Kernel for FakeKernel {
    async fn observe(&self) -> Result<HostState, KernelError> {
        self.observe_now()
    }

    async fn apply(&self, step: &Step) -> Result<(), KernelError> {
        self.apply_now(step)
    }

    /// Nothing: no packet ever passes here.
    async fn connections(&self) -> Result<BTreeMap<ChainName, Connections>, KernelError> {
        Ok(BTreeMap::new())
    }

    async fn open_connections(&self, replicas: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        let open = &self.lock().open_connections;
        Ok(replicas.iter().map(|replica| (*replica, open.get(replica).copied().unwrap_or(0))).collect())
    }

    /// None: there are no flows where no packet passes.
    async fn forget_flows(&self, _: FlowTest) -> Result<u32, KernelError> {
        Ok(0)
    }
}

impl Inner {
    fn apply(&mut self, step: &Step) -> Result<(), String> {
        if self.faults.strike(step) {
            return Err("the fake was told to fail".to_owned());
        }
        match step {
            Step::ChangeRuleset(changes) => table::change(&mut self.state.ruleset, changes),
            Step::PutSysctl(..)
            | Step::CreateVtep(_)
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
            | Step::DeleteLink(_) => rows::apply(&mut self.state, self.live_namespaces.as_ref(), step),
        }
    }
}

impl Faults {
    fn strike(&mut self, step: &Step) -> bool {
        match self {
            Self::None => false,
            Self::After(0) => {
                *self = Self::None;
                true
            }
            Self::After(left) => {
                *left -= 1;
                false
            }
            Self::When(says) => says(step),
        }
    }
}
