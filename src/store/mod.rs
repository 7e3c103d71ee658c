//! The shared key-value store behind one trait: ordered keys, versions, compare-and-swap, watches, leases.

pub mod consul;
pub mod embedded;
pub mod etcd;
pub mod limits;
pub mod memory;
mod prefixed;
pub mod record;
mod url;
pub mod zookeeper;

use std::sync::Arc;

use async_trait::async_trait;
use futures::stream::BoxStream;

use crate::tls::Credentials;

pub use self::url::{Backend, StoreOption, StoreUrl, StoreUrlError};

/// Where the store stands: it grows with every commit (etcd's revision).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Revision(pub u64);

/// One key with its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// The revision of its last change, for a compare.
    pub version: Revision,
}

/// All keys under a prefix at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The revision that it was read at.
    pub revision: Revision,
    /// In order of the keys.
    pub entries: Vec<Entry>,
}

/// A lease: keys put under it vanish when it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct LeaseId(pub i64);

/// What must hold for a transaction to be carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key does not exist.
    Absent(String),
    /// The key was last changed at this version.
    Unchanged(String, Revision),
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Set a key, under a lease or for good.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The lease that it lives under.
        lease: Option<LeaseId>,
    },
    /// Remove a key; one that is not there is fine.
    Delete {
        /// The key.
        key: String,
    },
}

/// All writes if all compares hold, or nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Transaction {
    /// What must hold.
    pub compares: Vec<Compare>,
    /// What is then written.
    pub writes: Vec<Write>,
}

/// How a transaction went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Carried out at this revision.
    Committed(Revision),
    /// A compare did not hold; nothing was written.
    Conflict,
}

/// One change seen by a watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A key was set.
    Put(Entry),
    /// A key was removed, or its lease ended.
    Delete {
        /// The key.
        key: String,
    },
}

/// All changes of one or more revisions, whole revisions only.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changes {
    /// The revision reached with them.
    pub revision: Revision,
    /// In order.
    pub events: Vec<Event>,
}

/// What a store could not do.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It cannot be reached now; trying again may help.
    #[error("the store at {store} cannot be reached: {reason}")]
    Unavailable {
        /// Which store.
        store: String,
        /// Why.
        reason: String,
    },
    /// The revision asked for has been compacted away: take a snapshot and watch from there.
    #[error("the store no longer has revision {0:?}")]
    Compacted(Revision),
    /// The lease has ended.
    #[error("lease {0:?} has ended")]
    LeaseGone(LeaseId),
    /// The request can never succeed: a value too large, a malformed key.
    #[error("the store refused the request: {0}")]
    Refused(String),
    /// The store's own file cannot be read or written.
    #[error("the store's file failed: {0}")]
    Storage(String),
}

/// A client of the store that a URL names. It connects at the first request; what can never work fails now.
///
/// `credentials` are this node's; only the store in another node's agent asks for them. The embedded store is not reached by a
/// URL: whoever holds it opens it ([`embedded::Embedded::open`]).
pub fn connect(url: &StoreUrl, credentials: Option<&Arc<Credentials>>) -> Result<Arc<dyn Store>, StoreError> {
    let store: Arc<dyn Store> = match url.backend {
        Backend::Member => {
            let credentials = credentials.ok_or_else(|| StoreError::Refused(format!("{url} is for members alone")))?;
            Arc::new(etcd::EtcdClient::of_member(url, Arc::clone(credentials))?)
        }
        Backend::Etcd => Arc::new(etcd::EtcdClient::new(url)?),
        Backend::Consul => Arc::new(consul::ConsulClient::new(url)?),
        // It keeps all that it makes under the prefix, not its keys alone.
        Backend::ZooKeeper => return Ok(Arc::new(zookeeper::ZooKeeperClient::new(url)?)),
        Backend::Embedded => {
            return Err(StoreError::Refused("the embedded store is opened by its own node".to_owned()));
        }
    };
    Ok(if url.prefix.is_empty() { store } else { Arc::new(prefixed::Prefixed { store, prefix: url.prefix.clone() }) })
}

/// A stream of changes. It ends after an error.
pub type Watch = BoxStream<'static, Result<Changes, StoreError>>;

/// A shared key-value store. All methods may be called from many tasks at once and may be dropped midway.
#[async_trait]
pub trait Store: Send + Sync {
    /// All keys that begin with `prefix`, at one revision.
    async fn snapshot(&self, prefix: &str) -> Result<Snapshot, StoreError>;

    /// What changed under `prefix` after revision `after`: whoever applies all of it to a snapshot has every later snapshot, none
    /// left out. A store with a history tells every change once. One that only shows what is there ([`consul`], [`zookeeper`]) tells of several
    /// changes to a key the last, and nothing of a key that came and went in between.
    ///
    /// [`StoreError::Compacted`] if the store no longer knows what was there at `after`: the caller takes a snapshot and starts
    /// again from it. The revision of the newest snapshot of this prefix or a wider one by the same client is known, to the first who
    /// watches from it within seconds.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, StoreError>;

    /// All or nothing. A caller that got [`StoreError::Unavailable`] does not know whether it was carried out.
    async fn commit(&self, transaction: Transaction) -> Result<Outcome, StoreError>;

    /// A new lease that ends `ttl_s` seconds after its last renewal. Consul takes no less than 10 s, and ends a lease only within that
    /// time again. ZooKeeper ends that of a process that died after 4 to 40 s by default, whatever was asked for beyond.
    async fn grant_lease(&self, ttl_s: u32) -> Result<LeaseId, StoreError>;

    /// Renews a lease once; [`StoreError::LeaseGone`] if it has ended.
    async fn renew_lease(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease and removes its keys; one that has ended is fine.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// The network between here and the store was broken and has just healed: requests from now on take new connections, where
    /// the old ones may be waiting for TCP's next try (RFC 6298, 5.5: twice as long each time). Those under way are not touched.
    fn reconnect(&self) {}
}
