//! The plan, against a kernel that others tamper with.

use std::net::IpAddr;

use netns_tests::isolated;
use weft::{
    kernel::{Kernel, LinuxKernel},
    model::{HostState, Mac, NextHop, PolicyAction, PolicyRule, Route, RouteTable, Sysctl},
    plan::plan,
};

use super::support::{Container, endpoint_link, node, rows, run, vtep};

/// A whole state is spoilt in one way after another; each time the plan alone brings it back, and soon finds nothing to do.
#[test]
fn whatever_is_spoilt_comes_back() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let container = Container::start();
        let (name, attachment) = endpoint_link(1, &container, &["10.9.1.5", "fd00:9::5"]);
        let mac = Mac::of_vtep(node(2));
        let table = RouteTable::of_ingress(node(2));
        let gateways: [IpAddr; 2] = ["169.254.10.2".parse().unwrap(), "fe80::a:2".parse().unwrap()];
        let rule = |ipv6, priority, mark, action| PolicyRule { priority, ipv6, mark, action };
        let route = |table, prefix: &str, next_hop| ((table, prefix.parse().unwrap()), Route { next_hop });
        let desired = HostState {
            vtep: Some(vtep(1)),
            fdb: [(mac, "192.0.2.2".parse().unwrap())].into(),
            neighbours: gateways.map(|gateway| (gateway, mac)).into(),
            routes: [
                route(RouteTable::MAIN, "10.9.2.0/26", NextHop::Tunnel(gateways[0])),
                route(RouteTable::MAIN, "fd00:9:1::/122", NextHop::Tunnel(gateways[1])),
                route(RouteTable::MAIN, "10.9.1.0/26", NextHop::Unreachable),
                route(RouteTable::MAIN, "10.9.1.5/32", NextHop::Link(name.clone())),
                route(RouteTable::MAIN, "fd00:9::5/128", NextHop::Link(name.clone())),
                route(table, "0.0.0.0/0", NextHop::Tunnel(gateways[0])),
                route(table, "::/0", NextHop::Tunnel(gateways[1])),
            ]
            .into(),
            policy: [false, true]
                .into_iter()
                .flat_map(|ipv6| {
                    [
                        rule(ipv6, 100, (0, 0x0fff_0000), PolicyAction::Goto(300)),
                        rule(ipv6, 200, (0x0002_0000, 0x0fff_0000), PolicyAction::Lookup(table)),
                        rule(ipv6, 300, (0, 0), PolicyAction::Nop),
                    ]
                })
                .collect(),
            links: [(name.clone(), attachment)].into(),
            sysctls: [
                (Sysctl("net/ipv4/ip_forward".to_owned()), "1".to_owned()),
                (Sysctl("net/ipv4/conf/weft.vx/rp_filter".to_owned()), "2".to_owned()),
            ]
            .into(),
            ruleset: None,
        };
        converge(&kernel, &desired, "nothing").await;
        for spoil in [
            "ip link del weft.vx".to_owned(),
            "ip link set weft.vx down".to_owned(),
            "ip link set weft.vx mtu 1300".to_owned(),
            "ip link set weft.vx type vxlan learning".to_owned(),
            "ip link set weft.vx address 02:00:00:00:00:09".to_owned(),
            format!("bridge fdb del {mac} dev weft.vx"),
            format!("bridge fdb replace {mac} dev weft.vx dst 192.0.2.9"),
            "bridge fdb add 02:00:00:00:00:01 dev weft.vx dst 192.0.2.9".to_owned(),
            "ip neigh flush dev weft.vx nud permanent".to_owned(),
            "ip neigh replace 169.254.10.2 dev weft.vx lladdr 02:00:00:00:00:01 nud permanent".to_owned(),
            "ip neigh add 169.254.10.3 dev weft.vx lladdr 02:00:00:00:00:01 nud permanent".to_owned(),
            "ip route flush proto 77; ip -6 route flush proto 77".to_owned(),
            "ip route replace 10.9.2.0/26 dev lo proto 77 metric 77".to_owned(),
            "ip route add 10.9.2.0/26 dev lo proto 77 metric 1".to_owned(),
            "ip route append fd00:9:1::/122 via fe80::9 dev weft.vx onlink proto 77 metric 77".to_owned(),
            "ip route add 10.77.0.0/16 dev lo proto 77 table 9".to_owned(),
            "ip route add blackhole 10.77.0.0/16 proto 77; ip link del weft.vx".to_owned(),
            "ip rule del priority 100; ip -6 rule del priority 200".to_owned(),
            "ip rule add priority 50 iif lo table 9 protocol 77".to_owned(),
            "ip rule add priority 200 fwmark 0x20000/0xfff0000 iif lo table 9 protocol 77".to_owned(),
            format!("ip link del {name}"),
            format!("ip link set {name} down"),
            format!("ip link set {name} alias none"),
            format!("ip link set {name} down; ip link set {name} name gone1; ip link del gone1"),
            "ip link add weft.stray type bridge".to_owned(),
            "ip link add weft.stray type veth peer name weft.starry".to_owned(),
            "sysctl -qw net.ipv4.ip_forward=0".to_owned(),
        ] {
            run(&spoil);
            assert_ne!(kernel.observe().await.unwrap(), desired, "{spoil}: not seen");
            converge(&kernel, &desired, &spoil).await;
        }
        // All of it goes as it came.
        converge(&kernel, &HostState::default(), "everything").await;
        assert_eq!(rows("ip -j link show").len(), 1, "more than lo is left");
    });
}

/// Plans and applies until there is nothing to do. Two passes may be needed: the first sees things go that others hang on.
async fn converge(kernel: &LinuxKernel, desired: &HostState, spoil: &str) {
    for _ in 0..3 {
        for step in plan(desired, &kernel.observe().await.unwrap()) {
            // What fails is planned again.
            let _ = kernel.apply(&step).await;
        }
    }
    let left = plan(desired, &kernel.observe().await.unwrap());
    assert!(left.is_empty(), "after {spoil}: {left:?}");
}
