use std::{fmt, future::Future, io, path::Path, sync::Arc, time::Duration};

use axum::{extract::connect_info::Connected, serve::IncomingStream};
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
    /// Listens at `path`, mode 0660, of the group `weft` where there is one; makes its folder; replaces the socket of a dead agent and refuses that of a living
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
        let service = routes::router(operations).into_make_service_with_connect_info::<Caller>();
        let serving = axum::serve(listener, service).with_graceful_shutdown(shutdown);
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

/// The process at the other end of the socket, as the kernel knows it (`SO_PEERCRED`, unix(7)).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Caller(Option<Credentials>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Credentials {
    uid: u32,
    gid: u32,
    /// Nothing where the caller lives in another PID namespace.
    pid: Option<i32>,
}

impl Connected<IncomingStream<'_, UnixListener>> for Caller {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        let known = stream.io().peer_cred().ok();
        Self(known.map(|known| Credentials { uid: known.uid(), gid: known.gid(), pid: known.pid() }))
    }
}

impl fmt::Display for Caller {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(Credentials { uid, gid, pid: Some(pid) }) => write!(f, "uid {uid}, gid {gid}, pid {pid}"),
            Some(Credentials { uid, gid, pid: None }) => write!(f, "uid {uid}, gid {gid}"),
            None => f.write_str("an unknown process"),
        }
    }
}
