//! Datagrams to the host's own loopback addresses: each client has a socket of its own towards its replica, so that answers
//! find back, for as long as datagrams come either way.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    net::UdpSocket,
    task::{AbortHandle, JoinSet},
    time::{Instant, sleep_until},
};
use tracing::warn;

use super::{
    Cause, Limits, Target,
    connection::address_for,
    counters::Counted,
    pool::{Behind, Front},
    spread::{self, Turn},
};

/// Clients at once; a further one is not served until another has been silent for long enough. They are programs of this host,
/// each socket of which is one.
const FLOWS_MAX: usize = 1024;

/// The largest datagram: 64 KiB less the headers (RFC 768).
const DATAGRAM_BYTES_MAX: usize = 65_535;

/// A client's way to its replica.
#[derive(Debug)]
struct Flow {
    socket: UdpSocket,
    replica: Target,
    heard: Heard,
    counted: Counted,
}

/// A flow and the task that carries its answers.
#[derive(Debug)]
struct Known {
    flow: Arc<Flow>,
    answers: AbortHandle,
}

/// When either side last sent something.
#[derive(Debug)]
struct Heard(Mutex<Instant>);

impl Heard {
    fn now() -> Self {
        Self(Mutex::new(Instant::now()))
    }

    fn note(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Until neither side has sent anything for the limit.
    async fn silence(&self, limit: Duration) {
        loop {
            let due = self.last() + limit;
            if due <= Instant::now() {
                return;
            }
            sleep_until(due).await;
        }
    }
}

/// Takes datagrams from a door for as long as it is open.
pub(super) async fn relay(socket: std::net::UdpSocket, front: Arc<Front>, limits: &'static Limits) {
    let socket = match UdpSocket::from_std(socket) {
        Ok(socket) => Arc::new(socket),
        Err(error) => return warn!("a door of the proxy cannot be watched: {error}"),
    };
    let mut flows: HashMap<SocketAddr, Known> = HashMap::new();
    // Owned here, so that a door that closes ends its flows.
    let mut answers: JoinSet<(SocketAddr, Arc<Flow>)> = JoinSet::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let received = tokio::select! {
            Some(ended) = answers.join_next() => {
                // The client may have another one by now.
                if let Ok((client, flow)) = ended
                    && flows.get(&client).is_some_and(|known| Arc::ptr_eq(&known.flow, &flow))
                {
                    flows.remove(&client);
                }
                continue;
            }
            received = socket.recv_from(&mut buffer) => received,
        };
        // An ICMP error of an earlier answer, which nobody waits for any more.
        let Ok((len, client)) = received else { continue };
        let behind = front.behind();
        let known = flows.get(&client).filter(|known| behind.leads_to(&known.flow.replica));
        let flow = if let Some(known) = known {
            Arc::clone(&known.flow)
        } else {
            // Its replica has been taken out.
            if let Some(left) = flows.remove(&client) {
                left.answers.abort();
            }
            if flows.len() >= FLOWS_MAX {
                behind.counts.fail(Cause::Resources);
                continue;
            }
            let Some(flow) = open(&behind, &front.turn, client).await else { continue };
            let flow = Arc::new(flow);
            let answers = answers.spawn(answer(Arc::clone(&flow), Arc::clone(&socket), client, limits.datagrams));
            flows.insert(client, Known { flow: Arc::clone(&flow), answers });
            flow
        };
        flow.heard.note();
        // Waits for no more than a full buffer, which drains by itself.
        if flow.socket.send(&buffer[..len]).await.is_ok() {
            flow.counted.carry(len as u64, 0);
        } else if let Some(refused) = flows.remove(&client) {
            // The replica's refusal is told once, to whoever asks first: here or where answers are awaited.
            refused.answers.abort();
        }
    }
}

/// A new flow to a replica.
async fn open(behind: &Behind, turn: &Turn, client: SocketAddr) -> Option<Flow> {
    let Some(index) = spread::choose(&behind.door, &behind.loads, turn, client.ip(), &[]) else {
        behind.counts.fail(Cause::NoReplica);
        return None;
    };
    let opened = async {
        let replica = behind.door.targets.get(index)?.clone();
        let address = address_for(&replica, client.ip())?;
        let any: SocketAddr = if address.is_ipv4() { ([0; 4], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).await.ok()?;
        socket.connect(address).await.ok()?;
        let mut counted = Counted::begin(&behind.counts);
        counted.give(replica.id);
        Some(Flow { socket, replica, heard: Heard::now(), counted })
    };
    let opened = opened.await;
    if opened.is_none() {
        behind.counts.fail(Cause::Connect);
    }
    opened
}

/// Carries the replica's answers back until neither side has sent anything for the limit, or the replica refuses.
async fn answer(
    flow: Arc<Flow>,
    socket: Arc<UdpSocket>,
    client: SocketAddr,
    limit: Duration,
) -> (SocketAddr, Arc<Flow>) {
    {
        let silence = flow.heard.silence(limit);
        tokio::pin!(silence);
        loop {
            tokio::select! {
                () = &mut silence => break,
                readable = flow.socket.readable() => if readable.is_err() { break },
            }
            match forward(&flow.socket, &socket, client) {
                Ok(len) => {
                    flow.heard.note();
                    flow.counted.carry(0, len as u64);
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    }
    (client, flow)
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The clock is the test's own: it stands still until everybody sleeps, and then jumps.
    #[tokio::test(start_paused = true)]
    async fn a_flow_lives_for_as_long_as_either_side_sends() {
        let (heard, begun) = (Heard::now(), Instant::now());
        let sends = async {
            for _ in 0..4 {
                tokio::time::sleep(Duration::from_secs(20)).await;
                heard.note();
            }
        };
        tokio::join!(heard.silence(Duration::from_secs(30)), sends);
        assert_eq!(begun.elapsed().as_secs(), 4 * 20 + 30);
    }
}
