//! Commits in order from a revision on: what every watch is made of.
//!
//! A feed holds nothing but its place. It reads the commits in memory, or the file where it lags behind them, and
//! waits for the writer when it has seen all. Dropping it ends it; closing the store ends all of them.

use std::sync::{Arc, Weak};

use tokio::sync::watch;

use super::{
    Shared, disk,
    request::{Commit, KvError},
};

/// A place in the commits.
pub(crate) struct Feed {
    shared: Weak<Shared>,
    reached: watch::Receiver<u64>,
    next: u64,
}

impl Feed {
    pub(super) fn new(shared: Weak<Shared>, reached: watch::Receiver<u64>, from: u64) -> Self {
        // Revision 1 is the new store: nothing was changed at it.
        Self { shared, reached, next: from.max(2) }
    }

    /// The revision that it comes to next: all changes before it have been given.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// The next commits: at least one, in order, none left out. It may be dropped while it waits.
    pub(crate) async fn next(&mut self) -> Result<Vec<Arc<Commit>>, KvError> {
        while *self.reached.borrow_and_update() < self.next {
            self.reached.changed().await.map_err(|_| KvError::Closed)?;
        }
        let shared = self.shared.upgrade().ok_or(KvError::Closed)?;
        let from = self.next;
        let commits = if let Some(commits) = shared.recent.since(from) {
            commits
        } else {
            shared.read(move |transaction| disk::commits(transaction, from)).await?
        };
        let last = commits.last().ok_or(KvError::Storage("its history has a gap".to_owned()))?;
        self.next = last.revision + 1;
        Ok(commits)
    }
}
