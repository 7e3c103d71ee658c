use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    net::UdpSocket,
    task::{JoinSet, yield_now},
};
use tracing::debug;

use super::{
    Outcome, Way,
    respond::{Reaction, respond},
    server::Shared,
};

/// The longest question in a datagram, in bytes; with all options that are in use it is a few hundred.
const QUESTION_MAX: usize = 4096;

/// Datagrams that are answered before others of the runtime get their turn: some 100 us of work.
const BATCH: usize = 32;

/// Answers datagrams until the socket fails.
pub(super) async fn serve(socket: UdpSocket, shared: Arc<Shared>) -> io::Result<()> {
    let socket = Arc::new(socket);
    let mut forwarded = JoinSet::new();
    let (mut packet, mut reply) = (vec![0; QUESTION_MAX], Vec::with_capacity(QUESTION_MAX));
    loop {
        socket.readable().await?;
        let Some(zone) = shared.zones.borrow().clone() else { return Ok(()) };
        for _ in 0..BATCH {
            let (len, from) = match socket.try_recv_from(&mut packet) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            };
            let Some(question) = packet.get(..len) else { continue };
            match respond(question, from.ip(), &zone, Way::Udp, shared.turn(), &mut reply) {
                Reaction::Drop => shared.tally.count(Outcome::Malformed),
                Reaction::Reply(outcome) => {
                    shared.tally.count(outcome);
                    send(&socket, &reply, from);
                }
                Reaction::Forward(datagram_max) => match shared.forwarder.permit(from.ip()) {
                    Some(permit) => {
                        let (socket, shared, question) = (Arc::clone(&socket), Arc::clone(&shared), question.to_vec());
                        forwarded.spawn(async move {
                            let reply = shared.forwarder.ask(&question, Way::Udp, datagram_max).await;
                            send(&socket, &reply, from);
                            drop(permit);
                        });
                    }
                    None => send(&socket, &shared.forwarder.give_up(question), from),
                },
            }
        }
        while forwarded.try_join_next().is_some() {}
        yield_now().await;
    }
}

/// Sends a datagram, or not: where the buffer is full, whoever waits for it asks again.
fn send(socket: &UdpSocket, reply: &[u8], to: SocketAddr) {
    if let Err(error) = socket.try_send_to(reply, to) {
        debug!(%to, "an answer was not sent: {error}");
    }
}
