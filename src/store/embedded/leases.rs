//! When each lease ends. The file holds the leases and their keys; the deadlines are here alone, because after a restart
//! every lease begins anew: its holder could not renew it while the store was away.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// The deadlines of all leases.
pub(super) struct Deadlines {
    leases: Mutex<BTreeMap<i64, Deadline>>,
    /// Told when a lease came that may end before all others.
    pub(super) earlier: Notify,
}

#[derive(Clone, Copy)]
struct Deadline {
    ttl_s: u64,
    ends: Instant,
}

impl Deadlines {
    /// All leases at their full length.
    pub(super) fn new(leases: BTreeMap<i64, u64>) -> Self {
        let deadlines = Self { leases: Mutex::default(), earlier: Notify::new() };
        for (id, ttl_s) in leases {
            deadlines.insert(id, ttl_s);
        }
        deadlines
    }

    /// Takes in what the file holds after it failed and was opened again: a lease may have come or gone unheard.
    pub(super) fn adopt(&self, leases: &BTreeMap<i64, u64>) {
        self.locked().retain(|id, _| leases.contains_key(id));
        for (id, ttl_s) in leases {
            if self.get(*id).is_none() {
                self.insert(*id, *ttl_s);
            }
        }
    }

    pub(super) fn insert(&self, id: i64, ttl_s: u64) {
        self.locked().insert(id, Deadline { ttl_s, ends: after(ttl_s) });
        self.earlier.notify_one();
    }

    pub(super) fn remove(&self, id: i64) {
        self.locked().remove(&id);
    }

    /// Gives a lease its full length again and returns that, in seconds; `None` if it has ended.
    pub(super) fn renew(&self, id: i64) -> Option<u64> {
        let mut leases = self.locked();
        let deadline = leases.get_mut(&id)?;
        deadline.ends = after(deadline.ttl_s);
        Some(deadline.ttl_s)
    }

    /// The full length and what is left of it, in seconds; `None` if it has ended.
    pub(super) fn get(&self, id: i64) -> Option<(u64, u64)> {
        let deadline = *self.locked().get(&id)?;
        Some((deadline.ttl_s, deadline.ends.saturating_duration_since(Instant::now()).as_secs()))
    }

    pub(super) fn ids(&self) -> Vec<i64> {
        self.locked().keys().copied().collect()
    }

    /// When the next lease ends. It walks all leases: one a node, and it is asked once per end, not per renewal.
    pub(super) fn next(&self) -> Option<Instant> {
        self.locked().values().map(|deadline| deadline.ends).min()
    }

    /// Takes out the leases that have ended by now. From here on they cannot be renewed.
    pub(super) fn take_ended(&self) -> Vec<(i64, u64)> {
        let now = Instant::now();
        self.locked()
            .extract_if(.., |_, deadline| deadline.ends <= now)
            .map(|(id, deadline)| (id, deadline.ttl_s))
            .collect()
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, BTreeMap<i64, Deadline>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The longest lease, in seconds: about 100 years; longer ones overflow the clock on some systems.
pub(super) const TTL_S_MAX: u64 = 3_000_000_000;

fn after(ttl_s: u64) -> Instant {
    Instant::now() + Duration::from_secs(ttl_s.min(TTL_S_MAX))
}
