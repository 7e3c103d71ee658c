//! What people ask about a server itself.

use super::ResponseHeader;

/// Ask for alarms.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct AlarmRequest {
    /// 0 asks for those there are.
    #[prost(int32, tag = "1")]
    pub(in crate::store::etcd) action: i32,
}

/// The alarms: this store raises none.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct AlarmResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
}

/// Ask how the server is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct StatusRequest {}

/// How it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct StatusResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// The version of etcd whose protocol it speaks.
    #[prost(string, tag = "2")]
    pub(in crate::store::etcd) version: String,
    /// The bytes of its file.
    #[prost(int64, tag = "3")]
    pub(in crate::store::etcd) db_size: i64,
    /// The member that leads.
    #[prost(uint64, tag = "4")]
    pub(in crate::store::etcd) leader: u64,
    /// The last entry of the log.
    #[prost(uint64, tag = "5")]
    pub(in crate::store::etcd) raft_index: u64,
    /// The term.
    #[prost(uint64, tag = "6")]
    pub(in crate::store::etcd) raft_term: u64,
    /// The last entry that is applied.
    #[prost(uint64, tag = "7")]
    pub(in crate::store::etcd) raft_applied_index: u64,
    /// What is wrong.
    #[prost(string, repeated, tag = "8")]
    pub(in crate::store::etcd) errors: Vec<String>,
    /// The bytes in use.
    #[prost(int64, tag = "9")]
    pub(in crate::store::etcd) db_size_in_use: i64,
    /// Whether it has no vote.
    #[prost(bool, tag = "10")]
    pub(in crate::store::etcd) is_learner: bool,
}
