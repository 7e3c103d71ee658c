//! Questions that are not ours go to the host's resolvers as they are, and the answers come back as they are: record types
//! and options that nobody has thought of yet pass.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use domain::base::{Message, iana::Rcode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tracing::debug;

use super::{
    Outcome, Tally, Way,
    budget::{Budget, Permit},
    resolvers::Resolvers,
    respond::failure,
};

/// How long one resolver may take. The C library gives up on us after 5 s (resolv.conf(5)), and the second resolver shall have
/// had its chance by then.
const RESOLVER_TIMEOUT: Duration = Duration::from_secs(2);

/// Questions under way at once, overall: each holds a socket and some kilobytes.
const UNDER_WAY_MAX: usize = 1024;

/// Questions under way at once for one asker, so that no one asker can use up them all.
const UNDER_WAY_EACH_MAX: usize = 128;

/// Asks the host's resolvers.
pub(super) struct Forwarder {
    resolvers: Resolvers,
    under_way: Budget,
    tally: Arc<dyn Tally>,
}

impl Forwarder {
    pub(super) fn new(resolv_conf: PathBuf, tally: Arc<dyn Tally>) -> Self {
        Self {
            resolvers: Resolvers::new(resolv_conf),
            under_way: Budget::new(UNDER_WAY_MAX, UNDER_WAY_EACH_MAX),
            tally,
        }
    }

    /// The right to one question; nothing if too many are under way.
    pub(super) fn permit(&self, asker: IpAddr) -> Option<Permit> {
        self.under_way.take(Some(asker))
    }

    /// The reply to a question, by one resolver after the other, or SERVFAIL. A datagram may be as long as `datagram_max` bytes.
    pub(super) async fn ask(&self, packet: &[u8], way: Way, datagram_max: u16) -> Vec<u8> {
        let mut last = None;
        for resolver in self.resolvers.now().iter() {
            let asked = async {
                match way {
                    Way::Udp => ask_by_udp(*resolver, packet, datagram_max).await,
                    Way::Tcp => ask_by_tcp(*resolver, packet).await,
                }
            };
            match timeout(RESOLVER_TIMEOUT, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(reply) if is_helpful(&reply) => {
                    self.tally.count(Outcome::Forwarded);
                    return reply;
                }
                Ok(reply) => last = Some(reply),
                Err(error) => debug!(%resolver, "a resolver did not answer: {error}"),
            }
            self.tally.count_resolver_failure();
        }
        match last {
            Some(reply) => {
                self.tally.count(Outcome::Forwarded);
                reply
            }
            None => self.give_up(packet),
        }
    }

    /// The reply to a question that cannot be asked.
    pub(super) fn give_up(&self, packet: &[u8]) -> Vec<u8> {
        self.tally.count(Outcome::Failed);
        let mut reply = Vec::new();
        failure(packet, &mut reply);
        reply
    }
}

/// Whether `reply` is the answer to `question`: the same id and the same question. Anybody can send us a datagram.
pub fn is_reply(question: &[u8], reply: &[u8]) -> bool {
    match (Message::from_octets(question), Message::from_octets(reply)) {
        (Ok(question), Ok(reply)) => {
            // Two questions that cannot be read are equal, too.
            question.sole_question().is_ok() && reply.sole_question().is_ok() && reply.is_answer(&question)
        }
        _ => false,
    }
}

/// Whether a resolver's reply says something about the name; one that cannot or will not leaves it to the next.
fn is_helpful(reply: &[u8]) -> bool {
    Message::from_octets(reply).is_ok_and(|reply| {
        !matches!(reply.header().rcode(), Rcode::SERVFAIL | Rcode::REFUSED | Rcode::NOTIMP | Rcode::FORMERR)
    })
}

/// The question under an id of our own, which together with the port makes a forged reply a matter of luck (RFC 5452).
fn with_own_id(packet: &[u8]) -> io::Result<Vec<u8>> {
    let id = getrandom::u32().map_err(io::Error::other)?.to_be_bytes();
    let mut question = packet.to_vec();
    copy_id(&mut question, &id);
    Ok(question)
}

/// Writes the id, which is the first two bytes of a message.
fn copy_id(message: &mut [u8], from: &[u8]) {
    for (to, from) in message.iter_mut().zip(from).take(2) {
        *to = *from;
    }
}

async fn ask_by_udp(resolver: SocketAddr, packet: &[u8], datagram_max: u16) -> io::Result<Vec<u8>> {
    let question = with_own_id(packet)?;
    let any: SocketAddr = match resolver {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    // A socket of its own for each question, at a port that the kernel draws.
    let socket = UdpSocket::bind(any).await?;
    socket.connect(resolver).await?;
    socket.send(&question).await?;
    // One byte more, to tell a reply that is too long from one that just fits.
    let mut reply = vec![0; usize::from(datagram_max) + 1];
    loop {
        let len = socket.recv(&mut reply).await?;
        if len == reply.len() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply is longer than was asked for"));
        }
        if let Some(found) = reply.get(..len).filter(|found| is_reply(&question, found)) {
            let mut found = found.to_vec();
            copy_id(&mut found, packet);
            return Ok(found);
        }
    }
}

async fn ask_by_tcp(resolver: SocketAddr, packet: &[u8]) -> io::Result<Vec<u8>> {
    let question = with_own_id(packet)?;
    let mut stream = TcpStream::connect(resolver).await?;
    stream.write_all(&framed(&question)?).await?;
    let len = stream.read_u16().await?;
    let mut reply = vec![0; usize::from(len)];
    stream.read_exact(&mut reply).await?;
    if !is_reply(&question, &reply) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the reply is not to the question"));
    }
    copy_id(&mut reply, packet);
    Ok(reply)
}

/// A message with its length in front, in one piece so that it travels in one segment (RFC 7766, 8).
pub(super) fn framed(message: &[u8]) -> io::Result<Vec<u8>> {
    let len = u16::try_from(message.len()).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut framed = Vec::with_capacity(2 + message.len());
    framed.extend(len.to_be_bytes());
    framed.extend(message);
    Ok(framed)
}
