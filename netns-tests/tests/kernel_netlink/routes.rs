//! Routes: each kind of next hop, replaced by each other, and those that somebody else made in our name.

use netns_tests::isolated;
use weft::{
    kernel::{Kernel, LinuxKernel, ROUTE_METRIC},
    model::{NextHop, Route, RouteTable, VTEP_LINK},
    plan::Step,
};

use super::support::{Container, endpoint_link, node, put, rows, run, vtep};

#[test]
fn routes_go_in_are_replaced_and_go_out() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        let container = Container::start();
        let (link, attachment) = endpoint_link(1, &container, &["10.9.1.5", "fd00:9::5"]);
        kernel.apply(&Step::CreateLink(link.clone(), attachment)).await.unwrap();
        let hops = [
            NextHop::Tunnel("169.254.10.2".parse().unwrap()),
            NextHop::Unreachable,
            NextHop::Tunnel("fe80::a:2".parse().unwrap()),
            NextHop::TunnelLink,
            NextHop::Unreachable,
            NextHop::Link(link),
            NextHop::Tunnel("fe80::a:3".parse().unwrap()),
        ];
        for (table, prefix) in [
            (RouteTable::MAIN, "10.9.2.0/26"),
            (RouteTable::MAIN, "10.9.2.5/32"),
            (RouteTable::of_ingress(node(7)), "0.0.0.0/0"),
            (RouteTable::MAIN, "fd00:9:0:1::/122"),
            (RouteTable::of_ingress(node(7)), "::/0"),
        ] {
            let place = (table, prefix.parse().unwrap());
            for hop in &hops {
                let route = Route { next_hop: hop.clone() };
                if prefix.contains(':') && matches!(hop, NextHop::Tunnel(gateway) if gateway.is_ipv4()) {
                    let error = kernel.apply(&Step::PutRoute(place.0, place.1, route)).await.unwrap_err().to_string();
                    assert!(error.contains("IPv6 route cannot have an IPv4 gateway"), "{error}");
                    continue;
                }
                let state = put(&kernel, Step::PutRoute(place.0, place.1, route.clone())).await;
                assert_eq!(state.routes.into_iter().collect::<Vec<_>>(), [(place, route)], "{prefix}");
            }
            let family = if prefix.contains(':') { "-6" } else { "-4" };
            let listed = rows(&format!("ip -j {family} route show table {} proto 77", table.0));
            assert_eq!(listed.len(), 1, "{listed:?}");
            assert_eq!(listed[0]["metric"], ROUTE_METRIC);
            assert_eq!(listed[0]["dev"], VTEP_LINK);
            assert!(listed[0]["flags"].as_array().unwrap().iter().any(|flag| flag == "onlink"), "{listed:?}");
            let state = put(&kernel, Step::DeleteRoute(place.0, place.1)).await;
            assert!(state.routes.is_empty(), "{:?}", state.routes);
        }
    });
}

#[test]
fn routes_of_ours_that_lead_elsewhere_are_seen_and_brought_to_order() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        run("ip link add other type bridge");
        run("ip link set other up");
        for (prefix, strays) in [
            ("10.9.2.0/26", vec!["ip route add 10.9.2.0/26 dev other proto 77 metric 77"]),
            (
                "10.9.2.0/26",
                vec![
                    "ip route add 10.9.2.0/26 dev other proto 77 metric 5",
                    "ip route add blackhole 10.9.2.0/26 proto 77 metric 78",
                ],
            ),
            ("10.9.2.0/26", vec!["ip route add prohibit 10.9.2.0/26 proto 77 metric 77"]),
            ("fd00:9:1::/122", vec!["ip route add fd00:9:1::/122 dev other proto 77 metric 77"]),
            (
                "fd00:9:1::/122",
                vec![
                    "ip route add fd00:9:1::/122 dev other proto 77",
                    "ip route append fd00:9:1::/122 dev weft.vx proto 77 metric 77",
                    "ip route append fd00:9:1::/122 via fe80::9 dev weft.vx onlink proto 77 metric 77",
                ],
            ),
        ] {
            let place = (RouteTable::MAIN, prefix.parse().unwrap());
            let route = Route { next_hop: NextHop::TunnelLink };
            let put_it = Step::PutRoute(place.0, place.1, route.clone());
            for stray in &strays {
                run(stray);
            }
            let odd = Route { next_hop: NextHop::Tunnel("0.0.0.0".parse().unwrap()) };
            assert_eq!(kernel.observe().await.unwrap().routes[&place], odd, "{strays:?}");
            let state = put(&kernel, put_it.clone()).await;
            assert_eq!(state.routes.into_iter().collect::<Vec<_>>(), [(place, route)], "{strays:?}");
            kernel.apply(&Step::DeleteRoute(place.0, place.1)).await.unwrap();
            for stray in &strays {
                run(stray);
            }
            kernel.observe().await.unwrap();
            let state = put(&kernel, Step::DeleteRoute(place.0, place.1)).await;
            assert!(state.routes.is_empty(), "{strays:?}: {:?}", state.routes);
        }
    });
}
