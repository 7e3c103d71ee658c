//! What nodes say to each other, apart from the store: how a new node is let in, and who else may speak at all.
//!
//! One call on the same port as the store. `Join`: the joining node connects by TLS and takes the member for one if its
//! certificate leads to the authority whose digest the token carries; so it can send the token's secret. The member compares
//! its hash with the one in the store, notes the joining node's key pair there for a minute, and hands over what members have:
//! the authority with its key, and the store's address and credentials. Every other call is for known key pairs
//! ([`guarded`]).

mod client;
mod guard;
mod messages;
mod server;
mod token;

pub use client::{check_address, join};
pub use guard::guarded;
pub use server::{Gatekeeper, Membership, NotAdmitted, router, serve};
pub use token::{Secret, Token, TokenError, Unopened};

use std::fmt;

use crate::model::{Fingerprint, Name};

/// Who wants to join.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applicant {
    /// What he knows.
    pub secret: Secret,
    /// Which key pair he will show from now on.
    pub fingerprint: Fingerprint,
    /// What he wants to be called.
    pub name: Name,
}

/// What a joining node learns.
#[derive(Clone, PartialEq, Eq)]
pub struct Admission {
    /// The cluster's id.
    pub cluster: String,
    /// The authority's certificate, DER.
    pub certificate: Vec<u8>,
    /// The authority's key, PKCS #8 in DER.
    pub key: Vec<u8>,
    /// The store's URL as other nodes reach it, with its secrets.
    pub store_url: String,
    /// What the files hold that the URL names, by its options.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Nothing of what has to stay secret.
impl fmt::Debug for Admission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Admission to the cluster {}", self.cluster)
    }
}

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
    /// What answers has a certificate of the cluster that cannot be accepted.
    #[error("{address} cannot be trusted: its certificate is no good by this host's clock or otherwise: {reason}")]
    BadCertificate {
        /// `HOST:PORT` as given.
        address: String,
        /// Why.
        reason: String,
    },
    /// What answers is something else.
    #[error("{address} is no weft agent in a cluster: {reason}")]
    NotWeft {
        /// `HOST:PORT` as given.
        address: String,
        /// What it did.
        reason: String,
    },
    /// The member does not accept the secret.
    #[error("{address} does not accept the token: its secret is not this cluster's, or no longer")]
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
