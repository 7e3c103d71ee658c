use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
};

use super::{Door, Spread, Target};

/// How many connections a replica has through this proxy, whichever door they came by.
pub(super) type Load = Arc<AtomicU32>;

/// The turn of a door: it outlives the changes of what lies behind it.
#[derive(Debug, Default)]
pub(super) struct Turn {
    next: AtomicUsize,
    /// Keyed anew in each process, so that nobody outside can foresee what is chosen by chance.
    chance: RandomState,
}

/// The index of the replica for a new connection of `client`, none of `tried`; nothing if none is left.
pub(super) fn choose(door: &Door, loads: &[Load], turn: &Turn, client: IpAddr, tried: &[usize]) -> Option<usize> {
    match &door.spread {
        Spread::InTurn(round) => from(round, turn.next.fetch_add(1, Ordering::Relaxed), tried),
        Spread::ByChance(round) => {
            let draw = turn.chance.hash_one(turn.next.fetch_add(1, Ordering::Relaxed));
            from(round, reduce(draw, round.len()), tried)
        }
        Spread::BySource(round) => from(round, reduce(hash(client), round.len()), tried),
        Spread::FewestOpen => {
            let first = turn.next.fetch_add(1, Ordering::Relaxed);
            fewest(&door.targets, loads, first, tried)
        }
    }
}

/// The first of a round from a place on that has not been tried.
fn from(round: &[u16], first: usize, tried: &[usize]) -> Option<usize> {
    let first = first.checked_rem(round.len())?;
    let (before, behind) = round.split_at(first);
    behind.iter().chain(before).map(|index| usize::from(*index)).find(|index| !tried.contains(index))
}

/// The replica with the fewest connections for its weight, were it to get this one; among equals the next in turn.
fn fewest(targets: &[Target], loads: &[Load], first: usize, tried: &[usize]) -> Option<usize> {
    let count = targets.len();
    let mut best: Option<(u64, u64, usize)> = None;
    for step in 0..count {
        let index = first.wrapping_add(step) % count;
        let (Some(target), Some(load)) = (targets.get(index), loads.get(index)) else { continue };
        if target.weight == 0 || tried.contains(&index) {
            continue;
        }
        let open = u64::from(load.load(Ordering::Relaxed)) + 1;
        let weight = u64::from(target.weight);
        if best.is_none_or(|(fewest, share, _)| open * share < fewest * weight) {
            best = Some((open, weight, index));
        }
    }
    best.map(|(_, _, index)| index)
}

fn reduce(hash: u64, len: usize) -> usize {
    usize::try_from(hash.checked_rem(len as u64).unwrap_or_default()).unwrap_or_default()
}

/// The same number for a client on every node and in every process: FNV-1a over the address as IPv6 writes it, its bits mixed
/// once more, because neighbours differ in their last bits alone.
fn hash(client: IpAddr) -> u64 {
    let octets = match client.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().octets(),
        IpAddr::V6(address) => address.octets(),
    };
    let hash = octets
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, octet| (hash ^ u64::from(*octet)).wrapping_mul(0x0000_0100_0000_01b3));
    let hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    hash ^ (hash >> 29)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, num::NonZeroU16};

    use super::*;
    use crate::{
        model::{Bind, EndpointId, L4, ProxyMode},
        proxy::Place,
    };

    fn door(weights: &[u16], spread: Spread) -> (Door, Vec<Load>) {
        let port = NonZeroU16::new(80).unwrap();
        let target = |(number, weight): (usize, &u16)| Target {
            id: EndpointId(number as u64),
            addresses: vec![],
            port,
            weight: *weight,
        };
        let door = Door {
            place: Place { bind: Bind::Any, port, protocol: L4::Tcp },
            service: "web".into(),
            beside_kernel: false,
            headers: ProxyMode::default(),
            targets: weights.iter().enumerate().map(target).collect(),
            spread,
        };
        (door, weights.iter().map(|_| Load::default()).collect())
    }

    fn run(weights: &[u16], spread: Spread, times: usize, client: impl Fn(usize) -> IpAddr) -> Vec<usize> {
        let (door, loads) = door(weights, spread);
        let turn = Turn::default();
        (0..times)
            .map(|time| {
                let chosen = choose(&door, &loads, &turn, client(time), &[]).unwrap();
                loads[chosen].fetch_add(1, Ordering::Relaxed);
                chosen
            })
            .collect()
    }

    fn counts(chosen: &[usize]) -> Vec<usize> {
        let mut counts = BTreeMap::new();
        for index in chosen {
            *counts.entry(*index).or_default() += 1;
        }
        counts.into_values().collect()
    }

    fn one(_: usize) -> IpAddr {
        "192.0.2.1".parse().unwrap()
    }

    #[test]
    fn each_way_spreads_as_it_says() {
        let round: Arc<[u16]> = [0, 1, 2].into();
        assert_eq!(run(&[1, 1, 1], Spread::InTurn(Arc::clone(&round)), 5, one), [0, 1, 2, 0, 1]);
        let by_source = run(&[1, 1, 1], Spread::BySource(Arc::clone(&round)), 5, one);
        assert!(by_source.iter().all(|index| *index == by_source[0]), "{by_source:?}");
        let many = |time: usize| IpAddr::from([192, 0, 2, u8::try_from(time % 250).unwrap()]);
        for spread in [Spread::ByChance(Arc::clone(&round)), Spread::BySource(round)] {
            let counts = counts(&run(&[1, 1, 1], spread, 3000, many));
            assert!(counts.iter().all(|count| (700..1300).contains(count)), "{counts:?}");
        }
        assert_eq!(counts(&run(&[1, 1, 1], Spread::FewestOpen, 30, one)), [10, 10, 10]);
        assert_eq!(counts(&run(&[3, 1], Spread::FewestOpen, 40, one)), [30, 10]);
        assert_eq!(counts(&run(&[0, 1], Spread::FewestOpen, 4, one)), [4]);
    }

    #[test]
    fn what_was_tried_is_not_chosen_again() {
        let round: Arc<[u16]> = [0, 1].into();
        let spreads = [
            Spread::InTurn(Arc::clone(&round)),
            Spread::ByChance(Arc::clone(&round)),
            Spread::BySource(round),
            Spread::FewestOpen,
        ];
        for spread in spreads {
            let (door, loads) = door(&[1, 1], spread);
            let turn = Turn::default();
            for _ in 0..10 {
                let first = choose(&door, &loads, &turn, one(0), &[]).unwrap();
                assert_eq!(choose(&door, &loads, &turn, one(0), &[first]), Some(1 - first));
                assert_eq!(choose(&door, &loads, &turn, one(0), &[0, 1]), None);
            }
        }
        for spread in [Spread::InTurn([].into()), Spread::FewestOpen] {
            let (door, loads) = door(&[], spread);
            assert_eq!(choose(&door, &loads, &Turn::default(), one(0), &[]), None);
        }
    }

    #[test]
    fn an_ipv4_client_is_one_client_on_either_socket() {
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(hash(mapped), hash(one(0)));
    }
}
