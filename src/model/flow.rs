use std::net::{IpAddr, SocketAddr};

use super::L4;

/// One connection as the kernel's connection tracking knows it: what its client sent it to, and who answers. Where the two
/// differ, addresses were translated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flow {
    /// The transport.
    pub protocol: L4,
    /// Who began it.
    pub client: SocketAddr,
    /// Where its client sends.
    pub asked: SocketAddr,
    /// Who answers: the source of its replies. The same as [`Self::asked`] unless the destination was translated.
    pub replica: SocketAddr,
    /// Whether anything has come back.
    pub is_answered: bool,
    /// Where it stands.
    pub stage: FlowStage,
    /// Bytes in both directions, with headers; nothing if the kernel does not count (`net.netfilter.nf_conntrack_acct`).
    pub bytes: Option<u64>,
}

/// Where a connection stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FlowStage {
    /// Its client has sent, and nobody has answered.
    Unanswered,
    /// Answered, and either side may have data left to send. UDP has no end, only a time-out.
    Open,
    /// Over: the entry waits for its time-out.
    Closed,
}

impl Flow {
    /// Whether its destination was translated.
    pub fn is_translated(&self) -> bool {
        self.asked != self.replica
    }

    /// The container that still has this connection open, if it is one of those that may: only then does it count against
    /// that container's drain.
    pub fn open_to(&self) -> Option<IpAddr> {
        (self.stage == FlowStage::Open).then(|| self.replica.ip())
    }
}
