//! One connection from its acceptance to its end.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::OwnedSemaphorePermit,
    time::{sleep, timeout},
};
use tracing::{debug, warn};

use super::{
    Cause, HEADER_BYTES_MAX, Limits, Parsed, TRIES_MAX, Target, Told,
    counters::{Counted, Counts},
    header,
    pool::{Front, Shared},
    relay::relay,
    shares::Share,
    spread::{self, Load},
};
use crate::model::{EndpointId, ProxyProtocol};

/// How long a thread waits before it accepts again when there are no files or no memory left.
const OUT_OF_RESOURCES: Duration = Duration::from_millis(50);

/// Takes connections from a door for as long as it is open.
pub(super) async fn accept(listener: std::net::TcpListener, front: Arc<Front>, shared: Shared) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!("a door of the proxy cannot be watched by one of its threads: {error}"),
    };
    loop {
        let (client, peer) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Gone between its SYN and now.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => {
                front.behind().counts.fail(Cause::Resources);
                debug!("a connection cannot be accepted: {error}");
                sleep(OUT_OF_RESOURCES).await;
                continue;
            }
        };
        let free = shared.places.available_permits();
        let Some(share) = shared.shares.take(peer.ip(), free) else {
            refuse(&client, &front.behind().counts, Cause::Resources);
            continue;
        };
        if free == 0 {
            // The others wait in the kernel meanwhile.
            front.behind().counts.fail(Cause::Resources);
        }
        let Ok(permit) = Arc::clone(&shared.places).acquire_owned().await else { return };
        tokio::spawn(serve(client, peer, Arc::clone(&front), shared.limits, (permit, share)));
    }
}

async fn serve(
    mut client: TcpStream,
    peer: SocketAddr,
    front: Arc<Front>,
    limits: &'static Limits,
    _place: (OwnedSemaphorePermit, Share),
) {
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let (mut counted, is_named) = {
        let behind = front.behind();
        let is_named = behind.door.headers.accept_from.iter().any(|prefix| prefix.contains(&peer.ip()));
        (Counted::begin(&behind.counts), is_named)
    };
    let mut first = Vec::new();
    let mut told = None;
    if is_named {
        // Rare, so that every other connection need not have room for it.
        let Ok(Ok(header)) = Box::pin(timeout(limits.header, read_header(&mut client, &mut first))).await else {
            return refuse(&client, &counted, Cause::Header);
        };
        told = Some(header);
    }
    let source = match told {
        Some(Told::Addresses { client, server: _ }) => client.ip().to_canonical(),
        Some(Told::Nothing) | None => peer.ip(),
    };
    let Some(Reached { mut server, replica, send, load: _load }) = reach(&front, source, &counted, limits).await else {
        return refuse(&client, &counted, Cause::NoReplica);
    };
    counted.give(replica);
    if let Some(version) = send {
        let Ok(told) = told.map_or_else(|| addresses(&client, peer), Ok) else {
            return refuse(&client, &counted, Cause::Reset);
        };
        // It fits any send buffer; who resets at once will be met again by the relay.
        if server.write_all(&header::write(version, told)).await.is_err() {
            return refuse(&client, &counted, Cause::Reset);
        }
    }
    if let Err(cause) = relay(client, server, first, limits, &counted).await {
        counted.fail(cause);
    }
}

/// Closes a connection by a RST: at once, and so that nobody takes it for the end of an answer.
fn refuse(client: &TcpStream, counts: &Counts, cause: Cause) {
    counts.fail(cause);
    let _ = client.set_zero_linger();
}

/// Who the client is, by its own connection.
fn addresses(client: &TcpStream, peer: SocketAddr) -> io::Result<Told> {
    let server = client.local_addr()?;
    Ok(Told::Addresses { client: peer, server: SocketAddr::new(server.ip().to_canonical(), server.port()) })
}

/// Reads the header of a named peer; what has been read behind it goes to `first`.
async fn read_header(client: &mut TcpStream, first: &mut Vec<u8>) -> io::Result<Told> {
    let mut bytes = Vec::with_capacity(256);
    loop {
        match header::parse(&bytes) {
            Parsed::Whole(told, len) => {
                *first = bytes.split_off(len);
                return Ok(told);
            }
            Parsed::Malformed => return Err(io::ErrorKind::InvalidData.into()),
            Parsed::Incomplete if bytes.len() >= HEADER_BYTES_MAX => return Err(io::ErrorKind::InvalidData.into()),
            Parsed::Incomplete => {}
        }
        if (&mut *client).take((HEADER_BYTES_MAX - bytes.len()) as u64).read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// A connection to a replica.
struct Reached {
    server: TcpStream,
    replica: EndpointId,
    /// The version of the header that it wants.
    send: Option<ProxyProtocol>,
    load: Loaded,
}

/// Connects to a replica, and to another one if that fails. What lies behind the door is looked up for each try: a replica that
/// has been drained meanwhile gets nothing any more, its address may be another container's.
async fn reach(front: &Front, source: IpAddr, counts: &Counts, limits: &Limits) -> Option<Reached> {
    let mut failed: Vec<EndpointId> = Vec::new();
    while failed.len() < TRIES_MAX {
        let behind = front.behind();
        let targets = &behind.door.targets;
        let tried: Vec<usize> =
            failed.iter().filter_map(|id| targets.iter().position(|target| target.id == *id)).collect();
        let index = spread::choose(&behind.door, &behind.loads, &front.turn, source, &tried)?;
        let (target, load) = (targets.get(index)?, behind.loads.get(index)?);
        let load = Loaded::new(load);
        match connect(target, source, limits.connect).await {
            Ok(server) => {
                let now = front.behind();
                if Arc::ptr_eq(&now, &behind) || now.leads_to(target) {
                    return Some(Reached { server, replica: target.id, send: now.door.headers.send, load });
                }
                debug!("the replica {} of {} was taken out while it was connected to", target.id, behind.door.service);
            }
            Err(error) => {
                counts.fail(Cause::Connect);
                debug!("the replica {} of {} is not reached: {error}", target.id, behind.door.service);
            }
        }
        failed.push(target.id);
    }
    None
}

async fn connect(target: &Target, source: IpAddr, limit: Duration) -> io::Result<TcpStream> {
    let address = address_for(target, source).ok_or(io::ErrorKind::AddrNotAvailable)?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    timeout(limit, socket.connect(address)).await.unwrap_or(Err(io::ErrorKind::TimedOut.into()))
}

/// The replica's address of the client's family, or any.
pub(super) fn address_for(target: &Target, client: IpAddr) -> Option<SocketAddr> {
    let same = target.addresses.iter().find(|address| address.is_ipv4() == client.is_ipv4());
    same.or(target.addresses.first()).map(|address| SocketAddr::new(*address, target.port.get()))
}

/// A replica's connection, counted while this lives.
#[derive(Debug)]
struct Loaded(Load);

impl Loaded {
    fn new(load: &Load) -> Self {
        load.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
