//! A store of each kind, and what a test does to it from outside.

use std::{sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, sync::oneshot};
use weft::store::{
    LeaseId, Outcome, Revision, Store, StoreUrl, Transaction, Watch, Write,
    embedded::Embedded,
    etcd::{EtcdClient, EtcdServer},
    memory::MemoryStore,
};

use crate::real_etcd::RealEtcd;

/// Which store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Memory,
    Embedded,
    EtcdOverEmbedded,
    Etcd,
}

/// A store for one case.
pub(crate) struct Backend {
    pub(crate) store: Arc<dyn Store>,
    /// The case's own prefix, ending in a slash.
    pub(crate) prefix: String,
    held: Held,
}

/// What must live as long as the store.
enum Held {
    Memory(Arc<MemoryStore>),
    Directory { _directory: TempDir },
    Server { _directory: TempDir, _stop: oneshot::Sender<()> },
    Etcd(RealEtcd),
}

impl Backend {
    pub(crate) async fn start(kind: Kind, case: &str) -> Self {
        let prefix = format!("/{}-{}/", case.replace(' ', "-"), std::process::id());
        let (store, held): (Arc<dyn Store>, _) = match kind {
            Kind::Memory => {
                let store = Arc::new(MemoryStore::new());
                (Arc::clone(&store) as _, Held::Memory(store))
            }
            Kind::Embedded => {
                let directory = TempDir::new().unwrap();
                let store = Embedded::open(directory.path()).await.unwrap();
                (Arc::new(store), Held::Directory { _directory: directory })
            }
            Kind::EtcdOverEmbedded => {
                let directory = TempDir::new().unwrap();
                let embedded = Arc::new(Embedded::open(directory.path()).await.unwrap());
                let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
                let endpoint = listener.local_addr().unwrap().to_string();
                let (stop, stopped) = oneshot::channel();
                tokio::spawn(EtcdServer::new(embedded).serve(listener, async {
                    let _: Result<(), _> = stopped.await;
                }));
                let client = EtcdClient::new(&StoreUrl::member(endpoint)).unwrap();
                (Arc::new(client), Held::Server { _directory: directory, _stop: stop })
            }
            Kind::Etcd => {
                let etcd = RealEtcd::start().await;
                let client = EtcdClient::new(&format!("etcd://{}", etcd.endpoint()).parse().unwrap()).unwrap();
                (Arc::new(client), Held::Etcd(etcd))
            }
        };
        Self { store, prefix, held }
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Lets a lease's time pass: on a clock of its own where the store has one.
    pub(crate) async fn pass(&self, time: Duration) {
        match &self.held {
            Held::Memory(store) => store.advance(u32::try_from(time.as_secs().max(1)).unwrap()),
            Held::Directory { .. } | Held::Server { .. } | Held::Etcd(_) => tokio::time::sleep(time).await,
        }
    }

    /// Makes the store forget revision `after` and more.
    pub(crate) async fn forget(&self, after: Revision) {
        match &self.held {
            Held::Memory(store) => store.compact(Revision(after.0 + 2)),
            // The embedded store forgets by itself, when enough was written.
            Held::Directory { .. } | Held::Server { .. } => {
                let writers = (0..128).map(|writer| {
                    let key = self.key(&format!("filler-{writer}"));
                    async move {
                        for _ in 0..85 {
                            self.put(&key, "x").await;
                        }
                    }
                });
                futures::future::join_all(writers).await;
            }
            Held::Etcd(etcd) => {
                let revision = (after.0 + 2).to_string();
                let words = ["--endpoints", etcd.endpoint(), "compaction", &revision];
                let done = Command::new("etcdctl").env("ETCDCTL_API", "3").args(words).output().await;
                let done = done.expect("there is no `etcdctl` on the path: `cargo xtask setup` installs it");
                assert!(done.status.success(), "etcdctl {}: {done:?}", words.join(" "));
            }
        }
    }

    pub(crate) async fn put(&self, key: &str, value: &str) -> Revision {
        self.put_under(key, value, None).await
    }

    pub(crate) async fn put_under(&self, key: &str, value: &str, lease: Option<LeaseId>) -> Revision {
        let write = Write::Put { key: key.to_owned(), value: value.as_bytes().to_vec(), lease };
        match self.store.commit(Transaction { compares: vec![], writes: vec![write] }).await.unwrap() {
            Outcome::Committed(revision) => revision,
            Outcome::Conflict => panic!("a transaction without compares cannot conflict"),
        }
    }

    pub(crate) async fn keys(&self) -> Vec<String> {
        let entries = self.store.snapshot(&self.prefix).await.unwrap().entries;
        entries.into_iter().map(|entry| entry.key[self.prefix.len()..].to_owned()).collect()
    }

    /// A watch of the case's prefix from now on.
    pub(crate) async fn watch_from_now(&self) -> Watch {
        let now = self.store.snapshot(&self.prefix).await.unwrap().revision;
        self.store.watch(&self.prefix, now).await.unwrap()
    }
}
