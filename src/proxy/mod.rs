//! The proxy in userspace: it carries the connections of those published ports that the kernel cannot serve (PROXY protocol,
//! fewest connections) and the way in by the host's own loopback addresses, which no packet of the mesh can take.
//!
//! How it lives: [`Proxy::start`] makes threads of its own, each with a runtime of its own, so that traffic never waits for the
//! control loop nor the control loop for traffic. [`Proxy::apply`] is told every door that should be open; what it opens is
//! accepted on by every thread, and a connection stays on the thread that took it. A connection is one task; it ends by its
//! peers, by idleness, or with the process. Nothing here is written anywhere: a process that dies loses its connections, but
//! not its listening sockets, which the service manager keeps for the next one ([`handover`]), so that no SYN is refused
//! between the two.
//!
//! A door that closes refuses new connections; those that it has go on, as do those of a replica that is taken out.

mod connection;
mod counters;
mod datagrams;
mod handover;
mod header;
mod listener;
mod pipe;
mod pool;
mod relay;
mod shares;
mod spread;
mod table;
mod worker;

pub use counters::{Cause, CountKey, PortCount, ReplicaCount, count_key};
pub use handover::Handed;
pub use header::{HEADER_BYTES_MAX, Parsed, Told, parse as parse_header, write as write_header};
pub use pool::{Applied, Proxy, Trouble};
pub use table::{Door, Known, Place, Spread, Table, Target};

use std::time::Duration;

/// How long each part of a connection's life may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A PROXY header, from the acceptance to its last byte. A peer that sends one sends it first, in one segment.
    pub(crate) header: Duration,
    /// One try to reach a replica: a lost SYN is sent again after 1 s (RFC 6298, 2.1).
    pub(crate) connect: Duration,
    /// Nothing either way, both sides open. Keepalive finds those that are gone much earlier.
    pub(crate) idle: Duration,
    /// Nothing the one way that is left, the other closed.
    pub(crate) half_closed: Duration,
    /// A datagram's flow without another datagram, as conntrack holds a lone one (`nf_conntrack_udp_timeout`).
    pub(crate) datagrams: Duration,
}

impl Limits {
    /// What every connection gets.
    pub(crate) const DEFAULT: Self = Self {
        header: Duration::from_secs(5),
        connect: Duration::from_secs(2),
        idle: Duration::from_hours(1),
        half_closed: Duration::from_mins(5),
        datagrams: Duration::from_secs(30),
    };
}

/// Replicas that are tried for one connection before it is given up.
const TRIES_MAX: usize = 3;
