//! What a node should hold, case by case: the steps that bring an empty host there, compared with what is committed under
//! `tests/goldens/desired/`. `WEFT_BLESS=1 cargo test --test desired_cases` writes them anew; read the difference.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{env, fmt::Write as _, fs, net::IpAddr, path::PathBuf, time::Duration};

use weft::{
    desired::desired,
    ipam,
    kernel::nft::render,
    mesh::{Balancing, balancing},
    model::{
        Availability, Bind, Block, Cluster, ClusterId, ClusterSettings, Endpoint, EndpointId, EndpointMode,
        EndpointState, HostFacts, HostState, Judgement, L4, Lb, MarkMask, NetnsRef, Network, NetworkId, Node, NodeId,
        PortMode, ProxyMode, PublishedPort, Service, ServiceId,
    },
    plan::plan,
};

/// A case: its name, the cluster, and what this host is like. The host is always node 1.
type Case = (&'static str, Cluster, HostFacts);

#[test]
fn an_empty_host_is_brought_to_what_the_store_says() {
    for (name, cluster, facts) in cases() {
        let wanted = desired(&cluster, node_id(1), &facts, &Judgement::default()).expect("node 1 is in every case");
        assert!(plan(&wanted, &wanted).is_empty(), "{name}");
        let mut text = String::new();
        for step in plan(&wanted, &HostState::default()) {
            writeln!(text, "{step}").unwrap();
        }
        text.push_str(&render(wanted.ruleset.as_ref().expect("a node of a cluster has a table")));
        check(name, &text);
    }
}

#[test]
fn a_node_that_the_store_does_not_know_is_told_nothing() {
    assert_eq!(desired(&nodes("192.0.2", 2), node_id(3), &facts(), &Judgement::default()), None);
}

fn cases() -> Vec<Case> {
    let loose = HostFacts { rp_filter_all: 2, ..facts() };
    let advertised = HostFacts { advertised_to: ["eth0".to_owned(), "wlan0".to_owned()].into(), ..facts() };
    let small = HostFacts { underlay_mtu: 1280, ..facts() };
    let others = HostFacts {
        addresses: ["192.0.2.1", "198.51.100.1", "2001:db8::1"].map(|address| address.parse().unwrap()).into(),
        ..facts()
    };
    let jumbo = HostFacts { underlay_mtu: 9000, ..facts() };
    vec![
        ("alone", nodes("192.0.2", 1), facts()),
        ("peers_without_networks", nodes("192.0.2", 3), loose),
        ("ipv6_underlay", with_network(nodes("2001:db8:", 2), "10.42.0.0/16"), jumbo),
        ("replicas_here_and_there", web(), facts()),
        ("no_replicas", without_endpoints(web()), facts()),
        ("weights", weighted(web()), facts()),
        ("an_address_away_from_its_block", away(web()), facts()),
        ("internal_network_with_its_own_mtu", internal(web()), facts()),
        ("ipv6_network", ipv6(nodes("192.0.2", 2)), advertised),
        ("dual_stack", dual(web()), facts()),
        ("ipv6_network_on_a_small_underlay", ipv6(nodes("192.0.2", 2)), small),
        ("doors_of_their_own", doors(web()), facts()),
        ("clients_keep_their_replica", sticky(web()), facts()),
        ("other_addresses_of_the_nodes", told(dual(web())), others),
    ]
}

#[test]
fn every_verdict_on_a_replica() {
    use Balancing::{Balanced, Draining, LastResort, NodeDrained, NodeSuspended, NodeUnknown, Starting};
    type Edit = fn(&mut Cluster);
    // Replica 1 runs on node 1, replica 2 on node 2.
    let table: [(&str, Edit, [Balancing; 2]); 9] = [
        ("all is well", |_| {}, [Balanced, Balanced]),
        ("a lease is lost", |c| _ = c.alive.remove(&node_id(2)), [Balanced, NodeSuspended]),
        ("all leases are lost", |c| c.alive.clear(), [LastResort, LastResort]),
        ("a node is drained", |c| drain(c, 2), [Balanced, NodeDrained]),
        (
            "the other node's lease is lost too",
            |c| {
                drain(c, 2);
                c.alive.clear();
            },
            [LastResort, NodeDrained],
        ),
        ("a node is removed", |c| _ = c.nodes.remove(&node_id(2)), [Balanced, NodeUnknown]),
        ("a replica starts", |c| set(c, 1, EndpointState::Starting), [Starting, Balanced]),
        ("a replica drains", |c| set(c, 1, EndpointState::Draining), [Draining, Balanced]),
        (
            "draining is no last resort",
            |c| {
                set(c, 1, EndpointState::Draining);
                c.alive.clear();
            },
            [Draining, LastResort],
        ),
    ];
    for (name, edit, expected) in table {
        let mut cluster = web();
        edit(&mut cluster);
        let verdicts: Vec<Balancing> =
            balancing(&cluster, service_id(1), &Judgement::default()).into_values().collect();
        assert_eq!(verdicts, expected, "{name}");
    }
}

fn check(name: &str, text: &str) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/desired").join(format!("{name}.txt"));
    if env::var_os("WEFT_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
    }
    let golden = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    assert_eq!(text, golden, "{name}: WEFT_BLESS=1 writes it anew");
}

fn facts() -> HostFacts {
    HostFacts {
        underlay_mtu: 1500,
        mark_mask: MarkMask::DEFAULT,
        rp_filter_all: 0,
        advertised_to: [].into(),
        addresses: [].into(),
    }
}

/// The nodes tell their addresses: node 1 (this one) that of a bridge which node 2 has too; node 2 a second one of each family,
/// one that is this host's by now, and one that is a container's.
fn told(mut cluster: Cluster) -> Cluster {
    for (number, addresses) in [
        (1, &["172.17.0.1", "192.0.2.1", "2001:db8::1"][..]),
        (2, &["172.17.0.1", "192.0.2.2", "198.51.100.1", "198.51.100.2", "10.42.0.9", "2001:db8::2"]),
    ] {
        let addresses = addresses.iter().map(|address| address.parse().unwrap());
        cluster.nodes.get_mut(&node_id(number)).unwrap().addresses = addresses.collect();
    }
    cluster
}

fn node_id(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn service_id(number: u16) -> ServiceId {
    ServiceId::new(number).unwrap()
}

fn network_id(number: u16) -> NetworkId {
    NetworkId::new(number).unwrap()
}

/// So many living nodes; an underlay that ends in a colon is IPv6.
fn nodes(underlay: &str, count: u16) -> Cluster {
    let settings = ClusterSettings { id: ClusterId(7), vxlan_port: 7789, vni: 7789, pools: vec![] };
    let mut cluster = Cluster::empty(settings);
    for number in 1..=count {
        let separator = if underlay.ends_with(':') { ":" } else { "." };
        let id = node_id(number);
        cluster.nodes.insert(
            id,
            Node {
                id,
                name: format!("node{number}").parse().unwrap(),
                underlay: format!("{underlay}{separator}{number}").parse().unwrap(),
                labels: [].into(),
                availability: Availability::Active,
                addresses: [].into(),
                fingerprint: None,
            },
        );
        cluster.alive.insert(id);
    }
    cluster
}

/// With a network whose first blocks belong to the nodes in turn.
fn with_network(mut cluster: Cluster, prefix: &str) -> Cluster {
    let id = network_id(u16::try_from(cluster.networks.len() + 1).unwrap());
    let subnet = ipam::subnet(prefix.parse().unwrap()).unwrap();
    for node in cluster.nodes.keys() {
        let taken = cluster.blocks.keys().copied().collect();
        let prefix = ipam::choose_block(&subnet, *node, &taken).unwrap();
        cluster.blocks.insert(prefix, Block { network: id, prefix, owner: *node });
    }
    let name = format!("net{id}").parse().unwrap();
    cluster.networks.insert(id, Network { id, name, subnets: vec![subnet], internal: false, mtu: None });
    cluster
}

/// Two nodes, a network, a service with a published port of each protocol and a replica on each node.
fn web() -> Cluster {
    let mut cluster = with_network(nodes("192.0.2", 2), "10.42.0.0/16");
    let port = |published: u16, target: u16, protocol| {
        PublishedPort::new(published.try_into().unwrap(), target.try_into().unwrap(), protocol)
    };
    let service = Service::new(
        service_id(1),
        "web".parse().unwrap(),
        network_id(1),
        vec!["10.42.240.1".parse().unwrap()],
        vec![port(80, 8080, L4::Tcp), port(53, 5353, L4::Udp)],
    );
    cluster.services.insert(service.id, service);
    put(&mut cluster, 1, 1, &["10.42.0.1"]);
    put(&mut cluster, 2, 2, &["10.42.0.65"]);
    cluster
}

fn put(cluster: &mut Cluster, number: u64, node: u16, addresses: &[&str]) {
    let addresses: Vec<IpAddr> = addresses.iter().map(|address| address.parse().unwrap()).collect();
    let network = *cluster.networks.keys().next().unwrap();
    let endpoint = Endpoint {
        id: EndpointId(number),
        network,
        addresses,
        name: format!("web-{number}").parse().unwrap(),
        aliases: vec![],
        node: node_id(node),
        service: cluster.services.keys().next().copied(),
        state: EndpointState::Ready,
        weight: 1,
        netns: NetnsRef { path: format!("/run/netns/web{number}"), inode: 4_026_530_000 + number },
        ifname: "eth0".into(),
        fault: None,
    };
    cluster.endpoints.insert(endpoint.id, endpoint);
}

fn set(cluster: &mut Cluster, endpoint: u64, state: EndpointState) {
    cluster.endpoints.get_mut(&EndpointId(endpoint)).unwrap().state = state;
}

fn drain(cluster: &mut Cluster, node: u16) {
    cluster.nodes.get_mut(&node_id(node)).unwrap().availability = Availability::Drain;
}

fn without_endpoints(cluster: Cluster) -> Cluster {
    Cluster { endpoints: [].into(), ..cluster }
}

fn weighted(mut cluster: Cluster) -> Cluster {
    cluster.endpoints.get_mut(&EndpointId(1)).unwrap().weight = 3;
    cluster
}

/// A replica of node 2 with an address of node 1's block, and one of node 1 with an address of nobody's.
fn away(mut cluster: Cluster) -> Cluster {
    put(&mut cluster, 3, 2, &["10.42.0.9"]);
    put(&mut cluster, 4, 1, &["10.42.77.1"]);
    cluster
}

fn internal(mut cluster: Cluster) -> Cluster {
    let network = cluster.networks.get_mut(&network_id(1)).unwrap();
    network.internal = true;
    network.mtu = Some(1300);
    cluster
}

/// The same port at two addresses and a device; one that the agent carries and one at loopback, which have no rows; SCTP; no
/// VIP.
fn doors(mut cluster: Cluster) -> Cluster {
    let service = cluster.services.values_mut().next().unwrap();
    let port = |bind, published: u16, protocol| PublishedPort {
        bind,
        ..PublishedPort::new(published.try_into().unwrap(), 8080.try_into().unwrap(), protocol)
    };
    let address = |text: &str| Bind::Address(text.parse().unwrap());
    service.ports = vec![
        port(address("192.0.2.1"), 80, L4::Tcp),
        port(address("2001:db8::1"), 80, L4::Tcp),
        port(Bind::Device("eth1".parse().unwrap()), 80, L4::Tcp),
        port(address("127.0.0.1"), 81, L4::Tcp),
        PublishedPort { mode: PortMode::Proxy(ProxyMode::default()), ..port(Bind::Any, 82, L4::Tcp) },
        port(Bind::Any, 36412, L4::Sctp),
    ];
    service.lb = Lb::Random;
    service.endpoint_mode = EndpointMode::Dnsrr;
    service.vips.clear();
    cluster
}

fn sticky(mut cluster: Cluster) -> Cluster {
    cluster.services.values_mut().next().unwrap().affinity = Some(Duration::from_mins(5));
    cluster
}

/// With a network of both families beside the first one.
fn dual(cluster: Cluster) -> Cluster {
    let mut cluster = with_network(with_network(cluster, "10.43.0.0/24"), "fd00:43::/64");
    let second = cluster.networks.remove(&network_id(3)).unwrap();
    cluster.networks.get_mut(&network_id(2)).unwrap().subnets.extend(second.subnets);
    for block in cluster.blocks.values_mut().filter(|block| block.network == network_id(3)) {
        block.network = network_id(2);
    }
    let vips = vec!["10.43.0.241".parse().unwrap(), "fd00:43:0:0:f000::1".parse().unwrap()];
    let service = Service::new(service_id(2), "dual".parse().unwrap(), network_id(2), vips, vec![]);
    cluster.services.insert(service.id, service);
    for (number, node, addresses) in [(11, 1, ["10.43.0.1", "fd00:43::1"]), (12, 2, ["10.43.0.17", "fd00:43::41"])] {
        put(&mut cluster, number, node, &addresses);
        let endpoint = cluster.endpoints.get_mut(&EndpointId(number)).unwrap();
        endpoint.network = network_id(2);
        endpoint.service = Some(service_id(2));
    }
    cluster
}

/// With a network of IPv6 alone.
fn ipv6(cluster: Cluster) -> Cluster {
    let mut cluster = with_network(cluster, "fd00:42::/64");
    let service = Service::new(
        service_id(1),
        "web".parse().unwrap(),
        network_id(1),
        vec!["fd00:42:0:0:f000::1".parse().unwrap()],
        vec![],
    );
    cluster.services.insert(service.id, service);
    put(&mut cluster, 1, 1, &["fd00:42::1"]);
    put(&mut cluster, 2, 2, &["fd00:42::41"]);
    cluster
}
