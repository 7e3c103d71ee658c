//! What each name means to each asker, case by case.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod names_world;

use std::{collections::BTreeSet, net::IpAddr, sync::Arc, time::Instant};

use names_world::{BLUE, cluster, node, zone};
use weft::{
    model::{EndpointId, Judgement, Name, ServiceId},
    names::{Answer, Data, Kind, Question, Zone, turn},
};

const RED: &str = "10.43.0.9";
const BOTH: &str = "10.42.0.10";
const VAULT: &str = "10.44.0.9";

/// Who asks, for what, and what he is told.
const CASES: &[(&str, &str, Kind, &str)] = &[
    // A service by its name, with both families, and whatever is not there.
    (BLUE, "web", Kind::A, "10.42.240.1"),
    ("fd42::9", "web", Kind::A, "10.42.240.1"),
    (BLUE, "web", Kind::Aaaa, "fd42::f:1"),
    (BLUE, "web", Kind::Any, "10.42.240.1 fd42::f:1"),
    (BLUE, "web", Kind::Other, "nodata 1"),
    (BLUE, "web", Kind::Ptr, "nodata 1"),
    (BLUE, "web.blue", Kind::A, "10.42.240.1"),
    (BLUE, "idle", Kind::A, "10.42.240.4"),
    (BLUE, "cache", Kind::A, "10.42.0.5 10.42.1.5"),
    (BLUE, "cache", Kind::Aaaa, "nodata 1"),
    (BLUE, "none", Kind::A, "nodata 1"),
    // Replicas: not those that start, fail or drain.
    (BLUE, "tasks.web", Kind::A, "10.42.0.1 10.42.1.1"),
    (BLUE, "tasks.web", Kind::Aaaa, "fd42::1 fd42::1:1"),
    (BLUE, "tasks.web.blue", Kind::A, "10.42.0.1 10.42.1.1"),
    (BLUE, "tasks.cache", Kind::A, "10.42.0.5 10.42.1.5"),
    (BLUE, "tasks.idle", Kind::A, "nodata 1"),
    (BLUE, "tasks", Kind::A, "outside"),
    (BLUE, "tasks.blue", Kind::A, "nodata 1"),
    (BLUE, "tasks.asker", Kind::A, "outside"),
    (BLUE, "tasks.asker.blue", Kind::A, "nxdomain 1"),
    // Endpoints by name, unless they start; aliases for all that are ready.
    (BLUE, "web-1", Kind::A, "10.42.0.1"),
    (BLUE, "web-4", Kind::A, "10.42.1.3"),
    (BLUE, "web-5", Kind::Aaaa, "fd42::6"),
    (BLUE, "web-3", Kind::A, "outside"),
    (BLUE, "web-3.blue", Kind::A, "nxdomain 1"),
    (BLUE, "far", Kind::A, "10.42.1.9"),
    (BLUE, "front", Kind::A, "10.42.0.1 10.42.1.1"),
    (BLUE, "kv", Kind::A, "10.42.0.5 10.42.1.5"),
    (BLUE, "soon", Kind::A, "nodata 1"),
    (BLUE, "mine.blue", Kind::A, "10.42.0.9"),
    // Networks apart.
    (BLUE, "shop", Kind::A, "outside"),
    (BLUE, "shop.red", Kind::A, "outside"),
    (BLUE, "red", Kind::A, "outside"),
    (RED, "shop", Kind::A, "10.43.15.1"),
    (RED, "web", Kind::A, "outside"),
    (RED, "web.red", Kind::A, "nxdomain 1"),
    (RED, "kv", Kind::A, "10.43.0.9"),
    (BOTH, "web", Kind::A, "10.42.240.1"),
    (BOTH, "shop", Kind::A, "10.43.15.1"),
    (BOTH, "kv", Kind::A, "10.42.0.5 10.42.1.5"),
    (BOTH, "kv.red", Kind::A, "10.43.0.9"),
    ("10.43.0.10", "web", Kind::A, "10.42.240.1"),
    // The network itself.
    (BLUE, "blue", Kind::A, "nodata 1"),
    (BLUE, "blue", Kind::Soa, "soa"),
    (BLUE, "other.blue", Kind::A, "nxdomain 1"),
    (BLUE, "www.web.blue", Kind::A, "nxdomain 1"),
    // The rest of the world, for those who have a way there.
    (BLUE, "www.example.com", Kind::A, "outside"),
    (BLUE, "com", Kind::Other, "outside"),
    (BLUE, "", Kind::Other, "outside"),
    (BLUE, "other", Kind::A, "outside"),
    (VAULT, "www.example.com", Kind::A, "refused"),
    (VAULT, "other", Kind::A, "refused"),
    (VAULT, "8.8.8.8.in-addr.arpa", Kind::Ptr, "refused"),
    (VAULT, "safe", Kind::A, "10.44.0.9"),
    // Strangers, among them a container of another node, and one that starts, which is none.
    ("10.42.1.9", "web", Kind::A, "refused"),
    ("192.0.2.1", "web", Kind::A, "refused"),
    ("169.254.1.1", "www.example.com", Kind::A, "refused"),
    ("10.42.0.13", "web", Kind::A, "10.42.240.1"),
    // Addresses.
    (BLUE, "1.0.42.10.in-addr.arpa", Kind::Ptr, "web-1.blue"),
    (BLUE, "1.0.42.10.in-addr.arpa", Kind::A, "nodata 4"),
    (BLUE, "1.240.42.10.in-addr.arpa", Kind::Ptr, "web.blue"),
    (BLUE, "2.1.42.10.in-addr.arpa", Kind::Ptr, "nxdomain 4"),
    (BLUE, "77.0.42.10.in-addr.arpa", Kind::Ptr, "nxdomain 4"),
    (BLUE, "0.42.10.in-addr.arpa", Kind::Ptr, "nodata 4"),
    (BLUE, "10.in-addr.arpa", Kind::Ptr, "outside"),
    (BLUE, "9.0.43.10.in-addr.arpa", Kind::Ptr, "nxdomain 4"),
    (RED, "9.0.43.10.in-addr.arpa", Kind::Ptr, "asker-red.red"),
    (BLUE, "1.2.0.192.in-addr.arpa", Kind::Ptr, "outside"),
    (BLUE, "x.0.42.10.in-addr.arpa", Kind::Ptr, "outside"),
    (BLUE, "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa", Kind::Ptr, "web-1.blue"),
    (BLUE, "2.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.2.4.d.f.ip6.arpa", Kind::Ptr, "nxdomain 18"),
    // Ports: the one in the container, or the one published.
    (BLUE, "_8080._tcp.web", Kind::Srv, "1:8080:web-1.blue 3:8080:web-2.blue + 10.42.0.1 fd42::1 10.42.1.1 fd42::1:1"),
    (BLUE, "_80._tcp.web", Kind::Srv, "1:8080:web-1.blue 3:8080:web-2.blue + 10.42.0.1 fd42::1 10.42.1.1 fd42::1:1"),
    (
        BLUE,
        "_9090._tcp.web.blue",
        Kind::Srv,
        "1:9090:web-1.blue 3:9090:web-2.blue + 10.42.0.1 fd42::1 10.42.1.1 fd42::1:1",
    ),
    (BLUE, "_53._udp.web", Kind::Srv, "1:5353:web-1.blue 3:5353:web-2.blue + 10.42.0.1 fd42::1 10.42.1.1 fd42::1:1"),
    (BLUE, "_8080._tcp.web", Kind::A, "nodata 1"),
    (BLUE, "_tcp.web", Kind::A, "nodata 1"),
    (BLUE, "_sctp.web", Kind::A, "outside"),
    (BLUE, "_http._tcp.web", Kind::Srv, "nxdomain 1"),
    (BLUE, "_81._tcp.web.blue", Kind::Srv, "nxdomain 1"),
    (BLUE, "_8080._udp.web.blue", Kind::Srv, "nxdomain 1"),
    (RED, "_8080._tcp.web", Kind::Srv, "outside"),
];

#[test]
fn every_name_means_what_it_should() {
    let zone = zone();
    for (asker, name, kind, meant) in CASES {
        assert_eq!(shown(&ask(&zone, asker, name, *kind, 0)), *meant, "{asker} asks for {kind:?} of {name:?}");
    }
}

#[test]
fn labels_that_are_no_text_are_nobodys() {
    let labels: [&[u8]; 2] = [b"\xff\xfe", b"blue"];
    let answer = zone().answer(BLUE.parse().unwrap(), Question { labels: &labels, kind: Kind::A }, 0);
    assert_eq!(shown(&answer), "nxdomain 1");
    // A dot within a label parts nothing.
    let labels: [&[u8]; 1] = [b"tasks.web"];
    let answer = zone().answer(BLUE.parse().unwrap(), Question { labels: &labels, kind: Kind::A }, 0);
    assert_eq!(shown(&answer), "outside");
}

#[test]
fn everybody_comes_first_at_times() {
    let zone = zone();
    let first = |turn| shown(&ask(&zone, BLUE, "tasks.web", Kind::A, turn));
    // Whoever asks for A and AAAA by turns uses every other one.
    for step in [1, 2] {
        let firsts: BTreeSet<String> = (0..8).map(|question| first(turn(step * question))).collect();
        assert_eq!(firsts.len(), 2, "every {step}");
    }
    let seen: BTreeSet<String> = (0..4).map(first).collect();
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["10.42.0.1 10.42.1.1", "10.42.1.1 10.42.0.1"]);
}

#[test]
fn this_nodes_judgement_counts() {
    let mut cluster = cluster();
    let web_2 = EndpointId(101);
    let all = |cluster: &weft::model::Cluster, judgement: &Judgement, name: &str| {
        let zone = Zone::build(Arc::new(cluster.clone()), node(1), judgement);
        shown(&ask(&zone, BLUE, name, Kind::A, 0))
    };
    let ejected = Judgement { ejected: [web_2].into(), ..Judgement::default() };
    let silent = Judgement { silent: [node(2)].into(), ..Judgement::default() };
    for name in ["tasks.web", "front"] {
        assert_eq!(all(&cluster, &ejected, name), "10.42.0.1");
        assert_eq!(all(&cluster, &silent, name), "10.42.0.1");
    }
    assert_eq!(all(&cluster, &silent, "web-2"), "10.42.1.1", "its own name is no promise that it answers");
    cluster.alive.clear();
    for name in ["tasks.web", "front"] {
        assert_eq!(all(&cluster, &Judgement::default(), name), "10.42.0.1 10.42.1.1", "the last resort");
    }
}

/// Built anew with every change, beside the old one: it must not take long. The bound is wide, for a slow machine and a build
/// without optimisation; with it, it is some 0.1 s.
#[test]
fn ten_thousand_services_are_indexed_in_proportion() {
    let mut cluster = cluster();
    let (service, endpoint) =
        (cluster.services[&ServiceId::new(1).unwrap()].clone(), cluster.endpoints[&EndpointId(100)].clone());
    for number in 0..10_000_u16 {
        let id = ServiceId::new(100 + number).unwrap();
        let name: Name = format!("s{number}").parse().unwrap();
        cluster.services.insert(id, weft::model::Service { id, name, vips: vec![], ..service.clone() });
        for replica in 0..10_u8 {
            let id = EndpointId(u64::from(number) * 16 + u64::from(replica) + 1000);
            let [high, low] = number.to_be_bytes();
            cluster.endpoints.insert(
                id,
                weft::model::Endpoint {
                    id,
                    name: format!("s{number}-{replica}").parse().unwrap(),
                    service: ServiceId::new(100 + number),
                    addresses: vec![IpAddr::from([10, high, low, replica])],
                    ..endpoint.clone()
                },
            );
        }
    }
    let cluster = Arc::new(cluster);
    let begun = Instant::now();
    let zone = Zone::build(Arc::clone(&cluster), node(1), &Judgement::default());
    let took = begun.elapsed();
    eprintln!("built in {} ms", took.as_millis());
    assert!(took.as_secs() < 10, "{took:?}");
    let Answer::Records { records, .. } = ask(&zone, BLUE, "tasks.s9999", Kind::A, 3) else { panic!("no records") };
    assert_eq!(records.len(), 10);
}

fn ask(zone: &Zone, asker: &str, name: &str, kind: Kind, turn: u64) -> Answer {
    let labels: Vec<&[u8]> = name.split('.').filter(|label| !label.is_empty()).map(str::as_bytes).collect();
    zone.answer(asker.parse().unwrap(), Question { labels: &labels, kind }, turn)
}

fn shown(answer: &Answer) -> String {
    match answer {
        Answer::Refused => "refused".to_owned(),
        Answer::Outside => "outside".to_owned(),
        Answer::NoSuchName { apex } => format!("nxdomain {apex}"),
        Answer::Records { records, apex, .. } if records.is_empty() => format!("nodata {apex}"),
        Answer::Records { records, additional, .. } => {
            let mut words: Vec<String> = records
                .iter()
                .map(|record| match record {
                    Data::Address(address) => address.to_string(),
                    Data::Name(name) => name.clone(),
                    Data::Service { weight, port, target } => format!("{weight}:{port}:{target}"),
                    Data::Soa => "soa".to_owned(),
                })
                .collect();
            if !additional.is_empty() {
                words.push("+".to_owned());
            }
            words.extend(additional.iter().map(|(_, address)| address.to_string()));
            words.join(" ")
        }
    }
}
