//! Datagrams to the host's own loopback addresses: each client has a socket of its own towards its replica, so that answers
//! find back, for as long as datagrams come either way.

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use tokio::{net::UdpSocket, task::JoinSet, time::timeout};
use tracing::warn;

use super::{Cause, Limits, connection::address_for, counters::Counts, pool::Front, spread};

/// Clients at once; a further one is not served until another has been silent for long enough. They are programs of this host,
/// each socket of which is one.
const FLOWS_MAX: usize = 1024;

/// The largest datagram: 64 KiB less the headers (RFC 768).
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// Takes datagrams from a door for as long as it is open.
pub(super) async fn relay(socket: std::net::UdpSocket, front: Arc<Front>, limits: &'static Limits) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => Arc::new(socket),
        Err(error) => return warn!("a door of the proxy cannot be watched: {error}"),
    };
    let mut flows: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    // Owned here, so that a door that closes ends its flows.
    let mut answers: JoinSet<SocketAddr> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let received = tokio::select! {
            Some(ended) = answers.join_next() => {
                if let Ok(client) = ended {
                    flows.remove(&client);
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => received,
        };
        // An ICMP error of an earlier answer, which nobody waits for any more.
        let Ok((len, client)) = received else { continue };
        let flow = match flows.get(&client) {
            Some(flow) => Arc::clone(flow),
            None if flows.len() >= FLOWS_MAX => {
                front.counts.fail(Cause::Resources);
                continue;
            }
            None => {
                let Some(flow) = open(&front, client).await else { continue };
                front.counts.accept();
                let answer =
                    answer(Arc::clone(&flow), Arc::clone(&socket), client, Arc::clone(&front), limits.datagrams);
                answers.spawn(answer);
                flows.insert(client, Arc::clone(&flow));
                flow
            }
        };
        // Waits for no more than a full buffer, which drains by itself.
        if flow.send(&buffer[..len]).await.is_ok() {
            front.counts.carry(len as u64, 0);
        }
    }
}

/// A socket to a replica.
async fn open(front: &Front, client: SocketAddr) -> Option<Arc<UdpSocket>> {
    let behind = front.behind();
    let Some(index) = spread::choose(&behind.door, &behind.loads, &front.turn, client.ip(), &[]) else {
        front.counts.fail(Cause::NoReplica);
        return None;
    };
    let opened = async {
        let address = address_for(behind.door.targets.get(index)?, client.ip())?;
        let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await.ok()?;
        socket.connect(address).await.ok()?;
        Some(Arc::new(socket))
    };
    let opened = opened.await;
    if opened.is_none() {
        front.counts.fail(Cause::Connect);
    }
    opened
}

/// Carries the replica's answers back until neither side has sent anything for the limit, or the replica refuses.
async fn answer(
    flow: Arc<UdpSocket>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    front: Arc<Front>,
    limit: Duration,
) -> SocketAddr {
    let _ended = Ended(&front.counts);
    loop {
        match timeout(limit, flow.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return client,
        }
        match forward(&flow, &socket, client) {
            Ok(len) => front.counts.carry(0, len as u64),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return client,
        }
    }
}

thread_local! {
    /// One for all flows of the thread: an answer is read and sent in one go.
    static ANSWER: std::cell::RefCell<Vec<u8>> = std::cell::RefCell::new(vec![0; DATAGRAM_BYTES_MAX]);
}

fn forward(flow: &UdpSocket, socket: &UdpSocket, client: SocketAddr) -> std::io::Result<usize> {
    ANSWER.with_borrow_mut(|buffer| {
        let len = flow.try_recv(buffer)?;
        // A client that has gone, or takes no more, loses it as on any network.
        let _ = socket.try_send_to(&buffer[..len], client);
        Ok(len)
    })
}

struct Ended<'a>(&'a Counts);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}
