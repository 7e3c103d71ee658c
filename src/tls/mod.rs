//! TLS: who is who on a connection (RFC 8446), for servers outside of the cluster. Certificates and protocol are rustls'.

mod outside;

pub use outside::{Outside, OutsideFiles};

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
