//! More cases: many writers, many keys, odd keys, and a server that goes away and comes back.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{
    StreamExt,
    future::join_all,
    stream::{self, TryStreamExt as _},
};
use weft::store::{
    Changes, Compare, Event, Outcome, Revision, Snapshot, StoreError, Transaction, Write,
    limits::{OPERATIONS_MAX, VALUE_BYTES_MAX},
};

use crate::{
    backend::Backend,
    cases::{BOUND, Case, key_of, next, soon},
};

pub(crate) const MORE_CASES: &[(&str, Case)] = &[
    ("each of many keys has one creator", |backend| Box::pin(creators(backend))),
    ("a watch tells transactions whole", |backend| Box::pin(whole_transactions(backend))),
    ("a hundred thousand keys", |backend| Box::pin(hundred_thousand(backend))),
    ("a value that is too large", |backend| Box::pin(too_large(backend))),
    ("odd keys", |backend| Box::pin(odd_keys(backend))),
    ("the server goes and comes back", |backend| Box::pin(comes_back(backend))),
];

/// Sixteen race for each key, and each key's transaction has a second one that must be its winner's.
async fn creators(backend: Backend) {
    const CREATORS: u8 = 16;
    const KEYS: usize = 10;
    let backend = Arc::new(backend);
    let racers = (0..CREATORS).map(|creator| {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            let mut won = Vec::new();
            for number in 0..KEYS {
                let key = backend.key(&format!("claimed-{number}"));
                let put = |key: String| Write::Put { key, value: vec![creator], lease: None };
                let create = Transaction {
                    compares: vec![Compare::Absent(key.clone())],
                    writes: vec![put(format!("{key}-too")), put(key)],
                };
                if let Outcome::Committed(revision) = backend.store.commit(create).await.unwrap() {
                    won.push((number, creator, revision));
                }
            }
            won
        })
    });
    let mut won: Vec<_> = join_all(racers).await.into_iter().flat_map(Result::unwrap).collect();
    won.sort_unstable();
    assert_eq!(won.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), (0..KEYS).collect::<Vec<_>>());
    for (number, creator, revision) in won {
        for name in [format!("claimed-{number}"), format!("claimed-{number}-too")] {
            let entries = backend.store.snapshot(&backend.key(&name)).await.unwrap().entries;
            assert_eq!((entries[0].value[0], entries[0].version), (creator, revision), "{name}");
        }
    }
}

/// Each transaction writes the same number to several keys: whoever follows the watch never holds two numbers at the end of a `Changes`.
async fn whole_transactions(backend: Backend) {
    const ROUNDS: usize = 40;
    const NAMES: [&str; 4] = ["a", "b", "c", "d/e"];
    let backend = Arc::new(backend);
    let put_all = |backend: Arc<Backend>, round: usize| async move {
        let put =
            |name: &&str| Write::Put { key: backend.key(name), value: round.to_string().into_bytes(), lease: None };
        let writes = NAMES.iter().map(put).collect();
        match backend.store.commit(Transaction { compares: vec![], writes }).await.unwrap() {
            Outcome::Committed(revision) => revision,
            Outcome::Conflict => panic!("a transaction without compares cannot conflict"),
        }
    };
    put_all(Arc::clone(&backend), 0).await;
    let Snapshot { revision: mut reached, entries } = backend.store.snapshot(&backend.prefix).await.unwrap();
    let mut state: BTreeMap<String, Vec<u8>> = entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    let mut watch = backend.store.watch(&backend.prefix, reached).await.unwrap();
    let writers = (0..4).map(|writer| {
        let backend = Arc::clone(&backend);
        tokio::spawn(async move {
            let mut last = Revision(0);
            for round in 0..ROUNDS {
                last = put_all(Arc::clone(&backend), 1 + writer * ROUNDS + round).await;
            }
            last
        })
    });
    let last = join_all(writers).await.into_iter().map(Result::unwrap).max().unwrap();
    while reached < last {
        let Changes { revision, events } = next(&mut watch).await;
        assert!(revision > reached, "{revision:?} after {reached:?}");
        for event in events {
            let Event::Put(entry) = event else { panic!("{event:?}") };
            state.insert(entry.key, entry.value);
        }
        reached = revision;
        assert_eq!(state.len(), NAMES.len());
        let first = state.values().next().unwrap();
        assert!(state.values().all(|value| value == first), "half a transaction at {revision:?}: {state:?}");
    }
}

/// All there, at one revision, while other keys come and go; and a watch from there goes on.
async fn hundred_thousand(backend: Backend) {
    const KEYS: usize = 100_000;
    const AT_ONCE: usize = 16;
    let backend = Arc::new(backend);
    let started = Instant::now();
    let numbers: Vec<usize> = (0..KEYS).collect();
    let written = stream::iter(numbers.chunks(OPERATIONS_MAX).map(<[usize]>::to_vec)).map(|numbers| {
        let backend = Arc::clone(&backend);
        async move {
            let put = |number| Write::Put {
                key: backend.key(&format!("many/{number:06}")),
                value: format!("{number}").into_bytes(),
                lease: None,
            };
            let writes = numbers.into_iter().map(put).collect();
            backend.store.commit(Transaction { compares: vec![], writes }).await.map(|_| ())
        }
    });
    written.buffer_unordered(AT_ONCE).try_collect::<()>().await.unwrap();
    let filled = started.elapsed();
    let churn = tokio::spawn({
        let backend = Arc::clone(&backend);
        async move {
            let mut pace = tokio::time::interval(Duration::from_millis(2));
            for round in 0.. {
                let both = |name: &str| match round % 2 {
                    0 => Write::Put { key: backend.key(name), value: vec![], lease: None },
                    _ => Write::Delete { key: backend.key(name) },
                };
                let writes = vec![both("first"), both("zlast")];
                backend.store.commit(Transaction { compares: vec![], writes }).await.unwrap();
                pace.tick().await;
            }
        }
    });
    let started = Instant::now();
    let Snapshot { revision, entries } = backend.store.snapshot(&backend.prefix).await.unwrap();
    let listed = started.elapsed();
    let mut watch = backend.store.watch(&backend.prefix, revision).await.unwrap();
    let changes = next(&mut watch).await;
    churn.abort();
    let Err(ended) = churn.await else { panic!("it never ends by itself") };
    assert!(ended.is_cancelled(), "{ended}");
    eprintln!("{:?}: {KEYS} keys written in {filled:?}, listed in {listed:?}", backend.prefix);
    assert!(listed < BOUND, "a listing took {listed:?}");
    assert!(entries.is_sorted_by(|one, next| one.key < next.key));
    assert!(entries.iter().all(|entry| entry.version <= revision));
    let has = |name: &str| entries.iter().any(|entry| entry.key == backend.key(name));
    assert_eq!(has("first"), has("zlast"), "they come and go together");
    let many = backend.key("many/");
    let many: Vec<_> = entries.iter().filter(|entry| entry.key.starts_with(&many)).collect();
    assert_eq!(many.len(), KEYS);
    assert!(many.iter().enumerate().all(|(number, entry)| entry.value == number.to_string().into_bytes()));
    assert!(changes.revision > revision, "what the listing had is not told again");
}

/// Whoever is refused reads which key and how much there may be.
async fn too_large(backend: Backend) {
    let before = backend.put(&backend.key("a"), "kept").await;
    for bytes in [VALUE_BYTES_MAX + 1, 2 * 1024 * 1024] {
        let put = Write::Put { key: backend.key("a"), value: vec![7; bytes], lease: None };
        let error = backend.store.commit(Transaction { compares: vec![], writes: vec![put] }).await.unwrap_err();
        let StoreError::Refused(text) = &error else { panic!("{error}") };
        for part in [&backend.key("a"), &bytes.to_string(), &VALUE_BYTES_MAX.to_string()] {
            assert!(text.contains(part.as_str()), "{part} is not in {text:?}");
        }
    }
    let entries = backend.store.snapshot(&backend.prefix).await.unwrap().entries;
    assert_eq!((entries.len(), entries[0].version, entries[0].value.as_slice()), (1, before, &b"kept"[..]));
}

/// Keys of weft are plain, but what comes from names and addresses may have any of these.
async fn odd_keys(backend: Backend) {
    let mut names = vec![
        "a/1",
        "a/10",
        "a/1/2",
        "a b",
        "a%2Fb",
        "a?b&c=d#e",
        "a\"b'c",
        "a\\b",
        "a:b@c",
        "fd77::1",
        "ü/ß",
        "日本",
        "~",
        "{}",
        "[1]",
        "+",
        "a.b",
        "..a",
    ];
    let mut watch = backend.watch_from_now().await;
    for name in &names {
        backend.put(&backend.key(name), name).await;
    }
    let mut seen = Vec::new();
    while seen.len() < names.len() {
        seen.extend(next(&mut watch).await.events.iter().map(|event| key_of(event)[backend.prefix.len()..].to_owned()));
    }
    names.sort_unstable();
    seen.sort_unstable();
    assert_eq!(seen, names);
    assert_eq!(backend.keys().await, names, "in order of their bytes");
    for (prefix, expected) in [("a/1", &["a/1", "a/1/2", "a/10"][..]), ("a/1/", &["a/1/2"]), ("a/10", &["a/10"])] {
        let entries = backend.store.snapshot(&backend.key(prefix)).await.unwrap().entries;
        let found: Vec<&str> = entries.iter().map(|entry| &entry.key[backend.prefix.len()..]).collect();
        assert_eq!(found, expected, "{prefix}");
    }
    for name in &names {
        let key = backend.key(name);
        let taken = Transaction {
            compares: vec![Compare::Absent(key.clone())],
            writes: vec![Write::Delete { key: key.clone() }],
        };
        assert_eq!(backend.store.commit(taken).await.unwrap(), Outcome::Conflict, "{name}");
        backend.store.commit(Transaction { compares: vec![], writes: vec![Write::Delete { key }] }).await.unwrap();
    }
    assert!(backend.keys().await.is_empty());
}

/// What was committed is there, a lease still counts, and a watch goes on where it was or says that it has ended.
async fn comes_back(mut backend: Backend) {
    let lease = backend.store.grant_lease(600).await.unwrap();
    backend.put_under(&backend.key("leased"), "", Some(lease)).await;
    let first = backend.put(&backend.key("a"), "1").await;
    let now = backend.store.snapshot(&backend.prefix).await.unwrap().revision;
    let mut watch = backend.store.watch(&backend.prefix, now).await.unwrap();
    if !backend.restart().await {
        return;
    }
    let deadline = Instant::now() + BOUND;
    let second = loop {
        let put = Write::Put { key: backend.key("a"), value: b"2".to_vec(), lease: None };
        let swap = Transaction { compares: vec![Compare::Unchanged(backend.key("a"), first)], writes: vec![put] };
        match backend.store.commit(swap).await {
            Ok(Outcome::Committed(revision)) => break revision,
            // The connection may still be the one that broke.
            Err(StoreError::Unavailable { .. }) if Instant::now() < deadline => tokio::task::yield_now().await,
            other => panic!("{other:?}"),
        }
    };
    let revision = match soon(watch.next()).await {
        Some(Ok(Changes { revision, .. })) => revision,
        Some(Err(StoreError::Unavailable { .. })) => {
            let mut watch = backend.store.watch(&backend.prefix, now).await.unwrap();
            next(&mut watch).await.revision
        }
        other => panic!("{other:?}"),
    };
    assert_eq!(revision, second);
    assert_eq!(backend.keys().await, ["a", "leased"]);
    backend.store.renew_lease(lease).await.unwrap();
    backend.store.revoke_lease(lease).await.unwrap();
    assert_eq!(backend.keys().await, ["a"]);
}
