//! The agent's HTTP API on a unix socket, both ends: what an operation is called ([`Operations`]), what goes over the
//! wire ([`wire`]), the server that the agent runs, and the client behind the command line.

mod operations;
mod ports;
mod refusal;
pub mod wire;

pub use operations::Operations;
pub use refusal::{Refusal, RefusalKind};
