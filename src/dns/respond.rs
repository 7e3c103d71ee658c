//! A message in, a message or a decision out.

use std::net::IpAddr;

use domain::base::{
    Rtype,
    iana::{Class, OptRcode, Rcode},
    name::ToLabelIter,
};

use super::{
    Outcome,
    message::{Fault, Query, kind_of, read},
    reply::{Content, bare, compose},
};
use crate::names::{Answer, Question, Zone};

/// The length of a name without compression, in bytes (RFC 1035, 2.3.4).
const NAME_LEN_MAX: usize = 255;

/// How a question has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// In a datagram, so that the answer has to fit one.
    Udp,
    /// On a connection.
    Tcp,
}

/// What to do about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing: it is no question, and whoever sent it must not be made to answer back.
    Drop,
    /// Send the reply.
    Reply(Outcome),
    /// Ask the host's resolvers. A datagram with the answer may be as long as this, in bytes.
    Forward(u16),
}

/// Reacts to `packet` from `asker`; a reply is written to `reply`. `turn` is [`Zone::answer`]'s.
pub fn respond(packet: &[u8], asker: IpAddr, zone: &Zone, way: Way, turn: u64, reply: &mut Vec<u8>) -> Reaction {
    let query = match read(packet) {
        Ok(query) => query,
        Err(Fault::Silent) => return Reaction::Drop,
        Err(Fault::Code(code)) => {
            bare(packet, code, reply);
            return Reaction::Reply(if code == Rcode::NOTIMP { Outcome::Unsupported } else { Outcome::Malformed });
        }
    };
    let (content, outcome) = match decide(&query, asker, zone, turn) {
        Ok(decided) => decided,
        Err(reaction) => return reaction,
    };
    compose(&query, way, &content, zone.revision(), reply);
    Reaction::Reply(outcome)
}

/// Writes a reply with the code SERVFAIL: to a question that nobody could be found to answer.
pub fn failure(packet: &[u8], reply: &mut Vec<u8>) {
    match read(packet) {
        Ok(query) => compose(&query, Way::Udp, &Content::code(OptRcode::SERVFAIL), 0, reply),
        Err(_) => bare(packet, Rcode::SERVFAIL, reply),
    }
}

fn decide(query: &Query<'_>, asker: IpAddr, zone: &Zone, turn: u64) -> Result<(Content, Outcome), Reaction> {
    // The one version of EDNS is 0 (RFC 6891, 6.1.3).
    if query.edns.as_ref().is_some_and(|edns| edns.version != 0) {
        return Ok((Content::code(OptRcode::BADVERS), Outcome::Unsupported));
    }
    let refused = || (Content::code(OptRcode::REFUSED), Outcome::Refused);
    // Whole zones are not handed out, and of other classes nothing is known.
    if query.class != Class::IN || matches!(query.rtype, Rtype::AXFR | Rtype::IXFR) {
        return Ok(refused());
    }
    let mut lower = [0; NAME_LEN_MAX];
    let mut labels: Vec<&[u8]> = Vec::with_capacity(8);
    let mut rest = &mut lower[..];
    for label in query.name.iter_labels().filter(|label| !label.is_root()) {
        let Some((place, after)) = rest.split_at_mut_checked(label.len()) else { return Err(Reaction::Drop) };
        place.copy_from_slice(label.as_slice());
        place.make_ascii_lowercase();
        labels.push(place);
        rest = after;
    }
    let question = Question { labels: &labels, kind: kind_of(query.rtype) };
    Ok(match zone.answer(asker, question, turn) {
        Answer::Outside => return Err(Reaction::Forward(query.datagram_max())),
        Answer::Refused => refused(),
        Answer::NoSuchName { apex } => (Content::negative(OptRcode::NXDOMAIN, apex), Outcome::NxDomain),
        Answer::Records { records, apex, .. } if records.is_empty() => {
            (Content::negative(OptRcode::NOERROR, apex), Outcome::NoData)
        }
        Answer::Records { records, additional, .. } => (Content::found(records, additional), Outcome::NoError),
    })
}
