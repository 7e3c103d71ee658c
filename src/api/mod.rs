//! The agent's HTTP API on a unix socket, both ends: what an operation is called ([`Operations`]), what goes over the
//! wire ([`wire`]), the server that the agent runs, and the client behind the command line.
//!
//! The server is one accept loop and a task a connection, all owned by [`Server::serve`]; each operation runs in a task
//! of its own so that a client that goes away in the middle leaves nothing half done. The client opens one connection a
//! call and keeps nothing.

mod client;
mod listener;
mod operations;
mod ports;
mod refusal;
mod routes;
mod server;
pub mod wire;

pub use client::Client;
pub use listener::BindError;
pub use operations::Operations;
pub use refusal::{Refusal, RefusalKind};
pub use server::Server;

/// Where the agent listens unless somebody says otherwise.
pub const DEFAULT_SOCKET: &str = "/run/weft/weft.sock";
