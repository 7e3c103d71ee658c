//! Keys: reading, setting and removing them, and forgetting their past.

use super::ResponseHeader;

/// One key.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct KeyValue {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::store::etcd) key: Vec<u8>,
    /// The revision at which it came to be.
    #[prost(int64, tag = "2")]
    pub(in crate::store::etcd) create_revision: i64,
    /// The revision of its last change.
    #[prost(int64, tag = "3")]
    pub(in crate::store::etcd) mod_revision: i64,
    /// How often it was put since.
    #[prost(int64, tag = "4")]
    pub(in crate::store::etcd) version: i64,
    /// The value.
    #[prost(bytes = "vec", tag = "5")]
    pub(in crate::store::etcd) value: Vec<u8>,
    /// Its lease, or 0.
    #[prost(int64, tag = "6")]
    pub(in crate::store::etcd) lease: i64,
}

/// Read keys.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct RangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::store::etcd) key: Vec<u8>,
    /// The end: empty for one key, a zero byte for no end.
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::store::etcd) range_end: Vec<u8>,
    /// The most rows; 0 for all.
    #[prost(int64, tag = "3")]
    pub(in crate::store::etcd) limit: i64,
    /// As of which revision; 0 or less for now.
    #[prost(int64, tag = "4")]
    pub(in crate::store::etcd) revision: i64,
    /// A [`SortOrder`].
    #[prost(enumeration = "SortOrder", tag = "5")]
    pub(in crate::store::etcd) sort_order: i32,
    /// A [`SortTarget`].
    #[prost(enumeration = "SortTarget", tag = "6")]
    pub(in crate::store::etcd) sort_target: i32,
    /// Whether an answer from a follower will do.
    #[prost(bool, tag = "7")]
    pub(in crate::store::etcd) serializable: bool,
    /// Without values.
    #[prost(bool, tag = "8")]
    pub(in crate::store::etcd) keys_only: bool,
    /// Without rows.
    #[prost(bool, tag = "9")]
    pub(in crate::store::etcd) count_only: bool,
    /// Leave out keys changed last before it.
    #[prost(int64, tag = "10")]
    pub(in crate::store::etcd) min_mod_revision: i64,
    /// Leave out keys changed last after it.
    #[prost(int64, tag = "11")]
    pub(in crate::store::etcd) max_mod_revision: i64,
    /// Leave out keys made before it.
    #[prost(int64, tag = "12")]
    pub(in crate::store::etcd) min_create_revision: i64,
    /// Leave out keys made after it.
    #[prost(int64, tag = "13")]
    pub(in crate::store::etcd) max_create_revision: i64,
}

/// The keys.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct RangeResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// The rows.
    #[prost(message, repeated, tag = "2")]
    pub(in crate::store::etcd) kvs: Vec<KeyValue>,
    /// Whether the limit cut rows off.
    #[prost(bool, tag = "3")]
    pub(in crate::store::etcd) more: bool,
    /// How many keys the range holds.
    #[prost(int64, tag = "4")]
    pub(in crate::store::etcd) count: i64,
}

/// Set a key.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct PutRequest {
    /// The key.
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::store::etcd) key: Vec<u8>,
    /// The value.
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::store::etcd) value: Vec<u8>,
    /// The lease, or 0.
    #[prost(int64, tag = "3")]
    pub(in crate::store::etcd) lease: i64,
    /// Return what was there.
    #[prost(bool, tag = "4")]
    pub(in crate::store::etcd) prev_kv: bool,
    /// Keep the value.
    #[prost(bool, tag = "5")]
    pub(in crate::store::etcd) ignore_value: bool,
    /// Keep the lease.
    #[prost(bool, tag = "6")]
    pub(in crate::store::etcd) ignore_lease: bool,
}

/// It is set.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct PutResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// What was there.
    #[prost(message, optional, tag = "2")]
    pub(in crate::store::etcd) prev_kv: Option<KeyValue>,
}

/// Remove keys.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct DeleteRangeRequest {
    /// The first key.
    #[prost(bytes = "vec", tag = "1")]
    pub(in crate::store::etcd) key: Vec<u8>,
    /// The end, as in [`RangeRequest`].
    #[prost(bytes = "vec", tag = "2")]
    pub(in crate::store::etcd) range_end: Vec<u8>,
    /// Return what was there.
    #[prost(bool, tag = "3")]
    pub(in crate::store::etcd) prev_kv: bool,
}

/// They are removed.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct DeleteRangeResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// How many.
    #[prost(int64, tag = "2")]
    pub(in crate::store::etcd) deleted: i64,
    /// What was there.
    #[prost(message, repeated, tag = "3")]
    pub(in crate::store::etcd) prev_kvs: Vec<KeyValue>,
}

/// Forget the past.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct CompactionRequest {
    /// All before this revision.
    #[prost(int64, tag = "1")]
    pub(in crate::store::etcd) revision: i64,
    /// Answer when the space is free.
    #[prost(bool, tag = "2")]
    pub(in crate::store::etcd) physical: bool,
}

/// It is forgotten.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct CompactionResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
}

/// In which order rows come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(in crate::store::etcd) enum SortOrder {
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
pub(in crate::store::etcd) enum SortTarget {
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
