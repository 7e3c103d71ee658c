//! What a server's or a connection's failure means to the caller.

use tonic::{Code, ConnectError, Status};

use crate::store::{LeaseId, Revision, StoreError, etcd::messages::watch::WatchResponse};

/// Whether the same request may fare better later, or at another endpoint.
pub(super) fn is_passing(status: &Status) -> bool {
    match status.code() {
        // etcd's "too many requests"; where it means a full disk, another endpoint says the same.
        Code::ResourceExhausted
        | Code::Unavailable
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
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::DataLoss
        | Code::Unauthenticated => false,
    }
}

/// Whether the request was certainly not carried out: there was no connection to send it on, or the member knew of no leader to
/// pass it to, which it says before it does anything (etcd 3.4, `etcdserver/api/v3rpc/interceptor.go`).
pub(super) fn is_undone(status: &Status) -> bool {
    never_sent(status) || is_leaderless(status)
}

/// Whether the member has lost its leader: an election takes about two seconds, a minority waits for ever.
pub(super) fn is_leaderless(status: &Status) -> bool {
    status.code() == Code::Unavailable && status.message() == "etcdserver: no leader"
}

/// Whether the members are about to agree on a leader: a read may be asked again soon.
pub(super) fn is_election(status: &Status) -> bool {
    is_leaderless(status) || status.code() == Code::Unavailable && status.message() == "etcdserver: leader changed"
}

/// Whether the member no longer knows the token, or never got one: it then has not looked at the request itself. A member forgets
/// tokens when it starts, and each after five minutes without use (`--auth-token-ttl`).
pub(super) fn wants_login(status: &Status) -> bool {
    const WORDS: [&str; 3] = [
        "etcdserver: invalid auth token",
        "etcdserver: revision of auth store is old",
        "etcdserver: user name is empty",
    ];
    status.code() == Code::Unauthenticated || WORDS.contains(&status.message())
}

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

/// What goes into messages to people.
#[derive(Debug)]
pub(super) struct Names {
    /// The URL without secrets.
    pub(super) url: String,
    /// The user, if there is one.
    pub(super) user: Option<String>,
    /// What stands before weft's keys in the store.
    pub(super) prefix: String,
}

impl Names {
    pub(super) fn explain(&self, status: &Status) -> StoreError {
        let (name, said) = (&self.url, status.message());
        match status.code() {
            Code::OutOfRange if said.contains("compacted") => StoreError::Compacted(Revision(0)),
            Code::NotFound if said.contains("lease") => StoreError::LeaseGone(LeaseId(0)),
            Code::ResourceExhausted if said.contains("space") => {
                StoreError::Storage(format!("{name}: {said}: compact and defragment it, or raise its quota"))
            }
            Code::DataLoss => StoreError::Storage(format!("{name}: {said}")),
            Code::PermissionDenied => StoreError::Refused(format!("{name}: {said}: {}", self.rights())),
            _ if wants_login(status) => StoreError::Refused(format!("{name}: {said}: {}", self.login())),
            _ if is_passing(status) => self.unavailable(&innermost(status)),
            _ => StoreError::Refused(format!("{name}: {said}")),
        }
    }

    fn rights(&self) -> String {
        let who = self.user.as_ref().map_or_else(|| "whom etcd takes us for".to_owned(), |user| format!("{user:?}"));
        format!(
            "the user {who} needs a role with `etcdctl role grant-permission ROLE readwrite --prefix=true {}/weft/`",
            self.prefix
        )
    }

    fn login(&self) -> String {
        match &self.user {
            None => "it asks who we are: add user=NAME and password-file=PATH to the URL".to_owned(),
            Some(user) => format!("it does not know the user {user:?} any more"),
        }
    }

    pub(super) fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable { store: self.url.clone(), reason: reason.to_owned() }
    }

    pub(super) fn refused(&self, reason: &str) -> StoreError {
        StoreError::Refused(format!("{}: {reason}", self.url))
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

/// Why a watch was ended by the server, as another request would have been told.
pub(super) fn cancelled(response: &WatchResponse) -> Option<Status> {
    if !response.canceled {
        return None;
    }
    if response.compact_revision != 0 {
        return Some(Status::out_of_range("the revision has been compacted"));
    }
    // etcd sends an error of its own as gRPC for Go writes it: "rpc error: code = PermissionDenied desc = etcdserver: ...".
    let reason = response.cancel_reason.rsplit(" desc = ").next().unwrap_or_default();
    Some(match reason {
        // It is also what a token that has ended gets (etcd 3.4, `isWatchPermitted`).
        "etcdserver: permission denied" => Status::permission_denied(reason),
        "" => Status::unavailable("it ended the watch without a reason"),
        reason => {
            let status = Status::unavailable(reason);
            if wants_login(&status) { Status::unauthenticated(reason) } else { status }
        }
    })
}
