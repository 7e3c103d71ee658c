//! Which nodes do not answer this one over the tunnel.
//!
//! Echoes go out at a steady pace, and a node that leaves some of them unanswered in a row is silent until it answers again.
//! Echoes are counted, not time: however late this host looks at the answers, they have arrived before it counts. The judgement
//! is this node's own, for its own way to the others may be broken while everybody else's is well.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    time::Duration,
};

use crate::model::{Cluster, Flow, NodeId};

/// The pace of the echoes.
pub const ECHO_INTERVAL: Duration = Duration::from_millis(200);

/// So many echoes without an answer make a node silent: between 0.8 and 1 s after it has fallen silent. With one packet in
/// twenty lost on each way, a node that is well would be taken for silent once in about half an hour, for half a second.
const UNANSWERED_MAX: u32 = 4;

/// So many answers in a row end that: one of them could be a lucky one on a way that is as good as broken.
const ANSWERS_NEEDED: u32 = 2;

/// Echoes of one turn, however many nodes there are: 1,280 small packets a second. Of more nodes each has its turn less often,
/// and it takes longer until one is found silent.
pub const ECHOES_MAX: usize = 256;

/// A pause of this host itself after which everything is counted anew: it was stopped, or its virtual machine was, and what was
/// under way meanwhile is lost.
const OWN_GAP: Duration = Duration::from_secs(1);

/// The nodes that hold replicas, but for `me`: those to which this node may have to send connections.
pub fn peers_in_use(cluster: &Cluster, me: NodeId) -> BTreeSet<NodeId> {
    let holders =
        cluster.endpoints.values().filter(|endpoint| endpoint.service.is_some()).map(|endpoint| endpoint.node);
    holders.filter(|node| *node != me && cluster.nodes.contains_key(node)).collect()
}

/// Whether a connection was sent to one of these replicas and has not been answered.
pub fn is_stranded(flow: &Flow, replicas: &BTreeSet<IpAddr>) -> bool {
    flow.is_translated() && !flow.is_answered && replicas.contains(&flow.replica.ip())
}

/// The peers that are listened for, and what is known of each.
///
/// Times are counted from whatever moment the caller likes, always the same.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Peers {
    known: BTreeMap<NodeId, Peer>,
    /// The last peer that was asked, where not all can be in one turn.
    last_asked: Option<NodeId>,
    last_turn: Option<Duration>,
}

/// What is known of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Peer {
    /// Echoes since its last answer.
    unanswered: u32,
    /// Answers since it was found silent.
    answers: u32,
    is_silent: bool,
    /// The time that its last answer took; nothing before the first.
    round_trip: Option<Duration>,
}

/// What is known of a peer, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerReport {
    /// Whether it has left all echoes unanswered since the first one was sent, so that there is no telling whether it would.
    pub is_mute: bool,
    /// Whether it is silent.
    pub is_silent: bool,
    /// How long its last answer took.
    pub round_trip: Option<Duration>,
}

impl Peers {
    /// Listens for these peers from now on. What is known of those that stay is kept.
    pub fn watch(&mut self, wanted: &BTreeSet<NodeId>) {
        self.known.retain(|id, _| wanted.contains(id));
        for id in wanted {
            self.known.entry(*id).or_default();
        }
    }

    /// One turn: counts what has not been answered by now, and gives the peers to send an echo to. Every answer that has arrived
    /// must have been told before.
    pub fn turn(&mut self, now: Duration) -> Vec<NodeId> {
        let gap = self.last_turn.replace(now).map_or(Duration::ZERO, |last| now.saturating_sub(last));
        if gap >= OWN_GAP {
            self.known.values_mut().for_each(|peer| peer.unanswered = 0);
        }
        for peer in self.known.values_mut() {
            // One that has never answered may be one that answers nobody's echoes (`icmp_echo_ignore_all`, a packet filter): there is
            // no telling whether it is silent, and its lease has to do.
            if peer.unanswered >= UNANSWERED_MAX && peer.round_trip.is_some() {
                (peer.is_silent, peer.answers) = (true, 0);
            }
        }
        let chosen = self.choose();
        for id in &chosen {
            if let Some(peer) = self.known.get_mut(id) {
                peer.unanswered = peer.unanswered.saturating_add(1);
            }
        }
        self.last_asked = chosen.last().copied();
        chosen
    }

    /// All peers, or the next ones in turn.
    fn choose(&self) -> Vec<NodeId> {
        if self.known.len() <= ECHOES_MAX {
            return self.known.keys().copied().collect();
        }
        let after = self
            .last_asked
            .into_iter()
            .flat_map(|last| self.known.range(last..).skip_while(move |(id, _)| **id == last));
        after.chain(&self.known).take(ECHOES_MAX).map(|(id, _)| *id).collect()
    }

    /// The echo could not be sent, for a reason that lies here: it says nothing about the peer.
    pub fn not_sent(&mut self, id: NodeId) {
        if let Some(peer) = self.known.get_mut(&id) {
            peer.unanswered = peer.unanswered.saturating_sub(1);
        }
    }

    /// A peer has answered an echo that was sent `round_trip` ago. A late answer counts as much as any.
    pub fn answered(&mut self, id: NodeId, round_trip: Duration) {
        let Some(peer) = self.known.get_mut(&id) else { return };
        peer.unanswered = 0;
        peer.round_trip = Some(round_trip);
        if peer.is_silent {
            peer.answers += 1;
            peer.is_silent = peer.answers < ANSWERS_NEEDED;
        }
    }

    /// The peers that do not answer.
    pub fn silent(&self) -> BTreeSet<NodeId> {
        self.known.iter().filter(|(_, peer)| peer.is_silent).map(|(id, _)| *id).collect()
    }

    /// All peers.
    pub fn reports(&self) -> BTreeMap<NodeId, PeerReport> {
        let report = |peer: &Peer| PeerReport {
            is_mute: peer.round_trip.is_none() && peer.unanswered >= UNANSWERED_MAX,
            is_silent: peer.is_silent,
            round_trip: peer.round_trip,
        };
        self.known.iter().map(|(id, peer)| (*id, report(peer))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(1);

    fn nodes(numbers: std::ops::RangeInclusive<u16>) -> BTreeSet<NodeId> {
        numbers.map(|number| NodeId::new(number).unwrap()).collect()
    }

    /// Turns at the usual pace; each letter is one: `+` answered, `-` not, `l` lost here, `.` a pause of this host. Gives the turns
    /// after which the peer was silent.
    fn silent_after(turns: &str) -> String {
        let mut peers = Peers::default();
        peers.watch(&nodes(2..=2));
        let mut now = Duration::ZERO;
        let mut seen = String::new();
        for turn in turns.chars() {
            now += if turn == '.' { Duration::from_secs(1) } else { ECHO_INTERVAL };
            for id in peers.turn(now) {
                match turn {
                    '+' => peers.answered(id, RTT),
                    'l' => peers.not_sent(id),
                    _ => {}
                }
            }
            seen.push(if peers.silent().is_empty() { ' ' } else { 's' });
        }
        seen
    }

    #[test]
    fn a_peer_that_leaves_echoes_unanswered_is_silent_until_it_answers_again() {
        for (turns, silent) in [
            ("++++++", "      "),
            ("+----", "     "),
            ("+-----", "     s"),
            ("+-----+++", "     ss  "),
            ("+-----+-++++", "     sss    "),
            // One lost packet now and then is nothing.
            ("+---+---+---+", "             "),
            // Whoever has never answered is not known to answer at all.
            ("------------", "            "),
            // What never left this host was not left unanswered.
            ("+-llllllllll", "            "),
            // After a pause of this host everything is counted anew.
            ("+---.---", "        "),
            ("+---.----", "        s"),
            // A silent peer stays silent through one.
            ("+-----.-", "     sss"),
        ] {
            assert_eq!(silent_after(turns), silent, "{turns}");
        }
    }

    #[test]
    fn a_late_answer_counts() {
        let mut peers = Peers::default();
        peers.watch(&nodes(2..=2));
        let mut now = Duration::ZERO;
        // Every answer takes three turns.
        for turn in 0..50 {
            now += ECHO_INTERVAL;
            if turn >= 3 {
                peers.answered(NodeId::new(2).unwrap(), ECHO_INTERVAL * 3);
            }
            peers.turn(now);
            assert!(peers.silent().is_empty(), "turn {turn}");
        }
    }

    #[test]
    fn work_is_bounded_and_nobody_is_forgotten() {
        let mut peers = Peers::default();
        let all = nodes(1..=1000);
        peers.watch(&all);
        let mut asked: BTreeMap<NodeId, u32> = BTreeMap::new();
        for turn in 1..=125_u32 {
            let chosen = peers.turn(ECHO_INTERVAL * turn);
            assert_eq!(chosen.len(), ECHOES_MAX);
            assert_eq!(chosen.iter().collect::<BTreeSet<_>>().len(), ECHOES_MAX);
            for id in chosen {
                *asked.entry(id).or_default() += 1;
            }
        }
        assert_eq!(asked.len(), all.len());
        assert!(asked.values().all(|times| *times == 32), "{asked:?}");
        peers.watch(&nodes(1..=3));
        assert_eq!(peers.turn(ECHO_INTERVAL * 126).len(), 3);
    }

    #[test]
    fn who_is_forgotten_is_not_silent() {
        let mut peers = Peers::default();
        peers.watch(&nodes(2..=3));
        peers.turn(Duration::ZERO);
        peers.answered(NodeId::new(2).unwrap(), RTT);
        for turn in 1..=6 {
            peers.turn(ECHO_INTERVAL * turn);
        }
        assert_eq!(peers.silent(), nodes(2..=2));
        assert!(peers.reports()[&NodeId::new(3).unwrap()].is_mute);
        peers.watch(&nodes(3..=3));
        assert_eq!(peers.silent(), BTreeSet::new());
    }
}
