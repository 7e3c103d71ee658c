//! A membership: everything that runs because this node belongs to a cluster, from `init`, `join` or start until `leave`,
//! `down` or stop.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context;
use futures::future::BoxFuture;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::JoinSet,
    time::{Duration, timeout},
};
use tracing::{info, warn};

use super::{
    addressing::Addressing,
    announce,
    flows::{eject, forget, tally::Tally},
    follower::{self, Followed, StoreHealth},
    health::{self, Findings},
    host::Host,
    identity::Identity,
    metrics::Metrics,
    naming::Naming,
    operations::release,
    presence,
    proxies::NO_PROXY,
    reconciler::{Reconciler, Work},
    report,
    trust::{self, Gate},
};
use crate::{
    model::{Cluster, Judgement, Node, NodeId},
    peer::{self, Membership},
    store::{self, Backend, LeaseId, Revision, Store, StoreUrl, embedded::Embedded, etcd::EtcdServer},
    tls::{Credentials, Door, Known},
};

pub(super) use crate::model::PEER_PORT;
/// How long a reader waits for its own write to come round; the store answers within milliseconds or is away.
const CATCH_UP: Duration = Duration::from_secs(5);

/// Opens the port for other nodes. It is the one part of a membership that a host may not be able to give, so it comes
/// before anything is written for others to see.
pub(super) async fn open_door(underlay: IpAddr) -> anyhow::Result<TcpListener> {
    let address = SocketAddr::new(underlay, PEER_PORT);
    TcpListener::bind(address).await.with_context(|| {
        format!(
            "cannot listen on {address} for other nodes: is another agent running, or the address gone from this host?"
        )
    })
}

/// A running membership. Dropping it stops every task and touches nothing in the kernel.
pub(super) struct Member {
    pub(super) identity: Identity,
    /// What it shows to others.
    pub(super) credentials: Arc<Credentials>,
    pub(super) store: Arc<dyn Store>,
    pub(super) reconciler: Arc<Reconciler>,
    pub(super) addressing: tokio::sync::Mutex<Addressing>,
    pub(super) clusters: watch::Receiver<Option<Arc<Cluster>>>,
    pub(super) health: watch::Receiver<StoreHealth>,
    pub(super) host: Arc<dyn Host>,
    /// What this node has found out by itself; whoever finds something out changes its own part.
    pub(super) judgements: watch::Sender<Judgement>,
    /// The store's revision by whose table this node's proxy works, or [`NO_PROXY`].
    pub(super) proxied: watch::Sender<u64>,
    /// What entered the mesh here, by service and replica.
    pub(super) tally: Arc<Tally>,
    /// The names of services and endpoints, as this node's containers are told them.
    pub(super) naming: Naming,
    /// What else it has found out.
    pub(super) findings: Arc<Findings>,
    pub(super) metrics: Arc<Metrics>,
    embedded: Option<Arc<Embedded>>,
    lease: Arc<Mutex<Option<LeaseId>>>,
    tasks: Mutex<JoinSet<()>>,
}

/// Where an embedded store lives.
pub(super) fn store_dir(data_dir: &Path) -> PathBuf {
    data_dir.join("store")
}

/// The store of an identity, opened. An embedded one comes with its face for the other nodes.
pub(super) struct OpenStore {
    pub(super) store: Arc<dyn Store>,
    pub(super) embedded: Option<Arc<Embedded>>,
}

impl OpenStore {
    /// Opens the store that a URL names.
    pub(super) async fn open(url: &StoreUrl, data_dir: &Path, credentials: &Arc<Credentials>) -> anyhow::Result<Self> {
        match url.backend {
            Backend::Embedded => {
                let dir = store_dir(data_dir);
                std::fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
                let embedded = Arc::new(Embedded::open(&dir).await?);
                Ok(Self { store: Arc::<Embedded>::clone(&embedded), embedded: Some(embedded) })
            }
            Backend::Member | Backend::Etcd | Backend::Consul | Backend::ZooKeeper => {
                Ok(Self { store: store::connect(url, Some(credentials))?, embedded: None })
            }
        }
    }
}

impl Member {
    /// Starts everything; `door` is where other nodes knock.
    pub(super) fn start(
        identity: Identity,
        credentials: Arc<Credentials>,
        opened: OpenStore,
        door: TcpListener,
        host: Arc<dyn Host>,
        metrics: &Arc<Metrics>,
    ) -> Arc<Self> {
        let gate = Gate {
            identity: identity.clone(),
            store: Arc::clone(&opened.store),
            credentials: Arc::clone(&credentials),
        };
        let (member, tasks) = Self::assemble(identity, credentials, opened, host, metrics);
        let (tell, known) = watch::channel(None);
        let strangers = metrics.strangers.clone();
        let door = Door::new(door, &member.credentials, known.clone(), move || strangers.inc());
        let membership = Membership::new(Arc::new(gate));
        {
            let mut running = member.tasks.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(conntrack) = member.host.conntrack() {
                let (weak, tally) = (Arc::downgrade(&member), Arc::clone(&member.tally));
                running.spawn(eject::eject_failing(weak, conntrack, tally, Arc::clone(metrics)));
            }
            running.spawn(trust::tell_known(member.clusters.clone(), tell));
            running.spawn(serve_others(membership, member.embedded.clone(), door, known));
            for task in tasks {
                running.spawn(task);
            }
        }
        info!(node = %member.identity.name, cluster = %member.identity.cluster, store = %member.identity.store, "member of a cluster");
        member
    }

    /// A membership and its tasks but for the port for other nodes; it lives once somebody runs them.
    pub(super) fn assemble(
        identity: Identity,
        credentials: Arc<Credentials>,
        opened: OpenStore,
        host: Arc<dyn Host>,
        metrics: &Arc<Metrics>,
    ) -> (Arc<Self>, Vec<BoxFuture<'static, ()>>) {
        let OpenStore { store, embedded } = opened;
        let followed = Arc::new(Followed {
            cluster: watch::Sender::new(None),
            health: watch::Sender::new(StoreHealth::Connecting),
        });
        let reconciler = Arc::new(Reconciler::new());
        let lease = Arc::new(Mutex::new(None));
        let member = Arc::new(Self {
            credentials,
            store: Arc::clone(&store),
            reconciler: Arc::clone(&reconciler),
            addressing: tokio::sync::Mutex::default(),
            clusters: followed.cluster.subscribe(),
            health: followed.health.subscribe(),
            embedded,
            judgements: watch::Sender::default(),
            proxied: watch::Sender::new(NO_PROXY),
            tally: Arc::default(),
            naming: Naming::default(),
            findings: Arc::default(),
            metrics: Arc::clone(metrics),
            lease: Arc::clone(&lease),
            tasks: Mutex::default(),
            host: Arc::clone(&host),
            identity: identity.clone(),
        });
        let work = Work {
            kernel: host.kernel(),
            host: Arc::clone(&host),
            me: identity.node,
            clusters: followed.cluster.subscribe(),
            judgements: member.judgements.subscribe(),
            metrics: Arc::clone(metrics),
        };
        let heals = watch::Sender::new(0);
        let watchful = health::Work {
            me: identity.node,
            host: Arc::clone(&host),
            store: Arc::clone(&store),
            holds_store: holder_of(&identity),
            clusters: followed.cluster.subscribe(),
            judgements: member.judgements.clone(),
            heals: heals.clone(),
            reconciler: Arc::clone(&reconciler),
            findings: Arc::clone(&member.findings),
            metrics: Arc::clone(metrics),
        };
        let reporting = report::Work {
            me: identity.node,
            store: Arc::clone(&store),
            lease: Arc::clone(&lease),
            kernel: host.kernel(),
            clusters: followed.cluster.subscribe(),
            passes: reconciler.passes(),
            proxied: member.proxied.subscribe(),
        };
        let announcing = announce::Work {
            me: identity.node,
            store: Arc::clone(&store),
            clusters: followed.cluster.subscribe(),
            passes: reconciler.passes(),
        };
        let running = Arc::clone(&reconciler);
        let woken = Arc::clone(&reconciler);
        let mut tasks: Vec<BoxFuture<'static, ()>> = vec![
            Box::pin(follower::follow(Arc::clone(&store), followed, Arc::clone(metrics), heals.subscribe())),
            Box::pin(presence::keep(store, identity, lease, heals.subscribe())),
            Box::pin(async move { running.run(work).await }),
            Box::pin(report::keep(reporting)),
            Box::pin(announce::keep(announcing)),
            Box::pin(async move {
                loop {
                    if let Err(error) = host.changed().await {
                        warn!("{error}; looking every few seconds instead");
                        return;
                    }
                    woken.mark_dirty();
                }
            }),
            Box::pin(release::release_bereft(Arc::downgrade(&member), reconciler.passes())),
            Box::pin(forget::forget_stale(Arc::downgrade(&member), reconciler.passes())),
        ];
        tasks.extend(health::tasks(watchful));
        (member, tasks)
    }

    /// Runs one more task for as long as the membership lives.
    pub(super) fn also_run(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner).spawn(task);
    }

    /// This node.
    pub(super) fn me(&self) -> NodeId {
        self.identity.node
    }

    /// Whether a node holds the cluster's embedded store.
    pub(super) fn holds_store(&self, node: &Node) -> bool {
        holds_store(&self.identity, node)
    }

    /// What this node has found out by itself.
    pub(super) fn judgement(&self) -> Judgement {
        self.judgements.borrow().clone()
    }

    /// The newest cluster, if any was seen.
    pub(super) fn cluster(&self) -> Option<Arc<Cluster>> {
        self.clusters.borrow().clone()
    }

    /// The newest cluster, once it contains the change committed at `revision`.
    pub(super) async fn cluster_at(&self, revision: Revision) -> Option<Arc<Cluster>> {
        let mut clusters = self.clusters.clone();
        let reached =
            clusters.wait_for(|cluster| cluster.as_ref().is_some_and(|cluster| cluster.revision >= revision.0));
        timeout(CATCH_UP, reached).await.ok()?.ok()?.clone()
    }

    /// The lease has nothing left under it, now that this node's records are gone: it may run out by itself.
    pub(super) fn forget_lease(&self) {
        self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Ends every task, then this node's lease, so that the others need not wait for it to run out, and closes the store.
    pub(super) async fn stop(&self) {
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        tasks.abort_all();
        while tasks.join_next().await.is_some() {}
        let lease = self.lease.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(lease) = lease
            && let Err(error) = self.store.revoke_lease(lease).await
        {
            warn!("this node's sign of life could not be taken back, it runs out in {} s: {error}", presence::LEASE_S);
        }
        if let Some(embedded) = &self.embedded {
            embedded.close().await;
        }
    }
}

fn holds_store(identity: &Identity, node: &Node) -> bool {
    match identity.store.backend {
        Backend::Embedded => node.id == identity.node,
        Backend::Member => identity.store.hosts.contains(&SocketAddr::new(node.underlay, PEER_PORT).to_string()),
        Backend::Etcd | Backend::Consul | Backend::ZooKeeper => false,
    }
}

/// Finds the node that holds the cluster's embedded store.
fn holder_of(identity: &Identity) -> health::FindHolder {
    let identity = identity.clone();
    Arc::new(move |cluster| cluster.nodes.values().find(|node| holds_store(&identity, node)).map(|node| node.id))
}

/// Answers other nodes for ever: who wants to join, and on the node that holds the store everybody else too.
async fn serve_others(membership: Membership, embedded: Option<Arc<Embedded>>, door: Door, known: Known) {
    let ended = match embedded {
        Some(embedded) => {
            let server = EtcdServer::new(embedded).layered(|routes| peer::guarded(routes, known));
            let server = server.merge(peer::router(membership));
            server.serve_on(door, std::future::pending()).await.map_err(anyhow::Error::from)
        }
        None => peer::serve(membership, door).await.map_err(anyhow::Error::from),
    };
    if let Err(error) = ended {
        warn!("the port for other nodes closed: {error:#}");
    }
}

/// The store's URL as other nodes reach it.
pub(super) fn reachable_url(identity: &Identity) -> StoreUrl {
    match identity.store.backend {
        Backend::Embedded => StoreUrl::member(SocketAddr::new(identity.underlay, PEER_PORT).to_string()),
        Backend::Member | Backend::Etcd | Backend::Consul | Backend::ZooKeeper => identity.store.clone(),
    }
}
