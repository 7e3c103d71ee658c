//! How a client says who it is.

use super::ResponseHeader;

/// Ask for a token.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct AuthenticateRequest {
    /// The user.
    #[prost(string, tag = "1")]
    pub(in crate::store::etcd) name: String,
    /// His password.
    #[prost(string, tag = "2")]
    pub(in crate::store::etcd) password: String,
}

/// The token.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct AuthenticateResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// What is sent along with each request.
    #[prost(string, tag = "2")]
    pub(in crate::store::etcd) token: String,
}
