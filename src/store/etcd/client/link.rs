//! Requests to a cluster of several servers: which is asked, when another one, and what may be asked twice.

use std::{
    sync::{
        Mutex, PoisonError, RwLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures::{
    StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use prost::Message;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Status, Streaming, client::Grpc, codegen::http::uri::PathAndQuery, metadata::MetadataValue,
    transport::Channel,
};
use tonic_prost::ProstCodec;

use super::{
    Names, REQUEST_TIMEOUT,
    connector::Reach,
    failure::{is_election, is_leaderless, is_passing, is_undone, wants_login},
    login::{Login, Token},
};
use crate::store::{
    StoreError,
    etcd::messages::maintenance::{StatusRequest, StatusResponse},
};

/// After which silence another endpoint is asked as well. It is long for a healthy etcd, whose answers take milliseconds, and short
/// enough for a node's sign of life to be renewed in time.
const PATIENCE: Duration = Duration::from_millis(1500);

/// How long an endpoint that answered is held to be there.
const FRESH: Duration = Duration::from_secs(1);

/// How long to wait before members that have no leader are asked again.
const ELECTION_PAUSE: Duration = Duration::from_millis(200);

/// The largest answer taken, in bytes: etcd sends all changes of a revision, or a page of rows, in one message.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The connections to all endpoints, and which of them is used.
pub(super) struct Link {
    pub(super) names: Names,
    /// How each endpoint is reached, and the connection to it.
    endpoints: Vec<Reach>,
    channels: RwLock<Vec<Channel>>,
    login: Option<Login>,
    /// The endpoint that is asked first.
    current: AtomicUsize,
    /// The endpoint that answered last.
    answered: watch::Sender<usize>,
    /// When that was.
    answered_at: Mutex<Option<Instant>>,
}

/// Whether a request may be sent again when nobody knows whether it was carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Repeat {
    /// Carried out twice is as good as once.
    Safe,
    /// It is not.
    Unsafe,
}

/// A stream that has begun.
pub(super) struct Opened<Q, R> {
    /// The endpoint at its other end.
    pub(super) at: usize,
    /// It lives as long as this does.
    pub(super) requests: mpsc::Sender<Q>,
    pub(super) answers: Streaming<R>,
    /// What came first.
    pub(super) first: R,
}

impl Link {
    pub(super) fn new(names: Names, endpoints: Vec<Reach>, login: Option<Login>) -> Self {
        Self {
            names,
            channels: RwLock::new(endpoints.iter().map(Reach::channel).collect()),
            endpoints,
            login,
            current: AtomicUsize::new(0),
            answered: watch::Sender::new(0),
            answered_at: Mutex::default(),
        }
    }

    /// Asks for one answer.
    pub(super) async fn unary<Q, R>(&self, path: &'static str, request: Q, repeat: Repeat) -> Result<R, StoreError>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut token = self.token().await?;
        let answer = match (self.send(path, &request, repeat, &token).await, &self.login) {
            (Err(status), Some(login)) if wants_login(&status) => {
                token = login.another(self, &token).await?;
                self.send(path, &request, repeat, &token).await
            }
            (answer, _) => answer,
        };
        answer.map_err(|status| self.names.explain(&status))
    }

    /// Opens a stream, sends its first message and waits for the first answer; `refusal` says which answers are refusals.
    pub(super) async fn stream<Q, R>(
        &self,
        path: &'static str,
        first: Q,
        refusal: impl Fn(&R) -> Option<Status>,
    ) -> Result<Opened<Q, R>, StoreError>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let mut token = self.token().await?;
        let opened = match (self.open(path, &first, &token, &refusal).await, &self.login) {
            (Err(status), Some(login)) if wants_login(&status) || status.code() == Code::PermissionDenied => {
                token = login.another(self, &token).await?;
                self.open(path, &first, &token, &refusal).await
            }
            (opened, _) => opened,
        };
        opened.map_err(|status| self.names.explain(&status))
    }

    /// New connections for all requests from now on; the old ones end with the requests that still use them.
    pub(super) fn renew_channels(&self) {
        let new = self.endpoints.iter().map(Reach::channel).collect();
        *self.channels.write().unwrap_or_else(PoisonError::into_inner) = new;
    }

    /// Ready when the last answer came from another endpoint than `at`.
    pub(super) async fn moved_from(&self, at: usize) {
        // It fails if there is no sender any more, and that lives as long as `self`.
        let _ = self.answered.subscribe().wait_for(|answered| *answered != at).await;
    }

    /// Sends a request until it is answered, for as long as members have no leader or [`REQUEST_TIMEOUT`].
    pub(super) async fn send<Q, R>(
        &self,
        path: &'static str,
        request: &Q,
        repeat: Repeat,
        token: &Token,
    ) -> Result<R, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        loop {
            let (answer, may_wait): (_, fn(&Status) -> bool) = match repeat {
                Repeat::Safe => (self.send_safe(path, request, token).await, is_election),
                Repeat::Unsafe => (self.send_unsafe(path, request, token).await, is_leaderless),
            };
            match answer {
                Err(status) if may_wait(&status) && Instant::now() < deadline => sleep(ELECTION_PAUSE).await,
                answer => return answer,
            }
        }
    }

    /// To one endpoint after the other, to the next as soon as one has failed or was silent for a while. The first answer counts.
    async fn send_safe<Q, R>(&self, path: &'static str, request: &Q, token: &Token) -> Result<R, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let (begin, count) = (self.current(), self.endpoints.len());
        let mut under_way = FuturesUnordered::new();
        let mut failure = Status::unavailable("there is no server");
        for step in 0..count {
            let at = (begin + step) % count;
            under_way.push(async move { (at, self.ask(at, path, request, token).await) });
            let patience = if step + 1 < count { PATIENCE } else { REQUEST_TIMEOUT };
            // The last one is waited for, with all that are still under way.
            while let Ok(Some((at, answer))) = timeout(patience, under_way.next()).await {
                match answer {
                    Ok(answer) => {
                        self.prefer(at, begin);
                        return Ok(answer);
                    }
                    Err(status) if !is_passing(&status) => return Err(status),
                    Err(status) => failure = status,
                }
                if step + 1 < count {
                    break;
                }
            }
        }
        self.move_on(begin);
        Err(failure)
    }

    /// To one endpoint, and to others in turn only if it was certainly not carried out. One that is silent is left by other requests.
    async fn send_unsafe<Q, R>(&self, path: &'static str, request: &Q, token: &Token) -> Result<R, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        self.find_one_that_answers(token).await;
        let mut tries = self.endpoints.len();
        loop {
            let at = self.current();
            let answer = std::pin::pin!(self.ask(at, path, request, token));
            let answer = match select(answer, std::pin::pin!(sleep(PATIENCE))).await {
                Either::Left((answer, _)) => answer,
                Either::Right(((), answer)) => {
                    self.move_on(at);
                    answer.await
                }
            };
            tries -= 1;
            match answer {
                Ok(answer) => {
                    self.note_answer(at);
                    return Ok(answer);
                }
                Err(status) => {
                    if is_passing(&status) {
                        self.move_on(at);
                    }
                    if tries == 0 || !is_undone(&status) {
                        return Err(status);
                    }
                }
            }
        }
    }

    /// A write that was sent to a silent member cannot be sent to another: unless one has just answered, each is asked first how it is.
    async fn find_one_that_answers(&self, token: &Token) {
        let answered_at = *self.answered_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_fresh = answered_at.is_some_and(|at| at.elapsed() < FRESH) && self.current() == *self.answered.borrow();
        if self.endpoints.len() > 1 && !is_fresh {
            // If nobody answers, the request itself says so.
            let _ =
                self.send_safe::<_, StatusResponse>("/etcdserverpb.Maintenance/Status", &StatusRequest {}, token).await;
        }
    }

    async fn open<Q, R>(
        &self,
        path: &'static str,
        first: &Q,
        token: &Token,
        refusal: &impl Fn(&R) -> Option<Status>,
    ) -> Result<Opened<Q, R>, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let deadline = Instant::now() + REQUEST_TIMEOUT;
        let count = self.endpoints.len();
        let mut tries = count;
        loop {
            let at = self.current();
            let patience = if count > 1 { PATIENCE } else { REQUEST_TIMEOUT };
            let opened = match timeout(patience, self.begin(at, path, first, token)).await {
                Ok(opened) => opened.and_then(|opened| refusal(&opened.first).map_or(Ok(opened), Err)),
                Err(_) => Err(silent(patience)),
            };
            let status = match opened {
                Ok(opened) => {
                    self.note_answer(at);
                    return Ok(opened);
                }
                Err(status) => self.told(at, status),
            };
            if !is_passing(&status) {
                return Err(status);
            }
            self.move_on(at);
            tries -= 1;
            if tries == 0 {
                if !is_election(&status) || Instant::now() >= deadline {
                    return Err(status);
                }
                tries = count;
                sleep(ELECTION_PAUSE).await;
            }
        }
    }

    async fn begin<Q, R>(&self, at: usize, path: &'static str, first: &Q, token: &Token) -> Result<Opened<Q, R>, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let (requests, queue) = mpsc::channel(1);
        let mut grpc = self.ready(at).await?;
        // The queue has room for it: it is new.
        let _ = requests.try_send(first.clone());
        let request = labelled(Request::new(ReceiverStream::new(queue)), token);
        let path = PathAndQuery::from_static(path);
        let mut answers = grpc.streaming(request, path, ProstCodec::<Q, R>::default()).await?.into_inner();
        match answers.message().await? {
            Some(first) => Ok(Opened { at, requests, answers, first }),
            None => Err(Status::unavailable("it ended the stream")),
        }
    }

    async fn ask<Q, R>(&self, at: usize, path: &'static str, request: &Q, token: &Token) -> Result<R, Status>
    where
        Q: Message + Default + Clone + 'static,
        R: Message + Default + 'static,
    {
        let answer = timeout(REQUEST_TIMEOUT, async {
            let mut grpc = self.ready(at).await?;
            let request = labelled(Request::new(request.clone()), token);
            grpc.unary(request, PathAndQuery::from_static(path), ProstCodec::<Q, R>::default()).await
        });
        match answer.await {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => Err(self.told(at, status)),
            Err(_) => Err(silent(REQUEST_TIMEOUT)),
        }
    }

    async fn ready(&self, at: usize) -> Result<Grpc<Channel>, Status> {
        let channel = self.channels.read().unwrap_or_else(PoisonError::into_inner)[at].clone();
        let mut grpc = Grpc::new(channel).max_decoding_message_size(ANSWER_BYTES_MAX);
        grpc.ready().await.map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(grpc)
    }

    async fn token(&self) -> Result<Token, StoreError> {
        match &self.login {
            Some(login) => login.token(self).await,
            None => Ok(None),
        }
    }

    /// The status, with the reason why the connection broke where that is known better.
    fn told(&self, at: usize, status: Status) -> Status {
        match self.endpoints[at].fault() {
            Some(fault) if is_passing(&status) && !is_undone(&status) => Status::unavailable(fault),
            Some(_) | None => status,
        }
    }

    fn current(&self) -> usize {
        self.current.load(Ordering::Relaxed) % self.endpoints.len()
    }

    /// Asks the next endpoint first from now on, unless another request has moved on already.
    pub(super) fn move_on(&self, from: usize) {
        let to = (from + 1) % self.endpoints.len();
        // Whoever loses this race finds another endpoint in place, which is what was wanted.
        let _ = self.current.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Asks the endpoint first that answered before the one which was.
    fn prefer(&self, at: usize, begin: usize) {
        let _ = self.current.compare_exchange(begin, at, Ordering::Relaxed, Ordering::Relaxed);
        self.note_answer(at);
    }

    /// Failures go to the caller; that another endpoint took over is seen here alone.
    fn note_answer(&self, at: usize) {
        *self.answered_at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.answered.send_if_modified(|answered| {
            let before = std::mem::replace(answered, at);
            if before != at {
                let [now, then] = [at, before].map(|at| &self.endpoints[at].host);
                tracing::info!("{}: {now} answers in place of {then}", self.names.url);
            }
            before != at
        });
    }
}

fn silent(patience: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {} s", patience.as_secs_f32()))
}

/// Says who asks, and asks a member of a cluster that has lost its leader to refuse: it would let a watch wait in silence otherwise.
fn labelled<T>(mut request: Request<T>, token: &Token) -> Request<T> {
    request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        request.metadata_mut().insert("token", token.clone());
    }
    request
}
