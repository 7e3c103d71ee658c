//! An agent that does nothing: it notes what it was asked, and answers with samples.

#![allow(dead_code, reason = "each test program uses a part of it")]

mod samples;

use std::{
    fmt::Debug,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use tempfile::TempDir;
use tokio::sync::{Notify, oneshot};
use weft::api::{
    Operations, Refusal, RefusalKind, Server,
    wire::{
        AttachReply, AttachRequest, Availability, BlockView, DetachRequest, DownReply, DrainReply, DrainRequest,
        DrainView, EndpointMode, EndpointState, EndpointView, InitReply, InitRequest, JoinReply, JoinRequest, Lb,
        LeaveRequest, Membership, NetworkCreateReply, NetworkCreateRequest, NetworkView, NodeLabelRequest, NodeView,
        ReplicaView, ServiceCreateReply, ServiceCreateRequest, ServiceStatus, ServiceUpdateRequest, ServiceView,
        StatusView, TokenView,
    },
};

use samples::{CLUSTER, chosen, drain, endpoint, join, network, node_1, node_2, service, status, tuned};

/// Things called `old` exist; things called like a kind of refusal (`not-found`) are refused with it. To detach `slow` takes
/// until [`Fake::release`], to detach `panic` panics.
#[derive(Default)]
pub(crate) struct Fake {
    released: Notify,
    calls: Mutex<Vec<String>>,
    refusal: Mutex<Option<RefusalKind>>,
    /// What `status` answers; the sample of a cluster's node if nothing.
    status: Option<StatusView>,
}

impl Fake {
    /// An agent that is in no cluster.
    pub(crate) fn outside() -> Self {
        let status = StatusView {
            version: "0.1.0".into(),
            membership: Membership::Outside,
            node: None,
            cluster: None,
            store: None,
            data_plane: None,
            reconcile: None,
            warnings: Vec::new(),
            unreadable: Vec::new(),
        };
        Self { status: Some(status), ..Self::default() }
    }

    /// An agent whose membership does not run.
    pub(crate) fn stopped() -> Self {
        let mut fake = Self::outside();
        if let Some(status) = &mut fake.status {
            status.membership = Membership::Stopped;
            status
                .warnings
                .push("this node is a member of the cluster c as n1, but not running: the address is gone".into());
        }
        fake
    }

    /// Refuses everything from now on.
    pub(crate) fn refuse_all(&self, kind: RefusalKind) {
        *self.refusal.lock().unwrap() = Some(kind);
    }

    /// Lets the detach of `slow` go on.
    pub(crate) fn release(&self) {
        self.released.notify_one();
    }

    /// What was asked so far.
    pub(crate) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.calls.lock().unwrap())
    }

    fn note(&self, operation: &str, name: &str, request: &dyn Debug) -> Result<(), Refusal> {
        self.calls.lock().unwrap().push(format!("{operation} {name:?} {request:?}"));
        let named = RefusalKind::ALL.into_iter().find(|kind| kind_name(*kind) == name);
        match (*self.refusal.lock().unwrap()).or(named) {
            Some(kind) => Err(refusal(kind)),
            None => Ok(()),
        }
    }
}

/// A refusal of each kind; some have a hint.
pub(crate) fn refusal(kind: RefusalKind) -> Refusal {
    match kind {
        RefusalKind::Invalid => Refusal::invalid("cannot make that: it is \"bad\""),
        RefusalKind::NotFound => Refusal::not_found("there is no such thing").with_hint("look with `weft node ls`"),
        RefusalKind::Conflict => Refusal::conflict("cannot remove that: a, b use it").with_hint("remove those first"),
        RefusalKind::Unavailable => Refusal::unavailable("cannot write: the store is away"),
        RefusalKind::Internal => Refusal::internal("cannot do that: the kernel said EINVAL"),
    }
}

fn kind_name(kind: RefusalKind) -> &'static str {
    match kind {
        RefusalKind::Invalid => "invalid",
        RefusalKind::NotFound => "not-found",
        RefusalKind::Conflict => "conflict",
        RefusalKind::Unavailable => "unavailable",
        RefusalKind::Internal => "internal",
    }
}

/// A server over a fake, on a thread of its own; both end with this.
pub(crate) struct RunningFake {
    pub(crate) fake: Arc<Fake>,
    folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl RunningFake {
    pub(crate) fn start(fake: Fake) -> Self {
        let fake = Arc::new(fake);
        let folder = tempfile::tempdir().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let (ready, bound) = std::sync::mpsc::sync_channel(1);
        let (operations, socket) = (Arc::clone(&fake), folder.path().join("weft.sock"));
        let thread = thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let server = Server::bind(&socket).unwrap();
                ready.send(()).unwrap();
                server.serve(operations, async { stopped.await.unwrap() }).await.unwrap();
            });
        });
        bound.recv().unwrap();
        Self { fake, folder, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("weft.sock")
    }
}

impl Drop for RunningFake {
    fn drop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        let ended = self.thread.take().unwrap().join();
        assert!(ended.is_ok() || thread::panicking(), "the server's thread failed");
    }
}

#[async_trait]
impl Operations for Fake {
    async fn init(&self, request: InitRequest) -> Result<InitReply, Refusal> {
        let created = request.store.is_none();
        self.note("init", "", &request)?;
        Ok(InitReply { created, cluster: CLUSTER.into(), node: node_1(), join: join() })
    }

    async fn join(&self, request: JoinRequest) -> Result<JoinReply, Refusal> {
        let created = request.token != "old";
        self.note("join", &request.token, &request)?;
        Ok(JoinReply { created, cluster: CLUSTER.into(), node: node_1() })
    }

    async fn leave(&self, request: LeaveRequest) -> Result<(), Refusal> {
        self.note("leave", "", &request)
    }

    async fn down(&self) -> Result<DownReply, Refusal> {
        self.note("down", "", &())?;
        Ok(DownReply { removed: 12 })
    }

    async fn token(&self) -> Result<TokenView, Refusal> {
        self.note("token", "", &())?;
        Ok(join())
    }

    async fn token_rotate(&self) -> Result<TokenView, Refusal> {
        self.note("token_rotate", "", &())?;
        Ok(join())
    }

    async fn status(&self) -> Result<StatusView, Refusal> {
        self.note("status", "", &())?;
        Ok(self.status.clone().unwrap_or_else(status))
    }

    async fn node_list(&self) -> Result<Vec<NodeView>, Refusal> {
        self.note("node_list", "", &())?;
        Ok(vec![node_1(), node_2()])
    }

    async fn node_inspect(&self, node: &str) -> Result<NodeView, Refusal> {
        self.note("node_inspect", node, &())?;
        Ok(node_1())
    }

    async fn node_set_availability(&self, node: &str, availability: Availability) -> Result<NodeView, Refusal> {
        self.note("node_set_availability", node, &availability)?;
        Ok(NodeView { availability, ..node_1() })
    }

    async fn node_drain_view(&self, node: &str) -> Result<DrainView, Refusal> {
        self.note("node_drain_view", node, &())?;
        Ok(drain())
    }

    async fn node_label(&self, node: &str, request: NodeLabelRequest) -> Result<NodeView, Refusal> {
        self.note("node_label", node, &request)?;
        let labels = request.labels.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
        Ok(NodeView { labels, ..node_1() })
    }

    async fn node_remove(&self, node: &str) -> Result<(), Refusal> {
        self.note("node_remove", node, &())
    }

    async fn network_create(&self, request: NetworkCreateRequest) -> Result<NetworkCreateReply, Refusal> {
        self.note("network_create", &request.name, &request)?;
        Ok(NetworkCreateReply {
            created: request.name != "old",
            network: NetworkView { name: request.name, ..network() },
        })
    }

    async fn network_list(&self) -> Result<Vec<NetworkView>, Refusal> {
        self.note("network_list", "", &())?;
        Ok(vec![network(), NetworkView { id: 2, name: "inner".into(), internal: true, mtu: Some(1280), ..network() }])
    }

    async fn network_inspect(&self, network_name: &str) -> Result<NetworkView, Refusal> {
        self.note("network_inspect", network_name, &())?;
        Ok(network())
    }

    async fn network_remove(&self, network: &str) -> Result<(), Refusal> {
        self.note("network_remove", network, &())
    }

    async fn service_create(&self, request: ServiceCreateRequest) -> Result<ServiceCreateReply, Refusal> {
        self.note("service_create", &request.name, &request)?;
        let ServiceCreateRequest { name, network, ports, lb, affinity, endpoint_mode, health, drain } = request;
        let check = health.apply_to(None).map_err(Refusal::invalid)?;
        let vips = if endpoint_mode == EndpointMode::Vip { service().vips } else { Vec::new() };
        let view = ServiceView {
            name,
            network,
            vips,
            ports: chosen(ports),
            lb,
            affinity,
            endpoint_mode,
            health: check.as_ref().map(Into::into),
            drain: drain.unwrap_or(service().drain),
            ..service()
        };
        Ok(ServiceCreateReply { created: view.name != "old", service: view })
    }

    async fn service_list(&self) -> Result<Vec<ServiceView>, Refusal> {
        self.note("service_list", "", &())?;
        let unpublished = ServiceView {
            id: 2,
            name: "batch".into(),
            vips: vec!["10.201.0.242".into()],
            ports: Vec::new(),
            lb: Lb::Random,
            drain: "1m".parse().unwrap(),
            replicas_ready: 0,
            replicas_total: 0,
            status: ServiceStatus::Empty,
            ..service()
        };
        Ok(vec![service(), unpublished])
    }

    async fn service_replicas(&self, service: &str) -> Result<Vec<ReplicaView>, Refusal> {
        self.note("service_replicas", service, &())?;
        let ready = ReplicaView {
            endpoint: "web-1".into(),
            id: "00000000000000a1".into(),
            node: "n1".into(),
            address: "10.201.0.1".into(),
            addresses: vec!["10.201.0.1".into(), "fd00:201::1".into()],
            state: EndpointState::Ready,
            weight: 1,
            balanced: true,
            reason: None,
            traffic: None,
        };
        let suspended = ReplicaView {
            endpoint: "web-2".into(),
            id: "00000000000000a2".into(),
            node: "n2".into(),
            address: "10.201.0.17".into(),
            addresses: vec!["10.201.0.17".into(), "fd00:201::11".into()],
            balanced: false,
            reason: Some("its node is suspended".into()),
            ..ready.clone()
        };
        Ok(vec![ready, suspended])
    }

    async fn service_inspect(&self, name: &str) -> Result<ServiceView, Refusal> {
        self.note("service_inspect", name, &())?;
        Ok(if name == "tuned" { tuned() } else { service() })
    }

    async fn service_update(&self, name: &str, request: ServiceUpdateRequest) -> Result<ServiceView, Refusal> {
        self.note("service_update", name, &request)?;
        let had = service();
        // It has none that could be changed.
        let check = request.health.apply_to(None).ok().flatten();
        Ok(ServiceView {
            ports: chosen(request.apply_to(&had.ports)),
            lb: request.lb.unwrap_or(had.lb),
            affinity: request.affinity.unwrap_or(had.affinity),
            endpoint_mode: request.endpoint_mode.unwrap_or(had.endpoint_mode),
            health: check.as_ref().map(Into::into),
            drain: request.drain.unwrap_or(had.drain),
            ..had
        })
    }

    async fn service_remove(&self, service: &str) -> Result<(), Refusal> {
        self.note("service_remove", service, &())
    }

    async fn attach(&self, request: AttachRequest) -> Result<AttachReply, Refusal> {
        self.note("attach", &request.network, &request)?;
        let created = request.name.as_deref() != Some("old");
        Ok(AttachReply { created, endpoint: EndpointView { network: request.network, ..endpoint() } })
    }

    async fn endpoint_drain(&self, endpoint: &str, request: DrainRequest) -> Result<DrainReply, Refusal> {
        self.note("endpoint_drain", endpoint, &request)?;
        let warnings = match endpoint {
            "busy" => vec!["3 connections to busy were still open after 10 s".into()],
            _ => Vec::new(),
        };
        Ok(DrainReply { connections: Some(3), warnings })
    }

    async fn endpoint_drain_view(&self, endpoint: &str) -> Result<DrainView, Refusal> {
        self.note("endpoint_drain_view", endpoint, &())?;
        Ok(drain())
    }

    async fn detach(&self, endpoint: &str, request: DetachRequest) -> Result<DrainReply, Refusal> {
        self.note("detach", endpoint, &request)?;
        match endpoint {
            "slow" => {
                self.released.notified().await;
                self.note("detached", endpoint, &())?;
            }
            "panic" => panic!("a defect"),
            _ => {}
        }
        Ok(DrainReply::default())
    }

    async fn release(&self, endpoint: &str) -> Result<DrainReply, Refusal> {
        self.note("release", endpoint, &())?;
        Ok(DrainReply::default())
    }

    async fn endpoint_list(&self) -> Result<Vec<EndpointView>, Refusal> {
        self.note("endpoint_list", "", &())?;
        let draining = EndpointView {
            id: "00000000000000a2".into(),
            name: "db".into(),
            addresses: vec!["10.201.0.17".into()],
            node: "n2".into(),
            service: None,
            state: EndpointState::Draining,
            ..endpoint()
        };
        Ok(vec![endpoint(), draining])
    }

    async fn endpoint_inspect(&self, name: &str) -> Result<EndpointView, Refusal> {
        self.note("endpoint_inspect", name, &())?;
        Ok(endpoint())
    }

    async fn ipam_list(&self) -> Result<Vec<BlockView>, Refusal> {
        self.note("ipam_list", "", &())?;
        let block = |prefix: &str, node: &str, used| BlockView {
            network: "front".into(),
            prefix: prefix.into(),
            node: node.into(),
            used,
            size: 16,
        };
        Ok(vec![block("10.201.0.0/28", "n1", 3), block("10.201.0.16/28", "n2", 1)])
    }
}
