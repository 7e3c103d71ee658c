//! Connection tracking of one network namespace, over netlink: which connections there are, and which are to be forgotten.
//!
//! [`Conntrack`] holds one socket, opened in the namespace of the thread that opened it and used by one call at a time, on the
//! runtime's threads for blocking work. It has no task of its own. A table may have a million entries: it is read as a stream,
//! each piece judged as it comes, and nothing is kept but what was asked for.

mod parse;
mod socket;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use self::socket::ConntrackSocket;
use super::KernelError;

/// The connections of one network namespace.
#[derive(Clone)]
pub struct Conntrack {
    socket: Arc<Mutex<ConntrackSocket>>,
}

impl Conntrack {
    /// Opens the socket in the calling thread's network namespace. Needs `CAP_NET_ADMIN` there.
    pub fn open() -> Result<Self, KernelError> {
        let socket = ConntrackSocket::open().map_err(|error| {
            KernelError::new(
                "open a netlink socket to connection tracking",
                format!("{error}; weft needs CAP_NET_ADMIN"),
            )
        })?;
        Ok(Self { socket: Arc::new(Mutex::new(socket)) })
    }

    /// See [`super::Kernel::open_connections`].
    pub async fn open_connections(&self, replicas: &BTreeSet<IpAddr>) -> Result<BTreeMap<IpAddr, u32>, KernelError> {
        let mut counts: BTreeMap<IpAddr, u32> = replicas.iter().map(|replica| (*replica, 0)).collect();
        if counts.is_empty() {
            return Ok(counts);
        }
        self.call("read the kernel's connections", move |socket| {
            socket.dump(|body| {
                let count = parse::flow(body).and_then(|flow| counts.get_mut(&flow.open_to()?));
                if let Some(count) = count {
                    *count = count.saturating_add(1);
                }
            })?;
            Ok(counts)
        })
        .await
    }

    async fn call<T: Send + 'static>(
        &self,
        action: &'static str,
        work: impl FnOnce(&mut ConntrackSocket) -> std::io::Result<T> + Send + 'static,
    ) -> Result<T, KernelError> {
        let socket = Arc::clone(&self.socket);
        let done = tokio::task::spawn_blocking(move || {
            // A call that panicked left at most unread answers, which the next one passes over by their numbers.
            work(&mut socket.lock().unwrap_or_else(PoisonError::into_inner))
        });
        match done.await {
            Ok(done) => done.map_err(|error| KernelError::new(action, error)),
            Err(error) => Err(KernelError::new(action, error)),
        }
    }
}
