//! The front door: which replicas take connections, and the rows that spread new connections over them.

mod attempts;
mod balanced;
mod ejection;
mod roster;
mod slots;
mod stale;
mod tables;

pub use attempts::{Attempt, Attempts};
pub use balanced::{Balancing, balancing, is_alive};
pub use ejection::{Ejections, Outcome};
pub use roster::{Roster, Spread, Via, candidates};
pub use slots::{SLOTS_MAX, interleave};
pub use stale::StaleFlows;
pub use tables::tables;
