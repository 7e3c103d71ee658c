use std::io;

use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::socket::{MsgFlags, setsockopt, sockopt},
};

use crate::kernel::KernelError;

use super::{
    TABLE,
    socket::messages,
    wire::{self, NETFILTER_HEADER_LEN},
};

/// `NFNLGRP_NFTABLES` in `linux/netfilter/nfnetlink.h`.
const GROUP_NFTABLES: u32 = 7;

/// `NFPROTO_INET` in `linux/netfilter.h`.
const FAMILY_INET: u8 = 1;

/// Room for notices, in bytes. If it is not enough the kernel says so, and that counts as a notice.
const RECEIVE_BUFFER_BYTES: usize = 1 << 20;

/// The kernel puts at most `NLMSG_GOODSIZE` (8 KiB) of notices into a piece.
const PIECE_BYTES: usize = 64 << 10;

/// Tells that somebody else changed the table `inet weft`. What changed is not told: look again.
///
/// Dropping it closes the socket.
pub struct NftChanges {
    socket: TokioSocket,
    /// The socket whose changes are our own.
    own_port: u32,
    piece: Vec<u8>,
}

impl NftChanges {
    pub(super) fn open(own_port: u32) -> Result<Self, KernelError> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
            socket.socket_mut().bind(&SocketAddr::new(0, 0))?;
            setsockopt(socket.socket_ref(), sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
            socket.socket_mut().add_membership(GROUP_NFTABLES)?;
            Ok(socket)
        };
        Ok(Self { socket: open().map_err(|error| failed(&error))?, own_port, piece: Vec::with_capacity(PIECE_BYTES) })
    }

    /// Waits until the table was changed by another socket than our own. All notices that have come by then are one. May
    /// be dropped and called again without loss.
    pub async fn changed(&mut self) -> Result<(), KernelError> {
        loop {
            self.piece.clear();
            let mut is_changed = match self.socket.recv(&mut self.piece).await {
                Ok(()) => tells_of_others(&self.piece, self.own_port),
                Err(error) => is_overrun(&error).map_err(|error| failed(&error))?,
            };
            loop {
                self.piece.clear();
                match self.socket.socket_ref().recv(&mut self.piece, MsgFlags::MSG_DONTWAIT.bits()) {
                    Ok(_) => is_changed |= tells_of_others(&self.piece, self.own_port),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => is_changed |= is_overrun(&error).map_err(|error| failed(&error))?,
                }
            }
            if is_changed {
                return Ok(());
            }
        }
    }
}

fn failed(error: &io::Error) -> KernelError {
    KernelError::new("listen for changes of nftables", error)
}

/// Whether notices were lost, some of which may have been ours to see; any other error is one.
fn is_overrun(error: &io::Error) -> io::Result<bool> {
    match error.raw_os_error() {
        Some(code) if code == Errno::ENOBUFS as i32 => Ok(true),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::Error::from(error.kind())),
    }
}

/// Whether a piece has a notice about our table that our own changes did not cause. In notices of every kind, attribute 1
/// is the table's name.
fn tells_of_others(piece: &[u8], own_port: u32) -> bool {
    messages(piece).filter(|message| message.message_type() != wire::NEW_GENERATION).any(|message| {
        let payload = message.payload();
        let attributes = payload.get(NETFILTER_HEADER_LEN..).unwrap_or_default();
        message.port_number() != own_port
            && payload.first() == Some(&FAMILY_INET)
            && wire::text(attributes, wire::nfta::TABLE_NAME) == Some(TABLE)
    })
}
