//! The last commits in memory, so that a watch that keeps up never reads the file.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use super::request::{Change, Commit};

/// The most commits held: a watch that lags further behind reads the file, which is right but slower.
const COMMITS_MAX: usize = 512;

/// The most bytes of changes held, so that large values do not fill the memory.
const BYTES_MAX: usize = 512 * 1024;

/// The last commits, without a gap.
#[derive(Default)]
pub(super) struct Recent(Mutex<Ring>);

#[derive(Default)]
struct Ring {
    commits: VecDeque<Arc<Commit>>,
    bytes: usize,
}

impl Recent {
    /// Adds the next commits, and forgets those before revision `oldest`, as the file has.
    pub(super) fn push(&self, commits: &[Arc<Commit>], oldest: u64) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for commit in commits {
            ring.bytes += bytes(commit);
            ring.commits.push_back(Arc::clone(commit));
        }
        let too_many = |ring: &Ring| ring.commits.len() > COMMITS_MAX || ring.bytes > BYTES_MAX;
        let forgotten = |ring: &Ring| ring.commits.front().is_some_and(|commit| commit.revision < oldest);
        while too_many(&ring) || forgotten(&ring) {
            let Some(first) = ring.commits.pop_front() else { break };
            ring.bytes -= bytes(&first);
        }
    }

    /// Forgets all: what follows may not follow without a gap.
    pub(super) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Ring::default();
    }

    /// All commits from revision `from` on, or `None` if some of them are not here any more.
    pub(super) fn since(&self, from: u64) -> Option<Vec<Arc<Commit>>> {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let first = ring.commits.front()?.revision;
        // Revisions follow one another, so that the distance is the place.
        let skip = usize::try_from(from.checked_sub(first)?).ok()?;
        Some(ring.commits.iter().skip(skip).cloned().collect())
    }
}

fn bytes(commit: &Commit) -> usize {
    commit.changes.iter().map(Change::bytes).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_holds_the_last_commits_within_its_bounds() {
        let commit = |revision, bytes| {
            let change = Change { key: vec![b'k'; bytes], before: None, after: None };
            Arc::new(Commit { revision, changes: vec![change] })
        };
        let revisions = |found: Option<Vec<Arc<Commit>>>| {
            found.map(|commits| commits.iter().map(|commit| commit.revision).collect::<Vec<_>>())
        };
        let recent = Recent::default();
        assert_eq!(revisions(recent.since(2)), None, "an empty ring knows nothing");
        for revision in 2..=600 {
            recent.push(&[commit(revision, 1)], 1);
        }
        assert_eq!(revisions(recent.since(598)), Some(vec![598, 599, 600]));
        assert_eq!(revisions(recent.since(89)).map(|found| found.len()), Some(COMMITS_MAX));
        assert_eq!(revisions(recent.since(88)), None, "it was pushed out");
        recent.push(&[commit(601, BYTES_MAX - 1)], 1);
        assert_eq!(revisions(recent.since(600)), Some(vec![600, 601]));
        assert_eq!(revisions(recent.since(599)), None, "the bytes pushed it out");
        recent.push(&[], 601);
        assert_eq!(revisions(recent.since(600)), None, "it was compacted");
        assert_eq!(revisions(recent.since(601)), Some(vec![601]));
    }
}
