use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroU16,
    ops::Deref,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use super::Known;
use crate::model::{EndpointId, L4};

/// Why a connection got no replica, or lost it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// No replica takes connections, or all that were tried failed.
    NoReplica,
    /// One try to reach a replica failed; the next one may have succeeded.
    Connect,
    /// A named peer sent no PROXY header, a wrong one, or not in time.
    Header,
    /// One side broke off.
    Reset,
    /// Nothing came for too long.
    Idle,
    /// The process is at the bound of its connections or files.
    Resources,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::NoReplica, Self::Connect, Self::Header, Self::Reset, Self::Idle, Self::Resources];

    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoReplica => "no-replica",
            Self::Connect => "connect",
            Self::Header => "header",
            Self::Reset => "reset",
            Self::Idle => "idle",
            Self::Resources => "resources",
        }
    }
}

/// What a published port counts, all its doors together; nothing in it ever falls.
#[derive(Debug, Default)]
pub(super) struct Counts {
    accepted: AtomicU64,
    ended: AtomicU64,
    from_clients: AtomicU64,
    to_clients: AtomicU64,
    failures: [AtomicU64; Cause::ALL.len()],
    /// Those that have got a connection.
    replicas: Mutex<BTreeMap<EndpointId, Arc<ReplicaCounts>>>,
}

/// What a replica got by one port.
#[derive(Debug, Default)]
struct ReplicaCounts {
    connections: AtomicU64,
    bytes: AtomicU64,
}

impl Counts {
    pub(super) fn fail(&self, cause: Cause) {
        self.failures[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    fn replicas(&self) -> MutexGuard<'_, BTreeMap<EndpointId, Arc<ReplicaCounts>>> {
        self.replicas.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read(&self) -> PortCount {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let ended = read(&self.ended);
        let accepted = read(&self.accepted);
        PortCount {
            open: accepted.saturating_sub(ended),
            accepted,
            bytes_from_clients: read(&self.from_clients),
            bytes_to_clients: read(&self.to_clients),
            failures: Cause::ALL.into_iter().map(|cause| (cause, read(&self.failures[cause as usize]))).collect(),
            replicas: self
                .replicas()
                .iter()
                .map(|(id, replica)| {
                    (*id, ReplicaCount { connections: read(&replica.connections), bytes: read(&replica.bytes) })
                })
                .collect(),
        }
    }
}

/// A connection or a flow of datagrams that is counted as open while this lives, however it ends. It stays with the counters that
/// it began with.
#[derive(Debug)]
pub(super) struct Counted {
    port: Arc<Counts>,
    replica: Option<Arc<ReplicaCounts>>,
}

impl Counted {
    /// Counts its beginning.
    pub(super) fn begin(counts: &Arc<Counts>) -> Self {
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        Self { port: Arc::clone(counts), replica: None }
    }

    /// Counts it, and what it carries from here on, for the replica that it has got, too.
    pub(super) fn give(&mut self, replica: EndpointId) {
        let replica = Arc::clone(self.port.replicas().entry(replica).or_default());
        replica.connections.fetch_add(1, Ordering::Relaxed);
        self.replica = Some(replica);
    }

    /// Counts bytes.
    pub(super) fn carry(&self, from_client: u64, to_client: u64) {
        self.port.from_clients.fetch_add(from_client, Ordering::Relaxed);
        self.port.to_clients.fetch_add(to_client, Ordering::Relaxed);
        if let Some(replica) = &self.replica {
            replica.bytes.fetch_add(from_client + to_client, Ordering::Relaxed);
        }
    }
}

impl Deref for Counted {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.port
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.port.ended.fetch_add(1, Ordering::Relaxed);
    }
}

/// A published port's counters as they stand, all its doors together.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PortCount {
    /// Connections (and flows of datagrams) that are open.
    pub open: u64,
    /// All that were ever accepted.
    pub accepted: u64,
    /// Bytes carried from clients to replicas.
    pub bytes_from_clients: u64,
    /// Bytes carried from replicas to clients.
    pub bytes_to_clients: u64,
    /// What went wrong, and how often.
    pub failures: BTreeMap<Cause, u64>,
    /// What each replica got that has got anything.
    pub replicas: BTreeMap<EndpointId, ReplicaCount>,
}

/// What a replica got by a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReplicaCount {
    /// Connections (and flows of datagrams) that reached it.
    pub connections: u64,
    /// Bytes carried, both directions.
    pub bytes: u64,
}

/// A service's name and its published port, such as `80/tcp`.
pub type CountKey = (String, String);

/// Under which key a service's port is counted.
pub fn count_key(service: &str, port: NonZeroU16, protocol: L4) -> CountKey {
    (service.to_owned(), format!("{port}/{protocol}"))
}

/// The counters of all ports that there are, and of those that are gone while connections by them are open.
#[derive(Debug, Default)]
pub(super) struct Counters {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    ports: BTreeMap<CountKey, Arc<Counts>>,
    known: BTreeSet<CountKey>,
}

impl Counters {
    pub(super) fn of(&self, key: CountKey) -> Arc<Counts> {
        Arc::clone(self.lock().ports.entry(key).or_default())
    }

    /// Forgets the replicas that there are not any more, and ports as soon as nothing is counted by them.
    pub(super) fn keep(&self, known: &Known) {
        let mut inner = self.lock();
        inner.known.clone_from(&known.ports);
        inner.forget();
        for counts in inner.ports.values() {
            counts.replicas().retain(|replica, _| known.replicas.contains(replica));
        }
    }

    pub(super) fn read(&self) -> BTreeMap<CountKey, PortCount> {
        let mut inner = self.lock();
        inner.forget();
        inner.ports.iter().map(|(key, counts)| (key.clone(), counts.read())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn forget(&mut self) {
        let Self { ports, known } = self;
        // Doors and connections hold what they count by. Nobody else gets hold of it while this is locked.
        ports.retain(|key, counts| known.contains(key) || Arc::strong_count(counts) > 1);
    }
}
