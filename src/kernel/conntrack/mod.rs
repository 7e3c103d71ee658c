//! Connection tracking of one network namespace, over netlink: which connections there are, and which are to be forgotten.
//!
//! [`Conntrack`] holds one socket, opened in the namespace of the thread that opened it and used by one call at a time, on the
//! runtime's threads for blocking work. It has no task of its own. A table may have a million entries: it is read as a stream,
//! each piece judged as it comes, and nothing is kept but what was asked for.

mod events;
mod parse;
mod socket;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

pub use self::events::{FlowEvent, FlowEvents, Happening};

use self::socket::ConntrackSocket;
use super::{KernelError, sysctl};
use crate::model::{Flow, Sysctl};

/// Says of a connection whether it is to be forgotten.
pub type FlowTest = Arc<dyn Fn(&Flow) -> bool + Send + Sync>;

/// Entries found in one look before they are deleted: a bound on memory, some 150 bytes each.
const FORGET_MAX: usize = 20_000;

/// How long an unanswered SYN is kept where the kernel does not say, in seconds: its default (nf_conntrack-sysctl.rst).
const SYN_LIFE_S: u32 = 120;

/// What the kernel needs to find an entry again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowHandle {
    /// The kernel's number of the entry, which a later one with the same addresses does not have.
    id: u32,
    /// The address family's number.
    family: u8,
    /// Its addresses, number and zone, as the kernel gave them.
    attributes: Box<[u8]>,
}

impl FlowHandle {
    /// No entry in particular, of any family.
    fn any() -> Self {
        Self { id: 0, family: 0, attributes: Box::default() }
    }

    /// The kernel's number of the entry.
    pub fn id(&self) -> u32 {
        self.id
    }
}

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
        let syn_life = sysctl::read(&Sysctl("net/netfilter/nf_conntrack_tcp_timeout_syn_sent".to_owned()))?;
        let syn_life_s = syn_life.and_then(|text| text.parse().ok()).unwrap_or(SYN_LIFE_S);
        self.call("read the kernel's connections", move |socket| {
            socket.dump(|body| {
                let count = parse::flow(body).and_then(|flow| counts.get_mut(&flow.open_to(syn_life_s)?));
                if let Some(count) = count {
                    *count = count.saturating_add(1);
                }
            })?;
            Ok(counts)
        })
        .await
    }

    /// See [`super::Kernel::forget_flows`].
    pub async fn forget(&self, is_stale: FlowTest) -> Result<u32, KernelError> {
        self.call("forget connections that lead nowhere", move |socket| {
            let mut forgotten = 0;
            loop {
                let mut stale = Vec::new();
                socket.dump(|body| {
                    if stale.len() < FORGET_MAX && parse::flow(body).is_some_and(|flow| is_stale(&flow)) {
                        stale.extend(parse::handle(body));
                    }
                })?;
                let deleted = socket.delete(&stale)?;
                forgotten += deleted;
                // A full look may have left some; one in which none could be deleted would not end.
                if stale.len() < FORGET_MAX || deleted == 0 {
                    return Ok(forgotten);
                }
            }
        })
        .await
    }

    /// Listens to translated connections that begin and end. Opens a socket in the calling thread's network namespace, which must be that of
    /// [`Conntrack::open`], and must have entered the runtime on which the events are waited for.
    pub fn listen(&self) -> Result<FlowEvents, KernelError> {
        FlowEvents::open()
    }

    /// Lets the kernel count the bytes of connections that begin from now on, in the calling thread's network namespace. A kernel that
    /// has no such setting counts none. The setting is not taken back: others may read it by then.
    pub fn count_bytes(&self) -> Result<(), KernelError> {
        let key = Sysctl("net/netfilter/nf_conntrack_acct".to_owned());
        match sysctl::read(&key)? {
            Some(_) => sysctl::write(&key, "1"),
            None => Ok(()),
        }
    }

    /// The bytes so far of the connections that are not over, by what `key` calls them; those that it has no name for are left
    /// out.
    pub async fn live_bytes<K: Ord + Send + 'static>(
        &self,
        key: impl Fn(&Flow) -> Option<K> + Send + 'static,
    ) -> Result<BTreeMap<K, u64>, KernelError> {
        self.call("read the kernel's connections", move |socket| {
            let mut bytes: BTreeMap<K, u64> = BTreeMap::new();
            socket.dump(|body| {
                if let Some(flow) = parse::flow(body)
                    && let Some(key) = key(&flow)
                {
                    *bytes.entry(key).or_default() += flow.bytes.unwrap_or(0);
                }
            })?;
            Ok(bytes)
        })
        .await
    }

    /// How these connections stand now; nothing for one that is over.
    pub async fn look_at(&self, handles: Vec<FlowHandle>) -> Result<Vec<Option<Flow>>, KernelError> {
        self.call("look at connections", move |socket| handles.iter().map(|handle| socket.get(handle)).collect()).await
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
