//! A store in a ZooKeeper ensemble, 3.6 or newer.
//!
//! ZooKeeper has transactions that check versions, but no snapshot of many nodes, no past to watch from, and a version of a node
//! begins anew when the node is made again. So:
//!
//! - **Every commit counts up one node** (`ROOT/%revision`) in its multi, at the version that it was seen with. Commits are
//!   therefore in one order, and whatever was read of other nodes after the counter still holds when the multi succeeds: compares
//!   are decided here, not by ZooKeeper's `check`. A counter that another commit was quicker at is looked at again, and is no
//!   conflict. The price: commits of the whole cluster follow each other, at two round trips each.
//! - **A revision is a zxid**, ZooKeeper's number of a write. A key's version is its node's mzxid, which never repeats; a commit's is
//!   the counter's. What only the end of a session changes shows in the pzxid of the folder. So revisions of entries, snapshots
//!   and changes can be compared with each other, and what others write in the same ensemble leaves gaps in them, no more.
//! - **A snapshot is read node by node** under a recursive watch ([`reading`]). The watch tells what changed meanwhile before any
//!   later answer comes (ZooKeeper's order of one session). So what it names is read again, all in one request, until that request
//!   was overtaken by nothing else. The same is how a watch goes on; it is the snapshot kept up to date. Several writes of one
//!   key between two looks are told as the last one.
//! - **A watch needs the reading that its revision is from.** The last few are kept for seconds ([`remembered`]); for any other
//!   revision there is [`StoreError::Compacted`], unless nothing has changed since.
//! - **A lease is a session of its own** ([`lease`]), its keys are ephemeral nodes.
//!
//! Tasks: the crate has one a session, which ends with the session's last user; each lease and each remembered reading has one
//! that waits for its time. A lost connection ends all watches, because ZooKeeper does not tell a recursive watch afterwards what
//! it missed (ZOOKEEPER-4698); the next request makes a new one. An answer that was lost is [`StoreError::Unavailable`].

mod commit;
mod lease;
mod link;
mod node;
mod plan;
mod reading;
mod remembered;
mod store;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::{sync, time::timeout};
use zookeeper_client::{Client, Error, SessionState};

use self::{
    lease::Leases,
    link::{Link, REQUEST_TIMEOUT, SESSION_TIMEOUT},
    remembered::Remembered,
};
use crate::store::{StoreError, StoreUrl};

/// A client of one ZooKeeper ensemble.
pub struct ZooKeeperClient {
    link: Arc<Link>,
    /// The session of everything but leases. It is made at the first request, and again when its connection is lost.
    session: Mutex<Option<Client>>,
    /// Held while it is made.
    connecting: sync::Mutex<()>,
    /// Held by a commit: two of one process would only get into each other's way.
    turn: sync::Mutex<()>,
    /// Folders that are there. Nothing here removes one.
    folders: Mutex<BTreeSet<String>>,
    leases: Arc<Leases>,
    remembered: Arc<Remembered>,
}

impl ZooKeeperClient {
    /// A client of the servers that `url` names, whose prefix is the root of all that it does (ZooKeeper's chroot). It connects at
    /// the first request. Fails with [`StoreError::Refused`] if the URL names no server.
    pub fn new(url: &StoreUrl) -> Result<Self, StoreError> {
        let link = Arc::new(Link::new(url)?);
        Ok(Self {
            leases: Arc::new(Leases::new(Arc::clone(&link))),
            link,
            session: Mutex::new(None),
            connecting: sync::Mutex::new(()),
            turn: sync::Mutex::new(()),
            folders: Mutex::new(BTreeSet::new()),
            remembered: Arc::new(Remembered::default()),
        })
    }

    /// The session, with the root and the counter in place.
    async fn client(&self) -> Result<Client, StoreError> {
        let made = timeout(SESSION_TIMEOUT + REQUEST_TIMEOUT, async {
            let _connecting = self.connecting.lock().await;
            if let Some(client) = self.connected() {
                return Ok(client);
            }
            let client = self.link.connect().await?;
            self.link.prepare(&client).await?;
            *self.session.lock().unwrap_or_else(PoisonError::into_inner) = Some(client.clone());
            Ok(client)
        });
        made.await.unwrap_or(Err(Error::Timeout)).map_err(|error| self.link.explain(&error))
    }

    /// One that has lost its connection is given up: its watches have ended, and a new one is quicker than the crate's next try.
    fn connected(&self) -> Option<Client> {
        let session = self.session.lock().unwrap_or_else(PoisonError::into_inner);
        session.clone().filter(|client| client.state() == SessionState::SyncConnected)
    }

    /// The next request takes a new session; what is under way on this one goes on.
    fn forget_session(&self) {
        *self.session.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.folders.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}
