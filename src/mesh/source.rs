//! Balancing by the client's address: a fixed number of slots, of which the kernel picks one by a hash of the address, shared
//! out among the replicas.
//!
//! Weighted rendezvous hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", IEEE/ACM
//! Transactions on Networking 6(1), 1998; the weights after Schindelhauer and Schomaker, "Weighted distributed hash tables",
//! SPAA 2005): for each slot every replica draws a number from the hash of both, and the best one in proportion to its weight
//! has it. Who draws what does not depend on who else is there, so a replica that goes leaves its own slots behind and nobody
//! else's move. The crate `hashring`, which does the same for keys, knows no weights, and a ring's shares are even only with many
//! points for each replica.
//!
//! Every node has to come to the same result, whatever its processor and its mathematics library: all of it is done in whole
//! numbers.

use crate::model::EndpointId;

/// Into how many slots the clients are divided. A share of n slots varies by about the square root of n: with 10 replicas a
/// tenth of each one's. Twice as many would take twice the elements in the kernel for each port and VIP and family.
pub const SOURCE_SLOTS: u16 = 1 << 10;

/// Who has each slot, as indexes of `replicas`, which are ids with their weights; empty if nobody has a weight.
pub fn share_out(replicas: &[(EndpointId, u16)]) -> Vec<usize> {
    let drawers: Vec<(usize, EndpointId, u64)> = replicas
        .iter()
        .enumerate()
        .filter(|(_, (_, weight))| *weight > 0)
        .map(|(index, (id, weight))| (index, *id, u64::from(*weight)))
        .collect();
    (0..u64::from(SOURCE_SLOTS))
        .filter_map(|slot| {
            let draws = drawers.iter().map(|(index, id, weight)| (cost(*id, slot), *weight, *id, *index));
            // The least cost by weight, compared exactly as cross products of at most 39 and 16 bits.
            let best = draws.min_by(|one, two| (one.0 * two.1).cmp(&(two.0 * one.1)).then(one.2.cmp(&two.2)));
            best.map(|(_, _, _, index)| index)
        })
        .collect()
}

/// What a replica draws for a slot: the negative binary logarithm of a number that is even between 0 and 1, which divided
/// by the weight is least as often as the weight says. In units of 2^-32.
fn cost(replica: EndpointId, slot: u64) -> u64 {
    let draw = mix(mix(replica.0).wrapping_add(slot.wrapping_mul(GOLDEN)));
    (64 << 32) - log2(draw | 1)
}

/// 2^64 divided by the golden ratio: far apart whatever the slot.
pub(in crate::mesh) const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// A number of which every bit hangs on every bit of the argument: the last step of Steele, Lea and Flood's `SplitMix64` ("Fast
/// splittable pseudorandom number generators", OOPSLA 2014).
pub(crate) fn mix(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The binary logarithm of a number that is not 0, in units of 2^-32: exact at 256 places between two powers of two, straight
/// lines in between, which errs by less than 3 millionths.
fn log2(number: u64) -> u64 {
    let leading = number.leading_zeros();
    let [place, rest @ ..] = ((number << leading) << 1).to_be_bytes();
    let rest = u64::from_be_bytes([0, rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6]]) >> 24;
    let [from, to] =
        [usize::from(place), usize::from(place) + 1].map(|place| LOG2.get(place).copied().unwrap_or(1 << 32));
    (u64::from(63 - leading) << 32) + from + (((to - from) * rest) >> 32)
}

/// The binary logarithms of 1 + n / 256 in units of 2^-32.
const LOG2: [u64; 256] = {
    let mut table = [0; 256];
    let mut place = 0;
    while place < table.len() {
        // Each squaring doubles the logarithm and so brings out its next bit. In units of 2^-62.
        let mut number = (256 + place as u128) << 54;
        let mut bit = 0;
        while bit < 32 {
            number = (number * number) >> 62;
            table[place] <<= 1;
            if number >= 2 << 62 {
                number >>= 1;
                table[place] |= 1;
            }
            bit += 1;
        }
        place += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Replicas with weights, no two of one id.
    fn replicas() -> impl Strategy<Value = Vec<(EndpointId, u16)>> {
        prop::collection::btree_map(any::<u64>(), 1_u16..20, 1..30)
            .prop_map(|replicas| replicas.into_iter().map(|(id, weight)| (EndpointId(id), weight)).collect())
    }

    /// Who has each slot, by id.
    fn owners(replicas: &[(EndpointId, u16)]) -> Vec<EndpointId> {
        share_out(replicas).into_iter().map(|index| replicas[index].0).collect()
    }

    #[test]
    fn logarithms_are_logarithms() {
        for number in [1, 2, 3, 255, 256, 257, 1 << 40, u64::MAX, 0xdead_beef_1234_5678] {
            #[expect(clippy::cast_precision_loss, reason = "the comparison is no more exact")]
            let (found, wanted) = (log2(number) as f64 / 4_294_967_296.0, (number as f64).log2());
            assert!((found - wanted).abs() < 3e-6, "{number}: {found} instead of {wanted}");
        }
    }

    #[test]
    fn every_release_shares_out_alike() {
        // Written down once: a node of another version must not send clients elsewhere.
        let shared = owners(&[(EndpointId(1), 1), (EndpointId(2), 1), (EndpointId(3), 2)]);
        let ids: Vec<u64> = shared.iter().take(24).map(|id| id.0).collect();
        assert_eq!(ids, GOLDEN_SHARES);
    }

    /// What the test before this compares with.
    const GOLDEN_SHARES: [u64; 24] = [3, 3, 2, 3, 1, 3, 2, 2, 3, 3, 3, 3, 3, 1, 3, 3, 3, 2, 2, 1, 3, 2, 2, 1];

    #[test]
    fn nobody_has_nothing_to_share() {
        assert!(share_out(&[]).is_empty());
        assert!(share_out(&[(EndpointId(1), 0)]).is_empty());
        assert!(owners(&[(EndpointId(1), 0), (EndpointId(2), 1)]).iter().all(|owner| *owner == EndpointId(2)));
    }

    proptest! {
        #[test]
        fn shares_follow_weights(replicas in replicas()) {
            let total: u32 = replicas.iter().map(|(_, weight)| u32::from(*weight)).sum();
            let mut counts: BTreeMap<EndpointId, u32> = BTreeMap::new();
            let owners = owners(&replicas);
            prop_assert_eq!(owners.len(), usize::from(SOURCE_SLOTS));
            for owner in owners {
                *counts.entry(owner).or_default() += 1;
            }
            for (id, weight) in &replicas {
                let wanted = f64::from(SOURCE_SLOTS) * f64::from(*weight) / f64::from(total);
                let found = f64::from(counts.get(id).copied().unwrap_or(0));
                // Six times what chance makes of such a share: once in a billion tries.
                prop_assert!((found - wanted).abs() < 6.0 * wanted.sqrt() + 6.0, "{} instead of {}", found, wanted);
            }
        }

        #[test]
        fn a_replica_that_goes_moves_only_its_own(replicas in replicas(), gone in any::<prop::sample::Index>()) {
            let gone = gone.index(replicas.len());
            let rest: Vec<_> = replicas.iter().enumerate().filter(|(i, _)| *i != gone).map(|(_, r)| *r).collect();
            for (before, after) in owners(&replicas).into_iter().zip(owners(&rest)) {
                prop_assert!(before == after || before == replicas[gone].0);
            }
        }

        #[test]
        fn the_order_of_replicas_does_not_matter(replicas in replicas()) {
            let reversed: Vec<_> = replicas.iter().rev().copied().collect();
            prop_assert_eq!(owners(&replicas), owners(&reversed));
        }

        #[test]
        fn a_greater_weight_only_adds(replicas in replicas(), grown in any::<prop::sample::Index>()) {
            let grown = grown.index(replicas.len());
            let mut heavier = replicas.clone();
            heavier[grown].1 *= 2;
            for (before, after) in owners(&replicas).into_iter().zip(owners(&heavier)) {
                prop_assert!(before == after || after == replicas[grown].0);
            }
        }
    }
}
