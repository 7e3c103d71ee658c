//! The etcd client when servers come and go.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{net::SocketAddr, sync::Arc, time::Duration};

use futures::StreamExt;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::oneshot, task::JoinHandle};
use weft::store::{
    Outcome, Revision, Store, StoreError, Transaction, Write,
    embedded::Embedded,
    etcd::{EtcdClient, EtcdServer},
};

/// Longer than any of the waits below takes on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_on_to_an_endpoint_that_answers() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(&directory, None).await;
    let client = client_of(&[dead_endpoint().await, server.endpoint()]);
    // Even a write, at once: it never left this host on its way to the first.
    put(&client, "a").await.unwrap();
    assert_eq!(client.snapshot("").await.unwrap().entries.len(), 1);
    let lease = client_of(&[dead_endpoint().await, server.endpoint()]);
    let id = lease.grant_lease(60).await.unwrap();
    lease.renew_lease(id).await.unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_its_server_and_resumes_without_a_gap() {
    let directory = TempDir::new().unwrap();
    let server = Server::start(&directory, None).await;
    let address = server.address;
    let client = client_of(&[server.endpoint()]);
    let first = put(&client, "a").await.unwrap();
    let mut watch = client.watch("", Revision(1)).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().revision, first);
    server.stop().await;
    let error = soon(watch.next()).await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(soon(watch.next()).await.is_none(), "it ends after an error");
    let error = put(&client, "b").await.unwrap_err();
    let name = format!("etcd://{address}");
    assert!(matches!(&error, StoreError::Unavailable { store, .. } if *store == name), "{error}");
    assert!(error.to_string().contains("refused"), "{error}");

    // It comes back, and someone else writes before the watch does.
    let server = Server::start(&directory, Some(address)).await;
    let other = client_of(&[server.endpoint()]);
    let second = put(&other, "b").await.unwrap();
    let mut watch = client.watch("", first).await.unwrap();
    assert_eq!(soon(watch.next()).await.unwrap().unwrap().revision, second);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_routes_share_the_port() {
    let directory = TempDir::new().unwrap();
    let embedded = Arc::new(Embedded::open(directory.path()).await.unwrap());
    let listener = TcpListener::bind("[::1]:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let extra = axum::Router::new().route("/join", axum::routing::post(async |body: String| format!("hello {body}")));
    let serving = tokio::spawn(EtcdServer::new(embedded).merge(extra).serve(listener, async {
        let _ = stopped.await;
    }));
    let client = client_of(&[address.to_string()]);
    put(&client, "a").await.unwrap();
    let stream = hyper_util::rt::TokioIo::new(tokio::net::TcpStream::connect(address).await.unwrap());
    let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let request = hyper::Request::post("/join").header("host", "weft").body("node 2".to_owned()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let body = http_body_util::BodyExt::collect(response.into_body()).await.unwrap().to_bytes();
    assert_eq!(body, "hello node 2");
    drop(sender);
    connection.await.unwrap().unwrap();
    stop.send(()).unwrap();
    soon(serving).await.unwrap().unwrap();
}

/// A server over a store in a directory.
struct Server {
    address: SocketAddr,
    embedded: Arc<Embedded>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<Result<(), StoreError>>,
}

impl Server {
    async fn start(directory: &TempDir, address: Option<SocketAddr>) -> Self {
        let embedded = Arc::new(Embedded::open(directory.path()).await.unwrap());
        let listener = TcpListener::bind(address.unwrap_or(SocketAddr::from(([127, 0, 0, 1], 0)))).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(EtcdServer::new(Arc::clone(&embedded)).serve(listener, async {
            let _ = stopped.await;
        }));
        Self { address, embedded, stop, serving }
    }

    fn endpoint(&self) -> String {
        self.address.to_string()
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        soon(self.serving).await.unwrap().unwrap();
        self.embedded.close().await;
    }
}

fn client_of(servers: &[String]) -> EtcdClient {
    EtcdClient::new(&format!("etcd://{}", servers.join(",")).parse().unwrap()).unwrap()
}

/// An address where nobody listens.
async fn dead_endpoint() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

async fn put(store: &dyn Store, key: &str) -> Result<Revision, StoreError> {
    let write = Write::Put { key: key.to_owned(), value: vec![], lease: None };
    match store.commit(Transaction { compares: vec![], writes: vec![write] }).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict => unreachable!("a transaction without compares cannot conflict"),
    }
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(BOUND, future).await.expect("nothing came in time")
}
