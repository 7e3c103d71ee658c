//! What nodes say to each other, apart from the store: how a new node is let in.
//!
//! Two calls on the same port as the store. `Hello`: the joining node sends a nonce; the member shows the cluster's key,
//! whose digest the token carries, and proves that it knows the token's secret. `Join`: the joining node proves the same
//! and learns where the store is. The secret itself never crosses the wire (HMAC-SHA256, RFC 2104), and neither side
//! can be replayed: each proof covers both nonces.

mod client;
mod messages;
mod server;
mod token;

pub use client::{Admitted, check_address, join};
pub use server::{Admission, Gatekeeper, router, serve};
pub use token::{Token, TokenError};

/// Why a join did not come about.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// It is no place to ask at.
    #[error("{address:?} is not where a node can be asked: say HOST:PORT, such as 192.0.2.1:7780")]
    NoAddress {
        /// As given.
        address: String,
    },
    /// Nobody answers there.
    #[error("cannot reach {address}: {reason}")]
    Unreachable {
        /// `HOST:PORT` as given.
        address: String,
        /// Why.
        reason: String,
    },
    /// What answers is not a member of the token's cluster.
    #[error("{address} belongs to another cluster than the token (or the token is mistyped)")]
    OtherCluster {
        /// `HOST:PORT` as given.
        address: String,
    },
    /// The member does not know the secret, or we do not.
    #[error("{address} does not accept the token: its secret is not this cluster's")]
    WrongSecret {
        /// `HOST:PORT` as given.
        address: String,
    },
    /// The member answered with an error.
    #[error("{address} refused: {reason}")]
    Refused {
        /// `HOST:PORT` as given.
        address: String,
        /// Its words.
        reason: String,
    },
}
