//! The front door: which replicas take connections, and the rows that spread new connections over them.

mod attempts;
mod balanced;
mod doors;
mod draining;
mod ejection;
pub mod health;
mod nodes;
pub mod peers;
mod roster;
mod slots;
mod source;
mod stale;
mod tables;

pub use attempts::{Attempt, Attempts};
pub use balanced::{Balancing, balancing, balancing_among, is_alive};
pub use draining::{drained_since, draining_on, has_confirmed, open_connections, unconfirmed};
pub use ejection::{Ejections, Outcome};
pub use nodes::{addresses_of_nodes, is_nobodys};
pub use roster::{Roster, Spread, Via, candidates};
pub use slots::{SLOTS_MAX, interleave};
pub(crate) use source::mix;
pub use source::{SOURCE_SLOTS, share_out};
pub use stale::StaleFlows;
pub use tables::tables;
