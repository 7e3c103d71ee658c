//! One list of cases that every store must pass: in memory, in a file, and over the etcd protocol.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "store_conformance/backend.rs"]
mod backend;
#[path = "store_conformance/cases.rs"]
mod cases;

use backend::{Backend, Kind};
use cases::CASES;

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

/// By hand, against a real etcd: `WEFT_TEST_ETCD=127.0.0.1:2379 cargo test --test store_conformance -- --ignored`.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[ignore = "needs an etcd server of its own at WEFT_TEST_ETCD"]
async fn etcd_client_over_etcd() {
    let endpoint = std::env::var("WEFT_TEST_ETCD").expect("WEFT_TEST_ETCD names the server");
    run(Kind::Etcd(endpoint)).await;
}

/// Runs all cases at once, each on a store (or, on a shared server, under a prefix) of its own.
async fn run(kind: Kind) {
    let cases = CASES.iter().map(|(name, case)| {
        let kind = kind.clone();
        async move {
            let backend = Backend::start(&kind, name).await;
            let ended = tokio::spawn(case(backend)).await;
            ended.err().map(|error| format!("{name} on {kind:?}: {error}"))
        }
    });
    let failures: Vec<String> = futures::future::join_all(cases).await.into_iter().flatten().collect();
    assert!(failures.is_empty(), "{failures:#?}");
}
