/// The most slots a published port or VIP can have: 14 bits of the slot number.
pub const SLOTS_MAX: usize = 1 << 14;

/// The order of one round: each index of `weights` appears as often as its weight says, spread as evenly as can be, so
/// that a heavy replica gets no bursts. Weights are reduced by their common divisor; with equal weights it is 0, 1, 2, ...
///
/// A replica of weight 0 gets no slot. A round longer than [`SLOTS_MAX`] is scaled down; nobody with a weight loses its
/// last slot by that.
pub fn interleave(weights: &[u16]) -> Vec<usize> {
    let divisor = weights.iter().fold(0, |divisor, weight| gcd(divisor, u64::from(*weight))).max(1);
    let reduced: Vec<u64> = weights.iter().map(|weight| u64::from(*weight) / divisor).collect();
    let total: u64 = reduced.iter().sum();
    let scale = |weight: u64| match weight {
        0 => 0,
        _ if total <= SLOTS_MAX as u64 => weight,
        _ => (weight * (SLOTS_MAX as u64 / 2) / total).max(1),
    };
    let shares: Vec<u64> = reduced.into_iter().map(scale).collect();
    // The place of a replica's k-th turn on the round is (2k + 1) / (2 * share): turns sorted by place interleave evenly.
    // Compared exactly, as cross products; equal places go by index.
    let mut turns: Vec<(u64, u64, usize)> = shares
        .iter()
        .enumerate()
        .flat_map(|(index, share)| (0..*share).map(move |turn| (2 * turn + 1, *share, index)))
        .collect();
    turns.sort_by(|a, b| (a.0 * b.1).cmp(&(b.0 * a.1)).then(a.2.cmp(&b.2)));
    turns.truncate(SLOTS_MAX);
    turns.into_iter().map(|(_, _, index)| index).collect()
}

fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn rounds_are_even() {
        for (weights, round) in [
            (&[][..], &[][..]),
            (&[1], &[0]),
            (&[1, 1, 1], &[0, 1, 2]),
            (&[7, 7], &[0, 1]),
            (&[2, 1], &[0, 1, 0]),
            (&[3, 1], &[0, 0, 1, 0]),
            (&[0, 5], &[1]),
        ] {
            assert_eq!(interleave(weights), round, "{weights:?}");
        }
    }

    proptest! {
        #[test]
        fn everybody_gets_their_share(weights in prop::collection::vec(0_u16..200, 0..40)) {
            let round = interleave(&weights);
            prop_assert!(round.len() <= SLOTS_MAX);
            let count = |index| round.iter().filter(|turn| **turn == index).count() as u64;
            for (i, a) in weights.iter().enumerate() {
                for (j, b) in weights.iter().enumerate() {
                    prop_assert_eq!(count(i) * u64::from(*b), count(j) * u64::from(*a));
                }
            }
        }

        #[test]
        fn even_the_longest_round_fits_and_starves_nobody(weights in prop::collection::vec(1_u16.., 1..300)) {
            let round = interleave(&weights);
            prop_assert!(round.len() <= SLOTS_MAX);
            for index in 0..weights.len() {
                prop_assert!(round.contains(&index));
            }
        }
    }
}
