//! How the cluster's configuration (nodes, networks, services) changes: one compare-and-swap over the whole.
//!
//! A decision is taken on a fresh snapshot and committed on condition that the `generation` key has not moved since. So
//! whatever was checked (a free name, a free port, prefixes that do not overlap) still holds when it is written, however
//! many nodes decide at once. Endpoints and blocks have keys of their own and do not pass here.

use crate::{
    api::Refusal,
    model::Cluster,
    store::{Compare, Outcome, Revision, Store, StoreError, Transaction, Write, record},
};

/// Tries against others who change the configuration at the same moment; each try loses only to somebody who succeeded.
const TRIES_MAX: usize = 32;

/// What to do about a wish.
pub(super) enum Decision<T> {
    /// Write this, and answer that.
    Write(Vec<Write>, T),
    /// It is so already.
    Already(T),
}

/// A fresh snapshot of the store, understood.
pub(super) struct Fresh {
    /// The cluster.
    pub(super) cluster: Cluster,
    /// The records that it was made of, with their versions.
    pub(super) records: record::State,
}

/// Reads the store anew.
pub(super) async fn read(store: &dyn Store) -> Result<Fresh, Refusal> {
    let snapshot = store.snapshot(record::PREFIX).await.map_err(store_refusal)?;
    let records = record::State::from_snapshot(&snapshot);
    let cluster = records.cluster().map_err(record_refusal)?;
    Ok(Fresh { cluster, records })
}

/// Decides on a fresh snapshot and commits, again and again until nobody interfered. Gives the revision from which
/// the answer is true.
pub(super) async fn configure<T>(
    store: &dyn Store,
    decide: impl Fn(&Fresh) -> Result<Decision<T>, Refusal>,
) -> Result<(T, Revision), Refusal> {
    for _ in 0..TRIES_MAX {
        let fresh = read(store).await?;
        let (mut writes, answer) = match decide(&fresh)? {
            Decision::Already(answer) => return Ok((answer, Revision(fresh.cluster.revision))),
            Decision::Write(writes, answer) => (writes, answer),
        };
        let generation = fresh.records.generation().map_err(record_refusal)?;
        let key = record::GENERATION_KEY.to_owned();
        let unmoved = match generation.version {
            Some(version) => Compare::Unchanged(key.clone(), version),
            None => Compare::Absent(key.clone()),
        };
        writes.push(put(key, record::encode_generation(generation.value + 1)));
        let transaction = Transaction { compares: vec![unmoved], writes };
        if let Outcome::Committed(revision) = store.commit(transaction).await.map_err(store_refusal)? {
            return Ok((answer, revision));
        }
    }
    Err(Refusal::unavailable(format!("the configuration was changed by others {TRIES_MAX} times in a row"))
        .with_hint("try again"))
}

/// A record to be put for good.
pub(super) fn put(key: String, value: Vec<u8>) -> Write {
    Write::Put { key, value, lease: None }
}

fn record_refusal(error: record::RecordError) -> Refusal {
    Refusal::internal(format!("the store cannot be used: {error}"))
}

/// A store's failure in the words of the API.
pub(super) fn store_refusal(error: StoreError) -> Refusal {
    match error {
        StoreError::Unavailable { .. } => Refusal::unavailable(error)
            .with_hint("what runs keeps running; try again when the store is back (`weft status`)"),
        StoreError::Refused(_) => Refusal::invalid(error),
        StoreError::Compacted(_) | StoreError::LeaseGone(_) | StoreError::Storage(_) => Refusal::internal(error),
    }
}
