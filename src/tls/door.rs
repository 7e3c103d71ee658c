//! Taking connections: a handshake within its time, and a connection that lasts no longer than its other end is known.
//!
//! No task of its own: whoever asks [`Door`] for the next guest drives all handshakes that are under way, and dropping it ends
//! them and closes the port at once.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use futures::{FutureExt as _, Stream, StreamExt as _, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tracing::debug;

use super::credentials::{Credentials, fingerprint_of};
use crate::model::Fingerprint;

/// Whose key pairs are known now; nothing as long as nobody has said.
pub type Known = watch::Receiver<Option<Arc<BTreeSet<Fingerprint>>>>;

/// How long a handshake may take: two round trips and two signatures.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// How long a connection lasts whose other end is not known: a joining node asks one thing.
const STRANGER_MAX: Duration = Duration::from_secs(30);

/// How long a connection lasts whose other end is no longer known: what it asked for last is still answered, for that may have
/// been to be forgotten. Whoever answers asks for each call whether the caller is known.
const FORGOTTEN_MAX: Duration = Duration::from_secs(1);

/// Connections that may be in their handshake or a stranger's at the same time, and how many of them from one address. Far more
/// than nodes join at one moment, and cheap beside the descriptors that a process has.
const STRANGERS_MAX: usize = 256;
const STRANGERS_PER_ADDRESS_MAX: usize = 16;

/// How long to wait when the system gives no more descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Where other nodes knock.
pub struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    known: Known,
    handshakes: FuturesUnordered<BoxFuture<'static, Option<Guest>>>,
    places: Places,
    pause: Option<Pin<Box<Sleep>>>,
    on_failure: Arc<dyn Fn() + Send + Sync>,
}

impl Door {
    /// Takes connections from `listener`. `on_failure` is called for each that did not come to a handshake's end.
    pub fn new(
        listener: TcpListener,
        credentials: &Credentials,
        known: Known,
        on_failure: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            listener,
            acceptor: credentials.acceptor(),
            known,
            handshakes: FuturesUnordered::new(),
            places: Places::default(),
            pause: None,
            on_failure: Arc::new(on_failure),
        }
    }

    fn begin(&self, stream: TcpStream, from: SocketAddr) {
        let failed = Arc::clone(&self.on_failure);
        let Some(place) = self.places.take(from.ip()) else {
            debug!("a connection from {from} is closed: too many there have not shown who they are");
            return failed();
        };
        let (acceptor, known) = (self.acceptor.clone(), self.known.clone());
        self.handshakes.push(Box::pin(async move {
            // It only costs time where it fails.
            let _ = stream.set_nodelay(true);
            let reason = match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
                Ok(Ok(stream)) => return Some(Guest::new(stream, from, known, place)),
                Ok(Err(error)) => error.to_string(),
                Err(_) => format!("not done within {} s", HANDSHAKE_MAX.as_secs()),
            };
            debug!("no TLS with {from}: {reason}");
            failed();
            None
        }));
    }

    fn accept(&mut self, context: &mut Context<'_>) {
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.poll_unpin(context).is_pending() {
                    return;
                }
                self.pause = None;
            }
            match self.listener.poll_accept(context) {
                Poll::Ready(Ok((stream, from))) => self.begin(stream, from),
                Poll::Ready(Err(error)) => {
                    debug!("no connection from another node can be taken: {error}");
                    self.pause = Some(Box::pin(sleep(ACCEPT_PAUSE)));
                }
                Poll::Pending => return,
            }
        }
    }
}

impl Stream for Door {
    type Item = io::Result<Guest>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.accept(context);
        loop {
            match self.handshakes.poll_next_unpin(context) {
                Poll::Ready(Some(Some(guest))) => return Poll::Ready(Some(Ok(guest))),
                Poll::Ready(Some(None)) => {}
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Visitor {
    /// Which key pair he has proved to have, by a certificate of the cluster's authority; nothing if he showed none.
    pub key: Option<Fingerprint>,
    /// Where he is.
    pub from: SocketAddr,
}

/// A connection. Reading and writing fail when its other end is no longer known, a moment after it was forgotten.
pub struct Guest {
    stream: TlsStream<TcpStream>,
    visitor: Visitor,
    end: BoxFuture<'static, ()>,
    has_ended: bool,
}

impl Guest {
    fn new(stream: TlsStream<TcpStream>, from: SocketAddr, known: Known, place: Place) -> Self {
        let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let visitor = Visitor { key: shown.and_then(fingerprint_of), from };
        Self { stream, visitor, end: Box::pin(end(visitor.key, known, place)), has_ended: false }
    }

    /// Who is at the other end.
    pub fn visitor(&self) -> Visitor {
        self.visitor
    }

    fn check(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if !self.has_ended && self.end.as_mut().poll(context).is_pending() {
            return Ok(());
        }
        self.has_ended = true;
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the other end is not known, or no longer"))
    }
}

/// Done when a connection has to end.
async fn end(key: Option<Fingerprint>, mut known: Known, place: Place) {
    let Some(key) = key else { return sleep(STRANGER_MAX).await };
    let has = |known: &Option<Arc<BTreeSet<Fingerprint>>>| known.as_ref().is_some_and(|known| known.contains(&key));
    // One that was just let in may come before the word of it.
    if !matches!(timeout(STRANGER_MAX, known.wait_for(has)).await, Ok(Ok(_))) {
        return;
    }
    drop(place);
    // It fails if nobody says any more who is known: then the membership is over.
    if known.wait_for(|known| !has(known)).await.is_ok() {
        sleep(FORGOTTEN_MAX).await;
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Guest {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// How many strangers there are from each address.
#[derive(Clone, Default)]
struct Places(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// A stranger's place, given back when dropped.
struct Place {
    places: Places,
    address: IpAddr,
}

impl Places {
    fn take(&self, address: IpAddr) -> Option<Place> {
        let mut taken = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let here = taken.get(&address).copied().unwrap_or_default();
        if here >= STRANGERS_PER_ADDRESS_MAX || taken.values().sum::<usize>() >= STRANGERS_MAX {
            return None;
        }
        taken.insert(address, here + 1);
        Some(Place { places: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(here) = taken.get_mut(&self.address) {
            *here -= 1;
            if *here == 0 {
                taken.remove(&self.address);
            }
        }
    }
}
