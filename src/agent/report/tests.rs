use super::*;
use crate::{
    kernel::FakeKernel,
    model::{
        Availability, ClusterId, ClusterSettings, EndpointState, NetnsRef, NetworkId, Node, ServiceId, UnreadableRecord,
    },
    store::memory::MemoryStore,
};

const REPLICA: EndpointId = EndpointId(2);

fn me() -> NodeId {
    NodeId::new(1).unwrap()
}

/// One node with one replica.
fn cluster(revision: u64, unreadable: &[&str]) -> Cluster {
    let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: vec![] };
    let mut cluster = Cluster { revision, ..Cluster::empty(settings) };
    let node = Node {
        id: me(),
        name: "h1".parse().unwrap(),
        underlay: "192.0.2.1".parse().unwrap(),
        labels: BTreeMap::new(),
        availability: Availability::Active,
        addresses: BTreeSet::new(),
        fingerprint: None,
    };
    cluster.nodes.insert(node.id, node);
    let replica = Endpoint {
        id: REPLICA,
        network: NetworkId::new(3).unwrap(),
        addresses: vec!["10.9.0.2".parse().unwrap()],
        name: "web-1".parse().unwrap(),
        aliases: vec![],
        node: me(),
        service: ServiceId::new(1),
        state: EndpointState::Ready,
        weight: 1,
        netns: NetnsRef { path: "/run/netns/x".into(), inode: 1 },
        ifname: "eth0".into(),
        fault: None,
    };
    cluster.endpoints.insert(replica.id, replica);
    cluster.unreadable = unreadable
        .iter()
        .map(|key| UnreadableRecord { key: format!("{}{key}", record::PREFIX), reason: "torn".to_owned() })
        .collect();
    cluster
}

#[test]
fn a_record_hides_a_drain_while_its_object_stays_balanced() {
    for (key, hides) in [
        ("nodes/1", true),
        ("endpoints/3/10.9.0.2", true),
        // Nothing of these is in force.
        ("nodes/2", false),
        ("endpoints/3/10.9.0.3", false),
        ("services/1", false),
    ] {
        assert_eq!(hides_a_drain(&cluster(1, &[key])), hides, "{key}");
    }
    for (drain, key) in [(Draining::Node(me()), "nodes/1"), (Draining::Endpoint(REPLICA), "endpoints/3/10.9.0.2")] {
        let mut drained = cluster(1, &[key]);
        drained.drains.insert(drain, 1);
        assert!(!hides_a_drain(&drained), "{key} drains already");
    }
    let mut alone = cluster(1, &["endpoints/3/10.9.0.2"]);
    alone.endpoints.values_mut().for_each(|endpoint| endpoint.service = None);
    assert!(!hides_a_drain(&alone), "no replica");
}

#[test]
fn nothing_is_confirmed_that_an_unreadable_record_may_have_hidden() {
    let mut reporter = Reporter::default();
    reporter.heed(&cluster(5, &[]));
    assert!(reporter.may_confirm(5));
    reporter.heed(&cluster(6, &["endpoints/3/10.9.0.2"]));
    assert!(!reporter.may_confirm(6));
    reporter.heed(&cluster(7, &["endpoints/3/10.9.0.2"]));
    reporter.heed(&cluster(8, &[]));
    assert!(!reporter.may_confirm(7), "that pass did not know");
    assert!(reporter.may_confirm(8));
}

/// What the kernel and the proxy of one host do, and its store.
struct Host {
    store: Arc<MemoryStore>,
    passes: watch::Sender<Option<Arc<Pass>>>,
    proxied: watch::Sender<u64>,
}

impl Host {
    /// One that hears that a replica drains since revision 5.
    async fn start() -> Self {
        let mut drained = cluster(5, &[]);
        drained.drains.insert(Draining::Endpoint(REPLICA), 5);
        let clusters = watch::Sender::new(Some(Arc::new(drained)));
        let node = Self { store: Arc::default(), passes: watch::Sender::new(None), proxied: watch::Sender::new(0) };
        let lease = node.store.grant_lease(10).await.unwrap();
        let work = Work {
            me: me(),
            store: Arc::<MemoryStore>::clone(&node.store),
            lease: Arc::new(Mutex::new(Some(lease))),
            kernel: Arc::new(FakeKernel::default()),
            clusters: clusters.subscribe(),
            passes: node.passes.subscribe(),
            proxied: node.proxied.subscribe(),
        };
        tokio::spawn(async move {
            keep(work).await;
            drop(clusters);
        });
        node
    }

    fn passes(&self, revision: u64, balances: bool) {
        self.passes.send_replace(Some(Arc::new(Pass {
            number: 1,
            covers: 1,
            revision,
            balances,
            ended: std::time::Instant::now(),
            duration: Duration::ZERO,
            steps: 0,
            failures: vec![],
            mtu: None,
            addresses: None,
            bereft: BTreeSet::new(),
        })));
    }

    /// Whether it has confirmed, once it has nothing left to do. The clock is the test's own and jumps when all tasks sleep.
    async fn has_confirmed(&self) -> bool {
        tokio::time::sleep(COUNT_EVERY_MIN).await;
        let snapshot = self.store.snapshot(record::PREFIX).await.unwrap();
        snapshot.entries.iter().any(|entry| entry.key == record::key_of_report(me()))
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_confirms_once_kernel_and_proxy_have_both_taken_it_out() {
    let node = Host::start().await;
    for (kernel, balances, proxied, confirms) in
        [(4, true, 5, false), (5, true, 4, false), (5, false, 5, false), (5, true, 5, true)]
    {
        node.passes(kernel, balances);
        node.proxied.send_replace(proxied);
        assert_eq!(node.has_confirmed().await, confirms, "{kernel} {balances} {proxied}");
    }
    // Whichever is the last; without a proxy it is the kernel.
    for is_proxy_last in [true, false] {
        let node = Host::start().await;
        node.passes(if is_proxy_last { 6 } else { 4 }, true);
        node.proxied.send_replace(if is_proxy_last { 4 } else { u64::MAX });
        assert!(!node.has_confirmed().await);
        if is_proxy_last {
            node.proxied.send_replace(5);
        } else {
            node.passes(5, true);
        }
        assert!(node.has_confirmed().await);
    }
}
