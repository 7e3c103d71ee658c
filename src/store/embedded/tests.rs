//! The store against a model: the same random operations on a map that remembers every revision.

use std::collections::BTreeMap;

use super::{
    Embedded,
    request::{
        Branch, Comparison, Done, Field, KvError, Operation, Query, Record, Relation, Row, Span, Target, Transacted,
        Txn,
    },
};

type State = BTreeMap<Vec<u8>, Record>;

/// Numbers that look random and are the same at every run (Knuth's MMIX generator).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn key(&mut self) -> Vec<u8> {
        // The last ones have no successor of their own length.
        let keys: [&[u8]; 8] = [b"a", b"a/1", b"a/2", b"b", b"b\0", b"c", b"\xff", b"\xff\xff"];
        keys[usize::try_from(self.below(8)).unwrap()].to_vec()
    }

    fn span(&mut self) -> Span {
        match self.below(4) {
            0 => Span::One(self.key()),
            1 => Span::From(self.key()),
            2 => Span::prefix(&self.key()),
            _ => Span::Between(self.key(), self.key()),
        }
    }
}

#[tokio::test]
async fn every_revision_can_be_read_as_it_was() {
    for seed in 1..=3 {
        let mut numbers = Numbers(seed);
        let directory = tempfile::tempdir().unwrap();
        let store = Embedded::open(directory.path()).await.unwrap();
        let (lease, _) = store.lease_grant(None, 600).await.unwrap();
        // The states by revision, from the empty one on.
        let mut states = vec![State::new(), State::new()];
        for _ in 0..120 {
            let operations = random_operations(&mut numbers, lease);
            let txn = Txn { comparisons: vec![], success: operations.clone(), failure: vec![] };
            let Transacted { revision, branch: _, done } = match store.transact(txn).await {
                Ok(transacted) => transacted,
                Err(KvError::DuplicateKey) => continue,
                Err(error) => panic!("{error}"),
            };
            let mut state = states.last().unwrap().clone();
            let changed = apply(&mut state, &operations, &done, states.len() as u64);
            if changed {
                states.push(state);
            }
            assert_eq!(revision, states.len() as u64 - 1, "{operations:?}");
        }
        check_reads(&store, &states, 1, &mut numbers).await;
        check_feeds(&store, &states, 1).await;
        store.close().await;
        let store = Embedded::open(directory.path()).await.unwrap();
        check_reads(&store, &states, 1, &mut numbers).await;
        check_feeds(&store, &states, 1).await;
        let oldest = states.len() as u64 / 2;
        store.compact(oldest).await.unwrap();
        check_reads(&store, &states, oldest, &mut numbers).await;
        check_feeds(&store, &states, oldest).await;
    }
}

#[tokio::test]
async fn comparisons_hold_as_in_etcd() {
    let directory = tempfile::tempdir().unwrap();
    let store = Embedded::open(directory.path()).await.unwrap();
    let (lease, _) = store.lease_grant(Some(77), 600).await.unwrap();
    let put = |key: &[u8], value: &[u8], lease| Operation::Put {
        key: key.to_vec(),
        value: Field::Set(value.to_vec()),
        lease: Field::Set(lease),
    };
    // Revisions 2 and 3: "k" is made at 2, changed at 3, has version 2; "l" has version 1.
    for success in [vec![put(b"k", b"4", 0), put(b"l", b"5", 0)], vec![put(b"k", b"5", lease)]] {
        store.transact(Txn { success, ..Txn::default() }).await.unwrap();
    }
    let key = |key: &[u8]| Span::One(key.to_vec());
    for (span, target, relations) in [
        (key(b"k"), Target::Version(2), "=  "),
        (key(b"k"), Target::Version(1), " > "),
        (key(b"k"), Target::Created(2), "=  "),
        (key(b"k"), Target::Created(3), "  <"),
        (key(b"k"), Target::Modified(3), "=  "),
        (key(b"k"), Target::Lease(77), "=  "),
        (key(b"k"), Target::Lease(78), "  <"),
        (key(b"k"), Target::Value(b"5".to_vec()), "=  "),
        (key(b"k"), Target::Value(b"40".to_vec()), " > "),
        // An absent key is at 0, and has no value to compare.
        (key(b"absent"), Target::Version(0), "=  "),
        (key(b"absent"), Target::Modified(1), "  <"),
        (key(b"absent"), Target::Lease(0), "=  "),
        // A span: every key must hold.
        (Span::prefix(b""), Target::Version(0), " > "),
        (Span::prefix(b""), Target::Value(b"5".to_vec()), "=  "),
    ] {
        for (relation, holds) in [
            (Relation::Equal, relations.contains('=')),
            (Relation::Greater, relations.contains('>')),
            (Relation::Less, relations.contains('<')),
            (Relation::NotEqual, !relations.contains('=')),
        ] {
            let comparison = Comparison { span: span.clone(), target: target.clone(), relation };
            let branch = branch_of(&store, comparison).await;
            assert_eq!(branch == Branch::Success, holds, "{span:?} {target:?} {relation:?}");
        }
    }
    for relation in [Relation::Equal, Relation::NotEqual, Relation::Greater, Relation::Less] {
        let target = Target::Value(vec![]);
        let branch = branch_of(&store, Comparison { span: key(b"absent"), target, relation }).await;
        assert_eq!(branch, Branch::Failure, "an absent value, {relation:?}");
    }
}

async fn branch_of(store: &Embedded, comparison: Comparison) -> Branch {
    store.transact(Txn { comparisons: vec![comparison], ..Txn::default() }).await.unwrap().branch
}

fn random_operations(numbers: &mut Numbers, lease: i64) -> Vec<Operation> {
    let count = 1 + numbers.below(3);
    let operation = |_| match numbers.below(8) {
        0 => Operation::Delete(numbers.span()),
        1 => Operation::Delete(Span::One(numbers.key())),
        2 => Operation::Range(Query { span: numbers.span(), at: None, limit: None }),
        _ => Operation::Put {
            key: numbers.key(),
            value: Field::Set(numbers.below(1000).to_string().into_bytes()),
            lease: Field::Set(if numbers.below(3) == 0 { lease } else { 0 }),
        },
    };
    (0..count).map(operation).collect()
}

/// The same on the model, checking each result against it; it returns whether anything changed.
fn apply(state: &mut State, operations: &[Operation], done: &[Done], revision: u64) -> bool {
    let mut changed = false;
    for (operation, done) in operations.iter().zip(done) {
        match (operation, done) {
            (Operation::Put { key, value: Field::Set(value), lease: Field::Set(lease) }, Done::Put(before)) => {
                let old = state.get(key).cloned();
                assert_eq!(*before, old);
                let record = Record {
                    created: old.as_ref().map_or(revision, |old| old.created),
                    modified: revision,
                    version: old.map_or(1, |old| old.version + 1),
                    lease: *lease,
                    value: value.clone(),
                };
                state.insert(key.clone(), record);
                changed = true;
            }
            (Operation::Delete(span), Done::Deleted(rows)) => {
                assert_eq!(*rows, within(state, span));
                state.retain(|key, _| !span.contains(key));
                changed |= !rows.is_empty();
            }
            (Operation::Range(query), Done::Ranged(ranged)) => {
                assert_eq!(ranged.rows, within(state, &query.span));
                assert_eq!(ranged.revision, if changed { revision } else { revision - 1 });
            }
            other => panic!("{other:?}"),
        }
    }
    changed
}

fn within(state: &State, span: &Span) -> Vec<Row> {
    state.iter().filter(|(key, _)| span.contains(key)).map(|(key, record)| (key.clone(), record.clone())).collect()
}

async fn check_reads(store: &Embedded, states: &[State], oldest: u64, numbers: &mut Numbers) {
    for (at, state) in (0..).zip(states) {
        let span = numbers.span();
        let limit = usize::try_from(numbers.below(4)).ok().filter(|limit| *limit < 3);
        let result = store.range(Query { span: span.clone(), at: Some(at), limit }).await;
        if at < oldest {
            assert_eq!(result.unwrap_err(), KvError::Compacted { oldest });
            continue;
        }
        let ranged = result.unwrap();
        let mut expected = within(state, &span);
        assert_eq!(ranged.count, expected.len(), "{span:?} at {at}");
        expected.truncate(limit.unwrap_or(usize::MAX));
        assert_eq!(ranged.rows, expected, "{span:?} at {at}");
    }
    let next = states.len() as u64;
    let ahead = store.range(Query { span: numbers.span(), at: Some(next), limit: None }).await;
    assert_eq!(ahead.unwrap_err(), KvError::Future);
}

/// From every revision that is kept, the changes lead to every later state.
async fn check_feeds(store: &Embedded, states: &[State], oldest: u64) {
    let last = states.len() as u64 - 1;
    for from in 1..=last {
        let mut feed = store.feed(from + 1);
        let mut state = states[usize::try_from(from).unwrap()].clone();
        while feed.position() <= last {
            match feed.next().await {
                Ok(commits) => {
                    for commit in commits {
                        for change in &commit.changes {
                            assert_eq!(change.before, state.get(&change.key).cloned());
                            match &change.after {
                                Some(record) => state.insert(change.key.clone(), record.clone()),
                                None => state.remove(&change.key),
                            };
                        }
                        assert_eq!(state, states[usize::try_from(commit.revision).unwrap()]);
                    }
                    assert!(from + 1 >= oldest);
                }
                Err(error) => {
                    assert_eq!(error, KvError::Compacted { oldest });
                    assert!(from + 1 < oldest);
                    break;
                }
            }
        }
    }
}
