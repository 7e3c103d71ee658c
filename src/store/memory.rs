//! A store in memory for tests: no tasks, no clock, no file. Time passes when a test says so, and failures come when a
//! test asks for them.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use futures::stream;
use tokio::sync::watch;

use super::{
    Changes, Compare, Entry, Event, LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Transaction, Watch, Write,
    limits,
};

/// A store in memory. It is the same store for all that share it behind an `Arc`.
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
    reached: watch::Sender<u64>,
}

struct State {
    revision: u64,
    oldest: u64,
    entries: BTreeMap<String, (Entry, Option<LeaseId>)>,
    history: BTreeMap<u64, Vec<Event>>,
    leases: BTreeMap<i64, Lease>,
    next_lease: i64,
    failures_left: u32,
}

#[derive(Clone, Copy)]
struct Lease {
    ttl_s: u32,
    left_s: u32,
}

impl MemoryStore {
    /// An empty store at revision 1, as etcd's.
    pub fn new() -> Self {
        let state = State {
            revision: 1,
            oldest: 1,
            entries: BTreeMap::new(),
            history: BTreeMap::new(),
            leases: BTreeMap::new(),
            next_lease: 1,
            failures_left: 0,
        };
        Self { state: Arc::new(Mutex::new(state)), reached: watch::channel(1).0 }
    }

    /// Lets time pass: leases that were not renewed for their length end, all of them in one revision.
    pub fn advance(&self, seconds: u32) {
        let mut state = locked(&self.state);
        let mut ended = Vec::new();
        state.leases.retain(|id, lease| {
            lease.left_s = lease.left_s.saturating_sub(seconds);
            if lease.left_s == 0 {
                ended.push(LeaseId(*id));
            }
            lease.left_s > 0
        });
        state.remove_keys_of(&ended);
        self.reached.send_replace(state.revision);
    }

    /// Makes the next `calls` calls of the trait fail with [`StoreError::Unavailable`], and ends no watch.
    pub fn fail_next(&self, calls: u32) {
        locked(&self.state).failures_left = calls;
    }

    /// Forgets all changes before `revision`.
    pub fn compact(&self, revision: Revision) {
        let mut state = locked(&self.state);
        state.oldest = revision.0;
        state.history.retain(|at, _| *at >= revision.0);
    }

    fn available(&self) -> Result<MutexGuard<'_, State>, StoreError> {
        let mut state = locked(&self.state);
        if state.failures_left > 0 {
            state.failures_left -= 1;
            return Err(StoreError::Unavailable {
                store: "memory".to_owned(),
                reason: "a test asked for it".to_owned(),
            });
        }
        Ok(state)
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let state = self.available()?;
        let under = state.entries.range(prefix.to_owned()..).take_while(|(key, _)| key.starts_with(prefix));
        Ok(Snapshot {
            revision: Revision(state.revision),
            entries: under.map(|(_, (entry, _))| entry.clone()).collect(),
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let state = self.available()?;
        if after.0 + 1 < state.oldest {
            return Err(StoreError::Compacted(after));
        }
        let watch = (Arc::clone(&self.state), self.reached.subscribe(), prefix.to_owned(), after.0);
        Ok(Box::pin(stream::unfold(Some(watch), |watch| async {
            let (state, mut reached, prefix, mut after) = watch?;
            loop {
                let found = locked(&state).changes(&prefix, &mut after);
                match found {
                    Ok(None) => reached.changed().await.ok()?,
                    Ok(Some(changes)) => return Some((Ok(changes), Some((state, reached, prefix, after)))),
                    Err(error) => return Some((Err(error), None)),
                }
            }
        })))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        let mut state = self.available()?;
        let Transaction { compares, writes } = transaction;
        let holds = |compare: &Compare| match compare {
            Compare::Absent(key) => !state.entries.contains_key(key),
            Compare::Unchanged(key, version) => {
                state.entries.get(key).map_or(Revision(0), |(entry, _)| entry.version) == *version
            }
        };
        if !compares.iter().all(holds) {
            return Ok(Outcome::Conflict);
        }
        for write in &writes {
            match write {
                Write::Put { lease: Some(lease), .. } if !state.leases.contains_key(&lease.0) => {
                    return Err(StoreError::LeaseGone(*lease));
                }
                Write::Put { .. } | Write::Delete { .. } => {}
            }
        }
        let version = Revision(state.revision + 1);
        let mut events = Vec::new();
        for write in writes {
            match write {
                Write::Put { key, value, lease } => {
                    let entry = Entry { key: key.clone(), value, version };
                    events.push(Event::Put(entry.clone()));
                    state.entries.insert(key, (entry, lease));
                }
                Write::Delete { key } => {
                    if state.entries.remove(&key).is_some() {
                        events.push(Event::Delete { key });
                    }
                }
            }
        }
        state.record(events);
        self.reached.send_replace(state.revision);
        Ok(Outcome::Committed(Revision(state.revision)))
    }

    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError> {
        let mut state = self.available()?;
        let id = state.next_lease;
        state.next_lease += 1;
        let ttl_s = ttl_s.max(1);
        state.leases.insert(id, Lease { ttl_s, left_s: ttl_s });
        Ok(LeaseId(id))
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.available()?;
        let found = state.leases.get_mut(&lease.0).ok_or(StoreError::LeaseGone(lease))?;
        found.left_s = found.ttl_s;
        Ok(())
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let mut state = self.available()?;
        if state.leases.remove(&lease.0).is_some() {
            state.remove_keys_of(&[lease]);
            self.reached.send_replace(state.revision);
        }
        Ok(())
    }
}

impl State {
    fn remove_keys_of(&mut self, leases: &[LeaseId]) {
        let gone = self.entries.extract_if(.., |_, (_, lease)| lease.is_some_and(|lease| leases.contains(&lease)));
        let events = gone.map(|(key, _)| Event::Delete { key }).collect();
        self.record(events);
    }

    fn record(&mut self, events: Vec<Event>) {
        if !events.is_empty() {
            self.revision += 1;
            self.history.insert(self.revision, events);
        }
    }

    /// What changed under a prefix after `after`, which moves to the revision that was looked at.
    fn changes(&self, prefix: &str, after: &mut u64) -> Result<Option<Changes>, StoreError> {
        if *after + 1 < self.oldest {
            return Err(StoreError::Compacted(Revision(*after)));
        }
        let under = |event: &&Event| match event {
            Event::Put(entry) => entry.key.starts_with(prefix),
            Event::Delete { key } => key.starts_with(prefix),
        };
        let events: Vec<Event> =
            self.history.range(*after + 1..).flat_map(|(_, events)| events).filter(under).cloned().collect();
        *after = (*after).max(self.revision);
        Ok((!events.is_empty()).then_some(Changes { revision: Revision(*after), events }))
    }
}

fn locked(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}
