use proptest::prelude::*;

use super::*;

const S: Duration = Duration::from_secs(1);

fn service(number: u16) -> ServiceId {
    ServiceId::new(number).unwrap()
}

fn services(sizes: &[u64]) -> BTreeMap<ServiceId, BTreeSet<EndpointId>> {
    let of = |index: usize, size: u64| {
        let number = u16::try_from(index + 1).unwrap();
        (service(number), (0..size).map(|n| EndpointId(u64::from(number) * 100 + n)).collect())
    };
    sizes.iter().enumerate().map(|(index, size)| of(index, *size)).collect()
}

const PORT: u16 = 8080;

fn with(size: u64) -> Ejections {
    let mut ejections = Ejections::default();
    ejections.set_services(services(&[size]));
    ejections
}

/// Three replicas, the first of which is tried; the second has answered.
fn three() -> (Ejections, EndpointId) {
    let mut ejections = with(3);
    answer(&mut ejections, EndpointId(101), S);
    (ejections, EndpointId(100))
}

fn answer(ejections: &mut Ejections, replica: EndpointId, now: Duration) {
    ejections.note(service(1), replica, PORT, Outcome::Answered, now);
}

/// Fails `replica` so often at `now`, with somebody else's answer after the first one; whether the last one ejected it.
fn fail(ejections: &mut Ejections, replica: EndpointId, times: u32, now: Duration) -> bool {
    (0..times).fold(false, |_, turn| {
        let is_ejected = ejections.note(service(1), replica, PORT, Outcome::Failed, now);
        if turn == 0 {
            answer(ejections, EndpointId(if replica.0 == 101 { 102 } else { 101 }), now);
        }
        is_ejected
    })
}

#[test]
fn failures_in_a_row_eject_and_an_answer_begins_anew() {
    let (mut ejections, replica) = three();
    assert!(!fail(&mut ejections, replica, 4, S));
    answer(&mut ejections, replica, S);
    assert!(!fail(&mut ejections, replica, 4, S));
    assert!(ejections.ejected().is_empty());
    assert!(fail(&mut ejections, replica, 1, S));
    assert_eq!(ejections.ejected(), BTreeSet::from([replica]));
    assert_eq!(ejections.next_end(), Some(11 * S));
}

#[test]
fn an_ejection_ends_is_repeated_sooner_and_lasts_longer_up_to_a_limit() {
    let (mut ejections, replica) = three();
    let mut now = S;
    assert!(fail(&mut ejections, replica, 5, now));
    for length in [20, 40, 80, 160, 300, 300, 300] {
        now = ejections.next_end().unwrap();
        ejections.end_due(now.saturating_sub(S));
        assert_eq!(ejections.ejected().len(), 1, "not before its time");
        ejections.end_due(now);
        assert!(ejections.ejected().is_empty(), "it is tried again");
        assert!(!fail(&mut ejections, replica, 1, now));
        assert!(fail(&mut ejections, replica, 1, now));
        assert_eq!(ejections.next_end(), Some(now + length * S));
    }
    now = ejections.next_end().unwrap();
    ejections.end_due(now);
    answer(&mut ejections, replica, now);
    ejections.end_due(now + MEMORY);
    assert!(ejections.records.is_empty(), "forgotten after a good while");
    assert!(!fail(&mut ejections, replica, 4, now + MEMORY));
    assert!(fail(&mut ejections, replica, 1, now + MEMORY));
}

#[test]
fn what_comes_late_for_an_ejected_replica_changes_nothing() {
    let (mut ejections, replica) = three();
    assert!(fail(&mut ejections, replica, 5, S));
    let end = ejections.next_end();
    assert!(!fail(&mut ejections, replica, 50, 2 * S));
    answer(&mut ejections, replica, 2 * S);
    assert_eq!((ejections.next_end(), ejections.ejected().len()), (end, 1));
}

#[test]
fn a_single_replica_and_the_last_half_stay() {
    for (size, most) in [(1, 0), (2, 1), (3, 1), (4, 2), (7, 3)] {
        let mut ejections = with(size);
        (0..size).for_each(|n| answer(&mut ejections, EndpointId(100 + n), S));
        for n in 0..size {
            fail(&mut ejections, EndpointId(100 + n), 50, S);
        }
        assert_eq!(ejections.ejected().len(), most, "of {size}");
    }
}

#[test]
fn a_port_that_nobody_answers_ejects_nobody() {
    let (mut ejections, replica) = three();
    for _ in 0..1000 {
        assert!(!ejections.note(service(1), replica, 81, Outcome::Failed, S));
    }
    // Nor do its failures count for another port.
    assert!(!fail(&mut ejections, replica, 4, S));
}

#[test]
fn without_anybody_elses_answer_it_takes_more() {
    let (mut ejections, replica) = three();
    let failed = (1..=15).filter(|_| ejections.note(service(1), replica, PORT, Outcome::Failed, S));
    assert_eq!(failed.collect::<Vec<_>>(), [15]);
}

#[derive(Debug, Clone)]
enum Event {
    Note(u16, u64, bool),
    Pass(u64),
    Resize(u64, u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        8 => (1_u16..3, 0_u64..8, prop::bool::weighted(0.2)).prop_map(|(s, n, ok)| Event::Note(s, n, ok)),
        1 => (0_u64..400).prop_map(Event::Pass),
        1 => (0_u64..8, 0_u64..8).prop_map(|(one, two)| Event::Resize(one, two)),
    ]
}

proptest! {
    #[test]
    fn the_cap_holds_memory_is_bounded_and_every_ejection_ends(events in prop::collection::vec(event(), 0..300)) {
        let mut ejections = Ejections::default();
        ejections.set_services(services(&[4, 3]));
        let mut now = Duration::ZERO;
        for event in events {
            match event {
                Event::Note(number, replica, is_answered) => {
                    let outcome = if is_answered { Outcome::Answered } else { Outcome::Failed };
                    let port = u16::try_from(replica * 7 % 40).unwrap();
                    let replica = EndpointId(u64::from(number) * 100 + replica);
                    for port in [port, PORT] {
                        ejections.note(service(number), replica, port, outcome, now);
                    }
                }
                Event::Pass(seconds) => {
                    now += Duration::from_secs(seconds);
                    ejections.end_due(now);
                }
                Event::Resize(one, two) => ejections.set_services(services(&[one, two])),
            }
            let ejected = ejections.ejected();
            for Group { replicas, ports } in ejections.services.values() {
                prop_assert!(ejected.intersection(replicas).count() <= replicas.len() / 2);
                prop_assert!(ports.len() <= PORTS_MAX);
                prop_assert!(ports.iter().flat_map(|port| port.runs.keys()).all(|run| replicas.contains(run)));
            }
            let known: BTreeSet<EndpointId> =
                ejections.services.values().flat_map(|group| &group.replicas).copied().collect();
            prop_assert!(ejections.records.keys().all(|replica| known.contains(replica)));
            prop_assert!(ejections.next_end().is_none_or(|end| end > now && end <= now + EJECTION_MAX));
            prop_assert_eq!(ejections.next_end().is_some(), !ejected.is_empty());
        }
        ejections.end_due(now + EJECTION_MAX);
        prop_assert!(ejections.ejected().is_empty());
    }
}
