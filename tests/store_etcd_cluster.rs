//! The etcd client with three real etcds of which some die, fall silent, or are left alone.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "store_conformance/real_etcd_cluster.rs"]
mod real_etcd_cluster;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures::StreamExt as _;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, interval, timeout},
};
use weft::store::{
    Changes, Event, LeaseId, Outcome, Revision, Store, StoreError, Transaction, Watch, Write, etcd::EtcdClient,
};

use real_etcd_cluster::{MEMBERS, RealEtcdCluster, Signal};

/// Longer than any of the waits below takes on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

/// The longest time without a write that succeeds: a leader is missed for one to two seconds and elected within as much; a request that
/// went to a member which fell silent is waited for 5 s.
const STALL_MAX: Duration = Duration::from_secs(12);

const WRITERS: usize = 4;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_die() {
    let mut cluster = RealEtcdCluster::start().await;
    let churn = Churn::begin(&cluster, 0).await;
    // The one that is spoken to, the leader, and the leader that is spoken to, if they are not the same.
    for round in 0..3 {
        churn.goes_on().await;
        let victim = if round == 0 { 0 } else { cluster.leader() };
        cluster.signal(victim, Signal::Kill);
        churn.goes_on().await;
        cluster.start_again(victim).await;
    }
    churn.end("members die", STALL_MAX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rolling_restart() {
    let mut cluster = RealEtcdCluster::start().await;
    let churn = Churn::begin(&cluster, 0).await;
    for _ in 0..2 {
        for member in 0..MEMBERS {
            cluster.signal(member, Signal::Term);
            cluster.start_again(member).await;
            churn.goes_on().await;
        }
    }
    churn.end("a rolling restart", STALL_MAX).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_falls_silent() {
    let mut cluster = RealEtcdCluster::start().await;
    for (what, victim) in [("a member", (cluster.leader() + 1) % MEMBERS), ("the leader", cluster.leader())] {
        let churn = Churn::begin(&cluster, victim).await;
        let store = cluster.client(victim);
        let start = put(&store, "/silence", None).await.unwrap();
        let lease = store.grant_lease(30).await.unwrap();
        let mut watch = store.watch("/silence", start).await.unwrap();
        // One that asks for nothing more: only the quiet connection tells it.
        let mut quiet = cluster.client(victim).watch("/silence", start).await.unwrap();
        churn.goes_on().await;
        cluster.signal(victim, Signal::Stop);
        let began = Instant::now();
        if what == "a member" {
            // The others have a leader: it is only a matter of asking them.
            store.snapshot("/silence").await.unwrap();
            let took = began.elapsed();
            assert!(took < Duration::from_secs(4), "a listing took {took:?}");
            store.renew_lease(lease).await.unwrap();
        }
        let written = again(&store, "/silence").await;
        assert_eq!(next(&mut watch).await.unwrap().revision, written, "the watch of a silent {what}");
        let took = began.elapsed();
        eprintln!("{what} is silent: seen by a watch after {took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        assert_eq!(next(&mut quiet).await.unwrap().revision, written, "the quiet watch of a silent {what}");
        let took = began.elapsed();
        eprintln!("{what} is silent: seen by a quiet watch after {took:?}");
        assert!(took < Duration::from_secs(20), "{took:?}");
        churn.goes_on().await;
        cluster.signal(victim, Signal::Continue);
        cluster.wait_for(victim).await;
        churn.end(what, STALL_MAX).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_minority_serves_nothing() {
    let mut cluster = RealEtcdCluster::start().await;
    let all = cluster.client(0);
    let alone = cluster.client_of(0);
    let start = put(&all, "/a", None).await.unwrap();
    let mut watches = [alone.watch("/", start).await.unwrap(), all.watch("/", start).await.unwrap()];
    for member in 1..MEMBERS {
        cluster.signal(member, Signal::Stop);
    }
    let began = Instant::now();
    for watch in &mut watches {
        let error = next(watch).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    }
    let took = began.elapsed();
    eprintln!("a minority's watches ended after {took:?}");
    assert!(took < Duration::from_secs(30), "{took:?}");
    for store in [&alone, &all] {
        let began = Instant::now();
        let snapshot = store.snapshot("/").await.unwrap_err();
        let write = put(store, "/b", None).await.unwrap_err();
        let lease = store.grant_lease(10).await.unwrap_err();
        for error in [snapshot, write, lease] {
            assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        }
        assert!(began.elapsed() < Duration::from_secs(40), "three requests took {:?}", began.elapsed());
    }
    // One of the two makes a majority again.
    cluster.signal(1, Signal::Continue);
    let began = Instant::now();
    again(&all, "/c").await;
    eprintln!("writes again after {:?}", began.elapsed());
    let mut watch = all.watch("/", start).await.unwrap();
    let mut seen = Vec::new();
    while !seen.contains(&"/c".to_owned()) {
        seen.extend(keys(next(&mut watch).await.unwrap()));
    }
    cluster.signal(2, Signal::Continue);
}

/// Writers of keys that are written once each, and a watch from before the first.
struct Churn {
    store: Arc<EtcdClient>,
    prefix: String,
    writers: Vec<JoinHandle<Written>>,
    watcher: JoinHandle<Seen>,
    stop: watch::Sender<bool>,
    /// How many writes succeeded.
    done: watch::Sender<usize>,
}

#[derive(Default)]
struct Written {
    certain: BTreeMap<String, Revision>,
    unknown: Vec<String>,
    longest: Duration,
}

#[derive(Default)]
struct Seen {
    keys: Vec<(Revision, String)>,
    /// How often the watch ended and its holder had to begin another.
    ended: usize,
}

impl Churn {
    async fn begin(cluster: &RealEtcdCluster, first: usize) -> Self {
        let store = Arc::new(cluster.client(first));
        let start = put(&*store, "/start", None).await.unwrap();
        let prefix = format!("/churn-{}/", start.0);
        let stop = watch::Sender::new(false);
        let done = watch::Sender::new(0);
        let writers = (0..WRITERS).map(|writer| {
            let (store, stop, done) = (Arc::clone(&store), stop.subscribe(), done.clone());
            tokio::spawn(write(store, format!("{prefix}{writer}/"), stop, done))
        });
        let writers = writers.collect();
        let watcher = tokio::spawn(see(Arc::clone(&store), prefix.clone(), start));
        Self { store, prefix, writers, watcher, stop, done }
    }

    /// Waits for writes that succeed from now on.
    async fn goes_on(&self) {
        let mut done = self.done.subscribe();
        let now = *done.borrow_and_update();
        timeout(BOUND, done.wait_for(|done| *done > now + 20)).await.expect("nothing is written").unwrap();
    }

    /// Ends the writers and holds against each other what they wrote, what is there, and what was seen.
    async fn end(self, what: &str, stall_max: Duration) {
        self.stop.send_replace(true);
        let mut written = Written::default();
        for writer in self.writers {
            let Written { certain, unknown, longest } = timeout(BOUND, writer).await.unwrap().unwrap();
            written.certain.extend(certain);
            written.unknown.extend(unknown);
            written.longest = written.longest.max(longest);
        }
        let end = again(&*self.store, &format!("{}end", self.prefix)).await;
        let Seen { keys, ended } = timeout(BOUND, self.watcher).await.expect("the watch has a gap at its end").unwrap();
        let now = self.store.snapshot(&self.prefix).await.unwrap().entries;
        let now = now.into_iter().filter(|entry| entry.version != end);
        let there: BTreeMap<String, Revision> = now.map(|entry| (entry.key, entry.version)).collect();
        for (key, revision) in &written.certain {
            assert_eq!(there.get(key), Some(revision), "{what}: {key} was committed");
        }
        let named: BTreeSet<&String> = written.certain.keys().chain(&written.unknown).collect();
        assert!(there.keys().all(|key| named.contains(key)), "{what}: somebody wrote what nobody asked for");
        assert!(keys.is_sorted_by(|one, next| one.0 < next.0), "{what}: each change once, in order");
        let seen: BTreeMap<String, Revision> = keys.into_iter().map(|(revision, key)| (key, revision)).collect();
        assert_eq!(seen, there, "{what}: the watch has a gap");
        eprintln!(
            "{what}: {} writes, {} of unknown outcome, the longest pause {:?}, the watch ended {ended} times",
            written.certain.len(),
            written.unknown.len(),
            written.longest
        );
        assert!(written.longest < stall_max, "{what}: a writer stood still for {:?}", written.longest);
    }
}

async fn write(
    store: Arc<EtcdClient>,
    prefix: String,
    stop: watch::Receiver<bool>,
    done: watch::Sender<usize>,
) -> Written {
    let mut written = Written::default();
    let mut last = Instant::now();
    // A steady load, not as much as there can be.
    let mut pace = interval(Duration::from_millis(5));
    for number in 0.. {
        pace.tick().await;
        if *stop.borrow() {
            break;
        }
        let key = format!("{prefix}{number}");
        match put(&*store, &key, None).await {
            Ok(revision) => {
                written.certain.insert(key, revision);
                written.longest = written.longest.max(last.elapsed());
                last = Instant::now();
                done.send_modify(|done| *done += 1);
            }
            Err(StoreError::Unavailable { .. }) => {
                written.unknown.push(key);
            }
            Err(error) => panic!("{key}: {error}"),
        }
    }
    written
}

/// Watches as the trait says that one should, until the last key.
async fn see(store: Arc<EtcdClient>, prefix: String, start: Revision) -> Seen {
    let mut seen = Seen::default();
    let mut after = start;
    let mut tries = interval(Duration::from_millis(100));
    loop {
        tries.tick().await;
        let mut watch = match store.watch(&prefix, after).await {
            Ok(watch) => watch,
            Err(StoreError::Unavailable { .. }) => continue,
            Err(error) => panic!("{error}"),
        };
        while let Some(changes) = watch.next().await {
            let Changes { revision, events } = match changes {
                Ok(changes) => changes,
                Err(error) => {
                    eprintln!("the watch ended: {error}");
                    break;
                }
            };
            assert!(revision > after, "{revision:?} after {after:?}");
            for event in events {
                let Event::Put(entry) = event else { panic!("{event:?}") };
                if entry.key.ends_with("/end") {
                    return seen;
                }
                seen.keys.push((entry.version, entry.key));
            }
            after = revision;
        }
        seen.ended += 1;
    }
}

/// Writes until it is certain that it was written.
async fn again(store: &dyn Store, key: &str) -> Revision {
    let deadline = Instant::now() + BOUND;
    loop {
        match put(store, key, None).await {
            Ok(revision) => return revision,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
    }
}

async fn put(store: &dyn Store, key: &str, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
    let writes = vec![Write::Put { key: key.to_owned(), value: b"v".to_vec(), lease }];
    match store.commit(Transaction { compares: vec![], writes }).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict => panic!("a transaction without compares cannot conflict"),
    }
}

async fn next(watch: &mut Watch) -> Result<Changes, StoreError> {
    timeout(BOUND, watch.next()).await.expect("nothing came in time").expect("the watch ended")
}

fn keys(changes: Changes) -> Vec<String> {
    let key = |event| match event {
        Event::Put(entry) => entry.key,
        Event::Delete { key } => key,
    };
    changes.events.into_iter().map(key).collect()
}
