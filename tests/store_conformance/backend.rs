//! A store of each kind, and what a test does to it from outside.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command, sync::oneshot, task::JoinHandle};
use weft::store::{
    LeaseId, Outcome, Revision, Store, StoreError, StoreUrl, Transaction, Watch, Write,
    consul::ConsulClient,
    embedded::Embedded,
    etcd::{EtcdClient, EtcdServer},
    memory::MemoryStore,
    zookeeper::ZooKeeperClient,
};

use crate::{
    real_consul::{RealConsul, own_address},
    real_etcd::RealEtcd,
    real_zookeeper::RealZooKeeper,
};

/// Which store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Kind {
    Memory,
    Embedded,
    EtcdOverEmbedded,
    Etcd,
    Consul,
    ZooKeeper,
}

/// A server that all cases of one kind share, each under its own prefix: the second is slow to start, and no case minds the others.
pub(crate) enum Shared {
    None,
    Consul(RealConsul),
    ZooKeeper(RealZooKeeper),
}

impl Shared {
    pub(crate) async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Memory | Kind::Embedded | Kind::EtcdOverEmbedded | Kind::Etcd => Self::None,
            Kind::Consul => Self::Consul(RealConsul::start(own_address(), "").await),
            Kind::ZooKeeper => Self::ZooKeeper(RealZooKeeper::start().await),
        }
    }
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
    Server(Server),
    Etcd(RealEtcd),
    Consul,
    ZooKeeper,
}

impl Backend {
    pub(crate) async fn start(kind: Kind, shared: &Shared, case: &str) -> Self {
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
                let server = Server::start(TempDir::new().unwrap(), SocketAddr::from(([127, 0, 0, 1], 0))).await;
                let client = EtcdClient::new(&StoreUrl::member(server.address.to_string())).unwrap();
                (Arc::new(client), Held::Server(server))
            }
            Kind::Etcd => {
                let etcd = RealEtcd::start().await;
                let client = EtcdClient::new(&format!("etcd://{}", etcd.endpoint()).parse().unwrap()).unwrap();
                (Arc::new(client), Held::Etcd(etcd))
            }
            Kind::Consul => {
                let Shared::Consul(consul) = shared else { panic!("Consul was not started") };
                let client = ConsulClient::new(&format!("consul://{}", consul.endpoint()).parse().unwrap()).unwrap();
                (Arc::new(client), Held::Consul)
            }
            Kind::ZooKeeper => {
                let Shared::ZooKeeper(server) = shared else { panic!("ZooKeeper was not started") };
                // A root of its own: under a common one the commits of all cases would follow each other.
                let url = format!("zk://{}{}", server.endpoint(), prefix.trim_end_matches('/'));
                (Arc::new(ZooKeeperClient::new(&url.parse().unwrap()).unwrap()), Held::ZooKeeper)
            }
        };
        Self { store, prefix, held }
    }

    pub(crate) fn key(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// Whether a watch tells every change, from any revision that is not forgotten. If not, it may tell the last of several, in any order
    /// within one [`weft::store::Changes`], and begins at a snapshot's revision.
    pub(crate) fn has_history(&self) -> bool {
        match self.held {
            Held::Memory(_) | Held::Directory { .. } | Held::Server(_) | Held::Etcd(_) => true,
            Held::Consul | Held::ZooKeeper => false,
        }
    }

    /// How long after its time a lease of three seconds may end on a busy machine.
    pub(crate) fn lease_delay_max(&self) -> Duration {
        match self.held {
            Held::Memory(_) | Held::Directory { .. } | Held::Server(_) | Held::Etcd(_) | Held::ZooKeeper => {
                Duration::from_secs(12)
            }
            // It takes ten for three, and as much again.
            Held::Consul => Duration::from_secs(35),
        }
    }

    /// Ends the server and starts it again with what it had; nothing if there is none to be ended.
    pub(crate) async fn restart(&mut self) -> bool {
        match &mut self.held {
            // The servers that cases share: the tests of each restart one of their own.
            Held::Memory(_) | Held::Directory { .. } | Held::Consul | Held::ZooKeeper => false,
            Held::Server(server) => {
                server.restart().await;
                true
            }
            Held::Etcd(etcd) => {
                etcd.restart().await;
                true
            }
        }
    }

    /// Lets a lease's time pass: on a clock of its own where the store has one.
    pub(crate) async fn pass(&self, time: Duration) {
        match &self.held {
            Held::Memory(store) => store.advance(u32::try_from(time.as_secs().max(1)).unwrap()),
            Held::Directory { .. } | Held::Server(_) | Held::Etcd(_) | Held::Consul | Held::ZooKeeper => {
                tokio::time::sleep(time).await;
            }
        }
    }

    /// Makes the store forget revision `after` and more.
    pub(crate) async fn forget(&self, after: Revision) {
        match &self.held {
            Held::Memory(store) => store.compact(Revision(after.0 + 2)),
            // The embedded store forgets by itself, when enough was written.
            Held::Directory { .. } | Held::Server(_) => {
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
            // It never knew it: nobody has looked then.
            Held::Consul | Held::ZooKeeper => {}
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

/// The project's own server in front of an embedded store.
struct Server {
    address: SocketAddr,
    embedded: Arc<Embedded>,
    directory: TempDir,
    stop: Option<oneshot::Sender<()>>,
    serving: JoinHandle<Result<(), StoreError>>,
}

impl Server {
    async fn start(directory: TempDir, address: SocketAddr) -> Self {
        let embedded = Arc::new(Embedded::open(directory.path()).await.unwrap());
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(EtcdServer::new(Arc::clone(&embedded)).serve(listener, async {
            let _: Result<(), _> = stopped.await;
        }));
        Self { address, embedded, directory, stop: Some(stop), serving }
    }

    async fn restart(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        (&mut self.serving).await.unwrap().unwrap();
        self.embedded.close().await;
        let directory = std::mem::replace(&mut self.directory, TempDir::new().unwrap());
        *self = Self::start(directory, self.address).await;
    }
}
