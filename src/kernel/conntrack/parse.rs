//! An entry of connection tracking from its bytes: `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::{
    kernel::nft::wire::{attribute, attributes, number64},
    model::{Flow, FlowStage, L4},
};

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;

const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;

const CTA_PROTOINFO_TCP: u16 = 1;
const CTA_PROTOINFO_SCTP: u16 = 3;
/// The first attribute of either.
const CTA_PROTOINFO_STATE: u16 = 1;

const CTA_COUNTERS_BYTES: u16 = 2;

/// `IPS_SEEN_REPLY` in `linux/netfilter/nf_conntrack_common.h`.
const SEEN_REPLY: u32 = 1 << 1;

/// `enum tcp_conntrack` from `TCP_CONNTRACK_SYN_RECV` to `TCP_CONNTRACK_LAST_ACK`: the replica has answered, and not everything that
/// was sent has been acknowledged. With the first FIN one side is done, not the other; even in `LAST_ACK` the last data may be
/// on its way once more.
const TCP_OPEN: std::ops::RangeInclusive<u8> = 2..=6;
/// `TCP_CONNTRACK_SYN_SENT`, and `SYN_SENT2` for both sides at once.
const TCP_UNANSWERED: [u8; 3] = [0, 1, 9];

/// `enum sctp_conntrack` from `SCTP_CONNTRACK_ESTABLISHED` to `SCTP_CONNTRACK_SHUTDOWN_RECD`: what was sent before the shutdown is still
/// delivered (RFC 9260, 9.2).
const SCTP_OPEN: std::ops::RangeInclusive<u8> = 4..=6;
/// Before that: the association is being made.
const SCTP_UNANSWERED: [u8; 3] = [0, 2, 3];

/// Both addresses of a direction.
struct Tuple {
    protocol: u8,
    source: SocketAddr,
    destination: SocketAddr,
}

/// The connection of a message's attributes; nothing for a protocol that no service has, or bytes that are no entry.
pub(super) fn flow(body: &[u8]) -> Option<Flow> {
    let (mut original, mut reply, mut state, mut status, mut bytes) = (None, None, None, 0, None);
    for (kind, value) in attributes(body) {
        match kind {
            CTA_TUPLE_ORIG => original = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_STATUS => status = value.try_into().map(u32::from_be_bytes).unwrap_or_default(),
            CTA_PROTOINFO => state = protocol_state(value),
            CTA_COUNTERS_ORIG | CTA_COUNTERS_REPLY => {
                bytes = Some(bytes.unwrap_or(0) + number64(value, CTA_COUNTERS_BYTES).unwrap_or(0));
            }
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    let protocol = [L4::Tcp, L4::Udp, L4::Sctp].into_iter().find(|l4| l4.number() == original.protocol)?;
    Some(Flow {
        protocol,
        client: original.source,
        asked: original.destination,
        replica: reply.source,
        stage: stage(protocol, state, status & SEEN_REPLY != 0),
        bytes,
    })
}

fn stage(protocol: L4, state: Option<u8>, is_answered: bool) -> FlowStage {
    let (open, unanswered) = match protocol {
        L4::Tcp => (TCP_OPEN, TCP_UNANSWERED),
        L4::Sctp => (SCTP_OPEN, SCTP_UNANSWERED),
        L4::Udp if is_answered => return FlowStage::Open,
        L4::Udp => return FlowStage::Unanswered,
    };
    match state {
        Some(state) if open.contains(&state) => FlowStage::Open,
        Some(state) if !unanswered.contains(&state) => FlowStage::Closed,
        _ => FlowStage::Unanswered,
    }
}

fn protocol_state(info: &[u8]) -> Option<u8> {
    let of_protocol = attribute(info, CTA_PROTOINFO_TCP).or_else(|| attribute(info, CTA_PROTOINFO_SCTP))?;
    attribute(of_protocol, CTA_PROTOINFO_STATE)?.first().copied()
}

fn tuple(bytes: &[u8]) -> Option<Tuple> {
    let (mut source, mut destination) = (None, None);
    for (kind, value) in attributes(attribute(bytes, CTA_TUPLE_IP)?) {
        match kind {
            CTA_IP_V4_SRC | CTA_IP_V6_SRC => source = address(value),
            CTA_IP_V4_DST | CTA_IP_V6_DST => destination = address(value),
            _ => {}
        }
    }
    let ports = attribute(bytes, CTA_TUPLE_PROTO)?;
    let port = |kind| attribute(ports, kind).and_then(|value| value.try_into().ok()).map_or(0, u16::from_be_bytes);
    Some(Tuple {
        protocol: *attribute(ports, CTA_PROTO_NUM)?.first()?,
        source: SocketAddr::new(source?, port(CTA_PROTO_SRC_PORT)),
        destination: SocketAddr::new(destination?, port(CTA_PROTO_DST_PORT)),
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|octets| Ipv4Addr::from(octets).into());
    v4.or_else(|_| <[u8; 16]>::try_from(bytes).map(|octets| Ipv6Addr::from(octets).into())).ok()
}
