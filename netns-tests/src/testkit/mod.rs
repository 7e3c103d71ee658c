//! A replica that tells who asked it, and clients that count what was lost. Standard library only, one thread a connection:
//! at the rates used here (hundreds a second) a thread costs less than what it would hide.

mod bulk;
mod client;
mod hold;
mod load;
mod manage;
mod moody;
mod names;
mod replica;
mod steady;

pub use bulk::{Bulk, Transfer, echo_datagram, transfer};
pub use client::{Answer, ask, ask_udp, fetch};
pub use hold::{Hold, HoldReport};
pub use load::{Load, LoadReport};
pub use manage::manage;
pub use moody::serve_moody;
pub use names::{UPSTREAM_ANSWER, resolve, serve_names};
pub use replica::serve;
pub use steady::Steady;
