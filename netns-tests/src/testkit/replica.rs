use std::{
    io::{BufRead, BufReader, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
};

use anyhow::{Context, Result};

/// Most bytes of one line of a client: a request's headers are shorter, and a client that sends more is not one of ours.
const LINE_MAX: usize = 8192;

/// Answers on `port`, TCP and UDP, both families where the host has them, until the process ends.
///
/// - HTTP/1.1: every request gets `replica=NAME client=ADDRESS:PORT` and a line end, kept alive unless `Connection: close`.
/// - Any other line over TCP gets the same with the line itself behind it: for connections that last.
/// - A datagram gets the same with the datagram behind it.
pub fn serve(port: u16, name: &str) -> Result<()> {
    let (tcp, udp) = bind(port)?;
    println!("replica {name} answers on port {port}");
    thread::scope(|scope| {
        scope.spawn(|| answer_datagrams(&udp, name));
        for stream in tcp.incoming() {
            // A client that went away between its SYN and our accept is its own affair.
            let Ok(stream) = stream else { continue };
            let name = name.to_owned();
            // A connection that fails ends alone; its client counts it.
            thread::Builder::new()
                .stack_size(128 * 1024)
                .spawn(move || answer_stream(&stream, &name))
                .context("a thread cannot be started")?;
        }
        Ok(())
    })
}

/// Both sockets, on `[::]` for both families or on 0.0.0.0 where the kernel has no IPv6.
fn bind(port: u16) -> Result<(TcpListener, UdpSocket)> {
    let any6 = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let any4 = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let tcp = TcpListener::bind(any6).or_else(|_| TcpListener::bind(any4));
    let tcp = tcp.with_context(|| format!("TCP port {port} cannot be bound"))?;
    let udp = UdpSocket::bind(any6).or_else(|_| UdpSocket::bind(any4));
    let udp = udp.with_context(|| format!("UDP port {port} cannot be bound"))?;
    Ok((tcp, udp))
}

fn answer_datagrams(socket: &UdpSocket, name: &str) {
    let mut buffer = [0; 2048];
    loop {
        // An ICMP error of an earlier answer shows up here and means nothing to the next client.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = format!("{} ", line(name, client)).into_bytes();
        answer.extend_from_slice(&buffer[..length]);
        let _ = socket.send_to(&answer, client);
    }
}

fn answer_stream(stream: &TcpStream, name: &str) -> std::io::Result<()> {
    // Answers are one segment each; waiting for more would only add 40 ms.
    stream.set_nodelay(true)?;
    let client = stream.peer_addr()?;
    let mut reader = BufReader::new(stream);
    let mut writer = stream;
    while let Some(first) = read_line(&mut reader)? {
        if !first.ends_with("HTTP/1.1") && !first.ends_with("HTTP/1.0") {
            writeln!(writer, "{} {first}", line(name, client))?;
            continue;
        }
        let mut close = first.ends_with("HTTP/1.0");
        while let Some(header) = read_line(&mut reader)? {
            if header.is_empty() {
                break;
            }
            close |= header.eq_ignore_ascii_case("connection: close");
        }
        let body = format!("{}\n", line(name, client));
        let connection = if close { "close" } else { "keep-alive" };
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain";
        let answer = format!("{head}\r\nContent-Length: {length}\r\nConnection: {connection}\r\n\r\n{body}");
        writer.write_all(answer.as_bytes())?;
        if close {
            break;
        }
    }
    Ok(())
}

/// The next line without its end, or nothing at the end of the stream.
pub(super) fn read_line(reader: &mut impl BufRead) -> std::io::Result<Option<String>> {
    let mut bytes = Vec::new();
    let mut limited = std::io::Read::take(reader, LINE_MAX as u64);
    if limited.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&bytes);
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// What a replica says: its name and the client's address as it sees it, an IPv4 client in IPv4's notation.
pub(super) fn line(name: &str, client: SocketAddr) -> String {
    let address: IpAddr = client.ip().to_canonical();
    format!("replica={name} client={}", SocketAddr::new(address, client.port()))
}
