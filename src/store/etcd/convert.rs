//! Between etcd's messages and the embedded store's words.

use tonic::Status;

use super::messages::{
    ResponseHeader,
    kv::{
        DeleteRangeRequest, DeleteRangeResponse, KeyValue, PutRequest, PutResponse, RangeRequest, RangeResponse,
        SortOrder, SortTarget,
    },
    txn::{
        Compare, CompareResult, CompareTarget, RequestOp, ResponseOp, TxnRequest, compare::TargetUnion,
        request_op::Request, response_op::Response,
    },
    watch::{Event, EventType},
};
use crate::store::embedded::request::{
    Change, Comparison, Done, Field, KvError, Operation, Query, Ranged, Record, Relation, Row, Span, Target, Txn,
};

/// The number of the one cluster and of its one member: any but 0, which etcd's clients take for "unknown".
pub(super) const CLUSTER_ID: u64 = 0x7765_6674;
pub(super) const MEMBER_ID: u64 = 1;
/// The term of the leader: a single server is elected once.
pub(super) const RAFT_TERM: u64 = 1;

/// The header of an answer at a revision.
#[expect(clippy::unnecessary_wraps, reason = "the messages' fields are options")]
pub(super) fn header(revision: u64) -> Option<ResponseHeader> {
    Some(ResponseHeader {
        cluster_id: CLUSTER_ID,
        member_id: MEMBER_ID,
        revision: revision.cast_signed(),
        raft_term: RAFT_TERM,
    })
}

/// The error with etcd's code and text (etcd 3.4, `rpctypes`).
pub(super) fn status(error: &KvError) -> Status {
    match error {
        KvError::Compacted { .. } => Status::out_of_range("etcdserver: mvcc: required revision has been compacted"),
        KvError::Future => Status::out_of_range("etcdserver: mvcc: required revision is a future revision"),
        KvError::LeaseNotFound(_) => Status::not_found("etcdserver: requested lease not found"),
        KvError::LeaseExists(_) => Status::failed_precondition("etcdserver: lease already exists"),
        KvError::KeyNotFound => Status::invalid_argument("etcdserver: key not found"),
        KvError::EmptyKey => Status::invalid_argument("etcdserver: key is not provided"),
        KvError::DuplicateKey => Status::invalid_argument("etcdserver: duplicate key given in txn request"),
        KvError::TooManyOperations => Status::invalid_argument("etcdserver: too many operations in txn request"),
        KvError::TooLarge => Status::invalid_argument("etcdserver: request is too large"),
        KvError::Storage(reason) => Status::internal(format!("weft's store failed: {reason}")),
        KvError::Closed => Status::unavailable("etcdserver: server stopped"),
    }
}

/// A key and a range's end as a span.
pub(super) fn span(key: Vec<u8>, range_end: Vec<u8>) -> Span {
    match range_end.as_slice() {
        [] => Span::One(key),
        [0] => Span::From(key),
        _ => Span::Between(key, range_end),
    }
}

pub(super) fn key_value((key, record): Row) -> KeyValue {
    let Record { created, modified, version, lease, value } = record;
    KeyValue {
        key,
        create_revision: created.cast_signed(),
        mod_revision: modified.cast_signed(),
        version: version.cast_signed(),
        value,
        lease,
    }
}

/// A change as an event, `before` telling whether what was there is wanted.
pub(super) fn event(change: &Change, revision: u64, before: Before) -> Event {
    let Change { key, before: old, after } = change;
    let prev_kv = match before {
        Before::Wanted => old.clone().map(|record| key_value((key.clone(), record))),
        Before::Unwanted => None,
    };
    let (kind, kv) = if let Some(record) = after {
        (EventType::Put, key_value((key.clone(), record.clone())))
    } else {
        let gone = KeyValue { key: key.clone(), mod_revision: revision.cast_signed(), ..KeyValue::default() };
        (EventType::Delete, gone)
    };
    Event { r#type: kind.into(), kv: Some(kv), prev_kv }
}

/// Whether a caller wants to see what was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Before {
    /// It does.
    Wanted,
    /// It does not.
    Unwanted,
}

impl From<bool> for Before {
    fn from(prev_kv: bool) -> Self {
        if prev_kv { Self::Wanted } else { Self::Unwanted }
    }
}

/// What the store is asked for a range. Sorting and leaving out need all rows; the limit is then applied afterwards.
pub(super) fn query(request: &RangeRequest) -> Query {
    let limit = if request.count_only {
        Some(0)
    } else if needs_all(request) || request.limit <= 0 {
        None
    } else {
        usize::try_from(request.limit).ok()
    };
    let at = u64::try_from(request.revision).ok().filter(|revision| *revision > 0);
    Query { span: span(request.key.clone(), request.range_end.clone()), at, limit }
}

fn needs_all(request: &RangeRequest) -> bool {
    let bounds =
        [request.min_mod_revision, request.max_mod_revision, request.min_create_revision, request.max_create_revision];
    let by_key_upwards =
        request.sort_target == i32::from(SortTarget::Key) && request.sort_order != i32::from(SortOrder::Descend);
    bounds.iter().any(|bound| *bound != 0) || !by_key_upwards
}

/// The answer to a range, from what the store gave for its [`query`].
pub(super) fn range_response(request: &RangeRequest, ranged: Ranged) -> RangeResponse {
    let Ranged { revision, rows, count } = ranged;
    let within = |value: i64, least: i64, most: i64| (least == 0 || value >= least) && (most == 0 || value <= most);
    let mut kvs: Vec<KeyValue> = rows
        .into_iter()
        .map(key_value)
        .filter(|kv| {
            within(kv.mod_revision, request.min_mod_revision, request.max_mod_revision)
                && within(kv.create_revision, request.min_create_revision, request.max_create_revision)
        })
        .collect();
    match request.sort_target() {
        // Rows come in order of their keys already.
        SortTarget::Key => {}
        SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
        SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
        SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
        SortTarget::Value => kvs.sort_by(|a, b| a.value.cmp(&b.value)),
    }
    match request.sort_order() {
        // A target without an order means upwards, as etcd has it.
        SortOrder::None | SortOrder::Ascend => {}
        SortOrder::Descend => kvs.reverse(),
    }
    let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0).unwrap_or(usize::MAX);
    let more = if request.count_only {
        false
    } else if needs_all(request) {
        kvs.len() > limit
    } else {
        count > limit
    };
    kvs.truncate(limit);
    if request.keys_only {
        for kv in &mut kvs {
            kv.value.clear();
        }
    }
    RangeResponse { header: header(revision), kvs, more, count: i64::try_from(count).unwrap_or(i64::MAX) }
}

/// A put as an operation.
pub(super) fn put(request: PutRequest) -> Result<Operation, Status> {
    let PutRequest { key, value, lease, prev_kv: _, ignore_value, ignore_lease } = request;
    if ignore_value && !value.is_empty() {
        return Err(Status::invalid_argument("etcdserver: value is provided"));
    }
    if ignore_lease && lease != 0 {
        return Err(Status::invalid_argument("etcdserver: lease is provided"));
    }
    Ok(Operation::Put {
        key,
        value: if ignore_value { Field::Keep } else { Field::Set(value) },
        lease: if ignore_lease { Field::Keep } else { Field::Set(lease) },
    })
}

/// The answer to a put.
pub(super) fn put_response(before: Before, key: &[u8], old: Option<Record>, revision: u64) -> PutResponse {
    let prev_kv = match before {
        Before::Wanted => old.map(|record| key_value((key.to_vec(), record))),
        Before::Unwanted => None,
    };
    PutResponse { header: header(revision), prev_kv }
}

/// The answer to a removal.
pub(super) fn delete_response(before: Before, rows: Vec<Row>, revision: u64) -> DeleteRangeResponse {
    let deleted = i64::try_from(rows.len()).unwrap_or(i64::MAX);
    let prev_kvs = match before {
        Before::Wanted => rows.into_iter().map(key_value).collect(),
        Before::Unwanted => Vec::new(),
    };
    DeleteRangeResponse { header: header(revision), deleted, prev_kvs }
}

/// A transaction in the store's words.
pub(super) fn txn(request: TxnRequest) -> Result<Txn, Status> {
    let TxnRequest { compare, success, failure } = request;
    Ok(Txn {
        comparisons: compare.into_iter().map(comparison).collect::<Result<_, _>>()?,
        success: success.into_iter().map(operation).collect::<Result<_, _>>()?,
        failure: failure.into_iter().map(operation).collect::<Result<_, _>>()?,
    })
}

/// The result of one operation as the answer to its request.
pub(super) fn response_op(request: &RequestOp, done: Done, revision: u64) -> Result<ResponseOp, Status> {
    let response = match (&request.request, done) {
        (Some(Request::Range(request)), Done::Ranged(ranged)) => Response::Range(range_response(request, ranged)),
        (Some(Request::Put(request)), Done::Put(old)) => {
            Response::Put(put_response(request.prev_kv.into(), &request.key, old, revision))
        }
        (Some(Request::DeleteRange(request)), Done::Deleted(rows)) => {
            Response::DeleteRange(delete_response(request.prev_kv.into(), rows, revision))
        }
        (_, Done::Ranged(_) | Done::Put(_) | Done::Deleted(_)) => {
            return Err(Status::internal("an operation was answered with another's result"));
        }
    };
    Ok(ResponseOp { response: Some(response) })
}

fn operation(request: RequestOp) -> Result<Operation, Status> {
    match request.request {
        Some(Request::Range(request)) => Ok(Operation::Range(query(&request))),
        Some(Request::Put(request)) => put(request),
        Some(Request::DeleteRange(DeleteRangeRequest { key, range_end, prev_kv: _ })) => {
            Ok(Operation::Delete(span(key, range_end)))
        }
        Some(Request::Txn(_)) => Err(Status::unimplemented("weft's store takes no transaction within a transaction")),
        None => Err(Status::invalid_argument("etcdserver: key not found")),
    }
}

fn comparison(compare: Compare) -> Result<Comparison, Status> {
    let relation = match compare.result() {
        CompareResult::Equal => Relation::Equal,
        CompareResult::Greater => Relation::Greater,
        CompareResult::Less => Relation::Less,
        CompareResult::NotEqual => Relation::NotEqual,
    };
    // A value of zero may be left out on the wire: the target alone then says which it is.
    let target = match (compare.target(), compare.target_union) {
        (CompareTarget::Version, Some(TargetUnion::Version(given))) => Target::Version(given),
        (CompareTarget::Version, None) => Target::Version(0),
        (CompareTarget::Create, Some(TargetUnion::CreateRevision(given))) => Target::Created(given),
        (CompareTarget::Create, None) => Target::Created(0),
        (CompareTarget::Mod, Some(TargetUnion::ModRevision(given))) => Target::Modified(given),
        (CompareTarget::Mod, None) => Target::Modified(0),
        (CompareTarget::Lease, Some(TargetUnion::Lease(given))) => Target::Lease(given),
        (CompareTarget::Lease, None) => Target::Lease(0),
        (CompareTarget::Value, Some(TargetUnion::Value(given))) => Target::Value(given),
        (CompareTarget::Value, None) => Target::Value(Vec::new()),
        (target, Some(_)) => {
            return Err(Status::invalid_argument(format!(
                "a comparison of {target:?} came with another property's value"
            )));
        }
    };
    Ok(Comparison { span: span(compare.key, compare.range_end), target, relation })
}
