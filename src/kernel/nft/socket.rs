//! The netlink socket: one request or one batch at a time, blocking. The kernel does the work inside the calls, in the
//! caller's thread, so there is nothing to wait for asynchronously; `mod.rs` keeps the calls off the runtime's workers.

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_ACK_TLVS, NLM_F_CAPPED, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer,
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_NETFILTER};
use nix::{
    errno::Errno,
    sys::{
        socket::{MsgFlags, setsockopt, sockopt},
        time::{TimeVal, TimeValLike},
    },
};

use super::wire::{self, Attributes, HEADER_LEN, Kind, NETFILTER_HEADER_LEN};

/// Room for answers, in bytes. Each failed message of a batch is answered with about 100 bytes (counted by the kernel
/// with its own overhead of some 700); 8 MiB hold some 10,000 answers.
const RECEIVE_BUFFER_BYTES: usize = 8 << 20;

/// Room for a batch to begin with, in bytes; larger ones raise it.
const SEND_BUFFER_BYTES: usize = 4 << 20;

/// The largest piece that the kernel hands out at once is 32 KiB (`netlink_dump`); twice that is never too small.
const PIECE_BYTES: usize = 64 << 10;

/// The kernel answers inside the call. Seconds without an answer mean that one was lost.
const ANSWER_TIMEOUT_SECONDS: i64 = 10;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

/// Why a request was not answered with what was asked for.
#[derive(Debug, thiserror::Error)]
pub(super) enum RequestError {
    /// The tables changed under a dump; ask again.
    #[error("the tables changed while they were read")]
    Interrupted,
    /// The kernel's answer.
    #[error("{}", .0.desc())]
    Refused(Errno),
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[from] io::Error),
}

/// A message of a batch that the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The message's sequence number.
    pub(super) sequence: u32,
    /// Why.
    pub(super) errno: Errno,
    /// The kernel's own words, if it had any.
    pub(super) detail: Option<String>,
}

/// What came of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// All of it is in force.
    Committed,
    /// None of it is.
    Refused(Vec<Refusal>),
    /// The answers did not fit into the socket's buffer; the tables must be read to know.
    Unknown,
}

/// A socket to `nf_tables` in the namespace in which it was opened.
pub(super) struct NetlinkSocket {
    socket: Socket,
    port: u32,
    sequence: u32,
    send_buffer: usize,
    piece: Vec<u8>,
}

impl NetlinkSocket {
    /// Opens the socket in the calling thread's network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        let port = socket.bind_auto()?.port_number();
        socket.connect(&SocketAddr::new(0, 0))?;
        setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER_BYTES)?;
        setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(ANSWER_TIMEOUT_SECONDS))?;
        // Without the first the kernel says a number and no words; without the second it sends each failed message back.
        socket.set_ext_ack(true)?;
        socket.set_cap_ack(true)?;
        Ok(Self { socket, port, sequence: 0, send_buffer: SEND_BUFFER_BYTES, piece: Vec::with_capacity(PIECE_BYTES) })
    }

    /// The socket's port: the kernel names it in the notices of what this socket changed.
    pub(super) fn port(&self) -> u32 {
        self.port
    }

    /// A sequence number not used before.
    pub(super) fn next_sequence(&mut self) -> u32 {
        self.sequence = self.sequence.wrapping_add(1);
        self.sequence
    }

    /// Asks for one thing.
    pub(super) fn get(
        &mut self,
        kind: Kind,
        body: impl FnOnce(&mut Attributes<'_>),
        each: impl FnMut(&[u8]),
    ) -> Result<(), RequestError> {
        self.request(kind, NLM_F_REQUEST | NLM_F_ACK, body, each)
    }

    /// Asks for all things of a kind; `each` gets the attributes of each.
    pub(super) fn dump(
        &mut self,
        kind: Kind,
        body: impl FnOnce(&mut Attributes<'_>),
        each: impl FnMut(&[u8]),
    ) -> Result<(), RequestError> {
        self.request(kind, NLM_F_REQUEST | NLM_F_DUMP, body, each)
    }

    fn request(
        &mut self,
        kind: Kind,
        flags: u16,
        body: impl FnOnce(&mut Attributes<'_>),
        mut each: impl FnMut(&[u8]),
    ) -> Result<(), RequestError> {
        let sequence = self.next_sequence();
        let mut bytes = Vec::new();
        wire::write_message(&mut bytes, kind, flags, sequence, body);
        self.socket.send(&bytes, 0)?;
        let mut is_interrupted = false;
        loop {
            self.receive(MsgFlags::empty())?;
            for message in messages(&self.piece) {
                if message.sequence_number() != sequence {
                    continue;
                }
                is_interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_ERROR | NLMSG_DONE => {
                        return match error_code(message.payload()) {
                            Some(Errno::EINTR) => Err(RequestError::Interrupted),
                            Some(errno) => Err(RequestError::Refused(errno)),
                            None if is_interrupted => Err(RequestError::Interrupted),
                            None => Ok(()),
                        };
                    }
                    _ => each(message.payload().get(NETFILTER_HEADER_LEN..).unwrap_or_default()),
                }
            }
        }
    }

    /// Sends a batch, whose last message but the closing one asks for an acknowledgement under the number `last`.
    pub(super) fn commit(&mut self, batch: &[u8], last: u32) -> Result<Outcome, RequestError> {
        if batch.len() > self.send_buffer {
            // The kernel counts its own overhead with the bytes.
            let wanted = batch.len().saturating_mul(2);
            setsockopt(&self.socket, sockopt::SndBufForce, &wanted).map_err(io::Error::from)?;
            self.send_buffer = wanted;
        }
        let mut is_unknown = match self.socket.send(batch, 0) {
            Ok(_) => false,
            // The answers overran the buffer while the batch was worked on: it may be in force.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => true,
            Err(error) => return Err(error.into()),
        };
        let mut refusals = Vec::new();
        let mut is_acknowledged = false;
        // The kernel has answered before `send` returned.
        loop {
            match self.receive(MsgFlags::MSG_DONTWAIT) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {
                    is_unknown = true;
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
            for message in messages(&self.piece).filter(|message| message.message_type() == NLMSG_ERROR) {
                match error_code(message.payload()) {
                    Some(errno) => refusals.push(Refusal {
                        sequence: message.sequence_number(),
                        errno,
                        detail: error_text(message.payload(), message.flags()),
                    }),
                    None => is_acknowledged |= message.sequence_number() == last,
                }
            }
        }
        Ok(if !refusals.is_empty() {
            Outcome::Refused(refusals)
        } else if is_acknowledged && !is_unknown {
            Outcome::Committed
        } else {
            Outcome::Unknown
        })
    }

    fn receive(&mut self, flags: MsgFlags) -> io::Result<()> {
        loop {
            self.piece.clear();
            match self.socket.recv(&mut self.piece, flags.bits()) {
                Ok(_) => return Ok(()),
                // A signal, not an answer.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// The netlink messages in a piece.
pub(in crate::kernel) fn messages(mut piece: &[u8]) -> impl Iterator<Item = NetlinkBuffer<&[u8]>> {
    std::iter::from_fn(move || {
        let message = NetlinkBuffer::new_checked(piece).ok()?;
        let length = message.length() as usize;
        let (this, rest) = piece.split_at_checked(length)?;
        piece = rest.get(length.next_multiple_of(4) - length..).unwrap_or_default();
        Some(NetlinkBuffer::new(this))
    })
}

/// The error in an answer; nothing for an acknowledgement.
pub(in crate::kernel) fn error_code(payload: &[u8]) -> Option<Errno> {
    let code = i32::from_ne_bytes(payload.get(..4)?.try_into().ok()?);
    (code != 0).then(|| Errno::from_raw(code.wrapping_neg()))
}

/// The kernel's words on an error: attribute 1 (`NLMSGERR_ATTR_MSG`) behind the header of the message it is about.
fn error_text(payload: &[u8], flags: u16) -> Option<String> {
    if flags & NLM_F_ACK_TLVS == 0 {
        return None;
    }
    let about = payload.get(4..)?;
    let about_len = match flags & NLM_F_CAPPED {
        0 => u32::from_ne_bytes(about.get(..4)?.try_into().ok()?).next_multiple_of(4) as usize,
        _ => HEADER_LEN,
    };
    wire::text(about.get(about_len..)?, 1).map(str::to_owned)
}
