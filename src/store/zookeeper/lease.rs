//! Leases: each a session of its own, whose ephemeral nodes are the keys under it.
//!
//! A session lives for as long as its client pings, which the crate does by itself. So that a lease ends when it is not renewed, each has
//! its time here, too, and a task that ends the session when that is over. The session of a process that has died ends at the
//! server, within what the server allows for a session (2 to 20 of its ticks, 4 to 40 s by default), which is asked to be the
//! lease's time. The sessions are detached: a client that is dropped leaves them to the server's clock, so that an agent can be
//! restarted within the lease's time and its keys are never missed.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::time::{Instant, sleep_until, timeout};
use zookeeper_client::{Client, Error, SessionState};

use super::{
    link::{Link, REQUEST_TIMEOUT, within},
    node,
};
use crate::store::{LeaseId, StoreError};

/// The leases that this client has granted.
pub(super) struct Leases {
    link: Arc<Link>,
    held: Mutex<BTreeMap<i64, Lease>>,
}

struct Lease {
    client: Client,
    time: Duration,
    ends: Instant,
}

impl Leases {
    pub(super) fn new(link: Arc<Link>) -> Self {
        Self { link, held: Mutex::new(BTreeMap::new()) }
    }

    pub(super) async fn grant(self: &Arc<Self>, ttl_s: u32) -> Result<LeaseId, StoreError> {
        let time = Duration::from_secs(u64::from(ttl_s.max(1)));
        let begun = Instant::now();
        // One that is granted and not heard of ends by itself.
        let client = self.link.connect_lease(time, None).await.map_err(|error| self.link.explain(&error))?;
        let id = client.session_id().0;
        self.with(|held| held.insert(id, Lease { client, time, ends: begun + time }));
        tokio::spawn(end_in_time(Arc::downgrade(self), id));
        Ok(LeaseId(id))
    }

    /// The session of a lease that has not ended as far as is known, with a connection. One that has lost its own is given another at once:
    /// the crate's next try may come too late for the lease.
    pub(super) async fn client(&self, lease: LeaseId) -> Result<Client, StoreError> {
        let found = self.with(|held| held.get(&lease.0).map(|lease| (lease.client.clone(), lease.time)));
        let (client, time) = found.ok_or(StoreError::LeaseGone(lease))?;
        if client.state() == SessionState::SyncConnected {
            return Ok(client);
        }
        let again = within(self.link.connect_lease(time, Some(client.session().clone()))).await;
        let again = again.map_err(|error| self.explain(lease, &error))?;
        let held = self.with(|held| {
            held.get_mut(&lease.0)?.client.clone_from(&again);
            Some(())
        });
        held.map(|()| again).ok_or(StoreError::LeaseGone(lease))
    }

    pub(super) async fn renew(&self, lease: LeaseId) -> Result<(), StoreError> {
        let begun = Instant::now();
        let client = self.client(lease).await?;
        // It goes to the leader, which knows whether the session is alive.
        let alive = within(client.sync(&node::counter(&self.link.root))).await;
        alive.map_err(|error| self.explain(lease, &error))?;
        let renewed = self.with(|held| {
            let lease = held.get_mut(&lease.0)?;
            lease.ends = begun + lease.time;
            Some(())
        });
        renewed.ok_or(StoreError::LeaseGone(lease))
    }

    /// What a failure of a lease's session means; one that has ended is forgotten.
    pub(super) fn explain(&self, lease: LeaseId, error: &Error) -> StoreError {
        match error {
            Error::SessionExpired | Error::ClientClosed => {
                self.with(|held| held.remove(&lease.0));
                StoreError::LeaseGone(lease)
            }
            error => self.link.explain(error),
        }
    }

    /// Ends a lease. It counts as ended from now on, and its session ends at the latest by the server's clock, whatever comes of
    /// the request.
    pub(super) async fn revoke(&self, lease: LeaseId) -> Result<(), StoreError> {
        let Some(Lease { client, time, .. }) = self.with(|held| held.remove(&lease.0)) else { return Ok(()) };
        self.close(client, time).await.map_err(|error| self.link.explain(&error))
    }

    /// Only one that is not detached can be closed: the session is taken over by such a client.
    async fn close(&self, client: Client, time: Duration) -> Result<(), Error> {
        let session = client.into_session();
        let client = match self.link.connect_to_close(session, time).await {
            Ok(client) => client,
            Err(Error::SessionExpired) => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut states = client.state_watcher();
        drop(client);
        let closed = timeout(REQUEST_TIMEOUT, async {
            while !states.peek_state().is_terminated() {
                states.changed().await;
            }
        });
        closed.await.map_err(|_| Error::Timeout)
    }

    fn with<T>(&self, work: impl FnOnce(&mut BTreeMap<i64, Lease>) -> T) -> T {
        work(&mut self.held.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Ends a lease that is not renewed in time. It returns when the lease has ended, at the latest when its time would have been over,
/// and when nobody holds the leases any more.
async fn end_in_time(leases: Weak<Leases>, id: i64) {
    loop {
        let ends = {
            let Some(leases) = leases.upgrade() else { return };
            let Some(ends) = leases.with(|held| held.get(&id).map(|lease| lease.ends)) else { return };
            if ends <= Instant::now() {
                let lease = leases.with(|held| held.remove(&id));
                if let Some(Lease { client, time, .. }) = lease
                    && let Err(error) = leases.close(client, time).await
                {
                    tracing::debug!("a lease that was not renewed is left to the server's clock: {error}");
                }
                return;
            }
            ends
        };
        sleep_until(ends).await;
    }
}
