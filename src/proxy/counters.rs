use std::{
    collections::BTreeMap,
    ops::Deref,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

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

/// What a door counts; it grows for as long as the process lives.
#[derive(Debug, Default)]
pub(super) struct Counts {
    accepted: AtomicU64,
    ended: AtomicU64,
    from_clients: AtomicU64,
    to_clients: AtomicU64,
    failures: [AtomicU64; Cause::ALL.len()],
}

impl Counts {
    pub(super) fn fail(&self, cause: Cause) {
        self.failures[cause as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn carry(&self, from_client: u64, to_client: u64) {
        self.from_clients.fetch_add(from_client, Ordering::Relaxed);
        self.to_clients.fetch_add(to_client, Ordering::Relaxed);
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
        }
    }
}

/// A connection or a flow of datagrams that is counted as open while this lives, however it ends. It stays with the counters that
/// it began with.
#[derive(Debug)]
pub(super) struct Counted(Arc<Counts>);

impl Counted {
    /// Counts its beginning.
    pub(super) fn begin(counts: &Arc<Counts>) -> Self {
        counts.accepted.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(counts))
    }
}

impl Deref for Counted {
    type Target = Counts;

    fn deref(&self) -> &Counts {
        &self.0
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.ended.fetch_add(1, Ordering::Relaxed);
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
}

/// A service's name and its published port, such as `80/tcp`.
pub(super) type CountKey = (String, String);

/// The counters of all ports that there ever were: as many as people have published since the start.
#[derive(Debug, Default)]
pub(super) struct Counters {
    ports: Mutex<BTreeMap<CountKey, Arc<Counts>>>,
}

impl Counters {
    pub(super) fn of(&self, key: CountKey) -> Arc<Counts> {
        Arc::clone(self.ports.lock().unwrap_or_else(PoisonError::into_inner).entry(key).or_default())
    }

    pub(super) fn read(&self) -> BTreeMap<CountKey, PortCount> {
        let ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        ports.iter().map(|(key, counts)| (key.clone(), counts.read())).collect()
    }
}
