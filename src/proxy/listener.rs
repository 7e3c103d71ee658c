use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    os::fd::{AsFd, OwnedFd},
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, getsockopt, listen, setsockopt, socket,
        sockopt,
    },
};

use super::Place;
use crate::model::Bind;

/// Connections that wait to be accepted; the kernel lowers it to `net.core.somaxconn` (listen(2)). It is what a restart of the
/// agent has to hold, some hundred milliseconds at ten thousand a second.
const BACKLOG: i32 = 4096;

/// Seconds of silence until keepalive asks, and between its questions; their number is the kernel's (9, tcp(7)).
const KEEPALIVE_S: u32 = 60;

/// Opens the listening socket of a place.
pub(super) fn listen_at(place: Place) -> io::Result<TcpListener> {
    let socket = open(place, SockType::Stream)?;
    // Accepted sockets inherit all three, so that no connection pays a system call for them.
    setsockopt(&socket, sockopt::TcpNoDelay, &true)?;
    setsockopt(&socket, sockopt::KeepAlive, &true)?;
    setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_S)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    Ok(TcpListener::from(socket))
}

/// Whether a socket still is where its place wants it. One that was bound to a device is bound to its index, and to nothing once
/// that device is gone.
pub(super) fn is_bound(socket: impl AsFd, place: Place) -> bool {
    match place.bind {
        Bind::Any | Bind::Address(_) => true,
        Bind::Device(device) => getsockopt(&socket, sockopt::BindToDevice)
            .is_ok_and(|name| name.to_str().is_some_and(|name| name.trim_end_matches('\0') == device.as_str())),
    }
}

/// Opens the socket of a place for datagrams.
pub(super) fn receive_at(place: Place) -> io::Result<UdpSocket> {
    Ok(UdpSocket::from(open(place, SockType::Datagram)?))
}

/// Lets keepalive watch over a connection; what a door has accepted is watched from the start.
pub(super) fn keep_alive(socket: impl AsFd) {
    // Without it the connection is closed when it has been idle for too long, only later.
    let _ = setsockopt(&socket, sockopt::KeepAlive, &true);
    let _ = setsockopt(&socket, sockopt::TcpKeepIdle, &KEEPALIVE_S);
}

fn open(place: Place, kind: SockType) -> io::Result<OwnedFd> {
    let Place { bind: at, port, protocol: _ } = place;
    let port = port.get();
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match at {
        Bind::Address(address) => bound(SocketAddr::new(address, port), kind, at),
        // A kernel without IPv6 has no such sockets, one that has it switched off no such addresses.
        Bind::Any | Bind::Device(_) => bound(any6, kind, at).or_else(|error| match error {
            Errno::EAFNOSUPPORT | Errno::EADDRNOTAVAIL => {
                bound(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)), kind, at)
            }
            error => Err(error),
        }),
    }
    .map_err(io::Error::from)
}

fn bound(address: SocketAddr, kind: SockType, at: Bind) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC, None)?;
    if kind == SockType::Stream {
        // Connections of a former process may still be in TIME_WAIT at this port.
        setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    }
    if address.is_ipv6() {
        setsockopt(&socket, sockopt::Ipv6V6Only, &matches!(at, Bind::Address(_)))?;
    }
    if let Bind::Device(device) = at {
        setsockopt(&socket, sockopt::BindToDevice, &device.as_str().into())?;
    }
    bind(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrStorage::from(address))?;
    Ok(socket)
}
