use std::{
    future::Future,
    io::{self, IsTerminal, Write},
    pin::pin,
    time::Duration,
};

use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// What is done sooner than this needs no words: most calls take some milliseconds.
const SILENCE: Duration = Duration::from_millis(700);

/// Waits for `work`, and says on a terminal what is waited for and for how long, once it takes a while. The line is gone
/// when the work is done. Into a pipe it says nothing.
pub(super) async fn waiting<T>(what: &str, work: impl Future<Output = T>) -> T {
    waiting_with(|| what.to_owned(), work).await
}

/// Whether anything is shown: whether somebody looks.
pub(super) fn is_shown() -> bool {
    io::stderr().is_terminal()
}

/// As [`waiting`], where what is waited for changes.
pub(super) async fn waiting_with<T>(what: impl Fn() -> String, work: impl Future<Output = T>) -> T {
    let mut stderr = io::stderr();
    if !stderr.is_terminal() {
        return work.await;
    }
    let mut work = pin!(work);
    let start = Instant::now();
    let mut ticks = interval_at(start + SILENCE, Duration::from_secs(1));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut shown = Shown::Nothing;
    loop {
        tokio::select! {
            result = &mut work => {
                if let Shown::Line = shown {
                    // Back to the first column, and erase to the line's end (ECMA-48, 8.3.41).
                    let _ = stderr.write_all(b"\r\x1b[K");
                }
                return result;
            }
            _ = ticks.tick() => {
                shown = Shown::Line;
                // A terminal that has gone away stops nothing.
                let _ = write!(stderr, "\r\x1b[K{} ... {} s", what(), start.elapsed().as_secs());
                let _ = stderr.flush();
            }
        }
    }
}

enum Shown {
    Nothing,
    Line,
}
