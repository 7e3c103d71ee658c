//! The embedded store's inner words: etcd's data model without etcd's encoding.

use std::ops::Bound;

/// The first key and the end of a row of keys.
pub(super) type Bounds<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

/// Some keys in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Span {
    /// One key.
    One(Vec<u8>),
    /// A key and all that follow.
    From(Vec<u8>),
    /// A key and all that follow, up to but not with the second.
    Between(Vec<u8>, Vec<u8>),
}

impl Span {
    /// All keys that begin with `prefix`.
    pub(crate) fn prefix(prefix: &[u8]) -> Self {
        // The first key after all of them: the prefix with its last byte that can grow grown, and nothing behind it.
        let mut end = prefix.to_vec();
        while let Some(last) = end.pop() {
            if let Some(grown) = last.checked_add(1) {
                end.push(grown);
                return Self::Between(prefix.to_vec(), end);
            }
        }
        Self::From(prefix.to_vec())
    }

    /// Whether `key` is one of them.
    pub(crate) fn contains(&self, key: &[u8]) -> bool {
        match self {
            Self::One(one) => key == one.as_slice(),
            Self::From(start) => key >= start.as_slice(),
            Self::Between(start, end) => key >= start.as_slice() && key < end.as_slice(),
        }
    }

    /// The first key and the bound of the last; `None` for a span that can hold no key.
    pub(super) fn bounds(&self) -> Option<Bounds<'_>> {
        match self {
            Self::One(one) => Some((Bound::Included(one), Bound::Included(one))),
            Self::From(start) => Some((Bound::Included(start), Bound::Unbounded)),
            Self::Between(start, end) => (start < end).then_some((Bound::Included(start), Bound::Excluded(end))),
        }
    }
}

/// What the store holds of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    /// The revision at which the key came to be.
    pub(crate) created: u64,
    /// The revision of its last change.
    pub(crate) modified: u64,
    /// How often it was put since it came to be.
    pub(crate) version: u64,
    /// The lease that it lives under; 0 for none.
    pub(crate) lease: i64,
    /// The value.
    pub(crate) value: Vec<u8>,
}

/// A key with its record.
pub(crate) type Row = (Vec<u8>, Record);

/// One key's change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// The key.
    pub(crate) key: Vec<u8>,
    /// What it held before.
    pub(crate) before: Option<Record>,
    /// What it holds since; `None` if it was removed.
    pub(crate) after: Option<Record>,
}

impl Change {
    /// The bytes of keys and values in it: what it costs to keep or to send.
    pub(crate) fn bytes(&self) -> usize {
        let record = |record: &Option<Record>| record.as_ref().map_or(0, |record| record.value.len() + 40);
        self.key.len() + record(&self.before) + record(&self.after)
    }
}

/// All changes of one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Commit {
    /// The revision.
    pub(crate) revision: u64,
    /// In the order of the transaction.
    pub(crate) changes: Vec<Change>,
}

/// A question for rows.
#[derive(Debug, Clone)]
pub(crate) struct Query {
    /// Which keys.
    pub(crate) span: Span,
    /// As of which revision; `None` for now.
    pub(crate) at: Option<u64>,
    /// The most rows to return; the count counts on.
    pub(crate) limit: Option<usize>,
}

/// The answer to a [`Query`].
#[derive(Debug, Clone)]
pub(crate) struct Ranged {
    /// The store's revision when it was asked.
    pub(crate) revision: u64,
    /// In order of the keys.
    pub(crate) rows: Vec<Row>,
    /// How many keys the span holds, returned or not.
    pub(crate) count: usize,
}

/// Which of a key's properties a comparison looks at, and the value to compare it with.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// How often it was put; 0 for an absent key.
    Version(i64),
    /// The revision at which it came to be; 0 for an absent key.
    Created(i64),
    /// The revision of its last change; 0 for an absent key.
    Modified(i64),
    /// Its lease; 0 for none.
    Lease(i64),
    /// Its value; no comparison with an absent key's value holds.
    Value(Vec<u8>),
}

/// How a property must stand to the given value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relation {
    /// The same.
    Equal,
    /// Another.
    NotEqual,
    /// Greater than the given one.
    Greater,
    /// Less than the given one.
    Less,
}

/// One condition of a transaction; it must hold for every key of the span.
#[derive(Debug, Clone)]
pub(crate) struct Comparison {
    /// Which keys.
    pub(crate) span: Span,
    /// Which property, against what.
    pub(crate) target: Target,
    /// How they must stand to one another.
    pub(crate) relation: Relation,
}

/// A field that a put sets or leaves as it was.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Field<T> {
    /// To this.
    Set(T),
    /// As it was; the key must exist.
    Keep,
}

/// One operation of a transaction.
#[derive(Debug, Clone)]
pub(crate) enum Operation {
    /// Read; it sees what the operations before it wrote.
    Range(Query),
    /// Set one key.
    Put {
        /// The key.
        key: Vec<u8>,
        /// Its value.
        value: Field<Vec<u8>>,
        /// Its lease, 0 for none.
        lease: Field<i64>,
    },
    /// Remove all keys of the span.
    Delete(Span),
}

/// What an [`Operation`] gave.
#[derive(Debug, Clone)]
pub(crate) enum Done {
    /// The rows.
    Ranged(Ranged),
    /// What the key held before.
    Put(Option<Record>),
    /// The rows that were removed.
    Deleted(Vec<Row>),
}

/// A transaction: one of two lists of operations, all of it or nothing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Txn {
    /// The conditions.
    pub(crate) comparisons: Vec<Comparison>,
    /// What is done if all of them hold.
    pub(crate) success: Vec<Operation>,
    /// What is done otherwise.
    pub(crate) failure: Vec<Operation>,
}

/// Which list was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Branch {
    /// All comparisons held.
    Success,
    /// One did not.
    Failure,
}

/// How a [`Txn`] went.
#[derive(Debug, Clone)]
pub(crate) struct Transacted {
    /// The store's revision with it.
    pub(crate) revision: u64,
    /// Which list was carried out.
    pub(crate) branch: Branch,
    /// Its operations' results, in order.
    pub(crate) done: Vec<Done>,
}

/// A lease as seen from outside.
#[derive(Debug, Clone)]
pub(crate) struct LeaseState {
    /// Its full length in seconds.
    pub(crate) ttl_s: u64,
    /// What is left of it, in seconds.
    pub(crate) left_s: u64,
    /// The keys that live under it.
    pub(crate) keys: Vec<Vec<u8>>,
}

/// What the embedded store could not do. The etcd face gives each the code and text that etcd gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum KvError {
    /// The revision is older than the oldest that is kept.
    #[error("the oldest revision that is kept is {oldest}")]
    Compacted {
        /// The oldest one that can be asked for.
        oldest: u64,
    },
    /// The revision has not been reached.
    #[error("the revision has not been reached")]
    Future,
    /// A lease that does not exist.
    #[error("lease {0:x} has ended")]
    LeaseNotFound(i64),
    /// A lease id that is taken.
    #[error("lease {0:x} exists already")]
    LeaseExists(i64),
    /// A put that keeps a field of a key that does not exist.
    #[error("the key does not exist")]
    KeyNotFound,
    /// A key of no bytes.
    #[error("a key cannot be empty")]
    EmptyKey,
    /// One key put twice, or put and deleted.
    #[error("a key is written twice in one transaction")]
    DuplicateKey,
    /// More than [`crate::store::limits::OPERATIONS_MAX`].
    #[error("too many operations in one transaction")]
    TooManyOperations,
    /// A value or a transaction that is too large.
    #[error("the request is too large")]
    TooLarge,
    /// The file failed.
    #[error("{0}")]
    Storage(String),
    /// The store was closed, or could not be opened again after a failure.
    #[error("it is closed")]
    Closed,
}
