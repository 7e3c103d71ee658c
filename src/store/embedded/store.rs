//! [`Embedded`] in the words of the trait [`Store`].

use async_trait::async_trait;
use futures::stream;

use super::{
    Embedded,
    request::{
        Branch, Change, Commit, Comparison, Field, KvError, Operation, Query, Record, Relation, Row, Span, Target, Txn,
    },
};
use crate::store::{
    Changes, Compare, Entry, Event, LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Transaction, Watch, Write,
    limits,
};

#[async_trait]
impl Store for Embedded {
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let query = Query { span: Span::prefix(prefix.as_bytes()), at: None, limit: None };
        let ranged = self.range(query).await.map_err(|error| self.explain(error))?;
        Ok(Snapshot {
            revision: Revision(ranged.revision),
            entries: ranged.rows.into_iter().filter_map(entry).collect(),
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let from = after.0.saturating_add(1);
        let oldest = self.oldest().await.map_err(|error| self.explain(error))?;
        if from < oldest {
            return Err(StoreError::Compacted(after));
        }
        let span = Span::prefix(prefix.as_bytes());
        let name = self.path().display().to_string();
        let feed = Some((self.feed(from), span, name));
        Ok(Box::pin(stream::unfold(feed, |feed| async {
            let (mut feed, span, name) = feed?;
            loop {
                match feed.next().await {
                    Ok(commits) => {
                        let Some(last) = commits.last() else { continue };
                        let events: Vec<Event> = commits.iter().flat_map(|commit| events(commit, &span)).collect();
                        if !events.is_empty() {
                            let changes = Changes { revision: Revision(last.revision), events };
                            return Some((Ok(changes), Some((feed, span, name))));
                        }
                    }
                    Err(KvError::Compacted { .. }) => {
                        return Some((Err(StoreError::Compacted(Revision(feed.position() - 1))), None));
                    }
                    Err(error) => return Some((Err(explain(&name, error)), None)),
                }
            }
        })))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        let Transaction { compares, writes } = transaction;
        let txn = Txn {
            comparisons: compares.into_iter().map(comparison).collect(),
            success: writes.into_iter().map(operation).collect(),
            failure: Vec::new(),
        };
        let transacted = self.transact(txn).await.map_err(|error| self.explain(error))?;
        Ok(match transacted.branch {
            Branch::Success => Outcome::Committed(Revision(transacted.revision)),
            Branch::Failure => Outcome::Conflict,
        })
    }

    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError> {
        let (id, _) = self.lease_grant(None, u64::from(ttl_s)).await.map_err(|error| self.explain(error))?;
        Ok(LeaseId(id))
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.lease_renew(lease.0).map_err(|error| self.explain(error))?;
        Ok(())
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        match self.lease_revoke(lease.0).await {
            Ok(_) | Err(KvError::LeaseNotFound(_)) => Ok(()),
            Err(error) => Err(self.explain(error)),
        }
    }
}

impl Embedded {
    fn explain(&self, error: KvError) -> StoreError {
        explain(&self.path().display().to_string(), error)
    }
}

fn explain(name: &str, error: KvError) -> StoreError {
    match error {
        KvError::Compacted { oldest } => StoreError::Compacted(Revision(oldest)),
        KvError::LeaseNotFound(id) => StoreError::LeaseGone(LeaseId(id)),
        KvError::Storage(reason) => StoreError::Storage(format!("{name}: {reason}")),
        KvError::Closed => StoreError::Unavailable { store: name.to_owned(), reason: error.to_string() },
        KvError::Future
        | KvError::LeaseExists(_)
        | KvError::KeyNotFound
        | KvError::EmptyKey
        | KvError::DuplicateKey
        | KvError::TooManyOperations
        | KvError::TooLarge => StoreError::Refused(error.to_string()),
    }
}

fn comparison(compare: Compare) -> Comparison {
    let (key, target) = match compare {
        Compare::Absent(key) => (key, Target::Version(0)),
        Compare::Unchanged(key, revision) => (key, Target::Modified(revision.0.cast_signed())),
    };
    Comparison { span: Span::One(key.into_bytes()), target, relation: Relation::Equal }
}

fn operation(write: Write) -> Operation {
    match write {
        Write::Put { key, value, lease } => Operation::Put {
            key: key.into_bytes(),
            value: Field::Set(value),
            lease: Field::Set(lease.map_or(0, |lease| lease.0)),
        },
        Write::Delete { key } => Operation::Delete(Span::One(key.into_bytes())),
    }
}

/// The row as an entry. A key that is not text was put by someone else's hand: it is none of weft's.
fn entry((key, record): Row) -> Option<Entry> {
    let Record { created: _, modified, version: _, lease: _, value } = record;
    Some(Entry { key: String::from_utf8(key).ok()?, value, version: Revision(modified) })
}

fn events<'a>(commit: &'a Commit, span: &'a Span) -> impl Iterator<Item = Event> + 'a {
    commit.changes.iter().filter(|change| span.contains(&change.key)).filter_map(|Change { key, before: _, after }| {
        match after {
            Some(record) => entry((key.clone(), record.clone())).map(Event::Put),
            None => Some(Event::Delete { key: String::from_utf8(key.clone()).ok()? }),
        }
    })
}
