//! A store in an etcd cluster, or in another node's agent.
//!
//! It has no task of its own beyond tonic's, one a connection, which end with the client. A watch ends with an error when its
//! connection does: the caller watches again from the last revision that it saw, and misses nothing.

mod connector;
mod failure;
mod store;

use std::{
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use self::connector::Reach;
use crate::{
    store::{StoreError, StoreUrl},
    tls::Credentials,
};

/// How long a connection may take to come up. Nodes of one cluster are milliseconds apart; two seconds outlast one lost SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a request may take: etcd elects a new leader within about two seconds, and gives up on a request after seven.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a quiet connection is tried, and how long its answer may take: a watch on a host that vanished ends within 15 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// The largest answer taken, in bytes: etcd sends all changes of a revision, or a page of rows, in one message.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// A client of one etcd cluster. It speaks to one endpoint, and goes on to the next when that fails.
pub struct EtcdClient {
    /// The URL without secrets, for messages to people.
    name: String,
    /// How each endpoint is reached, and the connection to it.
    endpoints: Vec<Reach>,
    channels: RwLock<Vec<Channel>>,
    current: AtomicUsize,
    /// The endpoint that answered last.
    answered: AtomicUsize,
}

impl EtcdClient {
    /// A client of the servers that `url` names. It connects at the first request. Fails with [`StoreError::Refused`] if an
    /// address cannot be understood.
    pub fn new(url: &StoreUrl) -> Result<Self, StoreError> {
        Self::reaching(url, None)
    }

    /// A client of the embedded store of another node, which it shows this node's certificate.
    pub fn of_member(url: &StoreUrl, credentials: Arc<Credentials>) -> Result<Self, StoreError> {
        Self::reaching(url, Some(credentials))
    }

    fn reaching(url: &StoreUrl, credentials: Option<Arc<Credentials>>) -> Result<Self, StoreError> {
        let endpoint = |host: &String| {
            let endpoint = reached(host)?;
            Ok(match &credentials {
                None => Reach::Plain(endpoint),
                Some(credentials) => {
                    Reach::Member { endpoint, host: host.clone(), credentials: Arc::clone(credentials) }
                }
            })
        };
        let endpoints: Vec<Reach> = url.hosts.iter().map(endpoint).collect::<Result<_, StoreError>>()?;
        if endpoints.is_empty() {
            return Err(StoreError::Refused(format!("{url} names no server")));
        }
        Ok(Self {
            name: url.to_string(),
            channels: RwLock::new(endpoints.iter().map(Reach::channel).collect()),
            endpoints,
            current: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
        })
    }

    /// Sends a request to the current endpoint, and to the others in turn while that is safe: a read, or a request that
    /// never left this host.
    async fn unary<Q, R>(&self, path: &'static str, request: Q, repeat: Repeat) -> Result<R, StoreError>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut tries = self.endpoints.len();
        loop {
            let (at, channel) = self.channel();
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, async {
                let mut grpc = ready(channel).await?;
                let request = demanding_a_leader(Request::new(request.clone()));
                grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await
            });
            let status = match answer.await {
                Ok(Ok(response)) => {
                    self.note_answer(at);
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            };
            tries -= 1;
            if !failure::is_passing(&status) {
                return Err(self.explain(&status));
            }
            self.move_on(at);
            let safe = match repeat {
                Repeat::Safe => true,
                Repeat::Unsafe => failure::never_sent(&status),
            };
            if tries == 0 || !safe {
                return Err(self.explain(&status));
            }
        }
    }

    /// Opens a stream and sends its first message.
    async fn stream<Q, R>(&self, path: &'static str, first: Q) -> Result<(mpsc::Sender<Q>, Streaming<R>), StoreError>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut tries = self.endpoints.len();
        loop {
            let (at, channel) = self.channel();
            let (requests, queue) = mpsc::channel(1);
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, async {
                let mut grpc = ready(channel).await?;
                // The queue has room for it: it is new.
                let _ = requests.try_send(first.clone());
                let request = demanding_a_leader(Request::new(ReceiverStream::new(queue)));
                grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await
            });
            let status = match answer.await {
                Ok(Ok(response)) => return Ok((requests, response.into_inner())),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            };
            tries -= 1;
            if !failure::is_passing(&status) {
                return Err(self.explain(&status));
            }
            self.move_on(at);
            if tries == 0 {
                return Err(self.explain(&status));
            }
        }
    }

    fn channel(&self) -> (usize, Channel) {
        let at = self.current.load(Ordering::Relaxed) % self.endpoints.len();
        let channels = self.channels.read().unwrap_or_else(PoisonError::into_inner);
        (at, channels[at].clone())
    }

    /// New connections for all requests from now on; the old ones end with the requests that still use them.
    fn renew_channels(&self) {
        let new = self.endpoints.iter().map(Reach::channel).collect();
        *self.channels.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Speaks to the next endpoint from now on, unless another request has moved on already.
    fn move_on(&self, from: usize) {
        let to = (from + 1) % self.endpoints.len();
        // Whoever loses this race finds another endpoint in place, which is what was wanted.
        let _ = self.current.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Failures go to the caller; that another endpoint took over is seen here alone.
    fn note_answer(&self, at: usize) {
        let before = self.answered.swap(at, Ordering::Relaxed);
        if before != at {
            tracing::info!("{}: endpoint {} answers in place of endpoint {}", self.name, at + 1, before + 1);
        }
    }

    fn explain(&self, status: &Status) -> StoreError {
        failure::explain(&self.name, status)
    }
}

/// Whether a request may be sent again when nobody knows whether it was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// Carried out twice is as good as once.
    Safe,
    /// It is not.
    Unsafe,
}

fn reached(host: &str) -> Result<Endpoint, StoreError> {
    let parsed = Endpoint::from_shared(format!("http://{host}"));
    let parsed = parsed.map_err(|error| StoreError::Refused(format!("{host:?} is not HOST:PORT: {error}")))?;
    Ok(parsed
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(grpc)
}

/// Asks a member of a cluster that has lost its leader to refuse: it would let a watch wait in silence otherwise.
fn demanding_a_leader<T>(mut request: Request<T>) -> Request<T> {
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    request
}
