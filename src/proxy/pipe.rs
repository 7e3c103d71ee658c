use std::{
    cell::RefCell,
    io,
    os::fd::{AsFd, OwnedFd},
};

use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, splice};

/// A pipe's size in bytes. Each piece of a packet takes one slot, and a page's worth of size is one slot (pipe(7)), so a pipe
/// of the usual 16 slots is full after some 20 KiB of small pieces.
const BYTES: i32 = 1 << 20;

/// Empty pipes that a thread keeps for the next transfers.
const SPARE_MAX: usize = 32;

thread_local! {
    static SPARE: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
}

/// A pipe through which bytes go from one socket to another without being copied (splice(2)).
#[derive(Debug)]
pub(super) struct Pipe {
    reader: OwnedFd,
    writer: OwnedFd,
    held: usize,
}

impl Pipe {
    /// An empty pipe, a used one if there is one.
    pub(super) fn new() -> io::Result<Self> {
        if let Some((reader, writer)) = SPARE.with_borrow_mut(Vec::pop) {
            return Ok(Self { reader, writer, held: 0 });
        }
        let (reader, writer) = nix::unistd::pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)?;
        // One of the usual size will do where the kernel gives no larger one (`pipe-user-pages-soft`).
        let _ = fcntl(&writer, FcntlArg::F_SETPIPE_SZ(BYTES));
        Ok(Self { reader, writer, held: 0 })
    }

    /// Bytes in it.
    pub(super) fn held(&self) -> usize {
        self.held
    }

    /// Fills the empty pipe from a socket; 0 is its end. Only an empty one is filled, so that `WouldBlock` says that the socket
    /// is dry and not that the pipe is full.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        let moved = splice(from, None, &self.writer, None, BYTES.unsigned_abs() as usize, flags)?;
        self.held += moved;
        Ok(moved)
    }

    /// Empties it into a socket as far as that takes it.
    pub(super) fn drain(&mut self, to: impl AsFd) -> io::Result<usize> {
        let flags = SpliceFFlags::SPLICE_F_MOVE | SpliceFFlags::SPLICE_F_NONBLOCK;
        let moved = splice(&self.reader, None, to, None, self.held, flags)?;
        self.held -= moved;
        Ok(moved)
    }

    /// Gives an empty pipe back; one with bytes in it is closed with them.
    pub(super) fn give_back(self) {
        let Self { reader, writer, held } = self;
        SPARE.with_borrow_mut(|spare| {
            if held == 0 && spare.len() < SPARE_MAX {
                spare.push((reader, writer));
            }
        });
    }
}
