//! Veth pairs: whole, half made, refused, and with traffic.

use netns_tests::isolated;
use weft::{
    kernel::{Kernel, LinuxKernel, netns},
    model::{Attachment, HostState, Mac, NetnsRef, NextHop, Route, RouteTable},
    plan::Step,
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
