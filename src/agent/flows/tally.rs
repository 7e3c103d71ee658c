//! Connections and bytes by service, entrance and replica: of what entered the mesh at this node since the agent began.
//!
//! Bounded: a replica that is gone loses its numbers, and no more than [`ROWS_MAX`] rows are kept; what is beyond goes to a row
//! without a replica.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, MutexGuard, PoisonError},
};

use crate::{
    mesh::{Roster, Spread, Via},
    model::{Cluster, EndpointId, EndpointState, ServiceId},
};

/// Rows kept, some 100 bytes each, and as many series for whoever scrapes them.
const ROWS_MAX: usize = 10_000;

/// What was counted for one replica and one entrance of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(in crate::agent) struct Counts {
    /// Connections begun.
    pub(in crate::agent) connections: u64,
    /// Bytes of connections that are over, both directions, with headers.
    pub(in crate::agent) bytes: u64,
}

/// Which row: without a replica for those beyond the bound.
pub(in crate::agent) type Row = (ServiceId, Via, Option<EndpointId>);

/// What was counted, shared by the task that counts and whoever asks.
#[derive(Debug, Default)]
pub(in crate::agent) struct Tally {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default, Clone)]
struct Inner {
    rows: BTreeMap<Row, Counts>,
    ejections: BTreeMap<(ServiceId, EndpointId), u64>,
    drains: BTreeMap<ServiceId, u64>,
    draining: BTreeSet<EndpointId>,
}

impl Tally {
    /// A connection has begun.
    pub(super) fn began(&self, spread: Spread) {
        self.lock().row(spread).connections += 1;
    }

    /// A connection is over.
    pub(super) fn ended(&self, spread: Spread, bytes: u64) {
        self.lock().row(spread).bytes += bytes;
    }

    /// A replica was ejected.
    pub(super) fn ejected(&self, service: ServiceId, replica: EndpointId) {
        *self.lock().ejections.entry((service, replica)).or_default() += 1;
    }

    /// Forgets who is gone, and counts the drains that have begun.
    pub(super) fn follow(&self, cluster: &Cluster, roster: &Roster) {
        let replicas = roster.replicas();
        let mut inner = self.lock();
        let is_known = |service: &ServiceId| cluster.services.contains_key(service);
        inner.rows.retain(|(service, _, replica), _| {
            is_known(service) && replica.is_none_or(|replica| replicas.contains(&replica))
        });
        inner.ejections.retain(|(service, replica), _| is_known(service) && replicas.contains(replica));
        inner.drains.retain(|service, _| is_known(service));
        let mut draining = BTreeSet::new();
        for endpoint in cluster.endpoints.values().filter(|endpoint| endpoint.state == EndpointState::Draining) {
            draining.insert(endpoint.id);
            if let Some(service) = endpoint.service
                && !inner.draining.contains(&endpoint.id)
            {
                *inner.drains.entry(service).or_default() += 1;
            }
        }
        inner.draining = draining;
    }

    /// All rows.
    pub(in crate::agent) fn rows(&self) -> BTreeMap<Row, Counts> {
        self.lock().rows.clone()
    }

    /// How often each replica was ejected here.
    pub(in crate::agent) fn ejections(&self) -> BTreeMap<(ServiceId, EndpointId), u64> {
        self.lock().ejections.clone()
    }

    /// How many drains of each service's replicas have begun.
    pub(in crate::agent) fn drains(&self) -> BTreeMap<ServiceId, u64> {
        self.lock().drains.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Counts stay whole whoever panics.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn row(&mut self, Spread { service, via, replica }: Spread) -> &mut Counts {
        let row = (service, via, Some(replica));
        let has_room = self.rows.len() < ROWS_MAX || self.rows.contains_key(&row);
        self.rows.entry(if has_room { row } else { (service, via, None) }).or_default()
    }
}
