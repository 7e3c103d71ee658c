//! The embedded store served in the etcd v3 protocol.

use std::{future::Future, io, sync::Arc, time::Duration};

use axum::Router;
use futures::Stream;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    sync::watch,
};
use tonic::{
    Status,
    service::Routes,
    transport::{
        Server,
        server::{Connected, TcpIncoming},
    },
};

use super::{
    convert, kv, lease,
    messages::maintenance::{AlarmRequest, AlarmResponse, StatusRequest, StatusResponse},
    rpc, watch as watches,
};
use crate::store::{StoreError, embedded::Embedded};

/// The version told to clients: the protocol spoken is that of etcd 3.4.
const VERSION: &str = "3.4.0-weft";

/// How long requests under way may take once the server is to stop, and after which they are cut off.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// How often an idle client is asked whether it is there, and how long it may take to answer: the connection of a host
/// that vanished is dropped within half a minute, with its watches.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);

/// An etcd v3 server over an [`Embedded`] store: KV, Watch, Lease, and of Maintenance what `etcdctl endpoint` asks for. Every
/// other method is answered with UNIMPLEMENTED and a text.
///
/// It asks nobody who he is: put a layer in front ([`Self::layered`]), or listen where only friends reach it.
pub struct EtcdServer {
    router: Router,
    stop: watch::Sender<bool>,
}

/// What every method gets.
#[derive(Clone)]
pub(super) struct Face {
    pub(super) embedded: Arc<Embedded>,
    stop: watch::Receiver<bool>,
}

impl EtcdServer {
    /// A server over a store, which it does not close.
    pub fn new(embedded: Arc<Embedded>) -> Self {
        let (stop, stopped) = watch::channel(false);
        let face = Face { embedded, stop: stopped };
        let router = Router::new().fallback(rpc::unimplemented);
        let router = rpc::unary(router, "/etcdserverpb.KV/Range", &face, kv::range);
        let router = rpc::unary(router, "/etcdserverpb.KV/Put", &face, kv::put);
        let router = rpc::unary(router, "/etcdserverpb.KV/DeleteRange", &face, kv::delete_range);
        let router = rpc::unary(router, "/etcdserverpb.KV/Txn", &face, kv::txn);
        let router = rpc::unary(router, "/etcdserverpb.KV/Compact", &face, kv::compact);
        let router = rpc::streaming(router, "/etcdserverpb.Watch/Watch", &face, watches::watch);
        let router = rpc::unary(router, "/etcdserverpb.Lease/LeaseGrant", &face, lease::grant);
        let router = rpc::unary(router, "/etcdserverpb.Lease/LeaseRevoke", &face, lease::revoke);
        let router = rpc::streaming(router, "/etcdserverpb.Lease/LeaseKeepAlive", &face, lease::keep_alive);
        let router = rpc::unary(router, "/etcdserverpb.Lease/LeaseTimeToLive", &face, lease::time_to_live);
        let router = rpc::unary(router, "/etcdserverpb.Lease/LeaseLeases", &face, lease::leases);
        let router = rpc::unary(router, "/etcdserverpb.Maintenance/Status", &face, status);
        let router = rpc::unary(router, "/etcdserverpb.Maintenance/Alarm", &face, alarm);
        Self { router, stop }
    }

    /// Puts a layer in front of the routes that there are so far.
    #[must_use]
    pub fn layered(mut self, layer: impl FnOnce(Router) -> Router) -> Self {
        self.router = layer(self.router);
        self
    }

    /// Serves other routes on the same port, over HTTP/1.1 and HTTP/2: plain ones, or a gRPC service as a `route_service` at
    /// `/PACKAGE.SERVICE/{*method}`. They must not set a fallback.
    #[must_use]
    pub fn merge(mut self, extra: Router) -> Self {
        self.router = self.router.merge(extra);
        self
    }

    /// Serves plain connections on `listener`, see [`Self::serve_on`].
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StoreError> {
        self.serve_on(TcpIncoming::from(listener).with_nodelay(Some(true)), shutdown).await
    }

    /// Serves whoever comes by `connections` until `shutdown`. Watches and lease streams then end at once with UNAVAILABLE; other requests
    /// may finish within two seconds.
    pub async fn serve_on<C: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static>(
        self,
        connections: impl Stream<Item = io::Result<C>>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StoreError> {
        let Self { router, stop } = self;
        let mut stopped = stop.subscribe();
        let stopping = async move {
            shutdown.await;
            stop.send_replace(true);
        };
        let serving = Server::builder()
            .accept_http1(true)
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .add_routes(Routes::from(router))
            .serve_with_incoming_shutdown(connections, stopping);
        let cut_off = async move {
            // It fails if the sender is gone, that is when serving has ended by itself.
            if stopped.wait_for(|stop| *stop).await.is_ok() {
                tokio::time::sleep(STOP_TIMEOUT).await;
            }
        };
        tokio::select! {
            result = serving => result.map_err(|error| StoreError::Unavailable {
                store: "this node's store server".to_owned(),
                reason: error.to_string(),
            }),
            () = cut_off => Ok(()),
        }
    }
}

impl Face {
    /// Ready when the server is to stop, or is gone.
    pub(super) fn stopping(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut stop = self.stop.clone();
        async move {
            let _ = stop.wait_for(|stop| *stop).await;
        }
    }
}

async fn status(face: Face, _request: StatusRequest) -> Result<StatusResponse, Status> {
    let revision = face.embedded.revision();
    let size = tokio::fs::metadata(face.embedded.path()).await.map_or(0, |metadata| metadata.len());
    let size = i64::try_from(size).unwrap_or(i64::MAX);
    Ok(StatusResponse {
        header: convert::header(revision),
        version: VERSION.to_owned(),
        db_size: size,
        leader: convert::MEMBER_ID,
        raft_index: revision,
        raft_term: convert::RAFT_TERM,
        raft_applied_index: revision,
        errors: Vec::new(),
        db_size_in_use: size,
        is_learner: false,
    })
}

/// `etcdctl endpoint health` asks for alarms in some versions.
async fn alarm(face: Face, request: AlarmRequest) -> Result<AlarmResponse, Status> {
    if request.action != 0 {
        return Err(Status::unimplemented("weft's store raises no alarms: there is none to set or clear"));
    }
    Ok(AlarmResponse { header: convert::header(face.embedded.revision()) })
}
