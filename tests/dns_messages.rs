//! Questions and answers as bytes, read back by another reader than wrote them.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot go on has failed")]

mod dns_reader;
mod names_world;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use dns_reader::{Read, question, read};
use names_world::{BLUE, cluster, node, zone};
use weft::{
    dns::{Outcome, Reaction, Way, failure, is_reply, respond},
    model::{Endpoint, EndpointId, Judgement},
    names::Zone,
};

const A: u16 = 1;
const SOA: u16 = 6;
const PTR: u16 = 12;
const TXT: u16 = 16;
const AAAA: u16 = 28;
const SRV: u16 = 33;

const NOERROR: u16 = 0;
const FORMERR: u16 = 1;
const SERVFAIL: u16 = 2;
const NXDOMAIN: u16 = 3;
const NOTIMP: u16 = 4;
const REFUSED: u16 = 5;
const BADVERS: u16 = 16;

/// Authoritative, and a reply.
const AA: u16 = 0x400;
const QR: u16 = 0x8000;

#[test]
fn answers_say_what_was_found() {
    let zone = zone();
    for (name, kind, code, sections) in [
        ("web", A, NOERROR, [&["web. 5 A 10.42.240.1"][..], &[], &[]]),
        ("WeB", AAAA, NOERROR, [&["WeB. 5 AAAA fd42::f:1"], &[], &[]]),
        ("WEB.Blue", TXT, NOERROR, [&[], &["Blue. 5 SOA Blue. Blue."], &[]]),
        ("nobody.blue", A, NXDOMAIN, [&[], &["blue. 5 SOA blue. blue."], &[]]),
        ("blue", SOA, NOERROR, [&["blue. 5 SOA blue. blue."], &[], &[]]),
        ("1.0.42.10.in-addr.arpa", PTR, NOERROR, [&["1.0.42.10.in-addr.arpa. 5 PTR web-1.blue."], &[], &[]]),
        (
            "9.9.42.10.in-addr.arpa",
            PTR,
            NXDOMAIN,
            [&[], &["42.10.in-addr.arpa. 5 SOA 42.10.in-addr.arpa. 42.10.in-addr.arpa."], &[]],
        ),
        (
            "_80._TCP.web",
            SRV,
            NOERROR,
            [
                &["_80._TCP.web. 5 SRV 0 1 8080 web-1.blue.", "_80._TCP.web. 5 SRV 0 3 8080 web-2.blue."],
                &[],
                &[
                    "web-1.blue. 5 A 10.42.0.1",
                    "web-1.blue. 5 AAAA fd42::1",
                    "web-2.blue. 5 A 10.42.1.1",
                    "web-2.blue. 5 AAAA fd42::1:1",
                ],
            ],
        ),
    ] {
        for payload in [None, Some(1232), Some(0), Some(65535)] {
            let asked = question(77, name, kind, payload);
            let (_, answer) = answered(&zone, BLUE, &asked, Way::Udp);
            assert_eq!((answer.id, answer.code()), (77, code), "{name} {kind}");
            assert_eq!(answer.questions, [format!("{name}. {kind} 1")], "as it was asked, case and all");
            assert_eq!(answer.flags & (QR | AA), QR | AA);
            assert_eq!(answer.sections, sections.map(<[&str]>::to_vec), "{name} {kind}");
            assert_eq!(answer.opt.map(|(size, _)| size), payload.map(|_| 1232));
        }
    }
}

#[test]
fn what_is_not_a_plain_question_is_refused_or_dropped() {
    let zone = zone();
    let good = question(7, "web", A, Some(1232));
    let changed = |change: fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        change(&mut packet);
        packet
    };
    let two_opts = |packet: &mut Vec<u8>| {
        let opt = packet[packet.len() - 11..].to_vec();
        packet.extend(opt);
        packet[11] = 2;
    };
    for (what, packet, code) in [
        ("nothing", vec![], None),
        ("half a header", good[..11].to_vec(), None),
        ("a reply", changed(|packet| packet[2] |= 0x80), None),
        ("a header that promises", good[..12].to_vec(), Some(FORMERR)),
        ("half a question", good[..15].to_vec(), Some(FORMERR)),
        ("half an option", good[..good.len() - 1].to_vec(), Some(FORMERR)),
        ("no question", changed(|packet| packet[5] = 0), Some(FORMERR)),
        ("two questions", changed(|packet| packet[5] = 2), Some(FORMERR)),
        ("two OPT records", changed(two_opts), Some(FORMERR)),
        ("a pointer to itself", changed(|packet| (packet[12], packet[13]) = (0xc0, 12)), Some(FORMERR)),
        ("NOTIFY", changed(|packet| packet[2] = 0x20), Some(NOTIMP)),
        ("UPDATE", changed(|packet| packet[2] = 0x28), Some(NOTIMP)),
        ("class CH", changed(|packet| packet[20] = 3), Some(REFUSED)),
        ("AXFR", changed(|packet| packet[18] = 252), Some(REFUSED)),
        (
            "EDNS 1",
            changed(|packet| {
                let at = packet.len() - 5;
                packet[at] = 1;
            }),
            Some(BADVERS),
        ),
    ] {
        for way in [Way::Udp, Way::Tcp] {
            let mut reply = Vec::new();
            match (respond(&packet, BLUE.parse().unwrap(), &zone, way, 0, &mut reply), code) {
                (Reaction::Drop, None) => {}
                (Reaction::Reply(_), Some(code)) => {
                    let answer = read(&reply).unwrap();
                    assert_eq!((answer.id, answer.code()), (7, code), "{what}");
                    assert_eq!(answer.sections.concat(), Vec::<String>::new(), "{what}");
                }
                other => panic!("{what}: {other:?}"),
            }
        }
    }
}

#[test]
fn strangers_learn_nothing() {
    let zone = zone();
    for name in ["web", "nobody.blue", "www.example.com", "1.0.42.10.in-addr.arpa"] {
        let (outcome, answer) = answered(&zone, "203.0.113.9", &question(1, name, A, None), Way::Udp);
        assert_eq!((outcome, answer.code()), (Outcome::Refused, REFUSED), "{name}");
        assert_eq!(answer.sections.concat(), Vec::<String>::new());
    }
}

#[test]
fn other_names_are_for_others() {
    let zone = zone();
    for (payload, room) in [(None, 512), (Some(100), 512), (Some(4096), 4096)] {
        let mut reply = Vec::new();
        let asked = question(1, "www.example.com", A, payload);
        let reaction = respond(&asked, BLUE.parse().unwrap(), &zone, Way::Udp, 0, &mut reply);
        assert_eq!(reaction, Reaction::Forward(room));
        failure(&asked, &mut reply);
        let answer = read(&reply).unwrap();
        assert_eq!((answer.id, answer.code(), answer.flags & AA), (1, SERVFAIL, 0));
    }
}

/// 200 replicas do not fit a datagram of any size that we send; over TCP they all come, and thousands as many as fit.
#[test]
fn what_does_not_fit_a_datagram_comes_over_tcp() {
    for (replicas, over_tcp) in [(20_u16, 22), (29, 31), (30, 32), (74, 76), (75, 77), (200, 202), (6000, 4092)] {
        let zone = crowded(replicas);
        for (payload, limit) in [(None, 512), (Some(600), 600), (Some(4096), 1232)] {
            let asked = question(9, "cache", A, payload);
            let (bytes, _, answer) = reply_to(&zone, BLUE, &asked, Way::Udp);
            assert!(bytes <= limit, "{bytes} bytes for {payload:?}");
            let room = (limit - 12 - 11 - if payload.is_some() { 11 } else { 0 }) / 16;
            let fits = usize::from(replicas) + 2 <= room;
            assert_eq!(answer.is_truncated(), !fits, "{replicas} for {payload:?}");
            // What fits is there all the same, each record once and whole: some resolvers never ask again.
            assert_eq!(answer.sections[0].len(), room.min(usize::from(replicas) + 2));
            assert_eq!(answer.sections[0].iter().collect::<BTreeSet<_>>().len(), answer.sections[0].len());
            assert_eq!(answer.opt.is_some(), payload.is_some());
        }
        let (_, _, answer) = reply_to(&zone, BLUE, &question(9, "cache", A, Some(512)), Way::Tcp);
        assert!(!answer.is_truncated());
        assert_eq!(answer.sections[0].len().min(4092), over_tcp, "{replicas} over TCP");
    }
}

#[test]
fn a_reply_is_to_its_question() {
    let asked = question(9, "www.example.com", A, None);
    let reply = |change: fn(&mut Vec<u8>)| {
        let mut reply = asked.clone();
        reply[2] |= 0x80;
        change(&mut reply);
        reply
    };
    for (what, reply, is_good) in [
        ("the same", reply(|_| {}), true),
        ("in capitals", reply(|reply| reply[13..16].make_ascii_uppercase()), true),
        ("a question", reply(|reply| reply[2] &= 0x7f), false),
        ("another id", reply(|reply| reply[0] ^= 1), false),
        ("another name", reply(|reply| reply[13] = b'x'), false),
        ("another type", reply(|reply| reply[30] = 28), false),
        ("no question", reply(|reply| reply[5] = 0), false),
        ("nothing", vec![], false),
    ] {
        assert_eq!(is_reply(&asked, &reply), is_good, "{what}");
    }
    assert!(!is_reply(&[], &[]), "two that cannot be read are no pair");
}

fn answered(zone: &Zone, asker: &str, packet: &[u8], way: Way) -> (Outcome, Read) {
    let (_, outcome, answer) = reply_to(zone, asker, packet, way);
    (outcome, answer)
}

fn reply_to(zone: &Zone, asker: &str, packet: &[u8], way: Way) -> (usize, Outcome, Read) {
    // What was in the buffer before must not matter.
    let mut reply = vec![0xaa; 100];
    match respond(packet, asker.parse().unwrap(), zone, way, 0, &mut reply) {
        Reaction::Reply(outcome) => (reply.len(), outcome, read(&reply).unwrap()),
        other => panic!("{other:?}"),
    }
}

/// The service `cache` with so many more replicas.
fn crowded(replicas: u16) -> Zone {
    let mut cluster = cluster();
    let one = cluster.endpoints[&EndpointId(105)].clone();
    for number in 0..replicas {
        let [high, low] = number.to_be_bytes();
        let (id, address) = (EndpointId(1000 + u64::from(number)), IpAddr::from([10, 42, 100 + high, low]));
        let name = format!("more-{number}").parse().unwrap();
        cluster.endpoints.insert(id, Endpoint { id, name, addresses: vec![address], ..one.clone() });
    }
    Zone::build(Arc::new(cluster), node(1), &Judgement::default())
}
