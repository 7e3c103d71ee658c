//! Damage to bytes.

/// Numbers by chance, the same for the same seed (splitmix64).
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from 0 to `bound` - 1; 0 for a bound of 0.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % (bound.max(1) as u64)).unwrap()
    }

    pub(crate) fn choose<'a, T>(&mut self, things: &'a [T]) -> &'a T {
        &things[self.below(things.len())]
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[0]
    }
}

/// Bytes at which parsers tend to turn: ends of ranges, lengths, pointers.
const INTERESTING: [u8; 14] = [0, 1, 2, 12, 13, 41, 63, 64, 127, 128, 0xc0, 0xc1, 0xfe, 0xff];

/// Damages `input` in one way.
pub(crate) fn damage(input: &mut Vec<u8>, pool: &[Vec<u8>], dice: &mut Dice) {
    let at = dice.below(input.len());
    match dice.below(9) {
        0 => input.truncate(at),
        1 => {
            let byte = dice.byte();
            input.insert(at, byte);
        }
        2 if !input.is_empty() => _ = input.remove(at),
        3 if !input.is_empty() => input[at] ^= 1 << dice.below(8),
        4 if !input.is_empty() => input[at] = dice.byte(),
        5 if !input.is_empty() => input[at] = *dice.choose(&INTERESTING),
        // A piece of itself again.
        6 => {
            let end = at + dice.below(input.len() - at + 1);
            let piece = input[at..end].to_vec();
            let place = dice.below(input.len() + 1);
            input.splice(place..place, piece);
        }
        // Another's end.
        7 => {
            let other = dice.choose(pool);
            let from = dice.below(other.len() + 1);
            input.truncate(at);
            input.extend(&other[from..]);
        }
        _ => {
            for _ in 0..dice.below(16) {
                let byte = dice.byte();
                input.push(byte);
            }
        }
    }
}
