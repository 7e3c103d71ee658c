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
    /// In how many seconds connection tracking forgets it unless another packet comes; nothing where the kernel does not tell.
    pub left_s: Option<u32>,
}

/// For how long after a SYN an answer may still be on its way: three times the client's first wait before it sends the SYN again
/// (RFC 6298, 2.1).
const ANSWER_MAX_S: u32 = 3;

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
    /// that container's drain. So does one in TCP that is not answered yet, for a moment: after that its client has given up, or
    /// sends the SYN again, and that is balanced anew once the container is gone and the entry forgotten. `syn_life_s` is how
    /// long the kernel keeps an unanswered one in all. In UDP nobody says whether an answer is awaited.
    pub fn open_to(&self, syn_life_s: u32) -> Option<IpAddr> {
        let silent_s = syn_life_s.saturating_sub(self.left_s.unwrap_or(syn_life_s));
        let is_open = match self.stage {
            FlowStage::Open => true,
            FlowStage::Unanswered => self.protocol == L4::Tcp && silent_s <= ANSWER_MAX_S,
            FlowStage::Closed => false,
        };
        is_open.then(|| self.replica.ip())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_still_reach_a_container_is_open_to_it() {
        use FlowStage::{Closed, Open, Unanswered};
        let replica: SocketAddr = "10.9.0.2:8080".parse().unwrap();
        for (protocol, stage, left_s, is_open) in [
            (L4::Tcp, Unanswered, None, true),
            (L4::Tcp, Unanswered, Some(119), true),
            // A probe that came too early, a client that has given up.
            (L4::Tcp, Unanswered, Some(111), false),
            (L4::Tcp, Unanswered, Some(0), false),
            // As after somebody has set another time.
            (L4::Tcp, Unanswered, Some(300), true),
            (L4::Tcp, Open, None, true),
            (L4::Tcp, Open, Some(9), true),
            (L4::Tcp, Closed, None, false),
            (L4::Udp, Unanswered, Some(30), false),
            (L4::Udp, Open, Some(9), true),
            (L4::Sctp, Unanswered, None, false),
            (L4::Sctp, Open, None, true),
            (L4::Sctp, Closed, None, false),
        ] {
            // By the front door here, and as it comes from the node that it entered at.
            for asked in ["192.0.2.1:80".parse().unwrap(), replica] {
                let client = "198.51.100.7:4711".parse().unwrap();
                let is_answered = stage != Unanswered;
                let flow = Flow { protocol, client, asked, replica, is_answered, stage, bytes: None, left_s };
                assert_eq!(flow.open_to(120), is_open.then(|| replica.ip()), "{flow:?}");
            }
        }
    }
}
