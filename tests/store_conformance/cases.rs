//! The cases.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use weft::store::{
    Changes, Compare, Entry, Event, LeaseId, Outcome, Revision, Snapshot, StoreError, Transaction, Watch, Write,
    limits::{OPERATIONS_MAX, TRANSACTION_BYTES_MAX, VALUE_BYTES_MAX},
};

use crate::backend::Backend;

pub(crate) type Case = fn(Backend) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Longer than any of the waits below takes on a busy machine.
pub(crate) const BOUND: Duration = Duration::from_mins(1);

pub(crate) const CASES: &[(&str, Case)] = &[
    ("one creator wins", |backend| Box::pin(one_creator_wins(backend))),
    ("compare and swap loses no increment", |backend| Box::pin(increments(backend))),
    ("a failed transaction writes nothing", |backend| Box::pin(atomicity(backend))),
    ("a watch has no gap", |backend| Box::pin(no_gap(backend))),
    ("a snapshot and its watch agree", |backend| Box::pin(snapshot_and_watch(backend))),
    ("a prefix ends where it ends", |backend| Box::pin(prefixes(backend))),
    ("a transaction is one revision", |backend| Box::pin(one_revision(backend))),
    ("deleting nothing is no revision", |backend| Box::pin(deleting_nothing(backend))),
    ("a snapshot of many keys", |backend| Box::pin(many_keys(backend))),
    ("a renewed lease lives and then ends", |backend| Box::pin(renewed_lease(backend))),
    ("a revoked lease takes its keys", |backend| Box::pin(revoked_lease(backend))),
    ("a key leaves its lease", |backend| Box::pin(leaving_a_lease(backend))),
    ("a lease that is gone", |backend| Box::pin(lease_gone(backend))),
    ("forgotten revisions", |backend| Box::pin(forgotten(backend))),
    ("what is refused", |backend| Box::pin(refusals(backend))),
];

async fn one_creator_wins(backend: Backend) {
    let backend = Arc::new(backend);
    let key = backend.key("claimed");
    let creators = (0..32).map(|creator| {
        let (backend, key) = (Arc::clone(&backend), key.clone());
        tokio::spawn(async move {
            let put = Write::Put { key: key.clone(), value: vec![creator], lease: None };
            let create = Transaction { compares: vec![Compare::Absent(key)], writes: vec![put] };
            (creator, backend.store.commit(create).await.unwrap())
        })
    });
    let outcomes: Vec<_> = join_all(creators).await.into_iter().map(Result::unwrap).collect();
    let winners: Vec<_> = outcomes.iter().filter(|(_, outcome)| *outcome != Outcome::Conflict).collect();
    let [(winner, Outcome::Committed(revision))] = winners[..] else { panic!("{winners:?}") };
    let [entry] = &backend.store.snapshot(&key).await.unwrap().entries[..] else { panic!("one key") };
    assert_eq!((&entry.value, entry.version), (&vec![*winner], *revision));
}

async fn increments(backend: Backend) {
    let backend = Arc::new(backend);
    let key = backend.key("counter");
    backend.put(&key, "0").await;
    let workers = (0..8).map(|_| {
        let (backend, key) = (Arc::clone(&backend), key.clone());
        tokio::spawn(async move {
            let mut done = 0;
            while done < 10 {
                let entry = backend.store.snapshot(&key).await.unwrap().entries.remove(0);
                let count: u32 = String::from_utf8(entry.value).unwrap().parse().unwrap();
                let put = Write::Put { key: key.clone(), value: (count + 1).to_string().into_bytes(), lease: None };
                let swap =
                    Transaction { compares: vec![Compare::Unchanged(key.clone(), entry.version)], writes: vec![put] };
                match backend.store.commit(swap).await.unwrap() {
                    Outcome::Committed(_) => done += 1,
                    Outcome::Conflict => {}
                }
            }
        })
    });
    join_all(workers).await.into_iter().for_each(Result::unwrap);
    assert_eq!(backend.store.snapshot(&key).await.unwrap().entries[0].value, b"80");
}

async fn atomicity(backend: Backend) {
    let (held, other) = (backend.key("held"), backend.key("other"));
    let version = backend.put(&held, "here").await;
    let before = backend.store.snapshot(&backend.prefix).await.unwrap();
    let writes =
        vec![Write::Put { key: other.clone(), value: vec![1], lease: None }, Write::Delete { key: held.clone() }];
    for compares in [
        vec![Compare::Absent(other.clone()), Compare::Absent(held.clone())],
        vec![Compare::Unchanged(held.clone(), Revision(version.0 + 1))],
        vec![Compare::Unchanged(other.clone(), version)],
    ] {
        let transaction = Transaction { compares, writes: writes.clone() };
        assert_eq!(backend.store.commit(transaction).await.unwrap(), Outcome::Conflict);
    }
    // One write that is refused takes the others with it.
    let mut refused = writes.clone();
    refused.push(Write::Put { key: backend.key("leased"), value: vec![], lease: Some(LeaseId(0x7777)) });
    let error = backend.store.commit(Transaction { compares: vec![], writes: refused }).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone(_)), "{error}");
    assert_eq!(backend.store.snapshot(&backend.prefix).await.unwrap().entries, before.entries);
}

async fn no_gap(backend: Backend) {
    const WRITERS: usize = 6;
    const WRITES: usize = 40;
    let backend = Arc::new(backend);
    backend.put(&backend.key("start"), "").await;
    let Snapshot { revision: start, entries } = backend.store.snapshot(&backend.prefix).await.unwrap();
    let live = backend.store.watch(&backend.prefix, start).await.unwrap();
    let writers = (0..WRITERS).map(|writer| {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for write in 0..WRITES {
                let key = backend.key(&format!("{}", write % 7));
                revisions.push(backend.put(&key, &format!("{writer}.{write}")).await);
            }
            revisions
        })
    });
    let mut written: Vec<Revision> = join_all(writers).await.into_iter().flat_map(Result::unwrap).collect();
    written.sort();
    let now = backend.store.snapshot(&backend.prefix).await.unwrap().entries;
    let versions = |entries: &[Entry]| -> BTreeMap<String, Revision> {
        entries.iter().map(|entry| (entry.key.clone(), entry.version)).collect()
    };
    // A watch that was there, one that comes late, and one that comes in the middle.
    let middle = written[written.len() / 2];
    let mut watches = vec![(live, start)];
    for after in [start, middle] {
        match backend.store.watch(&backend.prefix, after).await {
            Err(StoreError::Compacted(_)) if !backend.has_history() => {}
            watch => watches.push((watch.unwrap(), after)),
        }
    }
    for (mut watch, after) in watches {
        let expected: Vec<Revision> = written.iter().copied().filter(|revision| *revision > after).collect();
        let mut seen = Vec::new();
        let mut state = versions(&entries);
        let mut reached = after;
        while reached < written[written.len() - 1] {
            let Changes { revision, events } = next(&mut watch).await;
            assert!(revision > reached, "{revision:?} after {reached:?}");
            for event in events {
                let Event::Put(entry) = event else { panic!("{event:?}") };
                assert!(entry.version > reached && entry.version <= revision, "{entry:?}");
                seen.push(entry.version);
                state.insert(entry.key, entry.version);
            }
            reached = revision;
        }
        if backend.has_history() {
            assert_eq!(seen, expected);
        } else {
            seen.sort();
            assert!(seen.is_sorted_by(|one, next| one < next), "none twice: {seen:?}");
            assert!(seen.iter().all(|version| expected.contains(version)), "{seen:?} of {expected:?}");
        }
        assert_eq!(state, versions(&now));
    }
}

async fn snapshot_and_watch(backend: Backend) {
    let backend = Arc::new(backend);
    let writer = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move {
            for round in 0..100 {
                let key = backend.key(&format!("{}", round % 10));
                if round % 4 == 3 {
                    let writes = vec![Write::Delete { key }];
                    backend.store.commit(Transaction { compares: vec![], writes }).await.unwrap();
                } else {
                    backend.put(&key, &round.to_string()).await;
                }
            }
            backend.put(&backend.key("end"), "").await
        }
    });
    let snapshot = backend.store.snapshot(&backend.prefix).await.unwrap();
    let mut watch = backend.store.watch(&backend.prefix, snapshot.revision).await.unwrap();
    let mut state: BTreeMap<String, Vec<u8>> =
        snapshot.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    while !state.contains_key(&backend.key("end")) {
        for event in next(&mut watch).await.events {
            match event {
                Event::Put(entry) => state.insert(entry.key, entry.value),
                Event::Delete { key } => state.remove(&key),
            };
        }
    }
    writer.await.unwrap();
    let now = backend.store.snapshot(&backend.prefix).await.unwrap().entries;
    assert_eq!(state, now.into_iter().map(|entry| (entry.key, entry.value)).collect());
}

async fn prefixes(backend: Backend) {
    for name in ["a", "a/", "a/b", "a/\u{10ffff}", "a0", "b", "A/b"] {
        backend.put(&backend.key(name), name).await;
    }
    for (prefix, expected) in [
        ("a/", &["a/", "a/b", "a/\u{10ffff}"][..]),
        ("a", &["a", "a/", "a/b", "a/\u{10ffff}", "a0"]),
        ("a/b", &["a/b"]),
        ("c", &[]),
        ("", &["A/b", "a", "a/", "a/b", "a/\u{10ffff}", "a0", "b"]),
    ] {
        let snapshot = backend.store.snapshot(&backend.key(prefix)).await.unwrap();
        let found: Vec<&[u8]> = snapshot.entries.iter().map(|entry| entry.value.as_slice()).collect();
        assert_eq!(found, expected.iter().map(|name| name.as_bytes()).collect::<Vec<_>>(), "{prefix:?}");
    }
    let all = backend.store.snapshot("").await.unwrap().entries;
    assert!(all.iter().any(|entry| entry.key == backend.key("A/b")), "the empty prefix is all keys");
    let start = backend.store.snapshot("").await.unwrap().revision;
    let mut watch = backend.store.watch(&backend.key("a/"), start).await.unwrap();
    for name in ["a", "a0", "b", "a/x"] {
        backend.put(&backend.key(name), name).await;
    }
    let [Event::Put(entry)] = &next(&mut watch).await.events[..] else { panic!("one change") };
    assert_eq!(entry.key, backend.key("a/x"));
}

async fn one_revision(backend: Backend) {
    let mut watch = backend.watch_from_now().await;
    backend.put(&backend.key("x"), "old").await;
    next(&mut watch).await;
    let writes = vec![
        Write::Put { key: backend.key("b"), value: vec![1], lease: None },
        Write::Delete { key: backend.key("x") },
        Write::Put { key: backend.key("a"), value: vec![2], lease: None },
    ];
    let outcome = backend.store.commit(Transaction { compares: vec![], writes }).await.unwrap();
    let Changes { revision, events } = next(&mut watch).await;
    assert_eq!(outcome, Outcome::Committed(revision));
    let mut keys: Vec<&str> = events.iter().map(key_of).collect();
    let mut expected = [backend.key("b"), backend.key("x"), backend.key("a")];
    if !backend.has_history() {
        keys.sort_unstable();
        expected.sort_unstable();
    }
    assert_eq!(keys, expected, "in the order of the transaction");
    let entries = backend.store.snapshot(&backend.prefix).await.unwrap().entries;
    assert!(entries.iter().all(|entry| entry.version == revision), "{entries:?}");
}

async fn deleting_nothing(backend: Backend) {
    backend.put(&backend.key("a"), "").await;
    let mut watch = backend.watch_from_now().await;
    let writes = vec![Write::Delete { key: backend.key("not there") }];
    let outcome = backend.store.commit(Transaction { compares: vec![], writes }).await.unwrap();
    assert!(matches!(outcome, Outcome::Committed(_)), "{outcome:?}");
    backend.put(&backend.key("b"), "").await;
    let [Event::Put(entry)] = &next(&mut watch).await.events[..] else { panic!("one change") };
    assert_eq!(entry.key, backend.key("b"));
}

async fn many_keys(backend: Backend) {
    const KEYS: usize = 2_500;
    let keys: Vec<String> = (0..KEYS).map(|number| backend.key(&format!("{number:05}"))).collect();
    for keys in keys.chunks(OPERATIONS_MAX) {
        let puts = keys.iter().map(|key| Write::Put { key: key.clone(), value: key.clone().into_bytes(), lease: None });
        backend.store.commit(Transaction { compares: vec![], writes: puts.collect() }).await.unwrap();
    }
    // Keys that come and go while the snapshot is read must not tear it.
    let backend = Arc::new(backend);
    let churn = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move {
            for round in 0.. {
                let both = |key: &str| match round % 2 {
                    0 => Write::Put { key: backend.key(key), value: vec![], lease: None },
                    _ => Write::Delete { key: backend.key(key) },
                };
                let writes = vec![both("00000-first"), both("99999-last")];
                backend.store.commit(Transaction { compares: vec![], writes }).await.unwrap();
            }
        }
    });
    for _ in 0..20 {
        let entries = backend.store.snapshot(&backend.prefix).await.unwrap().entries;
        let has = |key: &str| entries.iter().any(|entry| entry.key == backend.key(key));
        assert_eq!(has("00000-first"), has("99999-last"), "they come and go together");
        let found: Vec<&String> = entries.iter().map(|entry| &entry.key).filter(|key| !key.contains("st")).collect();
        assert_eq!(found.len(), keys.iter().filter(|key| !key.contains("st")).count());
        assert!(entries.is_sorted_by(|a, b| a.key < b.key));
    }
    churn.abort();
}

async fn renewed_lease(backend: Backend) {
    let lease = backend.store.grant_lease(3).await.unwrap();
    backend.put_under(&backend.key("leased"), "", Some(lease)).await;
    backend.put(&backend.key("free"), "").await;
    let mut watch = backend.watch_from_now().await;
    for _ in 0..5 {
        backend.pass(Duration::from_secs(1)).await;
        backend.store.renew_lease(lease).await.unwrap();
    }
    assert_eq!(backend.keys().await, ["free", "leased"], "five seconds of a lease of three");
    let started = Instant::now();
    backend.pass(Duration::from_secs(3)).await;
    let events = next(&mut watch).await.events;
    assert_eq!(events, [Event::Delete { key: backend.key("leased") }]);
    let bound = Duration::from_secs(3) + backend.lease_delay_max();
    assert!(started.elapsed() < bound, "it took {:?}", started.elapsed());
    assert_eq!(backend.keys().await, ["free"]);
    let error = backend.store.renew_lease(lease).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone(gone) if gone == lease), "{error}");
}

async fn revoked_lease(backend: Backend) {
    let lease = backend.store.grant_lease(600).await.unwrap();
    for name in ["a", "b", "c"] {
        backend.put_under(&backend.key(name), "", Some(lease)).await;
    }
    let mut watch = backend.watch_from_now().await;
    backend.store.revoke_lease(lease).await.unwrap();
    let events = next(&mut watch).await.events;
    let mut keys: Vec<&str> = events.iter().map(key_of).collect();
    keys.sort_unstable();
    assert_eq!(keys, [backend.key("a"), backend.key("b"), backend.key("c")], "all in one revision");
    assert!(backend.keys().await.is_empty());
    backend.store.revoke_lease(lease).await.expect("one that has ended is fine");
}

async fn leaving_a_lease(backend: Backend) {
    let first = backend.store.grant_lease(600).await.unwrap();
    let second = backend.store.grant_lease(600).await.unwrap();
    for name in ["freed", "moved", "deleted and made again"] {
        backend.put_under(&backend.key(name), "", Some(first)).await;
    }
    backend.put(&backend.key("freed"), "").await;
    backend.put_under(&backend.key("moved"), "", Some(second)).await;
    let writes = vec![Write::Delete { key: backend.key("deleted and made again") }];
    backend.store.commit(Transaction { compares: vec![], writes }).await.unwrap();
    backend.put(&backend.key("deleted and made again"), "").await;
    backend.store.revoke_lease(first).await.unwrap();
    assert_eq!(backend.keys().await, ["deleted and made again", "freed", "moved"]);
    backend.store.revoke_lease(second).await.unwrap();
    assert_eq!(backend.keys().await, ["deleted and made again", "freed"]);
}

async fn lease_gone(backend: Backend) {
    let lease = backend.store.grant_lease(600).await.unwrap();
    backend.store.revoke_lease(lease).await.unwrap();
    let error = backend.store.renew_lease(lease).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone(gone) if gone == lease), "{error}");
    let put = Write::Put { key: backend.key("late"), value: vec![], lease: Some(lease) };
    let error = backend.store.commit(Transaction { compares: vec![], writes: vec![put] }).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone(gone) if gone == lease), "{error}");
    assert!(backend.keys().await.is_empty());
}

async fn forgotten(backend: Backend) {
    let old = backend.put(&backend.key("a"), "1").await;
    for value in ["2", "3", "4"] {
        backend.put(&backend.key("a"), value).await;
    }
    backend.forget(old).await;
    let error = match backend.store.watch(&backend.prefix, old).await {
        Err(error) => error,
        Ok(mut watch) => soon(watch.next()).await.expect("an answer").unwrap_err(),
    };
    assert!(matches!(error, StoreError::Compacted(revision) if revision == old), "{error}");
    // The way back in.
    let snapshot = backend.store.snapshot(&backend.prefix).await.unwrap();
    assert_eq!(snapshot.entries[0].value, b"4");
    let mut watch = backend.store.watch(&backend.prefix, snapshot.revision).await.unwrap();
    let revision = backend.put(&backend.key("a"), "5").await;
    assert_eq!(next(&mut watch).await.revision, revision);
}

async fn refusals(backend: Backend) {
    let put = |key: &str, bytes: usize| Write::Put { key: key.to_owned(), value: vec![7; bytes], lease: None };
    let name = |number: usize| backend.key(&number.to_string());
    let half = TRANSACTION_BYTES_MAX / 2;
    for (what, writes) in [
        ("a value that is too large", vec![put(&backend.key("a"), VALUE_BYTES_MAX + 1)]),
        ("a value of 1 MiB", vec![put(&backend.key("a"), 1024 * 1024)]),
        ("an empty key", vec![put("", 1)]),
        ("too many writes", (0..=OPERATIONS_MAX).map(|number| put(&name(number), 1)).collect()),
        ("one key twice", vec![put(&backend.key("a"), 1), put(&backend.key("a"), 2)]),
        ("too much together", vec![put(&backend.key("a"), half), put(&backend.key("b"), half)]),
    ] {
        let error = backend.store.commit(Transaction { compares: vec![], writes }).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{what}: {error}");
        assert!(backend.keys().await.is_empty(), "{what}");
    }
    let largest = vec![put(&backend.key("a"), VALUE_BYTES_MAX)];
    backend.store.commit(Transaction { compares: vec![], writes: largest }).await.unwrap();
    let compares = (0..OPERATIONS_MAX).map(|number| Compare::Absent(backend.key(&format!("not-{number}"))));
    let most = (0..OPERATIONS_MAX).map(|number| put(&name(number), 1));
    let most = Transaction { compares: compares.collect(), writes: most.collect() };
    backend.store.commit(most).await.unwrap();
    assert_eq!(backend.keys().await.len(), OPERATIONS_MAX + 1);
}

pub(crate) fn key_of(event: &Event) -> &str {
    match event {
        Event::Put(entry) => &entry.key,
        Event::Delete { key } => key,
    }
}

pub(crate) async fn next(watch: &mut Watch) -> Changes {
    soon(watch.next()).await.expect("the watch ended").unwrap()
}

pub(crate) async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("nothing came in time")
}
