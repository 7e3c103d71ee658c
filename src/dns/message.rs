//! Questions as bytes (RFC 1035, 4; EDNS: RFC 6891).

use domain::base::{
    Message, ParsedName, Rtype,
    iana::{Class, Opcode, Rcode},
    opt::{Opt, OptRecord},
};

use super::Way;
use crate::names::Kind;

/// The largest UDP answer to one who does not say what he can take (RFC 1035, 4.2.1).
const UDP_PLAIN_MAX: u16 = 512;

/// The largest UDP message that we send and say we take: it passes every path unfragmented (DNS flag day 2020).
pub(super) const UDP_EDNS_MAX: u16 = 1232;

/// The largest message over TCP, whose length is written in 16 bits (RFC 1035, 4.2.2).
const TCP_MAX: u16 = u16::MAX;

/// A question that can be read.
pub(super) struct Query<'a> {
    pub(super) message: Message<&'a [u8]>,
    pub(super) name: ParsedName<&'a [u8]>,
    pub(super) rtype: Rtype,
    pub(super) class: Class,
    pub(super) edns: Option<Edns>,
}

pub(super) struct Edns {
    /// How long a datagram its sender takes, in bytes.
    pub(super) payload_max: u16,
    pub(super) version: u8,
}

/// Why a message is not answered from the zone.
pub(super) enum Fault {
    /// It must not be answered at all: it is no question.
    Silent,
    /// It can be answered with a code alone.
    Code(Rcode),
}

/// Reads a whole message, so that one is either understood or refused.
pub(super) fn read(packet: &[u8]) -> Result<Query<'_>, Fault> {
    let message = Message::from_octets(packet).map_err(|_| Fault::Silent)?;
    if message.header().qr() {
        return Err(Fault::Silent);
    }
    if message.header().opcode() != Opcode::QUERY {
        return Err(Fault::Code(Rcode::NOTIMP));
    }
    let malformed = || Fault::Code(Rcode::FORMERR);
    // Exactly one question (RFC 9619).
    let question = message.sole_question().map_err(|_| malformed())?;
    let mut edns = None;
    for record in message.additional().map_err(|_| malformed())? {
        let record = record.map_err(|_| malformed())?;
        if record.rtype() != Rtype::OPT {
            continue;
        }
        let record = record.to_record::<Opt<_>>().map_err(|_| malformed())?.ok_or_else(malformed)?;
        let opt = OptRecord::from_record(record);
        let found = Edns { payload_max: opt.udp_payload_size(), version: opt.version() };
        // One at most (RFC 6891, 6.1.1).
        if edns.replace(found).is_some() {
            return Err(malformed());
        }
    }
    let (rtype, class) = (question.qtype(), question.qclass());
    Ok(Query { name: question.into_qname(), rtype, class, edns, message })
}

impl Query<'_> {
    /// How long a datagram the asker takes, in bytes.
    pub(super) fn datagram_max(&self) -> u16 {
        self.edns.as_ref().map_or(0, |edns| edns.payload_max).max(UDP_PLAIN_MAX)
    }

    /// How long the reply may be, in bytes.
    pub(super) fn reply_max(&self, way: Way) -> u16 {
        match (way, &self.edns) {
            (Way::Tcp, _) => TCP_MAX,
            (Way::Udp, None) => UDP_PLAIN_MAX,
            (Way::Udp, Some(_)) => self.datagram_max().min(UDP_EDNS_MAX),
        }
    }
}

/// A record type in the words of `names`.
pub(super) fn kind_of(rtype: Rtype) -> Kind {
    match rtype {
        Rtype::A => Kind::A,
        Rtype::AAAA => Kind::Aaaa,
        Rtype::PTR => Kind::Ptr,
        Rtype::SRV => Kind::Srv,
        Rtype::SOA => Kind::Soa,
        Rtype::ANY => Kind::Any,
        _ => Kind::Other,
    }
}
