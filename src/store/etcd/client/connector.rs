//! How a server is reached.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tonic::{
    codegen::{Service, http::Uri},
    transport::{Channel, Endpoint},
};

use super::stream::{Fault, Plain, Telling};
use crate::{
    store::{StoreError, StoreUrl},
    tls::{Credentials, Outside, OutsideFiles},
};

/// How long a connection may take to come up. Nodes of one cluster are milliseconds apart; two seconds outlast one lost SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a quiet connection is tried, and how long its answer may take: a watch on a host that vanished ends within 8 s. etcd
/// breaks off with whoever asks more than once in 5 s (`--grpc-keepalive-min-time`), or with nothing under way. It costs a node 17
/// bytes and their headers each way in 6 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(6);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// One server.
pub(super) struct Reach {
    endpoint: Endpoint,
    /// `HOST:PORT`.
    pub(super) host: String,
    way: Way,
}

/// What is spoken below HTTP/2.
enum Way {
    /// Nothing.
    Plain(Fault),
    /// TLS as between nodes.
    Member(Arc<Credentials>),
    /// TLS with certificates that are not ours.
    Outside { files: OutsideFiles, fault: Fault },
}

impl Reach {
    /// All servers of a URL. Fails with [`StoreError::Refused`] if an address or a file for TLS cannot be used.
    pub(super) fn all(url: &StoreUrl, credentials: Option<&Arc<Credentials>>) -> Result<Vec<Self>, StoreError> {
        let files = url.outside_files();
        if url.is_tls() {
            // It is read again for each connection: certificates are renewed while the agent runs.
            Outside::new(&files, HTTP2).map_err(|error| StoreError::Refused(format!("{url}: {error}")))?;
        }
        let reach = |host: &String| {
            let way = match credentials {
                Some(credentials) => Way::Member(Arc::clone(credentials)),
                None if url.is_tls() => Way::Outside { files: files.clone(), fault: Fault::default() },
                None => Way::Plain(Fault::default()),
            };
            Ok(Self { endpoint: endpoint(host, credentials.is_some())?, host: host.clone(), way })
        };
        url.hosts.iter().map(reach).collect()
    }

    /// A connection to it, made at the first request.
    pub(super) fn channel(&self) -> Channel {
        match &self.way {
            Way::Plain(fault) => {
                let fault = fault.clone();
                self.connecting(move |_, stream| {
                    let stream = Plain::new(stream, fault.clone());
                    Box::pin(async { Ok(TokioIo::new(stream)) })
                })
            }
            Way::Member(credentials) => {
                let credentials = Arc::clone(credentials);
                self.connecting(move |_, stream| {
                    let credentials = Arc::clone(&credentials);
                    Box::pin(async move { Ok(TokioIo::new(Telling::to_member(credentials.connect(stream).await?))) })
                })
            }
            Way::Outside { files, fault } => {
                let (files, fault) = (files.clone(), fault.clone());
                self.connecting(move |host, stream| Box::pin(to_outside(files.clone(), fault.clone(), host, stream)))
            }
        }
    }

    /// Why the last connection broke, where the request's own error would not tell.
    pub(super) fn fault(&self) -> Option<String> {
        match &self.way {
            Way::Member(_) => None,
            Way::Plain(fault) | Way::Outside { fault, .. } => fault.told(),
        }
    }

    fn connecting<S, F>(&self, secure: F) -> Channel
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Fn(Arc<str>, TcpStream) -> BoxFuture<'static, io::Result<TokioIo<S>>> + Send + Sync + 'static,
    {
        let connector = Connector { host: self.host.as_str().into(), secure: Arc::new(secure) };
        self.endpoint.connect_with_connector_lazy(connector)
    }
}

/// HTTP/2 (ALPN, RFC 7301).
const HTTP2: &[u8] = b"h2";

fn endpoint(host: &str, is_member: bool) -> Result<Endpoint, StoreError> {
    let parsed = Endpoint::from_shared(format!("http://{host}"));
    let parsed = parsed.map_err(|error| StoreError::Refused(format!("{host:?} is not HOST:PORT: {error}")))?;
    Ok(parsed
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(is_member))
}

async fn to_outside(
    files: OutsideFiles,
    fault: Fault,
    host: Arc<str>,
    stream: TcpStream,
) -> io::Result<TokioIo<Telling>> {
    let read = tokio::task::spawn_blocking(move || Outside::new(&files, HTTP2)).await;
    let outside = read.map_err(io::Error::other)?.map_err(io::Error::other);
    let name = host.rsplit_once(':').map_or(&*host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
    let connected = match outside {
        Ok(outside) => match outside.connect(&name, stream).await {
            Ok(stream) => Telling::to_outside(stream, outside, name, fault).await,
            Err(error) => Err(error),
        },
        Err(error) => Err(error),
    };
    connected.map(TokioIo::new).map_err(|error| io::Error::new(error.kind(), format!("{host}: {error}")))
}

/// Connects to one host, and to nobody else.
struct Connector<F> {
    host: Arc<str>,
    secure: Arc<F>,
}

impl<S, F> Service<Uri> for Connector<F>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Fn(Arc<str>, TcpStream) -> BoxFuture<'static, io::Result<TokioIo<S>>> + Send + Sync + 'static,
{
    type Response = TokioIo<S>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<S>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (host, secure) = (Arc::clone(&self.host), Arc::clone(&self.secure));
        Box::pin(async move {
            let stream = TcpStream::connect(&*host).await?;
            stream.set_nodelay(true)?;
            secure(host, stream).await
        })
    }
}
