//! One request and its answer, on a connection of their own (HTTP/1.1, RFC 9112).

use std::{future::pending, time::Duration};

use http_body_util::{BodyExt as _, Full};
use hyper::{
    Method, Request,
    body::{Bytes, Incoming},
    client::conn::http1,
    header::{self, HeaderValue},
};
use hyper_util::rt::TokioIo;
use nix::sys::socket::{setsockopt, sockopt};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};

use super::REQUEST_TIMEOUT;
use crate::tls::Outside;

/// How long a connection may take to come up, and its TLS: two seconds outlast one lost SYN.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// How often a quiet connection is tried, in seconds, and when it counts as lost: a watch on a host that vanished ends within 15 s.
const KEEPALIVE_INTERVAL_S: u32 = 5;
const KEEPALIVE_TRIES: u32 = 2;

/// The largest answer taken, in bytes: a listing comes in one piece, and 100,000 records of 1 KiB are 150 MB of base64 and JSON.
const ANSWER_BYTES_MAX: usize = 256 * 1024 * 1024;

/// The most of an answer's text that goes into a message.
const SAID_CHARS_MAX: usize = 300;

/// A request, which can be sent to any host.
pub(super) struct Call {
    pub(super) method: Method,
    /// Path and query.
    pub(super) path: String,
    /// JSON, or nothing.
    pub(super) body: Bytes,
    /// How long the answer may take to begin.
    pub(super) patience: Duration,
}

impl Call {
    pub(super) fn get(path: String) -> Self {
        Self { method: Method::GET, path, body: Bytes::new(), patience: REQUEST_TIMEOUT }
    }

    pub(super) fn put(path: String, body: Vec<u8>) -> Self {
        Self { method: Method::PUT, path, body: body.into(), patience: REQUEST_TIMEOUT }
    }
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    /// Consul's `X-Consul-Index`: what is told was so at this index.
    pub(super) index: Option<u64>,
    pub(super) body: Vec<u8>,
}

impl Answer {
    /// The body as a person reads it: Consul's errors are plain text.
    pub(super) fn said(&self) -> String {
        let text = String::from_utf8_lossy(&self.body);
        match text.trim() {
            "" => format!("status {} without a word", self.status),
            text => text.chars().take(SAID_CHARS_MAX).collect(),
        }
    }
}

/// Why there was no answer.
pub(super) enum Failure {
    /// The request never left this host.
    NeverSent(String),
    /// It may have been carried out.
    Unanswered(String),
}

/// How all hosts are spoken to.
pub(super) struct Caller {
    tls: Option<Outside>,
    token: Option<HeaderValue>,
}

impl Caller {
    /// Nothing if the token cannot stand in a header.
    pub(super) fn new(tls: Option<Outside>, token: Option<&str>) -> Option<Self> {
        let token = match token {
            Some(token) => {
                let mut value = HeaderValue::from_str(token).ok()?;
                value.set_sensitive(true);
                Some(value)
            }
            None => None,
        };
        Some(Self { tls, token })
    }

    /// Sends `call` to `host` (`HOST:PORT`).
    pub(super) async fn exchange(&self, host: &str, call: &Call) -> Result<Answer, Failure> {
        let late = |_| Failure::NeverSent(format!("{host}: no connection within {} s", CONNECT_TIMEOUT.as_secs()));
        let lost = |error| Failure::NeverSent(format!("{host}: {error}"));
        let stream = timeout(CONNECT_TIMEOUT, TcpStream::connect(host)).await.map_err(late)?.map_err(lost)?;
        keep_alive(&stream).map_err(|error| lost(error.into()))?;
        match &self.tls {
            None => self.over(stream, host, call).await,
            Some(tls) => {
                let name = host.rsplit_once(':').map_or(host, |(name, _)| name);
                let name = name.trim_start_matches('[').trim_end_matches(']');
                let stream = timeout(CONNECT_TIMEOUT, tls.connect(name, stream)).await.map_err(late)?.map_err(lost)?;
                self.over(stream, host, call).await
            }
        }
    }

    async fn over<S>(&self, stream: S, host: &str, call: &Call) -> Result<Answer, Failure>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let unsent = |error: &dyn std::error::Error| Failure::NeverSent(format!("{host}: {error}"));
        let request = self.request(host, call).map_err(|error| unsent(&error))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| unsent(&error))?;
        let answer = async {
            let response = timeout(call.patience, sender.send_request(request)).await;
            let response = response.map_err(|_| silent(host, call.patience))?.map_err(|error| broken(host, &error))?;
            let index = response.headers().get("X-Consul-Index");
            let index = index.and_then(|index| index.to_str().ok()?.parse().ok());
            let status = response.status().as_u16();
            Ok(Answer { status, index, body: read(response.into_body(), host).await? })
        };
        // The connection is carried on only while somebody waits for the answer; its own errors come out there.
        let carried = async {
            let _: Result<(), _> = connection.await;
            pending().await
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            never = carried => never,
        }
    }

    fn request(&self, host: &str, call: &Call) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let mut request = Request::builder()
            .method(&call.method)
            .uri(&call.path)
            .header(header::HOST, host)
            .header(header::CONNECTION, "close");
        if let Some(token) = &self.token {
            request = request.header("X-Consul-Token", token);
        }
        request.body(Full::new(call.body.clone()))
    }
}

/// The whole body, however long it takes, if it never pauses for long.
async fn read(mut body: Incoming, host: &str) -> Result<Vec<u8>, Failure> {
    let mut whole = Vec::new();
    loop {
        let frame = timeout(REQUEST_TIMEOUT, body.frame()).await.map_err(|_| silent(host, REQUEST_TIMEOUT))?;
        let Some(frame) = frame else { return Ok(whole) };
        let Ok(data) = frame.map_err(|error| broken(host, &error))?.into_data() else { continue };
        if whole.len() + data.len() > ANSWER_BYTES_MAX {
            return Err(Failure::Unanswered(format!("{host}: its answer has more than {ANSWER_BYTES_MAX} bytes")));
        }
        whole.extend_from_slice(&data);
    }
}

fn silent(host: &str, patience: Duration) -> Failure {
    Failure::Unanswered(format!("{host}: no answer within {} s", patience.as_secs()))
}

/// The last cause in the chain: "connection reset by peer" rather than "error reading a body from connection".
fn broken(host: &str, error: &hyper::Error) -> Failure {
    let mut innermost: &dyn std::error::Error = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    Failure::Unanswered(format!("{host}: {innermost}"))
}

/// A watch waits for a minute on a connection on which nothing is said: the kernel finds out whether there is still somebody.
fn keep_alive(stream: &TcpStream) -> nix::Result<()> {
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &KEEPALIVE_INTERVAL_S)?;
    setsockopt(stream, sockopt::TcpKeepCount, &KEEPALIVE_TRIES)
}
