//! The real `etcdctl` (Debian's etcd-client 3.4) against the embedded store's server: people look into the store with it, and
//! it is a second opinion on the protocol. What it prints here is what it prints for a real etcd 3.4: the same list runs against
//! one.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "store_conformance/real_etcd.rs"]
mod real_etcd;

use std::{process::Stdio, sync::Arc, time::Duration};

use real_etcd::RealEtcd;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    process::Command,
    sync::oneshot,
};
use weft::store::{embedded::Embedded, etcd::EtcdServer};

/// Longer than any single `etcdctl` takes on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

/// A command (words split at spaces), its standard input, and all that it prints. `LEASE` stands for the lease that the
/// last `lease grant` made, `ENDPOINT` for the server.
const STEPS: &[(&str, &str, &str)] = &[
    ("get nothing", "", ""),
    ("put foo bar", "", "OK\n"),
    ("get foo", "", "foo\nbar\n"),
    ("get foo --print-value-only", "", "bar\n"),
    ("put foo baz --prev-kv", "", "OK\nfoo\nbar\n"),
    ("put foo --ignore-value", "", "OK\n"),
    ("put absent --ignore-value", "", "Error: etcdserver: key not found\n"),
    ("put fool 2", "", "OK\n"),
    ("put fop 1", "", "OK\n"),
    ("get --prefix foo", "", "foo\nbaz\nfool\n2\n"),
    ("get --prefix --keys-only fo", "", "foo\n\nfool\n\nfop\n\n"),
    ("get foo fop", "", "foo\nbaz\nfool\n2\n"),
    ("get --from-key fool", "", "fool\n2\nfop\n1\n"),
    ("get --prefix fo --limit=2", "", "foo\nbaz\nfool\n2\n"),
    ("get --prefix fo --order=DESCEND --sort-by=VALUE --keys-only --limit 2", "", "foo\n\nfool\n\n"),
    ("get --prefix fo --order=DESCEND --sort-by=KEY --limit 1", "", "fop\n1\n"),
    ("get --prefix fo --order=ASCEND --sort-by=VERSION --print-value-only", "", "2\n1\nbaz\n"),
    ("get foo --rev=2", "", "foo\nbar\n"),
    ("get --prefix fo --rev=5", "", "foo\nbaz\nfool\n2\n"),
    ("get foo --rev=99", "", "Error: etcdserver: mvcc: required revision is a future revision\n"),
    (
        "get fop -w fields --limit 1",
        "",
        "\"Revision\" : 6\n\"Key\" : \"fop\"\n\"CreateRevision\" : 6\n\"ModRevision\" : 6\n\"Version\" : 1\n\
         \"Value\" : \"1\"\n\"Lease\" : 0\n\"More\" : false\n\"Count\" : 1\n",
    ),
    ("del nothing", "", "0\n"),
    ("del fop --prev-kv", "", "1\nfop\n1\n"),
    ("put foo z", "", "OK\n"),
    ("del --prefix fo", "", "2\n"),
    ("get --prefix fo", "", ""),
    ("put a 1", "", "OK\n"),
    ("put b 1", "", "OK\n"),
    (
        "txn",
        "value(\"a\") = \"1\"\nmod(\"b\") > \"3\"\ncreate(\"c\") = \"0\"\nversion(\"a\") < \"2\"\n\nput a 2\nget a\ndel b\n\nget a\n\n",
        "SUCCESS\n\nOK\n\na\n2\n\n1\n",
    ),
    ("txn", "value(\"a\") = \"1\"\n\nput a 3\n\nget a\nput d 4\n\n", "FAILURE\n\na\n2\n\nOK\n"),
    ("txn", "version(\"a\") != \"0\"\n\n\n\n", "SUCCESS\n"),
    ("txn", "\nput a 1\nput a 2\n\n\n", "Error: etcdserver: duplicate key given in txn request\n"),
    ("get d", "", "d\n4\n"),
    ("lease grant 600", "", "lease LEASE granted with TTL(600s)\n"),
    ("put leased x --lease=LEASE", "", "OK\n"),
    ("put foo y --lease=1234", "", "Error: etcdserver: requested lease not found\n"),
    (
        "lease timetolive LEASE --keys -w fields",
        "",
        "\"Revision\" : 14\n\"ID\" : LEASE10\n\"TTL\" : LEFT\n\"GrantedTTL\" : 600\n\"Key\" : \"leased\"\n",
    ),
    ("lease keep-alive --once LEASE", "", "lease LEASE keepalived with TTL(600)\n"),
    ("lease list", "", "found 1 leases\nLEASE\n"),
    ("lease revoke LEASE", "", "lease LEASE revoked\n"),
    ("get leased", "", ""),
    ("lease list", "", "found 0 leases\n"),
    ("lease timetolive LEASE", "", "lease LEASE already expired\n"),
    ("lease revoke LEASE", "", "Error: failed to revoke lease (etcdserver: requested lease not found)\n"),
    ("lease keep-alive --once LEASE", "", "Error: etcdserver: requested lease not found\n"),
    ("compaction 10", "", "compacted revision 10\n"),
    ("compaction 10", "", "Error: etcdserver: mvcc: required revision has been compacted\n"),
    ("compaction 99", "", "Error: etcdserver: mvcc: required revision is a future revision\n"),
    ("get a --rev=9", "", "Error: etcdserver: mvcc: required revision has been compacted\n"),
    ("get a --rev=10", "", "a\n1\n"),
    ("get a --rev=12", "", "a\n2\n"),
    (
        "watch a --rev=9",
        "",
        "watch was canceled (etcdserver: mvcc: required revision has been compacted)\nError: watch is canceled by the server\n",
    ),
    ("endpoint health", "", "ENDPOINT is healthy: successfully committed proposal\n"),
];

/// Watches: what is asked for, and the first that it prints; the history is that of [`STEPS`].
const WATCHES: &[(&str, &str)] = &[
    ("watch a --rev=10", "PUT\na\n1\nPUT\na\n2\n"),
    ("watch --prefix --rev=11 --prev-kv l", "PUT\nleased\nx\nDELETE\nleased\nx\nleased\n\n"),
    ("watch --rev=10 b e", "PUT\nb\n1\nDELETE\nb\n\nPUT\nd\n4\n"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcdctl_is_answered_as_by_etcd() {
    let directory = TempDir::new().unwrap();
    let embedded = Arc::new(Embedded::open(directory.path()).await.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = listener.local_addr().unwrap().to_string();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(EtcdServer::new(embedded).serve(listener, async {
        let _ = stopped.await;
    }));
    check_steps(&endpoint).await;
    check_watches(&endpoint).await;
    check_status(&endpoint).await;
    let (_, refused) = etcdctl(&endpoint, "member list", "").await;
    assert!(refused.contains("weft's store does not speak /etcdserverpb.Cluster/MemberList"), "{refused}");
    // A watch that is open does not keep the server from stopping.
    let mut watch = spawn(&endpoint, "watch a");
    stop.send(()).unwrap();
    tokio::time::timeout(BOUND, serving).await.expect("the server stops").unwrap().unwrap();
    watch.kill().await.unwrap();
}

#[tokio::test]
async fn etcd_itself_answers_so() {
    let etcd = RealEtcd::start().await;
    check_steps(etcd.endpoint()).await;
    check_watches(etcd.endpoint()).await;
}

async fn check_steps(endpoint: &str) {
    let mut lease = String::new();
    let mut wrong = Vec::new();
    for (command, input, expected) in STEPS {
        let (printed, errors) = etcdctl(endpoint, &command.replace("LEASE", &lease), input).await;
        if *command == "lease grant 600" {
            printed.split(' ').nth(1).unwrap_or_default().clone_into(&mut lease);
        }
        let id = i64::from_str_radix(&lease, 16).unwrap_or_default();
        let expected = expected.replace("LEASE10", &id.to_string()).replace("LEASE", &lease);
        let expected = expected.replace("ENDPOINT", endpoint);
        let found = normal(&format!("{printed}{errors}"));
        if found != expected {
            wrong.push(format!("etcdctl {command}\n   expected {expected:?}\n   found    {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

async fn check_watches(endpoint: &str) {
    for (command, expected) in WATCHES {
        let mut child = spawn(endpoint, command);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut found = String::new();
        while found.len() < expected.len() {
            let line = tokio::time::timeout(BOUND, lines.next_line()).await.expect("a line").unwrap();
            found += &line.expect("more lines");
            found.push('\n');
        }
        child.kill().await.unwrap();
        assert_eq!(found, *expected, "etcdctl {command}");
    }
}

async fn check_status(endpoint: &str) {
    let (printed, errors) = etcdctl(endpoint, "endpoint status -w fields", "").await;
    assert_eq!(errors, "");
    for line in ["\"MemberID\" : 1", "\"Version\" : \"3.4.0-weft\"", "\"Leader\" : 1", "\"RaftTerm\" : 1"] {
        assert!(printed.lines().any(|printed| printed == line), "{line} in {printed}");
    }
}

/// What it prints, and its errors.
async fn etcdctl(endpoint: &str, command: &str, input: &str) -> (String, String) {
    let mut child = spawn(endpoint, command);
    // It goes before it has read all if it refuses the command.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes()).await;
    let output = tokio::time::timeout(BOUND, child.wait_with_output()).await;
    let output = output.unwrap_or_else(|_| panic!("etcdctl {command} does not end")).unwrap();
    (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
}

fn spawn(endpoint: &str, command: &str) -> tokio::process::Child {
    Command::new("etcdctl")
        .env("ETCDCTL_API", "3")
        .args(["--endpoints", endpoint])
        .args(command.split(' '))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("there is no `etcdctl` on the path: `cargo xtask setup` installs it (Debian's etcd-client)")
}

/// Without what differs from run to run: log lines with times, who answered, how long it took.
fn normal(printed: &str) -> String {
    let mut kept = String::new();
    for line in printed.lines() {
        let varies = line.starts_with("{\"level\"")
            || ["\"ClusterID\"", "\"MemberID\"", "\"RaftTerm\""].iter().any(|field| line.starts_with(field));
        if !varies {
            let line = line.split(": took = ").next().unwrap_or(line);
            // Of a lease of 600 seconds, less what the commands since have taken.
            let line = if line.starts_with("\"TTL\" : 5") { "\"TTL\" : LEFT" } else { line };
            kept += line;
            kept.push('\n');
        }
    }
    kept
}
