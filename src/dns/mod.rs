//! Answers containers' questions for names, at one address of each family on every node.
//!
//! [`respond`] is the part without I/O: a message in, a message or a decision out. [`serve`] runs the sockets: for each address
//! one task, which owns its UDP socket, its TCP listener, their connections and the questions that are under way to the host's
//! resolvers; dropping it ends them all. A question may be lost at any moment: whoever asks, asks again.
//!
//! Nothing that is asked can make this grow: what is under way is bounded overall and for each asker, and nothing is kept.

mod budget;
mod forward;
mod message;
mod reply;
mod resolvers;
mod respond;
mod server;
mod tcp;
mod udp;

use std::net::IpAddr;

pub use forward::is_reply;
pub use resolvers::parse as parse_resolv_conf;
pub use respond::{Reaction, Way, failure, respond};
pub use server::{Service, Trouble, serve};

use crate::model::Network;

/// Where every node answers.
pub const ADDRESSES: [IpAddr; 2] = [IpAddr::V4(Network::RESOLVER_V4), IpAddr::V6(Network::RESOLVER_V6)];

/// The port of DNS (RFC 1035, 4.2).
pub const PORT: u16 = 53;

/// What became of a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered with records.
    NoError,
    /// The name exists, but has no records of the type.
    NoData,
    /// No such name.
    NxDomain,
    /// Not for this asker.
    Refused,
    /// Answered by a resolver of the host.
    Forwarded,
    /// No resolver of the host has answered, or too many questions were under way.
    Failed,
    /// Not a question that can be read.
    Malformed,
    /// A question of a kind that is not known here.
    Unsupported,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::NoError,
        Self::NoData,
        Self::NxDomain,
        Self::Refused,
        Self::Forwarded,
        Self::Failed,
        Self::Malformed,
        Self::Unsupported,
    ];

    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoError => "noerror",
            Self::NoData => "nodata",
            Self::NxDomain => "nxdomain",
            Self::Refused => "refused",
            Self::Forwarded => "forwarded",
            Self::Failed => "failed",
            Self::Malformed => "malformed",
            Self::Unsupported => "unsupported",
        }
    }
}

/// Who counts.
pub trait Tally: Send + Sync {
    /// A question has come to its end.
    fn count(&self, outcome: Outcome);

    /// A resolver of the host has not answered, or not well.
    fn count_resolver_failure(&self);
}
