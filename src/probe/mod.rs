//! Probes: whether a replica on this host takes connections, and whether a peer answers over the tunnel.
//!
//! A probe is a bounded affair: it ends within its time whatever the other side does, reads a few KiB at most, and leaves
//! nothing behind. No task runs here and nothing is remembered; when to ask and what to make of the answers is decided by
//! [`crate::mesh::health`] and [`crate::mesh::peers`].

mod echo;
mod replica;

pub use echo::{Echo, EchoSocket};
pub use replica::{ProbeError, ask};
