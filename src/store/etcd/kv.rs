//! etcd's service KV over the embedded store.

use tonic::Status;

use super::{
    convert,
    messages::{
        kv::{
            CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
            RangeRequest, RangeResponse,
        },
        txn::{RequestOp, TxnRequest, TxnResponse, request_op::Request},
    },
    server::Face,
};
use crate::store::embedded::request::{Branch, Done, KvError, Operation, Txn};

pub(super) async fn range(face: Face, request: RangeRequest) -> Result<RangeResponse, Status> {
    if request.key.is_empty() {
        return Err(convert::status(&KvError::EmptyKey));
    }
    let ranged = face.embedded.range(convert::query(&request)).await.map_err(|error| convert::status(&error))?;
    Ok(convert::range_response(&request, ranged))
}

pub(super) async fn put(face: Face, request: PutRequest) -> Result<PutResponse, Status> {
    let (before, key) = (request.prev_kv.into(), request.key.clone());
    match only(&face, convert::put(request)?).await? {
        (Done::Put(old), revision) => Ok(convert::put_response(before, &key, old, revision)),
        (Done::Ranged(_) | Done::Deleted(_), _) => Err(mixed_up()),
    }
}

pub(super) async fn delete_range(face: Face, request: DeleteRangeRequest) -> Result<DeleteRangeResponse, Status> {
    let DeleteRangeRequest { key, range_end, prev_kv } = request;
    if key.is_empty() {
        return Err(convert::status(&KvError::EmptyKey));
    }
    match only(&face, Operation::Delete(convert::span(key, range_end))).await? {
        (Done::Deleted(rows), revision) => Ok(convert::delete_response(prev_kv.into(), rows, revision)),
        (Done::Ranged(_) | Done::Put(_), _) => Err(mixed_up()),
    }
}

pub(super) async fn txn(face: Face, request: TxnRequest) -> Result<TxnResponse, Status> {
    for RequestOp { request } in request.success.iter().chain(&request.failure) {
        let key = match request {
            Some(Request::Range(range)) => &range.key,
            Some(Request::Put(put)) => &put.key,
            Some(Request::DeleteRange(delete)) => &delete.key,
            Some(Request::Txn(_)) | None => continue,
        };
        if key.is_empty() {
            return Err(convert::status(&KvError::EmptyKey));
        }
    }
    let (success, failure) = (request.success.clone(), request.failure.clone());
    let transacted = face.embedded.transact(convert::txn(request)?).await.map_err(|error| convert::status(&error))?;
    let (succeeded, requests) = match transacted.branch {
        Branch::Success => (true, success),
        Branch::Failure => (false, failure),
    };
    let results = requests.iter().zip(transacted.done);
    let responses = results
        .map(|(request, done)| convert::response_op(request, done, transacted.revision))
        .collect::<Result<_, _>>()?;
    Ok(TxnResponse { header: convert::header(transacted.revision), succeeded, responses })
}

pub(super) async fn compact(face: Face, request: CompactionRequest) -> Result<CompactionResponse, Status> {
    // A negative revision was forgotten before the store began.
    let revision = u64::try_from(request.revision).unwrap_or(0);
    let reached = face.embedded.compact(revision).await.map_err(|error| convert::status(&error))?;
    Ok(CompactionResponse { header: convert::header(reached) })
}

/// Carries out one operation by itself.
async fn only(face: &Face, operation: Operation) -> Result<(Done, u64), Status> {
    let txn = Txn { comparisons: Vec::new(), success: vec![operation], failure: Vec::new() };
    let mut transacted = face.embedded.transact(txn).await.map_err(|error| convert::status(&error))?;
    let done = transacted.done.pop().ok_or_else(mixed_up)?;
    Ok((done, transacted.revision))
}

fn mixed_up() -> Status {
    Status::internal("an operation was answered with another's result")
}
