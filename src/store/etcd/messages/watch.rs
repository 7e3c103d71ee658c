//! Watches: the changes of keys as they happen, and those that happened since a revision.

use super::{ResponseHeader, kv::KeyValue};

/// One change.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct Event {
    /// An [`EventType`].
    #[prost(enumeration = "EventType", tag = "1")]
    pub(in crate::store::etcd) r#type: i32,
    /// The key afterwards; of a removed one only the key and the revision.
    #[prost(message, optional, tag = "2")]
    pub(in crate::store::etcd) kv: Option<KeyValue>,
    /// The key before.
    #[prost(message, optional, tag = "3")]
    pub(in crate::store::etcd) prev_kv: Option<KeyValue>,
}

/// A word of the client on a watch stream.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct WatchRequest {
    /// Which.
    #[prost(oneof = "watch_request::Request", tags = "1, 2, 3")]
    pub(in crate::store::etcd) request: Option<watch_request::Request>,
}

/// Begin a watch.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct WatchCreateRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::store::etcd) key: Vec<u8>,
    /// The end, as in [`RangeRequest`].
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::store::etcd) range_end: Vec<u8>,
    /// The first revision to report; 0 for what comes.
    #[prost(int64, tag = "3")]
    pub(in crate::store::etcd) start_revision: i64,
    /// Tell now and then where the watch stands.
    #[prost(bool, tag = "4")]
    pub(in crate::store::etcd) progress_notify: bool,
    /// Each a [`WatchFilter`].
    #[prost(enumeration = "WatchFilter", repeated, tag = "5")]
    pub(in crate::store::etcd) filters: Vec<i32>,
    /// Report what was there before.
    #[prost(bool, tag = "6")]
    pub(in crate::store::etcd) prev_kv: bool,
    /// The name for it; 0 for the server to choose.
    #[prost(int64, tag = "7")]
    pub(in crate::store::etcd) watch_id: i64,
    /// Split large answers.
    #[prost(bool, tag = "8")]
    pub(in crate::store::etcd) fragment: bool,
}

/// End a watch.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct WatchCancelRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(in crate::store::etcd) watch_id: i64,
}

/// Ask where the watches stand.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct WatchProgressRequest {}

/// A word of the server on a watch stream.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct WatchResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// Which watch; -1 for all.
    #[prost(int64, tag = "2")]
    pub(in crate::store::etcd) watch_id: i64,
    /// It begins.
    #[prost(bool, tag = "3")]
    pub(in crate::store::etcd) created: bool,
    /// It has ended.
    #[prost(bool, tag = "4")]
    pub(in crate::store::etcd) canceled: bool,
    /// It ended because the revisions before this one are forgotten.
    #[prost(int64, tag = "5")]
    pub(in crate::store::etcd) compact_revision: i64,
    /// Why it ended.
    #[prost(string, tag = "6")]
    pub(in crate::store::etcd) cancel_reason: String,
    /// More of the same revision follows.
    #[prost(bool, tag = "7")]
    pub(in crate::store::etcd) fragment: bool,
    /// The changes.
    #[prost(message, repeated, tag = "11")]
    pub(in crate::store::etcd) events: Vec<Event>,
}

/// The choice in [`WatchRequest`].
pub(in crate::store::etcd) mod watch_request {
    use super::{WatchCancelRequest, WatchCreateRequest, WatchProgressRequest};

    /// The choice.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in crate::store::etcd) enum Request {
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
pub(in crate::store::etcd) enum EventType {
    /// It was set.
    Put = 0,
    /// It was removed.
    Delete = 1,
}

/// Which changes a watch leaves out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(in crate::store::etcd) enum WatchFilter {
    /// Those that set a key.
    NoPut = 0,
    /// Those that remove one.
    NoDelete = 1,
}
