//! Questions that are not ours go to the host's resolvers as they are, and the answers come back as they are: record types
//! and options that nobody has thought of yet pass.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use domain::base::{Message, MessageBuilder, iana::Rcode};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpStream, UdpSocket},
    time::timeout,
};
use tracing::debug;

use super::{
    Outcome, Tally, Way,
    budget::{Budget, Permit},
    message::UDP_EDNS_MAX,
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

/// The longest reply that is passed on in a datagram, in bytes, whatever the asker says that it takes; a longer one is asked for by
/// TCP. Hardly any resolver sends longer ones (RFC 6891, 6.2.5), and each question under way holds room for one.
const DATAGRAM_MAX: u16 = 4096;

/// How long a resolver that did not answer is asked after the others.
const DOUBT: Duration = Duration::from_secs(10);

/// Asks the host's resolvers.
pub(super) struct Forwarder {
    resolvers: Resolvers,
    /// Those that have not answered lately, and since when: they are asked after the others.
    doubtful: Mutex<BTreeMap<SocketAddr, Instant>>,
    under_way: Budget,
    tally: Arc<dyn Tally>,
}

impl Forwarder {
    pub(super) fn new(resolv_conf: PathBuf, tally: Arc<dyn Tally>) -> Self {
        Self {
            resolvers: Resolvers::new(resolv_conf),
            doubtful: Mutex::default(),
            under_way: Budget::new(UNDER_WAY_MAX, UNDER_WAY_EACH_MAX),
            tally,
        }
    }

    /// The right to one question; nothing if too many are under way.
    pub(super) fn permit(&self, asker: IpAddr) -> Option<Permit> {
        self.under_way.take(Some(asker))
    }

    /// The reply to a question, by one resolver after the other, or SERVFAIL. A datagram may be as long as `datagram_max` bytes; in
    /// place of a longer one goes one that is marked as truncated, so that the asker comes back over TCP.
    pub(super) async fn ask(&self, packet: &[u8], way: Way, datagram_max: u16) -> Vec<u8> {
        let mut last = None;
        for resolver in &self.in_order() {
            let asked = async {
                match way {
                    Way::Udp => ask_by_udp(*resolver, packet, datagram_max).await,
                    Way::Tcp => ask_by_tcp(*resolver, packet).await,
                }
            };
            match timeout(RESOLVER_TIMEOUT, asked).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(reply) if is_helpful(&reply) => {
                    self.lock_doubtful().remove(resolver);
                    self.tally.count(Outcome::Forwarded);
                    return reply;
                }
                Ok(reply) => last = Some(reply),
                Err(error) => {
                    debug!(%resolver, "a resolver did not answer: {error}");
                    self.lock_doubtful().insert(*resolver, Instant::now());
                }
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

    /// The resolvers as they stand in the host's file, but those that are in doubt last: otherwise one that is down would cost every
    /// question its whole time.
    fn in_order(&self) -> Vec<SocketAddr> {
        let mut resolvers: Vec<SocketAddr> = self.resolvers.now().iter().copied().collect();
        let mut doubtful = self.lock_doubtful();
        doubtful.retain(|resolver, since| since.elapsed() < DOUBT && resolvers.contains(resolver));
        resolvers.sort_by_key(|resolver| doubtful.contains_key(resolver));
        resolvers
    }

    fn lock_doubtful(&self) -> MutexGuard<'_, BTreeMap<SocketAddr, Instant>> {
        self.doubtful.lock().unwrap_or_else(PoisonError::into_inner)
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

/// A reply without its records, marked as truncated (RFC 2181, 9). Of `reply` the header and the question are needed.
fn truncated(question: &[u8], reply: &[u8]) -> io::Result<Vec<u8>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "the reply is longer than was asked for");
    let (question, reply) = (
        Message::from_octets(question).map_err(|_| malformed())?,
        Message::from_octets(reply).map_err(|_| malformed())?,
    );
    let mut builder = MessageBuilder::new_vec();
    *builder.header_mut() = reply.header();
    builder.header_mut().set_tc(true);
    let mut builder = builder.question();
    builder.push(reply.sole_question().map_err(|_| malformed())?).map_err(|_| malformed())?;
    let mut builder = builder.additional();
    if question.opt().is_some() {
        let opt = builder.opt(|opt| {
            opt.set_udp_payload_size(UDP_EDNS_MAX);
            Ok(())
        });
        opt.map_err(|_| malformed())?;
    }
    Ok(builder.finish())
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
    let mut reply = vec![0; usize::from(datagram_max.min(DATAGRAM_MAX)) + 1];
    loop {
        let len = socket.recv(&mut reply).await?;
        if let Some(found) = reply.get(..len).filter(|found| is_reply(&question, found)) {
            let mut found = if len == reply.len() { truncated(&question, found)? } else { found.to_vec() };
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

#[cfg(test)]
mod tests {
    use super::*;

    /// `example.org A` with an OPT record that takes 65,535 bytes.
    const QUESTION: &[u8] =
        b"\x12\x34\x01\0\0\x01\0\0\0\0\0\x01\x07example\x03org\0\0\x01\0\x01\0\0\x29\xff\xff\0\0\0\0\0\0";
    const QUESTION_END: usize = 12 + 13 + 4;

    /// What an asker gets that takes `datagram_max` bytes, of a reply of `len` bytes.
    async fn asked(datagram_max: u16, len: usize) -> Vec<u8> {
        let resolver = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let answers = async {
            let mut packet = [0; 512];
            let (asked, from) = resolver.recv_from(&mut packet).await.unwrap();
            assert_eq!(packet[2..asked], QUESTION[2..]);
            // One answer of a private type (RFC 6895, 3.1), at the question's name, as long as is wanted.
            let mut reply = packet[..QUESTION_END].to_vec();
            reply[2] |= 0x80;
            reply[7] = 1;
            reply[11] = 0;
            reply.extend(b"\xc0\x0c\xff\x00\0\x01\0\0\0\x01");
            reply.extend(u16::try_from(len - reply.len() - 2).unwrap().to_be_bytes());
            reply.resize(len, 7);
            resolver.send_to(&reply, from).await.unwrap();
        };
        let (reply, ()) = tokio::join!(ask_by_udp(resolver.local_addr().unwrap(), QUESTION, datagram_max), answers);
        reply.unwrap()
    }

    #[tokio::test]
    async fn a_reply_that_is_too_long_is_asked_for_by_tcp() {
        for (datagram_max, len, is_whole) in [
            (512, 512, true),
            (512, 513, false),
            (1232, 2000, false),
            (u16::MAX, 4096, true),
            (u16::MAX, 4097, false),
            (u16::MAX, 20_000, false),
        ] {
            let reply = asked(datagram_max, len).await;
            assert!(is_reply(QUESTION, &reply), "{datagram_max} {len}");
            let message = Message::from_octets(&reply[..]).unwrap();
            assert_eq!((reply.len() == len, message.header().tc()), (is_whole, !is_whole), "{datagram_max} {len}");
            assert_eq!(message.header_counts().ancount(), u16::from(is_whole));
            assert_eq!(message.opt().is_some(), !is_whole);
        }
    }
}
