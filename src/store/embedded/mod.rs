//! The store inside the first node's agent: one server, one file, durable, with etcd's data model.
//!
//! Every change has one revision; the last ones are kept, so that a watch that was away resumes where it was. Reads see
//! one committed state of the file and never wait for writes; writes go through one thread that gathers them.
//!
//! **How it lives.** [`Embedded::open`] starts one thread (the writer) and one task (the ends of leases). [`Embedded::close`]
//! stops both and lets go of the file; so does dropping the last handle, a moment later. What was acknowledged is on the
//! disk and survives a crash. What was not acknowledged may or may not be there afterwards, whole or not at all.
//!
//! **Why the reads are not served from memory.** redb's pages in its cache are the memory: a second copy of all records
//! would double it, and could differ from the file.

mod batch;
mod disk;
mod encoding;
mod feed;
mod leases;
mod recent;
pub(crate) mod request;
mod store;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    fmt::Display,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use redb::{Database, ReadTransaction, ReadableDatabase};
use tokio::{
    sync::{RwLock, mpsc, oneshot, watch},
    task::AbortHandle,
};

pub(crate) use self::feed::Feed;
use self::{
    leases::{Deadlines, TTL_S_MAX},
    recent::Recent,
    request::{KvError, LeaseState, Query, Ranged, Transacted, Txn},
    writer::Command,
};
use super::StoreError;

/// A durable store for one server process. Cheap to share behind an `Arc`.
pub struct Embedded {
    shared: Arc<Shared>,
    commands: mpsc::Sender<Command>,
    reached: watch::Receiver<u64>,
    writer: Mutex<Option<std::thread::JoinHandle<()>>>,
    expiry: AbortHandle,
}

/// What the writer, the feeds and the handles share.
struct Shared {
    path: PathBuf,
    /// `None` once closed, or while a failed file cannot be opened again. It is locked for reading by every use of the file; closing waits for them.
    database: Arc<RwLock<Option<Database>>>,
    recent: Recent,
    deadlines: Deadlines,
}

impl Embedded {
    /// Opens the store in `directory`, or makes a new one there; the directory must exist. Every lease that it holds
    /// begins anew at its full length.
    ///
    /// Fails with [`StoreError::Storage`], naming the file, if that is held by another process, is not a store, or is damaged.
    pub async fn open(directory: &Path) -> Result<Self, StoreError> {
        let path = directory.join(disk::FILE);
        let storage = |reason: &dyn Display| StoreError::Storage(format!("{}: {reason}", path.display()));
        // redb checks what it reads, but it is not written for hostile files: a panic in it is one more kind of damage.
        let opened = tokio::task::spawn_blocking({
            let path = path.clone();
            move || disk::open(&path)
        });
        let disk::Opened { database, position, leases } = match opened.await {
            Ok(opened) => opened.map_err(|error| storage(&error))?,
            Err(error) => {
                return Err(storage(&format!("it is damaged ({error}): restore it from a copy, or move it away")));
            }
        };
        let shared = Arc::new(Shared {
            path: path.clone(),
            database: Arc::new(RwLock::new(Some(database))),
            recent: Recent::default(),
            deadlines: Deadlines::new(leases),
        });
        let (commands, queue) = mpsc::channel(writer::QUEUE);
        let (reached_sender, reached) = watch::channel(position.revision);
        let writer = std::thread::Builder::new()
            .name("weft-store".to_owned())
            .spawn({
                let shared = Arc::clone(&shared);
                move || writer::run(shared, queue, reached_sender)
            })
            .map_err(|error| storage(&format!("its thread cannot be started: {error}")))?;
        let expiry = tokio::spawn(end_leases(Arc::downgrade(&shared), commands.downgrade())).abort_handle();
        Ok(Self { shared, commands, reached, writer: Mutex::new(Some(writer)), expiry })
    }

    /// Whether there is a store in `directory`.
    pub fn exists(directory: &Path) -> bool {
        directory.join(disk::FILE).exists()
    }

    /// Finishes what was asked before, lets go of the file, and ends all watches. Requests from now on fail.
    pub async fn close(&self) {
        self.expiry.abort();
        // Fails only if the writer has ended already.
        let _ = self.commands.send(Command::Close).await;
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        let database = Arc::clone(&self.shared.database);
        let _ = tokio::task::spawn_blocking(move || {
            if let Some(writer) = writer {
                let _ = writer.join();
            }
            drop(database.blocking_write().take());
        })
        .await;
    }

    /// The file that the store lives in.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// The last revision.
    pub(crate) fn revision(&self) -> u64 {
        *self.reached.borrow()
    }

    /// The rows that a query asks for, at one revision.
    pub(crate) async fn range(&self, query: Query) -> Result<Ranged, KvError> {
        self.shared.read(move |transaction| disk::range(transaction, &query)).await
    }

    /// Carries out a transaction. It is on the disk when this returns.
    pub(crate) async fn transact(&self, txn: Txn) -> Result<Transacted, KvError> {
        self.ask(|reply| Command::Transact(txn, reply)).await
    }

    /// Forgets all revisions before this one; it returns the last revision.
    pub(crate) async fn compact(&self, revision: u64) -> Result<u64, KvError> {
        self.ask(|reply| Command::Compact(revision, reply)).await
    }

    /// Commits from revision `from` on; one that is compacted fails at the feed's first step.
    pub(crate) fn feed(&self, from: u64) -> Feed {
        Feed::new(Arc::downgrade(&self.shared), self.reached.clone(), from)
    }

    /// The oldest revision that can be read or watched from.
    pub(crate) async fn oldest(&self) -> Result<u64, KvError> {
        self.shared.read(|transaction| Ok(disk::Position::load(&transaction.open_table(disk::META)?)?.oldest)).await
    }

    /// Makes a lease of `ttl_s` seconds (one at least) under the given id, or under one of the store's choice.
    pub(crate) async fn lease_grant(&self, id: Option<i64>, ttl_s: u64) -> Result<(i64, u64), KvError> {
        let ttl_s = ttl_s.clamp(1, TTL_S_MAX);
        loop {
            let chosen = match id {
                Some(id) => id,
                None => random_lease_id()?,
            };
            match self.ask(|reply| Command::Grant { id: chosen, ttl_s, reply }).await {
                Err(KvError::LeaseExists(_)) if id.is_none() => {}
                result => return result.map(|_| (chosen, ttl_s)),
            }
        }
    }

    /// Ends a lease and removes its keys, in one revision.
    pub(crate) async fn lease_revoke(&self, id: i64) -> Result<u64, KvError> {
        self.ask(|reply| Command::Revoke(id, reply)).await
    }

    /// Gives a lease its full length again, and returns that in seconds. It costs no write: a restart renews all leases.
    pub(crate) fn lease_renew(&self, id: i64) -> Result<u64, KvError> {
        self.shared.deadlines.renew(id).ok_or(KvError::LeaseNotFound(id))
    }

    /// A lease, with the keys under it.
    pub(crate) async fn lease_state(&self, id: i64) -> Result<LeaseState, KvError> {
        let keys = self
            .shared
            .read(move |transaction| disk::lease_keys(&transaction.open_table(disk::LEASE_KEYS)?, id))
            .await?;
        let (ttl_s, left_s) = self.shared.deadlines.get(id).ok_or(KvError::LeaseNotFound(id))?;
        Ok(LeaseState { ttl_s, left_s, keys })
    }

    /// All leases that have not ended.
    pub(crate) fn lease_ids(&self) -> Vec<i64> {
        self.shared.deadlines.ids()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<Result<T, KvError>>) -> Command) -> Result<T, KvError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| KvError::Closed)?;
        answer.await.map_err(|_| KvError::Closed)?
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        // The writer ends by itself when the last sender is gone.
        self.expiry.abort();
    }
}

impl Shared {
    /// Reads one committed state of the file, away from the async workers.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, KvError> + Send + 'static,
    ) -> Result<T, KvError> {
        let database = Arc::clone(&self.database).read_owned().await;
        tokio::task::spawn_blocking(move || {
            let transaction = database.as_ref().ok_or(KvError::Closed)?.begin_read()?;
            read(&transaction)
        })
        .await
        .map_err(|error| KvError::Storage(error.to_string()))?
    }
}

/// Ends leases when their time is over, until the store is dropped or closed.
async fn end_leases(shared: std::sync::Weak<Shared>, commands: mpsc::WeakSender<Command>) {
    loop {
        let Some(strong) = shared.upgrade() else { return };
        let next = strong.deadlines.next();
        let ended = async {
            match next {
                Some(next) => tokio::time::sleep_until(next).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = strong.deadlines.earlier.notified() => continue,
            () = ended => {}
        }
        let (reply, answer) = oneshot::channel();
        let Some(commands) = commands.upgrade() else { return };
        if commands.send(Command::Expire(reply)).await.is_err() {
            return;
        }
        match answer.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("leases cannot be ended in {}: {error}", strong.path.display()),
            Err(_) => return,
        }
    }
}

/// A lease id: positive, as etcd's are, and not guessable from the one before.
fn random_lease_id() -> Result<i64, KvError> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| KvError::Storage(format!("no random numbers: {error}")))?;
    Ok((i64::from_le_bytes(bytes) & i64::MAX).max(1))
}
