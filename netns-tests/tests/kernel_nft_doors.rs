//! What the rules of balancing, affinity, bound ports, hairpin, SCTP and segment sizes do to packets.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    time::Duration,
};

use anyhow::Context as _;
use nix::sys::socket::{getsockopt, sockopt::TcpMaxSeg};
use socket2::{Domain, Socket, Type};
use weft::{
    model::{Bind, Chain, ChainName, Family, L4, Pick, Rule, Ruleset, ServiceId, SetKey, SetName, SetValue, Slot},
    plan::NftChange,
};

mod nft_support;
#[path = "kernel_nft_doors/sctp.rs"]
mod sctp;
#[path = "nft_support/world.rs"]
#[expect(dead_code, reason = "other tests use other parts")]
mod world;

#[path = "../../tests/goldens/rulesets.rs"]
#[expect(dead_code, reason = "only the whole one is of use here")]
mod rulesets;

use world::{
    CLIENT, Call, Host, NODE, PATIENCE, PEERS_CLIENT, REPLICAS, VIPS, World, at, call_tcp, call_udp, open_vips,
    ruleset, serve_tcp, serve_udp,
};

/// What is not seen after this long does not come.
const BOUND: Duration = Duration::from_secs(20);

/// Asks again and again until there is an answer.
fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    netns_tests::wait_until(what, BOUND, || ask().context("not yet")).unwrap()
}

/// Which replica answers a caller with this address.
fn call_from(source: IpAddr, to: SocketAddr) -> IpAddr {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::new(source, 0).into()).unwrap();
    socket.connect_timeout(&to.into(), PATIENCE).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.split_once(' ').unwrap().0.parse::<SocketAddr>().unwrap().ip()
}

/// The rules, with the replicas behind port 80 chosen in this way.
fn picking(wanted: Pick) -> Ruleset {
    let mut ruleset = ruleset();
    for rule in &mut ruleset.chains.get_mut(&ChainName::Port(L4::Tcp, 80, Bind::Any)).unwrap().rules {
        if let Rule::BalancePort { pick, .. } = rule {
            *pick = wanted;
        }
    }
    ruleset
}

#[test]
fn chance_reaches_every_replica() {
    let world = World::new(&picking(Pick::Chance));
    for family in [0, 1] {
        let ends: BTreeSet<IpAddr> = world.client.run(move || {
            // All three: this many tries miss one once in ten thousand million.
            (0..60).map(|_| call_tcp(at(NODE[family], 80)).unwrap().0.ip()).collect()
        });
        assert_eq!(ends, REPLICAS[family].iter().map(|replica| replica.parse().unwrap()).collect());
    }
}

#[test]
fn a_source_has_one_replica_by_whichever_table() {
    let ruleset = picking(Pick::Source);
    let world = World::new(&ruleset);
    let clients: [Vec<IpAddr>; 2] = [
        (100..130).map(|last| format!("192.0.2.{last}").parse().unwrap()).collect(),
        (100..130).map(|last| format!("2001:db8::{last}").parse().unwrap()).collect(),
    ];
    for address in clients.iter().flatten() {
        let (length, nodad) = if address.is_ipv4() { (24, "") } else { (64, " nodad") };
        world.client.ip(&format!("addr add {address}/{length} dev eth0{nodad}"));
    }
    let ask = || -> BTreeMap<IpAddr, IpAddr> {
        let clients = clients.clone();
        world.client.run(move || {
            let family = |address: &IpAddr| usize::from(address.is_ipv6());
            clients.iter().flatten().map(|client| (*client, call_from(*client, at(NODE[family(client)], 80)))).collect()
        })
    };
    let found = ask();
    assert_eq!(found, ask());
    let met: BTreeSet<IpAddr> = found.values().copied().collect();
    assert_eq!(met.len(), 6, "every replica of both families is somebody's: {met:?}");
    // Another table, as on another node: the seed is the same.
    world.apply(&[NftChange::DeleteTable]);
    world.apply(&nft_support::making(&ruleset));
    assert_eq!(found, ask());
}

/// What a set holds as nft lists it, one element a line.
fn elements(world: &World, set: SetName) -> Vec<String> {
    let listing = world.node.nft(&format!("list map inet weft {set}"));
    let Some((_, elements)) = listing.split_once("elements = {") else { return Vec::new() };
    elements.split('}').next().unwrap().split(',').map(|element| element.trim().to_owned()).collect()
}

#[test]
fn a_client_keeps_its_replica_through_every_door() {
    let wanted = rulesets::remembering(open_vips(ruleset()), 600_000);
    let world = World::new(&wanted);
    let service = ServiceId::new(7).unwrap();
    for (family, of) in Family::BOTH.into_iter().enumerate() {
        let ask = || {
            let doors: [(Call, SocketAddr); 4] = [
                (call_tcp, at(NODE[family], 80)),
                (call_udp, at(NODE[family], 53)),
                (call_tcp, at(VIPS[family], 8080)),
                (call_udp, at(VIPS[family], 8080)),
            ];
            let met: BTreeSet<IpAddr> = world
                .client
                .run(move || doors.iter().cycle().take(12).map(|(call, to)| call(*to).unwrap().0.ip()).collect());
            assert_eq!(met.len(), 1, "{met:?}");
            *met.first().unwrap()
        };
        let first = ask();
        let here = elements(&world, SetName::Sticky(of));
        assert_eq!(here.len(), 1, "{here:?}");
        assert!(here[0].starts_with(&format!("0x00000007 . {} ", CLIENT[family])), "{here:?}");

        // It takes no more: its slots go to the next one, and it is struck off the list.
        let place = REPLICAS[family].iter().position(|replica| replica.parse() == Ok(first)).unwrap();
        let next: IpAddr = REPLICAS[family][(place + 1) % 3].parse().unwrap();
        let slot = SetKey::Slot(Slot((7 << 16) + u32::try_from(place).unwrap()));
        let taker = vec![(SetKey::Address(first), SetValue::Service(service))];
        let target = |ip: IpAddr| vec![(slot, SetValue::Target((ip, 8080).into()))];
        let address = |ip: IpAddr| vec![(slot, SetValue::Address(ip))];
        world.apply(&[
            NftChange::DeleteElements(SetName::Targets(of, 7), target(first)),
            NftChange::AddElements(SetName::Targets(of, 7), target(next)),
            NftChange::DeleteElements(SetName::Replicas(of, 255), address(first)),
            NftChange::AddElements(SetName::Replicas(of, 255), address(next)),
            NftChange::DeleteElements(SetName::Takers(of), taker.clone()),
        ]);
        let second = ask();
        assert_ne!(second, first);
        // That the first one takes connections again does not bring its clients back.
        world.apply(&[
            NftChange::DeleteElements(SetName::Targets(of, 7), target(next)),
            NftChange::AddElements(SetName::Targets(of, 7), target(first)),
            NftChange::DeleteElements(SetName::Replicas(of, 255), address(next)),
            NftChange::AddElements(SetName::Replicas(of, 255), address(first)),
            NftChange::AddElements(SetName::Takers(of), taker),
        ]);
        assert_eq!(ask(), second);
        // What the kernel remembers is none of weft's business, and making the table again does not make it forget.
        assert_eq!(world.observe(), wanted);
        world.apply(&nft_support::making(&wanted));
        assert_eq!(ask(), second);
        // Others are not bound to it.
        let others: BTreeSet<IpAddr> =
            world.node.run(move || (0..3).map(|_| call_tcp(at(NODE[family], 80)).unwrap().0.ip()).collect());
        assert_eq!(others.len(), 1, "{others:?}");
        assert_eq!(elements(&world, SetName::Sticky(of)).len(), 2);
    }
}

#[test]
fn a_client_is_forgotten_after_its_last_connection() {
    let world = World::new(&rulesets::remembering(ruleset(), 50_000));
    let call = || world.client.run(|| call_tcp(at(NODE[0], 80)).unwrap().0);
    let left = || -> u64 {
        let here = elements(&world, SetName::Sticky(Family::V4));
        assert_eq!(here.len(), 1, "{here:?}");
        let (_, expires) = here[0].split_once("expires ").unwrap();
        expires.split_once('s').map_or(0, |(seconds, _)| seconds.parse().unwrap_or(0))
    };
    call();
    let before = wait_for("time passes", || Some(left()).filter(|left| *left <= 46));
    call();
    let after = left();
    assert!(after > before, "a new connection begins the time anew: {before} s and then {after} s");

    let world = World::new(&rulesets::remembering(ruleset(), 1500));
    world.client.run(|| call_tcp(at(NODE[0], 80)).unwrap());
    wait_for("the client is forgotten", || elements(&world, SetName::Sticky(Family::V4)).is_empty().then_some(()));
}

#[test]
fn a_full_memory_balances_the_rest() {
    let world = World::new(&rulesets::remembering(ruleset(), 600_000));
    // As many as the map takes.
    let mut script = String::from("add element inet weft sticky4 {\n");
    for number in 0_u32..1 << 18 {
        let client = std::net::Ipv4Addr::from_bits(0x0b00_0000 + number);
        writeln!(script, "0x9 . {client} timeout 1h : 10.9.0.2,").unwrap();
    }
    script.push_str("}\n");
    let file = std::env::temp_dir().join(format!("weft-sticky-{}", std::process::id()));
    std::fs::write(&file, script).unwrap();
    world.node.command(&format!("nft -f {}", file.display()));
    std::fs::remove_file(&file).unwrap();
    let met: Vec<SocketAddr> = world.client.run(|| (0..6).map(|_| call_tcp(at(NODE[0], 80)).unwrap().0).collect());
    assert_eq!(met.iter().collect::<BTreeSet<_>>().len(), 3, "{met:?}");
}

/// Adds a port with one replica behind it, answered at a place of its own.
fn bind(ruleset: &mut Ruleset, port: u16, shard: u8, bind: Bind, replica: [&str; 2]) {
    let chain = ChainName::Port(L4::Tcp, port, bind);
    let first = Slot(u32::from(port) << 16);
    let rule = |family| Rule::BalancePort { family, protocol: L4::Tcp, shard, first, slots: 1, pick: Pick::Turn };
    let rules = [rule(Family::V4), rule(Family::V6), Rule::RefuseTcp];
    ruleset.chains.insert(chain, Chain { rules: rules.into() });
    for (family, replica) in Family::BOTH.into_iter().zip(replica) {
        let target = SetValue::Target(at(replica, 8080));
        ruleset.sets.entry(SetName::Targets(family, shard)).or_default().insert(SetKey::Slot(first), target);
    }
    let (map, key) = match bind {
        Bind::Any => (SetName::Ports, SetKey::Port(L4::Tcp, port)),
        Bind::Address(address) => (SetName::Bound(Family::of(address)), SetKey::AddressPort(address, L4::Tcp, port)),
        Bind::Device(device) => (SetName::DevicePorts, SetKey::DevicePort(device, L4::Tcp, port)),
    };
    ruleset.sets.entry(map).or_default().insert(key, SetValue::Goto(chain));
}

#[test]
fn a_bound_port_answers_there_and_nowhere_else() {
    let mut ruleset = ruleset();
    // Two addresses of this node, and one that another node may have.
    let addresses = [["192.0.2.11", "2001:db8::11"], ["192.0.2.12", "2001:db8::12"], ["203.0.113.7", "2001:db8:7::7"]];
    let replica = |index: usize| [REPLICAS[0][index], REPLICAS[1][index]];
    for (index, pair) in addresses.iter().enumerate() {
        for address in pair {
            let shard = 8 + u8::try_from(index).unwrap();
            bind(&mut ruleset, 90, shard, Bind::Address(address.parse().unwrap()), replica(index));
        }
    }
    bind(&mut ruleset, 91, 8, Bind::Device("c0".parse().unwrap()), replica(2));
    let world = World::new(&ruleset);
    for (family, length) in [(0, "/24"), (1, "/64 nodad")] {
        for pair in &addresses[..2] {
            let (length, nodad) = length.split_once(' ').unwrap_or((length, ""));
            world.node.ip(format!("addr add {}{length} dev c0 {nodad}", pair[family]).trim());
        }
        let here = |index: usize| Some(at(REPLICAS[family][index], 8080));
        let other = addresses[2][family];
        for (caller, host, to, port, end) in [
            ("client", &world.client, addresses[0][family], 90, here(0)),
            ("client", &world.client, addresses[1][family], 90, here(1)),
            ("client", &world.client, NODE[family], 90, None),
            ("client", &world.client, NODE[family], 91, here(2)),
            ("node", &world.node, addresses[0][family], 90, here(0)),
            ("node", &world.node, addresses[1][family], 90, here(1)),
            ("node", &world.node, NODE[family], 90, None),
            ("node", &world.node, NODE[family], 91, None),
            ("container", &world.internal, addresses[0][family], 90, here(0)),
            ("container", &world.internal, addresses[1][family], 90, here(1)),
            ("container", &world.internal, other, 90, here(2)),
            ("container", &world.internal, NODE[family], 90, None),
            ("container", &world.internal, NODE[family], 91, None),
        ] {
            let found = host.run(move || call_tcp(at(to, port)).map(|(end, _)| end).map_err(|error| error.kind()));
            assert_eq!(found, end.ok_or(ErrorKind::ConnectionRefused), "{caller} to {to} port {port}");
        }
        // From outside an address that this node has not got is not its business.
        let found = world.client.run(move || call_tcp(at(other, 90)).map_err(|error| error.kind()));
        assert_ne!(found.map(|(end, _)| Some(end)), Ok(here(2)));
    }
}

#[test]
fn a_replica_reaches_itself() {
    let mut ruleset = ruleset();
    let own = ["10.9.0.9", "fd00:9::9"];
    let vips = ["10.9.240.9", "fd00:9::f000:9"];
    bind(&mut ruleset, 92, 8, Bind::Any, own);
    let chain = ChainName::Vip(ServiceId::new(9).unwrap());
    let first = Slot(9 << 16);
    let rule = |family| Rule::BalanceVip { family, shard: 9, first, slots: 1, pick: Pick::Turn };
    ruleset.chains.insert(chain, Chain { rules: Family::BOTH.map(rule).into() });
    for (index, family) in Family::BOTH.into_iter().enumerate() {
        let own: IpAddr = own[index].parse().unwrap();
        let vip = SetKey::Address(vips[index].parse().unwrap());
        ruleset
            .sets
            .entry(SetName::Replicas(family, 9))
            .or_default()
            .insert(SetKey::Slot(first), SetValue::Address(own));
        ruleset.sets.entry(SetName::Vips(family)).or_default().insert(vip, SetValue::Goto(chain));
        let pairs = ruleset.sets.entry(SetName::Hairpin(family)).or_default();
        pairs.insert(SetKey::AddressPair(own, own), SetValue::Nothing);
    }
    let world = World::new(&ruleset);
    let lone = Host::new();
    world.node.ip(&format!("link add weft.b2 type veth peer name eth0 netns {}", lone.tid));
    for (host, line) in [
        (&world.node, "link set weft.b2 up"),
        (&lone, "link set eth0 up"),
        (&world.node, "addr add 169.254.1.1/32 dev weft.b2"),
        (&world.node, "addr add fe80::1/64 dev weft.b2 nodad"),
        (&world.node, "route add 10.9.0.9/32 dev weft.b2 src 192.0.2.1"),
        (&world.node, "-6 route add fd00:9::9/128 dev weft.b2 src 2001:db8::1"),
        (&lone, "addr add 10.9.0.9/32 dev eth0"),
        (&lone, "addr add fd00:9::9/128 dev eth0 nodad"),
        (&lone, "route add 169.254.1.1 dev eth0 scope link"),
        (&lone, "route add default via 169.254.1.1 dev eth0"),
        (&lone, "-6 route add default via fe80::1 dev eth0"),
    ] {
        host.ip(line);
    }
    lone.run(move || {
        for address in own {
            serve_tcp(at(address, 8080));
            serve_udp(at(address, 8080));
        }
    });
    for family in [0, 1] {
        // By a port of its own node, of another node (the client is one), and by its VIP.
        for (call, to) in [
            (call_tcp as Call, at(NODE[family], 92)),
            (call_tcp as Call, at(CLIENT[family], 92)),
            (call_tcp as Call, at(vips[family], 8080)),
            (call_udp as Call, at(vips[family], 8080)),
        ] {
            let (end, seen) = lone.run(move || call(to).unwrap_or_else(|error| panic!("to {to}: {error}")));
            assert_eq!(end, at(own[family], 8080), "to {to}");
            assert_eq!(seen, ["169.254.1.1", "fd77:6566::1:1"][family].parse::<IpAddr>().unwrap(), "to {to}");
        }
        // Just in that case: another container is seen as itself.
        let (end, seen) = world.containers.run(move || call_tcp(at(vips[family], 8080)).unwrap());
        assert_eq!(end, at(own[family], 8080));
        assert!(REPLICAS[family].iter().any(|replica| replica.parse() == Ok(seen)), "{seen}");
    }
}

#[test]
fn segments_fit_into_the_tunnel_in_both_directions() {
    /// Less than any link here would ask for, and the time stamps that each segment carries (RFC 7323, 3.2).
    const MSS: u16 = 1000;
    const TIME_STAMPS: u32 = 12;
    let mut ruleset = ruleset();
    let rules = Family::BOTH.map(|family| Rule::ClampMss(family, MSS));
    ruleset.chains.insert(ChainName::ClampMss, Chain { rules: rules.into() });
    let world = World::new(&ruleset);
    for family in [0, 1] {
        let replica = at(REPLICAS[family][0], 7070);
        let listener = world.containers.run(move || TcpListener::bind(replica).unwrap());
        let connect = |host: &Host, to: SocketAddr| {
            let caller = host.run(move || TcpStream::connect_timeout(&to, PATIENCE).unwrap());
            let (mut accepted, _) = listener.accept().unwrap();
            accepted.write_all(b"!").unwrap();
            [getsockopt(&caller, TcpMaxSeg).unwrap(), getsockopt(&accepted, TcpMaxSeg).unwrap()]
        };
        // Out of the tunnel and the answer into it; then the other way round.
        assert_eq!(connect(&world.peer, replica), [u32::from(MSS) - TIME_STAMPS; 2]);
        // A container leaves as its node, whichever address that has there.
        world.peer.ip(["route add 169.254.2.1 dev tun0", "-6 route add 2001:db8::1 via fe80::21 dev tun0"][family]);
        let peer = at(PEERS_CLIENT[family], 7071);
        let routes = [
            "route add 198.51.100.9 via 169.254.2.2 dev weft.vx onlink",
            "-6 route add 2001:db8:100::9 via fe80::22 dev weft.vx",
        ];
        world.node.ip(routes[family]);
        let listener = world.peer.run(move || TcpListener::bind(peer).unwrap());
        let caller = world.containers.run(move || TcpStream::connect_timeout(&peer, PATIENCE).unwrap());
        let (accepted, _) = listener.accept().unwrap();
        let sizes = [&caller, &accepted].map(|end| getsockopt(end, TcpMaxSeg).unwrap());
        assert_eq!(sizes, [u32::from(MSS) - TIME_STAMPS; 2]);
    }
    // What does not pass the tunnel is left alone.
    let caller = world.client.run(|| TcpStream::connect_timeout(&at(NODE[0], 80), PATIENCE).unwrap());
    assert!(getsockopt(&caller, TcpMaxSeg).unwrap() > u32::from(MSS));
}
