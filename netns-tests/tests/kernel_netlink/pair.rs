//! Veth pairs: whole, half made, refused, and with traffic.

use std::{
    io::{Read, Write},
    net::TcpStream,
    thread,
    time::Duration,
};

use netns_tests::isolated;
use weft::{
    kernel::{Kernel, LinuxKernel, netns},
    model::{Attachment, HostState, Mac, NetnsRef, NextHop, Route, RouteTable},
    plan::{Step, plan},
};

use super::support::{Container, endpoint_link, json, put, rows, run, without_settings};

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
        let too_small_for_ipv6 = Attachment { mtu: 1279, ..endpoint_link(1, &container, &["fd00:9::5"]).1 };
        kernel.apply(&Step::CreateLink(name.clone(), too_small_for_ipv6)).await.unwrap_err();
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
fn a_living_pair_gets_another_mtu_and_its_connections_go_on() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1");
        let containers = [Container::start(), Container::start()];
        let mut pairs = Vec::new();
        for (number, (container, [v4, v6])) in
            (1_u16..).zip(containers.iter().zip([["10.9.1.5", "fd00:9::5"], ["10.9.1.6", "fd00:9::6"]]))
        {
            let (name, attachment) = endpoint_link(number, container, &[v4, v6]);
            kernel.apply(&Step::CreateLink(name.clone(), attachment.clone())).await.unwrap();
            for prefix in [format!("{v4}/32"), format!("{v6}/128")] {
                let route = Route { next_hop: NextHop::Link(name.clone()) };
                kernel.apply(&Step::PutRoute(RouteTable::MAIN, prefix.parse().unwrap(), route)).await.unwrap();
            }
            pairs.push((name, attachment));
        }
        let connections = ["10.9.1.6", "fd00:9::6"].map(|address| {
            let listener = containers[1].listen(address);
            let client = containers[0].open(address, listener.port).unwrap();
            (client, listener.accept_stream())
        });
        let mut expected = kernel.observe().await.unwrap();
        // Down and up, by more and less than one packet of the connections.
        for mtu in [1400, 8950, 1280] {
            for (index, (name, attachment)) in pairs.iter().enumerate() {
                let ifindex = json(&format!("ip -j link show {name}"))[0]["ifindex"].clone();
                let wanted = Attachment { mtu, ..attachment.clone() };
                let state = put(&kernel, Step::UpdateLink(name.clone(), wanted.clone())).await;
                expected.links.insert(name.clone(), wanted.clone());
                assert_eq!(state, expected);
                let host = &json(&format!("ip -j link show {name}"))[0];
                assert_eq!((&host["mtu"], &host["ifindex"]), (&mtu.into(), &ifindex));
                assert_eq!(containers[index].json("ip -j link show dev eth0")[0]["mtu"], mtu);
            }
            for (client, server) in &connections {
                exchange(client, server);
                exchange(server, client);
            }
        }
    });
}

#[test]
fn a_pair_whose_mtu_was_changed_by_hand_is_mended_as_it_lives() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let container = Container::start();
        let (name, wanted) = endpoint_link(1, &container, &["10.9.1.5", "fd00:9::5"]);
        kernel.apply(&Step::CreateLink(name.clone(), wanted.clone())).await.unwrap();
        let whole = kernel.observe().await.unwrap();
        let ifindex = json(&format!("ip -j link show {name}"))[0]["ifindex"].clone();
        let neighbours = || rows(&format!("ip -j neigh show dev {name} nud permanent")).len();
        // The last one takes IPv6 from the host's side, and the neighbour with it.
        for mtu in [1300, 9000, 1000] {
            run(&format!("ip link set {name} mtu {mtu}"));
            container.run("ip link set eth0 mtu 1350");
            let seen = kernel.observe().await.unwrap();
            assert_eq!(seen.links.get(&name), Some(&Attachment { mtu: 0, ..wanted.clone() }), "{mtu}");
            // Whatever is wanted, also what somebody has set by hand: the container's side does not have it.
            for mtu in [1300, wanted.mtu] {
                let wanted =
                    HostState { links: [(name.clone(), Attachment { mtu, ..wanted.clone() })].into(), ..whole.clone() };
                let steps = plan(&wanted, &kernel.observe().await.unwrap());
                let updates = steps.iter().filter(|step| matches!(step, Step::UpdateLink(..))).count();
                let others = steps.iter().filter(|step| matches!(step, Step::CreateLink(..) | Step::DeleteLink(_)));
                assert_eq!((updates, others.count()), (1, 0), "{steps:?}");
                for step in &steps {
                    kernel.apply(step).await.unwrap();
                }
                assert_eq!(kernel.observe().await.unwrap().links, wanted.links);
                assert_eq!(container.json("ip -j link show dev eth0")[0]["mtu"], mtu);
                assert_eq!(neighbours(), 2);
            }
            assert_eq!(json(&format!("ip -j link show {name}"))[0]["ifindex"], ifindex);
        }
    });
}

#[test]
fn another_path_to_the_same_namespace_changes_the_alias_alone() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let container = Container::start();
        let (name, wanted) = endpoint_link(1, &container, &["10.9.1.5"]);
        kernel.apply(&Step::CreateLink(name.clone(), wanted.clone())).await.unwrap();
        let mut before = json(&format!("ip -j -d link show {name}"));
        let path = wanted.netns.path.replacen("/proc/", "/proc/self/../", 1);
        let moved = Attachment { netns: NetnsRef { path, ..wanted.netns.clone() }, ..wanted.clone() };
        let state = put(&kernel, Step::UpdateLink(name.clone(), moved.clone())).await;
        assert_eq!(state.links.get(&name), Some(&moved));
        before[0]["ifalias"] = moved.to_alias().into();
        assert_eq!(json(&format!("ip -j -d link show {name}")), before);
    });
}

#[test]
fn a_pair_that_cannot_be_changed_stays_or_is_made_anew() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        let container = Container::start();
        let (name, wanted) = endpoint_link(1, &container, &["10.9.1.5", "fd00:9::5"]);
        let update = |attachment: Attachment| {
            let (kernel, step) = (&kernel, Step::UpdateLink(name.clone(), attachment));
            async move { kernel.apply(&step).await.map_err(|error| error.to_string()) }
        };
        assert!(update(wanted.clone()).await.unwrap_err().contains("the pair has gone or is another one"));
        kernel.apply(&Step::CreateLink(name.clone(), wanted.clone())).await.unwrap();
        let whole = kernel.observe().await.unwrap();
        let elsewhere = NetnsRef { inode: wanted.netns.inode + 1, ..wanted.netns.clone() };
        for (attachment, reason) in [
            (Attachment { netns: elsewhere, ..wanted.clone() }, "another namespace now"),
            (Attachment { mtu: 1279, ..wanted.clone() }, "needs an MTU of 1280 bytes"),
            (Attachment { addresses: wanted.addresses[..1].into(), ..wanted.clone() }, "is another one by now"),
        ] {
            let error = update(attachment).await.unwrap_err();
            assert!(error.contains(reason), "{error}");
            assert_eq!(kernel.observe().await.unwrap(), whole, "{reason}");
        }

        // Refused midway, by the kernel: it reads as neither the old nor the new one, and the next pass puts it right.
        let error = update(Attachment { mtu: 70_000, ..wanted.clone() }).await.unwrap_err();
        assert!(error.contains("the host's side"), "{error}");
        assert_eq!(kernel.observe().await.unwrap().links[&name].mtu, 0);
        update(wanted.clone()).await.unwrap();
        assert_eq!(kernel.observe().await.unwrap(), whole);

        // The container may call its side what it likes, and take it away.
        container.run("ip link set eth0 down; ip link set eth0 name eth7; ip link set eth7 up");
        let smaller = Attachment { mtu: 1400, ..wanted.clone() };
        update(smaller.clone()).await.unwrap();
        assert_eq!(container.json("ip -j link show dev eth7")[0]["mtu"], 1400);
        let other = Container::start();
        container.run(&format!("ip link set eth7 netns {}", other.path.split('/').nth(4).unwrap()));
        update(wanted.clone()).await.unwrap();
        assert_eq!(kernel.observe().await.unwrap().links.get(&name), Some(&wanted));
        assert_eq!(container.json("ip -j link show dev eth0")[0]["mtu"], wanted.mtu);
        assert_eq!(other.rows("ip -j link show").len(), 1);
    });
}

/// Sends more than fits any MTU here from one side to the other.
fn exchange(mut from: &TcpStream, mut to: &TcpStream) {
    let sent: Vec<u8> = (0..=u8::MAX).cycle().take(100_000).collect();
    let mut received = vec![0; sent.len()];
    thread::scope(|scope| {
        scope.spawn(|| from.write_all(&sent).unwrap());
        to.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        to.read_exact(&mut received).unwrap();
    });
    assert!(sent == received);
}
