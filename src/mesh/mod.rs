//! The front door: which replicas take connections, and the rows that spread new connections over them.

mod balanced;
mod doors;
mod slots;
mod source;
mod tables;

pub use balanced::{Balancing, balancing, is_alive};
pub use slots::{SLOTS_MAX, interleave};
pub use source::{SOURCE_SLOTS, share_out};
pub use tables::tables;
