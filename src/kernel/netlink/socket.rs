use std::{
    fmt, io,
    sync::{Arc, mpsc},
    thread,
};

use futures::StreamExt;
use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload, NlaBuffer, NlasIterator,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::AsyncSocket;
use nix::errno::Errno;
use tokio::{
    runtime::{Builder, Handle},
    sync::Mutex,
};

/// How often a dump is taken again when the kernel says that its rows changed under it. A host on which thousands of
/// rows change at all times may never give a clean one; the last is then used, for the next pass looks again anyway.
const DUMP_ATTEMPTS_MAX: usize = 4;

/// Where the attributes of an extended acknowledgement begin in what follows the error code: after the request's
/// header (`struct nlmsghdr`), to which the option `NETLINK_CAP_ACK` cuts the echo of the request.
const EXT_ACK_OFFSET: usize = 16;

/// `NLMSGERR_ATTR_MSG` of linux/netlink.h: the kernel's own words on what was wrong with a request.
const EXT_ACK_MESSAGE: u16 = 1;

/// One rtnetlink socket of one network namespace.
pub(super) struct Socket {
    handle: rtnetlink::Handle,
    /// The kernel runs one dump at a time on a socket and answers `EBUSY` to the next one.
    dump: Arc<Mutex<()>>,
}

/// The kernel's refusal of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    errno: Errno,
    /// The kernel's own words, or nothing.
    words: String,
}

impl Socket {
    /// A socket in the network namespace of the calling thread, with a thread of its own that drives it and ends when this is
    /// dropped. The kernel does a request within the system call that hands it over, and takes its time for some: 20 ms to
    /// remove a device, longer when others hold the RTNL lock. The thread bears that, not one of the runtime's workers.
    pub(super) fn open() -> io::Result<Self> {
        // One message is all that is ever sent.
        let (tell, told) = mpsc::sync_channel(1);
        thread::Builder::new().name("weft-rtnetlink".to_owned()).spawn(move || {
            let opened = Builder::new_current_thread().enable_io().build().and_then(|runtime| {
                let (connection, socket) = {
                    let _runtime = runtime.enter();
                    connect()?
                };
                Ok((runtime, connection, socket))
            });
            match opened {
                Ok((runtime, connection, socket)) => {
                    // Whoever opened it waits for it; if not, the socket is dropped here and the connection ends at once.
                    let _ = tell.send(Ok(socket));
                    runtime.block_on(connection);
                }
                Err(error) => drop(tell.send(Err(error))),
            }
        })?;
        told.recv().unwrap_or_else(|_| Err(io::Error::other("the rtnetlink thread panicked")))
    }

    /// A socket in the network namespace of the calling thread, driven by a task of the given runtime: for a few short requests.
    pub(super) fn open_on(runtime: &Handle) -> io::Result<Self> {
        let _runtime = runtime.enter();
        let (connection, socket) = connect()?;
        runtime.spawn(connection);
        Ok(socket)
    }

    /// Asks for one change and waits until it is done.
    pub(super) async fn change(&self, request: RouteNetlinkMessage, flags: u16) -> Result<(), Refusal> {
        self.request(request, NLM_F_ACK | flags).await.map(drop)
    }

    /// Asks for several changes in this order. The kernel goes on after one that it refuses, so each has its own result.
    pub(super) async fn change_each(
        &self,
        requests: impl IntoIterator<Item = (RouteNetlinkMessage, u16)>,
    ) -> Vec<Result<(), Refusal>> {
        // All are handed over before the first answer is awaited: one wake-up of the socket's task serves them all.
        let answers: Vec<_> =
            requests.into_iter().map(|(request, flags)| self.send(request, NLM_F_ACK | flags)).collect();
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            results.push(match answer {
                Ok(answer) => collect(answer).await.map(drop),
                Err(refusal) => Err(refusal),
            });
        }
        results
    }

    /// Asks for one object.
    pub(super) async fn get(&self, request: RouteNetlinkMessage) -> Result<Option<RouteNetlinkMessage>, Refusal> {
        Ok(self.request(request, NLM_F_ACK).await?.rows.pop())
    }

    /// Asks for all objects of a kind.
    pub(super) async fn dump(&self, request: RouteNetlinkMessage) -> Result<Vec<RouteNetlinkMessage>, Refusal> {
        let mut attempt = 1;
        loop {
            let turn = Arc::clone(&self.dump).lock_owned().await;
            let stream = self.send(request.clone(), NLM_F_DUMP)?;
            // A task of its own reads to the end even if the caller loses patience: the turn lasts as long as the dump.
            let reading = tokio::spawn(async move {
                let answer = collect(stream).await;
                drop(turn);
                answer
            });
            let answer = reading.await.unwrap_or_else(|_| Err(Refusal::gone()))?;
            if !answer.interrupted || attempt == DUMP_ATTEMPTS_MAX {
                return Ok(answer.rows);
            }
            attempt += 1;
        }
    }

    async fn request(&self, request: RouteNetlinkMessage, flags: u16) -> Result<Answer, Refusal> {
        collect(self.send(request, flags)?).await
    }

    fn send(
        &self,
        request: RouteNetlinkMessage,
        flags: u16,
    ) -> Result<impl futures::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>, Refusal> {
        let mut message = NetlinkMessage::from(request);
        message.header.flags = NLM_F_REQUEST | flags;
        self.handle.clone().request(message).map_err(|_| Refusal::gone())
    }
}

fn connect() -> io::Result<(impl Future<Output = ()> + Send + use<>, Socket)> {
    // Strict checking is what makes the kernel heed the filters of a dump at all.
    let (mut connection, handle, _) = rtnetlink::new_connection_with_strict_check()?;
    let socket = connection.socket_mut().socket_mut();
    socket.set_ext_ack(true)?;
    socket.set_cap_ack(true)?;
    // Without these an answer that was cut off looks like one that is complete.
    connection.set_forward_ack(true);
    connection.set_forward_done(true);
    Ok((connection, Socket { handle, dump: Arc::default() }))
}

/// All that the kernel answered to one request.
#[derive(Default)]
struct Answer {
    rows: Vec<RouteNetlinkMessage>,
    /// Rows changed while the dump ran (`NLM_F_DUMP_INTR`): some may be missing.
    interrupted: bool,
}

async fn collect(
    mut stream: impl futures::Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + Unpin,
) -> Result<Answer, Refusal> {
    let mut answer = Answer::default();
    let mut complete = false;
    while let Some(message) = stream.next().await {
        answer.interrupted |= message.header.flags & NLM_F_DUMP_INTR != 0;
        match message.payload {
            NetlinkPayload::InnerMessage(row) => answer.rows.push(row),
            NetlinkPayload::Error(error) if error.code.is_some() => {
                return Err(Refusal::new(error.raw_code(), kernel_words(&error.header)));
            }
            NetlinkPayload::Done(done) if done.code != 0 => return Err(Refusal::new(done.code, String::new())),
            NetlinkPayload::Error(_) | NetlinkPayload::Done(_) => complete = true,
            _ => {}
        }
    }
    if complete { Ok(answer) } else { Err(Refusal::gone()) }
}

/// The message of an extended acknowledgement, or nothing.
fn kernel_words(echo: &[u8]) -> String {
    NlasIterator::new(echo.get(EXT_ACK_OFFSET..).unwrap_or_default())
        .filter_map(Result::ok)
        .find(|attribute: &NlaBuffer<&[u8]>| attribute.kind() == EXT_ACK_MESSAGE)
        .map(|attribute| String::from_utf8_lossy(attribute.value()).trim_end_matches('\0').to_owned())
        .unwrap_or_default()
}

impl Refusal {
    /// From the code of an answer: an errno, negative.
    fn new(code: i32, words: String) -> Self {
        Self { errno: Errno::from_raw(code.wrapping_neg()), words }
    }

    /// The socket's task ended before the answer was there: the runtime is going down, or the socket broke.
    fn gone() -> Self {
        Self { errno: Errno::ENOTCONN, words: "the rtnetlink socket is closed".to_owned() }
    }

    /// Whether it was for this reason.
    pub(super) fn is(&self, errno: Errno) -> bool {
        self.errno == errno
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.errno.desc())?;
        if !self.words.is_empty() {
            write!(f, " ({})", self.words)?;
        }
        if self.errno == Errno::EPERM {
            f.write_str("; the agent needs CAP_NET_ADMIN")?;
        }
        Ok(())
    }
}

/// Turns a refusal for one of `reasons` into success: what was to be removed is not there.
pub(super) fn accept(result: Result<(), Refusal>, reasons: &[Errno]) -> Result<(), Refusal> {
    match result {
        Err(refusal) if reasons.contains(&refusal.errno) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_found_behind_the_echoed_header() {
        let mut echo = vec![0_u8; EXT_ACK_OFFSET];
        // An attribute of another kind first (NLMSGERR_ATTR_OFFS), then the message, each padded to 4 bytes.
        echo.extend([8, 0, 2, 0, 20, 0, 0, 0]);
        echo.extend([8, 0, 1, 0, b'n', b'o', b'!', 0]);
        assert_eq!(kernel_words(&echo), "no!");
        assert_eq!(kernel_words(&echo[..EXT_ACK_OFFSET]), "");
        assert_eq!(kernel_words(&[]), "");
    }
}
