use std::sync::{Arc, Mutex, PoisonError};

/// The one source of chance of a run: the same seed gives the same run. `SplitMix64` (Steele, Lea, Flood 2014).
#[derive(Clone)]
pub(super) struct Dice(Arc<Mutex<u64>>);

impl Dice {
    pub(super) fn new(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(seed)))
    }

    /// 64 random bits.
    pub(super) fn bits(&self) -> u64 {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = *state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of 0 to `bound` less 1.
    pub(super) fn below(&self, bound: usize) -> usize {
        usize::try_from(self.bits() % bound as u64).unwrap()
    }

    /// Whether something happens that happens so many times in a thousand.
    pub(super) fn strikes(&self, per_mille: u64) -> bool {
        self.bits() % 1000 < per_mille
    }

    /// One of some things, if there are any.
    pub(super) fn pick<T>(&self, things: impl IntoIterator<Item = T>) -> Option<T> {
        let things: Vec<T> = things.into_iter().collect();
        if things.is_empty() {
            return None;
        }
        let index = self.below(things.len());
        things.into_iter().nth(index)
    }
}
