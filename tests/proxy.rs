//! The proxy in one process, over the host's own loopback: what it carries, whom it chooses, what it refuses.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    num::NonZeroU16,
    sync::atomic::{AtomicU8, Ordering},
    thread,
    time::{Duration, Instant},
};

use weft::{
    model::{Bind, EndpointId, L4, ProxyMode, ProxyProtocol},
    proxy::{Cause, Door, Handed, Known, Place, PortCount, Proxy, ReplicaCount, Spread, Table, Target, count_key},
};

/// Long beside anything here, short beside a person's patience.
const BOUND: Duration = Duration::from_secs(10);

/// Each test has a loopback address of its own, so that none meets another's ports.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 100 + high % 100, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

struct Setting {
    proxy: Proxy,
    replicas: Vec<TcpListener>,
    door: Door,
}

impl Setting {
    fn new(replicas: usize, spread: impl FnOnce(&[u16]) -> Spread, headers: ProxyMode) -> Self {
        let replicas: Vec<TcpListener> =
            (0..replicas).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
        let target = |(number, replica): (usize, &TcpListener)| {
            let address = replica.local_addr().unwrap();
            let port = NonZeroU16::new(address.port()).unwrap();
            Target { id: EndpointId(number as u64), addresses: vec![address.ip()], port, weight: 1 }
        };
        let round: Vec<u16> = (0..replicas.len()).map(|index| u16::try_from(index).unwrap()).collect();
        let door = Door {
            place: Place {
                bind: Bind::Address(own_address()),
                port: NonZeroU16::new(8080).unwrap(),
                protocol: L4::Tcp,
            },
            service: "web".into(),
            beside_kernel: false,
            headers,
            targets: replicas.iter().enumerate().map(target).collect(),
            spread: spread(&round),
        };
        let proxy = Proxy::start(Handed::default()).unwrap();
        let setting = Self { proxy, replicas, door };
        setting.apply();
        setting
    }

    fn in_turn(replicas: usize) -> Self {
        Self::new(replicas, |round| Spread::InTurn(round.into()), ProxyMode::default())
    }

    fn apply(&self) {
        self.apply_knowing(&self.known());
    }

    /// All replicas and what has been the service's name.
    fn known(&self) -> Known {
        let Place { port, protocol, .. } = self.door.place;
        Known {
            ports: ["web", "shop"].map(|service| count_key(service, port, protocol)).into(),
            replicas: (0..self.replicas.len()).map(|number| EndpointId(number as u64)).collect(),
        }
    }

    fn apply_knowing(&self, known: &Known) {
        let table = Table { doors: vec![self.door.clone()], known: known.clone() };
        assert_eq!(self.proxy.apply(&table).troubles, []);
    }

    fn connect(&self) -> TcpStream {
        let Bind::Address(address) = self.door.place.bind else { panic!("doors of tests have addresses") };
        let client = TcpStream::connect((address, self.door.place.port.get())).unwrap();
        client.set_read_timeout(Some(BOUND)).unwrap();
        client
    }

    fn accept(&self, replica: usize) -> TcpStream {
        let server = self.replicas[replica].accept().unwrap().0;
        server.set_read_timeout(Some(BOUND)).unwrap();
        server
    }

    fn pair(&self) -> (TcpStream, TcpStream) {
        (self.connect(), self.accept(0))
    }

    /// The counters once they are as wanted.
    fn wait_count(&self, what: &str, wanted: impl Fn(&PortCount) -> bool) -> PortCount {
        self.wait_count_of("web", what, wanted)
    }

    fn wait_count_of(&self, service: &str, what: &str, wanted: impl Fn(&PortCount) -> bool) -> PortCount {
        let begun = Instant::now();
        loop {
            let counts = self.proxy.counts();
            let of_service = counts.iter().find(|((name, _), _)| name == service);
            let count = of_service.map(|(_, count)| count.clone()).unwrap_or_default();
            if wanted(&count) {
                return count;
            }
            assert!(begun.elapsed() < BOUND, "{what}: {count:?}");
            thread::yield_now();
        }
    }
}

fn read_exactly(mut stream: &TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    stream.read_exact(&mut bytes).unwrap();
    bytes
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(31) >> 3).to_le_bytes()[0]).collect()
}

#[test]
fn it_carries_both_ways_and_passes_the_end_on() {
    let setting = Setting::in_turn(1);
    let (mut client, mut server) = setting.pair();
    client.write_all(b"ping").unwrap();
    assert_eq!(read_exactly(&server, 4), b"ping");
    server.write_all(b"pong").unwrap();
    assert_eq!(read_exactly(&client, 4), b"pong");
    // One way ends, the other goes on.
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    server.write_all(b"still there").unwrap();
    assert_eq!(read_exactly(&client, 11), b"still there");
    drop(server);
    client.read_to_end(&mut rest).unwrap();
    assert!(rest.is_empty());
    let count = setting.wait_count("the connection has ended", |count| count.open == 0 && count.bytes_to_clients > 0);
    assert_eq!((count.accepted, count.bytes_from_clients, count.bytes_to_clients), (1, 4, 15));
}

/// Well above the buffer, the threshold of the pipe and every socket's buffer, both ways at once, with a reader that pauses.
#[test]
fn what_streams_arrives_whole() {
    let setting = Setting::in_turn(1);
    let (client, server) = setting.pair();
    let bytes = pattern(48 << 20);
    thread::scope(|scope| {
        for side in [&client, &server] {
            let bytes = &bytes;
            scope.spawn(move || {
                let mut writer = side;
                writer.write_all(bytes).unwrap();
                side.shutdown(std::net::Shutdown::Write).unwrap();
            });
            scope.spawn(move || {
                let mut reader = side;
                let mut received = Vec::new();
                reader.read_to_end(&mut received).unwrap();
                assert!(received == *bytes, "{} of {} bytes", received.len(), bytes.len());
            });
        }
    });
    let count = setting.wait_count("the connection has ended", |count| count.open == 0);
    assert_eq!((count.bytes_from_clients, count.bytes_to_clients), (48 << 20, 48 << 20));
}

#[test]
fn a_slow_reader_holds_back_its_writer() {
    let setting = Setting::in_turn(1);
    let (client, server) = setting.pair();
    client.set_nonblocking(true).unwrap();
    let chunk = pattern(1 << 16);
    let mut written = 0;
    // Nobody reads: what is written is bounded by the sockets' buffers and one pipe.
    let begun = Instant::now();
    let mut full_since = None;
    while full_since.is_none_or(|since: Instant| since.elapsed() < Duration::from_millis(300)) {
        match (&client).write(&chunk) {
            Ok(len) => (written, full_since) = (written + len, None),
            Err(_) => drop(full_since.get_or_insert_with(Instant::now)),
        }
        assert!(written < 256 << 20, "{written} bytes without a reader");
        assert!(begun.elapsed() < 3 * BOUND);
    }
    client.shutdown(std::net::Shutdown::Write).unwrap();
    let mut received = Vec::new();
    (&server).read_to_end(&mut received).unwrap();
    assert_eq!(received.len(), written);
}

#[test]
fn the_fewest_connections_are_chosen_and_a_dead_replica_is_passed_over() {
    let mut setting = Setting::new(3, |_| Spread::FewestOpen, ProxyMode::default());
    let mut held = Vec::new();
    for _ in 0..2 {
        for replica in 0..3 {
            held.push((setting.connect(), setting.accept(replica)));
        }
    }
    // The third's two end: the next two are its.
    drop(
        held.drain(..).enumerate().filter(|(at, _)| at % 3 != 2).map(|(_, pair)| pair).collect::<Vec<_>>().split_off(4),
    );
    setting.wait_count("all have ended", |count| count.open == 0);

    // A replica that refuses is tried, counted and passed over; its connections go to the others.
    drop(setting.replicas.remove(1));
    let pairs: Vec<_> = (0..4).map(|_| setting.connect()).collect();
    setting.wait_count("the others have taken all", |count| count.failures[&Cause::Connect] > 0 && count.open == 4);
    drop(pairs);
}

#[test]
fn without_a_replica_it_is_reset_at_once() {
    let mut setting = Setting::in_turn(1);
    setting.door.targets.clear();
    setting.door.spread = Spread::InTurn([].into());
    setting.apply();
    let error = setting.connect().read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    setting.wait_count("it is counted", |count| count.failures[&Cause::NoReplica] == 1 && count.open == 0);
}

#[test]
fn a_replica_that_is_taken_out_keeps_its_connections() {
    let mut setting = Setting::in_turn(2);
    let (mut client, mut server) = setting.pair();
    // Until bytes flow the proxy may still find that the replica was taken out, and go to another.
    client.write_all(b"go").unwrap();
    assert_eq!(read_exactly(&server, 2), b"go");
    setting.door.targets.remove(0);
    setting.door.spread = Spread::InTurn([0].into());
    setting.apply();
    for _ in 0..4 {
        let _new = (setting.connect(), setting.accept(1));
    }
    client.write_all(b"on").unwrap();
    assert_eq!(read_exactly(&server, 2), b"on");
    server.write_all(b"and on").unwrap();
    assert_eq!(read_exactly(&client, 6), b"and on");
    // So do those of a door that closes, while new ones are refused.
    assert_eq!(setting.proxy.apply(&Table::default()).troubles, []);
    client.write_all(b"still").unwrap();
    assert_eq!(read_exactly(&server, 5), b"still");
}

/// A connection that waits for its PROXY header has no replica yet: it gets none that has been drained meanwhile.
#[test]
fn who_has_no_replica_yet_gets_none_that_was_taken_out() {
    let headers = ProxyMode { send: None, accept_from: vec!["127.0.0.0/8".parse().unwrap()] };
    let mut setting = Setting::new(2, |round| Spread::InTurn(round.into()), headers);
    setting.replicas[0].set_nonblocking(true).unwrap();
    let mut waiting = setting.connect();
    let mut closed = setting.connect();
    setting.wait_count("both are accepted", |count| count.open == 2);
    setting.door.targets.remove(0);
    setting.door.spread = Spread::InTurn([0].into());
    setting.apply();
    waiting.write_all(b"PROXY UNKNOWN\r\nGET").unwrap();
    assert_eq!(read_exactly(&setting.accept(1), 3), b"GET");
    // Nor does one of a door that has been closed.
    assert_eq!(setting.proxy.apply(&Table::default()).troubles, []);
    closed.write_all(b"PROXY UNKNOWN\r\nGET").unwrap();
    assert!(closed.read(&mut [0; 1]).is_err());
    assert!(setting.replicas[0].accept().is_err(), "the first replica was connected to");
}

#[test]
fn a_port_that_passes_to_another_service_counts_for_that() {
    let mut setting = Setting::in_turn(1);
    let (mut client, server) = setting.pair();
    setting.wait_count("it is accepted", |count| count.open == 1);
    setting.door.service = "shop".into();
    setting.apply();
    let _new = setting.pair();
    // What was there before stays with its service.
    client.write_all(b"on").unwrap();
    assert_eq!(read_exactly(&server, 2), b"on");
    drop((client, server));
    let count = setting.wait_count_of("web", "the first has ended", |count| count.open == 0);
    assert_eq!((count.accepted, count.bytes_from_clients), (1, 2));
    let count = setting.wait_count_of("shop", "the second is accepted", |count| count.open == 1);
    assert_eq!((count.accepted, count.bytes_from_clients), (1, 0));
}

#[test]
fn each_replica_is_counted_until_it_is_gone() {
    let setting = Setting::in_turn(2);
    for (number, bytes) in [(0, 3), (1, 5), (0, 7)] {
        let (mut client, server) = (setting.connect(), setting.accept(number));
        client.write_all(&pattern(bytes)).unwrap();
        assert_eq!(read_exactly(&server, bytes).len(), bytes);
        (&server).write_all(b"ok").unwrap();
        assert_eq!(read_exactly(&client, 2), b"ok");
    }
    let ended = setting.wait_count("all have ended", |count| (count.accepted, count.open) == (3, 0));
    let counted = |connections, bytes| ReplicaCount { connections, bytes };
    let (first, second) = (counted(2, 3 + 7 + 4), counted(1, 5 + 2));
    assert_eq!(ended.replicas, [(EndpointId(0), first), (EndpointId(1), second)].into());
    // Out of balancing is not gone.
    let mut setting = setting;
    setting.door.targets.remove(0);
    setting.door.spread = Spread::InTurn([0].into());
    setting.apply();
    assert_eq!(setting.wait_count("it is known", |_| true).replicas.len(), 2);
    setting.apply_knowing(&Known { replicas: [EndpointId(1)].into(), ..setting.known() });
    assert_eq!(setting.wait_count("it is gone", |_| true).replicas, [(EndpointId(1), second)].into());
}

/// One client has half of all places and more; the last eighth is not for it.
#[test]
fn a_client_leaves_places_for_others() {
    let mut setting = Setting::in_turn(1);
    setting.proxy.apply(&Table::default());
    setting.proxy = Proxy::start_bounded(Handed::default(), 16).unwrap();
    setting.apply();
    let mut held: Vec<_> = (0..14).map(|_| setting.pair()).collect();
    let error = setting.connect().read(&mut [0; 1]).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
    let count = setting.wait_count("it is counted", |count| count.failures[&Cause::Resources] == 1);
    assert_eq!((count.accepted, count.open), (14, 14));
    held.truncate(7);
    setting.wait_count("half of them have ended", |count| count.open == 7);
    held.push(setting.pair());
}

#[test]
fn a_port_is_counted_until_it_is_gone_and_its_connections_have_ended() {
    let setting = Setting::in_turn(1);
    let pair = setting.pair();
    setting.wait_count("it is accepted", |count| count.open == 1);
    // A port without a door for the moment.
    let known = Table { doors: vec![], known: setting.known() };
    assert_eq!(setting.proxy.apply(&known).troubles, []);
    assert_eq!(setting.wait_count("it is known", |_| true).accepted, 1);
    assert_eq!(setting.proxy.apply(&Table::default()).troubles, []);
    assert_eq!(setting.wait_count("its connection is open", |_| true).open, 1);
    drop(pair);
    let begun = Instant::now();
    while !setting.proxy.counts().is_empty() {
        assert!(begun.elapsed() < BOUND, "{:?}", setting.proxy.counts());
        thread::yield_now();
    }
    // Under the same name it begins anew.
    setting.apply();
    assert_eq!(
        setting.wait_count("it is back", |_| true),
        PortCount { failures: no_failures(), ..PortCount::default() }
    );
}

fn no_failures() -> std::collections::BTreeMap<Cause, u64> {
    Cause::ALL.into_iter().map(|cause| (cause, 0)).collect()
}

#[test]
fn a_reset_is_passed_on() {
    let setting = Setting::in_turn(1);
    let (mut client, mut server) = setting.pair();
    client.write_all(b"x").unwrap();
    // What is left unread makes the close a RST (RFC 2525, 2.17).
    server.write_all(b"y").unwrap();
    assert_eq!(read_exactly(&client, 1), b"y");
    drop(server);
    let ended = client.read(&mut [0; 16]);
    assert!(matches!(&ended, Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset), "{ended:?}");
    setting.wait_count("it is counted", |count| count.failures[&Cause::Reset] == 1 && count.open == 0);
}

#[test]
fn the_replica_is_told_the_client() {
    for (version, text) in [(ProxyProtocol::V1, true), (ProxyProtocol::V2, false)] {
        let headers = ProxyMode { send: Some(version), accept_from: vec![] };
        let setting = Setting::new(1, |round| Spread::InTurn(round.into()), headers);
        let (client, server) = setting.pair();
        let (from, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
        let wanted = if text {
            format!("PROXY TCP4 {} {} {} {}\r\n", from.ip(), to.ip(), from.port(), to.port()).into_bytes()
        } else {
            v2(from, to)
        };
        assert_eq!(read_exactly(&server, wanted.len()), wanted);
    }
}

fn v2(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let (SocketAddr::V4(from), SocketAddr::V4(to)) = (from, to) else { panic!("{from} {to}") };
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    bytes.extend(from.ip().octets());
    bytes.extend(to.ip().octets());
    bytes.extend(from.port().to_be_bytes());
    bytes.extend(to.port().to_be_bytes());
    bytes
}

#[test]
fn a_named_peer_says_who_the_client_is() {
    let headers = ProxyMode { send: Some(ProxyProtocol::V1), accept_from: vec!["127.0.0.0/8".parse().unwrap()] };
    let setting = Setting::new(1, |round| Spread::InTurn(round.into()), headers);
    let mut client = setting.connect();
    // In pieces, with the first data in the same segment as the header's end.
    for piece in [&b"PROXY TCP6 2001:db8::1 20"[..], b"01:db8::2 4711 80\r\nGET"] {
        client.write_all(piece).unwrap();
    }
    let server = setting.accept(0);
    let wanted = b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\nGET";
    assert_eq!(read_exactly(&server, wanted.len()), wanted);

    for malformed in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"PROXY TCP4 192.0.2.1\r\n", &[b'P'; 200]] {
        let mut client = setting.connect();
        client.write_all(malformed).unwrap();
        assert!(client.read(&mut [0; 1]).is_err(), "{malformed:?}");
    }
    // A header that never ends is cut off after its time, without anybody waiting for it.
    let begun = Instant::now();
    let mut slow = setting.connect();
    slow.write_all(b"PROXY TCP4 ").unwrap();
    let mut quick = setting.connect();
    quick.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    assert_eq!(read_exactly(&setting.accept(0), 15), b"PROXY UNKNOWN\r\n");
    assert!(begun.elapsed() < Duration::from_secs(4), "the quick one waited for the slow one");
    assert!(slow.read(&mut [0; 1]).is_err());
    setting.wait_count("they are counted", |count| count.failures[&Cause::Header] == 4);
}

#[test]
fn datagrams_find_back() {
    let replica = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    replica.set_read_timeout(Some(BOUND)).unwrap();
    let address = replica.local_addr().unwrap();
    let target = Target {
        id: EndpointId(1),
        addresses: vec![address.ip()],
        port: NonZeroU16::new(address.port()).unwrap(),
        weight: 1,
    };
    let at = own_address();
    let place = Place { bind: Bind::Address(at), port: NonZeroU16::new(5300).unwrap(), protocol: L4::Udp };
    let (headers, spread) = (ProxyMode::default(), Spread::InTurn([0].into()));
    let proxy = Proxy::start(Handed::default()).unwrap();
    let table = Table {
        doors: vec![Door {
            place,
            service: "dns".into(),
            beside_kernel: false,
            headers,
            targets: vec![target],
            spread,
        }],
        known: Known::default(),
    };
    assert_eq!(proxy.apply(&table).troubles, []);
    let clients: Vec<UdpSocket> = (0..3)
        .map(|_| {
            let client = UdpSocket::bind((at, 0)).unwrap();
            client.connect((at, 5300)).unwrap();
            client.set_read_timeout(Some(BOUND)).unwrap();
            client
        })
        .collect();
    for (number, client) in clients.iter().enumerate() {
        client.send(&[u8::try_from(number).unwrap()]).unwrap();
    }
    let mut buffer = [0; 16];
    for _ in &clients {
        let (len, from) = replica.recv_from(&mut buffer).unwrap();
        replica.send_to(&buffer[..len], from).unwrap();
    }
    for (number, client) in clients.iter().enumerate() {
        assert_eq!(client.recv(&mut buffer).unwrap(), 1);
        assert_eq!(usize::from(buffer[0]), number);
    }
}

/// A flow keeps its replica for as long as that is there, and its client goes to another once it is not.
#[test]
fn datagrams_leave_a_replica_that_is_taken_out() {
    let replicas: Vec<UdpSocket> = (0..2)
        .map(|_| {
            let replica = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            replica.set_read_timeout(Some(BOUND)).unwrap();
            replica
        })
        .collect();
    let target = |number: usize| {
        let address = replicas[number].local_addr().unwrap();
        let port = NonZeroU16::new(address.port()).unwrap();
        Target { id: EndpointId(number as u64), addresses: vec![address.ip()], port, weight: 1 }
    };
    let at = own_address();
    let place = Place { bind: Bind::Address(at), port: NonZeroU16::new(5300).unwrap(), protocol: L4::Udp };
    let table = |targets: Vec<Target>| {
        let round: Vec<u16> = (0..targets.len()).map(|index| u16::try_from(index).unwrap()).collect();
        let (service, spread) = ("dns".into(), Spread::InTurn(round.into()));
        Table {
            doors: vec![Door { place, service, beside_kernel: false, headers: ProxyMode::default(), targets, spread }],
            known: Known::default(),
        }
    };
    let proxy = Proxy::start(Handed::default()).unwrap();
    assert_eq!(proxy.apply(&table(vec![target(0), target(1)])).troubles, []);
    let client = UdpSocket::bind((at, 0)).unwrap();
    client.connect((at, 5300)).unwrap();
    let mut buffer = [0; 16];
    for number in 0..3 {
        client.send(&[number]).unwrap();
        assert_eq!((replicas[0].recv(&mut buffer).unwrap(), buffer[0]), (1, number));
    }
    assert_eq!(proxy.apply(&table(vec![target(1)])).troubles, []);
    client.send(&[3]).unwrap();
    assert_eq!((replicas[1].recv(&mut buffer).unwrap(), buffer[0]), (1, 3));
    let begun = Instant::now();
    while proxy.counts().values().any(|count| (count.accepted, count.open) != (2, 1)) {
        assert!(begun.elapsed() < BOUND, "{:?}", proxy.counts());
        thread::yield_now();
    }
}

#[test]
fn a_port_in_use_is_trouble_and_an_address_elsewhere_is_none() {
    let taken = TcpListener::bind((own_address(), 0)).unwrap();
    let mut setting = Setting::in_turn(1);
    setting.door.place.bind = Bind::Address(taken.local_addr().unwrap().ip());
    setting.door.place.port = NonZeroU16::new(taken.local_addr().unwrap().port()).unwrap();
    let table = Table { doors: vec![setting.door.clone()], known: setting.known() };
    let troubles = setting.proxy.apply(&table).troubles;
    assert!(troubles.len() == 1 && troubles[0].message.contains("a program of this host has the port"), "{troubles:?}");
    drop(taken);
    setting.apply();
    // RFC 5737, TEST-NET-2: nobody's.
    setting.door.place.bind = Bind::Address("198.51.100.77".parse().unwrap());
    setting.apply();
}
