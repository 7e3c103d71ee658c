//! One list of cases that every store must pass: in memory, in a file, over the etcd protocol, and
//! a real etcd, which shows that the cases ask for what etcd does, a real Consul, and a real ZooKeeper.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "store_conformance/backend.rs"]
mod backend;
#[path = "store_conformance/cases.rs"]
mod cases;
#[path = "store_conformance/more_cases.rs"]
mod more_cases;
#[path = "store_conformance/real_consul.rs"]
mod real_consul;
#[path = "store_conformance/real_etcd.rs"]
mod real_etcd;
#[path = "store_conformance/real_zookeeper.rs"]
mod real_zookeeper;

use backend::{Backend, Kind, Shared};
use cases::CASES;
use more_cases::MORE_CASES;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory() {
    run(Kind::Memory).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn embedded() {
    run(Kind::Embedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn etcd_client_over_the_embedded_server() {
    run(Kind::EtcdOverEmbedded).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn etcd_client_over_etcd() {
    run(Kind::Etcd).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn consul() {
    run(Kind::Consul).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn zookeeper() {
    run(Kind::ZooKeeper).await;
}

/// Runs the cases of each list at once, each on a store of its own or under a prefix of its own in one; the second list has those that
/// keep a machine busy, beside which a lease of seconds could end unrenewed.
async fn run(kind: Kind) {
    let shared = &Shared::start(kind).await;
    let mut failures: Vec<String> = Vec::new();
    for cases in [CASES, MORE_CASES] {
        let cases = cases.iter().map(|(name, case)| async move {
            let backend = Backend::start(kind, shared, name).await;
            let ended = tokio::spawn(case(backend)).await;
            ended.err().map(|error| format!("{name} on {kind:?}: {error}"))
        });
        failures.extend(futures::future::join_all(cases).await.into_iter().flatten());
    }
    assert!(failures.is_empty(), "{failures:#?}");
}
