//! Both ends of a name: a client that asks one question, and the resolver that a host would have.

use std::{
    io::{Read, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};

/// What the resolver below says to every question for an IPv4 address (RFC 5737, TEST-NET-3).
pub const UPSTREAM_ANSWER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 53);

/// The header of a message, in bytes (RFC 1035, 4.1.1).
const HEADER: usize = 12;

/// Type and class of a question, in bytes.
const KIND_AND_CLASS: usize = 4;

/// The addresses of a name by one question over UDP, of the family of the question's type: `A` or `AAAA`. A code other than
/// NOERROR is an error that names it.
pub fn resolve(server: SocketAddr, name: &str, is_v6: bool, timeout: Duration) -> Result<Vec<IpAddr>> {
    let any: IpAddr = if server.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(server)?;
    let mut question = vec![0x77, 0x66, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.').filter(|label| !label.is_empty()) {
        question.push(u8::try_from(label.len())?);
        question.extend(label.as_bytes());
    }
    question.extend([0, 0, if is_v6 { 28 } else { 1 }, 0, 1]);
    socket.send(&question)?;
    let mut buffer = [0; 4096];
    let len = socket.recv(&mut buffer).with_context(|| format!("{server} does not answer for {name:?}"))?;
    let reply = buffer.get(..len).unwrap_or_default();
    ensure!(reply.get(..2) == question.get(..2), "{server} answered another question");
    let (code, count) = (reply[3] & 0xf, u16::from_be_bytes([reply[6], reply[7]]));
    ensure!(code == 0, "{server} answered {name:?} with code {code}");
    // Records of ours all begin with a pointer to the question: 12 bytes, then the data.
    let mut addresses = Vec::new();
    let mut rest = reply.get(question.len()..).unwrap_or_default();
    for _ in 0..count {
        let (head, after) = rest.split_at_checked(HEADER).ok_or_else(|| anyhow!("an answer ends too early"))?;
        let data_len = usize::from(u16::from_be_bytes([head[10], head[11]]));
        let (data, after) = after.split_at_checked(data_len).ok_or_else(|| anyhow!("an answer ends too early"))?;
        addresses.push(match *data {
            [a, b, c, d] => Ipv4Addr::from([a, b, c, d]).into(),
            _ => IpAddr::from(<[u8; 16]>::try_from(data)?),
        });
        rest = after;
    }
    Ok(addresses)
}

/// A resolver for tests, at `address` over UDP and TCP, until the process ends. Names that begin with a word of its own get
/// special treatment: `mute` no answer, `fail` SERVFAIL, `big` 100 addresses, over UDP none and a mark that says so. All others
/// have the address [`UPSTREAM_ANSWER`].
pub fn serve_names(address: SocketAddr) -> Result<()> {
    let datagrams = UdpSocket::bind(address).with_context(|| format!("UDP {address} cannot be bound"))?;
    let connections = TcpListener::bind(address).with_context(|| format!("TCP {address} cannot be bound"))?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut buffer = [0; 4096];
            loop {
                let Ok((len, client)) = datagrams.recv_from(&mut buffer) else { continue };
                if let Ok(Some(reply)) = reply_to(&buffer[..len], false) {
                    let _ = datagrams.send_to(&reply, client);
                }
            }
        });
        for stream in connections.incoming() {
            let Ok(mut stream) = stream else { continue };
            // One question a connection, as the agent asks them; a client that fails is its own affair.
            let _ = (|| -> Result<()> {
                let mut len = [0; 2];
                stream.read_exact(&mut len)?;
                let mut question = vec![0; usize::from(u16::from_be_bytes(len))];
                stream.read_exact(&mut question)?;
                if let Some(reply) = reply_to(&question, true)? {
                    stream.write_all(&u16::try_from(reply.len())?.to_be_bytes())?;
                    stream.write_all(&reply)?;
                }
                Ok(())
            })();
        }
        Ok(())
    })
}

fn reply_to(question: &[u8], is_tcp: bool) -> Result<Option<Vec<u8>>> {
    let name_len = question.get(HEADER..).and_then(|name| name.iter().position(|byte| *byte == 0));
    let Some(name_len) = name_len else { bail!("no name") };
    let end = HEADER + name_len + 1 + KIND_AND_CLASS;
    let asked = question.get(..end).ok_or_else(|| anyhow!("no whole question"))?;
    let first_len = usize::from(asked[HEADER]);
    let first = asked[HEADER + 1..].get(..first_len).unwrap_or_default().to_ascii_lowercase();
    let is_a = asked[end - KIND_AND_CLASS..] == [0, 1, 0, 1];
    let (code, is_cut, count): (u8, bool, u8) = match first.as_slice() {
        b"mute" => return Ok(None),
        b"fail" => (2, false, 0),
        b"big" if !is_tcp => (0, true, 0),
        b"big" => (0, false, 100),
        _ => (0, false, u8::from(is_a)),
    };
    let mut reply = asked.to_vec();
    // A reply, recursion wanted and available.
    (reply[2], reply[3]) = (0x81 | if is_cut { 2 } else { 0 }, 0x80 | code);
    reply[4..HEADER].copy_from_slice(&[0, 1, 0, count, 0, 0, 0, 0]);
    for number in 0..count {
        let [a, b, c, d] = UPSTREAM_ANSWER.octets();
        let d = if count == 1 { d } else { number };
        reply.extend([0xc0, 0x0c, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, a, b, c, d]);
    }
    Ok(Some(reply))
}
