//! A store under a prefix of somebody else's: all keys get it on their way in and lose it on their way out.

use std::sync::Arc;

use async_trait::async_trait;
use futures::StreamExt as _;

use super::{
    Changes, Compare, Entry, Event, LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Transaction, Watch, Write,
};

/// `store`, with `prefix` before every key.
pub(super) struct Prefixed {
    pub(super) store: Arc<dyn Store>,
    pub(super) prefix: String,
}

impl Prefixed {
    fn under(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }
}

#[async_trait]
impl Store for Prefixed {
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let Snapshot { revision, entries } = self.store.snapshot(&self.under(prefix)).await?;
        let entries = entries.into_iter().filter_map(|found| entry(&self.prefix, found)).collect();
        Ok(Snapshot { revision, entries })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let watch = self.store.watch(&self.under(prefix), after).await?;
        let prefix = self.prefix.clone();
        Ok(Box::pin(watch.map(move |changes| {
            let Changes { revision, events } = changes?;
            let events = events.into_iter().filter_map(|change| event(&prefix, change)).collect();
            Ok(Changes { revision, events })
        })))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        let Transaction { compares, writes } = transaction;
        let compares = compares.into_iter().map(|compare| match compare {
            Compare::Absent(key) => Compare::Absent(self.under(&key)),
            Compare::Unchanged(key, version) => Compare::Unchanged(self.under(&key), version),
        });
        let writes = writes.into_iter().map(|write| match write {
            Write::Put { key, value, lease } => Write::Put { key: self.under(&key), value, lease },
            Write::Delete { key } => Write::Delete { key: self.under(&key) },
        });
        self.store.commit(Transaction { compares: compares.collect(), writes: writes.collect() }).await
    }

    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError> {
        self.store.grant_lease(ttl_s).await
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.renew_lease(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.store.revoke_lease(lease).await
    }

    fn reconnect(&self) {
        self.store.reconnect();
    }
}

fn entry(prefix: &str, entry: Entry) -> Option<Entry> {
    let Entry { key, value, version } = entry;
    Some(Entry { key: key.strip_prefix(prefix)?.to_owned(), value, version })
}

fn event(prefix: &str, event: Event) -> Option<Event> {
    Some(match event {
        Event::Put(put) => Event::Put(entry(prefix, put)?),
        Event::Delete { key } => Event::Delete { key: key.strip_prefix(prefix)?.to_owned() },
    })
}
