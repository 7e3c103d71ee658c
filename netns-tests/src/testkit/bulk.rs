use std::{
    io::{ErrorKind, Read, Write},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{getsockopt, sockopt};

use crate::{Netns, pause};

/// How often a server looks whether it is to end.
const LOOK: Duration = Duration::from_millis(20);

/// A black hole shows as silence; TCP's retransmissions have had several turns by then (RFC 6298).
const SILENCE: Duration = Duration::from_secs(15);

/// What is handed to the kernel at once.
const CHUNK: usize = 64 * 1024;

/// A server of both families inside a namespace: over TCP it takes what a client has announced and gives back as much, over UDP
/// it gives back what it got. Its threads end with it.
pub struct Bulk {
    stop: Arc<AtomicBool>,
}

impl Bulk {
    /// Answers on `port` from when this returns.
    pub fn start(netns: &Netns, port: u16) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
        let (tcp, udp) = netns.enter(|| Ok((TcpListener::bind(any)?, UdpSocket::bind(any)?)))?;
        tcp.set_nonblocking(true)?;
        udp.set_read_timeout(Some(LOOK))?;
        let (until, stopped) = (Arc::clone(&stop), Arc::clone(&stop));
        netns.enter_detached(move || {
            while !until.load(Ordering::Relaxed) {
                match tcp.accept() {
                    // One after the other; who breaks off has failed at its own side.
                    Ok((stream, _)) => drop(give_back(&stream)),
                    Err(error) if error.kind() == ErrorKind::WouldBlock => pause(LOOK),
                    Err(error) => return Err(error.into()),
                }
            }
            Ok(())
        })?;
        netns.enter_detached(move || {
            let mut buffer = vec![0; CHUNK];
            while !stopped.load(Ordering::Relaxed) {
                if let Ok((length, from)) = udp.recv_from(&mut buffer) {
                    let _ = udp.send_to(&buffer[..length], from);
                }
            }
            Ok(())
        })?;
        Ok(Self { stop })
    }
}

impl Drop for Bulk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn give_back(stream: &TcpStream) -> Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mut count = [0; 8];
    (&mut &*stream).read_exact(&mut count)?;
    let count = u64::from_be_bytes(count);
    take(stream, count)?;
    give(stream, count)
}

/// What a transfer has shown.
#[derive(Debug, Clone, Copy)]
pub struct Transfer {
    /// The most bytes that the client put into a segment, when the connection was new.
    pub mss_first: u32,
    /// The same at its end.
    pub mss_last: u32,
}

/// Sends so many bytes to a [`Bulk`] and takes as many back, from this thread's namespace. Silence on the way is an error.
pub fn transfer(server: SocketAddr, bytes: u64) -> Result<Transfer> {
    let stream = TcpStream::connect_timeout(&server, SILENCE).with_context(|| format!("connecting to {server}"))?;
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_write_timeout(Some(SILENCE))?;
    let mss_first = getsockopt(&stream, sockopt::TcpMaxSeg)?;
    (&mut &stream).write_all(&bytes.to_be_bytes())?;
    give(&stream, bytes).with_context(|| format!("sending {bytes} bytes to {server}"))?;
    take(&stream, bytes).with_context(|| format!("taking {bytes} bytes from {server}"))?;
    Ok(Transfer { mss_first, mss_last: getsockopt(&stream, sockopt::TcpMaxSeg)? })
}

fn give(mut stream: &TcpStream, bytes: u64) -> Result<()> {
    let chunk = vec![0x5a; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        stream.write_all(&chunk[..now]).with_context(|| format!("{left} bytes were left"))?;
        left -= now as u64;
    }
    Ok(())
}

fn take(mut stream: &TcpStream, bytes: u64) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    let mut left = bytes;
    while left > 0 {
        let now = usize::try_from(left).unwrap_or(CHUNK).min(CHUNK);
        let length = stream.read(&mut chunk[..now]).with_context(|| format!("{left} bytes were left"))?;
        ensure!(length > 0, "it was closed with {left} bytes left");
        left -= length as u64;
    }
    Ok(())
}

/// One datagram of `size` bytes to a [`Bulk`] and back, from a connected socket of this thread's namespace. The first tries may be
/// lost: each teaches the sender what a part of the way carries (RFC 1191, RFC 8201).
pub fn echo_datagram(server: SocketAddr, size: usize, tries: usize) -> Result<()> {
    let any: SocketAddr = if server.is_ipv4() { "0.0.0.0:0".parse()? } else { "[::]:0".parse()? };
    let socket = UdpSocket::bind(any)?;
    socket.set_read_timeout(Some(Duration::from_secs(1)))?;
    socket.connect(server)?;
    let mut last = None;
    for turn in 0..tries {
        let datagram = vec![u8::try_from(turn % 256).unwrap_or_default(); size];
        let mut answer = vec![0; size + 1];
        // EMSGSIZE is how a connected socket hears of a smaller path.
        match socket.send(&datagram).and_then(|_| socket.recv(&mut answer)) {
            Ok(length) if answer[..length] == datagram => return Ok(()),
            Ok(_) => {}
            Err(error) => last = Some(error),
        }
    }
    anyhow::bail!("{tries} datagrams of {size} bytes to {server} did not come back: {last:?}")
}
