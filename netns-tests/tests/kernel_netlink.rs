//! The rtnetlink edge against the real kernel: each row goes in, is seen by the `ip` and `bridge` tools, is observed as it was
//! wanted, goes in again, and goes out again; what is not ours stays and is not seen.

#[cfg(test)]
#[path = "kernel_netlink/support.rs"]
mod support;

use std::time::{Duration, Instant};

use netns_tests::isolated;
use support::{Container, endpoint_link, json, node, output, put, rows, run, threads_here, vtep, without_settings};
use weft::{
    kernel::{Kernel, LinuxKernel, ROUTE_METRIC, Rtnetlink, netns},
    model::{
        Attachment, HostState, Mac, NetnsRef, NextHop, PolicyAction, PolicyRule, Route, RouteTable, Sysctl, VTEP_LINK,
        Vtep,
    },
    plan::Step,
};

#[test]
fn the_tunnel_device_goes_in_and_out() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        assert_eq!(without_settings(&kernel.observe().await.unwrap()), HostState::default());
        let wanted = vtep(1);
        let state = put(&kernel, Step::CreateVtep(wanted)).await;
        assert_eq!(state.vtep, Some(wanted));

        let link = &json("ip -j -d link show weft.vx")[0];
        let data = &link["linkinfo"]["info_data"];
        assert_eq!(link["address"], wanted.mac.to_string());
        assert_eq!(link["mtu"], wanted.mtu);
        assert_eq!(link["inet6_addr_gen_mode"], "none");
        assert!(link["flags"].as_array().unwrap().iter().any(|flag| flag == "UP"), "{link}");
        assert_eq!(data["id"], wanted.vni);
        assert_eq!(data["port"], wanted.port);
        assert_eq!(data["local"], wanted.local.to_string());
        assert_eq!(data["learning"], false);
        assert_eq!(json("ip -j addr show dev weft.vx")[0]["addr_info"].as_array().unwrap().len(), 0);

        let state = put(&kernel, Step::SetVtepMtu(1400)).await;
        assert_eq!(state.vtep, Some(Vtep { mtu: 1400, ..wanted }));

        // Another identity replaces it; the same one does not.
        let index = json("ip -j link show weft.vx")[0]["ifindex"].clone();
        kernel.apply(&Step::CreateVtep(wanted)).await.unwrap();
        assert_eq!(json("ip -j link show weft.vx")[0]["ifindex"], index);
        let other = Vtep { local: "fd00::7".parse().unwrap(), vni: 99, ..wanted };
        let state = put(&kernel, Step::CreateVtep(other)).await;
        assert_eq!(state.vtep, Some(other));
        assert_ne!(json("ip -j link show weft.vx")[0]["ifindex"], index);

        let state = put(&kernel, Step::DeleteVtep).await;
        assert_eq!(without_settings(&state), HostState::default());

        run("ip link add other up type vxlan id 77 dstport 7789 local 192.0.2.1 nolearning");
        let error = kernel.apply(&Step::CreateVtep(wanted)).await.unwrap_err().to_string();
        assert!(error.contains("VNI 77") && error.contains("another VXLAN device"), "{error}");
        assert_eq!(without_settings(&kernel.observe().await.unwrap()), HostState::default());
    });
}

#[test]
fn a_tunnel_device_that_is_not_as_wanted_never_reads_as_wanted() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let wanted = vtep(1);
        let mac = wanted.mac;
        let vxlan = format!("ip link add weft.vx address {mac} mtu 1450 type vxlan id 77 dstport 7789 local 192.0.2.1");
        for (what, commands) in [
            (
                "not a VXLAN device",
                vec![
                    format!("ip link add weft.vx address {mac} mtu 1450 type bridge"),
                    "ip link set weft.vx up".into(),
                ],
            ),
            ("learning", vec![format!("{vxlan} learning"), "ip link set weft.vx up".into()]),
            ("down", vec![format!("{vxlan} nolearning")]),
            (
                "with a default remote",
                vec![format!("{vxlan} nolearning remote 192.0.2.9"), "ip link set weft.vx up".into()],
            ),
        ] {
            for command in &commands {
                run(command);
            }
            let seen = kernel.observe().await.unwrap().vtep;
            assert!(seen.is_some() && seen != Some(wanted), "{what}: {seen:?}");
            let state = put(&kernel, Step::CreateVtep(wanted)).await;
            assert_eq!(state.vtep, Some(wanted), "{what}");
            assert!(state.fdb.is_empty(), "{what}: {:?}", state.fdb);
            kernel.apply(&Step::DeleteVtep).await.unwrap();
        }
    });
}

#[test]
fn forwarding_entries_and_neighbours_go_in_and_out() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let mac = Mac::of_vtep(node(2));
        let error = kernel.apply(&Step::PutFdb(mac, "192.0.2.2".parse().unwrap())).await.unwrap_err().to_string();
        assert!(error.contains("no tunnel device weft.vx"), "{error}");
        kernel.apply(&Step::DeleteFdb(mac)).await.unwrap();
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();

        for underlay in ["192.0.2.2", "192.0.2.3"] {
            let state = put(&kernel, Step::PutFdb(mac, underlay.parse().unwrap())).await;
            assert_eq!(state.fdb.into_iter().collect::<Vec<_>>(), [(mac, underlay.parse().unwrap())]);
            let entries = json("bridge -j fdb show dev weft.vx");
            assert_eq!(entries.as_array().unwrap().len(), 1, "{entries}");
            assert_eq!(entries[0]["mac"], mac.to_string());
            assert_eq!(entries[0]["dst"], underlay);
            assert_eq!(entries[0]["state"], "permanent");
        }
        put(&kernel, Step::DeleteFdb(mac)).await;
        // Entries that are not as ours are told; putting brings them to order, deleting removes them.
        run("ip nexthop add id 1 via 192.0.2.5 fdb; ip nexthop add id 10 group 1 fdb");
        for spoil in ["dst 192.0.2.2 port 99", "dst 192.0.2.2 vni 9", "dst 192.0.2.2 dynamic", "nhid 10"] {
            run(&format!("bridge fdb add {mac} dev weft.vx {spoil}"));
            let seen = kernel.observe().await.unwrap().fdb;
            assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(mac, "0.0.0.0".parse().unwrap())], "{spoil}");
            let state = put(&kernel, Step::PutFdb(mac, "192.0.2.2".parse().unwrap())).await;
            assert_eq!(state.fdb.into_iter().collect::<Vec<_>>(), [(mac, "192.0.2.2".parse().unwrap())], "{spoil}");
            let state = put(&kernel, Step::DeleteFdb(mac)).await;
            assert!(state.fdb.is_empty(), "{spoil}");
        }
        let everyone = Mac([0; 6]);
        run(&format!("bridge fdb append {everyone} dev weft.vx dst 192.0.2.2"));
        run(&format!("bridge fdb append {everyone} dev weft.vx dst 192.0.2.3"));
        let seen = kernel.observe().await.unwrap().fdb;
        assert_eq!(seen.into_iter().collect::<Vec<_>>(), [(everyone, "0.0.0.0".parse().unwrap())]);
        let state = put(&kernel, Step::DeleteFdb(everyone)).await;
        assert!(state.fdb.is_empty());

        // A device that somebody replaced meanwhile has another index: at most one step fails for that.
        kernel.observe().await.unwrap();
        run(
            "ip link del weft.vx; ip link add weft.vx type vxlan id 77 dstport 7789 local 192.0.2.1 nolearning; ip link set weft.vx up",
        );
        let again = Step::PutFdb(mac, "192.0.2.2".parse().unwrap());
        let error = kernel.apply(&again).await.unwrap_err().to_string();
        assert!(error.contains("No such device"), "{error}");
        kernel.apply(&again).await.unwrap();
        kernel.apply(&Step::DeleteFdb(mac)).await.unwrap();

        for gateway in ["169.254.10.2", "fe80::a:2"] {
            let address = gateway.parse().unwrap();
            for mac in [mac, Mac::of_vtep(node(3))] {
                let state = put(&kernel, Step::PutNeighbour(address, mac)).await;
                assert_eq!(state.neighbours.into_iter().collect::<Vec<_>>(), [(address, mac)]);
                let entries = rows(&format!("ip -j neigh show dev weft.vx to {gateway}"));
                assert_eq!(entries[0]["lladdr"], mac.to_string());
                assert_eq!(entries[0]["state"][0], "PERMANENT");
            }
            // One that ages is no row, and is made permanent.
            run(&format!("ip neigh replace {gateway} lladdr {mac} dev weft.vx nud reachable"));
            assert!(kernel.observe().await.unwrap().neighbours.is_empty());
            put(&kernel, Step::PutNeighbour(address, mac)).await;
            let state = put(&kernel, Step::DeleteNeighbour(address)).await;
            assert!(state.neighbours.is_empty());
        }
    });
}

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

#[test]
fn policy_rules_go_in_and_out() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        for ipv6 in [false, true] {
            let family = if ipv6 { "-6" } else { "-4" };
            let mut wanted = std::collections::BTreeSet::new();
            for (priority, mark, action) in [
                (100, (0, 0x0fff_0000), PolicyAction::Goto(300)),
                (200, (0x0007_0000, 0x0fff_0000), PolicyAction::Lookup(RouteTable::of_ingress(node(7)))),
                (201, (0x0008_0000, 0x0fff_0000), PolicyAction::Lookup(RouteTable(9))),
                (300, (0, 0), PolicyAction::Nop),
            ] {
                let rule = PolicyRule { priority, ipv6, mark, action };
                wanted.insert(rule);
                let state = put(&kernel, Step::AddPolicy(rule)).await;
                assert_eq!(state.policy, wanted);
            }
            let listed = rows(&format!("ip -j {family} rule show"));
            let lookup = listed.iter().find(|row| row["priority"] == 200).unwrap();
            assert_eq!((&lookup["fwmark"], &lookup["fwmask"]), (&"0x70000".into(), &"0xfff0000".into()), "{lookup}");
            assert_eq!(lookup["table"], "77007");
            assert_eq!(lookup["protocol"], "77");
            assert_eq!(listed.iter().find(|row| row["priority"] == 100).unwrap()["goto"], 300);

            // One that selects more, and one that only looks like ours.
            run(&format!("ip {family} rule add priority 150 fwmark 0x1/0xff iif lo table 9 protocol 77"));
            run(&format!("ip {family} rule add priority 250 fwmark 0x1/0xff table 9"));
            let odd = PolicyRule { priority: 150, ipv6, mark: (1, 0xff), action: PolicyAction::Goto(0) };
            wanted.insert(odd);
            assert_eq!(kernel.observe().await.unwrap().policy, wanted);
            // The kernel tells rules apart by their protocol too: the same one can be ours besides.
            let twin = PolicyRule { priority: 250, action: PolicyAction::Lookup(RouteTable(9)), ..odd };
            wanted.insert(twin);
            assert_eq!(put(&kernel, Step::AddPolicy(twin)).await.policy, wanted);
            for rule in wanted.clone() {
                wanted.remove(&rule);
                let state = put(&kernel, Step::DeletePolicy(rule)).await;
                assert_eq!(state.policy, wanted);
            }
            assert_eq!(rows(&format!("ip -j {family} rule show priority 250")).len(), 1, "the foreign rule is gone");
        }
    });
}

#[test]
fn settings_are_written_and_seen_while_their_device_is_there() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let forward = Sysctl("net/ipv4/ip_forward".to_owned());
        let filter = Sysctl("net/ipv4/conf/weft.vx/rp_filter".to_owned());
        let state = put(&kernel, Step::PutSysctl(forward.clone(), "1".into())).await;
        assert_eq!(state.sysctls.into_iter().collect::<Vec<_>>(), [(forward.clone(), "1".to_owned())]);
        assert_eq!(output("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
        let error = kernel.apply(&Step::PutSysctl(filter.clone(), "2".into())).await.unwrap_err().to_string();
        assert!(error.contains("device is not there"), "{error}");
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        let state = put(&kernel, Step::PutSysctl(filter.clone(), "2".into())).await;
        assert_eq!(state.sysctls[&filter], "2");
        assert_eq!(state.sysctls.len(), 2);
    });
}

#[test]
fn a_container_is_linked_and_unlinked() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let container = Container::start();
        let (name, wanted) = endpoint_link(1, &container, &["10.9.1.5", "fd00:9::5"]);
        // Container engines leave IPv6 off.
        container.run("sysctl -qw net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1");
        let state = put(&kernel, Step::CreateLink(name.clone(), wanted.clone())).await;
        assert_eq!(state.links.into_iter().collect::<Vec<_>>(), [(name.clone(), wanted.clone())]);

        let host = &json(&format!("ip -j -d link show {name}"))[0];
        assert_eq!(host["address"], Mac::GATEWAY.to_string());
        assert_eq!(host["mtu"], wanted.mtu);
        assert_eq!(host["ifalias"], wanted.to_alias());
        assert_eq!(host["inet6_addr_gen_mode"], "none");
        let neighbours = rows(&format!("ip -j neigh show dev {name} nud permanent"));
        assert_eq!(neighbours.len(), 2, "{neighbours:?}");
        let inside = &container.json("ip -j addr show dev eth0")[0];
        assert_eq!(inside["address"], wanted.mac().to_string());
        assert_eq!(inside["mtu"], wanted.mtu);
        assert_eq!(inside["operstate"], "UP");
        let addresses: Vec<String> = inside["addr_info"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|address| address["scope"] == "global")
            .map(|address| format!("{}/{}", address["local"].as_str().unwrap(), address["prefixlen"]))
            .collect();
        assert_eq!(addresses, ["10.9.1.5/32", "fd00:9::5/128"]);
        for (family, gateway) in [("-4", "169.254.1.1"), ("-6", "fe80::1")] {
            let routes = container.rows(&format!("ip -j {family} route show default"));
            assert_eq!((&routes[0]["gateway"], &routes[0]["dev"]), (&gateway.into(), &"eth0".into()), "{routes:?}");
            let neighbour = container.rows(&format!("ip -j neigh show {gateway} dev eth0"));
            assert_eq!(neighbour[0]["lladdr"], Mac::GATEWAY.to_string());
        }
        // A link that is whole is kept, not made anew.
        let index = host["ifindex"].clone();
        kernel.apply(&Step::CreateLink(name.clone(), wanted.clone())).await.unwrap();
        assert_eq!(json(&format!("ip -j link show {name}"))[0]["ifindex"], index);

        let state = put(&kernel, Step::DeleteLink(name)).await;
        assert_eq!(without_settings(&state), HostState::default());
        assert_eq!(container.rows("ip -j link show").len(), 1, "something is left in the container");
    });
}

#[test]
fn traffic_passes_between_two_linked_containers() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let containers = [Container::start(), Container::start()];
        for (number, (container, [v4, v6])) in
            (1_u16..).zip(containers.iter().zip([["10.9.1.5", "fd00:9::5"], ["10.9.1.6", "fd00:9::6"]]))
        {
            let (name, attachment) = endpoint_link(number, container, &[v4, v6]);
            kernel.apply(&Step::CreateLink(name.clone(), attachment)).await.unwrap();
            for prefix in [format!("{v4}/32"), format!("{v6}/128")] {
                let route = Route { next_hop: NextHop::Link(name.clone()) };
                kernel.apply(&Step::PutRoute(RouteTable::MAIN, prefix.parse().unwrap(), route)).await.unwrap();
            }
        }
        for address in ["10.9.1.6", "fd00:9::6"] {
            let listener = containers[1].listen(address);
            let peer =
                containers[0].connect(address, listener.port).unwrap_or_else(|error| panic!("{address}: {error}"));
            let source = listener.accept();
            assert_eq!(peer, source, "the source address was changed on the way");
        }
    });
}

#[test]
fn a_link_that_is_not_whole_never_reads_as_whole_and_is_made_anew() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let container = Container::start();
        let (name, wanted) = endpoint_link(1, &container, &["10.9.1.5"]);
        for spoil in [
            format!("ip link set {name} alias half"),
            format!("ip link set {name} down"),
            format!("ip link set {name} mtu 1300"),
            format!("ip link set {name} address 02:00:00:00:00:09"),
            format!("ip link del {name}; ip link add {name} type veth peer name left-over"),
            format!("ip link del {name}; ip link add {name} type bridge"),
        ] {
            kernel.apply(&Step::CreateLink(name.clone(), wanted.clone())).await.unwrap();
            run(&spoil);
            let seen = kernel.observe().await.unwrap().links;
            assert_ne!(seen.get(&name), Some(&wanted), "{spoil}");
            assert!(seen.contains_key(&name), "{spoil}: not seen at all");
            let state = put(&kernel, Step::CreateLink(name.clone(), wanted.clone())).await;
            assert_eq!(state.links.get(&name), Some(&wanted), "{spoil}");
            kernel.apply(&Step::DeleteLink(name.clone())).await.unwrap();
        }
        assert_eq!(rows("ip -j link show").len(), 1);
    });
}

#[test]
fn what_cannot_be_linked_leaves_nothing() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let container = Container::start();
        let (name, wanted) = endpoint_link(1, &container, &["10.9.1.5"]);

        container.run("ip link add eth0 type bridge");
        let error = kernel.apply(&Step::CreateLink(name.clone(), wanted.clone())).await.unwrap_err().to_string();
        assert!(error.contains("there is a device eth0 in"), "{error}");
        assert_eq!(container.rows("ip -j link show").len(), 2, "the container's own device is gone");
        container.run("ip link del eth0");

        // The kernel refuses an MTU that a veth cannot have: halfway, the pair's other side is never made.
        let too_small = Attachment { mtu: 10, ..wanted.clone() };
        kernel.apply(&Step::CreateLink(name.clone(), too_small)).await.unwrap_err();
        // An alias that is too long: all is made, the last step fails, and all is removed.
        let mut endless = wanted.clone();
        endless.addresses = (0..40).map(|n| format!("10.9.1.{n}").parse().unwrap()).collect();
        let error = kernel.apply(&Step::CreateLink(name.clone(), endless)).await.unwrap_err().to_string();
        assert!(error.contains("the alias"), "{error}");

        let elsewhere = NetnsRef { inode: wanted.netns.inode + 1, ..wanted.netns.clone() };
        let error = kernel
            .apply(&Step::CreateLink(name.clone(), Attachment { netns: elsewhere, ..wanted.clone() }))
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains(&wanted.netns.inode.to_string()), "{error}");
        assert_eq!(container.rows("ip -j link show").len(), 1);

        assert!(netns::is_alive(&wanted.netns));
        drop(container);
        assert!(!netns::is_alive(&wanted.netns));
        let error = kernel.apply(&Step::CreateLink(name, wanted)).await.unwrap_err().to_string();
        assert!(error.contains("nothing at this path"), "{error}");
        assert_eq!(rows("ip -j link show").len(), 1, "something is left on the host");
    });
}

#[test]
fn a_second_network_leaves_the_first_ones_default_route() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let container = Container::start();
        let (first, one) = endpoint_link(1, &container, &["10.9.1.5", "fd00:9::5"]);
        let (second, two) = endpoint_link(2, &container, &["10.8.1.5", "fd00:8::5"]);
        let two = Attachment { ifname: "eth1".into(), ..two };
        kernel.apply(&Step::CreateLink(first, one)).await.unwrap();
        kernel.apply(&Step::CreateLink(second, two)).await.unwrap();
        for family in ["-4", "-6"] {
            let routes = container.rows(&format!("ip -j {family} route show default"));
            assert_eq!(routes.len(), 1, "{routes:?}");
            assert_eq!(routes[0]["dev"], "eth0");
        }
    });
}

#[test]
fn what_is_not_ours_is_neither_seen_nor_touched() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        run("ip link add foreign type bridge");
        run("ip link add weftlike type bridge");
        run("ip addr add 198.51.100.1/24 dev foreign");
        run("ip link set foreign up");
        run("ip route add 10.9.2.0/26 via 198.51.100.2 dev foreign");
        run("ip route add 10.9.3.0/26 dev foreign metric 77");
        run("ip -6 route add fd00:9:2::/64 dev foreign");
        run("ip neigh add 198.51.100.2 lladdr 02:00:00:00:00:01 dev foreign nud permanent");
        run("ip rule add priority 99 fwmark 1 table 9");
        let before = (output("ip route show table all"), output("ip rule show"), output("ip neigh show"));
        let state = kernel.observe().await.unwrap();
        assert_eq!(without_settings(&state), HostState { vtep: Some(vtep(1)), ..HostState::default() });

        for prefix in ["10.9.2.0/26", "fd00:9:2::/64"] {
            let place = prefix.parse().unwrap();
            let route = Route { next_hop: NextHop::TunnelLink };
            kernel.apply(&Step::PutRoute(RouteTable::MAIN, place, route)).await.unwrap();
            kernel.apply(&Step::DeleteRoute(RouteTable::MAIN, place)).await.unwrap();
            kernel.apply(&Step::DeleteRoute(RouteTable::MAIN, place)).await.unwrap();
        }
        kernel.apply(&Step::DeleteRoute(RouteTable::MAIN, "10.9.3.0/26".parse().unwrap())).await.unwrap();
        let after = (output("ip route show table all"), output("ip rule show"), output("ip neigh show"));
        assert_eq!(before, after);
    });
}

#[test]
fn changes_of_ours_wake_at_once_and_others_do_not() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        kernel.apply(&Step::CreateVtep(vtep(1))).await.unwrap();
        let mac = Mac::of_vtep(node(2));
        let prefix = "10.9.2.0/26".parse().unwrap();
        let prefix6 = "fd00:9::/64".parse().unwrap();
        let route = Route { next_hop: NextHop::TunnelLink };
        let rule = PolicyRule { priority: 100, ipv6: false, mark: (1, 0xff), action: PolicyAction::Nop };
        for step in [
            Step::PutFdb(mac, "192.0.2.2".parse().unwrap()),
            Step::PutNeighbour("169.254.10.2".parse().unwrap(), mac),
            Step::PutRoute(RouteTable::MAIN, prefix, route.clone()),
            Step::PutRoute(RouteTable::MAIN, prefix6, route),
            Step::AddPolicy(rule),
            Step::AddPolicy(PolicyRule { ipv6: true, ..rule }),
        ] {
            kernel.apply(&step).await.unwrap();
        }
        run("ip link add v1 type veth peer name v2");
        let mut changes = Rtnetlink::open().unwrap().subscribe().await.unwrap();
        let mut slowest = Duration::ZERO;
        for command in [
            format!("bridge fdb del {mac} dev weft.vx"),
            "ip neigh del 169.254.10.2 dev weft.vx".to_owned(),
            "ip route del 10.9.2.0/26 metric 77".to_owned(),
            "ip -6 route del fd00:9::/64 metric 77".to_owned(),
            "ip rule del priority 100".to_owned(),
            "ip -6 rule del priority 100".to_owned(),
            "ip link add weft.x1 type veth peer name x2".to_owned(),
            "ip link del weft.x1".to_owned(),
            "ip link set weft.vx down".to_owned(),
            "ip link del weft.vx".to_owned(),
        ] {
            // What others do meanwhile is read and passed over.
            run("ip addr add 198.51.100.1/24 dev v1; ip link set v1 up; ip link set v2 up");
            run("ip neigh replace 198.51.100.2 lladdr 02:00:00:00:00:01 dev v1 nud permanent");
            run("ip route add 203.0.113.0/24 via 198.51.100.2; ip rule add priority 7 fwmark 9 table 9");
            run("ip rule del priority 7; ip link set v1 down; ip addr del 198.51.100.1/24 dev v1");
            let idle = tokio::time::timeout(Duration::from_millis(20), changes.next()).await;
            assert!(idle.is_err(), "before {command}: foreign changes woke");
            run(&command);
            let start = Instant::now();
            tokio::time::timeout(Duration::from_millis(500), changes.next())
                .await
                .unwrap_or_else(|_| panic!("{command} did not wake"))
                .unwrap();
            slowest = slowest.max(start.elapsed());
        }
        println!("slowest wake-up after the command had ended: {slowest:?}");
    });
}

#[test]
fn an_overrun_counts_as_a_change() {
    isolated(|| async {
        let mut changes = Rtnetlink::open().unwrap().subscribe().await.unwrap();
        run("ip link add v1 type veth peer name v2");
        // Foreign notifications that nobody reads, until the queue is full.
        support::batch((0..20_000).map(|n| format!("link set v1 mtu {}", 1000 + n % 100)));
        tokio::time::timeout(Duration::from_secs(5), changes.next()).await.expect("the overrun is not told").unwrap();
    });
}

#[test]
fn many_looks_at_once_and_given_up_ones_do_not_disturb_each_other() {
    isolated(|| async {
        let kernel = std::sync::Arc::new(LinuxKernel::open().await.unwrap());
        // More devices than fit one datagram, so that the kernel is still at one dump when the next is asked for.
        support::batch((0..100).map(|n| format!("link add weft.{n} type bridge")));
        let mut looks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let kernel = std::sync::Arc::clone(&kernel);
            let _ = tokio::time::timeout(Duration::ZERO, kernel.observe()).await;
            looks.spawn(async move { kernel.observe().await });
        }
        while let Some(look) = looks.join_next().await {
            assert_eq!(look.unwrap().unwrap().links.len(), 100);
        }
    });
}

#[test]
fn the_socket_ends_with_its_owner_and_serves_a_runtime_of_many_threads() {
    isolated(|| async {
        // Workers are started here, in this namespace.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let kernel = std::sync::Arc::new(Rtnetlink::open().unwrap());
        let container = Container::start();
        let (name, wanted) = endpoint_link(1, &container, &["10.9.1.5"]);
        let step = Step::CreateLink(name.clone(), wanted.clone());
        let worker = std::sync::Arc::clone(&kernel);
        let (sender, receiver) = tokio::sync::oneshot::channel();
        runtime.spawn(async move {
            worker.apply(&step).await.unwrap();
            sender.send(worker.observe().await.unwrap()).unwrap();
        });
        let state = receiver.await.unwrap();
        assert_eq!(state.links.get(&name), Some(&wanted));
        assert_eq!(threads_here("weft-rtnetlink"), 1);
        runtime.shutdown_background();
        drop(kernel);
        let deadline = Instant::now() + Duration::from_secs(5);
        while threads_here("weft-rtnetlink") > 0 {
            assert!(Instant::now() < deadline, "the thread outlived its owner");
            tokio::task::yield_now().await;
        }
    });
}

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
