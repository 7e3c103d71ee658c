//! [`ZooKeeperClient`] in the words of the trait [`Store`].

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream;

use super::{ZooKeeperClient, link::within, node, reading::Reading};
use crate::store::{LeaseId, Outcome, Revision, Snapshot, Store, StoreError, Transaction, Watch};

#[async_trait]
impl Store for ZooKeeperClient {
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError> {
        let client = self.client().await?;
        let (reading, entries) = Reading::begin(Arc::clone(&self.link), client, prefix).await?;
        let revision = reading.revision;
        self.remembered.keep(reading);
        Ok(Snapshot { revision, entries })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError> {
        let reading = if let Some(reading) = self.remembered.take(prefix, after) {
            reading
        } else {
            let client = self.client().await?;
            // Told at once where it can be: whoever asks has to read everything anyway.
            let counted = within(client.check_stat(&node::counter(&self.link.root))).await;
            let counted = counted.map_err(|error| self.link.explain(&error))?;
            if counted.is_some_and(|stat| stat.mzxid.cast_unsigned() > after.0) {
                return Err(StoreError::Compacted(after));
            }
            let (reading, _entries) = Reading::begin(Arc::clone(&self.link), client, prefix).await?;
            if reading.revision > after {
                return Err(StoreError::Compacted(after));
            }
            reading
        };
        Ok(Box::pin(stream::unfold(Some(reading), |reading| async {
            let mut reading = reading?;
            match reading.next().await {
                Ok(changes) => Some((Ok(changes), Some(reading))),
                Err(error) => Some((Err(error), None)),
            }
        })))
    }

    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        self.carry_out(transaction).await
    }

    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError> {
        // Puts the root in place, which the first key under the lease needs.
        self.client().await?;
        self.leases.grant(ttl_s).await
    }

    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases.renew(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.leases.revoke(lease).await
    }

    /// Leases keep their sessions, whose connections look for a better one by themselves within their time.
    fn reconnect(&self) {
        self.forget_session();
    }
}
