//! The file: its tables, opening it, and reading from it.
//!
//! One redb file holds the current record of every key, the commits of the last revisions, the leases and their keys.
//! A redb read transaction sees one committed state and never waits for the writer. redb recovers by itself from a crash:
//! the last commit that reached the disk is what the file holds.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::Arc,
};

use redb::{Builder, Database, DatabaseError, ReadTransaction, ReadableTable, TableDefinition};

use super::{
    encoding::{decode_commit, decode_record},
    request::{Commit, KvError, Query, Ranged, Record, Row, Span},
};

/// The file's name in its directory.
pub(super) const FILE: &str = "store.redb";

/// What redb may keep in memory, in bytes. The agent as a whole is to stay under 20 MiB; a cluster of 100 nodes and 5,000
/// endpoints holds about 2 MiB of records, so that the pages in use fit.
const CACHE_BYTES: usize = 4 * 1024 * 1024;

/// The layout of the tables below. Another number is refused, never guessed at.
const FORMAT: u64 = 1;

pub(super) const CURRENT: TableDefinition<&[u8], &[u8]> = TableDefinition::new("current");
pub(super) const HISTORY: TableDefinition<u64, &[u8]> = TableDefinition::new("history");
pub(super) const LEASES: TableDefinition<i64, u64> = TableDefinition::new("leases");
pub(super) const LEASE_KEYS: TableDefinition<(i64, &[u8]), ()> = TableDefinition::new("lease_keys");
pub(super) const META: TableDefinition<&str, u64> = TableDefinition::new("meta");

const META_FORMAT: &str = "format";
const META_REVISION: &str = "revision";
const META_OLDEST: &str = "oldest";
const META_HISTORY_BYTES: &str = "history_bytes";

/// Where the store stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Position {
    /// The last revision. A new store is at 1, as etcd is.
    pub(super) revision: u64,
    /// The oldest revision that can be read or watched from.
    pub(super) oldest: u64,
    /// The bytes that the history takes.
    pub(super) history_bytes: u64,
}

impl Position {
    const NEW: Self = Self { revision: 1, oldest: 1, history_bytes: 0 };

    pub(super) fn load(meta: &impl ReadableTable<&'static str, u64>) -> Result<Self, KvError> {
        let read = |name| meta.get(name).map(|found| found.map(|guard| guard.value()));
        match (read(META_REVISION)?, read(META_OLDEST)?, read(META_HISTORY_BYTES)?) {
            (Some(revision), Some(oldest), Some(history_bytes)) => Ok(Self { revision, oldest, history_bytes }),
            _ => Err(KvError::Storage("it does not say at which revision it is".to_owned())),
        }
    }

    pub(super) fn save(self, meta: &mut redb::Table<&'static str, u64>) -> Result<(), KvError> {
        let Self { revision, oldest, history_bytes } = self;
        for (name, value) in [(META_REVISION, revision), (META_OLDEST, oldest), (META_HISTORY_BYTES, history_bytes)] {
            meta.insert(name, value)?;
        }
        Ok(())
    }
}

/// What opening found.
pub(super) struct Opened {
    pub(super) database: Database,
    pub(super) position: Position,
    /// Every lease with its full length in seconds.
    pub(super) leases: BTreeMap<i64, u64>,
}

/// Opens or makes the file at `path`. Blocks: reading a file back after a crash takes as long as reading all of it.
pub(super) fn open(path: &Path) -> Result<Opened, KvError> {
    let file = create(path).map_err(|error| KvError::Storage(error.to_string()))?;
    let database = Builder::new().set_cache_size(CACHE_BYTES).create_file(file).map_err(|error| {
        KvError::Storage(match error {
            DatabaseError::DatabaseAlreadyOpen => {
                "another process has it open, most likely another weft agent with the same data directory: \
                 stop that one, or give this one a directory of its own"
                    .to_owned()
            }
            DatabaseError::Storage(redb::StorageError::Io(error)) if error.kind() == io::ErrorKind::InvalidData => {
                format!("it is not a weft store, or it is damaged ({error}): restore it from a copy, or move it away")
            }
            DatabaseError::Storage(redb::StorageError::Io(error)) => error.to_string(),
            other => format!("it is damaged or not a weft store ({other}): restore it from a copy, or move it away"),
        })
    })?;
    let (position, leases) = prepare(&database)?;
    Ok(Opened { database, position, leases })
}

/// Opens the file, or makes an empty one. What is in it is the cluster's own affair: root alone may read it.
fn create(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    // A new name is on the disk only once its directory is.
    if let Some(directory) = path.parent()
        && file.metadata()?.len() == 0
    {
        File::open(directory)?.sync_all()?;
    }
    Ok(file)
}

/// Makes the tables of a new file; reads where an old one stands.
fn prepare(database: &Database) -> Result<(Position, BTreeMap<i64, u64>), KvError> {
    let transaction = database.begin_write()?;
    let position;
    let mut leases = BTreeMap::new();
    {
        let mut meta = transaction.open_table(META)?;
        transaction.open_table(CURRENT)?;
        transaction.open_table(HISTORY)?;
        transaction.open_table(LEASE_KEYS)?;
        let format = meta.get(META_FORMAT)?.map(|guard| guard.value());
        match format {
            None => {
                meta.insert(META_FORMAT, FORMAT)?;
                Position::NEW.save(&mut meta)?;
            }
            Some(FORMAT) => {}
            Some(other) => {
                return Err(KvError::Storage(format!(
                    "it has format {other}, and this weft reads format {FORMAT}: start the weft that wrote it"
                )));
            }
        }
        position = Position::load(&meta)?;
        for row in transaction.open_table(LEASES)?.iter()? {
            let (id, ttl_s) = row?;
            leases.insert(id.value(), ttl_s.value());
        }
    }
    transaction.commit()?;
    Ok((position, leases))
}

/// Answers a query from one committed state.
pub(super) fn range(transaction: &ReadTransaction, query: &Query) -> Result<Ranged, KvError> {
    let position = Position::load(&transaction.open_table(META)?)?;
    range_in(&transaction.open_table(CURRENT)?, &transaction.open_table(HISTORY)?, position, query)
}

/// Answers a query from the given tables.
pub(super) fn range_in(
    current: &impl ReadableTable<&'static [u8], &'static [u8]>,
    history: &impl ReadableTable<u64, &'static [u8]>,
    position: Position,
    query: &Query,
) -> Result<Ranged, KvError> {
    let Query { span, at, limit } = query;
    let at = at.unwrap_or(position.revision);
    if at > position.revision {
        return Err(KvError::Future);
    }
    if at < position.oldest {
        return Err(KvError::Compacted { oldest: position.oldest });
    }
    let limit = limit.unwrap_or(usize::MAX);
    // What the keys that changed since held before: the first change after the revision tells.
    let mut since: BTreeMap<Vec<u8>, Option<Record>> = BTreeMap::new();
    for row in history.range(at + 1..)? {
        let (revision, bytes) = row?;
        for change in decode_commit(revision.value(), bytes.value())?.changes {
            if span.contains(&change.key) {
                since.entry(change.key).or_insert(change.before);
            }
        }
    }
    let mut ranged = Ranged { revision: position.revision, rows: Vec::new(), count: 0 };
    let mut take = |key: &[u8], record: &dyn Fn() -> Result<Record, KvError>| -> Result<(), KvError> {
        if ranged.rows.len() < limit {
            ranged.rows.push((key.to_vec(), record()?));
        }
        ranged.count += 1;
        Ok(())
    };
    let mut since = since.into_iter().peekable();
    if let Some(bounds) = span.bounds() {
        for row in current.range::<&[u8]>(bounds)? {
            let (key, bytes) = row?;
            while let Some((earlier, record)) = since.next_if(|(earlier, _)| earlier.as_slice() < key.value()) {
                if let Some(record) = record {
                    take(&earlier, &|| Ok(record.clone()))?;
                }
            }
            match since.next_if(|(changed, _)| changed.as_slice() == key.value()) {
                Some((_, Some(record))) => take(key.value(), &|| Ok(record.clone()))?,
                Some((_, None)) => {}
                None => take(key.value(), &|| decode_record(bytes.value()))?,
            }
        }
    }
    for (key, record) in since {
        if let Some(record) = record {
            take(&key, &|| Ok(record.clone()))?;
        }
    }
    Ok(ranged)
}

/// The most bytes of changes that one read of the history returns, so that a watch that starts far back does not load
/// all of it. At least one commit is always returned.
const COMMITS_BYTES: usize = 256 * 1024;

/// Commits from revision `from` on, in order, each whole; the rest may be asked for after them.
pub(super) fn commits(transaction: &ReadTransaction, from: u64) -> Result<Vec<Arc<Commit>>, KvError> {
    let position = Position::load(&transaction.open_table(META)?)?;
    if from < position.oldest {
        return Err(KvError::Compacted { oldest: position.oldest });
    }
    let mut commits = Vec::new();
    let mut bytes = 0;
    for row in transaction.open_table(HISTORY)?.range(from..)? {
        let (revision, encoded) = row?;
        bytes += encoded.value().len();
        commits.push(Arc::new(decode_commit(revision.value(), encoded.value())?));
        if bytes > COMMITS_BYTES {
            break;
        }
    }
    Ok(commits)
}

/// All rows of a span, as the table holds them now.
pub(super) fn rows(
    current: &impl ReadableTable<&'static [u8], &'static [u8]>,
    span: &Span,
) -> Result<Vec<Row>, KvError> {
    let Some(bounds) = span.bounds() else { return Ok(Vec::new()) };
    let mut rows = Vec::new();
    for row in current.range::<&[u8]>(bounds)? {
        let (key, bytes) = row?;
        rows.push((key.value().to_vec(), decode_record(bytes.value())?));
    }
    Ok(rows)
}

/// The keys that live under a lease.
pub(super) fn lease_keys(
    table: &impl ReadableTable<(i64, &'static [u8]), ()>,
    lease: i64,
) -> Result<Vec<Vec<u8>>, KvError> {
    let mut keys = Vec::new();
    for row in table.range::<(i64, &[u8])>((lease, [].as_slice())..)? {
        let (key, _) = row?;
        let (owner, key) = key.value();
        if owner != lease {
            break;
        }
        keys.push(key.to_vec());
    }
    Ok(keys)
}

macro_rules! storage_errors {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for KvError {
            fn from(error: redb::$error) -> Self {
                Self::Storage(error.to_string())
            }
        }
    )*};
}

storage_errors!(StorageError, TableError, TransactionError, CommitError);
