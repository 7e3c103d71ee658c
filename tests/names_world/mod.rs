//! A cluster with every kind of name, as node 1 sees it.

use std::sync::Arc;

use weft::{
    model::{
        Availability, Cluster, ClusterId, ClusterSettings, Endpoint, EndpointId, EndpointMode, EndpointState,
        Judgement, L4, NetnsRef, Network, NetworkId, Node, NodeId, PublishedPort, Service, ServiceId, Subnet,
    },
    names::Zone,
};

use EndpointState::{Draining, Ready, Starting, Unhealthy};

/// A container of `blue` on this node.
pub(crate) const BLUE: &str = "10.42.0.9";

/// The zone of the whole world.
pub(crate) fn zone() -> Zone {
    Zone::build(Arc::new(cluster()), node(1), &Judgement::default())
}

/// An endpoint: namespace, name, network, addresses, node, service, state, aliases.
type Row = (u64, &'static str, u16, &'static str, u16, u16, EndpointState, &'static str);

/// The cluster.
pub(crate) fn cluster() -> Cluster {
    let mut cluster = Cluster::empty(ClusterSettings { id: ClusterId(7), vxlan_port: 7789, vni: 7789, pools: vec![] });
    cluster.revision = 12;
    for (id, name) in [(1, "h1"), (2, "h2")] {
        let underlay = format!("192.0.2.1{id}").parse().unwrap();
        let availability = Availability::Active;
        let labels = std::collections::BTreeMap::new();
        let (name, addresses) = (name.parse().unwrap(), std::collections::BTreeSet::new());
        cluster.nodes.insert(
            node(id),
            Node { id: node(id), name, underlay, labels, availability, addresses, fingerprint: None },
        );
        cluster.alive.insert(node(id));
    }
    for (id, name, prefixes, internal) in [
        (1, "blue", &["10.42.0.0/16", "fd42::/64"][..], false),
        (2, "red", &["10.43.0.0/20"], false),
        (3, "vault", &["10.44.0.0/16"], true),
    ] {
        let subnets = prefixes.iter().map(|prefix| Subnet { prefix: prefix.parse().unwrap(), block_len: 26 }).collect();
        let name = name.parse().unwrap();
        cluster.networks.insert(network(id), Network { id: network(id), name, subnets, internal, mtu: None });
    }
    for (id, name, net, vips) in [
        (1, "web", 1, &["10.42.240.1", "fd42::f:1"][..]),
        (2, "cache", 1, &[]),
        (3, "shop", 2, &["10.43.15.1"]),
        (4, "idle", 1, &["10.42.240.4", "fd42::f:4"]),
        (5, "both", 2, &["10.43.15.5"]),
        (6, "none", 1, &[]),
    ] {
        let id = ServiceId::new(id).unwrap();
        let vips: Vec<_> = vips.iter().map(|vip| vip.parse().unwrap()).collect();
        let mode = if vips.is_empty() { EndpointMode::Dnsrr } else { EndpointMode::Vip };
        let mut service = Service::new(id, name.parse().unwrap(), network(net), vips, vec![]);
        service.endpoint_mode = mode;
        if name == "web" {
            service.ports = vec![port(80, 8080, L4::Tcp), port(8080, 9090, L4::Tcp), port(53, 5353, L4::Udp)];
        }
        cluster.services.insert(id, service);
    }
    let rows: [Row; 15] = [
        (1, "web-1", 1, "10.42.0.1 fd42::1", 1, 1, Ready, "front"),
        (2, "web-2", 1, "10.42.1.1 fd42::1:1", 2, 1, Ready, "front"),
        (3, "web-3", 1, "10.42.1.2 fd42::1:2", 2, 1, Starting, "front soon"),
        (4, "web-4", 1, "10.42.1.3 fd42::1:3", 2, 1, Unhealthy, "front"),
        (5, "web-5", 1, "10.42.0.6 fd42::6", 1, 1, Draining, "front"),
        (6, "cache-1", 1, "10.42.0.5", 1, 2, Ready, "kv kv"),
        (7, "cache-2", 1, "10.42.1.5", 2, 2, Ready, "kv"),
        (8, "asker", 1, "10.42.0.9 fd42::9", 1, 0, Ready, "web web-1 mine"),
        (9, "asker-red", 2, "10.43.0.9", 1, 0, Ready, "kv"),
        (10, "left", 1, "10.42.0.10", 1, 0, Ready, ""),
        (10, "right", 2, "10.43.0.10", 1, 0, Ready, ""),
        (11, "safe", 3, "10.44.0.9", 1, 0, Ready, ""),
        (12, "far", 1, "10.42.1.9", 2, 0, Ready, ""),
        (13, "young", 1, "10.42.0.13", 1, 0, Starting, ""),
        (14, "shop-1", 2, "10.43.1.1", 2, 3, Ready, ""),
    ];
    for (number, (inode, name, net, addresses, on, service, state, aliases)) in rows.into_iter().enumerate() {
        let id = EndpointId(100 + number as u64);
        let endpoint = Endpoint {
            id,
            network: network(net),
            addresses: addresses.split(' ').map(|address| address.parse().unwrap()).collect(),
            name: name.parse().unwrap(),
            aliases: aliases.split_whitespace().map(|alias| alias.parse().unwrap()).collect(),
            node: node(on),
            service: ServiceId::new(service),
            state,
            weight: if name == "web-2" { 3 } else { 1 },
            netns: NetnsRef { path: format!("/run/netns/{name}"), inode },
            ifname: "eth0".to_owned(),
            fault: None,
        };
        cluster.endpoints.insert(id, endpoint);
    }
    cluster
}

fn port(published: u16, target: u16, protocol: L4) -> PublishedPort {
    PublishedPort::new(published.try_into().unwrap(), target.try_into().unwrap(), protocol)
}

/// Node number `id`.
pub(crate) fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

fn network(id: u16) -> NetworkId {
    NetworkId::new(id).unwrap()
}
