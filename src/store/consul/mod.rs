//! A store in Consul, over its HTTP API (Consul 1.8 and later).
//!
//! It has no task. Every request has a connection of its own: a node asks a few times a second at most, Consul's agent is mostly on
//! the same host, and no connection can have died unnoticed while it waited for its next use. A watch is one request after the
//! other, each held by Consul until something has changed, and ends with its stream.
//!
//! - *Revisions* are Consul's raft index: `X-Consul-Index` of a listing, `ModifyIndex` of a key. They are shared with all that Consul
//!   holds for others, so they grow faster than weft writes.
//! - *Keys* lose their first slash, which Consul does not want.
//! - *Transactions* are one request to `/v1/txn` ([`txn`]), at most 64 operations and 512 KiB; [`super::limits`] is made to fit.
//! - *Leases* are sessions that delete what they lock. Consul takes no TTL below 10 s, and ends a session between one and two TTLs after
//!   its last renewal. A session's name is longer than a [`LeaseId`]: this client knows those that it made, which nobody else uses.
//! - *Watches* are listings compared ([`watch`]): Consul tells what is there, not what happened.

mod failure;
mod http;
mod store;
mod txn;
mod watch;
mod wire;

use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use self::http::{Answer, Call, Caller, Failure};
use super::{LeaseId, StoreError, StoreOption, StoreUrl};
use crate::tls::Outside;

/// How long an answer may take. Consul itself looks for a leader for up to 7 s (`rpc_hold_timeout`); another server may know one
/// sooner.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// A client of one Consul cluster. It speaks to one agent, and goes on to the next when that fails.
pub struct ConsulClient {
    shared: Arc<Shared>,
    /// The sessions behind the leases that this client granted.
    sessions: Mutex<HashMap<LeaseId, String>>,
}

/// What watches need, too.
struct Shared {
    /// The URL without secrets, for messages to people.
    name: String,
    /// What a token must be allowed, for messages to people.
    rights: String,
    /// `HOST:PORT` each.
    hosts: Vec<String>,
    caller: Caller,
    current: AtomicUsize,
    /// The host that answered last.
    answered: AtomicUsize,
    seen: watch::Seen,
}

impl ConsulClient {
    /// A client of the agents that `url` names. It connects at the first request. Fails with [`StoreError::Refused`] if there is no
    /// agent, if a file for TLS or the token cannot be used, or if the token is no text.
    pub fn new(url: &StoreUrl) -> Result<Self, StoreError> {
        if url.hosts.is_empty() {
            return Err(StoreError::Refused(format!("{url} names no server")));
        }
        let tls = if url.is_tls() {
            let tls = Outside::new(&url.outside_files(), b"http/1.1");
            Some(tls.map_err(|error| StoreError::Refused(format!("{url}: {error}")))?)
        } else {
            None
        };
        let caller = Caller::new(tls, token(url)?.as_deref());
        let caller = caller.ok_or_else(|| StoreError::Refused(format!("{url}: its token is no line of plain text")))?;
        let keys = format!("{}/weft/", url.prefix);
        let shared = Shared {
            name: url.to_string(),
            rights: format!(
                "its token needs key_prefix {:?} and session_prefix \"\", both with policy \"write\"",
                keys.trim_start_matches('/')
            ),
            hosts: url.hosts.clone(),
            caller,
            current: AtomicUsize::new(0),
            answered: AtomicUsize::new(0),
            seen: watch::Seen::default(),
        };
        Ok(Self { shared: Arc::new(shared), sessions: Mutex::default() })
    }
}

impl Shared {
    /// Sends a request to the current host, and to the others in turn while that is safe: a read, or a request that never left this
    /// one. Gives answers of all statuses but those of [`failure::is_passing`] and 403.
    async fn ask(&self, call: &Call, repeat: Repeat) -> Result<Answer, StoreError> {
        let mut tries = self.hosts.len();
        loop {
            let at = self.current.load(Ordering::Relaxed) % self.hosts.len();
            let failure = match self.caller.exchange(&self.hosts[at], call).await {
                Ok(answer) if failure::is_passing(answer.status) => Failure::Unanswered(answer.said()),
                Ok(answer) => {
                    self.note_answer(at);
                    return failure::permitted(&self.name, &self.rights, answer);
                }
                Err(failure) => failure,
            };
            self.move_on(at);
            tries -= 1;
            let (reason, safe) = match failure {
                Failure::NeverSent(reason) => (reason, true),
                Failure::Unanswered(reason) => (reason, repeat == Repeat::Safe),
            };
            if tries == 0 || !safe {
                return Err(failure::unavailable(&self.name, &reason));
            }
        }
    }

    /// Speaks to the next host from now on, unless another request has moved on already.
    fn move_on(&self, from: usize) {
        let to = (from + 1) % self.hosts.len();
        // Whoever loses this race finds another host in place, which is what was wanted.
        let _ = self.current.compare_exchange(from, to, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Failures go to the caller; that another host took over is seen here alone.
    fn note_answer(&self, at: usize) {
        let before = self.answered.swap(at, Ordering::Relaxed);
        if before != at {
            tracing::info!("{}: {} answers in place of {}", self.name, self.hosts[at], self.hosts[before]);
        }
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

/// The token, read once: another one in the file counts from the agent's next start.
fn token(url: &StoreUrl) -> Result<Option<String>, StoreError> {
    let Some(path) = url.option(StoreOption::TokenFile) else {
        return Ok(url.option(StoreOption::Token).map(str::to_owned));
    };
    let unreadable = |error| StoreError::Refused(format!("{url}: its token-file cannot be read: {error}"));
    let text = fs::read_to_string(Path::new(path)).map_err(unreadable)?;
    Ok(Some(text.trim().to_owned()))
}
