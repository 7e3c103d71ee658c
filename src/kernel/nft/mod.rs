//! nftables: the table `inet weft`, spoken over netlink by ourselves.
//!
//! [`Nft`] holds one socket, opened in the namespace of the thread that opened it and used by one call at a time. It has no
//! task of its own. The kernel works inside the system calls (a commit of 20,000 elements takes some 60 ms), so each call
//! runs on the runtime's threads for blocking work; a caller that stops waiting does not stop the call, and whether the batch
//! came into force is seen at the next [`Nft::observe`]. [`NftChanges`] is a second socket that only listens; a notice that
//! is lost is counted as one, because a notice says no more than "look again".
//!
//! Nothing here starts `nft`, and no other table is written or waited for.

mod affinity;
mod apply;
mod batch;
mod changes;
mod code;
mod comment;
mod condition;
mod element;
mod expression;
mod observe;
mod render;
mod schema;
pub(super) mod socket;
pub(super) mod wire;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use nix::errno::Errno;

pub use self::{changes::NftChanges, render::render};

use crate::{
    kernel::KernelError,
    model::{ChainName, Connections, Ruleset},
    plan::NftChange,
};

use self::{
    batch::Ground,
    observe::Table,
    socket::{NetlinkSocket, RequestError},
};

/// The table's name. Its family is `inet`.
const TABLE: &str = "weft";

/// The table `inet weft` of one network namespace.
#[derive(Clone)]
pub struct Nft {
    session: Arc<Mutex<Session>>,
    port: u32,
}

/// What the calls share.
struct Session {
    socket: NetlinkSocket,
    /// Whether the next batch begins with an empty table.
    ground: Ground,
}

impl Nft {
    /// Opens the socket in the calling thread's network namespace. Needs `CAP_NET_ADMIN` there.
    pub fn open() -> Result<Self, KernelError> {
        let socket = NetlinkSocket::open().map_err(|error| {
            let mend = match error.raw_os_error() {
                Some(code) if code == Errno::EPROTONOSUPPORT as i32 => "load the kernel module nf_tables",
                _ => "weft needs CAP_NET_ADMIN",
            };
            KernelError::new("open a netlink socket to nftables", format!("{error}; {mend}"))
        })?;
        let port = socket.port();
        Ok(Self { session: Arc::new(Mutex::new(Session { socket, ground: Ground::Kept })), port })
    }

    /// Listens for changes of the table that others make. Opens a socket in the calling thread's network namespace, which
    /// must be that of [`Nft::open`], and must have entered the runtime on which the changes are waited for.
    pub fn subscribe(&self) -> Result<NftChanges, KernelError> {
        NftChanges::open(self.port)
    }

    /// The whole table as it is at one moment; nothing if there is none.
    ///
    /// A rule that is not of our making comes back as [`crate::model::Rule::Foreign`]. A table that holds what the model
    /// has no name for (a foreign chain or set, a chain entered at another hook, a set of other types, an interval that is no
    /// prefix) comes back as an empty ruleset, and the next [`Nft::apply`] makes that true first, in its own transaction:
    /// so a plan made from what was observed holds, and the table is replaced whole with no packet in between.
    pub async fn observe(&self) -> Result<Option<Ruleset>, KernelError> {
        self.call(|session| {
            let read = observe::read_table(&mut session.socket);
            let table = read.map_err(|error| KernelError::new("read the nftables table inet weft", advise(&error)))?;
            Ok(match table {
                Table::Absent => {
                    session.ground = Ground::Kept;
                    None
                }
                Table::Ours(ruleset) => {
                    session.ground = Ground::Kept;
                    Some(ruleset)
                }
                Table::Misshapen(why) => {
                    tracing::warn!("the nftables table inet weft was changed by somebody else and is replaced: {why}");
                    session.ground = Ground::Cleared;
                    Some(Ruleset::default())
                }
            })
        })
        .await
    }

    /// What the chains of services have counted; a chain that is not there has counted nothing.
    pub async fn connections(&self) -> Result<BTreeMap<ChainName, Connections>, KernelError> {
        self.call(|session| {
            observe::read_connections(&mut session.socket)
                .map_err(|error| KernelError::new("read the counters of the nftables table inet weft", advise(&error)))
        })
        .await
    }

    /// Does all the changes in their order, or none of them, in one transaction. Adding what is there and deleting what is
    /// not succeed. The error names the change that the kernel refused.
    ///
    /// One exception: a chain that the kernel finds busy although an element that points to it goes in the same call is
    /// deleted in a second transaction, as kernels before 6.2 want it.
    pub async fn apply(&self, changes: &[NftChange]) -> Result<(), KernelError> {
        if changes.is_empty() {
            return Ok(());
        }
        let changes = changes.to_vec();
        self.call(move |session| {
            apply::apply(&mut session.socket, session.ground, &changes)?;
            session.ground = Ground::Kept;
            Ok(())
        })
        .await
    }

    async fn call<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Session) -> Result<T, KernelError> + Send + 'static,
    ) -> Result<T, KernelError> {
        let session = Arc::clone(&self.session);
        let done = tokio::task::spawn_blocking(move || {
            // A call that panicked left at most unread answers, which the next one passes over by their numbers.
            work(&mut session.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.unwrap_or_else(|error| Err(KernelError::new("speak to nftables", error)))
    }
}

fn advise(error: &RequestError) -> String {
    match error {
        RequestError::Interrupted => "others change nftables without pause; weft tries again".to_owned(),
        RequestError::Refused(_) | RequestError::Socket(_) => error.to_string(),
    }
}
