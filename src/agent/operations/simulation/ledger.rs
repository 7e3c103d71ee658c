use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::executor::Owner;
use crate::{
    api::wire::AttachRequest,
    model::{EndpointId, NetworkId},
};

/// What the people of the simulated cluster have been told, and so may rely on.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Told>>);

#[derive(Default)]
pub(super) struct Told {
    /// Attached, and nobody has asked otherwise since.
    pub(super) live: BTreeMap<EndpointId, Live>,
    /// All endpoints that anybody ever wished for, by name, and where.
    pub(super) wished: BTreeMap<String, (Owner, AttachRequest)>,
    /// Names of which nobody can say whether there is an endpoint: the answer was lost, or was no.
    pub(super) doubtful: BTreeSet<String>,
    /// Removals of networks and services of which nobody knows whether they were carried out, or half of it.
    pub(super) unsure: BTreeSet<String>,
    /// Endpoints that somebody has drained, and was told so.
    pub(super) drained: BTreeSet<EndpointId>,
    /// Laws that an answer broke.
    pub(super) broken: Vec<String>,
    /// All that has happened.
    pub(super) log: Vec<String>,
}

/// An endpoint that was answered for.
#[derive(Debug, Clone)]
pub(super) struct Live {
    pub(super) name: String,
    pub(super) owner: Owner,
    pub(super) path: String,
    pub(super) network: NetworkId,
    pub(super) addresses: Vec<IpAddr>,
}

impl Ledger {
    pub(super) fn told(&self) -> MutexGuard<'_, Told> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn log(&self, line: impl Into<String>) {
        self.told().log.push(line.into());
    }
}
