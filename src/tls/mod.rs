//! TLS: who is who on a connection (RFC 8446), between nodes and to servers outside of the cluster. Certificates are rcgen's, the
//! protocol is rustls'.
//!
//! [`Authority`] signs; [`Credentials`] are what a node shows, on disk in `folder`; [`Door`] is where others knock;
//! [`connect_pinned`] is a joining node's first connection. Between nodes it is TLS 1.3 alone, and no session is resumed. There is
//! no task here.

mod authority;
mod credentials;
mod door;
mod explain;
mod folder;
mod outside;
mod pinned;
#[cfg(test)]
mod tests;

pub use authority::{Authority, NodeNames, renew_at};
pub use credentials::{Credentials, KeyPair};
pub use door::{Door, Guest, Known, Visitor};
pub use outside::{Outside, OutsideFiles};
pub use pinned::{Pin, PinError, connect_pinned};

/// A stream to a server that has shown who it is.
pub type TlsStream = tokio_rustls::client::TlsStream<tokio::net::TcpStream>;

/// Why there is no TLS to be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or holds something else.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// What the files hold does not go together.
    #[error("{0}")]
    Unusable(String),
}
