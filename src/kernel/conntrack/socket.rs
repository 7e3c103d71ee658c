//! The netlink socket: one request at a time, blocking. The kernel works inside the calls.

use std::io;

use netlink_packet_core::{Emitable, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::sys::{
    socket::{setsockopt, sockopt},
    time::{TimeVal, TimeValLike},
};

use crate::kernel::nft::{
    socket::{error_code, messages},
    wire::{HEADER_LEN, NETFILTER_HEADER_LEN},
};

/// `NFNL_SUBSYS_CTNETLINK` in `linux/netfilter/nfnetlink.h`, the high byte of every message type.
pub(super) const SUBSYSTEM: u16 = 1 << 8;
/// `IPCTNL_MSG_CT_GET`.
const GET: u16 = SUBSYSTEM | 1;

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
        // AF_UNSPEC, version 0: entries of every family.
        let request = message(GET, NLM_F_REQUEST | NLM_F_DUMP, self.sequence, [0; NETFILTER_HEADER_LEN], &[]);
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

/// One message: its netfilter header (family, version, resource) and its attributes.
fn message(kind: u16, flags: u16, sequence: u32, netfilter: [u8; NETFILTER_HEADER_LEN], attributes: &[u8]) -> Vec<u8> {
    let mut header = NetlinkHeader::default();
    let length = HEADER_LEN + NETFILTER_HEADER_LEN + attributes.len();
    // Attributes are at most those of one entry, some hundred bytes.
    header.length = u32::try_from(length).unwrap_or(u32::MAX);
    header.message_type = kind;
    header.flags = flags;
    header.sequence_number = sequence;
    let mut bytes = vec![0; HEADER_LEN];
    header.emit(&mut bytes);
    bytes.extend_from_slice(&netfilter);
    bytes.extend_from_slice(attributes);
    bytes
}
