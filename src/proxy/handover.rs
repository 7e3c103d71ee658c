//! Listening sockets outlive the process: the service manager keeps a copy of each under its place's name (`FDSTORE=1`,
//! `sd_notify(3)`) and gives them back to the next process (`sd_listen_fds(3)`). Meanwhile the kernel goes on answering SYNs, and
//! the connections wait to be accepted. Without a service manager nothing of this happens, and a restart refuses connections
//! until the doors are open again.

use std::{
    collections::BTreeMap,
    env, io,
    net::TcpListener,
    os::fd::{AsFd, BorrowedFd},
};

use listenfd::ListenFd;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use sd_notify::NotifyState;
use tracing::warn;

use super::Place;

/// All sockets of ours have names that begin so ([`Place`]); what else the service manager passes is somebody else's.
const OURS: &str = "weft-tcp-";

/// The sockets that a previous process has left with the service manager.
#[derive(Debug, Default)]
pub struct Handed {
    listeners: BTreeMap<String, TcpListener>,
}

impl Handed {
    /// Takes over what the service manager passed to this process; to be called once.
    pub fn from_environment() -> Self {
        let mut passed = ListenFd::from_env();
        let names = env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut listeners = BTreeMap::new();
        for (index, name) in names.split(':').enumerate().take(passed.len()) {
            if !name.starts_with(OURS) {
                continue;
            }
            match passed.take_tcp_listener(index) {
                Ok(Some(listener)) => {
                    let _ = fcntl(&listener, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC));
                    listeners.insert(name.to_owned(), listener);
                }
                Ok(None) => {}
                Err(error) => warn!("the socket {name} from the service manager cannot be used: {error}"),
            }
        }
        Self { listeners }
    }

    /// The socket of a place, if there is one.
    pub(super) fn take(&mut self, place: Place) -> Option<TcpListener> {
        self.listeners.remove(&place.to_string())
    }

    /// Closes what nobody has taken, here and at the service manager.
    pub(super) fn drop_rest(&mut self) {
        for (name, listener) in std::mem::take(&mut self.listeners) {
            forget(&name);
            drop(listener);
        }
    }
}

/// Leaves a copy of a listening socket with the service manager.
pub(super) fn keep(place: Place, listener: &TcpListener) {
    let name = place.to_string();
    let told = send(&[NotifyState::FdStore, NotifyState::FdName(&name)], &[listener.as_fd()]);
    if let Err(error) = told {
        warn!("the service manager does not keep the socket {name}, a restart will refuse connections: {error}");
    }
}

/// Lets the service manager close its copy.
pub(super) fn forget(name: &str) {
    if let Err(error) = send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)], &[]) {
        warn!("the service manager still keeps the socket {name}: {error}");
    }
}

/// Does nothing where there is no service manager.
fn send(state: &[NotifyState<'_>], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    if fds.is_empty() { sd_notify::notify(state) } else { sd_notify::notify_with_fds(state, fds) }
}
