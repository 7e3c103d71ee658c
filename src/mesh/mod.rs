//! The front door: which replicas take connections, and the rows that spread new connections over them.

mod balanced;
mod draining;
mod slots;
mod tables;

pub use balanced::{Balancing, balancing, is_alive};
pub use draining::{drained_since, draining_on, has_confirmed, open_connections, unconfirmed};
pub use slots::{SLOTS_MAX, interleave};
pub use tables::tables;
