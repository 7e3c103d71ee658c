//! Connection tracking against the real kernel: live connections of both families, translated and not, in a namespace whose
//! loopback device carries a replica and whose rules translate a VIP to it.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket},
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};

use netns_tests::isolated;
use weft::{
    kernel::conntrack::{Conntrack, FlowEvent, FlowEvents, Happening},
    model::{Flow, L4},
};

/// A busy machine's bound on what the kernel does in microseconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// Each family's replica, VIP and another address.
const REPLICAS: [&str; 2] = ["10.9.0.2", "fd00:9::2"];
const VIPS: [&str; 2] = ["10.9.240.1", "fd00:9::f000:1"];
const OTHERS: [&str; 2] = ["10.9.0.3", "fd00:9::3"];

fn run(line: &str) {
    let output = Command::new("sh").args(["-c", line]).output().unwrap();
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

fn address(text: &str, port: u16) -> SocketAddr {
    SocketAddr::new(text.parse().unwrap(), port)
}

/// Addresses on `lo`, and a VIP in front of the replica.
fn world() {
    for text in [REPLICAS, VIPS, OTHERS].concat() {
        let len = if text.contains(':') { 128 } else { 32 };
        run(&format!("ip addr add {text}/{len} dev lo{}", if len == 128 { " nodad" } else { "" }));
    }
    run("nft 'add table inet t; \
         add chain inet t nat { type nat hook output priority -100; }; \
         add rule inet t nat ip daddr 10.9.240.1 dnat ip to 10.9.0.2; \
         add rule inet t nat ip6 daddr fd00:9::f000:1 dnat ip6 to fd00:9::2'");
}

fn connect(listener: &TcpListener, to: SocketAddr) -> (TcpStream, TcpStream) {
    let client = TcpStream::connect_timeout(&to, PATIENCE).unwrap();
    (client, listener.accept().unwrap().0)
}

fn exchange(server: &UdpSocket, to: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind(if to.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).unwrap();
    client.connect(to).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send(b"question").unwrap();
    let mut buffer = [0; 16];
    let (_, from) = server.recv_from(&mut buffer).unwrap();
    server.send_to(b"answer", from).unwrap();
    client.recv(&mut buffer).unwrap();
    client
}

async fn counts(conntrack: &Conntrack) -> BTreeMap<IpAddr, u32> {
    let asked: BTreeSet<IpAddr> = [REPLICAS, OTHERS].concat().iter().map(|text| text.parse().unwrap()).collect();
    conntrack.open_connections(&asked).await.unwrap()
}

async fn eventually(conntrack: &Conntrack, replica: IpAddr, wanted: u32) {
    let begun = Instant::now();
    loop {
        let open = counts(conntrack).await[&replica];
        if open == wanted {
            return;
        }
        assert!(begun.elapsed() < PATIENCE, "{replica}: {open} connections instead of {wanted}");
        tokio::task::yield_now().await;
    }
}

#[test]
fn connections_count_while_either_side_may_have_data() {
    isolated(|| async {
        world();
        let conntrack = Conntrack::open().unwrap();
        for family in [0, 1] {
            let replica: IpAddr = REPLICAS[family].parse().unwrap();
            let server = TcpListener::bind(address(REPLICAS[family], 80)).unwrap();
            let udp = UdpSocket::bind(address(REPLICAS[family], 80)).unwrap();
            eventually(&conntrack, replica, 0).await;

            let (direct, direct_end) = connect(&server, address(REPLICAS[family], 80));
            let (translated, translated_end) = connect(&server, address(VIPS[family], 80));
            eventually(&conntrack, replica, 2).await;

            // Half closed: the replica may still send.
            direct.shutdown(Shutdown::Write).unwrap();
            eventually(&conntrack, replica, 2).await;
            drop(direct_end);
            drop(direct);
            eventually(&conntrack, replica, 1).await;

            // A reset ends one at once.
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(&translated, nix::sys::socket::sockopt::Linger, &linger).unwrap();
            drop(translated);
            eventually(&conntrack, replica, 0).await;
            drop(translated_end);

            exchange(&udp, address(REPLICAS[family], 80));
            exchange(&udp, address(VIPS[family], 80));
            let silent = UdpSocket::bind(address(OTHERS[family], 0)).unwrap();
            silent.send_to(b"nobody answers", address(REPLICAS[family], 80)).unwrap();
            eventually(&conntrack, replica, 2).await;

            // What the replica itself began is not its clients'.
            let elsewhere = TcpListener::bind(address(OTHERS[family], 81)).unwrap();
            let (_mine, _theirs) = connect(&elsewhere, address(OTHERS[family], 81));
            assert_eq!(counts(&conntrack).await[&replica], 2);
            assert_eq!(counts(&conntrack).await[&OTHERS[family].parse().unwrap()], 1);
        }
    });
}

#[test]
fn a_syn_that_nobody_answers_counts_for_a_moment() {
    isolated(|| async {
        world();
        run("nft 'add chain inet t in { type filter hook input priority 0; }; add rule inet t in tcp dport 82 drop'");
        let conntrack = Conntrack::open().unwrap();
        for family in [0, 1] {
            let replica: IpAddr = REPLICAS[family].parse().unwrap();
            let patience = Duration::from_millis(100);
            TcpStream::connect_timeout(&address(VIPS[family], 82), patience).expect_err("nobody answers");
            assert_eq!(counts(&conntrack).await[&replica], 1);
            eventually(&conntrack, replica, 0).await;
            assert_eq!(entries(&format!("dst={}", VIPS[family]), "UNREPLIED"), 1);
        }
    });
}

/// How many entries of `conntrack -L` name both addresses.
fn entries(one: &str, two: &str) -> usize {
    let mut count = 0;
    for family in ["ipv4", "ipv6"] {
        let output = Command::new("conntrack").args(["-L", "-f", family]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        count += text.lines().filter(|line| line.contains(one) && line.contains(two)).count();
    }
    count
}

#[test]
fn what_is_stale_is_forgotten_in_every_zone_and_nothing_else() {
    isolated(|| async {
        world();
        // A zone as the mesh's: for the original direction alone.
        run("nft 'add table inet z; add chain inet z raw { type filter hook output priority -300; }; \
             add rule inet z raw udp sport 7001 ct original zone set 5; \
             add rule inet z raw udp sport 7002 ct zone set 6'");
        let conntrack = Conntrack::open().unwrap();
        for family in [0, 1] {
            let (vip, replica) = (VIPS[family], REPLICAS[family]);
            let udp = UdpSocket::bind(address(replica, 80)).unwrap();
            let tcp = TcpListener::bind(address(replica, 80)).unwrap();
            let any = if family == 0 { "0.0.0.0" } else { "::" };
            for port in [7001, 7002, 7003] {
                let client = UdpSocket::bind(address(any, port)).unwrap();
                client.send_to(b"question", address(vip, 80)).unwrap();
                udp.recv_from(&mut [0; 16]).unwrap();
            }
            let kept = exchange(&udp, address(replica, 80));
            let (_client, _server) = connect(&tcp, address(vip, 80));
            assert_eq!(entries(&format!("dst={vip}"), &format!("src={replica}")), 4);
            let is_stale = |flow: &Flow| flow.protocol == L4::Udp && flow.is_translated();
            assert_eq!(conntrack.forget(Arc::new(is_stale)).await.unwrap(), 3);
            assert_eq!(entries(&format!("dst={vip}"), &format!("src={replica}")), 1, "TCP stays");
            assert_eq!(entries("udp", &format!("sport={}", kept.local_addr().unwrap().port())), 1);
            assert_eq!(conntrack.forget(Arc::new(is_stale)).await.unwrap(), 0);
        }
    });
}

#[test]
fn thousands_are_forgotten_in_batches() {
    isolated(|| async {
        world();
        let conntrack = Conntrack::open().unwrap();
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        for port in 1000..6000 {
            client.send_to(b"x", address(VIPS[0], port)).unwrap();
        }
        let begun = Instant::now();
        let forgotten = conntrack.forget(Arc::new(|flow| flow.asked.port() < 5000)).await.unwrap();
        println!("{forgotten} forgotten in {:?}", begun.elapsed());
        assert_eq!(forgotten, 4000);
        assert_eq!(conntrack.forget(Arc::new(Flow::is_translated)).await.unwrap(), 1000);
    });
}

/// Hears until `count` events have come.
async fn hear(events: &mut FlowEvents, count: usize) -> Vec<FlowEvent> {
    let mut heard = Vec::new();
    while heard.len() < count {
        let next = tokio::time::timeout(PATIENCE, events.next(100, |event| heard.push(event))).await;
        assert!(!next.expect("no event comes").unwrap(), "events were lost");
    }
    heard
}

#[test]
fn beginnings_and_ends_of_translated_connections_are_told_with_what_came_of_them() {
    isolated(|| async {
        world();
        let conntrack = Conntrack::open().unwrap();
        conntrack.count_bytes().unwrap();
        let mut events = conntrack.listen().unwrap();
        for family in [0, 1] {
            let server = TcpListener::bind(address(REPLICAS[family], 80)).unwrap();
            // Not translated: never told.
            let _direct = connect(&server, address(REPLICAS[family], 80));
            let (client, end) = connect(&server, address(VIPS[family], 80));
            let began = hear(&mut events, 1).await.remove(0);
            assert_eq!(began.happening, Happening::Began);
            assert_eq!(
                (began.flow.asked, began.flow.replica),
                (address(VIPS[family], 80), address(REPLICAS[family], 80))
            );
            assert_eq!(began.flow.client, client.local_addr().unwrap());
            let now = conntrack.look_at(vec![began.handle.clone()]).await.unwrap().remove(0).unwrap();
            assert!(now.is_answered && now.bytes.is_some_and(|bytes| bytes > 100), "{now:?}");

            // A port on which nobody listens: the reset ends the entry at once, unanswered.
            assert!(TcpStream::connect_timeout(&address(VIPS[family], 81), PATIENCE).is_err());
            let refused = hear(&mut events, 2).await;
            assert_eq!([refused[0].happening, refused[1].happening], [Happening::Began, Happening::Ended]);
            assert_eq!(refused[0].handle.id(), refused[1].handle.id());
            assert!(!refused[1].flow.is_answered, "{refused:?}");
            let gone = conntrack.look_at(vec![refused[0].handle.clone()]).await.unwrap();
            assert_eq!(gone, [None]);

            // Forgotten while it lives: told with its bytes.
            conntrack.forget(Arc::new(|flow: &Flow| flow.asked.port() == 80 && flow.is_translated())).await.unwrap();
            let ended = hear(&mut events, 1).await.remove(0);
            assert_eq!((ended.happening, ended.handle.id()), (Happening::Ended, began.handle.id()));
            assert!(ended.flow.is_answered && ended.flow.bytes.is_some_and(|bytes| bytes > 100), "{ended:?}");
            drop((client, end));
        }

        // With its ears closed it is told nothing, afterwards neither.
        let client = UdpSocket::bind("0.0.0.0:0").unwrap();
        events.mute().unwrap();
        client.send_to(b"x", address(VIPS[0], 1)).unwrap();
        events.unmute().unwrap();
        client.send_to(b"x", address(VIPS[0], 2)).unwrap();
        let heard = hear(&mut events, 1).await;
        assert_eq!(heard.iter().map(|event| event.flow.asked.port()).collect::<Vec<_>>(), [2], "{heard:?}");

        // More than fits is told as lost, and then it goes on.
        for port in 1000..9000 {
            client.send_to(b"x", address(VIPS[0], port)).unwrap();
        }
        let mut is_lossy = false;
        while !is_lossy {
            let next = tokio::time::timeout(PATIENCE, events.next(100_000, |_| {})).await;
            is_lossy = next.expect("the loss is not told").unwrap();
        }
        client.send_to(b"x", address(VIPS[0], 9999)).unwrap();
        assert_eq!(hear(&mut events, 1).await.last().unwrap().flow.asked.port(), 9999);
    });
}
