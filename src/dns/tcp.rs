use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};
use tracing::debug;

use super::{
    Outcome, Way,
    budget::Budget,
    forward::framed,
    respond::{Reaction, respond},
    server::Shared,
};

/// Connections at once, overall and for one asker. Clients open one for an answer that does not fit a datagram and close it.
const CONNECTIONS_MAX: usize = 128;
const CONNECTIONS_EACH_MAX: usize = 16;

/// How long a connection may be without a whole question, and how long one may take to accept an answer (RFC 7766, 6.2.3, asks
/// for some seconds).
const IDLE_MAX: Duration = Duration::from_secs(10);

/// How long to wait when a connection cannot be accepted: mostly for want of descriptors, which take a moment to come back.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// Answers on connections until the listener is dropped. A connection over the bounds is closed at once; so is one that is idle
/// for too long.
pub(super) async fn serve(listener: TcpListener, shared: Arc<Shared>) -> io::Result<()> {
    let budget = Budget::new(CONNECTIONS_MAX, CONNECTIONS_EACH_MAX);
    let mut connections = JoinSet::new();
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!("a connection could not be accepted: {error}");
                sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        while connections.try_join_next().is_some() {}
        // Strangers share one part among all of them: their addresses cost them nothing.
        let is_known = shared.zones.borrow().as_ref().is_some_and(|zone| zone.knows(from.ip()));
        let Some(permit) = budget.take(is_known.then(|| from.ip())) else { continue };
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            if let Err(error) = converse(stream, from, &shared).await {
                debug!(%from, "a connection ended: {error}");
            }
            drop(permit);
        });
    }
}

/// Answers one question after the other, in the order in which they came; the next ones wait in the socket's buffer.
async fn converse(mut stream: TcpStream, from: SocketAddr, shared: &Shared) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reply = Vec::new();
    loop {
        let question = timeout(IDLE_MAX, question(&mut stream)).await.map_err(|_| io::ErrorKind::TimedOut)??;
        let Some(question) = question else { return Ok(()) };
        let Some(zone) = shared.zones.borrow().clone() else { return Ok(()) };
        match respond(&question, from.ip(), &zone, Way::Tcp, shared.turn(), &mut reply) {
            Reaction::Drop => {
                shared.tally.count(Outcome::Malformed);
                return Ok(());
            }
            Reaction::Reply(outcome) => shared.tally.count(outcome),
            Reaction::Forward(_) => {
                reply = match shared.forwarder.permit(from.ip()) {
                    Some(_permit) => shared.forwarder.ask(&question, Way::Tcp, 0).await,
                    None => shared.forwarder.give_up(&question),
                };
            }
        }
        let framed = framed(&reply)?;
        timeout(IDLE_MAX, stream.write_all(&framed)).await.map_err(|_| io::ErrorKind::TimedOut)??;
    }
}

/// One message, or nothing if the asker has closed the connection.
async fn question(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let len = match stream.read_u16().await {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut message = vec![0; usize::from(len)];
    stream.read_exact(&mut message).await?;
    Ok(Some(message))
}
