//! The messages of `weft.v1.Membership`, as protocol buffers.

/// The joining node's first word.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct HelloRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) joiner_nonce: Vec<u8>,
}

/// The member's answer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct HelloReply {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) member_nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) cluster_key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) proof: Vec<u8>,
}

/// The joining node's proof.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct JoinRequest {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) joiner_nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) member_nonce: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) proof: Vec<u8>,
}

/// Where the cluster's store is.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(super) struct JoinReply {
    #[prost(string, tag = "1")]
    pub(super) store_url: String,
}
