//! [`EtcdClient`] in the words of the trait [`Store`].

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    EtcdClient,
    link::{Opened, Repeat},
    watch::watch,
};
use crate::store::{
    Changes, Compare, Entry, Event, LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Transaction, Watch, Write,
    embedded::request::Span,
    etcd::messages::{
        kv::{DeleteRangeRequest, KeyValue, PutRequest, RangeRequest, RangeResponse},
        lease::{
            LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest,
            LeaseRevokeResponse,
        },
        txn::{
            Compare as WireCompare, CompareResult, CompareTarget, RequestOp, TxnRequest, TxnResponse,
            compare::TargetUnion, request_op,
        },
        watch::{Event as WireEvent, EventType, WatchResponse},
    },
    limits,
};

/// Rows in the first answer of a snapshot: some hundred KiB of weft's records. All pages are read at one revision.
const PAGE_ROWS: usize = 1000;

/// The most rows in one answer. Few pages are asked for, since a server counts the rows that are left at each.
const PAGE_ROWS_MAX: usize = 20_000;

/// How many bytes of keys and values the answers after the first should have.
const PAGE_BYTES: usize = 4 * 1024 * 1024;

/// How often a snapshot is begun anew because its revision was compacted while it was read. Compactions are minutes apart and a
/// snapshot takes milliseconds: a second one is bad luck, a third one a fault.
const SNAPSHOT_TRIES: u32 = 3;

#[async_trait]
impl Store for EtcdClient {
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let mut tries = SNAPSHOT_TRIES;
        loop {
            tries -= 1;
            match self.pages(prefix).await {
                // The revision was forgotten between two pages: take another.
                Err(StoreError::Compacted(_)) if tries > 0 => {}
                result => return result,
            }
        }
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        watch(Arc::clone(&self.link), prefix, after).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        let Transaction { compares, writes } = transaction;
        let lease = writes.iter().find_map(|write| match write {
            Write::Put { lease, .. } => *lease,
            Write::Delete { .. } => None,
        });
        let request = TxnRequest {
            compare: compares.into_iter().map(compare).collect(),
            success: writes.into_iter().map(operation).collect(),
            failure: Vec::new(),
        };
        let response: Result<TxnResponse, _> = self.link.unary("/etcdserverpb.KV/Txn", request, Repeat::Unsafe).await;
        let response = response.map_err(|error| name_lease(error, lease))?;
        let revision = revision_of(response.header.map_or(0, |header| header.revision));
        Ok(if response.succeeded { Outcome::Committed(revision) } else { Outcome::Conflict })
    }

    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError> {
        let request = LeaseGrantRequest { ttl: i64::from(ttl_s.max(1)), id: 0 };
        // One that is granted and not heard of ends by itself.
        let response: LeaseGrantResponse =
            self.link.unary("/etcdserverpb.Lease/LeaseGrant", request, Repeat::Safe).await?;
        Ok(LeaseId(response.id))
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = LeaseKeepAliveRequest { id: lease.0 };
        let path = "/etcdserverpb.Lease/LeaseKeepAlive";
        let opened = self.link.stream::<_, LeaseKeepAliveResponse>(path, request, |_| None).await;
        match opened.map_err(|error| name_lease(error, Some(lease)))? {
            Opened { first, .. } if first.ttl > 0 => Ok(()),
            Opened { .. } => Err(StoreError::LeaseGone(lease)),
        }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let request = LeaseRevokeRequest { id: lease.0 };
        let response: Result<LeaseRevokeResponse, _> =
            self.link.unary("/etcdserverpb.Lease/LeaseRevoke", request, Repeat::Safe).await;
        match response {
            Ok(_) | Err(StoreError::LeaseGone(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn reconnect(&self) {
        self.link.renew_channels();
    }
}

impl EtcdClient {
    /// A snapshot, page by page at the revision of the first.
    async fn pages(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let (mut key, range_end) = wire_span(prefix);
        let mut entries = Vec::new();
        let mut revision = 0;
        let mut rows = PAGE_ROWS;
        loop {
            let request = RangeRequest {
                key,
                range_end: range_end.clone(),
                limit: i64::try_from(rows).unwrap_or(i64::MAX),
                revision,
                ..RangeRequest::default()
            };
            let response: RangeResponse = self.link.unary("/etcdserverpb.KV/Range", request, Repeat::Safe).await?;
            if revision == 0 {
                revision = response.header.map_or(0, |header| header.revision);
            }
            let bytes: usize = response.kvs.iter().map(|kv| kv.key.len() + kv.value.len()).sum();
            rows = (response.kvs.len() * PAGE_BYTES / bytes.max(1)).clamp(1, PAGE_ROWS_MAX);
            let last = response.kvs.last().map(|kv| kv.key.clone());
            entries.extend(response.kvs.into_iter().filter_map(entry));
            match last {
                Some(last) if response.more => {
                    key = last;
                    // The first key after it.
                    key.push(0);
                }
                Some(_) | None => return Ok(Snapshot { revision: revision_of(revision), entries }),
            }
        }
    }
}

/// etcd's error does not say which lease; the request does.
fn name_lease(error: StoreError, lease: Option<LeaseId>) -> StoreError {
    match (error, lease) {
        (StoreError::LeaseGone(_), Some(lease)) => StoreError::LeaseGone(lease),
        (error, _) => error,
    }
}

pub(super) fn wire_span(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    match Span::prefix(prefix.as_bytes()) {
        Span::Between(key, end) => (key, end),
        // etcd has no empty key: all keys are those from the zero byte on, which a zero byte for the end says.
        Span::From(key) | Span::One(key) => (if key.is_empty() { vec![0] } else { key }, vec![0]),
    }
}

fn revision_of(wire: i64) -> Revision {
    Revision(u64::try_from(wire).unwrap_or(0))
}

/// The row as an entry. A key that is not text was put by someone else's hand: it is none of weft's.
fn entry(kv: KeyValue) -> Option<Entry> {
    Some(Entry { key: String::from_utf8(kv.key).ok()?, value: kv.value, version: revision_of(kv.mod_revision) })
}

/// The changes of one answer. etcd puts the changes of a revision into one answer, so that its last change tells the revision.
pub(super) fn changes(response: WatchResponse) -> Result<Option<Changes>, StoreError> {
    let mut reached = None;
    let mut events = Vec::with_capacity(response.events.len());
    for WireEvent { r#type, kv, prev_kv: _ } in response.events {
        let Some(kv) = kv else {
            return Err(StoreError::Refused("the store sent a change without a key".to_owned()));
        };
        reached = Some(revision_of(kv.mod_revision));
        if r#type == i32::from(EventType::Put) {
            events.extend(entry(kv).map(Event::Put));
        } else {
            events.extend(String::from_utf8(kv.key).ok().map(|key| Event::Delete { key }));
        }
    }
    Ok(reached.filter(|_| !events.is_empty()).map(|revision| Changes { revision, events }))
}

fn compare(compare: Compare) -> WireCompare {
    let (key, target, target_union) = match compare {
        Compare::Absent(key) => (key, CompareTarget::Version, TargetUnion::Version(0)),
        Compare::Unchanged(key, revision) => {
            (key, CompareTarget::Mod, TargetUnion::ModRevision(revision.0.cast_signed()))
        }
    };
    WireCompare {
        result: CompareResult::Equal.into(),
        target: target.into(),
        key: key.into_bytes(),
        target_union: Some(target_union),
        range_end: Vec::new(),
    }
}

fn operation(write: Write) -> RequestOp {
    let request = match write {
        Write::Put { key, value, lease } => request_op::Request::Put(PutRequest {
            key: key.into_bytes(),
            value,
            lease: lease.map_or(0, |lease| lease.0),
            ..PutRequest::default()
        }),
        Write::Delete { key } => request_op::Request::DeleteRange(DeleteRangeRequest {
            key: key.into_bytes(),
            ..DeleteRangeRequest::default()
        }),
    };
    RequestOp { request: Some(request) }
}
