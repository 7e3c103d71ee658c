use std::{io, num::NonZeroUsize, thread};

use tokio::{
    runtime::{Builder, Handle},
    sync::oneshot,
};

/// More threads than cores only take turns; more than this has not been measured.
const THREADS_MAX: usize = 4;

/// A thread with a runtime of its own. It ends, and everything on it, when this is dropped.
#[derive(Debug)]
pub(super) struct Worker {
    handle: Handle,
    _stop: oneshot::Sender<()>,
}

impl Worker {
    /// Starts as many as the machine has use for.
    pub(super) fn start_all() -> io::Result<Vec<Self>> {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        (0..cores.min(THREADS_MAX)).map(Self::start).collect()
    }

    fn start(number: usize) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        thread::Builder::new().name(format!("weft-proxy-{number}")).spawn(move || {
            // Ends with an error when the worker is dropped, since nothing is ever sent.
            let _ = runtime.block_on(stopped);
        })?;
        Ok(Self { handle, _stop: stop })
    }

    /// Where its tasks are spawned.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }
}
