//! The embedded store's file: what survives a restart, a crash, a full disk, and what is refused.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    env,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use futures::{StreamExt, future::join_all};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, Command},
};
use weft::store::{
    Compare, Event, LeaseId, Outcome, Revision, Store, StoreError, Transaction, Write, embedded::Embedded,
};

/// Longer than any of the waits below takes on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

/// Set for a test's own child process, to the directory that it works in: some tests run themselves once more as a process
/// that may be killed or starved.
const CHILD_DIRECTORY: &str = "WEFT_TEST_CHILD_DIRECTORY";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn everything_survives_a_restart() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let first = put(&store, "a", b"1", None).await;
    put(&store, "a", b"2", None).await;
    put(&store, "gone", b"", None).await;
    commit(&store, vec![Write::Delete { key: "gone".to_owned() }]).await;
    let lease = store.grant_lease(600).await.unwrap();
    let last = put(&store, "leased", b"x", Some(lease)).await;
    let before = store.snapshot("").await.unwrap();
    store.close().await;
    let closed = store.snapshot("").await.unwrap_err();
    assert!(matches!(closed, StoreError::Unavailable { .. }), "{closed}");

    let store = open(&directory).await;
    assert_eq!(store.snapshot("").await.unwrap(), before);
    // The past can still be watched, and the future follows on it.
    let mut watch = store.watch("", first).await.unwrap();
    let put_after = put(&store, "b", b"", None).await;
    assert_eq!(put_after, Revision(last.0 + 1));
    let mut keys = Vec::new();
    while keys.len() < 5 {
        keys.extend(soon(watch.next()).await.unwrap().unwrap().events.into_iter().map(|event| match event {
            Event::Put(entry) => entry.key,
            Event::Delete { key } => format!("-{key}"),
        }));
    }
    assert_eq!(keys, ["a", "gone", "-gone", "leased", "b"]);
    // The lease and its hold on the key, too.
    store.renew_lease(lease).await.unwrap();
    store.revoke_lease(lease).await.unwrap();
    let keys: Vec<String> = store.snapshot("").await.unwrap().entries.into_iter().map(|entry| entry.key).collect();
    assert_eq!(keys, ["a", "b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_store_is_private_and_watched_from_its_beginning() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let mode = std::fs::metadata(store.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600, "what a cluster stores is not for everybody's eyes");
    let new = store.snapshot("").await.unwrap();
    for after in [Revision(0), new.revision] {
        let mut watch = store.watch("", after).await.unwrap();
        let revision = put(&store, "a", b"", None).await;
        let mut reached = Revision(0);
        while reached < revision {
            reached = soon(watch.next()).await.unwrap().unwrap().revision;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_begins_anew_at_a_restart_and_then_ends() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let lease = store.grant_lease(4).await.unwrap();
    put(&store, "leased", b"", Some(lease)).await;
    // A lease of two seconds, granted later, tells when two of the four have passed.
    let clock = store.grant_lease(2).await.unwrap();
    let mut watch = store.watch("", put(&store, "clock", b"", Some(clock)).await).await.unwrap();
    let changes = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(changes.events, [Event::Delete { key: "clock".to_owned() }]);
    store.close().await;
    let restarted = Instant::now();
    let store = open(&directory).await;
    let mut watch = store.watch("", changes.revision).await.unwrap();
    let changes = soon(watch.next()).await.unwrap().unwrap();
    assert_eq!(changes.events, [Event::Delete { key: "leased".to_owned() }]);
    // All of its four seconds again, and not the two or less that were left.
    assert!(restarted.elapsed() >= Duration::from_secs(4), "it ended after {:?}", restarted.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_of_the_open_file_holds_all_that_was_acknowledged() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    for round in 0..20 {
        let writers = (0..8).map(|writer| put_owned(&store, format!("{round}.{writer}")));
        join_all(writers).await;
        // The disk as a crash would leave it now.
        let crashed = TempDir::new().unwrap();
        std::fs::copy(store.path(), crashed.path().join("store.redb")).unwrap();
        let copy = open(&crashed).await;
        assert_eq!(copy.snapshot("").await.unwrap(), store.snapshot("").await.unwrap());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_acknowledged_survives_a_kill() {
    if let Some(directory) = env::var_os(CHILD_DIRECTORY) {
        write_until_killed(Path::new(&directory)).await;
    }
    let directory = TempDir::new().unwrap();
    let mut acknowledged = 0;
    for _ in 0..3 {
        let mut child = child("what_was_acknowledged_survives_a_kill", directory.path(), "");
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = acknowledged + 200;
        while acknowledged < enough {
            acknowledged =
                number_in(&soon(lines.next_line()).await.unwrap().expect("the child writes on"), acknowledged);
        }
        child.start_kill().unwrap();
        child.wait().await.unwrap();
        while let Some(line) = lines.next_line().await.unwrap() {
            acknowledged = number_in(&line, acknowledged);
        }
        let store = open(&directory).await;
        let keys = store.snapshot("").await.unwrap().entries.len() as u64;
        // The one under way when it was killed may be there or not.
        assert!(keys == acknowledged || keys == acknowledged + 1, "{keys} keys, {acknowledged} acknowledged");
        acknowledged = keys;
        store.close().await;
    }
}

/// What the child of [`what_was_acknowledged_survives_a_kill`] does: it says what was acknowledged.
async fn write_until_killed(directory: &Path) -> ! {
    let store = Embedded::open(directory).await.unwrap();
    let mut number = store.snapshot("").await.unwrap().entries.len();
    loop {
        number += 1;
        put(&store, &format!("{number:08}"), b"some value", None).await;
        println!("{number}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_is_survived() {
    if let Some(directory) = env::var_os(CHILD_DIRECTORY) {
        return write_until_the_disk_is_full(Path::new(&directory)).await;
    }
    let directory = TempDir::new().unwrap();
    // A file that may not grow is a disk that is full; the limit can be lifted from outside.
    let limit = "trap '' XFSZ; ulimit -S -f 4096; ";
    let mut child = child("a_full_disk_is_survived", directory.path(), limit);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut until = async |word: &str| loop {
        let line = soon(lines.next_line()).await.unwrap().unwrap_or_else(|| panic!("the child ended before {word}"));
        if let Some((_, rest)) = line.split_once(word) {
            break rest.to_owned();
        }
    };
    let error = until("FULL").await;
    let file = directory.path().join("store.redb");
    assert!(error.contains(file.to_str().unwrap()), "{error}");
    let pid = child.id().unwrap().to_string();
    let lifted = Command::new("prlimit").args(["--pid", &pid, "--fsize=unlimited"]).status().await.unwrap();
    assert!(lifted.success());
    child.stdin.take().unwrap().write_all(b"go on\n").await.unwrap();
    until("WRITES AGAIN").await;
    assert!(soon(child.wait()).await.unwrap().success());
}

/// What the child of [`a_full_disk_is_survived`] does: it says when the disk is full, waits for a line, and goes on.
async fn write_until_the_disk_is_full(directory: &Path) {
    let store = Embedded::open(directory).await.unwrap();
    let transaction = |number: u32| {
        let put = Write::Put { key: number.to_string(), value: vec![7; 256 * 1024], lease: None };
        Transaction { compares: vec![], writes: vec![put] }
    };
    let mut number = 0;
    let error = loop {
        match store.commit(transaction(number)).await {
            Ok(_) => number += 1,
            Err(error) => break error,
        }
    };
    // What was acknowledged can be read while the disk is full, once the file is open again.
    let read = loop {
        match store.snapshot("").await {
            Ok(snapshot) => break snapshot.entries.len(),
            Err(StoreError::Unavailable { .. }) => tokio::task::yield_now().await,
            Err(error) => panic!("{error}"),
        }
    };
    assert!(read >= number as usize, "{read} of {number}");
    println!("FULL {error}");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    let mut watch = store.watch("", Revision(1)).await.unwrap();
    // The first try may find the file as the failure left it.
    while store.commit(transaction(number)).await.is_err() {}
    let mut seen = 0;
    while seen <= number {
        seen += u32::try_from(soon(watch.next()).await.unwrap().unwrap().events.len()).unwrap();
    }
    println!("WRITES AGAIN");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_agent_is_told_so() {
    let directory = TempDir::new().unwrap();
    let _store = open(&directory).await;
    let error = refused(directory.path()).await;
    assert!(error.contains("another process has it open"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_or_damaged_file_is_refused_and_left_alone() {
    let whole = TempDir::new().unwrap();
    let store = open(&whole).await;
    for number in 0..200 {
        put(&store, &number.to_string(), &[7; 1000], None).await;
    }
    store.close().await;
    let whole = std::fs::read(whole.path().join("store.redb")).unwrap();
    let mut scribbled = whole.clone();
    scribbled[64..320].fill(0xa5);
    for (what, bytes) in [
        ("text", b"this is not a store\n".repeat(1000)),
        ("a short text", b"hello".to_vec()),
        ("zeroes", vec![0; 100_000]),
        ("a cut file", whole[..whole.len() / 2].to_vec()),
        ("a header scribbled over", scribbled),
    ] {
        let directory = TempDir::new().unwrap();
        let file = directory.path().join("store.redb");
        std::fs::write(&file, &bytes).unwrap();
        let error = refused(directory.path()).await;
        assert!(error.contains("damaged"), "{what}: {error}");
        assert!(std::fs::read(&file).unwrap() == bytes, "{what} was changed");
    }
    let error = refused(Path::new("/proc/no/such/directory")).await;
    assert!(error.contains("No such file"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_file_stays_bounded() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let value = vec![7; 256 * 1024];
    let mut largest = 0;
    for _ in 0..240 {
        put(&store, "large", &value, None).await;
        largest = largest.max(std::fs::metadata(store.path()).unwrap().len());
    }
    // 16 MiB of history (each change with what was there before), as much again while half of it is freed, and the file
    // grows by doubling. All of them would be 120 MiB.
    assert!(largest < 80 * 1024 * 1024, "{largest} bytes");
    let gone = store.watch("", Revision(2)).await.err().expect("the first revisions are forgotten");
    assert!(matches!(gone, StoreError::Compacted(Revision(2))), "{gone}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_it_lets_go_of_the_file() {
    let directory = TempDir::new().unwrap();
    let store = open(&directory).await;
    let revision = put(&store, "a", b"", None).await;
    let mut watch = store.watch("", revision).await.unwrap();
    drop(store);
    let error = soon(watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let started = Instant::now();
    let store = loop {
        match Embedded::open(directory.path()).await {
            Ok(store) => break store,
            Err(error) => assert!(started.elapsed() < BOUND, "{error}"),
        }
    };
    let again = Transaction { compares: vec![Compare::Absent("a".to_owned())], writes: vec![] };
    assert_eq!(store.commit(again).await.unwrap(), Outcome::Conflict);
}

async fn open(directory: &TempDir) -> Embedded {
    Embedded::open(directory.path()).await.unwrap()
}

/// The error of opening, which names the file.
async fn refused(directory: &Path) -> String {
    match Embedded::open(directory).await {
        Ok(_) => panic!("it was opened"),
        Err(StoreError::Storage(error)) => {
            assert!(error.contains(directory.join("store.redb").to_str().unwrap()), "{error}");
            error
        }
        Err(error) => panic!("{error}"),
    }
}

async fn put(store: &Embedded, key: &str, value: &[u8], lease: Option<LeaseId>) -> Revision {
    commit(store, vec![Write::Put { key: key.to_owned(), value: value.to_vec(), lease }]).await
}

async fn put_owned(store: &Embedded, key: String) -> Revision {
    put(store, &key, key.as_bytes(), None).await
}

async fn commit(store: &Embedded, writes: Vec<Write>) -> Revision {
    match store.commit(Transaction { compares: vec![], writes }).await.unwrap() {
        Outcome::Committed(revision) => revision,
        Outcome::Conflict => panic!("a transaction without compares cannot conflict"),
    }
}

/// This test program again, as a process that may be killed, running one test, which sees
/// that it is the child, after `shell`.
fn child(test: &str, directory: &Path, shell: &str) -> Child {
    let program = env::current_exe().unwrap();
    Command::new("sh")
        .arg("-c")
        .arg(format!("{shell} exec \"$0\" --exact {test} --nocapture"))
        .arg(program)
        .env(CHILD_DIRECTORY, directory)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// The number on a line, or the one before if it is a line of the test runner.
fn number_in(line: &str, before: u64) -> u64 {
    line.parse().unwrap_or(before)
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("nothing came in time")
}
