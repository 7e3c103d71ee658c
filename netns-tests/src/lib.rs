//! Real kernel, real agents: what the scenarios under `tests/` and `cargo xtask demo` are built from.
//!
//! [`Topology`] lays hosts, each a network namespace, on an underlay and runs the real `weft` in them. [`testkit`] holds
//! the replica that tells who asked and the clients that count what was lost. Whatever is made is removed by its owner's
//! drop, on a panic too; a thread of its own does the same when a signal ends the process. Nothing here is part of
//! weft: the agent is only ever met through its command line, the kernel and the wire.

mod cleanup;
mod container;
mod host;
mod isolated;
mod kernel_view;
mod leftovers;
mod netns;
mod process;
mod scenario;
pub mod testkit;
mod topology;
pub mod updating;
mod wait;

pub use container::{Container, start_moody, start_replica};
pub use host::{Host, Run};
pub use isolated::isolated;
pub use kernel_view::KernelView;
pub use leftovers::Machine;
pub use netns::Netns;
pub use process::Process;
pub use scenario::{scenario, scenario_before_init, scenario_on};
pub use topology::{CLIENT, CLIENT6, Family, Ground, Topology};
pub use wait::{pause, wait_until};

/// Whether this process may make namespaces at all.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
