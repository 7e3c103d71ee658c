//! Transactions over keys.

use super::{
    ResponseHeader,
    kv::{DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse, RangeRequest, RangeResponse},
};

/// One operation of a transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct RequestOp {
    /// Which.
    #[prost(oneof = "request_op::Request", tags = "1, 2, 3, 4")]
    pub(in crate::store::etcd) request: Option<request_op::Request>,
}

/// The result of one.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct ResponseOp {
    /// Which.
    #[prost(oneof = "response_op::Response", tags = "1, 2, 3")]
    pub(in crate::store::etcd) response: Option<response_op::Response>,
}

/// One condition of a transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct Compare {
    /// A [`CompareResult`].
    #[prost(enumeration = "CompareResult", tag = "1")]
    pub(in crate::store::etcd) result: i32,
    /// A [`CompareTarget`].
    #[prost(enumeration = "CompareTarget", tag = "2")]
    pub(in crate::store::etcd) target: i32,
    /// The first key.
    #[prost(bytes = "vec", tag = "3")]
    pub(in crate::store::etcd) key: Vec<u8>,
    /// The value to compare with.
    #[prost(oneof = "compare::TargetUnion", tags = "4, 5, 6, 7, 8")]
    pub(in crate::store::etcd) target_union: Option<compare::TargetUnion>,
    /// The end, as in [`RangeRequest`].
    #[prost(bytes = "vec", tag = "64")]
    pub(in crate::store::etcd) range_end: Vec<u8>,
}

/// A transaction.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct TxnRequest {
    /// The conditions.
    #[prost(message, repeated, tag = "1")]
    pub(in crate::store::etcd) compare: Vec<Compare>,
    /// What is done if all hold.
    #[prost(message, repeated, tag = "2")]
    pub(in crate::store::etcd) success: Vec<RequestOp>,
    /// What is done otherwise.
    #[prost(message, repeated, tag = "3")]
    pub(in crate::store::etcd) failure: Vec<RequestOp>,
}

/// How it went.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct TxnResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// Whether all conditions held.
    #[prost(bool, tag = "2")]
    pub(in crate::store::etcd) succeeded: bool,
    /// The results, in order.
    #[prost(message, repeated, tag = "3")]
    pub(in crate::store::etcd) responses: Vec<ResponseOp>,
}

/// The choice in [`RequestOp`].
pub(in crate::store::etcd) mod request_op {
    use super::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};

    /// The choice.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in crate::store::etcd) enum Request {
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
pub(in crate::store::etcd) mod response_op {
    use super::{DeleteRangeResponse, PutResponse, RangeResponse};

    /// The choice.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in crate::store::etcd) enum Response {
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
pub(in crate::store::etcd) mod compare {
    /// The choice.
    #[derive(Clone, PartialEq, prost::Oneof)]
    pub(in crate::store::etcd) enum TargetUnion {
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

/// How a property stands to the given value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub(in crate::store::etcd) enum CompareResult {
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
pub(in crate::store::etcd) enum CompareTarget {
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
