use std::{future::Future, process::Command, thread};

use nix::sched::{CloneFlags, unshare};

/// Runs `test` on a thread of its own inside a new, nameless network namespace with `lo` up. The namespace ends with the
/// thread, whichever way the test ends, so nothing can be left behind.
#[expect(clippy::expect_used, reason = "a panic is how a test fails")]
pub fn isolated<F, Fut>(test: F)
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()>,
{
    let thread = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a new network namespace needs root: run the tests as root");
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().expect("`ip` of iproute2 is missing");
        assert!(up.success(), "`ip link set lo up` failed");
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a tokio runtime").block_on(test());
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}
