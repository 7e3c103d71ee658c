//! What is ZooKeeper's own of the store there: roots, users, sessions, and servers that come and go.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "store_conformance/real_zookeeper.rs"]
mod real_zookeeper;

use std::{fs, future::Future, sync::Arc, time::Duration};

use futures::{StreamExt, future::join_all};
use real_zookeeper::RealZooKeeper;
use tempfile::TempDir;
use tokio::time::Instant;
use weft::store::{
    Compare, Event, LeaseId, Outcome, Revision, Store, StoreError, StoreUrl, Transaction, Watch, Write, connect,
    limits::OPERATIONS_MAX,
};

/// Longer than any of the waits below takes on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn roots_users_and_sessions() {
    let server = RealZooKeeper::start().await;
    let at = |path: &str| client(&format!("zk://{}{path}", server.endpoint()));
    tokio::join!(
        roots(at("/roots/a"), at("/roots/b"), at("")),
        users(&server),
        many_clients((0..4).map(|_| at("/many")).collect()),
        watches(at("/watches")),
        keys_above_keys(at("/above")),
        one_lease_a_transaction(at("/one-lease")),
        restarted_in_time(at("/restart"), at("/restart")),
        died(at("/died"), at("/died")),
        many_keys(at("/keys")),
    );
}

/// Nothing is outside of the root, and what is in it lies at the places that a person looks for.
async fn roots(a: Arc<dyn Store>, b: Arc<dyn Store>, all: Arc<dyn Store>) {
    for (store, value) in [(&a, "in a"), (&b, "in b")] {
        put(store, "/weft/v1/nodes/3", value, None).await.unwrap();
    }
    for (store, value) in [(&a, "in a"), (&b, "in b")] {
        let entries = store.snapshot("").await.unwrap().entries;
        assert_eq!(entries.len(), 1, "{entries:?}");
        assert_eq!((entries[0].key.as_str(), entries[0].value.as_slice()), ("/weft/v1/nodes/3", value.as_bytes()));
    }
    assert_eq!(keys(&all, "/roots/").await, ["/roots/a/weft/v1/nodes/3", "/roots/b/weft/v1/nodes/3"]);
}

/// What one with a password has made is his, and of whoever has the same name and password.
async fn users(server: &RealZooKeeper) {
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "open sesame\n").unwrap();
    let place = format!("zk://{}/owned", server.endpoint());
    let owner = client(&format!("{place}?user=weft&password-file={}", file.display()));
    put(&owner, "/k", "secret", None).await.unwrap();
    let lease = owner.grant_lease(60).await.unwrap();
    put(&owner, "/leased", "", Some(lease)).await.unwrap();
    let same = client(&format!("{place}?user=weft:open%20sesame"));
    put(&same, "/k", "changed", None).await.unwrap();
    assert_eq!(keys(&same, "/").await, ["/k", "/leased"]);
    for stranger in [place.clone(), format!("{place}?user=weft:wrong"), format!("{place}?user=other:open%20sesame")] {
        let stranger = client(&stranger);
        let error = put(&stranger, "/k", "stolen", None).await.unwrap_err();
        assert!(matches!(&error, StoreError::Refused(reason) if reason.contains("password-file")), "{error}");
        let error = stranger.snapshot("/").await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error}");
    }
    fs::remove_file(&file).unwrap();
    let error = put(&client(&format!("{place}?user=weft&password-file={}", file.display())), "/k", "", None).await;
    assert!(error.unwrap_err().to_string().contains("password"), "the file is named");
}

/// Commits of several processes follow each other, and none is lost or taken for a conflict.
async fn many_clients(stores: Vec<Arc<dyn Store>>) {
    const EACH: usize = 25;
    let workers = stores.iter().enumerate().map(|(number, store)| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            for round in 0..EACH {
                put(&store, &format!("/{number}/{round}"), "", None).await.unwrap();
            }
        })
    });
    join_all(workers).await.into_iter().for_each(Result::unwrap);
    assert_eq!(keys(&stores[0], "/").await.len(), stores.len() * EACH);
}

/// A watch begins at what a snapshot saw, of its prefix or a narrower one, and at nothing else.
async fn watches(store: Arc<dyn Store>) {
    let first = put(&store, "/a/1", "", None).await.unwrap();
    let snapshot = store.snapshot("/").await.unwrap().revision;
    for key in ["/b/1", "/a/2", "/a/2", "/a/3"] {
        put(&store, key, "", None).await.unwrap();
    }
    delete(&store, "/a/3").await;
    let mut watch = store.watch("/a/", snapshot).await.unwrap();
    assert_eq!(next(&mut watch).await, ["+/a/2"], "what came and went was not seen");
    for (revision, why) in [(first, "nobody took a snapshot then"), (snapshot, "it has been taken up")] {
        let error = store.watch("/a/", revision).await.err().expect(why);
        assert!(matches!(error, StoreError::Compacted(compacted) if compacted == revision), "{error}");
    }
}

/// A node can be a key and a folder at once, unless it goes with a session.
async fn keys_above_keys(store: Arc<dyn Store>) {
    for key in ["/a/b/c", "/a", "/a/b"] {
        put(&store, key, key, None).await.unwrap();
    }
    delete(&store, "/a").await;
    assert_eq!(keys(&store, "/").await, ["/a/b", "/a/b/c"]);
    delete(&store, "/a/b/c").await;
    delete(&store, "/a/b").await;
    assert!(keys(&store, "/").await.is_empty());
    put(&store, "/a/b/c", "again", None).await.unwrap();
    assert_eq!(keys(&store, "/a/b").await, ["/a/b/c"]);
    let lease = store.grant_lease(60).await.unwrap();
    put(&store, "/leased", "", Some(lease)).await.unwrap();
    for (key, lease) in [("/leased/below", None), ("/a/b", Some(lease))] {
        let error = put(&store, key, "", lease).await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{key}: {error}");
    }
    let error = put(&store, "no slash", "", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
}

/// Leased keys and others are written together; two leases are not.
async fn one_lease_a_transaction(store: Arc<dyn Store>) {
    let (one, two) = (store.grant_lease(60).await.unwrap(), store.grant_lease(60).await.unwrap());
    let writes = |second: Option<LeaseId>| {
        let put = |key: &str, lease| Write::Put { key: key.to_owned(), value: vec![], lease };
        Transaction {
            compares: vec![Compare::Absent("/a".to_owned())],
            writes: vec![put("/a", Some(one)), put("/b", second)],
        }
    };
    let error = store.commit(writes(Some(two))).await.unwrap_err();
    assert!(matches!(error, StoreError::Refused(_)), "{error}");
    assert!(matches!(store.commit(writes(None)).await.unwrap(), Outcome::Committed(_)));
    assert_eq!(store.commit(writes(None)).await.unwrap(), Outcome::Conflict);
    store.revoke_lease(one).await.unwrap();
    assert_eq!(keys(&store, "/").await, ["/b"]);
}

/// The keys of a client that is dropped stay until the server's clock says so, and go in one revision.
async fn restarted_in_time(first: Arc<dyn Store>, other: Arc<dyn Store>) {
    let lease = first.grant_lease(4).await.unwrap();
    for key in ["/a", "/b"] {
        put(&first, key, "", Some(lease)).await.unwrap();
    }
    let mut watch = watch_from_now(&other, "/").await;
    let dropped = Instant::now();
    drop(first);
    put(&other, "/c", "", None).await.unwrap();
    assert_eq!(next(&mut watch).await, ["+/c"]);
    assert_eq!(keys(&other, "/").await, ["/a", "/b", "/c"], "the lease outlives who took it");
    assert_eq!(next(&mut watch).await, ["-/a", "-/b"]);
    // The last ping may have been a third of the time before.
    assert!(dropped.elapsed() > Duration::from_secs(2), "{:?}", dropped.elapsed());
}

/// A lease that was given back is not taken for one that lives.
async fn died(first: Arc<dyn Store>, other: Arc<dyn Store>) {
    let lease = first.grant_lease(1).await.unwrap();
    put(&first, "/a", "", Some(lease)).await.unwrap();
    let mut watch = watch_from_now(&other, "/").await;
    // Nobody renews it, though its session would live on.
    assert_eq!(next(&mut watch).await, ["-/a"]);
    let error = first.renew_lease(lease).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone(gone) if gone == lease), "{error}");
    let error = other.renew_lease(LeaseId(77)).await.unwrap_err();
    assert!(matches!(error, StoreError::LeaseGone(LeaseId(77))), "{error}");
}

/// More keys than one look takes, while others come.
async fn many_keys(store: Arc<dyn Store>) {
    const KEYS: usize = 5_000;
    let names: Vec<String> = (0..KEYS).map(|number| format!("/{}/{number}", number % 7)).collect();
    for names in names.chunks(OPERATIONS_MAX) {
        let puts = names.iter().map(|key| Write::Put { key: key.clone(), value: vec![1; 200], lease: None });
        store.commit(Transaction { compares: vec![], writes: puts.collect() }).await.unwrap();
    }
    let writer = tokio::spawn({
        let store = Arc::clone(&store);
        async move {
            for number in 0..200 {
                put(&store, &format!("/new/{number}"), "", None).await.unwrap();
            }
        }
    });
    let snapshot = store.snapshot("/").await.unwrap();
    let mut watch = store.watch("/", snapshot.revision).await.unwrap();
    let mut count = snapshot.entries.len();
    let mut reached = snapshot.revision;
    while count < KEYS + 200 {
        let changes = soon(watch.next()).await.unwrap().unwrap();
        assert!(changes.revision > reached);
        reached = changes.revision;
        count += changes.events.len();
    }
    writer.await.unwrap();
    assert_eq!(count, KEYS + 200);
    assert_eq!(keys(&store, "/").await.len(), KEYS + 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_watch_ends_with_the_connection_and_the_lease_does_not() {
    let mut server = RealZooKeeper::start().await;
    let store = client(&format!("zk://{}/weft", server.endpoint()));
    let lease = store.grant_lease(40).await.unwrap();
    put(&store, "/leased", "", Some(lease)).await.unwrap();
    let first = put(&store, "/a", "1", None).await.unwrap();
    let mut watch = watch_from_now(&store, "/").await;
    server.stop();
    let error = soon(watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(soon(watch.next()).await.is_none(), "it ends after an error");
    let error = put(&store, "/a", "2", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = store.renew_lease(lease).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let error = client(&format!("zk://{}", server.endpoint())).snapshot("/").await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");

    server.start_again().await;
    store.reconnect();
    let until = Instant::now() + BOUND;
    let second = loop {
        match put(&store, "/a", "3", None).await {
            Ok(revision) => break revision,
            Err(error) => assert!(Instant::now() < until, "{error}"),
        }
    };
    assert!(second > first);
    while let Err(error) = store.renew_lease(lease).await {
        assert!(matches!(error, StoreError::Unavailable { .. }) && Instant::now() < until, "{error}");
    }
    assert_eq!(keys(&store, "/").await, ["/a", "/leased"]);
    // A watch from before the last commits, which nobody remembers.
    let error = store.watch("/", first).await.err().expect("it has changed since");
    assert!(matches!(error, StoreError::Compacted(revision) if revision == first), "{error}");
    let mut watch = watch_from_now(&store, "/").await;
    store.revoke_lease(lease).await.unwrap();
    assert_eq!(next(&mut watch).await, ["-/leased"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_ensemble_that_loses_its_leader() {
    const ROUNDS: usize = 30;
    let mut servers = RealZooKeeper::start_all(3).await;
    let endpoints: Vec<String> = servers.iter().map(RealZooKeeper::endpoint).collect();
    // What one server has confirmed is seen by whoever asks another one, which may be behind.
    let each: Vec<Arc<dyn Store>> = endpoints.iter().map(|endpoint| client(&format!("zk://{endpoint}/weft"))).collect();
    let mut version = put(&each[0], "/k", "", None).await.unwrap();
    for round in 0..ROUNDS {
        let store = &each[round % 3];
        assert_eq!(store.snapshot("/k").await.unwrap().entries[0].version, version);
        let transaction = Transaction {
            compares: vec![Compare::Unchanged("/k".to_owned(), version)],
            writes: vec![Write::Put { key: "/k".to_owned(), value: round.to_string().into_bytes(), lease: None }],
        };
        let Outcome::Committed(now) = each[(round + 1) % 3].commit(transaction).await.unwrap() else {
            panic!("round {round}: nobody else writes")
        };
        version = now;
    }

    let store = client(&format!("zk://{}/weft", endpoints.join(",")));
    let lease = store.grant_lease(20).await.unwrap();
    put(&store, "/leased", "", Some(lease)).await.unwrap();
    let until = Instant::now() + BOUND;
    for server in &mut servers {
        if server.mode().await.as_deref() == Some("leader") {
            server.stop();
        }
    }
    let after = loop {
        match put(&store, "/after", "", None).await {
            Ok(revision) => break revision,
            Err(error) => assert!(matches!(error, StoreError::Unavailable { .. }) && Instant::now() < until, "{error}"),
        }
    };
    assert!(after > version, "{after:?} {version:?}");
    while let Err(error) = store.renew_lease(lease).await {
        assert!(matches!(error, StoreError::Unavailable { .. }) && Instant::now() < until, "{error}");
    }
    assert_eq!(keys(&store, "/").await, ["/after", "/k", "/leased"]);
}

fn client(url: &str) -> Arc<dyn Store> {
    connect(&url.parse::<StoreUrl>().unwrap(), None).unwrap()
}

async fn put(store: &Arc<dyn Store>, key: &str, value: &str, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
    let writes = vec![Write::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), lease }];
    match store.commit(Transaction { compares: vec![], writes }).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict => panic!("a transaction without compares cannot conflict"),
    }
}

async fn delete(store: &Arc<dyn Store>, key: &str) {
    let writes = vec![Write::Delete { key: key.to_owned() }];
    store.commit(Transaction { compares: vec![], writes }).await.unwrap();
}

async fn keys(store: &Arc<dyn Store>, prefix: &str) -> Vec<String> {
    store.snapshot(prefix).await.unwrap().entries.into_iter().map(|entry| entry.key).collect()
}

async fn watch_from_now(store: &Arc<dyn Store>, prefix: &str) -> Watch {
    let now = store.snapshot(prefix).await.unwrap().revision;
    store.watch(prefix, now).await.unwrap()
}

/// The next changes, in the order of the keys.
async fn next(watch: &mut Watch) -> Vec<String> {
    let events = soon(watch.next()).await.expect("the watch ended").unwrap().events;
    let mut told: Vec<String> = events
        .into_iter()
        .map(|event| match event {
            Event::Put(entry) => format!("+{}", entry.key),
            Event::Delete { key } => format!("-{key}"),
        })
        .collect();
    told.sort_unstable();
    told
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("nothing came in time")
}
