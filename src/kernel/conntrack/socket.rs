//! The netlink socket: one request at a time, blocking. The kernel works inside the calls.

use std::io;

use netlink_packet_core::{Emitable, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use super::{FlowHandle, parse};
use crate::{
    kernel::nft::{
        socket::{error_code, messages},
        wire::{HEADER_LEN, NETFILTER_HEADER_LEN},
    },
    model::Flow,
};

/// `NFNL_SUBSYS_CTNETLINK` in `linux/netfilter/nfnetlink.h`, the high byte of every message type.
pub(super) const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_GET`.
const GET: u16 = SUBSYSTEM | 1;
/// `IPCTNL_MSG_CT_DELETE`.
const DELETE: u16 = SUBSYSTEM | 2;

/// Requests sent at once: their answers, some 50 bytes each and the kernel's own overhead of some 700, fit into the smallest default
/// buffer (`net.core.rmem_default`, 212,992 bytes).
const REQUESTS_MAX: usize = 128;

/// The largest piece that the kernel hands out at once is 32 KiB (`netlink_dump`); twice that is never too small.
const PIECE_BYTES: usize = 64 << 10;

/// The kernel answers inside the call. Seconds without an answer mean that one was lost.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// A socket to connection tracking in the namespace in which it was opened.
pub(super) struct ConntrackSocket {
    socket: Socket,
    sequence: u32,
    piece: Vec<u8>,
}

impl ConntrackSocket {
    /// Opens the socket in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS))?;
        Ok(Self { socket, sequence: 0, piece: Vec::with_capacity(PIECE_BYTES) })
    }

    /// Reads the whole table, both families; `each` gets the attributes of each entry. An entry that comes or goes meanwhile may be
    /// missed or seen.
    pub(super) fn dump(&mut self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let request = message(GET, NLM_F_REQUEST | NLM_F_DUMP, self.sequence, &FlowHandle::any());
        self.socket.send(&request, 0)?;
        loop {
            self.receive()?;
            for message in messages(&self.piece).filter(|message| message.sequence_number() == self.sequence) {
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return error_code(message.payload()).map_or(Ok(()), |errno| Err(errno.into()));
                    }
                    _ => each(message.payload().get(NETFILTER_HEADER_LEN..).unwrap_or_default()),
                }
            }
        }
    }

    /// Deletes these entries, those that are still the same and still there, and tells how many.
    pub(super) fn delete(&mut self, handles: &[FlowHandle]) -> io::Result<u32> {
        let mut deleted = 0;
        for handles in handles.chunks(REQUESTS_MAX) {
            let first = self.sequence.wrapping_add(1);
            let mut requests = Vec::new();
            for handle in handles {
                self.sequence = self.sequence.wrapping_add(1);
                requests.extend(message(DELETE, NLM_F_REQUEST | NLM_F_ACK, self.sequence, handle));
            }
            self.socket.send(&requests, 0)?;
            let mut unanswered = handles.len();
            while unanswered > 0 {
                self.receive()?;
                for message in messages(&self.piece) {
                    let is_ours = usize::try_from(message.sequence_number().wrapping_sub(first))
                        .is_ok_and(|place| place < handles.len());
                    if !is_ours || message.message_type() != NLMSG_ERROR {
                        continue;
                    }
                    unanswered -= 1;
                    match error_code(message.payload()) {
                        None => deleted += 1,
                        // Gone by itself, or another one by now.
                        Some(Errno::ENOENT) => {}
                        Some(errno) => return Err(errno.into()),
                    }
                }
            }
        }
        Ok(deleted)
    }

    /// Reads one entry; nothing if it is no longer there.
    pub(super) fn get(&mut self, handle: &FlowHandle) -> io::Result<Option<Flow>> {
        self.sequence = self.sequence.wrapping_add(1);
        self.socket.send(&message(GET, NLM_F_REQUEST | NLM_F_ACK, self.sequence, handle), 0)?;
        let mut found = None;
        loop {
            self.receive()?;
            for message in messages(&self.piece).filter(|message| message.sequence_number() == self.sequence) {
                if message.message_type() != NLMSG_ERROR {
                    let body = message.payload().get(NETFILTER_HEADER_LEN..).unwrap_or_default();
                    // The kernel finds by addresses; the number tells whether it is still the same connection.
                    if parse::handle(body).is_some_and(|now| now.id == handle.id) {
                        found = parse::flow(body);
                    }
                    continue;
                }
                return match error_code(message.payload()) {
                    None | Some(Errno::ENOENT) => Ok(found),
                    Some(errno) => Err(errno.into()),
                };
            }
        }
    }

    fn receive(&mut self) -> io::Result<()> {
        loop {
            self.piece.clear();
            match self.socket.recv(&mut self.piece, 0) {
                Ok(_) => return Ok(()),
                // A signal, not an answer.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// One message about one entry.
fn message(kind: u16, flags: u16, sequence: u32, about: &FlowHandle) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    let length = HEADER_LEN + NETFILTER_HEADER_LEN + about.attributes.len();
    // Attributes are at most those of one entry, some hundred bytes.
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    let mut bytes = vec![0; HEADER_LEN];
    header.emit(&mut bytes);
    // `struct nfgenmsg`: family, version 0, resource 0.
    bytes.extend_from_slice(&[about.family, 0, 0, 0]);
    bytes.extend_from_slice(&about.attributes);
    bytes
}
