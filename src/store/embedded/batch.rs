//! Requests carried out inside one write transaction of the file. Each is checked as a whole before its first write, so
//! that a refused request leaves nothing behind while those beside it in the same batch go on.

use std::{collections::VecDeque, sync::Arc};

use redb::{ReadableTable, Table, WriteTransaction};

use super::{
    disk::{self, CURRENT, HISTORY, LEASE_KEYS, LEASES, META, Position},
    encoding::{decode_record, encode_changes, encode_record},
    request::{
        Branch, Change, Commit, Comparison, Done, Field, KvError, Operation, Query, Ranged, Record, Relation, Span,
        Target, Transacted, Txn,
    },
};
use crate::store::limits::{OPERATIONS_MAX, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX};

/// How many revisions are kept. A watcher that was away resumes from them; one that was away for longer takes a snapshot,
/// which costs one read of all keys. 10,000 revisions are ten minutes of a busy cluster (16 changes a second) and days
/// of a quiet one, in some 5 MB of file.
const KEPT_REVISIONS: u64 = 10_000;

/// The most bytes of history kept, whatever the revisions: three times what weft's own records take at
/// [`KEPT_REVISIONS`]. It bounds the file, and with it the time to open that after a crash, when values are large.
const KEPT_BYTES: u64 = 16 * 1024 * 1024;

/// How far history may grow past [`KEPT_REVISIONS`] before it is cut: a cut costs about a microsecond a revision, so it
/// is made in portions and not at every commit.
const CUT_SLACK: u64 = 500;

/// One write transaction with its tables.
pub(super) struct Batch<'t> {
    current: Table<'t, &'static [u8], &'static [u8]>,
    history: Table<'t, u64, &'static [u8]>,
    leases: Table<'t, i64, u64>,
    lease_keys: Table<'t, (i64, &'static [u8]), ()>,
    meta: Table<'t, &'static str, u64>,
    position: Position,
    commits: Vec<Arc<Commit>>,
    /// Whether something was written that is not a commit: a lease, a compaction.
    touched: bool,
}

/// What a batch wrote.
pub(super) struct Written {
    pub(super) position: Position,
    pub(super) commits: Vec<Arc<Commit>>,
    /// Whether there is anything to make durable.
    pub(super) touched: bool,
}

impl<'t> Batch<'t> {
    pub(super) fn begin(transaction: &'t WriteTransaction) -> Result<Self, KvError> {
        let meta = transaction.open_table(META)?;
        let position = Position::load(&meta)?;
        Ok(Self {
            current: transaction.open_table(CURRENT)?,
            history: transaction.open_table(HISTORY)?,
            leases: transaction.open_table(LEASES)?,
            lease_keys: transaction.open_table(LEASE_KEYS)?,
            meta,
            position,
            commits: Vec::new(),
            touched: false,
        })
    }

    /// Cuts the history where it has grown too long, and notes where the store stands.
    pub(super) fn finish(mut self) -> Result<Written, KvError> {
        self.cut()?;
        let touched = self.touched || !self.commits.is_empty();
        if touched {
            self.position.save(&mut self.meta)?;
        }
        Ok(Written { position: self.position, commits: self.commits, touched })
    }

    pub(super) fn transact(&mut self, txn: Txn) -> Result<Transacted, KvError> {
        let Txn { comparisons, success, failure } = txn;
        check_size(&comparisons, &success, &failure)?;
        let mut holds = true;
        for comparison in &comparisons {
            holds &= self.holds(comparison)?;
        }
        let (branch, operations) = if holds { (Branch::Success, success) } else { (Branch::Failure, failure) };
        for operation in &operations {
            self.check(operation)?;
        }
        // Reads of the past come first: they undo what the history holds, and it does not hold the writes to come.
        let mut past = VecDeque::new();
        for operation in &operations {
            if let Operation::Range(query @ Query { at: Some(_), .. }) = operation {
                past.push_back(disk::range_in(&self.current, &self.history, self.position, query)?);
            }
        }
        let revision = self.position.revision + 1;
        let mut changes = Vec::new();
        let mut done = Vec::with_capacity(operations.len());
        for operation in operations {
            // A read after a write of the same transaction is at the revision that the transaction makes.
            let reached = self.position.revision + u64::from(!changes.is_empty());
            done.push(match operation {
                Operation::Range(query) => {
                    let read = match query.at {
                        Some(_) => past.pop_front(),
                        None => None,
                    };
                    let position = Position { revision: reached, ..self.position };
                    Done::Ranged(match read {
                        Some(ranged) => Ranged { revision: reached, ..ranged },
                        None => disk::range_in(&self.current, &self.history, position, &query)?,
                    })
                }
                Operation::Put { key, value, lease } => {
                    Done::Put(self.put(revision, key, value, lease, &mut changes)?)
                }
                Operation::Delete(span) => {
                    let rows = disk::rows(&self.current, &span)?;
                    for (key, record) in &rows {
                        self.remove(key.clone(), record.clone(), &mut changes)?;
                    }
                    Done::Deleted(rows)
                }
            });
        }
        self.commit(changes)?;
        Ok(Transacted { revision: self.position.revision, branch, done })
    }

    /// Makes a lease; it returns the revision.
    pub(super) fn grant(&mut self, id: i64, ttl_s: u64) -> Result<u64, KvError> {
        if self.leases.get(id)?.is_some() {
            return Err(KvError::LeaseExists(id));
        }
        self.leases.insert(id, ttl_s)?;
        self.touched = true;
        Ok(self.position.revision)
    }

    /// Ends a lease and removes its keys.
    pub(super) fn revoke(&mut self, id: i64) -> Result<u64, KvError> {
        if self.leases.get(id)?.is_none() {
            return Err(KvError::LeaseNotFound(id));
        }
        self.end(&[id])
    }

    /// Ends all of these leases in one revision; those that have ended already are fine.
    pub(super) fn end(&mut self, ids: &[i64]) -> Result<u64, KvError> {
        let mut changes = Vec::new();
        for id in ids {
            for key in disk::lease_keys(&self.lease_keys, *id)? {
                let record = self.record(&key)?;
                if let Some(record) = record {
                    self.remove(key, record, &mut changes)?;
                }
            }
            self.touched |= self.leases.remove(*id)?.is_some();
        }
        self.commit(changes)?;
        Ok(self.position.revision)
    }

    /// Forgets all revisions before `revision`.
    pub(super) fn compact(&mut self, revision: u64) -> Result<u64, KvError> {
        if revision <= self.position.oldest {
            return Err(KvError::Compacted { oldest: self.position.oldest });
        }
        if revision > self.position.revision {
            return Err(KvError::Future);
        }
        self.forget_before(revision)?;
        Ok(self.position.revision)
    }

    fn put(
        &mut self,
        revision: u64,
        key: Vec<u8>,
        value: Field<Vec<u8>>,
        lease: Field<i64>,
        changes: &mut Vec<Change>,
    ) -> Result<Option<Record>, KvError> {
        let before = self.record(&key)?;
        let value = match value {
            Field::Set(value) => value,
            Field::Keep => before.as_ref().ok_or(KvError::KeyNotFound)?.value.clone(),
        };
        let lease = match lease {
            Field::Set(lease) => lease,
            Field::Keep => before.as_ref().ok_or(KvError::KeyNotFound)?.lease,
        };
        let after = Record {
            created: before.as_ref().map_or(revision, |before| before.created),
            modified: revision,
            version: before.as_ref().map_or(0, |before| before.version) + 1,
            lease,
            value,
        };
        let old_lease = before.as_ref().map_or(0, |before| before.lease);
        if old_lease != lease {
            if old_lease != 0 {
                self.lease_keys.remove((old_lease, key.as_slice()))?;
            }
            if lease != 0 {
                self.lease_keys.insert((lease, key.as_slice()), ())?;
            }
        }
        self.current.insert(key.as_slice(), encode_record(&after).as_slice())?;
        changes.push(Change { key, before: before.clone(), after: Some(after) });
        Ok(before)
    }

    fn remove(&mut self, key: Vec<u8>, before: Record, changes: &mut Vec<Change>) -> Result<(), KvError> {
        self.current.remove(key.as_slice())?;
        if before.lease != 0 {
            self.lease_keys.remove((before.lease, key.as_slice()))?;
        }
        changes.push(Change { key, before: Some(before), after: None });
        Ok(())
    }

    /// Gives the changes a revision; none is no revision.
    fn commit(&mut self, changes: Vec<Change>) -> Result<(), KvError> {
        if changes.is_empty() {
            return Ok(());
        }
        self.position.revision += 1;
        let encoded = encode_changes(&changes);
        self.history.insert(self.position.revision, encoded.as_slice())?;
        self.position.history_bytes += encoded.len() as u64;
        self.commits.push(Arc::new(Commit { revision: self.position.revision, changes }));
        Ok(())
    }

    fn cut(&mut self) -> Result<(), KvError> {
        if self.position.revision - self.position.oldest > KEPT_REVISIONS + CUT_SLACK {
            self.forget_before(self.position.revision - KEPT_REVISIONS)?;
        }
        if self.position.history_bytes > KEPT_BYTES {
            // Half of it at once, so that the walk is not made at every commit.
            let mut kept = self.position.history_bytes;
            let mut first_kept = self.position.oldest;
            for row in self.history.iter()? {
                let (revision, bytes) = row?;
                if kept <= KEPT_BYTES / 2 || revision.value() == self.position.revision {
                    break;
                }
                kept = kept.saturating_sub(bytes.value().len() as u64);
                first_kept = revision.value() + 1;
            }
            self.forget_before(first_kept)?;
        }
        Ok(())
    }

    fn forget_before(&mut self, revision: u64) -> Result<(), KvError> {
        let mut freed = 0;
        self.history.retain_in(..revision, |_, bytes| {
            freed += bytes.len() as u64;
            false
        })?;
        self.position.history_bytes = self.position.history_bytes.saturating_sub(freed);
        self.position.oldest = revision;
        self.touched = true;
        Ok(())
    }

    fn record(&self, key: &[u8]) -> Result<Option<Record>, KvError> {
        self.current.get(key)?.map(|bytes| decode_record(bytes.value())).transpose()
    }

    fn holds(&self, comparison: &Comparison) -> Result<bool, KvError> {
        let Comparison { span, target, relation } = comparison;
        let rows = disk::rows(&self.current, span)?;
        if rows.is_empty() {
            return Ok(compare(None, target, *relation));
        }
        Ok(rows.iter().all(|(_, record)| compare(Some(record), target, *relation)))
    }

    /// What can be refused, before anything is written.
    fn check(&self, operation: &Operation) -> Result<(), KvError> {
        match operation {
            Operation::Range(query) => match query.at {
                Some(at) if at > self.position.revision => Err(KvError::Future),
                Some(at) if at < self.position.oldest => Err(KvError::Compacted { oldest: self.position.oldest }),
                Some(_) | None => Ok(()),
            },
            Operation::Put { key, value, lease } => {
                let keeps = matches!(value, Field::Keep) || matches!(lease, Field::Keep);
                if keeps && self.current.get(key.as_slice())?.is_none() {
                    return Err(KvError::KeyNotFound);
                }
                match lease {
                    Field::Set(id) if *id != 0 && self.leases.get(*id)?.is_none() => Err(KvError::LeaseNotFound(*id)),
                    Field::Set(_) | Field::Keep => Ok(()),
                }
            }
            Operation::Delete(_) => Ok(()),
        }
    }
}

fn compare(record: Option<&Record>, target: &Target, relation: Relation) -> bool {
    // Revisions and versions count up from 1 by one a commit; they do not reach the sign bit.
    let number = |property: fn(&Record) -> u64| record.map_or(0, |record| property(record).cast_signed());
    let ordering = match target {
        Target::Version(given) => number(|record| record.version).cmp(given),
        Target::Created(given) => number(|record| record.created).cmp(given),
        Target::Modified(given) => number(|record| record.modified).cmp(given),
        Target::Lease(given) => record.map_or(0, |record| record.lease).cmp(given),
        Target::Value(given) => match record {
            Some(record) => record.value.cmp(given),
            None => return false,
        },
    };
    match relation {
        Relation::Equal => ordering.is_eq(),
        Relation::NotEqual => ordering.is_ne(),
        Relation::Greater => ordering.is_gt(),
        Relation::Less => ordering.is_lt(),
    }
}

/// What can be refused without looking at the store.
fn check_size(comparisons: &[Comparison], success: &[Operation], failure: &[Operation]) -> Result<(), KvError> {
    if [comparisons.len(), success.len(), failure.len()].iter().any(|count| *count > OPERATIONS_MAX) {
        return Err(KvError::TooManyOperations);
    }
    let spans = comparisons.iter().map(|comparison| &comparison.span);
    let starts = spans.chain(success.iter().chain(failure).filter_map(|operation| match operation {
        Operation::Range(query) => Some(&query.span),
        Operation::Delete(span) => Some(span),
        Operation::Put { .. } => None,
    }));
    for span in starts {
        // A span that begins at the empty key is how etcd's clients ask for all keys; one empty key is a mistake.
        if matches!(span, Span::One(key) if key.is_empty()) {
            return Err(KvError::EmptyKey);
        }
    }
    let mut bytes = 0;
    for branch in [success, failure] {
        for (at, operation) in branch.iter().enumerate() {
            let Operation::Put { key, value, .. } = operation else { continue };
            let value_bytes = match value {
                Field::Set(value) => value.len(),
                Field::Keep => 0,
            };
            bytes += key.len() + value_bytes;
            if key.is_empty() {
                return Err(KvError::EmptyKey);
            }
            if value_bytes > VALUE_BYTES_MAX || bytes > TRANSACTION_BYTES_MAX {
                return Err(KvError::TooLarge);
            }
            let twice = branch.iter().enumerate().any(|(other_at, other)| match other {
                Operation::Put { key: other, .. } => other_at != at && other == key,
                Operation::Delete(span) => span.contains(key),
                Operation::Range(_) => false,
            });
            if twice {
                return Err(KvError::DuplicateKey);
            }
        }
    }
    Ok(())
}
