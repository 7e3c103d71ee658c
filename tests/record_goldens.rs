//! The bytes of every kind of record. Nodes of different versions read each other's records: what lies in
//! `tests/goldens/records/` has been written by somebody, and has to be readable for ever.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on should stop")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::PathBuf,
    time::Duration,
};

use weft::{
    model::{
        Availability, Bind, Block, Cluster, ClusterId, ClusterSettings, Draining, Endpoint, EndpointId, EndpointState,
        Fault, Fingerprint, HealthCheck, JoinToken, L4, Lb, NetnsRef, Network, NetworkId, Node, NodeId, PortMode,
        Probe, ProxyMode, ProxyProtocol, PublishedPort, Report, Service, ServiceId, Subnet,
    },
    store::{Entry, Revision, Snapshot, record},
};

fn golden(file: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/records").join(file);
    fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn network_id() -> NetworkId {
    NetworkId::new(3).unwrap()
}

fn node() -> Node {
    Node {
        id: NodeId::new(7).unwrap(),
        name: "alpha".parse().unwrap(),
        underlay: "2001:db8::7".parse().unwrap(),
        labels: BTreeMap::from([("rack".into(), "r1".into()), ("disk".into(), "\"ssd\" schnell".into())]),
        availability: Availability::Drain,
        addresses: BTreeSet::new(),
        fingerprint: None,
    }
}

/// As [`node`], by an agent that tells its addresses.
fn node_with_addresses() -> Node {
    let addresses = ["192.0.2.7", "10.1.2.3", "2001:db8::7"].map(|address| address.parse().unwrap());
    Node { addresses: addresses.into(), ..node() }
}

fn fingerprint(byte: u8) -> Fingerprint {
    Fingerprint([byte; 32])
}

fn token() -> JoinToken {
    JoinToken { hash: [0xcd; 32], sealed: b"sealed for members".to_vec() }
}

fn network() -> Network {
    let subnet = |prefix: &str, block_len| Subnet { prefix: prefix.parse().unwrap(), block_len };
    Network {
        id: network_id(),
        name: "blue".parse().unwrap(),
        subnets: vec![subnet("10.9.0.0/16", 26), subnet("fd00:9::/64", 122)],
        internal: true,
        mtu: Some(1400),
    }
}

fn block() -> Block {
    Block { network: network_id(), prefix: "10.9.1.0/26".parse().unwrap(), owner: NodeId::new(7).unwrap() }
}

fn endpoint() -> Endpoint {
    Endpoint {
        id: EndpointId(0x00c0_ffee_0000_0001),
        network: network_id(),
        addresses: vec!["10.9.1.5".parse().unwrap(), "fd00:9::5".parse().unwrap()],
        name: "web-1".parse().unwrap(),
        aliases: vec!["www".parse().unwrap()],
        node: NodeId::new(7).unwrap(),
        service: ServiceId::new(17),
        state: EndpointState::Ready,
        weight: 3,
        netns: NetnsRef { path: "/run/netns/web1".into(), inode: 4_026_532_000 },
        ifname: "eth0".into(),
        fault: None,
    }
}

/// As [`endpoint`], unhealthy.
fn unhealthy_endpoint() -> Endpoint {
    let fault = Some(Fault::new("the answer has the status 503"));
    Endpoint { state: EndpointState::Unhealthy, fault, ..endpoint() }
}

fn service() -> Service {
    let port = |published: u16, target: u16, protocol| {
        PublishedPort::new(published.try_into().unwrap(), target.try_into().unwrap(), protocol)
    };
    Service::new(
        ServiceId::new(17).unwrap(),
        "web".parse().unwrap(),
        network_id(),
        vec!["10.9.240.1".parse().unwrap(), "fd00:9:0:0:f000::1".parse().unwrap()],
        vec![port(80, 8080, L4::Tcp), port(53, 5353, L4::Udp)],
    )
}

fn settings() -> ClusterSettings {
    ClusterSettings {
        id: ClusterId(0x0123_4567_89ab_cdef_0123_4567_89ab_cdef),
        vxlan_port: 7789,
        vni: 77,
        pools: vec!["10.201.0.0/16".parse().unwrap(), "fd00:201::/48".parse().unwrap()],
    }
}

/// As [`service`], with nothing as usual.
fn service_with_settings() -> Service {
    let on = |bind, mode| PublishedPort { bind, mode, ..service().ports.remove(0) };
    let proxy = ProxyMode { send: Some(ProxyProtocol::V2), accept_from: vec!["192.0.2.0/24".parse().unwrap()] };
    let probe = Probe::Http { path: "/ready?deep=1".to_owned(), status: 200..=204 };
    Service {
        ports: vec![
            on(Bind::Address("2001:db8::7".parse().unwrap()), PortMode::Kernel),
            on(Bind::Device("eth1".parse().unwrap()), PortMode::Kernel),
            PublishedPort { published: 81.try_into().unwrap(), ..on(Bind::Any, PortMode::Proxy(proxy)) },
            PublishedPort { protocol: L4::Sctp, ..on(Bind::Any, PortMode::Kernel) },
        ],
        lb: Lb::Source,
        affinity: Some(Duration::from_mins(10)),
        health: Some(HealthCheck {
            probe,
            port: Some(8081.try_into().unwrap()),
            interval: Duration::from_millis(500),
            timeout: Duration::from_secs(1),
            rise: 2,
            fall: 4,
        }),
        drain: Duration::from_secs(30),
        ..service()
    }
}

fn report() -> Report {
    Report { revision: 42, open: [(endpoint().id, 3)].into() }
}

fn whole() -> Cluster {
    let mut cluster = Cluster::empty(settings());
    cluster.revision = 9;
    cluster.nodes.insert(node().id, node());
    cluster.alive.insert(node().id);
    cluster.reports.insert(node().id, report());
    cluster.drains.insert(Draining::Node(node().id), 5);
    cluster.networks.insert(network().id, network());
    cluster.blocks.insert(block().prefix, block());
    cluster.endpoints.insert(endpoint().id, endpoint());
    cluster.services.insert(service().id, service());
    cluster
}

fn snapshot(files: &[(&str, &str)]) -> Snapshot {
    let entry = |(key, file): &(&str, &str)| Entry {
        key: format!("{}{key}", record::PREFIX),
        value: golden(file),
        version: Revision(5),
    };
    Snapshot { revision: Revision(9), entries: files.iter().map(entry).collect() }
}

#[test]
fn records_are_written_byte_by_byte_as_ever() {
    for (file, bytes) in [
        ("cluster.json", record::encode_cluster(&settings())),
        ("generation.json", record::encode_generation(42)),
        ("node.json", record::encode_node(&node())),
        ("node-trusted.json", record::encode_node(&Node { fingerprint: Some(fingerprint(0xab)), ..node() })),
        ("alive.json", record::encode_alive(&node().name)),
        ("token.json", record::encode_token(&token())),
        ("admitted.json", record::encode_admitted(&node().name)),
        ("network.json", record::encode_network(&network())),
        ("node-addresses.json", record::encode_node(&node_with_addresses())),
        ("block.json", record::encode_block(&block())),
        ("endpoint.json", record::encode_endpoint(&endpoint())),
        ("endpoint-unhealthy.json", record::encode_endpoint(&unhealthy_endpoint())),
        ("service.json", record::encode_service(&service())),
        ("service-settings.json", record::encode_service(&service_with_settings())),
        ("report.json", record::encode_report(&report())),
    ] {
        assert_eq!(String::from_utf8_lossy(&bytes), String::from_utf8_lossy(&golden(file)), "{file}");
    }
}

#[test]
fn records_are_read_as_they_were_meant() {
    let snapshot = snapshot(&[
        ("alive/7", "alive.json"),
        ("blocks/3/10.9.1.0_26", "block.json"),
        ("cluster", "cluster.json"),
        ("endpoints/3/10.9.1.5", "endpoint.json"),
        ("endpoints/3/fd00:9::5", "endpoint.json"),
        ("generation", "generation.json"),
        ("networks/3", "network.json"),
        ("nodes/7", "node.json"),
        ("reports/7", "report.json"),
        ("services/17", "service.json"),
    ]);
    assert_eq!(record::assemble(&snapshot).unwrap(), whole());
    let state = record::State::from_snapshot(&snapshot);
    assert_eq!(state.generation().unwrap(), record::Generation { value: 42, version: Some(Revision(5)) });
}

#[test]
fn a_services_settings_are_read_as_they_were_meant() {
    let records =
        [("cluster", "cluster.json"), ("networks/3", "network.json"), ("services/17", "service-settings.json")];
    let cluster = record::assemble(&snapshot(&records)).unwrap();
    assert_eq!(cluster.services.into_values().collect::<Vec<_>>(), [service_with_settings()]);
}

#[test]
fn a_fault_is_read_as_it_was_meant_and_never_too_long() {
    let read = |endpoint: Vec<u8>| {
        let mut snapshot = snapshot(&[("cluster", "cluster.json"), ("networks/3", "network.json")]);
        let keys = record::keys_of_endpoint(&self::endpoint());
        let entry = |key| Entry { key, value: endpoint.clone(), version: Revision(5) };
        snapshot.entries.extend(keys.into_iter().map(entry));
        record::assemble(&snapshot).unwrap().endpoints.into_values().collect::<Vec<_>>()
    };
    assert_eq!(read(golden("endpoint-unhealthy.json")), [unhealthy_endpoint()]);
    // Whoever wrote it: a record is not refused for its words.
    let long = String::from_utf8(golden("endpoint-unhealthy.json")).unwrap().replace("503", &"9".repeat(1000));
    assert_eq!(read(long.into_bytes())[0].fault.as_ref().unwrap().to_string().len(), Fault::LEN_MAX);
}

#[test]
fn a_nodes_addresses_are_read_as_they_were_meant() {
    let read = |addresses: &str| {
        let record = format!(r#"{{"v":1,"id":7,"name":"alpha","underlay":"2001:db8::7","addresses":[{addresses}]}}"#);
        let mut snapshot = snapshot(&[("cluster", "cluster.json"), ("nodes/7", "node-addresses.json")]);
        let node = snapshot.entries.iter_mut().find(|entry| entry.key.ends_with("nodes/7")).unwrap();
        node.value = record.into_bytes();
        record::assemble(&snapshot).unwrap().nodes[&node_with_addresses().id].addresses.clone()
    };
    let files = [("cluster", "cluster.json"), ("nodes/7", "node-addresses.json")];
    assert_eq!(record::assemble(&snapshot(&files)).unwrap().nodes[&node().id], node_with_addresses());
    // What nobody may be taken for, and what is too much, is left out, and harms nothing.
    assert_eq!(read(r#""127.0.0.1","fe80::1","169.254.64.9","192.0.2.9""#), ["192.0.2.9".parse().unwrap()].into());
    let many: Vec<String> = (0..200).map(|number| format!("\"10.0.0.{number}\"")).collect();
    assert_eq!(read(&many.join(",")).len(), Node::ADDRESSES_MAX);
}

#[test]
fn what_a_record_leaves_out_is_taken_as_usual() {
    let cluster = record::assemble(&snapshot(&[
        ("cluster", "cluster-least.json"),
        ("endpoints/3/10.9.1.5", "endpoint-least.json"),
        ("networks/3", "network-least.json"),
        ("nodes/7", "node-least.json"),
        ("services/17", "service-least.json"),
    ]))
    .unwrap();
    let mut expected = Cluster::empty(ClusterSettings { pools: vec![], ..settings() });
    expected.revision = 9;
    let node = Node { labels: BTreeMap::new(), availability: Availability::Active, ..node() };
    expected.nodes.insert(node.id, node);
    let network = Network { subnets: network().subnets[..1].to_vec(), internal: false, mtu: None, ..network() };
    expected.networks.insert(network.id, network);
    let endpoint = Endpoint {
        addresses: endpoint().addresses[..1].to_vec(),
        aliases: vec![],
        service: None,
        weight: 1,
        ..endpoint()
    };
    expected.endpoints.insert(endpoint.id, endpoint);
    let service = Service { ports: vec![], vips: service().vips[..1].to_vec(), ..service() };
    expected.services.insert(service.id, service);
    assert_eq!(cluster, expected);
}

#[test]
fn whom_the_cluster_lets_in_is_read_as_it_was_meant() {
    let admitted = record::key_of_admitted(fingerprint(0x01));
    let admitted = admitted.strip_prefix(record::PREFIX).unwrap();
    let snapshot = snapshot(&[
        ("cluster", "cluster.json"),
        ("nodes/7", "node-trusted.json"),
        ("token", "token.json"),
        (admitted, "admitted.json"),
    ]);
    let cluster = record::assemble(&snapshot).unwrap();
    assert_eq!(cluster.unreadable, []);
    assert_eq!(cluster.trust.token, Some(token()));
    assert_eq!(cluster.known_keys(), [fingerprint(0x01), fingerprint(0xab)].into());
    assert_eq!(record::State::from_snapshot(&snapshot).token(), Some(&token()));
}

#[test]
fn fields_of_a_later_weft_are_passed_over() {
    let files = [("cluster", "cluster.json"), ("nodes/7", "node-later.json")];
    assert_eq!(record::assemble(&snapshot(&files)).unwrap().nodes[&node().id], node());
}

#[test]
fn keys_are_where_they_have_always_been() {
    let prefix_v6 = "fd00:9::/122".parse().unwrap();
    assert_eq!(
        [
            record::CLUSTER_KEY.to_owned(),
            record::GENERATION_KEY.to_owned(),
            record::key_of_node(node().id),
            record::key_of_alive(node().id),
            record::TOKEN_KEY.to_owned(),
            record::key_of_admitted(fingerprint(0x0f)),
            record::key_of_network(network_id()),
            record::key_of_block(network_id(), block().prefix),
            record::key_of_block(network_id(), prefix_v6),
            record::key_of_service(service().id),
        ]
        .join("\n"),
        "/weft/v1/cluster\n/weft/v1/generation\n/weft/v1/nodes/7\n/weft/v1/alive/7\n/weft/v1/token\n\
         /weft/v1/admitted/0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f\n/weft/v1/networks/3\n\
         /weft/v1/blocks/3/10.9.1.0_26\n/weft/v1/blocks/3/fd00:9::_122\n/weft/v1/services/17"
    );
    assert_eq!(
        record::keys_of_endpoint(&endpoint()),
        ["/weft/v1/endpoints/3/10.9.1.5", "/weft/v1/endpoints/3/fd00:9::5"]
    );
}
