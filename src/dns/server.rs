use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nix::{
    errno::Errno,
    sys::socket::{
        AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, bind, listen, setsockopt, socket,
        sockopt::{IpFreebind, RcvBufForce, ReuseAddr},
    },
};
use tokio::{
    net::{TcpListener, UdpSocket},
    sync::watch,
    time::sleep,
};
use tracing::{info, warn};

use super::{ADDRESSES, PORT, Tally, forward::Forwarder, tcp, udp};
use crate::names::{self, Zone};

/// The first and the longest wait before trying again to take up an address.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// What the kernel may hold for us of datagrams, in bytes: a burst of some thousand questions.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 128;

/// What is served, and to whom it is told.
pub struct Service {
    /// The zone, anew with each change; nothing until the cluster is known.
    pub zones: watch::Receiver<Option<Arc<Zone>>>,
    /// The file that names the host's resolvers.
    pub resolv_conf: PathBuf,
    /// Counts.
    pub tally: Arc<dyn Tally>,
    /// Why an address is not served at the moment.
    pub trouble: watch::Sender<Trouble>,
}

/// Addresses that are not served, and why.
pub type Trouble = BTreeMap<IpAddr, String>;

/// What all tasks share.
pub(super) struct Shared {
    pub(super) zones: watch::Receiver<Option<Arc<Zone>>>,
    pub(super) tally: Arc<dyn Tally>,
    pub(super) forwarder: Forwarder,
    /// The number of the next question, from a random one on.
    questions: AtomicU64,
}

impl Shared {
    /// A number for [`Zone::answer`] that nobody needs to be unable to guess.
    pub(super) fn turn(&self) -> u64 {
        names::turn(self.questions.fetch_add(1, Ordering::Relaxed))
    }
}

/// Answers at both addresses until it is dropped. One that cannot be taken up, or is lost, is told in `trouble` and tried again:
/// the agent has other things to do, too.
pub async fn serve(service: Service) {
    let Service { mut zones, resolv_conf, tally, trouble } = service;
    // Questions that come earlier wait in the socket of whoever asks again; there is nothing to answer them from.
    if zones.wait_for(Option::is_some).await.is_err() {
        return;
    }
    let forwarder = Forwarder::new(resolv_conf, Arc::clone(&tally));
    let seed = getrandom::u64().unwrap_or_default();
    let shared = Arc::new(Shared { zones, tally, forwarder, questions: AtomicU64::new(seed) });
    let [one, two] = ADDRESSES.map(|address| serve_at(address, Arc::clone(&shared), &trouble));
    tokio::join!(one, two);
}

async fn serve_at(address: IpAddr, shared: Arc<Shared>, trouble: &watch::Sender<Trouble>) {
    let mut retry = RETRY_MIN;
    loop {
        let at = SocketAddr::new(address, PORT);
        let ended = match bound_udp(at).and_then(|udp| Ok((udp, bound_tcp(at)?))) {
            Ok((datagrams, connections)) => {
                info!(%address, "answering questions for names");
                trouble.send_modify(|trouble| {
                    trouble.remove(&address);
                });
                retry = RETRY_MIN;
                tokio::select! {
                    ended = udp::serve(datagrams, Arc::clone(&shared)) => ended,
                    ended = tcp::serve(connections, Arc::clone(&shared)) => ended,
                }
            }
            Err(error) => Err(error),
        };
        if let Err(error) = ended {
            // A kernel without IPv6 has no containers that ask by it.
            if error.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32) {
                return info!(%address, "no questions are answered: {error}");
            }
            let hint = match error.kind() {
                io::ErrorKind::AddrInUse => {
                    "; another resolver listens on every address of this host: let it listen on its own alone"
                }
                _ => "",
            };
            let message = format!("containers get no answers from the names server at {at}: {error}{hint}");
            let is_news = trouble.borrow().get(&address) != Some(&message);
            if is_news {
                warn!("{message}");
                trouble.send_modify(|trouble| {
                    trouble.insert(address, message);
                });
            }
        }
        sleep(retry).await;
        retry = (retry * 2).min(RETRY_MAX);
    }
}

fn bound_udp(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = prepared(at, SockType::Datagram)?;
    // Best effort: with the usual buffer a burst loses questions, which are then asked again.
    let _ = setsockopt(&socket, RcvBufForce, &RECEIVE_BUFFER);
    bind_to(&socket, at)?;
    UdpSocket::from_std(socket.into())
}

fn bound_tcp(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = prepared(at, SockType::Stream)?;
    // Connections of an agent that has just ended linger (TIME_WAIT).
    setsockopt(&socket, ReuseAddr, &true)?;
    bind_to(&socket, at)?;
    listen(&socket, Backlog::new(BACKLOG)?)?;
    TcpListener::from_std(socket.into())
}

/// A socket that can be bound before the host carries the address (ip(7), `IP_FREEBIND`; it works on IPv6 sockets as well): the
/// reconcile loop gives it one, at any time.
fn prepared(at: SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let socket = socket(family, kind, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&socket, IpFreebind, &true)?;
    Ok(socket)
}

fn bind_to(socket: &OwnedFd, at: SocketAddr) -> io::Result<()> {
    use std::os::fd::AsRawFd;

    bind(socket.as_fd().as_raw_fd(), &SockaddrStorage::from(at))?;
    Ok(())
}
