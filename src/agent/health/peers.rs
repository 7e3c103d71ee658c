use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    net::{IpAddr, Ipv4Addr},
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval};
use tracing::{debug, info, warn};

use super::{Work, locked};
use crate::{
    agent::host::Echoes,
    mesh::peers::{ECHO_INTERVAL, ECHOES_MAX, Peers, peers_in_use},
    model::{Cluster, Family, NodeId},
    overlay,
    probe::Echo,
};

/// Listens for this node's peers for ever.
///
/// Besides the nodes whose replicas it uses, a node listens for the one that holds the store: not to judge it, but to know when
/// the way there has healed.
pub(in crate::agent) async fn keep(mut work: Work) {
    let mut listening = Listening {
        began: Instant::now(),
        peers: Peers::default(),
        nodes: BTreeMap::new(),
        asked: Vec::new(),
        socket: None,
        trouble: None,
    };
    let mut pace = interval(ECHO_INTERVAL);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut holder = None;
    loop {
        let cluster = work.clusters.borrow_and_update().clone();
        if let Some(cluster) = cluster {
            holder = (work.holds_store)(&cluster).filter(|holder| *holder != work.me);
            listening.watch(&cluster, work.me, holder);
            listening.publish(&work);
        }
        loop {
            let before = listening.peers.silent();
            tokio::select! {
                // In order, so that a run of the simulation can be repeated; nothing else hangs on it.
                biased;
                _ = pace.tick(), if !listening.nodes.is_empty() => listening.turn(&work),
                changed = work.clusters.changed() => match changed {
                    Ok(()) => {
                        // Taken over above.
                        work.clusters.mark_changed();
                        break;
                    }
                    Err(_) => return,
                },
                answers = answers(listening.socket.as_deref()) => listening.hear(answers),
            }
            let after = listening.peers.silent();
            if before != after {
                tell(&work, &before, &after);
                let back: BTreeSet<NodeId> = before.difference(&after).copied().collect();
                // Alone with the store's holder out of sight, or with all others, it was this node that was cut off.
                let was_cut_off = before.len() == listening.nodes.len();
                if !back.is_empty() && (was_cut_off || holder.is_some_and(|holder| back.contains(&holder))) {
                    work.store.reconnect();
                    work.heals.send_modify(|heals| *heals += 1);
                }
            }
            listening.publish(&work);
        }
    }
}

async fn answers(socket: Option<&dyn Echoes>) -> io::Result<Vec<Echo>> {
    match socket {
        Some(socket) => socket.answers().await,
        None => std::future::pending().await,
    }
}

struct Listening {
    /// What the peers' times are counted from.
    began: Instant,
    peers: Peers,
    /// The peers by the address at which they are asked.
    nodes: BTreeMap<Ipv4Addr, NodeId>,
    /// The peers that echoes were sent to in the last turn.
    asked: Vec<NodeId>,
    /// Opened when it is needed, and again when its device has gone.
    socket: Option<Box<dyn Echoes>>,
    /// Why there is no socket.
    trouble: Option<String>,
}

impl Listening {
    fn watch(&mut self, cluster: &Cluster, me: NodeId, holder: Option<NodeId>) {
        let mut wanted = peers_in_use(cluster, me);
        wanted.extend(holder.filter(|holder| cluster.nodes.contains_key(holder)));
        if wanted.len() > ECHOES_MAX && self.nodes.len() <= ECHOES_MAX {
            warn!(
                peers = wanted.len(),
                "more than {ECHOES_MAX} nodes to listen for: they take turns, and a silent one is found later"
            );
        }
        self.peers.watch(&wanted);
        self.nodes = wanted.into_iter().filter_map(|node| Some((address(node)?, node))).collect();
    }

    /// What has been answered first, whenever it came; then the next echoes.
    fn turn(&mut self, work: &Work) {
        if let Some(socket) = &self.socket {
            let answers = socket.answers_now();
            self.hear(answers);
        }
        if self.socket.is_none() {
            match work.host.echoes(work.me) {
                Ok(socket) => {
                    self.socket = Some(socket);
                    self.trouble = None;
                }
                Err(error) => {
                    let trouble = error.to_string();
                    // Before the first pass over the kernel there is no device yet.
                    if self.trouble.as_ref() != Some(&trouble) {
                        info!("cannot listen for other nodes yet: {trouble}");
                        self.trouble = Some(trouble);
                    }
                }
            }
        }
        self.ask();
    }

    /// The echoes of one turn.
    fn ask(&mut self) {
        let now = self.began.elapsed();
        self.asked.clear();
        let mut broken = None;
        for node in self.peers.turn(now) {
            let sent = match (&self.socket, address(node)) {
                (Some(socket), Some(address)) => socket.send(address, stamp(now)),
                _ => Err(io::ErrorKind::NotConnected.into()),
            };
            match sent {
                Ok(()) => self.asked.push(node),
                Err(error) => {
                    self.peers.not_sent(node);
                    broken = Some(error);
                }
            }
        }
        if let Some(error) = broken {
            debug!("an echo could not be sent: {error}");
            // What stands in the way of one peer alone is no fault of the socket, at which the answers of all others arrive.
            if self.asked.is_empty() {
                self.drop_socket();
            }
        }
    }

    /// A new socket has seen nothing of what is wrong with this one. It gets none of its answers either, so what was under way says
    /// nothing about the peers.
    fn drop_socket(&mut self) {
        self.socket = None;
        for node in std::mem::take(&mut self.asked) {
            self.peers.not_sent(node);
        }
    }

    fn hear(&mut self, answers: io::Result<Vec<Echo>>) {
        let answers = match answers {
            Ok(answers) => answers,
            Err(error) => {
                debug!("no answers can be read: {error}");
                self.drop_socket();
                return;
            }
        };
        let now = stamp(self.began.elapsed());
        for Echo { from, stamp } in answers {
            // Nobody can answer what has not been asked yet.
            if let (Some(node), Some(round_trip)) = (self.nodes.get(&from), now.checked_sub(stamp)) {
                self.peers.answered(*node, Duration::from_nanos(round_trip));
            }
        }
    }

    fn publish(&self, work: &Work) {
        *locked(&work.findings.peers) = self.peers.reports();
        let silent = self.peers.silent();
        work.judgements.send_if_modified(|judgement| {
            let is_new = judgement.silent != silent;
            judgement.silent = silent;
            is_new
        });
    }
}

/// The address of a node's kernel in the tunnel: the IPv4 one in every cluster, for it is there whatever carries the tunnel and
/// whatever the networks are.
fn address(node: NodeId) -> Option<Ipv4Addr> {
    match overlay::gateway(Family::V4, node) {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}

/// A time as an echo carries it, in nanoseconds: enough for 584 years.
fn stamp(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

fn tell(work: &Work, before: &BTreeSet<NodeId>, after: &BTreeSet<NodeId>) {
    let cluster = work.clusters.borrow().clone();
    let name = |id: &NodeId| {
        let node = cluster.as_ref().and_then(|cluster| cluster.nodes.get(id));
        node.map_or_else(|| id.to_string(), |node| node.name.to_string())
    };
    for id in after.difference(before) {
        warn!(node = %name(id), "it does not answer over the tunnel: its replicas get no connections from here");
    }
    for id in before.difference(after) {
        info!(node = %name(id), "it answers over the tunnel again");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use async_trait::async_trait;

    use super::*;

    /// A socket that cannot send to some, and whose peers all answer at once.
    #[derive(Clone, Default)]
    struct Socket {
        unreachable: Arc<Mutex<BTreeSet<Ipv4Addr>>>,
        answers: Arc<Mutex<Vec<Echo>>>,
    }

    #[async_trait]
    impl Echoes for Socket {
        fn send(&self, to: Ipv4Addr, stamp: u64) -> io::Result<()> {
            if self.unreachable.lock().unwrap().contains(&to) {
                return Err(io::ErrorKind::HostUnreachable.into());
            }
            self.answers.lock().unwrap().push(Echo { from: to, stamp });
            Ok(())
        }

        async fn answers(&self) -> io::Result<Vec<Echo>> {
            self.answers_now()
        }

        fn answers_now(&self) -> io::Result<Vec<Echo>> {
            Ok(std::mem::take(&mut *self.answers.lock().unwrap()))
        }
    }

    fn listening(socket: &Socket) -> Listening {
        let nodes: BTreeSet<NodeId> = (2..=4).map(|number| NodeId::new(number).unwrap()).collect();
        let mut peers = Peers::default();
        peers.watch(&nodes);
        Listening {
            began: Instant::now(),
            peers,
            nodes: nodes.into_iter().map(|node| (address(node).unwrap(), node)).collect(),
            asked: Vec::new(),
            socket: Some(Box::new(socket.clone())),
            trouble: None,
        }
    }

    #[test]
    fn a_peer_that_cannot_be_sent_to_takes_no_other_peers_answers_along() {
        let socket = Socket::default();
        let mut listening = listening(&socket);
        socket.unreachable.lock().unwrap().extend(listening.nodes.keys().next());
        for turn in 0..10 {
            listening.ask();
            assert!(listening.socket.is_some(), "turn {turn}");
            listening.hear(socket.answers_now());
            assert_eq!(listening.peers.silent(), BTreeSet::new(), "turn {turn}");
        }
        let answered = listening.peers.reports().into_values().filter(|peer| peer.round_trip.is_some()).count();
        assert_eq!(answered, 2);
    }

    #[test]
    fn a_socket_that_is_dropped_speaks_against_nobody() {
        let socket = Socket::default();
        let mut listening = listening(&socket);
        listening.ask();
        listening.hear(socket.answers_now());
        for turn in 0..10 {
            listening.ask();
            listening.hear(Err(io::ErrorKind::NotConnected.into()));
            assert!(listening.socket.is_none(), "turn {turn}");
            listening.socket = Some(Box::new(socket.clone()));
        }
        socket.unreachable.lock().unwrap().extend(listening.nodes.keys());
        for turn in 0..10 {
            listening.ask();
            assert!(listening.socket.is_none(), "turn {turn}");
            listening.socket = Some(Box::new(socket.clone()));
        }
        assert_eq!(listening.peers.silent(), BTreeSet::new());
    }
}
