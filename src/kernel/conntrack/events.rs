//! Which connections begin and end, as the kernel tells it.
//!
//! The kernel drops what is not translated before it wakes anybody (a socket filter), and builds no message at all for a kind of
//! event that nobody listens to: changes of state, of which a TCP connection has five or more, are not asked for. What is lost when the
//! socket is full is told as lost.

use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, setsockopt, sockopt},
};
use socket2::{SockFilter, SockRef};

use super::{FlowHandle, parse, socket::SUBSYSTEM};
use crate::{
    kernel::{
        KernelError,
        nft::{socket::messages, wire::NETFILTER_HEADER_LEN},
    },
    model::Flow,
};

/// `NFNLGRP_CONNTRACK_NEW` and `NFNLGRP_CONNTRACK_DESTROY` in `linux/netfilter/nfnetlink.h`.
const GROUPS: [u32; 2] = [1, 3];

/// `IPCTNL_MSG_CT_NEW` and `IPCTNL_MSG_CT_DELETE`.
const NEW: u16 = SUBSYSTEM;
const DELETE: u16 = SUBSYSTEM | 2;

/// Room for events, in bytes; the kernel counts some 1 KiB each. A tenth of a second at 10,000 a second.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

const PIECE_BYTES: usize = 64 << 10;

/// Lets only translated connections through (`IPS_DST_NAT`, bit 5 of the attribute `CTA_STATUS`): in the classic BPF of
/// `linux/filter.h`, with its extension that finds a netlink attribute.
const TRANSLATED_ONLY: [(u16, u8, u8, u32); 9] = [
    // A = where the attributes begin: behind `nlmsghdr` and `nfgenmsg`.
    (0x00, 0, 0, 20),
    // X = CTA_STATUS
    (0x01, 0, 0, 3),
    // A = offset of attribute X: SKF_AD_OFF + SKF_AD_NLATTR
    (0x20, 0, 0, 0xffff_f00c),
    // if A == 0 goto drop
    (0x15, 4, 0, 0),
    // X = A
    (0x07, 0, 0, 0),
    // A = the attribute's value
    (0x40, 0, 0, 4),
    // if A & IPS_DST_NAT pass, else drop
    (0x45, 0, 1, 1 << 5),
    (0x06, 0, 0, u32::MAX),
    (0x06, 0, 0, 0),
];

/// What happened to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happening {
    /// Its first packet has passed.
    Began,
    /// Its entry is gone.
    Ended,
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowEvent {
    /// What happened.
    pub happening: Happening,
    /// How to find the entry.
    pub handle: FlowHandle,
    /// The connection as it was then.
    pub flow: Flow,
}

/// The beginnings and ends of translated connections of one network namespace. Dropping it closes the socket.
pub struct FlowEvents {
    socket: TokioSocket,
    piece: Vec<u8>,
    is_muted: bool,
}

impl FlowEvents {
    /// Opens the socket in the calling thread's network namespace; the caller must have entered the runtime.
    pub(super) fn open() -> Result<Self, KernelError> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
            let filter = TRANSLATED_ONLY.map(|(code, yes, no, k)| SockFilter::new(code, yes, no, k));
            SockRef::from(socket.socket_ref()).attach_filter(&filter)?;
            Ok(socket)
        };
        let socket = open().map_err(|error| failed(&error))?;
        let mut events = Self { socket, piece: Vec::with_capacity(PIECE_BYTES), is_muted: true };
        events.unmute()?;
        Ok(events)
    }

    /// Waits for events and gives `each` those that have come, at most about `max`. Whether some were lost. May be dropped and called
    /// again without loss.
    pub async fn next(&mut self, max: usize, mut each: impl FnMut(FlowEvent)) -> Result<bool, KernelError> {
        self.piece.clear();
        let mut is_lossy = match self.socket.recv(&mut self.piece).await {
            Ok(()) => false,
            Err(error) => is_overrun(&error)?,
        };
        let mut count = 0;
        loop {
            for event in messages(&self.piece).filter_map(|message| event(message.message_type(), message.payload())) {
                count += 1;
                each(event);
            }
            if count >= max {
                return Ok(is_lossy);
            }
            self.piece.clear();
            match self.socket.socket_ref().recv(&mut self.piece, MsgFlags::MSG_DONTWAIT.bits()) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(is_lossy),
                Err(error) => is_lossy |= is_overrun(&error)?,
            }
        }
    }

    /// Stops listening: from here on the kernel does no work for it.
    pub fn mute(&mut self) -> Result<(), KernelError> {
        if !self.is_muted {
            for group in GROUPS {
                self.socket.socket_ref().drop_membership(group).map_err(|error| failed(&error))?;
            }
        }
        self.is_muted = true;
        Ok(())
    }

    /// Whether it does not listen.
    pub fn is_muted(&self) -> bool {
        self.is_muted
    }

    /// Listens again.
    pub fn unmute(&mut self) -> Result<(), KernelError> {
        if self.is_muted {
            for group in GROUPS {
                self.socket.socket_ref().add_membership(group).map_err(|error| failed(&error))?;
            }
        }
        self.is_muted = false;
        Ok(())
    }
}

fn event(kind: u16, payload: &[u8]) -> Option<FlowEvent> {
    let happening = match kind {
        NEW => Happening::Began,
        DELETE => Happening::Ended,
        _ => return None,
    };
    let body = payload.get(NETFILTER_HEADER_LEN..)?;
    let flow = parse::flow(body).filter(Flow::is_translated)?;
    Some(FlowEvent { happening, handle: parse::handle(body)?, flow })
}

fn failed(error: &io::Error) -> KernelError {
    KernelError::new("listen to connections that begin and end", error)
}

/// Whether events were lost; any other error is one.
fn is_overrun(error: &io::Error) -> Result<bool, KernelError> {
    match error.raw_os_error() {
        Some(code) if code == Errno::ENOBUFS as i32 => Ok(true),
        _ => Err(failed(error)),
    }
}
