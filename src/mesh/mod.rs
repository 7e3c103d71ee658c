//! The front door: which replicas take connections, and the rows that spread new connections over them.

mod balanced;
pub mod health;
pub mod peers;
mod slots;
mod tables;

pub use balanced::{Balancing, balancing, is_alive};
pub use slots::{SLOTS_MAX, interleave};
pub use tables::tables;
