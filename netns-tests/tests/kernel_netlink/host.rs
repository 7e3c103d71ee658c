//! What is asked of the host itself, and how long it all takes.

use std::time::{Duration, Instant};

use netns_tests::isolated;
use weft::{
    kernel::{Kernel, LinuxKernel, Rtnetlink, netns},
    model::{Mac, NextHop, Route, RouteTable, Sysctl},
    plan::Step,
};

use super::support::{self, Container, endpoint_link, node, output, run, vtep};

#[test]
fn the_underlay_is_told() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let error = kernel.default_address().await.unwrap_err().to_string();
        assert!(error.contains("no device has a global address"), "{error}");
        run("ip link add u1 mtu 1400 type veth peer name u2; ip link set u1 up; ip link set u2 up");
        run("ip addr add 198.51.100.1/24 dev u1");
        assert_eq!(kernel.default_address().await.unwrap().to_string(), "198.51.100.1");
        run("ip addr add 198.51.100.9/24 dev u2; ip -6 addr add fd00:5::1/64 dev u1 nodad");
        let error = kernel.default_address().await.unwrap_err().to_string();
        assert!(error.contains("198.51.100.1 on u1") && error.contains("198.51.100.9 on u2"), "{error}");
        run("ip -6 route add default via fd00:5::2");
        assert_eq!(kernel.default_address().await.unwrap().to_string(), "fd00:5::1");
        run("ip route add default via 198.51.100.2 dev u2 src 198.51.100.9");
        assert_eq!(kernel.default_address().await.unwrap().to_string(), "198.51.100.9");

        assert_eq!(kernel.underlay_mtu("198.51.100.1".parse().unwrap()).await.unwrap(), 1400);
        assert_eq!(kernel.underlay_mtu("fd00:5::1".parse().unwrap()).await.unwrap(), 1400);
        let error = kernel.underlay_mtu("198.51.100.7".parse().unwrap()).await.unwrap_err().to_string();
        assert!(error.contains("198.51.100.7") && error.contains("198.51.100.1 on u1"), "{error}");
        assert_eq!(
            kernel.rp_filter_all().unwrap().to_string(),
            output("cat /proc/sys/net/ipv4/conf/all/rp_filter").trim()
        );

        // The way to others: the least of the routes' own MTUs and their devices'; u2 has 1500.
        run(
            "ip route add 203.0.113.0/24 via 198.51.100.2 dev u1 mtu 1300; ip -6 route add fd00:6::/64 dev u1 mtu 1350",
        );
        run("ip link set u2 mtu 1500; ip route add blackhole 203.0.114.0/24");
        for (peers, mtu) in [
            (&[][..], None),
            (&["198.51.100.2"][..], Some(1400)),
            (&["192.0.2.1"][..], Some(1500)),
            (&["192.0.2.1", "198.51.100.2"][..], Some(1400)),
            (&["198.51.100.2", "203.0.113.7", "203.0.114.7"][..], Some(1300)),
            (&["203.0.114.7"][..], None),
            (&["fd00:6::1", "fd00:5::2"][..], Some(1350)),
        ] {
            let addresses: Vec<std::net::IpAddr> = peers.iter().map(|peer| peer.parse().unwrap()).collect();
            assert_eq!(kernel.route_mtu(&addresses).await.unwrap(), mtu, "{peers:?}");
        }

        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        let route = Route { next_hop: NextHop::TunnelLink };
        kernel.apply(&Step::PutRoute(RouteTable::MAIN, "10.9.0.0/16".parse().unwrap(), route)).await.unwrap();
        run("ip route add 172.20.0.0/16 via 198.51.100.2; ip route add blackhole 172.21.0.0/16");
        let prefixes: Vec<String> = kernel.local_prefixes().await.unwrap().iter().map(ToString::to_string).collect();
        for wanted in [
            "198.51.100.0/24 dev u1",
            "172.20.0.0/16 dev u1",
            "172.21.0.0/16",
            "fd00:5::/64 dev u1",
            "127.0.0.0/8 dev lo",
        ] {
            assert!(prefixes.iter().any(|prefix| prefix == wanted), "{wanted} is not in {prefixes:?}");
        }
        assert!(!prefixes.iter().any(|prefix| prefix.ends_with("/0") || prefix.starts_with("10.9.")), "{prefixes:?}");
    });
}

/// A device counts as long as it heeds router advertisements; ours never do.
#[test]
fn devices_that_heed_router_advertisements_are_told_and_their_settings_seen() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        for (device, accept_ra, forwarding) in
            [("never", 0, 0), ("host", 1, 0), ("router", 1, 1), ("always", 2, 1), ("weft.x", 1, 0)]
        {
            run(&format!("ip link add {device} type bridge"));
            run(&format!("sysctl -qw net/ipv6/conf/{device}/accept_ra={accept_ra}"));
            run(&format!("sysctl -qw net/ipv6/conf/{device}/forwarding={forwarding}"));
        }
        let told = kernel.begin_ipv6().unwrap();
        assert_eq!(told.into_iter().collect::<Vec<_>>(), ["always", "host"]);
        let forwarding = Sysctl(Sysctl::FORWARDING_V6.to_owned());
        let seen = || async { kernel.observe().await.unwrap().sysctls };
        assert_eq!(seen().await[&Sysctl::accept_ra("host")], "1");
        assert_eq!(seen().await[&forwarding], "0");
        for (key, value) in [(Sysctl::accept_ra("host"), "2"), (forwarding.clone(), "1")] {
            kernel.apply(&Step::PutSysctl(key.clone(), value.to_owned())).await.unwrap();
            assert_eq!(seen().await[&key], value);
        }
        // Forwarding now, and heeding still.
        assert_eq!(kernel.begin_ipv6().unwrap().into_iter().collect::<Vec<_>>(), ["always", "host"]);
        kernel.end_ipv6();
        assert!(!seen().await.contains_key(&forwarding));
    });
}

#[test]
fn a_namespace_of_another_kind_is_refused() {
    isolated(|| async {
        let error = netns::inspect("/proc/self/ns/uts").unwrap_err().to_string();
        assert!(error.contains("of another kind"), "{error}");
        let error = netns::inspect("/proc/thread-self/ns/net").unwrap_err().to_string();
        assert!(error.contains("host's own"), "{error}");
        let container = Container::start();
        let found = netns::inspect(&container.path).unwrap();
        assert_eq!(found, container.netns());
    });
}

/// Times are printed, and held to bounds that only a mistake such as a scan of all routes breaks.
#[test]
fn observing_and_linking_are_fast() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let empty = support::median(50, async || drop(kernel.observe().await.unwrap())).await;
        println!("observe, empty host: {empty:?}");
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        let tunnel = support::median(50, async || drop(kernel.observe().await.unwrap())).await;
        println!("observe, tunnel only: {tunnel:?}");
        let rtnetlink = Rtnetlink::open().unwrap();
        let rows_only = support::median(50, async || drop(rtnetlink.observe().await.unwrap())).await;
        println!("observe, tunnel only, without rule set and settings: {rows_only:?}");

        let mut linked = Vec::new();
        let mut unlinked = Vec::new();
        for number in 0..20 {
            let container = Container::start();
            let (name, wanted) = endpoint_link(number, &container, &["10.9.1.5", "fd00:9::5"]);
            let start = Instant::now();
            kernel.apply(&Step::CreateLink(name.clone(), wanted)).await.unwrap();
            linked.push(start.elapsed());
            let start = Instant::now();
            kernel.apply(&Step::DeleteLink(name)).await.unwrap();
            unlinked.push(start.elapsed());
        }
        linked.sort();
        unlinked.sort();
        println!("link a container: {:?} (slowest {:?}); unlink: {:?}", linked[10], linked[19], unlinked[10]);

        let start = Instant::now();
        for id in 2..502 {
            let mac = Mac::of_vtep(node(id));
            let gateway = std::net::Ipv4Addr::new(169, 254, 10 + id.to_be_bytes()[0], id.to_be_bytes()[1]).into();
            let prefix = format!("10.{}.{}.0/24", 10 + (id >> 8), id & 0xff).parse().unwrap();
            let route = Route { next_hop: NextHop::Tunnel(gateway) };
            kernel.apply(&Step::PutFdb(mac, "192.0.2.2".parse().unwrap())).await.unwrap();
            kernel.apply(&Step::PutNeighbour(gateway, mac)).await.unwrap();
            kernel.apply(&Step::PutRoute(RouteTable::MAIN, prefix, route)).await.unwrap();
        }
        println!("500 nodes, 3 rows each: {:?} a row", start.elapsed() / 1500);
        let full = support::median(20, async || drop(kernel.observe().await.unwrap())).await;
        println!("observe, 500 nodes: {full:?}");

        run("ip link add foreign type bridge; ip link set foreign up");
        support::batch(
            (0..20_000).map(|n| format!("route add 172.{}.{}.{} dev foreign", 16 + (n >> 16), (n >> 8) & 255, n & 255)),
        );
        let foreign = support::median(20, async || drop(kernel.observe().await.unwrap())).await;
        println!("observe, 500 nodes and 20,000 foreign routes: {foreign:?}");
        assert!(empty < Duration::from_millis(20), "{empty:?}");
        assert!(foreign < full + Duration::from_millis(100), "{foreign:?} against {full:?}");
        assert_eq!(kernel.observe().await.unwrap().routes.len(), 500);
    });
}
