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
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use weft::{
    kernel::nft::Nft,
    model::{Chain, ChainName, Family, L4, Mac, Rule, Ruleset, ServiceId, SetKey, SetName, SetValue, Slot},
    plan::NftChange,
};

mod nft_support;

#[path = "../../tests/goldens/rulesets.rs"]
#[expect(dead_code, reason = "only the whole one is of use here")]
mod rulesets;

/// Far more than any answer takes here, far less than a retransmission limit.
const PATIENCE: Duration = Duration::from_secs(10);
/// An answer that comes within this was not waited for: TCP tries again after one second.
const AT_ONCE: Duration = Duration::from_millis(900);

/// A namespace with a thread in it that does what it is sent. Ends with the value, and nothing of it stays.
struct Host {
    tid: i32,
    work: Option<SyncSender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    fn new() -> Self {
        let (work, todo) = sync_channel::<Box<dyn FnOnce() + Send>>(1);
        let (tell, tid) = sync_channel(1);
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace needs root: run the tests as root");
            tell.send(gettid().as_raw()).unwrap();
            for work in todo {
                work();
            }
        });
        let host = Self { tid: tid.recv().unwrap(), work: Some(work), thread: Some(thread) };
        host.ip("link set lo up");
        host
    }

    /// Runs `work` in the namespace; a panic in it is the caller's.
    fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, answer) = sync_channel(1);
        let work = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // Nobody waits any more only if the test has failed already.
            let _ = tell.send(result);
        };
        self.work.as_ref().unwrap().send(Box::new(work)).unwrap();
        answer.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn command(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || {
            let words: Vec<_> = line.split(' ').collect();
            let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    fn ip(&self, arguments: &str) {
        self.command(&format!("ip {arguments}"));
    }

    fn nft(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || {
            let output = Command::new("nft").arg(&script).output().unwrap();
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    fn sysctl(&self, path: &'static str, value: &'static str) {
        // /proc/sys/net shows the namespace of the thread that opens it.
        self.run(move || std::fs::write(format!("/proc/sys/net/{path}"), value).unwrap());
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        drop(self.work.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The node with its neighbours; the node first, so that it ends last.
struct World {
    node: Host,
    client: Host,
    containers: Host,
    internal: Host,
    peer: Host,
    nft: Nft,
}

const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
const VIPS: [&str; 2] = ["10.9.240.1", "fd00:9::f000:1"];
const REPLICAS: [[&str; 3]; 2] = [["10.9.0.2", "10.9.0.3", "10.9.0.4"], ["fd00:9::2", "fd00:9::3", "fd00:9::4"]];
const INTERNAL: [&str; 2] = ["10.9.1.2", "fd00:9:0:1::2"];
const PEERS_CLIENT: [&str; 2] = ["198.51.100.9", "2001:db8:100::9"];
/// TCP and UDP ports that nobody is behind.
const REFUSED: u16 = 65535;

/// Everything, with three replicas behind port 80 (TCP), 53 (UDP) and the VIPs.
fn ruleset() -> Ruleset {
    let mut ruleset = rulesets::everything();
    let first = 7 << 16;
    for (family, replicas) in Family::BOTH.into_iter().zip(REPLICAS) {
        let slots = || {
            replicas.iter().zip(0_u32..).map(|(text, turn)| (SetKey::Slot(Slot(first + turn)), text.parse().unwrap()))
        };
        let targets = slots().map(|(slot, ip): (_, IpAddr)| (slot, SetValue::Target((ip, 8080).into()))).collect();
        let addresses = slots().map(|(slot, ip)| (slot, SetValue::Address(ip))).collect();
        ruleset.sets.insert(SetName::Targets(family, 7), targets);
        ruleset.sets.insert(SetName::Replicas(family, 255), addresses);
    }
    for chain in ruleset.chains.values_mut() {
        for rule in &mut chain.rules {
            match rule {
                Rule::BalancePort { slots, .. } => *slots = 3,
                Rule::BalanceVip { slots, first: from, .. } => (*slots, *from) = (3, Slot(first)),
                _ => {}
            }
        }
    }
    let refused = ChainName::Port(L4::Udp, REFUSED);
    ruleset.chains.insert(refused, Chain { rules: vec![Rule::RefuseTcp, Rule::RefuseOther] });
    let ports = ruleset.sets.get_mut(&SetName::Ports).unwrap();
    ports.insert(SetKey::Port(L4::Udp, REFUSED), SetValue::Goto(refused));
    // The client is also a node of the cluster.
    for (family, client) in Family::BOTH.into_iter().zip(CLIENT) {
        let peers = ruleset.sets.get_mut(&SetName::Peers(family)).unwrap();
        peers.insert(SetKey::Address(client.parse().unwrap()), SetValue::Nothing);
    }
    ruleset
}

impl World {
    fn new(ruleset: &Ruleset) -> Self {
        let [node, client, containers, internal, peer] = [(); 5].map(|()| Host::new());
        for (link, host, end) in [
            ("c0", &client, "eth0"),
            ("weft.b0", &containers, "eth0"),
            ("weft.b1", &internal, "eth0"),
            ("weft.vx", &peer, "tun0"),
        ] {
            node.ip(&format!("link add {link} type veth peer name {end} netns {}", host.tid));
            node.ip(&format!("link set {link} up"));
            host.ip(&format!("link set {end} up"));
        }
        node.sysctl("ipv4/ip_forward", "1");
        node.sysctl("ipv6/conf/all/forwarding", "1");
        node.sysctl("ipv4/conf/all/rp_filter", "0");
        node.sysctl("ipv4/conf/weft.vx/rp_filter", "0");
        for (host, line) in [
            (&node, "addr add 192.0.2.1/24 dev c0"),
            (&node, "addr add 2001:db8::1/64 dev c0 nodad"),
            (&client, "addr add 192.0.2.2/24 dev eth0"),
            (&client, "addr add 2001:db8::2/64 dev eth0 nodad"),
            (&client, "route add default via 192.0.2.1"),
            (&client, "-6 route add default via 2001:db8::1"),
            // As weft's netlink edge does it: link-local gateways, no bridge.
            (&node, "addr add 169.254.1.1/32 dev weft.b0"),
            (&node, "addr add fe80::1/64 dev weft.b0 nodad"),
            (&node, "route add 10.9.0.0/24 dev weft.b0 src 192.0.2.1"),
            (&node, "-6 route add fd00:9::/112 dev weft.b0 src 2001:db8::1"),
            (&containers, "route add 169.254.1.1 dev eth0 scope link"),
            (&containers, "-6 route add default via fe80::1 dev eth0"),
            (&node, "addr add 169.254.1.1/32 dev weft.b1"),
            (&node, "addr add fe80::1/64 dev weft.b1 nodad"),
            (&node, "route add 10.9.1.0/24 dev weft.b1 src 192.0.2.1"),
            (&node, "-6 route add fd00:9:0:1::/64 dev weft.b1 src 2001:db8::1"),
            (&internal, "addr add 10.9.1.2/32 dev eth0"),
            (&internal, "addr add fd00:9:0:1::2/128 dev eth0 nodad"),
            (&internal, "route add 169.254.1.1 dev eth0 scope link"),
            (&internal, "route add default via 169.254.1.1"),
            (&internal, "-6 route add default via fe80::1 dev eth0"),
            // A peer whose client comes in by the tunnel, and no way back but the mark's.
            (&node, "addr add 169.254.2.1/32 dev weft.vx"),
            (&node, "addr add fe80::21/64 dev weft.vx nodad"),
            (&peer, "addr add 198.51.100.9/32 dev lo"),
            (&peer, "addr add 2001:db8:100::9/128 dev lo nodad"),
            (&peer, "addr add 169.254.2.2/32 dev tun0"),
            (&peer, "addr add fe80::22/64 dev tun0 nodad"),
            (&peer, "route add 10.9.0.0/24 via 169.254.2.1 dev tun0 onlink src 198.51.100.9"),
            (&peer, "-6 route add fd00:9::/112 via fe80::21 dev tun0 src 2001:db8:100::9"),
            (&node, "rule add fwmark 0x10000/0x0fff0000 lookup 77001"),
            (&node, "-6 rule add fwmark 0x10000/0x0fff0000 lookup 77001"),
            (&node, "route add default via 169.254.2.2 dev weft.vx onlink table 77001"),
            (&node, "-6 route add default via fe80::22 dev weft.vx table 77001"),
        ] {
            host.ip(line);
        }
        peer.ip(&format!("link set tun0 address {}", Mac([2, 0x77, 0x65, 0x66, 0, 1])));
        for address in REPLICAS.as_flattened() {
            let is_v6 = address.contains(':');
            containers.ip(&format!(
                "addr add {address}/{} dev eth0{}",
                if is_v6 { 128 } else { 32 },
                if is_v6 { " nodad" } else { "" }
            ));
        }
        containers.ip("route add default via 169.254.1.1");
        for address in REPLICAS.as_flattened() {
            let address: IpAddr = address.parse().unwrap();
            containers.run(move || {
                serve_tcp((address, 8080).into());
                serve_tcp((address, 9090).into());
                serve_udp((address, 8080).into());
            });
        }
        let nft = node.run(Nft::open).unwrap();
        let world = Self { node, client, containers, internal, peer, nft };
        world.apply(&nft_support::making(ruleset));
        world
    }

    fn apply(&self, changes: &[NftChange]) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(self.nft.apply(changes)).unwrap();
    }
}

/// Tells every caller both ends of the connection.
fn serve_tcp(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let text = format!("{} {}", stream.local_addr().unwrap(), from.ip());
            let _ = stream.write_all(text.as_bytes());
        }
    });
}

fn serve_udp(address: SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{address} {}", from.ip()).as_bytes(), from);
        }
    });
}

/// What the other end says of a connection: itself and whom it sees.
fn call_tcp(to: SocketAddr) -> std::io::Result<(SocketAddr, IpAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (end, seen) = text.split_once(' ').unwrap_or_else(|| panic!("{to} says {text:?}"));
    Ok((end.parse().unwrap(), seen.parse().unwrap()))
}

fn call_udp(to: SocketAddr) -> std::io::Result<(SocketAddr, IpAddr)> {
    let any: IpAddr = if to.is_ipv4() { "0.0.0.0" } else { "::" }.parse().unwrap();
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    // A datagram that is refused on its way out of this very host fails with EPERM, and the refusal itself comes as well.
    socket.send(b"?").or_else(|error| if error.kind() == ErrorKind::PermissionDenied { Ok(0) } else { Err(error) })?;
    let mut buffer = [0; 128];
    let length = socket.recv(&mut buffer)?;
    let text = std::str::from_utf8(&buffer[..length]).unwrap();
    let (end, seen) = text.split_once(' ').unwrap();
    Ok((end.parse().unwrap(), seen.parse().unwrap()))
}

fn at(address: &str, port: u16) -> SocketAddr {
    (address.parse::<IpAddr>().unwrap(), port).into()
}

type Call = fn(SocketAddr) -> std::io::Result<(SocketAddr, IpAddr)>;

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

/// The rules with VIPs open to everybody: the only container here is the replicas' own, which cannot call itself.
fn open_vips() -> Ruleset {
    let mut ruleset = ruleset();
    for rule in &mut ruleset.chains.get_mut(&ChainName::NatPrerouting).unwrap().rules {
        if let Rule::DispatchVip(family) = *rule {
            *rule = Rule::DispatchVipLocally(family);
        }
    }
    ruleset
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
    let world = World::new(&open_vips());
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
    let chain = ChainName::Port(L4::Tcp, 80);
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
