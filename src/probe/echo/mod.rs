//! Echoes to peers over the tunnel. A socket lives as long as its task; an answer that nobody reads any more is lost, and that is fine.

mod packet;

use std::{
    ffi::OsString,
    io,
    net::{Ipv4Addr, SocketAddrV4},
    os::fd::AsRawFd,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, bind, recvfrom, sendto, setsockopt,
        socket, sockopt,
    },
};
use tokio::{io::Interest, net::UdpSocket};

/// Room for the answers of a full turn that nobody has read yet, and for the echoes that others send us, of which the socket
/// gets copies: about a thousand packets at what the kernel counts for a small one.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Packets taken in one go, so that a flood of them does not keep the caller.
const TAKEN_MAX: usize = 4096;

/// An answer to an echo.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Echo {
    /// Who answered.
    pub from: Ipv4Addr,
    /// What was given to [`EchoSocket::send`].
    pub stamp: u64,
}

/// ICMP echoes by way of one device (RFC 792; raw(7), needs `CAP_NET_RAW`). The other side's kernel answers them, whatever runs
/// or does not run there.
///
/// It is bound to the device that has the name when it is opened: once that is gone every send fails, and another socket has to be
/// opened.
#[derive(Debug)]
pub struct EchoSocket {
    /// A raw socket. Tokio has no name for one, and what it knows of UDP sockets (to wait until there is something to read) is the
    /// same for both.
    socket: UdpSocket,
    /// Random bits: answers to others' echoes do not have them.
    cookie: u64,
}

impl EchoSocket {
    /// A socket that sends from `source` by way of `device`. Fails if there is no such device, or it has not that address.
    pub fn open(device: &str, source: Ipv4Addr, cookie: u64) -> io::Result<Self> {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        let socket = socket(AddressFamily::Inet, SockType::Raw, flags, SockProtocol::Icmp)?;
        setsockopt(&socket, sockopt::BindToDevice, &OsString::from(device))?;
        bind(socket.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(source, 0)))?;
        // The default serves as well while there are few peers.
        let _ = setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER);
        Ok(Self { socket: UdpSocket::from_std(socket.into())?, cookie })
    }

    /// Sends an echo. Its answer brings `stamp` back.
    pub fn send(&self, to: Ipv4Addr, stamp: u64) -> io::Result<()> {
        let packet = packet::request(self.cookie, stamp);
        let to = SockaddrIn::from(SocketAddrV4::new(to, 0));
        sendto(self.socket.as_raw_fd(), &packet, &to, MsgFlags::MSG_DONTWAIT)?;
        Ok(())
    }

    /// Waits until there are answers, and takes them.
    pub async fn answers(&self) -> io::Result<Vec<Echo>> {
        let take = || self.take().and_then(|taken| taken.ok_or_else(|| Errno::EWOULDBLOCK.into()));
        self.socket.async_io(Interest::READABLE, take).await
    }

    /// Takes the answers that have arrived.
    pub fn answers_now(&self) -> io::Result<Vec<Echo>> {
        Ok(self.take()?.unwrap_or_default())
    }

    /// What has arrived; nothing if that was no packet at all.
    fn take(&self) -> io::Result<Option<Vec<Echo>>> {
        let mut answers = None;
        let mut buffer = [0; 256];
        for _ in 0..TAKEN_MAX {
            match recvfrom::<SockaddrIn>(self.socket.as_raw_fd(), &mut buffer) {
                Ok((length, from)) => {
                    let answers: &mut Vec<Echo> = answers.get_or_insert_default();
                    let stamp = buffer.get(..length).and_then(|packet| packet::answered(packet, self.cookie));
                    answers.extend(stamp.zip(from).map(|(stamp, from)| Echo { from: from.ip(), stamp }));
                }
                Err(Errno::EWOULDBLOCK) => break,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        Ok(answers)
    }
}
