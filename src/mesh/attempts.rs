use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use crate::model::{EndpointId, ServiceId};

/// A SYN that is not answered within this is a failure: TCP sends it again after 1 s (RFC 6298, 2.1), so one lost packet is none.
const ANSWER_MAX: Duration = Duration::from_millis(1500);

/// Connections watched at once for each replica: a sample is enough, and it bounds the work however many there are. It is to
/// be more than fail in a row before an ejection.
const WATCHED_MAX: usize = 16;

/// Beginning connections whose outcome is awaited: a sample, in runs without gaps, of those that this node sends to its replicas.
#[derive(Debug)]
pub struct Attempts<H> {
    /// By the kernel's number of the connection.
    watched: BTreeMap<u32, Attempt<H>>,
    /// In the order of their beginning; some are over.
    order: VecDeque<(Duration, u32)>,
    counts: BTreeMap<EndpointId, usize>,
    turn: u64,
}

/// A connection that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt<H> {
    /// Its place in the order of beginnings.
    pub turn: u64,
    /// The service asked for.
    pub service: ServiceId,
    /// The replica chosen.
    pub replica: EndpointId,
    /// Its port.
    pub port: u16,
    /// How to look at it again.
    pub handle: H,
}

impl<H> Default for Attempts<H> {
    fn default() -> Self {
        Self { watched: BTreeMap::new(), order: VecDeque::new(), counts: BTreeMap::new(), turn: 0 }
    }
}

impl<H> Attempts<H> {
    /// A connection begins. It is watched unless enough of its replica are. One that had its number is over: its end was lost.
    pub fn begin(&mut self, id: u32, service: ServiceId, (replica, port): (EndpointId, u16), handle: H, now: Duration) {
        if self.end(id).is_some() {
            // Its place is not the new one's.
            self.order.retain(|(_, known)| *known != id);
        }
        let count = self.counts.entry(replica).or_default();
        if *count >= WATCHED_MAX {
            return;
        }
        self.turn += 1;
        let attempt = Attempt { turn: self.turn, service, replica, port, handle };
        self.watched.insert(id, attempt);
        *count += 1;
        self.order.push_back((now, id));
    }

    /// A connection is over, or its outcome is known; nothing if it was not watched.
    pub fn end(&mut self, id: u32) -> Option<Attempt<H>> {
        let attempt = self.watched.remove(&id)?;
        if let Some(count) = self.counts.get_mut(&attempt.replica) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.counts.remove(&attempt.replica);
            }
        }
        while self.order.front().is_some_and(|(_, id)| !self.watched.contains_key(id)) {
            self.order.pop_front();
        }
        // A slow one in front keeps the others' places; twice as many as are watched is still bounded.
        if self.order.len() > 2 * self.watched.len() + WATCHED_MAX {
            let watched = &self.watched;
            self.order.retain(|(_, id)| watched.contains_key(id));
        }
        Some(attempt)
    }

    /// The watched connections to these replicas.
    pub fn of(&self, replicas: &BTreeSet<EndpointId>) -> Vec<u32> {
        self.watched.iter().filter(|(_, attempt)| replicas.contains(&attempt.replica)).map(|(id, _)| *id).collect()
    }

    /// Those that have had their time.
    pub fn due(&self, now: Duration) -> Vec<u32> {
        let due = self.order.iter().take_while(|(began, _)| began.saturating_add(ANSWER_MAX) <= now);
        due.map(|(_, id)| *id).filter(|id| self.watched.contains_key(id)).collect()
    }

    /// How to look at a watched one again.
    pub fn handle(&self, id: u32) -> Option<&H> {
        self.watched.get(&id).map(|attempt| &attempt.handle)
    }

    /// When the next one has had its time.
    pub fn next_due(&self) -> Option<Duration> {
        self.order.front().map(|(began, _)| began.saturating_add(ANSWER_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_bounded_run_of_each_replicas_connections_is_watched_until_its_time() {
        let service = ServiceId::new(1).unwrap();
        let mut attempts = Attempts::default();
        for id in 0..100 {
            attempts.begin(id, service, (EndpointId(u64::from(id % 2)), 80), (), id * MS);
        }
        assert_eq!(attempts.watched.len(), 2 * WATCHED_MAX);
        assert_eq!(attempts.of(&BTreeSet::from([EndpointId(1)])).len(), WATCHED_MAX);
        assert_eq!(attempts.next_due(), Some(ANSWER_MAX));
        assert_eq!(attempts.due(ANSWER_MAX + 2 * MS), [0, 1, 2]);
        assert_eq!(attempts.end(99), None, "not watched");
        assert_eq!(attempts.end(0).unwrap().turn, 1);
        assert_eq!(attempts.end(2).unwrap().turn, 3);
        assert_eq!(attempts.due(ANSWER_MAX + 2 * MS), [1]);
        attempts.begin(200, service, (EndpointId(0), 80), (), 200 * MS);
        assert!(attempts.handle(200).is_some(), "there is room again");
        // One that stays does not let the order grow.
        for id in 1000..2000 {
            attempts.begin(id, service, (EndpointId(5), 80), (), 300 * MS);
            attempts.end(id);
        }
        assert!(attempts.order.len() < 200);
        for id in 0..1000 {
            attempts.end(id);
        }
        assert!(attempts.counts.is_empty() && attempts.order.is_empty() && attempts.watched.is_empty());
    }

    #[test]
    fn a_number_that_comes_again_is_another_connection() {
        let service = ServiceId::new(1).unwrap();
        let (one, other) = (EndpointId(1), EndpointId(2));
        let mut attempts = Attempts::default();
        attempts.begin(6, service, (one, 80), (), Duration::ZERO);
        attempts.begin(7, service, (one, 80), (), Duration::ZERO);
        attempts.begin(7, service, (other, 80), (), 5 * MS);
        attempts.begin(7, service, (other, 81), (), 9 * MS);
        assert_eq!(attempts.counts, BTreeMap::from([(one, 1), (other, 1)]));
        assert_eq!(attempts.due(ANSWER_MAX + 8 * MS), [6], "its time is its own");
        assert_eq!(attempts.due(ANSWER_MAX + 9 * MS), [6, 7]);
        assert_eq!(attempts.end(7).map(|attempt| (attempt.turn, attempt.replica, attempt.port)), Some((4, other, 81)));
        assert_eq!(attempts.end(7), None);
        attempts.end(6);
        assert!(attempts.counts.is_empty() && attempts.order.is_empty() && attempts.watched.is_empty());
        // Nor is the old one watched on where the new one's replica has enough.
        attempts.begin(7, service, (one, 80), (), 10 * MS);
        for id in 100..200 {
            attempts.begin(id, service, (other, 80), (), 10 * MS);
        }
        attempts.begin(7, service, (other, 80), (), 11 * MS);
        assert_eq!(attempts.counts, BTreeMap::from([(other, WATCHED_MAX)]));
        assert_eq!(attempts.handle(7), None);
    }
}
