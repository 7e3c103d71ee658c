//! An agent that does nothing: it notes what it was asked, and answers with samples.

#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    collections::BTreeMap,
    fmt::Debug,
    num::NonZeroU16,
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
        Affinity, AttachReply, AttachRequest, Availability, BlockView, ClusterView, DataPlaneView, DetachRequest,
        DownReply, DrainReply, DrainRequest, DrainView, DrainingReplica, EndpointMode, EndpointState, EndpointView,
        HealthView, InitReply, InitRequest, JoinReply, JoinRequest, Lb, LeaveRequest, Membership, NetworkCreateReply,
        NetworkCreateRequest, NetworkView, NodeLabelRequest, NodeStatus, NodeView, PortSpec, ReconcileView,
        ReplicaView, ServiceCreateReply, ServiceCreateRequest, ServiceStatus, ServiceUpdateRequest, ServiceView,
        StatusView, StoreState, StoreView, SubnetView, TokenView, UnreadableView,
    },
};

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

const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

fn join() -> TokenView {
    TokenView {
        token: "weft-s3cret".into(),
        address: "192.0.2.1:7780".into(),
        command: "weft join 192.0.2.1:7780 --token weft-s3cret".into(),
    }
}

fn drain() -> DrainView {
    let replica = |name: &str, connections| DrainingReplica { name: name.into(), connections };
    DrainView {
        draining: true,
        nodes: 2,
        waiting_for: Vec::new(),
        replicas: vec![replica("web-1", Some(0)), replica("web-2", Some(0))],
        timeout: "10s".parse().unwrap(),
        done: true,
    }
}

fn node_1() -> NodeView {
    NodeView {
        id: 1,
        name: "n1".into(),
        address: "192.0.2.1".into(),
        addresses: vec!["192.0.2.1".into(), "2001:db8::1".into()],
        status: NodeStatus::Ready,
        reachable: None,
        availability: Availability::Active,
        labels: BTreeMap::from([("zone".into(), "a".into())]),
        store: true,
        is_self: true,
        endpoints: 3,
        version: Some("0.1.0".into()),
    }
}

fn node_2() -> NodeView {
    NodeView {
        id: 2,
        name: "n2".into(),
        address: "192.0.2.2".into(),
        addresses: vec![],
        status: NodeStatus::Suspended,
        reachable: None,
        availability: Availability::Drain,
        labels: BTreeMap::new(),
        store: false,
        is_self: false,
        endpoints: 1,
        version: None,
    }
}

fn network() -> NetworkView {
    NetworkView {
        id: 1,
        name: "front".into(),
        subnets: vec![SubnetView {
            prefix: "10.201.0.0/24".into(),
            block_len: 28,
            vip_range: "10.201.0.240/28".into(),
        }],
        internal: false,
        mtu: None,
        endpoints: 4,
        services: 2,
    }
}

fn service() -> ServiceView {
    ServiceView {
        id: 1,
        name: "web".into(),
        network: "front".into(),
        vips: vec!["10.201.0.241".into()],
        ports: vec!["8080:80".parse().unwrap(), "53:5353/udp".parse().unwrap()],
        lb: Lb::Rr,
        affinity: Affinity::Off,
        endpoint_mode: EndpointMode::Vip,
        health: None,
        drain: "10s".parse().unwrap(),
        replicas_ready: 1,
        replicas_total: 2,
        status: ServiceStatus::Degraded,
        traffic: None,
    }
}

/// A service with nothing as usual.
fn tuned() -> ServiceView {
    let health = HealthView {
        probe: "http:/healthz".parse().unwrap(),
        status: Some("204".parse().unwrap()),
        port: NonZeroU16::new(81),
        interval: "500ms".parse().unwrap(),
        timeout: "2s".parse().unwrap(),
        rise: 2,
        fall: 5,
    };
    let port = "[2001:db8::1]:443:8443/tcp,mode=proxy,proxy-protocol=v2,proxy-from=192.0.2.0/24";
    ServiceView {
        name: "tuned".into(),
        vips: Vec::new(),
        ports: vec!["eth0:30000:80".parse().unwrap(), port.parse().unwrap()],
        lb: Lb::Source,
        affinity: "10m".parse().unwrap(),
        endpoint_mode: EndpointMode::Dnsrr,
        health: Some(health),
        drain: "0s".parse().unwrap(),
        ..service()
    }
}

/// What the cluster's choice is left to is 30000 here.
fn chosen(ports: Vec<PortSpec>) -> Vec<PortSpec> {
    let choose = |port: PortSpec| if port.published == 0 { PortSpec { published: 30_000, ..port } } else { port };
    ports.into_iter().map(choose).collect()
}

fn endpoint() -> EndpointView {
    EndpointView {
        id: "00000000000000a1".into(),
        name: "web-1".into(),
        network: "front".into(),
        addresses: vec!["10.201.0.1".into()],
        node: "n1".into(),
        service: Some("web".into()),
        state: EndpointState::Ready,
        aliases: vec!["www".into(), "web".into()],
        weight: 1,
        ifname: "eth0".into(),
        netns: "/run/netns/web1".into(),
        link: "weft.00000000a1".into(),
        mac: "02:00:0a:c9:00:01".into(),
        fault: None,
    }
}

fn status() -> StatusView {
    StatusView {
        version: "0.1.0".into(),
        membership: Membership::Running,
        node: Some(node_1()),
        cluster: Some(ClusterView { id: CLUSTER.into(), nodes: 2, networks: 1, services: 2, endpoints: 4 }),
        store: Some(StoreView { url: "embedded".into(), state: StoreState::Connected, revision: 42, error: None }),
        data_plane: Some(DataPlaneView {
            device: "weft.vx".into(),
            address: "192.0.2.1".into(),
            mtu: 1450,
            vxlan_port: 7789,
            peers_alive: 0,
            peers_total: 1,
        }),
        reconcile: Some(ReconcileView {
            age_ms: 1234,
            duration_ms: 0.75,
            steps: 1,
            errors: vec!["cannot set the route to 10.201.0.16/28: the network is unreachable".into()],
            drift: 3,
        }),
        warnings: vec!["node n2 is suspended".into(), "the clock has jumped".into()],
        unreadable: vec![UnreadableView { key: "/weft/v1/services/9".into(), reason: "record version 7".into() }],
    }
}
