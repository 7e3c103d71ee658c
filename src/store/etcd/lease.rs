//! etcd's service Lease over the embedded store.

use futures::{Stream, StreamExt, stream};
use tonic::{Status, Streaming};

use super::{
    convert,
    messages::lease::{
        LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
        LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
        LeaseTimeToLiveResponse,
    },
    server::Face,
};
use crate::store::embedded::request::{KvError, LeaseState};

/// The longest lease that etcd grants, in seconds.
const TTL_S_MAX: i64 = 9_000_000_000;

pub(super) async fn grant(face: Face, request: LeaseGrantRequest) -> Result<LeaseGrantResponse, Status> {
    let LeaseGrantRequest { ttl, id } = request;
    if ttl > TTL_S_MAX {
        return Err(Status::out_of_range("etcdserver: too large lease TTL"));
    }
    let ttl_s = u64::try_from(ttl).unwrap_or(0);
    let id = Some(id).filter(|id| *id != 0);
    let (id, ttl_s) = face.embedded.lease_grant(id, ttl_s).await.map_err(|error| convert::status(&error))?;
    Ok(LeaseGrantResponse {
        header: convert::header(face.embedded.revision()),
        id,
        ttl: ttl_s.cast_signed(),
        error: String::new(),
    })
}

pub(super) async fn revoke(face: Face, request: LeaseRevokeRequest) -> Result<LeaseRevokeResponse, Status> {
    let revision = face.embedded.lease_revoke(request.id).await.map_err(|error| convert::status(&error))?;
    Ok(LeaseRevokeResponse { header: convert::header(revision) })
}

/// Answers each renewal as it comes; the stream ends with the client's, or with the server.
pub(super) fn keep_alive(
    face: Face,
    requests: Streaming<LeaseKeepAliveRequest>,
) -> impl Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static {
    let stopping = face.stopping();
    let answers = stream::unfold((face, requests), |(face, mut requests)| async {
        let answer = match requests.message().await {
            Ok(Some(request)) => renewed(&face, request),
            Ok(None) => return None,
            Err(status) => Err(status),
        };
        Some((answer, (face, requests)))
    });
    answers.take_until(stopping)
}

fn renewed(face: &Face, request: LeaseKeepAliveRequest) -> Result<LeaseKeepAliveResponse, Status> {
    let ttl = match face.embedded.lease_renew(request.id) {
        Ok(ttl_s) => ttl_s.cast_signed(),
        // etcd's word for a lease that has ended.
        Err(KvError::LeaseNotFound(_)) => 0,
        Err(error) => return Err(convert::status(&error)),
    };
    Ok(LeaseKeepAliveResponse { header: convert::header(face.embedded.revision()), id: request.id, ttl })
}

pub(super) async fn time_to_live(
    face: Face,
    request: LeaseTimeToLiveRequest,
) -> Result<LeaseTimeToLiveResponse, Status> {
    let header = convert::header(face.embedded.revision());
    match face.embedded.lease_state(request.id).await {
        Ok(LeaseState { ttl_s, left_s, keys }) => Ok(LeaseTimeToLiveResponse {
            header,
            id: request.id,
            ttl: left_s.cast_signed(),
            granted_ttl: ttl_s.cast_signed(),
            keys: if request.keys { keys } else { Vec::new() },
        }),
        Err(KvError::LeaseNotFound(_)) => {
            Ok(LeaseTimeToLiveResponse { header, id: request.id, ttl: -1, granted_ttl: 0, keys: Vec::new() })
        }
        Err(error) => Err(convert::status(&error)),
    }
}

pub(super) async fn leases(face: Face, _request: LeaseLeasesRequest) -> Result<LeaseLeasesResponse, Status> {
    let leases = face.embedded.lease_ids().into_iter().map(|id| LeaseStatus { id }).collect();
    Ok(LeaseLeasesResponse { header: convert::header(face.embedded.revision()), leases })
}
