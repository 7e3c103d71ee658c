//! A store in an etcd cluster, or in another node's agent.
//!
//! It has no task of its own beyond tonic's, one a connection, which end with the client. A watch ends with an error when its
//! connection does: the caller watches again from the last revision that it saw, and misses nothing.

use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::stream;
use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, ConnectError, Request, Status, Streaming,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    transport::{Channel, Endpoint},
};
use tonic_prost::ProstCodec;

use super::messages::{
    Compare as WireCompare, CompareResult, CompareTarget, DeleteRangeRequest, Event as WireEvent, EventType, KeyValue,
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
    LeaseRevokeResponse, PutRequest, RangeRequest, RangeResponse, RequestOp, TxnRequest, TxnResponse,
    WatchCreateRequest, WatchRequest, WatchResponse, compare::TargetUnion, request_op, watch_request,
};
use crate::store::{
    Changes, Compare, Entry, Event, LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Transaction, Watch, Write,
    embedded::request::Span, limits,
};

/// How long a connection may take to come up. Nodes of one cluster are milliseconds apart; two seconds outlast one lost SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a request may take: etcd elects a new leader within about two seconds, and gives up on a request after seven.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// How often a quiet connection is tried, and how long its answer may take: a watch on a host that vanished ends within 15 s.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Rows in one answer of a snapshot: some hundred KiB of weft's records. All pages are read at one revision.
const PAGE_ROWS: i64 = 1000;

/// The largest answer taken, in bytes: etcd sends all changes of a revision, or a page of rows, in one message.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The port of an endpoint that names none.
const DEFAULT_PORT: u16 = 2379;

/// A client of one etcd cluster. It speaks to one endpoint, and goes on to the next when that fails.
pub struct EtcdClient {
    /// The endpoints as they were given, for messages to people.
    name: String,
    channels: Vec<Channel>,
    current: AtomicUsize,
    /// Why the last request failed, so that it is logged once and not at every try.
    last_failure: Mutex<Option<String>>,
}

impl EtcdClient {
    /// A client of the servers at `endpoints`, each `HOST`, `HOST:PORT` or `http://HOST:PORT`. It connects at the first
    /// request. Fails with [`StoreError::Refused`] if an endpoint cannot be understood, or there is none.
    pub fn new(endpoints: &[String]) -> Result<Self, StoreError> {
        if endpoints.is_empty() {
            return Err(StoreError::Refused("no endpoint of an etcd cluster was given".to_owned()));
        }
        let channels = endpoints.iter().map(|endpoint| channel(endpoint)).collect::<Result<_, _>>()?;
        Ok(Self {
            name: format!("etcd://{}", endpoints.join(",")),
            channels,
            current: AtomicUsize::new(0),
            last_failure: Mutex::new(None),
        })
    }

    /// Sends a request to the current endpoint, and to the others in turn while that is safe: a read, or a request that
    /// never left this host.
    async fn unary<Q, R>(&self, path: &'static str, request: Q, repeat: Repeat) -> Result<R, StoreError>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut tries = self.channels.len();
        loop {
            let (at, channel) = self.channel();
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, async {
                let mut grpc = ready(channel).await?;
                let request = Request::new(request.clone());
                grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await
            });
            let status = match answer.await {
                Ok(Ok(response)) => {
                    self.log_recovery();
                    return Ok(response.into_inner());
                }
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            };
            tries -= 1;
            if !is_passing(&status) {
                return Err(self.explain(&status));
            }
            self.move_on(at, &status);
            let safe = match repeat {
                Repeat::Safe => true,
                Repeat::Unsafe => never_sent(&status),
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
        let mut tries = self.channels.len();
        loop {
            let (at, channel) = self.channel();
            let (requests, queue) = mpsc::channel(1);
            let answer = tokio::time::timeout(REQUEST_TIMEOUT, async {
                let mut grpc = ready(channel).await?;
                // The queue has room for it: it is new.
                let _ = requests.try_send(first.clone());
                let request = Request::new(ReceiverStream::new(queue));
                grpc.streaming(request, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await
            });
            let status = match answer.await {
                Ok(Ok(response)) => return Ok((requests, response.into_inner())),
                Ok(Err(status)) => status,
                Err(_) => Status::deadline_exceeded(format!("no answer within {} s", REQUEST_TIMEOUT.as_secs())),
            };
            tries -= 1;
            if !is_passing(&status) {
                return Err(self.explain(&status));
            }
            self.move_on(at, &status);
            if tries == 0 {
                return Err(self.explain(&status));
            }
        }
    }

    fn channel(&self) -> (usize, Channel) {
        let at = self.current.load(Ordering::Relaxed) % self.channels.len();
        (at, self.channels[at].clone())
    }

    /// Speaks to the next endpoint from now on, unless another request has moved on already.
    fn move_on(&self, from: usize, status: &Status) {
        let to = (from + 1) % self.channels.len();
        // Whoever loses this race finds another endpoint in place, which is what was wanted.
        let _ = self.current.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
        let reason = status.message().to_owned();
        let mut last = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_none() {
            tracing::warn!("the store at {} does not answer: {reason}", self.name);
        }
        *last = Some(reason);
    }

    fn log_recovery(&self) {
        let failure = self.last_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        if failure.is_some() {
            tracing::info!("the store at {} answers again", self.name);
        }
    }

    fn explain(&self, status: &Status) -> StoreError {
        explain(&self.name, status)
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

#[async_trait]
impl Store for EtcdClient {
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let (mut key, range_end) = wire_span(prefix);
        let mut entries = Vec::new();
        let mut revision = 0;
        loop {
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: PAGE_ROWS,
                revision,
                ..RangeRequest::default()
            };
            let response: RangeResponse = self.unary("/etcdserverpb.KV/Range", request, Repeat::Safe).await?;
            if revision == 0 {
                revision = response.header.map_or(0, |header| header.revision);
            }
            let last = response.kvs.last().map(|kv| kv.key.clone());
            entries.extend(response.kvs.into_iter().filter_map(entry));
            match last {
                Some(last) if response.more => {
                    key = last;
                    // The first key after it.
                    key.push(0);
                }
                Some(_) | None => return Ok(Snapshot { revision: revision_of(revision), entries }),
            }
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let (key, range_end) = wire_span(prefix);
        let create = WatchCreateRequest {
            key,
            range_end,
            start_revision: after.0.cast_signed() + 1,
            ..WatchCreateRequest::default()
        };
        let first = WatchRequest { request: Some(watch_request::Request::Create(create)) };
        let (requests, mut answers) = self.stream::<_, WatchResponse>("/etcdserverpb.Watch/Watch", first).await?;
        let name = self.name.clone();
        let created = tokio::time::timeout(REQUEST_TIMEOUT, answers.message()).await;
        match created {
            Ok(Ok(Some(response))) if response.created && !response.canceled => {}
            Ok(Ok(Some(response))) => return Err(cancelled(&name, after, &response)),
            Ok(Ok(None)) => return Err(ended(&name)),
            Ok(Err(status)) => return Err(self.explain(&status)),
            Err(_) => return Err(unavailable(&name, "it does not begin the watch")),
        }
        // The stream lives as long as its sending half: it is kept, though nothing more is sent.
        let watch = Some((requests, answers, name, after));
        Ok(Box::pin(stream::unfold(watch, |watch| async {
            let (requests, mut answers, name, mut after) = watch?;
            loop {
                let changes = match answers.message().await {
                    Ok(Some(response)) if response.canceled => Err(cancelled(&name, after, &response)),
                    Ok(Some(response)) => changes(response).transpose().map_or(Ok(None), |changes| changes.map(Some)),
                    Ok(None) => Err(ended(&name)),
                    Err(status) => Err(explain(&name, &status)),
                };
                match changes {
                    Ok(Some(changes)) => {
                        after = changes.revision;
                        return Some((Ok(changes), Some((requests, answers, name, after))));
                    }
                    // A word about where the watch stands; there is nothing to tell.
                    Ok(None) => {}
                    Err(error) => return Some((Err(error), None)),
                }
            }
        })))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        let Transaction { compares, writes } = transaction;
        let lease = writes.iter().find_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } => None,
        });
        let request = TxnRequest {
            compare: compares.into_iter().map(compare).collect(),
            success: writes.into_iter().map(operation).collect(),
            failure: Vec::new(),
        };
        let response: Result<TxnResponse, _> = self.unary("/etcdserverpb.KV/Txn", request, Repeat::Unsafe).await;
        let response = response.map_err(|error| name_lease(error, lease))?;
        let revision = revision_of(response.header.map_or(0, |header| header.revision));
        Ok(if response.succeeded { Outcome::Committed(revision) } else { Outcome::Conflict })
    }

    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError> {
        let request = LeaseGrantRequest { ttl: i64::from(ttl_s.max(1)), id: 0 };
        // One that is granted and not heard of ends by itself.
        let response: LeaseGrantResponse = self.unary("/etcdserverpb.Lease/LeaseGrant", request, Repeat::Safe).await?;
        Ok(LeaseId(response.id))
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = LeaseKeepAliveRequest { id: lease.0 };
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let (requests, mut answers) = self.stream::<_, LeaseKeepAliveResponse>(path, request).await?;
        let answer = tokio::time::timeout(REQUEST_TIMEOUT, answers.message()).await;
        drop(requests);
        match answer {
            Ok(Ok(Some(response))) if response.ttl > 0 => Ok(()),
            Ok(Ok(Some(_))) => Err(StoreError::LeaseGone(lease)),
            Ok(Ok(None)) => Err(ended(&self.name)),
            Ok(Err(status)) => Err(name_lease(self.explain(&status), Some(lease))),
            Err(_) => Err(unavailable(&self.name, "it does not renew the lease")),
        }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = LeaseRevokeRequest { id: lease.0 };
        let response: Result<LeaseRevokeResponse, _> =
            self.unary("/etcdserverpb.Lease/LeaseRevoke", request, Repeat::Safe).await;
        match response {
            Ok(_) | Err(StoreError::LeaseGone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn channel(endpoint: &str) -> Result<Channel, StoreError> {
    let refuse = |reason: String| StoreError::Refused(format!("the etcd endpoint {endpoint:?} {reason}"));
    if endpoint.starts_with("https://") {
        return Err(refuse("asks for TLS, which weft does not speak to etcd: name it with http://".to_owned()));
    }
    let address = endpoint.strip_prefix("http://").unwrap_or(endpoint).trim_end_matches('/');
    let (_, after_host) = address.rsplit_once(']').unwrap_or(("", address));
    let port = if after_host.contains(':') { String::new() } else { format!(":{DEFAULT_PORT}") };
    let parsed = Endpoint::from_shared(format!("http://{address}{port}"));
    let parsed = parsed.map_err(|error| refuse(format!("is not HOST:PORT: {error}")))?;
    if parsed.uri().host().is_none_or(str::is_empty) {
        return Err(refuse("names no host".to_owned()));
    }
    Ok(parsed
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .connect_lazy())
}

async fn ready(channel: Channel) -> Result<Grpc<Channel>, Status> {
    let mut grpc = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
    grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
    Ok(grpc)
}

/// Whether the same request may fare better later, or at another endpoint.
fn is_passing(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Unknown
        | Code::Internal
        | Code::Aborted => true,
        Code::Ok
        | Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// Whether the request failed before it was sent: there was no connection to send it on.
fn never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn explain(name: &str, status: &Status) -> StoreError {
    let said = status.message();
    match status.code() {
        Code::OutOfRange if said.contains("compacted") => StoreError::Compacted(Revision(0)),
        Code::NotFound if said.contains("lease") => StoreError::LeaseGone(LeaseId(0)),
        Code::ResourceExhausted => {
            StoreError::Storage(format!("{name}: {said}: compact and defragment it, or raise its quota"))
        }
        Code::DataLoss => StoreError::Storage(format!("{name}: {said}")),
        Code::PermissionDenied | Code::Unauthenticated => {
            StoreError::Refused(format!("{name}: {said}: weft needs an etcd that asks for no password"))
        }
        _ if is_passing(status) => unavailable(name, &innermost(status)),
        _ => StoreError::Refused(format!("{name}: {said}")),
    }
}

/// The last cause in the chain: "connection refused" rather than "transport error".
fn innermost(status: &Status) -> String {
    let mut text = status.message().to_owned();
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        text = error.to_string();
        cause = error.source();
    }
    text
}

fn unavailable(name: &str, reason: &str) -> StoreError {
    StoreError::Unavailable { store: name.to_owned(), reason: reason.to_owned() }
}

fn ended(name: &str) -> StoreError {
    unavailable(name, "it ended the stream")
}

/// Why a watch was ended by the server.
fn cancelled(name: &str, after: Revision, response: &WatchResponse) -> StoreError {
    if response.compact_revision != 0 {
        return StoreError::Compacted(after);
    }
    let reason = if response.cancel_reason.is_empty() { "no reason was given" } else { &response.cancel_reason };
    unavailable(name, &format!("it ended the watch: {reason}"))
}

/// etcd's error does not say which lease; the request does.
fn name_lease(error: StoreError, lease: Option<LeaseId>) -> StoreError {
    match (error, lease) {
        (StoreError::LeaseGone(_), Some(lease)) => StoreError::LeaseGone(lease),
        (error, _) => error,
    }
}

fn wire_span(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    match Span::prefix(prefix.as_bytes()) {
        Span::Between(key, end) => (key, end),
        // etcd has no empty key: all keys are those from the zero byte on, which a zero byte for the end says.
        Span::From(key) | Span::One(key) => (if key.is_empty() { vec![0] } else { key }, vec![0]),
    }
}

fn revision_of(wire: i64) -> Revision {
    Revision(u64::try_from(wire).unwrap_or(0))
}

/// The row as an entry. A key that is not text was put by someone else's hand: it is none of weft's.
fn entry(kv: KeyValue) -> Option<Entry> {
    Some(Entry { key: String::from_utf8(kv.key).ok()?, value: kv.value, version: revision_of(kv.mod_revision) })
}

/// The changes of one answer. etcd puts the changes of a revision into one answer, so that its last change tells the revision.
fn changes(response: WatchResponse) -> Result<Option<Changes>, StoreError> {
    let mut reached = None;
    let mut events = Vec::with_capacity(response.events.len());
    for WireEvent { r#type, kv, prev_kv: _ } in response.events {
        let Some(kv) = kv else {
            return Err(StoreError::Refused("the store sent a change without a key".to_owned()));
        };
        reached = Some(revision_of(kv.mod_revision));
        if r#type == i32::from(EventType::Put) {
            events.extend(entry(kv).map(Event::Put));
        } else {
            events.extend(String::from_utf8(kv.key).ok().map(|key| Event::Delete { key }));
        }
    }
    Ok(reached.filter(|_| !events.is_empty()).map(|revision| Changes { revision, events }))
}

fn compare(compare: Compare) -> WireCompare {
    let (key, target, target_union) = match compare {
        Compare::Absent(key) => (key, CompareTarget::Version, TargetUnion::Version(0)),
        Compare::Unchanged(key, revision) => {
            (key, CompareTarget::Mod, TargetUnion::ModRevision(revision.0.cast_signed()))
        }
    };
    WireCompare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.into_bytes(),
        target_union: Some(target_union),
        range_end: Vec::new(),
    }
}

fn operation(write: Write) -> RequestOp {
    let request = match write {
        Write::Put { key, value, lease } => request_op::Request::Put(PutRequest {
            key: key.into_bytes(),
            value,
            lease: lease.map_or(0, |lease| lease.0),
            ..PutRequest::default()
        }),
        Write::Delete { key } => request_op::Request::DeleteRange(DeleteRangeRequest {
            key: key.into_bytes(),
            ..DeleteRangeRequest::default()
        }),
    };
    RequestOp { request: Some(request) }
}
