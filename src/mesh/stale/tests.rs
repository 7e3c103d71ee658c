use std::num::NonZeroU16;

use super::*;
use crate::model::{
    Availability, ClusterId, ClusterSettings, Endpoint, EndpointId, EndpointState, FlowStage, Name, NetnsRef, Network,
    NetworkId, Node, NodeId, PortMode, ProxyMode, PublishedPort, Service, Subnet,
};

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn port(published: u16, protocol: L4) -> PublishedPort {
    let number = |port| NonZeroU16::new(port).unwrap();
    PublishedPort::new(number(published), number(8080), protocol)
}

fn replica(number: u64, service: Option<u16>, state: EndpointState) -> Endpoint {
    let network = NetworkId::new(1).unwrap();
    Endpoint {
        id: EndpointId(number),
        network,
        addresses: vec![format!("10.9.0.{number}").parse().unwrap(), format!("fd00:9::{number}").parse().unwrap()],
        name: name(&format!("web-{number}")),
        aliases: vec![],
        node: NodeId::new(1).unwrap(),
        service: service.map(|service| ServiceId::new(service).unwrap()),
        state,
        weight: 1,
        netns: NetnsRef { path: "/run/netns/x".into(), inode: number },
        ifname: "eth0".into(),
        fault: None,
    }
}

/// Network 10.9.0.0/16 and `fd00:9::/64`; service 1 with VIPs, 80/tcp and 53/udp, a proxied 54/udp, and in UDP 56, 57, 58 and 59
/// bound to an address here, a device, loopback and an address of the other node; service 2 with 90/udp; endpoint 2 is ready, 3 draining, both of service 1; 4 is of service 2, and 5 of none.
fn cluster() -> Cluster {
    let mut cluster = Cluster::empty(ClusterSettings { id: ClusterId(7), vxlan_port: 7789, vni: 7789, pools: vec![] });
    let network = NetworkId::new(1).unwrap();
    let subnet = |prefix: &str, block_len| Subnet { prefix: prefix.parse().unwrap(), block_len };
    let subnets = vec![subnet("10.9.0.0/16", 26), subnet("fd00:9::/64", 122)];
    let blue = Network { id: network, name: name("blue"), subnets, internal: false, mtu: None };
    cluster.networks.insert(network, blue);
    for (number, ports) in [(1, vec![port(80, L4::Tcp), port(53, L4::Udp)]), (2, vec![port(90, L4::Udp)])] {
        let id = ServiceId::new(number).unwrap();
        let vips = vec![format!("10.9.240.{number}").parse().unwrap(), format!("fd00:9::f:{number}").parse().unwrap()];
        cluster.services.insert(id, Service::new(id, name(&format!("service-{number}")), network, vips, ports));
    }
    let proxied = PublishedPort { mode: PortMode::Proxy(ProxyMode::default()), ..port(54, L4::Udp) };
    let bound = |published, bind| PublishedPort { bind, ..port(published, L4::Udp) };
    let at = |address: &str| Bind::Address(address.parse().unwrap());
    let first = cluster.services.values_mut().next().unwrap();
    first.ports.extend([
        proxied,
        bound(56, at("192.0.2.1")),
        bound(57, Bind::Device("eth0".parse().unwrap())),
        bound(58, at("127.0.0.1")),
        bound(59, at("192.0.2.2")),
    ]);
    for (number, underlay, other) in [(1, "192.0.2.1", "2001:db8::1"), (2, "192.0.2.2", "2001:db8::2")] {
        let id = NodeId::new(number).unwrap();
        let node = Node {
            id,
            name: name(&format!("h{number}")),
            underlay: underlay.parse().unwrap(),
            labels: BTreeMap::new(),
            availability: Availability::Active,
            addresses: [other, "172.17.0.1"].map(|address| address.parse().unwrap()).into(),
            fingerprint: None,
        };
        cluster.nodes.insert(id, node);
    }
    for endpoint in [
        replica(2, Some(1), EndpointState::Ready),
        replica(3, Some(1), EndpointState::Draining),
        replica(4, Some(2), EndpointState::Ready),
        replica(5, None, EndpointState::Ready),
    ] {
        cluster.endpoints.insert(endpoint.id, endpoint);
    }
    cluster
}

fn flow(protocol: L4, client: &str, asked: &str, replica: &str) -> Flow {
    Flow {
        protocol,
        client: client.parse().unwrap(),
        asked: asked.parse().unwrap(),
        replica: replica.parse().unwrap(),
        is_answered: true,
        stage: FlowStage::Open,
        bytes: None,
        left_s: None,
    }
}

/// The addresses of the host that looks.
fn local() -> BTreeSet<IpAddr> {
    ["192.0.2.1", "2001:db8::1", "127.0.0.1"].iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn each_connection_is_judged_by_where_it_leads() {
    let stale = StaleFlows::of(&cluster());
    let (tcp, udp) = (L4::Tcp, L4::Udp);
    let client = "198.51.100.7:4711";
    for (what, protocol, client, asked, replica, is_stale) in [
        ("to a ready replica", udp, client, "192.0.2.1:53", "10.9.0.2:8080", false),
        ("to a draining one", udp, client, "192.0.2.1:53", "10.9.0.3:8080", false),
        ("to a gone one", udp, client, "192.0.2.1:53", "10.9.0.9:8080", true),
        ("to a gone one by VIP", udp, "10.9.0.5:1", "10.9.240.1:53", "10.9.0.9:53", true),
        ("the same in IPv6", udp, "[2001:db8::7]:1", "[2001:db8::1]:53", "[fd00:9::9]:8080", true),
        ("a ready one by VIP in IPv6", udp, "[fd00:9::5]:1", "[fd00:9::f:1]:53", "[fd00:9::2]:53", false),
        ("TCP to a gone one", tcp, client, "192.0.2.1:80", "10.9.0.9:8080", true),
        ("TCP to a draining one", tcp, client, "192.0.2.1:80", "10.9.0.3:8080", false),
        ("the address went to another service", udp, client, "192.0.2.1:53", "10.9.0.4:8080", true),
        ("by VIP too", udp, "10.9.0.5:1", "10.9.240.1:53", "10.9.0.4:53", true),
        ("the address went to nobody's replica", udp, client, "192.0.2.1:53", "10.9.0.5:8080", true),
        ("translated by somebody else", udp, client, "192.0.2.1:99", "10.9.0.5:8080", false),
        ("somebody else's altogether", udp, client, "192.0.2.1:53", "172.17.0.2:53", false),
        ("before its port was published", udp, client, "192.0.2.1:53", "192.0.2.1:53", true),
        ("at loopback", udp, "127.0.0.1:1", "127.0.0.1:53", "127.0.0.1:53", false),
        ("at a peer, from a container", udp, "10.9.0.5:1", "192.0.2.2:53", "192.0.2.2:53", true),
        ("at a peer, passing by", udp, client, "192.0.2.2:53", "192.0.2.2:53", false),
        ("at a peer's other address", udp, "[fd00:9::5]:1", "[2001:db8::2]:53", "[2001:db8::2]:53", true),
        ("the same, passing by", udp, "[2001:db8::7]:1", "[2001:db8::2]:53", "[2001:db8::2]:53", false),
        ("at an address that two nodes have", udp, "10.9.0.5:1", "172.17.0.1:53", "172.17.0.1:53", false),
        ("far away, the same port", udp, "10.9.0.5:1", "203.0.113.1:53", "203.0.113.1:53", false),
        ("a proxied port", udp, client, "192.0.2.1:54", "192.0.2.1:54", false),
        ("an unpublished port", udp, client, "192.0.2.1:55", "192.0.2.1:55", false),
        ("TCP before its port was published", tcp, client, "192.0.2.1:53", "192.0.2.1:53", false),
        ("before its VIP was given", udp, "10.9.0.5:1", "10.9.240.2:9", "10.9.240.2:9", true),
        ("container to container", udp, "10.9.0.5:1", "10.9.0.2:53", "10.9.0.2:53", false),
        ("at its port's own address", udp, client, "192.0.2.1:56", "192.0.2.1:56", true),
        ("at another address here", udp, "[2001:db8::7]:1", "[2001:db8::1]:56", "[2001:db8::1]:56", false),
        ("at a device, nobody knows which", udp, client, "192.0.2.1:57", "192.0.2.1:57", false),
        ("bound to loopback", udp, "127.0.0.1:1", "127.0.0.1:58", "127.0.0.1:58", false),
        ("beside what is bound to loopback", udp, client, "192.0.2.1:58", "192.0.2.1:58", false),
        ("at a peer's address, from a container", udp, "10.9.0.5:1", "192.0.2.2:59", "192.0.2.2:59", true),
        ("at a peer's address, passing by", udp, client, "192.0.2.2:59", "192.0.2.2:59", false),
        ("an address for another service, bound", udp, client, "192.0.2.1:56", "10.9.0.4:8080", true),
        ("to its own service, bound", udp, client, "192.0.2.1:56", "10.9.0.2:8080", false),
        ("the same by a device", udp, client, "192.0.2.1:57", "10.9.0.4:8080", true),
        ("by somebody else beside it", udp, client, "192.0.2.9:56", "10.9.0.4:8080", false),
    ] {
        let flow = flow(protocol, client, asked, replica);
        assert_eq!(stale.contains(&flow, &local()), is_stale, "{what}: {flow:?}");
    }
}

#[test]
fn another_look_is_due_when_an_endpoint_goes_or_a_way_in_comes() {
    let cluster = cluster();
    let before = StaleFlows::of(&cluster);
    let changed = |change: &dyn Fn(&mut Cluster)| {
        let mut cluster = cluster.clone();
        change(&mut cluster);
        StaleFlows::of(&cluster).may_have_more_than(&before)
    };
    assert!(StaleFlows::of(&cluster).may_have_more_than(&StaleFlows::default()), "at the start");
    assert!(!changed(&|_| {}));
    assert!(!changed(&|cluster| {
        cluster.endpoints.insert(EndpointId(6), replica(6, Some(1), EndpointState::Ready));
    }));
    assert!(!changed(&|cluster| cluster.endpoints.values_mut().for_each(|e| e.state = EndpointState::Draining)));
    assert!(changed(&|cluster| {
        cluster.endpoints.remove(&EndpointId(2));
    }));
    assert!(changed(&|cluster| {
        cluster.endpoints.get_mut(&EndpointId(2)).unwrap().service = ServiceId::new(2);
    }));
    let node = NodeId::new(2).unwrap();
    let address = "198.51.100.2".parse().unwrap();
    assert!(changed(&|cluster| _ = cluster.nodes.get_mut(&node).unwrap().addresses.insert(address)));
    let other = "2001:db8::2".parse().unwrap();
    assert!(!changed(&|cluster| _ = cluster.nodes.get_mut(&node).unwrap().addresses.remove(&other)));
    let service = ServiceId::new(1).unwrap();
    assert!(changed(&|cluster| cluster.services.get_mut(&service).unwrap().ports.push(port(81, L4::Udp))));
    assert!(!changed(&|cluster| cluster.services.get_mut(&service).unwrap().ports.clear()));
    assert!(changed(&|cluster| {
        cluster.services.get_mut(&service).unwrap().vips = vec!["10.9.240.9".parse().unwrap()];
    }));
}
