//! The messages of the etcd v3 protocol (etcd 3.4: `rpc.proto`, `kv.proto`), as far as they are spoken here. Field
//! numbers and types are the protocol; fields that nobody here reads stand where leaving them out would lose a meaning.

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

/// One key.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct KeyValue {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The revision at which it came to be.
    #[prost(int64, tag = "2")]
    pub(super) create_revision: i64,
    /// The revision of its last change.
    #[prost(int64, tag = "3")]
    pub(super) mod_revision: i64,
    /// How often it was put since.
    #[prost(int64, tag = "4")]
    pub(super) version: i64,
    /// The value.
    #[prost(bytes = "vec", tag = "5")]
    pub(super) value: Vec<u8>,
    /// Its lease, or 0.
    #[prost(int64, tag = "6")]
    pub(super) lease: i64,
}

/// One change.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Event {
    /// An [`EventType`].
    #[prost(enumeration = "EventType", tag = "1")]
    pub(super) r#type: i32,
    /// The key afterwards; of a removed one only the key and the revision.
    #[prost(message, optional, tag = "2")]
    pub(super) kv: Option<KeyValue>,
    /// The key before.
    #[prost(message, optional, tag = "3")]
    pub(super) prev_kv: Option<KeyValue>,
}

/// Read keys.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The end: empty for one key, a zero byte for no end.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    /// The most rows; 0 for all.
    #[prost(int64, tag = "3")]
    pub(super) limit: i64,
    /// As of which revision; 0 or less for now.
    #[prost(int64, tag = "4")]
    pub(super) revision: i64,
    /// A [`SortOrder`].
    #[prost(enumeration = "SortOrder", tag = "5")]
    pub(super) sort_order: i32,
    /// A [`SortTarget`].
    #[prost(enumeration = "SortTarget", tag = "6")]
    pub(super) sort_target: i32,
    /// Whether an answer from a follower will do.
    #[prost(bool, tag = "7")]
    pub(super) serializable: bool,
    /// Without values.
    #[prost(bool, tag = "8")]
    pub(super) keys_only: bool,
    /// Without rows.
    #[prost(bool, tag = "9")]
    pub(super) count_only: bool,
    /// Leave out keys changed last before it.
    #[prost(int64, tag = "10")]
    pub(super) min_mod_revision: i64,
    /// Leave out keys changed last after it.
    #[prost(int64, tag = "11")]
    pub(super) max_mod_revision: i64,
    /// Leave out keys made before it.
    #[prost(int64, tag = "12")]
    pub(super) min_create_revision: i64,
    /// Leave out keys made after it.
    #[prost(int64, tag = "13")]
    pub(super) max_create_revision: i64,
}

/// The keys.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RangeResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// The rows.
    #[prost(message, repeated, tag = "2")]
    pub(super) kvs: Vec<KeyValue>,
    /// Whether the limit cut rows off.
    #[prost(bool, tag = "3")]
    pub(super) more: bool,
    /// How many keys the range holds.
    #[prost(int64, tag = "4")]
    pub(super) count: i64,
}

/// Set a key.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PutRequest {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The value.
    #[prost(bytes = "vec", tag = "2")]
    pub(super) value: Vec<u8>,
    /// The lease, or 0.
    #[prost(int64, tag = "3")]
    pub(super) lease: i64,
    /// Return what was there.
    #[prost(bool, tag = "4")]
    pub(super) prev_kv: bool,
    /// Keep the value.
    #[prost(bool, tag = "5")]
    pub(super) ignore_value: bool,
    /// Keep the lease.
    #[prost(bool, tag = "6")]
    pub(super) ignore_lease: bool,
}

/// It is set.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct PutResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// What was there.
    #[prost(message, optional, tag = "2")]
    pub(super) prev_kv: Option<KeyValue>,
}

/// Remove keys.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeleteRangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The end, as in [`RangeRequest`].
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    /// Return what was there.
    #[prost(bool, tag = "3")]
    pub(super) prev_kv: bool,
}

/// They are removed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct DeleteRangeResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// How many.
    #[prost(int64, tag = "2")]
    pub(super) deleted: i64,
    /// What was there.
    #[prost(message, repeated, tag = "3")]
    pub(super) prev_kvs: Vec<KeyValue>,
}

/// One operation of a transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct RequestOp {
    /// Which.
    #[prost(oneof = "request_op::Request", tags = "1, 2, 3, 4")]
    pub(super) request: Option<request_op::Request>,
}

/// The result of one.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ResponseOp {
    /// Which.
    #[prost(oneof = "response_op::Response", tags = "1, 2, 3")]
    pub(super) response: Option<response_op::Response>,
}

/// One condition of a transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct Compare {
    /// A [`CompareResult`].
    #[prost(enumeration = "CompareResult", tag = "1")]
    pub(super) result: i32,
    /// A [`CompareTarget`].
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub(super) target: i32,
    /// The first key.
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    /// The value to compare with.
    #[prost(oneof = "compare::TargetUnion", tags = "4, 5, 6, 7, 8")]
    pub(super) target_union: Option<compare::TargetUnion>,
    /// The end, as in [`RangeRequest`].
    #[prost(bytes = "vec", tag = "64")]
    pub(super) range_end: Vec<u8>,
}

/// A transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TxnRequest {
    /// The conditions.
    #[prost(message, repeated, tag = "1")]
    pub(super) compare: Vec<Compare>,
    /// What is done if all hold.
    #[prost(message, repeated, tag = "2")]
    pub(super) success: Vec<RequestOp>,
    /// What is done otherwise.
    #[prost(message, repeated, tag = "3")]
    pub(super) failure: Vec<RequestOp>,
}

/// How it went.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct TxnResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// Whether all conditions held.
    #[prost(bool, tag = "2")]
    pub(super) succeeded: bool,
    /// The results, in order.
    #[prost(message, repeated, tag = "3")]
    pub(super) responses: Vec<ResponseOp>,
}

/// Forget the past.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct CompactionRequest {
    /// All before this revision.
    #[prost(int64, tag = "1")]
    pub(super) revision: i64,
    /// Answer when the space is free.
    #[prost(bool, tag = "2")]
    pub(super) physical: bool,
}

/// It is forgotten.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct CompactionResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
}

/// A word of the client on a watch stream.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchRequest {
    /// Which.
    #[prost(oneof = "watch_request::Request", tags = "1, 2, 3")]
    pub(super) request: Option<watch_request::Request>,
}

/// Begin a watch.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchCreateRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(super) key: Vec<u8>,
    /// The end, as in [`RangeRequest`].
    #[prost(bytes = "vec", tag = "2")]
    pub(super) range_end: Vec<u8>,
    /// The first revision to report; 0 for what comes.
    #[prost(int64, tag = "3")]
    pub(super) start_revision: i64,
    /// Tell now and then where the watch stands.
    #[prost(bool, tag = "4")]
    pub(super) progress_notify: bool,
    /// Each a [`WatchFilter`].
    #[prost(enumeration = "WatchFilter", repeated, tag = "5")]
    pub(super) filters: Vec<i32>,
    /// Report what was there before.
    #[prost(bool, tag = "6")]
    pub(super) prev_kv: bool,
    /// The name for it; 0 for the server to choose.
    #[prost(int64, tag = "7")]
    pub(super) watch_id: i64,
    /// Split large answers.
    #[prost(bool, tag = "8")]
    pub(super) fragment: bool,
}

/// End a watch.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct WatchCancelRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(super) watch_id: i64,
}

/// Ask where the watches stand.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct WatchProgressRequest {}

/// A word of the server on a watch stream.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct WatchResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// Which watch; -1 for all.
    #[prost(int64, tag = "2")]
    pub(super) watch_id: i64,
    /// It begins.
    #[prost(bool, tag = "3")]
    pub(super) created: bool,
    /// It has ended.
    #[prost(bool, tag = "4")]
    pub(super) canceled: bool,
    /// It ended because the revisions before this one are forgotten.
    #[prost(int64, tag = "5")]
    pub(super) compact_revision: i64,
    /// Why it ended.
    #[prost(string, tag = "6")]
    pub(super) cancel_reason: String,
    /// More of the same revision follows.
    #[prost(bool, tag = "7")]
    pub(super) fragment: bool,
    /// The changes.
    #[prost(message, repeated, tag = "11")]
    pub(super) events: Vec<Event>,
}

/// Make a lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LeaseGrantRequest {
    /// Its length in seconds.
    #[prost(int64, tag = "1")]
    pub(super) ttl: i64,
    /// Its id; 0 for the server to choose.
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
}

/// It is made.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseGrantResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// Its id.
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// Its length in seconds.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
    /// Why it was not.
    #[prost(string, tag = "4")]
    pub(super) error: String,
}

/// End a lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LeaseRevokeRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

/// It has ended.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseRevokeResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
}

/// Renew a lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LeaseKeepAliveRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

/// It is renewed.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseKeepAliveResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// Which.
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// What is left in seconds; 0 if it has ended.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
}

/// Ask for a lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LeaseTimeToLiveRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
    /// With its keys.
    #[prost(bool, tag = "2")]
    pub(super) keys: bool,
}

/// A lease.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseTimeToLiveResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// Which.
    #[prost(int64, tag = "2")]
    pub(super) id: i64,
    /// What is left in seconds; -1 if it has ended.
    #[prost(int64, tag = "3")]
    pub(super) ttl: i64,
    /// Its length in seconds.
    #[prost(int64, tag = "4")]
    pub(super) granted_ttl: i64,
    /// Its keys.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(super) keys: Vec<Vec<u8>>,
}

/// Ask for all leases.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LeaseLeasesRequest {}

/// One of them.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct LeaseStatus {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(super) id: i64,
}

/// All leases.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct LeaseLeasesResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// They.
    #[prost(message, repeated, tag = "2")]
    pub(super) leases: Vec<LeaseStatus>,
}

/// Ask for alarms.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct AlarmRequest {
    /// 0 asks for those there are.
    #[prost(int32, tag = "1")]
    pub(super) action: i32,
}

/// The alarms: this store raises none.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct AlarmResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
}

/// Ask how the server is.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(super) struct StatusRequest {}

/// How it is.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StatusResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(super) header: Option<ResponseHeader>,
    /// The version of etcd whose protocol it speaks.
    #[prost(string, tag = "2")]
    pub(super) version: String,
    /// The bytes of its file.
    #[prost(int64, tag = "3")]
    pub(super) db_size: i64,
    /// The member that leads.
    #[prost(uint64, tag = "4")]
    pub(super) leader: u64,
    /// The last entry of the log.
    #[prost(uint64, tag = "5")]
    pub(super) raft_index: u64,
    /// The term.
    #[prost(uint64, tag = "6")]
    pub(super) raft_term: u64,
    /// The last entry that is applied.
    #[prost(uint64, tag = "7")]
    pub(super) raft_applied_index: u64,
    /// What is wrong.
    #[prost(string, repeated, tag = "8")]
    pub(super) errors: Vec<String>,
    /// The bytes in use.
    #[prost(int64, tag = "9")]
    pub(super) db_size_in_use: i64,
    /// Whether it has no vote.
    #[prost(bool, tag = "10")]
    pub(super) is_learner: bool,
}

/// The choice in [`RequestOp`].
pub(super) mod request_op {
    use super::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};

    /// The choice.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in super::super) enum Request {
        /// Read.
        #[prost(message, tag = "1")]
        Range(RangeRequest),
        /// Set.
        #[prost(message, tag = "2")]
        Put(PutRequest),
        /// Remove.
        #[prost(message, tag = "3")]
        DeleteRange(DeleteRangeRequest),
        /// A transaction within, which is refused here.
        #[prost(message, tag = "4")]
        Txn(TxnRequest),
    }
}

/// The choice in [`ResponseOp`].
pub(super) mod response_op {
    use super::{DeleteRangeResponse, PutResponse, RangeResponse};

    /// The choice.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in super::super) enum Response {
        /// Read.
        #[prost(message, tag = "1")]
        Range(RangeResponse),
        /// Set.
        #[prost(message, tag = "2")]
        Put(PutResponse),
        /// Removed.
        #[prost(message, tag = "3")]
        DeleteRange(DeleteRangeResponse),
    }
}

/// The choice in [`Compare`].
pub(super) mod compare {

    /// The choice.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in super::super) enum TargetUnion {
        /// How often it was put.
        #[prost(int64, tag = "4")]
        Version(i64),
        /// When it came to be.
        #[prost(int64, tag = "5")]
        CreateRevision(i64),
        /// When it was last changed.
        #[prost(int64, tag = "6")]
        ModRevision(i64),
        /// Its value.
        #[prost(bytes = "vec", tag = "7")]
        Value(Vec<u8>),
        /// Its lease.
        #[prost(int64, tag = "8")]
        Lease(i64),
    }
}

/// The choice in [`WatchRequest`].
pub(super) mod watch_request {
    use super::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest};

    /// The choice.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in super::super) enum Request {
        /// Begin.
        #[prost(message, tag = "1")]
        Create(WatchCreateRequest),
        /// End.
        #[prost(message, tag = "2")]
        Cancel(WatchCancelRequest),
        /// Tell.
        #[prost(message, tag = "3")]
        Progress(WatchProgressRequest),
    }
}

/// What happened to a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum EventType {
    /// It was set.
    Put = 0,
    /// It was removed.
    Delete = 1,
}

/// In which order rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum SortOrder {
    /// By key.
    None = 0,
    /// Least first.
    Ascend = 1,
    /// Greatest first.
    Descend = 2,
}

/// By what rows are sorted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum SortTarget {
    /// The key.
    Key = 0,
    /// How often it was put.
    Version = 1,
    /// When it came to be.
    Create = 2,
    /// When it was last changed.
    Mod = 3,
    /// The value.
    Value = 4,
}

/// How a property stands to the given value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum CompareResult {
    /// The same.
    Equal = 0,
    /// Greater.
    Greater = 1,
    /// Less.
    Less = 2,
    /// Another.
    NotEqual = 3,
}

/// Which property is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum CompareTarget {
    /// How often it was put.
    Version = 0,
    /// When it came to be.
    Create = 1,
    /// When it was last changed.
    Mod = 2,
    /// The value.
    Value = 3,
    /// The lease.
    Lease = 4,
}

/// Which changes a watch leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(super) enum WatchFilter {
    /// Those that set a key.
    NoPut = 0,
    /// Those that remove one.
    NoDelete = 1,
}
