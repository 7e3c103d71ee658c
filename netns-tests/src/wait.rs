use std::{
    fmt::Display,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

/// How long between two looks: short beside every bound that a scenario sets (1 s and more), long beside a look (a few ms).
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// Looks until `fact` holds and returns what it found, at the latest after `bound`. A fact that does not hold says how things
/// stand; the last such answer is in the error.
pub fn wait_until<T>(what: impl Display, bound: Duration, mut fact: impl FnMut() -> Result<T>) -> Result<T> {
    let begun = Instant::now();
    loop {
        match fact() {
            Ok(found) => return Ok(found),
            Err(error) if begun.elapsed() >= bound => {
                return Err(anyhow!("{what}: not within {:.1} s; at last: {error:#}", bound.as_secs_f64()));
            }
            Err(_) => pause(LOOK_INTERVAL),
        }
    }
}

/// Lets time pass where time itself is the subject: the pace of a load, the interval between two looks, an outage that has
/// to last. Never to wait for something: that is [`wait_until`].
#[expect(clippy::disallowed_methods, reason = "the one place where the tests let time pass")]
pub fn pause(time: Duration) {
    thread::sleep(time);
}
