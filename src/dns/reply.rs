//! Replies as bytes.

use std::net::IpAddr;

use domain::{
    base::{
        Message, MessageBuilder, Name, ParsedName, Serial, Ttl,
        iana::{Class, OptRcode, Rcode},
        message_builder::{AdditionalBuilder, AnswerBuilder, PushError, StaticCompressor},
    },
    rdata::{A, Aaaa, Ptr, Soa, Srv},
};

use super::{
    Way,
    message::{Query, UDP_EDNS_MAX},
};
use crate::names::{Data, TTL_S};

/// An OPT record without options, in bytes (RFC 6891, 6.1.2).
const OPT_LEN: usize = 11;

/// What a reply says.
pub(super) struct Content {
    code: OptRcode,
    records: Vec<Data>,
    additional: Vec<(String, IpAddr)>,
    /// Labels of the zone's name, where its SOA record goes along so that "there is none" can be kept for a while (RFC 2308, 3).
    negative_apex: Option<usize>,
}

impl Content {
    pub(super) fn code(code: OptRcode) -> Self {
        Self { code, records: vec![], additional: vec![], negative_apex: None }
    }

    pub(super) fn negative(code: OptRcode, apex: usize) -> Self {
        Self { negative_apex: Some(apex), ..Self::code(code) }
    }

    pub(super) fn found(records: Vec<Data>, additional: Vec<(String, IpAddr)>) -> Self {
        Self { records, additional, ..Self::code(OptRcode::NOERROR) }
    }
}

type Buffer = StaticCompressor<Vec<u8>>;

/// Writes the reply to a question. A datagram holds as many whole records as fit and is marked as truncated if those are not all, so
/// that the asker comes back over TCP; whoever does not, as musl before 1.2.4, has some addresses rather than none (RFC 2181,
/// 9 leaves the part in the reply to us). Over TCP the list ends where the message does.
pub(super) fn compose(query: &Query<'_>, way: Way, content: &Content, revision: u64, reply: &mut Vec<u8>) {
    let max = usize::from(query.reply_max(way));
    let reserved = if query.edns.is_some() { OPT_LEN } else { 0 };
    let buffer = StaticCompressor::new(std::mem::take(reply));
    // A vector grows as it has to, and the header and question of a message that has been read are no longer than they were.
    let Ok(mut builder) = MessageBuilder::from_target(buffer);
    // A push fails when it reaches the limit, not when it passes it.
    builder.set_push_limit(max - reserved + 1);
    let (Ok(mut answer) | Err(mut answer)) = builder.try_start_answer(&query.message, content.code.rcode());
    let header = answer.header_mut();
    // REFUSED and SERVFAIL are no statements about a name.
    header.set_aa(matches!(content.code, OptRcode::NOERROR | OptRcode::NXDOMAIN));
    header.set_ra(content.code != OptRcode::REFUSED);

    let mut fits = true;
    for record in &content.records {
        fits = push(&mut answer, &query.name, record, revision).is_ok();
        if !fits {
            break;
        }
    }
    answer.header_mut().set_tc(!fits && way == Way::Udp);
    let mut authority = answer.authority();
    if let Some(apex) = content.negative_apex.and_then(|labels| suffix(&query.name, labels)) {
        // Without it the reply is still right; it is then not kept.
        let _ = authority.push((&apex, Class::IN, TTL, soa(&apex, revision)));
    }
    let mut extra = authority.additional();
    if fits {
        // As many as there is room for (RFC 2181, 9).
        let _ = content.additional.iter().try_for_each(|(name, address)| push_address(&mut extra, name, *address));
    }
    extra.clear_push_limit();
    if query.edns.is_some() {
        let _ = extra.opt(|opt| {
            opt.set_udp_payload_size(UDP_EDNS_MAX);
            opt.set_rcode(content.code);
            Ok(())
        });
    }
    *reply = extra.finish().into_target();
}

/// Writes a reply of a header alone, to a message of which no more can be trusted.
pub(super) fn bare(packet: &[u8], code: Rcode, reply: &mut Vec<u8>) {
    let Ok(mut builder) = MessageBuilder::from_target(std::mem::take(reply));
    if let Ok(message) = Message::from_octets(packet) {
        let header = builder.header_mut();
        header.set_id(message.header().id());
        header.set_qr(true);
        header.set_opcode(message.header().opcode());
        header.set_rd(message.header().rd());
        header.set_rcode(code);
    }
    *reply = builder.finish();
}

const TTL: Ttl = Ttl::from_secs(TTL_S);

fn push(
    answer: &mut AnswerBuilder<Buffer>,
    owner: &ParsedName<&[u8]>,
    record: &Data,
    revision: u64,
) -> Result<(), PushError> {
    match record {
        Data::Address(IpAddr::V4(address)) => answer.push((owner, Class::IN, TTL, A::new(*address))),
        Data::Address(IpAddr::V6(address)) => answer.push((owner, Class::IN, TTL, Aaaa::new(*address))),
        Data::Name(name) => match absolute(name) {
            Some(name) => answer.push((owner, Class::IN, TTL, Ptr::new(name))),
            None => Ok(()),
        },
        Data::Service { weight, port, target } => match absolute(target) {
            Some(target) => answer.push((owner, Class::IN, TTL, Srv::new(0, *weight, *port, target))),
            None => Ok(()),
        },
        Data::Soa => answer.push((owner, Class::IN, TTL, soa(owner, revision))),
    }
}

fn push_address(extra: &mut AdditionalBuilder<Buffer>, name: &str, address: IpAddr) -> Result<(), PushError> {
    let Some(name) = absolute(name) else { return Ok(()) };
    match address {
        IpAddr::V4(address) => extra.push((name, Class::IN, TTL, A::new(address))),
        IpAddr::V6(address) => extra.push((name, Class::IN, TTL, Aaaa::new(address))),
    }
}

/// A zone's record. There is no primary server to name and nobody to write to, so both are the zone itself; nobody copies the
/// zone, so the times but for the last, which says how long "there is none" holds, mean nothing.
fn soa<'a>(apex: &ParsedName<&'a [u8]>, revision: u64) -> Soa<ParsedName<&'a [u8]>> {
    #[expect(clippy::cast_possible_truncation, reason = "serial numbers go round (RFC 1982)")]
    let serial = Serial(revision as u32);
    Soa::new(*apex, *apex, serial, TTL, TTL, TTL, TTL)
}

/// The last labels of a name, the root not counted.
fn suffix<'a>(name: &ParsedName<&'a [u8]>, labels: usize) -> Option<ParsedName<&'a [u8]>> {
    let mut name = *name;
    while name.label_count() > labels + 1 {
        if !name.parent() {
            return None;
        }
    }
    Some(name)
}

/// Names of ours are labels as they stand, two of them at most.
fn absolute(name: &str) -> Option<Name<Vec<u8>>> {
    Name::vec_from_str(name).ok()
}
