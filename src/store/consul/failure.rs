//! What an answer that is not the wanted one means to the caller.

use super::http::Answer;
use crate::store::StoreError;

/// Whether the same request may fare better later, or at another agent: Consul says 500 for "no leader" and for whatever else
/// went wrong inside, 503 and 504 come from what stands before it, 429 where it serves too many.
pub(super) fn is_passing(status: u16) -> bool {
    status == 429 || (500..=599).contains(&status)
}

/// The answer, unless it says that the token is unknown or not allowed to.
pub(super) fn permitted(name: &str, rights: &str, answer: Answer) -> Result<Answer, StoreError> {
    match answer.status {
        401 | 403 => Err(denied(name, rights, &answer.said())),
        _ => Ok(answer),
    }
}

pub(super) fn denied(name: &str, rights: &str, said: &str) -> StoreError {
    StoreError::Refused(format!("{name}: {said}: {rights}"))
}

/// An answer that no request of this client should get: Consul's limits are lower than its defaults, or something else answers.
pub(super) fn unexpected(name: &str, answer: &Answer) -> StoreError {
    StoreError::Refused(format!("{name}: {} (status {})", answer.said(), answer.status))
}

pub(super) fn unavailable(name: &str, reason: &str) -> StoreError {
    StoreError::Unavailable { store: name.to_owned(), reason: reason.to_owned() }
}
