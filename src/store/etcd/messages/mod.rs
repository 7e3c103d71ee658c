//! The messages of the etcd v3 protocol (etcd 3.4: `rpc.proto`, `kv.proto`), as far as they are spoken here. Field
//! numbers and types are the protocol; fields that nobody here reads stand where leaving them out would lose a meaning.

pub(super) mod auth;
pub(super) mod kv;
pub(super) mod lease;
pub(super) mod maintenance;
pub(super) mod txn;
pub(super) mod watch;

/// Who answered, and where the store stood.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct ResponseHeader {
    /// The cluster.
    #[prost(uint64, tag = "1")]
    pub(super) cluster_id: u64,
    /// The server.
    #[prost(uint64, tag = "2")]
    pub(super) member_id: u64,
    /// The revision at the answer.
    #[prost(int64, tag = "3")]
    pub(super) revision: i64,
    /// The term of the leader.
    #[prost(uint64, tag = "4")]
    pub(super) raft_term: u64,
}
