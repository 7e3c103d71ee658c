//! Leases, which take their keys with them when they end.

use super::ResponseHeader;

/// Make a lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseGrantRequest {
    /// Its length in seconds.
    #[prost(int64, tag = "1")]
    pub(in crate::store::etcd) ttl: i64,
    /// Its id; 0 for the server to choose.
    #[prost(int64, tag = "2")]
    pub(in crate::store::etcd) id: i64,
}

/// It is made.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseGrantResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// Its id.
    #[prost(int64, tag = "2")]
    pub(in crate::store::etcd) id: i64,
    /// Its length in seconds.
    #[prost(int64, tag = "3")]
    pub(in crate::store::etcd) ttl: i64,
    /// Why it was not.
    #[prost(string, tag = "4")]
    pub(in crate::store::etcd) error: String,
}

/// End a lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseRevokeRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(in crate::store::etcd) id: i64,
}

/// It has ended.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseRevokeResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
}

/// Renew a lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseKeepAliveRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(in crate::store::etcd) id: i64,
}

/// It is renewed.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseKeepAliveResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// Which.
    #[prost(int64, tag = "2")]
    pub(in crate::store::etcd) id: i64,
    /// What is left in seconds; 0 if it has ended.
    #[prost(int64, tag = "3")]
    pub(in crate::store::etcd) ttl: i64,
}

/// Ask for a lease.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseTimeToLiveRequest {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(in crate::store::etcd) id: i64,
    /// With its keys.
    #[prost(bool, tag = "2")]
    pub(in crate::store::etcd) keys: bool,
}

/// A lease.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseTimeToLiveResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// Which.
    #[prost(int64, tag = "2")]
    pub(in crate::store::etcd) id: i64,
    /// What is left in seconds; -1 if it has ended.
    #[prost(int64, tag = "3")]
    pub(in crate::store::etcd) ttl: i64,
    /// Its length in seconds.
    #[prost(int64, tag = "4")]
    pub(in crate::store::etcd) granted_ttl: i64,
    /// Its keys.
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(in crate::store::etcd) keys: Vec<Vec<u8>>,
}

/// Ask for all leases.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseLeasesRequest {}

/// One of them.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseStatus {
    /// Which.
    #[prost(int64, tag = "1")]
    pub(in crate::store::etcd) id: i64,
}

/// All leases.
#[derive(Clone, PartialEq, prost::Message)]
pub(in crate::store::etcd) struct LeaseLeasesResponse {
    /// Where the store stands.
    #[prost(message, optional, tag = "1")]
    pub(in crate::store::etcd) header: Option<ResponseHeader>,
    /// They.
    #[prost(message, repeated, tag = "2")]
    pub(in crate::store::etcd) leases: Vec<LeaseStatus>,
}
