//! An entry of connection tracking from its bytes: `linux/netfilter/nfnetlink_conntrack.h`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use netlink_packet_core::NLA_F_NESTED;
use nix::libc::{AF_INET, AF_INET6};

use super::FlowHandle;
use crate::{
    kernel::nft::wire::{attribute, attributes, number64},
    model::{Flow, FlowStage, L4},
};

const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_STATUS: u16 = 3;
const CTA_PROTOINFO: u16 = 4;
const CTA_TIMEOUT: u16 = 7;
const CTA_COUNTERS_ORIG: u16 = 9;
const CTA_COUNTERS_REPLY: u16 = 10;
const CTA_ID: u16 = 12;
const CTA_ZONE: u16 = 18;

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
    let (mut original, mut reply, mut state, mut status, mut bytes, mut left_s) = (None, None, None, 0, None, None);
    for (kind, value) in attributes(body) {
        match kind {
            CTA_TUPLE_ORIG => original = tuple(value),
            CTA_TUPLE_REPLY => reply = tuple(value),
            CTA_STATUS => status = value.try_into().map(u32::from_be_bytes).unwrap_or_default(),
            CTA_TIMEOUT => left_s = value.try_into().map(u32::from_be_bytes).ok(),
            CTA_PROTOINFO => state = protocol_state(value),
            CTA_COUNTERS_ORIG | CTA_COUNTERS_REPLY => {
                bytes = Some(bytes.unwrap_or(0) + number64(value, CTA_COUNTERS_BYTES).unwrap_or(0));
            }
            _ => {}
        }
    }
    let (original, reply) = (original?, reply?);
    let is_answered = status & SEEN_REPLY != 0;
    let protocol = [L4::Tcp, L4::Udp, L4::Sctp].into_iter().find(|l4| l4.number() == original.protocol)?;
    Some(Flow {
        protocol,
        client: original.source,
        asked: original.destination,
        replica: reply.source,
        is_answered,
        stage: stage(protocol, state, is_answered),
        bytes,
        left_s,
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

/// What the kernel needs to find an entry again.
pub(super) fn handle(body: &[u8]) -> Option<FlowHandle> {
    let id = attribute(body, CTA_ID)?.try_into().map(u32::from_be_bytes).ok()?;
    let mut bytes = Vec::new();
    for (kind, value) in attributes(body).filter(|(kind, _)| [CTA_TUPLE_ORIG, CTA_ID, CTA_ZONE].contains(kind)) {
        // The kernel takes an attribute back as it gave it, nested or not (`nla_parse_nested_deprecated`).
        let length = u16::try_from(4 + value.len()).ok()?;
        bytes.extend_from_slice(&length.to_ne_bytes());
        bytes.extend_from_slice(&if kind == CTA_TUPLE_ORIG { kind | NLA_F_NESTED } else { kind }.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }
    let family = u8::try_from(if flow_is_v6(body)? { AF_INET6 } else { AF_INET }).ok()?;
    Some(FlowHandle { id, family, attributes: bytes.into() })
}

fn flow_is_v6(body: &[u8]) -> Option<bool> {
    let addresses = attribute(attribute(body, CTA_TUPLE_ORIG)?, CTA_TUPLE_IP)?;
    Some(attribute(addresses, CTA_IP_V6_SRC).is_some())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
        bytes.extend_from_slice(&u16::try_from(4 + value.len()).unwrap().to_ne_bytes());
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(value);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
    }

    fn attribute_of(parts: &[(u16, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (kind, value) in parts {
            put(&mut bytes, *kind, value);
        }
        bytes
    }

    fn entry(protocol: u8, state: Option<(u16, u8)>, status: u32) -> Vec<u8> {
        let tuple = |source: [u8; 4], destination: [u8; 4], ports: [u16; 2]| {
            let ip = attribute_of(&[(CTA_IP_V4_SRC, &source), (CTA_IP_V4_DST, &destination)]);
            let proto = attribute_of(&[
                (CTA_PROTO_NUM, &[protocol]),
                (CTA_PROTO_SRC_PORT, &ports[0].to_be_bytes()),
                (CTA_PROTO_DST_PORT, &ports[1].to_be_bytes()),
            ]);
            attribute_of(&[(CTA_TUPLE_IP | NLA_F_NESTED, &ip), (CTA_TUPLE_PROTO | NLA_F_NESTED, &proto)])
        };
        let original = tuple([192, 0, 2, 1], [192, 0, 2, 9], [4711, 80]);
        let reply = tuple([10, 9, 0, 2], [192, 0, 2, 1], [8080, 4711]);
        let counted = attribute_of(&[(1, &1_u64.to_be_bytes()), (CTA_COUNTERS_BYTES, &100_u64.to_be_bytes())]);
        let mut parts: Vec<(u16, Vec<u8>)> = vec![
            (CTA_TUPLE_ORIG, original),
            (CTA_TUPLE_REPLY, reply),
            (CTA_STATUS, status.to_be_bytes().to_vec()),
            (CTA_COUNTERS_ORIG, counted.clone()),
            (CTA_COUNTERS_REPLY, counted),
            (CTA_ID, 7_u32.to_be_bytes().to_vec()),
            (CTA_TIMEOUT, 111_u32.to_be_bytes().to_vec()),
        ];
        if let Some((kind, state)) = state {
            parts.push((CTA_PROTOINFO, attribute_of(&[(kind, &attribute_of(&[(CTA_PROTOINFO_STATE, &[state])]))])));
        }
        let parts: Vec<(u16, &[u8])> = parts.iter().map(|(kind, value)| (*kind, value.as_slice())).collect();
        attribute_of(&parts)
    }

    #[test]
    fn a_flow_is_read_with_its_stage() {
        use FlowStage::{Closed, Open, Unanswered};
        let (tcp, sctp) = (CTA_PROTOINFO_TCP, CTA_PROTOINFO_SCTP);
        for (protocol, state, status, stage) in [
            (6, Some((tcp, 1)), 0, Unanswered),
            (6, Some((tcp, 2)), SEEN_REPLY, Open),
            (6, Some((tcp, 3)), SEEN_REPLY, Open),
            (6, Some((tcp, 6)), SEEN_REPLY, Open),
            (6, Some((tcp, 7)), SEEN_REPLY, Closed),
            (6, Some((tcp, 8)), SEEN_REPLY, Closed),
            (6, None, 0, Unanswered),
            (17, None, 0, Unanswered),
            (17, None, SEEN_REPLY, Open),
            (132, Some((sctp, 3)), 0, Unanswered),
            (132, Some((sctp, 4)), SEEN_REPLY, Open),
            (132, Some((sctp, 7)), SEEN_REPLY, Closed),
            (132, Some((sctp, 1)), SEEN_REPLY, Closed),
        ] {
            let flow = flow(&entry(protocol, state, status)).unwrap();
            assert_eq!(flow.stage, stage, "{protocol} {state:?} {status}");
            assert_eq!((flow.client, flow.asked), ("192.0.2.1:4711".parse().unwrap(), "192.0.2.9:80".parse().unwrap()));
            assert_eq!(
                (flow.replica, flow.bytes, flow.left_s),
                ("10.9.0.2:8080".parse().unwrap(), Some(200), Some(111))
            );
        }
        assert_eq!(flow(&entry(1, None, SEEN_REPLY)), None, "ICMP is no service's");
    }

    #[test]
    fn bytes_cut_short_or_turned_never_panic() {
        let whole = entry(6, Some((CTA_PROTOINFO_TCP, 3)), SEEN_REPLY);
        assert_eq!(handle(&whole).map(|handle| handle.id), Some(7));
        for end in 0..whole.len() {
            let _ = (flow(&whole[..end]), handle(&whole[..end]));
        }
        for place in 0..whole.len() {
            for turned in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.clone();
                bytes[place] ^= turned;
                let _ = (flow(&bytes), handle(&bytes));
            }
        }
    }
}
