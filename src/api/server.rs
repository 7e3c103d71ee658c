use std::{future::Future, io, path::Path, sync::Arc, time::Duration};

use tokio::{net::UnixListener, sync::oneshot};

use super::{
    BindError, Operations,
    listener::{SocketClaim, listen},
    routes,
};

/// How long operations under way may go on after the shutdown was asked for. An attach takes milliseconds; whatever
/// takes longer waits for a store that is away, and gives up on its own or may be cut off: the next agent observes the
/// kernel and mends what is half done.
const SHUTDOWN_WAIT_MAX: Duration = Duration::from_secs(5);

/// The agent's end of the API. Dropping it gives the socket up.
#[derive(Debug)]
pub struct Server {
    listener: UnixListener,
    claim: SocketClaim,
}

impl Server {
    /// Listens at `path`, mode 0660; makes its folder; replaces the socket of a dead agent and refuses that of a living
    /// one. Needs a tokio runtime around it. Clients can connect from then on and wait until [`Self::serve`] answers them.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        let (listener, claim) = listen(path)?;
        Ok(Self { listener, claim })
    }

    /// Answers until `shutdown` is done, then takes no more calls, lets those under way finish for at most 5 s, and
    /// removes the socket.
    pub async fn serve(
        self,
        operations: Arc<dyn Operations>,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        let Self { listener, claim } = self;
        let (stopping, stopped) = oneshot::channel();
        let shutdown = async move {
            shutdown.await;
            // The receiver is gone only when serving has ended already.
            let _ = stopping.send(());
        };
        let serving = axum::serve(listener, routes::router(operations)).with_graceful_shutdown(shutdown);
        let overdue = async {
            match stopped.await {
                Ok(()) => tokio::time::sleep(SHUTDOWN_WAIT_MAX).await,
                Err(_) => std::future::pending().await,
            }
        };
        let result = tokio::select! {
            result = serving.into_future() => result,
            () = overdue => Ok(()),
        };
        drop(claim);
        result
    }
}
