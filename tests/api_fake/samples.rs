//! The samples that the fake agent answers with.

use std::{collections::BTreeMap, num::NonZeroU16};

use weft::api::wire::{
    Affinity, Availability, ClusterView, DataPlaneView, DrainView, DrainingReplica, EndpointMode, EndpointState,
    EndpointView, HealthView, Lb, Membership, NetworkView, NodeStatus, NodeView, PortSpec, ReconcileView,
    ServiceStatus, ServiceView, StatusView, StoreState, StoreView, SubnetView, TokenView, UnreadableView,
};

pub(super) const CLUSTER: &str = "0123456789abcdef0123456789abcdef";

pub(super) fn join() -> TokenView {
    TokenView {
        token: "weft-s3cret".into(),
        address: "192.0.2.1:7780".into(),
        command: "weft join 192.0.2.1:7780 --token weft-s3cret".into(),
    }
}

pub(super) fn drain() -> DrainView {
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

pub(super) fn node_1() -> NodeView {
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

pub(super) fn node_2() -> NodeView {
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

pub(super) fn network() -> NetworkView {
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

pub(super) fn service() -> ServiceView {
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
pub(super) fn tuned() -> ServiceView {
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
pub(super) fn chosen(ports: Vec<PortSpec>) -> Vec<PortSpec> {
    let choose = |port: PortSpec| if port.published == 0 { PortSpec { published: 30_000, ..port } } else { port };
    ports.into_iter().map(choose).collect()
}

pub(super) fn endpoint() -> EndpointView {
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

pub(super) fn status() -> StatusView {
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
