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

/// Whether the request failed before it was sent: there was no connection to send it on.
pub(super) fn never_sent(status: &Status) -> bool {
    let mut cause = std::error::Error::source(status);
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

pub(super) fn explain(name: &str, status: &Status) -> StoreError {
    let said = status.message();
    match status.code() {
        Code::OutOfRange if said.contains("compacted") => StoreError::Compacted(Revision(0)),
        Code::NotFound if said.contains("lease") => StoreError::LeaseGone(LeaseId(0)),
        Code::ResourceExhausted if said.contains("space") => {
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

pub(super) fn unavailable(name: &str, reason: &str) -> StoreError {
    StoreError::Unavailable { store: name.to_owned(), reason: reason.to_owned() }
}

pub(super) fn ended(name: &str) -> StoreError {
    unavailable(name, "it ended the stream")
}

/// Why a watch was ended by the server.
pub(super) fn cancelled(name: &str, after: Revision, response: &WatchResponse) -> StoreError {
    if response.compact_revision != 0 {
        return StoreError::Compacted(after);
    }
    let reason = if response.cancel_reason.is_empty() { "no reason was given" } else { &response.cancel_reason };
    unavailable(name, &format!("it ended the watch: {reason}"))
}
