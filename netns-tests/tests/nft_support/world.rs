//! A node between a client, containers and a peer on the tunnel, each a namespace.
//!
//! ```text
//! client 192.0.2.2 ---- 192.0.2.1 node weft.b0 ---- eth0 containers 10.9.0.2 to 10.9.0.4
//!                                      weft.b1 ---- eth0 container 10.9.1.2 of an internal network
//!                                      weft.vx ---- tun0 peer (198.51.100.9 behind it)
//! ```

use std::{
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::mpsc::{SyncSender, sync_channel},
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use weft::{
    kernel::nft::Nft,
    model::{Bind, Chain, ChainName, Family, L4, Mac, Rule, Ruleset, ServiceId, SetKey, SetName, SetValue, Slot},
    plan::NftChange,
};

use crate::{nft_support, rulesets};

/// Far more than any answer takes here, far less than a retransmission limit.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A namespace with a thread in it that does what it is sent. Ends with the value, and nothing of it stays.
pub(crate) struct Host {
    pub(crate) tid: i32,
    work: Option<SyncSender<Box<dyn FnOnce() + Send>>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    pub(crate) fn new() -> Self {
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
    pub(crate) fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tell, answer) = sync_channel(1);
        let work = move || {
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            // Nobody waits any more only if the test has failed already.
            let _ = tell.send(result);
        };
        self.work.as_ref().unwrap().send(Box::new(work)).unwrap();
        answer.recv().unwrap().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    pub(crate) fn command(&self, line: &str) -> String {
        let line = line.to_owned();
        self.run(move || {
            let words: Vec<_> = line.split(' ').collect();
            let output = Command::new(words[0]).args(&words[1..]).output().unwrap();
            assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    pub(crate) fn ip(&self, arguments: &str) {
        self.command(&format!("ip {arguments}"));
    }

    pub(crate) fn nft(&self, script: &str) -> String {
        let script = script.to_owned();
        self.run(move || {
            let output = Command::new("nft").arg(&script).output().unwrap();
            assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        })
    }

    pub(crate) fn sysctl(&self, path: &'static str, value: &'static str) {
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
pub(crate) struct World {
    pub(crate) node: Host,
    pub(crate) client: Host,
    pub(crate) containers: Host,
    pub(crate) internal: Host,
    pub(crate) peer: Host,
    pub(crate) nft: Nft,
}

pub(crate) const CLIENT: [&str; 2] = ["192.0.2.2", "2001:db8::2"];
pub(crate) const NODE: [&str; 2] = ["192.0.2.1", "2001:db8::1"];
pub(crate) const VIPS: [&str; 2] = ["10.9.240.1", "fd00:9::f000:1"];
pub(crate) const REPLICAS: [[&str; 3]; 2] =
    [["10.9.0.2", "10.9.0.3", "10.9.0.4"], ["fd00:9::2", "fd00:9::3", "fd00:9::4"]];
pub(crate) const INTERNAL: [&str; 2] = ["10.9.1.2", "fd00:9:0:1::2"];
pub(crate) const PEERS_CLIENT: [&str; 2] = ["198.51.100.9", "2001:db8:100::9"];
/// TCP and UDP ports that nobody is behind.
pub(crate) const REFUSED: u16 = 65535;

/// Everything, with three replicas behind port 80 (TCP), 53 (UDP) and the VIPs.
pub(crate) fn ruleset() -> Ruleset {
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
        let service = ServiceId::new(7).unwrap();
        let takers = replicas.iter().map(|text| SetKey::Address(text.parse().unwrap()));
        ruleset.sets.insert(SetName::Takers(family), takers.map(|taker| (taker, SetValue::Service(service))).collect());
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
    let refused = ChainName::Port(L4::Udp, REFUSED, Bind::Any);
    ruleset.chains.insert(refused, Chain { rules: vec![Rule::RefuseTcp, Rule::RefuseOther] });
    let ports = ruleset.sets.get_mut(&SetName::Ports).unwrap();
    ports.insert(SetKey::Port(L4::Udp, REFUSED), SetValue::Goto(refused));
    // The client is also a node of the cluster.
    for (family, client) in Family::BOTH.into_iter().zip(CLIENT) {
        for set in [SetName::Peers(family), SetName::Nodes(family)] {
            let addresses = ruleset.sets.get_mut(&set).unwrap();
            addresses.insert(SetKey::Address(client.parse().unwrap()), SetValue::Nothing);
        }
    }
    ruleset
}

/// The rules with VIPs open to everybody: the only container here is the replicas' own, which cannot call itself.
pub(crate) fn open_vips(mut ruleset: Ruleset) -> Ruleset {
    for rule in &mut ruleset.chains.get_mut(&ChainName::NatPrerouting).unwrap().rules {
        if let Rule::DispatchVip(family) = *rule {
            *rule = Rule::DispatchVipLocally(family);
        }
    }
    ruleset
}

impl World {
    pub(crate) fn new(ruleset: &Ruleset) -> Self {
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

    pub(crate) fn observe(&self) -> Ruleset {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(self.nft.observe()).unwrap().unwrap()
    }

    pub(crate) fn apply(&self, changes: &[NftChange]) {
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(self.nft.apply(changes)).unwrap();
    }
}

/// Tells every caller both ends of the connection.
pub(crate) fn serve_tcp(address: SocketAddr) {
    let listener = TcpListener::bind(address).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            let text = format!("{} {}", stream.local_addr().unwrap(), from.ip());
            let _ = stream.write_all(text.as_bytes());
        }
    });
}

pub(crate) fn serve_udp(address: SocketAddr) {
    let socket = UdpSocket::bind(address).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, from)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(format!("{address} {}", from.ip()).as_bytes(), from);
        }
    });
}

/// What the other end says of a connection: itself and whom it sees.
pub(crate) fn call_tcp(to: SocketAddr) -> std::io::Result<(SocketAddr, IpAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (end, seen) = text.split_once(' ').unwrap_or_else(|| panic!("{to} says {text:?}"));
    Ok((end.parse().unwrap(), seen.parse().unwrap()))
}

pub(crate) fn call_udp(to: SocketAddr) -> std::io::Result<(SocketAddr, IpAddr)> {
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

pub(crate) fn at(address: &str, port: u16) -> SocketAddr {
    (address.parse::<IpAddr>().unwrap(), port).into()
}

pub(crate) type Call = fn(SocketAddr) -> std::io::Result<(SocketAddr, IpAddr)>;
