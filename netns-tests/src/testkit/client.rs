use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream, UdpSocket},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

/// What a replica said.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Answer {
    /// The replica's name.
    pub replica: String,
    /// The client's address and port as the replica saw them.
    pub client: SocketAddr,
}

impl Answer {
    /// Reads `replica=NAME client=ADDRESS:PORT`, whatever follows.
    pub fn parse(text: &str) -> Result<Self> {
        let mut words = text.split_whitespace();
        let replica = words.next().and_then(|word| word.strip_prefix("replica="));
        let client = words.next().and_then(|word| word.strip_prefix("client=")).and_then(|word| word.parse().ok());
        match (replica, client) {
            (Some(replica), Some(client)) => Ok(Self { replica: replica.to_owned(), client }),
            _ => bail!("this is no replica's answer: {text:?}"),
        }
    }
}

/// One request to a replica on a connection of its own, from this thread's namespace.
pub fn ask(server: SocketAddr, timeout: Duration) -> Result<Answer> {
    Answer::parse(&fetch(server, "/", timeout)?)
}

/// The body of `http://SERVER/PATH`, on a connection of its own. `timeout` bounds the connect and each read.
pub fn fetch(server: SocketAddr, path: &str, timeout: Duration) -> Result<String> {
    let mut stream = TcpStream::connect_timeout(&server, timeout).with_context(|| format!("connecting to {server}"))?;
    stream.set_read_timeout(Some(timeout))?;
    stream.set_nodelay(true)?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n\r\n")
        .with_context(|| format!("sending to {server}"))?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).with_context(|| format!("reading from {server}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("{server} closed without an answer"))?;
    let status = head.lines().next().unwrap_or_default();
    ensure!(status.split_whitespace().nth(1) == Some("200"), "{server} answered {status:?}");
    Ok(body.to_owned())
}

/// One datagram to a replica from a connected socket of its own, so that an ICMP error arrives as an error.
pub fn ask_udp(server: SocketAddr, timeout: Duration) -> Result<Answer> {
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.connect(server)?;
    socket.send(b"hello").with_context(|| format!("sending to {server}/udp"))?;
    let mut buffer = [0; 2048];
    let length = socket.recv(&mut buffer).with_context(|| format!("reading from {server}/udp"))?;
    Answer::parse(&String::from_utf8_lossy(&buffer[..length]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_read_back() {
        let answer = Answer::parse("replica=web-1 client=192.0.2.100:4711 line 7\n").unwrap();
        assert_eq!((answer.replica.as_str(), answer.client), ("web-1", "192.0.2.100:4711".parse().unwrap()));
        assert_eq!(
            Answer::parse("replica=a client=[2001:db8::1]:9").unwrap().client,
            "[2001:db8::1]:9".parse().unwrap()
        );
        for wrong in ["", "replica=a", "client=1.2.3.4:5 replica=a", "replica=a client=b"] {
            assert!(Answer::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
