//! [`ConsulClient`] in the words of the trait [`Store`].

use std::sync::{Arc, MutexGuard, PoisonError};

use async_trait::async_trait;
use futures::stream;

use super::{
    ConsulClient, Repeat, failure,
    http::Call,
    txn::program,
    watch::{Look, Watching},
    wire,
};
use crate::store::{LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Transaction, Watch, limits};

/// The shortest and the longest TTL that Consul takes, in seconds.
const TTL_MIN_S: u32 = 10;
const TTL_MAX_S: u32 = 86_400;

#[async_trait]
impl Store for ConsulClient {
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let listing = self.shared.list(prefix, Look::Now).await?;
        self.shared.seen.note(prefix, listing.index, Arc::new(listing.keys()));
        Ok(Snapshot { revision: Revision(listing.index), entries: listing.entries })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let watching = Watching::new(Arc::clone(&self.shared), prefix, after)?;
        Ok(Box::pin(stream::unfold(Some(watching), |watching| async {
            let mut watching = watching?;
            match watching.next().await {
                Ok(changes) => Some((Ok(changes), Some(watching))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        let program = program(&transaction, |lease| self.sessions().get(&lease).cloned())?;
        let body = wire::transaction(program.operations()).map_err(|error| StoreError::Refused(error.to_string()))?;
        let answer = self.shared.ask(&Call::put("/v1/txn".to_owned(), body), Repeat::Unsafe).await?;
        if !matches!(answer.status, 200 | 409) {
            return Err(failure::unexpected(&self.shared.name, &answer));
        }
        let done = wire::Done::read(&answer.body).map_err(|error| self.garbled(&error))?;
        program.outcome(&done, |said| failure::denied(&self.shared.name, &self.shared.rights, said))
    }

    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError> {
        let body = wire::new_session(ttl_s.clamp(TTL_MIN_S, TTL_MAX_S));
        let body = body.map_err(|error| StoreError::Refused(error.to_string()))?;
        // One that is made and not heard of ends by itself.
        let answer = self.shared.ask(&Call::put("/v1/session/create".to_owned(), body), Repeat::Safe).await?;
        if answer.status != 200 {
            return Err(failure::unexpected(&self.shared.name, &answer));
        }
        let name = wire::session_name(&answer.body).map_err(|error| self.garbled(&error))?;
        let lease = lease_of(&name).ok_or_else(|| failure::unexpected(&self.shared.name, &answer))?;
        self.sessions().insert(lease, name);
        Ok(lease)
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let session = self.sessions().get(&lease).cloned().ok_or(StoreError::LeaseGone(lease))?;
        let call = Call::put(format!("/v1/session/renew/{session}"), Vec::new());
        let answer = self.shared.ask(&call, Repeat::Safe).await?;
        match answer.status {
            200 => Ok(()),
            404 => {
                self.sessions().remove(&lease);
                Err(StoreError::LeaseGone(lease))
            }
            _ => Err(failure::unexpected(&self.shared.name, &answer)),
        }
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let Some(session) = self.sessions().get(&lease).cloned() else { return Ok(()) };
        let call = Call::put(format!("/v1/session/destroy/{session}"), Vec::new());
        let answer = self.shared.ask(&call, Repeat::Safe).await?;
        if answer.status != 200 {
            return Err(failure::unexpected(&self.shared.name, &answer));
        }
        self.sessions().remove(&lease);
        Ok(())
    }
}

impl ConsulClient {
    fn sessions(&self) -> MutexGuard<'_, std::collections::HashMap<LeaseId, String>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An answer that was not understood: what was asked may have been done.
    fn garbled(&self, error: &serde_json::Error) -> StoreError {
        failure::unavailable(&self.shared.name, &format!("its answer cannot be understood: {error}"))
    }
}

/// A number for a session: the first 60 bits of its name, a random UUID (RFC 9562, 5.4).
fn lease_of(session: &str) -> Option<LeaseId> {
    let digits: String = session.chars().filter(|digit| *digit != '-').take(15).collect();
    (digits.len() == 15).then(|| i64::from_str_radix(&digits, 16).ok())?.map(LeaseId)
}
