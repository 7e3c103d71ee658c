//! Emptying this host's kernel of everything that is ours, by the agent or where none runs.
//!
//! Who is at work in a network namespace is told by an abstract socket, for these are the namespace's own (`unix(7)`) and end with
//! their process, however it ends; a file would have to be looked for in a folder that the caller may not know. Nothing is ever sent there.

use std::{
    io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixDatagram},
    },
};

use crate::{
    api::{Refusal, wire::DownReply},
    kernel::{Kernel, LinuxKernel},
    model::HostState,
    plan::plan,
};

/// The socket that an agent holds while it lives.
const SIGN: &[u8] = b"weft-agent";

/// Passes: the second finds nothing left unless somebody interferes.
const ROUNDS_MAX: usize = 3;

/// Removes everything of weft from the kernel of the calling thread's network namespace, in which no agent may run: it would put all
/// of it back. Nothing else is touched: a node stays a member, and an agent that is started later brings everything back.
///
/// # Errors
/// An agent runs there, what is there cannot be read, or not all of it could be removed.
pub fn down() -> Result<DownReply, Refusal> {
    let _sign = hold_sign().map_err(|error| match error.kind() {
        io::ErrorKind::AddrInUse => {
            Refusal::conflict("an agent runs in this network namespace, and does not listen at this socket")
                .with_hint("name its socket with --socket; or stop it first, and ask again")
        }
        _ => Refusal::internal(format!("cannot find out whether an agent runs: {error}")),
    })?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Refusal::internal)?;
    runtime.block_on(async {
        let kernel = LinuxKernel::open().await.map_err(|error| Refusal::internal(error).with_hint("is this root?"))?;
        empty(&kernel).await
    })
}

/// Holds the sign of an agent until it is dropped; in use if another process holds it.
pub(super) fn hold_sign() -> io::Result<UnixDatagram> {
    UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(SIGN)?)
}

/// Removes everything of weft from a kernel.
pub(super) async fn empty(kernel: &dyn Kernel) -> Result<DownReply, Refusal> {
    let mut removed = 0;
    let mut failures = Vec::new();
    for _ in 0..ROUNDS_MAX {
        let observed = kernel.observe().await.map_err(Refusal::internal)?;
        // Kernel settings stay: others may have come to rely on them.
        let nothing = HostState { sysctls: observed.sysctls.clone(), ..HostState::default() };
        let steps = plan(&nothing, &observed);
        if steps.is_empty() {
            return Ok(DownReply { removed });
        }
        failures.clear();
        for step in &steps {
            match kernel.apply(step).await {
                Ok(()) => removed += 1,
                Err(error) => failures.push(error.to_string()),
            }
        }
    }
    Err(Refusal::internal(format!("not everything could be removed: {}", failures.join("; "))))
}
