//! Carries bytes both ways between two connections until both ways are closed. An idle connection holds no buffer: what is
//! read goes through a buffer of the thread and is written at once, and only what the other side does not take is kept. A
//! way that streams goes through a pipe without being copied. Nothing is read while something waits to be written, so a slow
//! reader holds back its writer by TCP's own window.

use std::{
    cell::RefCell,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep},
};

use super::{Cause, Limits, counters::Counted, listener, pipe::Pipe};

/// What is read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// A way that has filled the buffer for so long streams. Below, two system calls more for a pipe cost more than the copy.
const STREAM_BYTES: usize = 64 * 1024;

/// A way that brings less at once does not stream any more.
const TRICKLE_BYTES: usize = CHUNK_BYTES / 2;

/// Turns of the pipe before others on this thread have theirs: at most some MiB.
const TURNS_MAX: u32 = 16;

/// How long a new connection lives before it is worth the system calls of keepalive towards its replica.
const FIRST_LOOK: Duration = Duration::from_secs(30);

/// Looks without a byte that make a connection idle: it ends after its limit and at most a quarter of it later.
const QUIET_LOOKS: u32 = 4;

/// Bytes of a way after which its counter is told, besides at the end.
const COUNT_BYTES: u64 = 4 << 20;

thread_local! {
    static CHUNK: RefCell<Box<[u8]>> = RefCell::new(vec![0; CHUNK_BYTES].into_boxed_slice());
}

/// One way of a connection.
#[derive(Debug, Default)]
struct Way {
    /// Read and not yet written, from `written` on; only one of this and the pipe holds bytes.
    kept: Vec<u8>,
    written: usize,
    pipe: Option<Pipe>,
    /// Bytes in a row that came without a pause.
    run: usize,
    /// Bytes written and not yet counted.
    uncounted: u64,
    state: State,
    active: bool,
}

#[derive(Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// The reading side has ended; the other has yet to be told.
    Ending,
    Closed,
}

/// Which side a connection broke at.
#[derive(Debug)]
enum Broken {
    Reading,
    Writing,
}

/// Carries bytes both ways; `first` has come from the client already. Both connections are closed when this returns.
pub(super) async fn relay(
    mut client: TcpStream,
    mut server: TcpStream,
    first: Vec<u8>,
    limits: &Limits,
    counted: &Counted,
) -> Result<(), Cause> {
    let outcome = {
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let mut up = Way { kept: first, ..Way::default() };
        let mut down = Way::default();
        let look = sleep(FIRST_LOOK);
        tokio::pin!(look);
        let mut looks = Looks { quiet: 0, first: true, half_closed: false };
        let outcome = std::future::poll_fn(|cx| {
            let was_half_closed = looks.half_closed;
            let up_ended = up.poll(&mut from_client, &mut to_server, &down.state, cx);
            if let Poll::Ready(Err(broken)) = up_ended {
                return Poll::Ready(Err(Some(broken)));
            }
            let down_ended = down.poll(&mut from_server, &mut to_client, &up.state, cx);
            if let Poll::Ready(Err(broken)) = down_ended {
                return Poll::Ready(Err(Some(broken)));
            }
            if up.uncounted > COUNT_BYTES || down.uncounted > COUNT_BYTES {
                counted.carry(std::mem::take(&mut up.uncounted), std::mem::take(&mut down.uncounted));
            }
            if up_ended.is_ready() && down_ended.is_ready() {
                return Poll::Ready(Ok(()));
            }
            looks.half_closed = up_ended.is_ready() || down_ended.is_ready();
            if looks.half_closed && !was_half_closed {
                looks.quiet = 0;
                look.as_mut().reset(Instant::now() + limits.half_closed / QUIET_LOOKS);
            }
            while look.as_mut().poll(cx).is_ready() {
                if std::mem::take(&mut looks.first) {
                    listener::keep_alive(to_server.as_ref());
                }
                let active = std::mem::take(&mut up.active) | std::mem::take(&mut down.active);
                looks.quiet = if active { 0 } else { looks.quiet + 1 };
                if looks.quiet > QUIET_LOOKS {
                    return Poll::Ready(Err(None));
                }
                let limit = if looks.half_closed { limits.half_closed } else { limits.idle };
                look.as_mut().reset(Instant::now() + limit / QUIET_LOOKS);
            }
            Poll::Pending
        })
        .await;
        counted.carry(up.uncounted, down.uncounted);
        up.give_back();
        down.give_back();
        outcome
    };
    match outcome {
        Ok(()) => Ok(()),
        Err(broken) => {
            // What was cut off must not look complete to the other side.
            let _ = client.set_zero_linger();
            let _ = server.set_zero_linger();
            Err(if broken.is_some() { Cause::Reset } else { Cause::Idle })
        }
    }
}

struct Looks {
    quiet: u32,
    first: bool,
    half_closed: bool,
}

impl Way {
    /// Moves what can be moved; ready when the way is closed. The last of both ways to close tells nobody: both connections are
    /// closed in the next moment.
    fn poll(
        &mut self,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        other: &State,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        if self.state == State::Closed {
            return Poll::Ready(Ok(()));
        }
        let mut turns = 0;
        loop {
            ready!(self.poll_write(to, cx)).map_err(|_| Broken::Writing)?;
            if self.state == State::Ending {
                self.state = State::Closed;
                if *other != State::Closed {
                    // A side that is gone already needs no telling.
                    let _ = Pin::new(&mut *to).poll_shutdown(cx);
                }
                return Poll::Ready(Ok(()));
            }
            if self.run < STREAM_BYTES {
                ready!(self.poll_copy(from, to, cx))?;
            } else {
                turns += 1;
                if turns > TURNS_MAX {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                ready!(self.poll_fill(from, cx)).map_err(|_| Broken::Reading)?;
            }
            self.active = true;
        }
    }

    /// Writes all that is held.
    fn poll_write(&mut self, to: &mut WriteHalf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while let Some(rest) = self.kept.get(self.written..).filter(|rest| !rest.is_empty()) {
            let written = ready!(Pin::new(&mut *to).poll_write(cx, rest))?;
            self.note(written);
            self.written += written;
        }
        if self.written > 0 {
            (self.kept, self.written) = (Vec::new(), 0);
        }
        while let Some(pipe) = self.pipe.as_mut().filter(|pipe| pipe.held() > 0) {
            let socket: &TcpStream = to.as_ref();
            ready!(socket.poll_write_ready(cx))?;
            match socket.try_io(Interest::WRITABLE, || pipe.drain(socket)) {
                Ok(written) => self.note(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Reads once and writes as much of it as is taken at once.
    fn poll_copy(
        &mut self,
        from: &mut ReadHalf<'_>,
        to: &mut WriteHalf<'_>,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Broken>> {
        CHUNK.with_borrow_mut(|chunk| {
            let mut buffer = ReadBuf::new(chunk);
            ready!(Pin::new(from).poll_read(cx, &mut buffer)).map_err(|_| Broken::Reading)?;
            let read = buffer.filled();
            if read.is_empty() {
                self.state = State::Ending;
                return Poll::Ready(Ok(()));
            }
            self.run = if read.len() < TRICKLE_BYTES { 0 } else { self.run + read.len() };
            let mut written = 0;
            while written < read.len() {
                match Pin::new(&mut *to).poll_write(cx, &read[written..]) {
                    Poll::Ready(Ok(count)) => written += count,
                    Poll::Ready(Err(_)) => return Poll::Ready(Err(Broken::Writing)),
                    Poll::Pending => {
                        self.kept = read[written..].to_vec();
                        break;
                    }
                }
            }
            self.note(written);
            Poll::Ready(Ok(()))
        })
    }

    /// Fills the pipe once; `poll_write` empties it.
    fn poll_fill(&mut self, from: &mut ReadHalf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let socket: &TcpStream = from.as_ref();
        loop {
            if socket.poll_read_ready(cx)?.is_pending() {
                // It has run dry: somebody else may have the pipe meanwhile.
                self.give_back();
                return Poll::Pending;
            }
            if self.pipe.is_none() {
                self.pipe = Pipe::new().ok();
            }
            let Some(pipe) = &mut self.pipe else {
                // Out of files: copying needs none.
                self.run = 0;
                return Poll::Ready(Ok(()));
            };
            match socket.try_io(Interest::READABLE, || pipe.fill(socket)) {
                Ok(0) => self.state = State::Ending,
                Ok(read) if read < TRICKLE_BYTES => self.run = 0,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Poll::Ready(Err(error)),
            }
            return Poll::Ready(Ok(()));
        }
    }

    fn note(&mut self, written: usize) {
        self.uncounted += written as u64;
        self.active = true;
    }

    fn give_back(&mut self) {
        if let Some(pipe) = self.pipe.take() {
            pipe.give_back();
        }
    }
}
