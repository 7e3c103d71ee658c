//! The messages of `weft.v1.Membership`, as protocol buffers.

use std::fmt;

/// Who wants in.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct JoinRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) secret: Vec<u8>,
    /// Which key pair he will show from now on.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) fingerprint: Vec<u8>,
    #[prost(string, tag = "3")]
    pub(super) name: String,
}

/// What makes him one of the cluster.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct JoinReply {
    #[prost(string, tag = "1")]
    pub(super) cluster: String,
    /// The authority's certificate and key, DER.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) certificate: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    /// Where the store is, with its secrets.
    #[prost(string, tag = "4")]
    pub(super) store_url: String,
    /// What the files hold that the URL names.
    #[prost(message, repeated, tag = "5")]
    pub(super) files: Vec<StoreFile>,
}

/// One file that the store's URL names.
#[derive(Clone, PartialEq, Eq, prost::Message)]
#[prost(skip_debug)]
pub(super) struct StoreFile {
    /// The URL's option.
    #[prost(string, tag = "1")]
    pub(super) option: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) contents: Vec<u8>,
}

/// Never the secret.
impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinRequest of {:?}", self.name)
    }
}

/// Never the key, nor the store's credentials.
impl fmt::Debug for JoinReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JoinReply of {:?}", self.cluster)
    }
}

/// Never what it holds.
impl fmt::Debug for StoreFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreFile {:?}", self.option)
    }
}
