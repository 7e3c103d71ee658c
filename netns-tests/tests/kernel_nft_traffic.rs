//! What the rules do to packets: a node between a client, containers and a peer on the tunnel, each a namespace.
//!
//! ```text
//! client 192.0.2.2 ---- 192.0.2.1 node weft.b0 ---- eth0 containers 10.9.0.2 to 10.9.0.4
//!                                      weft.b1 ---- eth0 container 10.9.1.2 of an internal network
//!                                      weft.vx ---- tun0 peer (198.51.100.9 behind it)
//! ```

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    io::ErrorKind,
    net::{IpAddr, UdpSocket},
    time::{Duration, Instant},
};

use weft::{
    model::{Bind, Chain, ChainName, Family, L4, Rule, ServiceId, SetKey, SetName, SetValue, Slot},
    plan::NftChange,
};

mod nft_support;
#[path = "nft_support/world.rs"]
#[expect(dead_code, reason = "other tests use other parts")]
mod world;

#[path = "../../tests/goldens/rulesets.rs"]
#[expect(dead_code, reason = "only the whole one is of use here")]
mod rulesets;

use world::{
    CLIENT, Call, INTERNAL, NODE, PATIENCE, PEERS_CLIENT, REFUSED, REPLICAS, VIPS, World, at, call_tcp, call_udp,
    open_vips, ruleset, serve_tcp, serve_udp,
};

/// An answer that comes within this was not waited for: TCP tries again after one second.
const AT_ONCE: Duration = Duration::from_millis(900);

#[test]
fn published_ports_take_exact_turns_and_keep_the_client() {
    let world = World::new(&ruleset());
    for family in [0, 1] {
        for (call, port) in [(call_tcp as Call, 80), (call_udp as Call, 53)] {
            for turn in 0..9 {
                let (end, seen) = world.client.run(move || call(at(NODE[family], port)).unwrap());
                assert_eq!(end, at(REPLICAS[family][turn % 3], 8080), "turn {turn}, port {port}");
                assert_eq!(seen, CLIENT[family].parse::<IpAddr>().unwrap());
            }
        }
        // The node itself goes on where the client stopped: both hooks share the chain.
        for replica in REPLICAS[family] {
            let (end, seen) = world.node.run(move || call_tcp(at(NODE[family], 80)).unwrap());
            assert_eq!(end, at(replica, 8080));
            assert_eq!(seen, NODE[family].parse::<IpAddr>().unwrap());
        }
    }
}

#[test]
fn the_node_reaches_its_own_loopback() {
    let world = World::new(&ruleset());
    for loopback in ["127.0.0.1", "127.9.9.9", "::1"] {
        let end = world.node.run(move || {
            serve_tcp(at(loopback, 80));
            call_tcp(at(loopback, 80)).unwrap()
        });
        assert_eq!(
            end,
            (at(loopback, 80), if loopback == "127.9.9.9" { "127.0.0.1" } else { loopback }.parse().unwrap())
        );
    }
}

#[test]
fn vips_are_not_for_the_outside() {
    let world = World::new(&ruleset());
    for family in [0, 1] {
        let error = world.client.run(move || call_tcp(at(VIPS[family], 8080)).unwrap_err());
        assert_ne!(error.kind(), ErrorKind::ConnectionRefused, "{error}");
    }
}

#[test]
fn vips_keep_the_port() {
    let world = World::new(&open_vips(ruleset()));
    for family in [0, 1] {
        for port in [8080, 9090] {
            let mut ends = BTreeSet::new();
            for _ in 0..3 {
                let (end, seen) = world.client.run(move || call_tcp(at(VIPS[family], port)).unwrap());
                assert_eq!(seen, CLIENT[family].parse::<IpAddr>().unwrap());
                ends.insert(end);
            }
            assert_eq!(ends, REPLICAS[family].iter().map(|replica| at(replica, port)).collect());
        }
        let (end, _) = world.client.run(move || call_udp(at(VIPS[family], 8080)).unwrap());
        assert!(REPLICAS[family].iter().any(|replica| end == at(replica, 8080)), "{end}");
    }
}

#[test]
fn a_change_of_one_service_leaves_the_turns_of_others() {
    let world = World::new(&ruleset());
    let call = || world.client.run(|| call_tcp(at(NODE[0], 80)).unwrap().0);
    assert_eq!(call(), at(REPLICAS[0][0], 8080));
    // The IPv6 rule of the same chain changes; the IPv4 rule's counter goes on.
    let chain = ChainName::Port(L4::Tcp, 80, Bind::Any);
    let mut rules = ruleset().chains[&chain].clone();
    let Rule::BalancePort { slots, .. } = &mut rules.rules[1] else { panic!("{rules:?}") };
    *slots = 2;
    world.apply(&[NftChange::SetRules(chain, rules)]);
    assert_eq!(call(), at(REPLICAS[0][1], 8080));
    // A slot changes hands and the round goes on.
    let slot = SetKey::Slot(Slot((7 << 16) + 2));
    world.apply(&[
        NftChange::DeleteElements(
            SetName::Targets(Family::V4, 7),
            vec![(slot, SetValue::Target(at(REPLICAS[0][2], 8080)))],
        ),
        NftChange::AddElements(
            SetName::Targets(Family::V4, 7),
            vec![(slot, SetValue::Target(at(REPLICAS[0][2], 9090)))],
        ),
    ]);
    assert_eq!(call(), at(REPLICAS[0][2], 9090));
    assert_eq!(call(), at(REPLICAS[0][0], 8080));
}

#[test]
fn nobody_there_is_said_at_once() {
    let mut ruleset = ruleset();
    let vip = ChainName::Vip(ServiceId::new(7).unwrap());
    ruleset.chains.insert(vip, Chain { rules: vec![Rule::RefuseTcp, Rule::RefuseOther] });
    // A slot without an element falls through to the refusal, too.
    for family in Family::BOTH {
        ruleset.sets.get_mut(&SetName::Targets(family, 7)).unwrap().clear();
    }
    let world = World::new(&ruleset);
    // Without the rules these would answer.
    world.node.run(|| {
        for address in NODE {
            for port in [80, REFUSED] {
                serve_tcp(at(address, port));
            }
            serve_udp(at(address, REFUSED));
        }
    });
    for family in [0, 1] {
        for (host, name) in [(&world.client, "client"), (&world.node, "node"), (&world.containers, "container")] {
            for (call, to) in [
                (call_tcp as Call, at(NODE[family], REFUSED)),
                (call_tcp as Call, at(NODE[family], 80)),
                (call_tcp as Call, at(VIPS[family], 8080)),
                (call_udp as Call, at(NODE[family], REFUSED)),
                (call_udp as Call, at(VIPS[family], 8080)),
            ] {
                // The node's way to a VIP is the tunnel link's route, which is not set up here; a client has none.
                if name != "container" && VIPS[family].parse() == Ok(to.ip()) {
                    continue;
                }
                let (result, took) = host.run(move || {
                    let started = Instant::now();
                    (call(to), started.elapsed())
                });
                let kind = result.map_err(|error| error.kind());
                assert_eq!(kind, Err(ErrorKind::ConnectionRefused), "{name} to {to}");
                assert!(took < AT_ONCE, "{name} to {to}: {took:?}");
            }
        }
    }
}

#[test]
fn what_is_not_published_is_refused() {
    let world = World::new(&ruleset());
    for family in [0, 1] {
        // Not a question of time: an ICMP answer that comes while the socket is still in `connect`, as it does between
        // namespaces, counts from the next attempt on, one second later (tcp(7), "soft" errors).
        let error = world.client.run(move || call_tcp(at(REPLICAS[family][0], 8080)).unwrap_err());
        // ICMP "administratively prohibited" reads as no route in IPv4 and as no permission in IPv6.
        let expected = [ErrorKind::HostUnreachable, ErrorKind::PermissionDenied][family];
        assert_eq!(error.kind(), expected, "{error}");
    }
}

#[test]
fn containers_leave_with_the_nodes_address_and_never_with_anothers() {
    let world = World::new(&ruleset());
    for (family, stranger) in [(0, "203.0.113.5/32"), (1, "2001:db8:5::5/128")] {
        world.containers.ip(&format!("addr add {stranger} dev eth0{}", if family == 0 { "" } else { " nodad" }));
        let receiver = world.client.run(move || UdpSocket::bind(at(CLIENT[family], 7)).unwrap());
        receiver.set_read_timeout(Some(PATIENCE)).unwrap();
        let spoofed = stranger.split('/').next().unwrap();
        world.containers.run(move || {
            let to = at(CLIENT[family], 7);
            UdpSocket::bind(at(spoofed, 0)).unwrap().send_to(b"spoofed", to).unwrap();
            UdpSocket::bind(at(REPLICAS[family][0], 0)).unwrap().send_to(b"honest", to).unwrap();
        });
        let mut buffer = [0; 16];
        let (length, from) = loop {
            match receiver.recv_from(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.unwrap(),
            }
        };
        assert_eq!(&buffer[..length], b"honest");
        assert_eq!(from.ip(), NODE[family].parse::<IpAddr>().unwrap());
    }
}

#[test]
fn replies_return_through_the_node_they_came_by() {
    let world = World::new(&ruleset());
    // What leaves by the tunnel, with our mark and without.
    world.node.nft(
        "add table inet spy; add chain inet spy out { type filter hook postrouting priority 200; }; \
         add rule inet spy out oifname \"weft.vx\" tcp sport 8080 meta mark != 0 counter; \
         add rule inet spy out oifname \"weft.vx\" tcp sport 8080 meta mark 0 counter",
    );
    for family in [0, 1] {
        let (end, seen) = world.peer.run(move || call_tcp(at(REPLICAS[family][0], 8080)).unwrap());
        assert_eq!(end, at(REPLICAS[family][0], 8080));
        assert_eq!(seen, PEERS_CLIENT[family].parse::<IpAddr>().unwrap());
    }
    let counted = world.node.nft("list table inet spy");
    let packets: Vec<u64> =
        counted.lines().filter_map(|line| line.split_once("packets ")?.1.split(' ').next()?.parse().ok()).collect();
    assert_eq!(packets[0], 0, "marks were left on:\n{counted}");
    assert!(packets[1] >= 4, "too few replies came back by the tunnel:\n{counted}");
}

#[test]
fn networks_do_not_meet_but_by_published_ports() {
    let world = World::new(&ruleset());
    world.internal.run(|| INTERNAL.into_iter().for_each(|address| serve_tcp(at(address, 8080))));
    world.client.run(|| CLIENT.into_iter().for_each(|address| serve_tcp(at(address, 8080))));
    for family in [0, 1] {
        let refused = Err([ErrorKind::HostUnreachable, ErrorKind::PermissionDenied][family]);
        let inside = [INTERNAL[family], CLIENT[family]];
        for (host, to) in [
            (&world.internal, REPLICAS[family][0]),
            (&world.containers, inside[0]),
            // An internal network has no way out, and nobody outside a way in.
            (&world.internal, inside[1]),
            (&world.client, inside[0]),
        ] {
            let result = host.run(move || call_tcp(at(to, 8080)));
            assert_eq!(result.map_err(|error| error.kind()), refused, "{to}");
        }
        // Within one network, and out of one that is not internal.
        let (_, seen) = world.containers.run(move || call_tcp(at(CLIENT[family], 8080)).unwrap());
        assert_eq!(seen, NODE[family].parse::<IpAddr>().unwrap());
        // By a published port, as its node: on another node, a packet from network to network would be a crossing.
        let (end, seen) = world.internal.run(move || call_tcp(at(NODE[family], 80)).unwrap());
        assert_eq!(end, at(REPLICAS[family][0], 8080));
        assert_ne!(seen, INTERNAL[family].parse::<IpAddr>().unwrap());
    }
}

#[test]
fn the_tunnel_hears_its_peers_alone_and_without_conntrack() {
    let world = World::new(&ruleset());
    world.node.nft(
        "add table inet spy; add chain inet spy in { type filter hook input priority 0; }; \
         add chain inet spy out { type filter hook output priority 0; }; \
         add rule inet spy in udp dport 7789 ct state untracked counter; \
         add rule inet spy out udp dport 7789 ct state untracked counter",
    );
    for (family, stranger, length) in [(0, "192.0.2.3", 24), (1, "2001:db8::3", 64)] {
        world.client.ip(&format!("addr add {stranger}/{length} dev eth0{}", if family == 0 { "" } else { " nodad" }));
        let tunnel = at(NODE[family], rulesets::PORT);
        let node = world.node.run(move || UdpSocket::bind(tunnel).unwrap());
        node.set_read_timeout(Some(PATIENCE)).unwrap();
        world.client.run(move || {
            UdpSocket::bind(at(stranger, rulesets::PORT)).unwrap().send_to(b"stranger", tunnel).unwrap();
            UdpSocket::bind(at(CLIENT[family], rulesets::PORT)).unwrap().send_to(b"peer", tunnel).unwrap();
        });
        let mut buffer = [0; 16];
        let (length, from) = loop {
            match node.recv_from(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result.unwrap(),
            }
        };
        assert_eq!(&buffer[..length], b"peer");
        node.send_to(b"answer", from).unwrap();
    }
    let counted = world.node.nft("list table inet spy");
    assert_eq!(counted.matches("packets 2 ").count(), 2, "{counted}");
}
