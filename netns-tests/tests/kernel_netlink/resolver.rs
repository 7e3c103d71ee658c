//! What a node takes as its own without an address on a device: the resolver's addresses; and the way between the nodes'
//! gateway addresses.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    thread,
    time::Duration,
};

use netns_tests::isolated;
use nix::sys::{
    socket::{
        AddressFamily, Backlog, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrStorage, bind, listen,
        recv, sendto, setsockopt, socket, sockopt,
    },
    time::{TimeVal, TimeValLike},
};
use weft::{
    kernel::{Kernel, LinuxKernel},
    model::{Family, HostState, Mac, Network, NextHop, NodeId, Route, RouteTable, VTEP_LINK, Vtep},
    overlay::{gateway, gateways},
    plan::{Step, plan},
};

use super::support::{Container, endpoint_link, node, put, rows, run, vtep, without_settings};

const PORT: u16 = 53;

fn resolvers() -> [IpAddr; 2] {
    [Network::RESOLVER_V4.into(), Network::RESOLVER_V6.into()]
}

#[test]
fn local_routes_go_in_and_out_among_the_kernels_own() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        run("ip addr add 198.51.100.1/32 dev lo; ip route add local 198.51.100.9 dev lo table local");
        let table = || (rows("ip -j -4 route show table local"), rows("ip -j -6 route show table local"));
        let before = table();
        for address in resolvers() {
            let place = (RouteTable::LOCAL, address.into());
            let route = Route { next_hop: NextHop::Local };
            let state = put(&kernel, Step::PutRoute(place.0, place.1, route.clone())).await;
            assert_eq!(state.routes.iter().collect::<Vec<_>>(), [(&place, &route)], "{address}");
            let wanted = HostState { routes: [(place, route)].into(), ..HostState::default() };
            assert!(plan(&wanted, &without_settings(&state)).is_empty());
            let family = if address.is_ipv6() { "-6" } else { "-4" };
            let listed = rows(&format!("ip -j {family} route show table local proto 77"));
            assert_eq!((listed.len(), &listed[0]["type"], &listed[0]["dev"]), (1, &"local".into(), &"lo".into()));
            // Another hand's route in its place is seen and put right.
            run(&format!("ip {family} route replace blackhole {address} table local proto 77 metric 77"));
            assert!(!plan(&wanted, &without_settings(&kernel.observe().await.unwrap())).is_empty());
            kernel.apply(&Step::PutRoute(place.0, place.1, Route { next_hop: NextHop::Local })).await.unwrap();
            assert!(plan(&wanted, &without_settings(&kernel.observe().await.unwrap())).is_empty());
            assert!(put(&kernel, Step::DeleteRoute(place.0, place.1)).await.routes.is_empty());
        }
        assert_eq!(table(), before);
    });
}

#[test]
fn containers_reach_the_resolver_of_their_node() {
    isolated(|| async {
        let kernel = LinuxKernel::open().await.unwrap();
        run("sysctl -qw net.ipv4.conf.all.rp_filter=1");
        let container = Container::start();
        let (name, attachment) = endpoint_link(1, &container, &["10.9.1.5", "fd00:9::5"]);
        kernel.apply(&Step::CreateLink(name.clone(), attachment)).await.unwrap();
        for address in ["10.9.1.5", "fd00:9::5"] {
            let own = address.parse::<IpAddr>().unwrap().into();
            let route = Route { next_hop: NextHop::Link(name.clone()) };
            kernel.apply(&Step::PutRoute(RouteTable::MAIN, own, route)).await.unwrap();
        }
        for address in resolvers() {
            let route = Route { next_hop: NextHop::Local };
            kernel.apply(&Step::PutRoute(RouteTable::LOCAL, address.into(), route)).await.unwrap();
            let (tcp, udp) = listeners(SocketAddr::new(address, PORT));
            let answering = thread::spawn(move || {
                let (mut stream, asker) = tcp.accept().unwrap();
                stream.write_all(b"by stream").unwrap();
                drop(stream);
                udp.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
                let mut question = [0; 64];
                let (_, from) = udp.recv_from(&mut question).unwrap();
                udp.send_to(b"by datagram", from).unwrap();
                (asker.ip(), from.ip())
            });
            let mut stream = container.open(&address.to_string(), PORT).unwrap();
            assert_eq!(stream.peer_addr().unwrap().ip(), address);
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert_eq!(answer, "by stream");
            // A connected socket takes answers from the address that was asked alone.
            container.inside(move || {
                let any: IpAddr = if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { [0_u16; 8].into() };
                let socket = UdpSocket::bind((any, 0)).unwrap();
                socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
                socket.connect((address, PORT)).unwrap();
                socket.send(b"?").unwrap();
                let mut answer = [0; 64];
                let length = socket.recv(&mut answer).unwrap();
                assert_eq!(&answer[..length], b"by datagram");
            });
            let own: IpAddr = if address.is_ipv4() { "10.9.1.5" } else { "fd00:9::5" }.parse().unwrap();
            assert_eq!(answering.join().unwrap(), (own, own));
        }
    });
}

#[test]
fn nodes_echo_at_their_gateway_addresses_under_every_reverse_path_filter() {
    isolated(|| async {
        let other = Container::start();
        run(&format!("ip link add u1 type veth peer name u2 netns {}", inode_name(&other)));
        run("ip addr add 192.0.2.1/24 dev u1; ip link set u1 up");
        other.run("ip addr add 192.0.2.2/24 dev u2; ip link set u2 up");
        for all in 0..=2 {
            let setting = format!("sysctl -qw net.ipv4.conf.all.rp_filter={all} net.ipv4.conf.default.rp_filter={all}");
            run(&setting);
            other.run(&setting);
            let loose = if all == 0 { "0" } else { "2" };
            tunnel_end(1, 2, loose).await;
            let loose = loose.to_owned();
            other.inside(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(tunnel_end(2, 1, &loose));
            });
            echo(node(1), node(2)).unwrap_or_else(|error| panic!("rp_filter {all}: {error}"));
            other.inside(move || echo(node(2), node(1)).unwrap_or_else(|error| panic!("rp_filter {all}: {error}")));
        }
    });
}

/// The path of a container's namespace as `ip` takes it: by the number of a task.
fn inode_name(container: &Container) -> String {
    container.path.split('/').nth(4).unwrap().to_owned()
}

/// The rows of node `me` that concern `peer`.
async fn tunnel_end(me: u16, peer: u16, rp_filter: &str) {
    let kernel = LinuxKernel::open().await.unwrap();
    let underlay = |id: u16| IpAddr::from([192, 0, 2, u8::try_from(id).unwrap()]);
    let vtep = Vtep { local: underlay(me), address: gateway(Family::V4, node(me)), ..vtep(me) };
    for step in [
        Step::CreateVtep(vtep),
        Step::PutFdb(Mac::of_vtep(node(peer)), underlay(peer)),
        Step::PutNeighbour(gateway(Family::V4, node(peer)), Mac::of_vtep(node(peer))),
        Step::PutRoute(RouteTable::MAIN, gateways(), Route { next_hop: NextHop::TunnelLink }),
    ] {
        kernel.apply(&step).await.unwrap();
    }
    run(&format!("sysctl -qw net/ipv4/conf/{VTEP_LINK}/rp_filter={rp_filter}"));
}

/// One ICMP echo (RFC 792) from a socket that is bound to the tunnel device.
fn echo(from: NodeId, to: NodeId) -> Result<(), String> {
    let IpAddr::V4(destination) = gateway(Family::V4, to) else { return Err("no IPv4 address".to_owned()) };
    let socket = socket(AddressFamily::Inet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Icmp)
        .map_err(|errno| errno.to_string())?;
    setsockopt(&socket, sockopt::BindToDevice, &VTEP_LINK.into()).map_err(|errno| errno.to_string())?;
    setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(5)).map_err(|errno| errno.to_string())?;
    // Type 8, code 0, checksum, identifier and sequence: the sum of all 16-bit words is to be 0xffff.
    let identifier = from.get();
    let sum = !(0x0800_u16 + identifier);
    let mut request = vec![8, 0];
    for word in [sum, identifier, 0] {
        request.extend(word.to_be_bytes());
    }
    let to_address = SockaddrIn::from(std::net::SocketAddrV4::new(destination, 0));
    sendto(socket.as_raw_fd(), &request, &to_address, MsgFlags::empty()).map_err(|errno| errno.to_string())?;
    let mut packet = [0; 256];
    loop {
        let length = recv(socket.as_raw_fd(), &mut packet, MsgFlags::empty())
            .map_err(|errno| format!("no answer from {destination}: {errno}"))?;
        let source = Ipv4Addr::from(<[u8; 4]>::try_from(&packet[12..16]).unwrap());
        if length >= 28 && packet[20] == 0 && source == destination && packet[24..26] == identifier.to_be_bytes() {
            return Ok(());
        }
    }
}

/// Listeners at an address that no device carries.
fn listeners(at: SocketAddr) -> (TcpListener, UdpSocket) {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let open = |kind| -> OwnedFd {
        let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC, None).unwrap();
        setsockopt(&socket, sockopt::IpFreebind, &true).unwrap();
        bind(socket.as_raw_fd(), &SockaddrStorage::from(at)).unwrap();
        socket
    };
    let stream = open(SockType::Stream);
    listen(&stream, Backlog::new(16).unwrap()).unwrap();
    (stream.into(), open(SockType::Datagram).into())
}
