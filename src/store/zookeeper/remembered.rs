//! The readings that a watch may still be asked for.
//!
//! Whoever takes a snapshot may watch from it next. A reading is therefore kept for a while together with its watch; what happens
//! meanwhile waits there. Bounded in number and in time, for each holds the versions of all its keys, and what waits grows.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use super::reading::Reading;
use crate::store::Revision;

/// As many callers as take a snapshot and watch from it at one moment, and some snapshots that come in between.
const COUNT: usize = 4;

/// Much longer than from a snapshot to its watch, which is what a caller does next.
const TIME: Duration = Duration::from_secs(10);

/// The last few readings.
#[derive(Default)]
pub(super) struct Remembered {
    kept: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    next: u64,
    readings: Vec<(u64, Reading)>,
}

impl Remembered {
    pub(super) fn keep(self: &Arc<Self>, reading: Reading) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let number = kept.next;
        kept.next += 1;
        kept.readings.push((number, reading));
        if kept.readings.len() > COUNT {
            kept.readings.remove(0);
        }
        drop(kept);
        let remembered = Arc::downgrade(self);
        tokio::spawn(async move {
            tokio::time::sleep(TIME).await;
            if let Some(remembered) = remembered.upgrade() {
                let mut kept = remembered.kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.readings.retain(|(kept, _)| *kept != number);
            }
        });
    }

    /// The reading that was at a revision, of a prefix or a wider one.
    pub(super) fn take(&self, prefix: &str, revision: Revision) -> Option<Reading> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.readings.iter().position(|(_, reading)| reading.has(prefix, revision))?;
        Some(kept.readings.remove(found).1.narrowed(prefix))
    }
}
