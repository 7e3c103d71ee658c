//! What stays in force while a record cannot be read, and what does not.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use proptest::{collection::vec, prelude::*, sample::select};
use weft::{
    model::Cluster,
    store::{Changes, Entry, Event, Revision, Snapshot, record},
};

const CORRUPT: Option<&str> = Some("{");
const NEWER: Option<&str> = Some(r#"{"v":2,"id":0}"#);
const GONE: Option<&str> = None;
/// The whole record again.
const WHOLE: Option<&str> = Some("");

/// An endpoint with one address.
const SINGLE: &str = "endpoints/3/10.9.1.6";
const TWIN_V4: &str = "endpoints/3/10.9.1.5";
const TWIN_V6: &str = "endpoints/3/fd00:9::5";

/// Another service with the VIP of the whole one, and others with one thing of it each.
const RIVAL_VIP: &str = r#"{"v":1,"id":18,"name":"api","network":3,"vips":["10.9.240.1"]}"#;
const RIVAL_NAME: &str = r#"{"v":1,"id":18,"name":"web","network":3,"vips":[]}"#;
const RIVAL_PORT: &str =
    r#"{"v":1,"id":18,"name":"api","network":3,"vips":[],"ports":[{"published":80,"target":1,"protocol":"tcp"}]}"#;
/// Networks that take the place of the whole one.
const RIVAL_PREFIX: &str =
    r#"{"v":1,"id":4,"name":"red","subnets":[{"prefix":"10.9.128.0/17","block_len":26}],"internal":false}"#;
const RIVAL_NETWORK_NAME: &str =
    r#"{"v":1,"id":4,"name":"blue","subnets":[{"prefix":"10.10.0.0/16","block_len":26}],"internal":false}"#;
/// The whole one with another prefix: what lies in the old one has no place in it.
const MOVED_NETWORK: &str =
    r#"{"v":1,"id":3,"name":"blue","subnets":[{"prefix":"10.10.0.0/16","block_len":26}],"internal":false}"#;
const NAMESAKE: &str = r#"{"v":1,"id":8,"name":"alpha","underlay":"2001:db8::8"}"#;
/// The single one, under whose key somebody else is now.
const SUCCESSOR: &str = r#"{"v":1,"id":"00c0ffee00000003","network":3,"addresses":["10.9.1.6"],"name":"db-2","node":7,"state":"ready","netns":{"path":"/run/netns/db2","inode":2},"ifname":"eth0"}"#;

/// Nodes, living nodes, networks, blocks, endpoints, services.
type Counts = [usize; 6];

const ALL: Counts = [1, 1, 1, 1, 2, 1];

/// One commit, what is in force after it, and the unreadable keys whose reason says that it stays in force.
type Stage = (&'static [(&'static str, Option<&'static str>)], Counts, &'static [&'static str]);

/// What happens, one commit after another.
type Case = (&'static str, &'static [Stage]);

const IN_NETWORK: &[&str] = &["blocks/3/10.9.1.0_26", TWIN_V4, SINGLE, TWIN_V6, "networks/3", "services/17"];

const CASES: &[Case] = &[
    (
        "a node",
        &[
            (&[("nodes/7", CORRUPT)], ALL, &["nodes/7"]),
            (&[("nodes/7", NEWER)], ALL, &["nodes/7"]),
            (&[("nodes/7", WHOLE)], ALL, &[]),
            (&[("nodes/7", CORRUPT)], ALL, &["nodes/7"]),
            (&[("alive/7", GONE)], [1, 0, 1, 1, 2, 1], &["nodes/7"]),
            (&[("alive/7", WHOLE)], ALL, &["nodes/7"]),
            (&[("nodes/7", GONE)], [0, 0, 1, 1, 2, 1], &[]),
            // It never was there, as far as this agent has seen.
            (&[("nodes/7", CORRUPT)], [0, 1, 1, 1, 2, 1], &[]),
        ],
    ),
    ("a node whose name another takes", &[(&[("nodes/7", CORRUPT), ("nodes/8", Some(NAMESAKE))], ALL, &[])]),
    (
        "a network, with all that rests on it",
        &[
            (&[("networks/3", CORRUPT)], ALL, IN_NETWORK),
            // What rests on it can be removed meanwhile.
            (
                &[(SINGLE, GONE)],
                [1, 1, 1, 1, 1, 1],
                &["blocks/3/10.9.1.0_26", TWIN_V4, TWIN_V6, "networks/3", "services/17"],
            ),
            (&[("networks/3", WHOLE)], [1, 1, 1, 1, 1, 1], &[]),
            (
                &[("networks/3", NEWER)],
                [1, 1, 1, 1, 1, 1],
                &["blocks/3/10.9.1.0_26", TWIN_V4, TWIN_V6, "networks/3", "services/17"],
            ),
            (&[("networks/3", GONE)], [1, 1, 0, 0, 0, 0], &[]),
        ],
    ),
    (
        "a network whose prefix another takes",
        &[(&[("networks/3", CORRUPT), ("networks/4", Some(RIVAL_PREFIX))], [1, 1, 1, 0, 0, 0], &[])],
    ),
    (
        "a network whose name another takes",
        &[(&[("networks/3", CORRUPT), ("networks/4", Some(RIVAL_NETWORK_NAME))], [1, 1, 1, 0, 0, 0], &[])],
    ),
    ("a network that is another one now", &[(&[("networks/3", Some(MOVED_NETWORK))], [1, 1, 1, 0, 0, 0], &[])]),
    (
        "a block",
        &[
            (&[("blocks/3/10.9.1.0_26", CORRUPT)], ALL, &["blocks/3/10.9.1.0_26"]),
            (&[("blocks/3/10.9.1.0_26", WHOLE)], ALL, &[]),
            (&[("blocks/3/10.9.1.0_26", NEWER)], ALL, &["blocks/3/10.9.1.0_26"]),
            (&[("blocks/3/10.9.1.0_26", GONE)], [1, 1, 1, 0, 2, 1], &[]),
        ],
    ),
    (
        "an endpoint with one address",
        &[
            (&[(SINGLE, CORRUPT)], ALL, &[SINGLE]),
            (&[(SINGLE, WHOLE)], ALL, &[]),
            (&[(SINGLE, NEWER)], ALL, &[SINGLE]),
            (&[(SINGLE, GONE)], [1, 1, 1, 1, 1, 1], &[]),
        ],
    ),
    (
        "an endpoint whose address another takes",
        &[(&[(SINGLE, CORRUPT)], ALL, &[SINGLE]), (&[(SINGLE, Some(SUCCESSOR))], ALL, &[])],
    ),
    (
        "an endpoint with two addresses",
        &[
            (&[(TWIN_V4, CORRUPT)], ALL, &[TWIN_V4, TWIN_V6]),
            (&[(TWIN_V4, WHOLE), (TWIN_V6, CORRUPT)], ALL, &[TWIN_V4, TWIN_V6]),
            (&[(TWIN_V4, NEWER)], ALL, &[TWIN_V4, TWIN_V6]),
            (&[(TWIN_V4, WHOLE), (TWIN_V6, WHOLE)], ALL, &[]),
            (&[(TWIN_V4, CORRUPT), (TWIN_V6, CORRUPT)], ALL, &[TWIN_V4, TWIN_V6]),
            (&[(TWIN_V6, GONE)], [1, 1, 1, 1, 1, 1], &[]),
        ],
    ),
    (
        "an endpoint and its network, one after the other",
        &[
            (&[(SINGLE, CORRUPT)], ALL, &[SINGLE]),
            (&[("networks/3", CORRUPT)], ALL, IN_NETWORK),
            (&[("networks/3", WHOLE)], ALL, &[SINGLE]),
            (&[(SINGLE, WHOLE)], ALL, &[]),
        ],
    ),
    (
        "a service",
        &[
            (&[("services/17", CORRUPT)], ALL, &["services/17"]),
            (&[("services/17", WHOLE)], ALL, &[]),
            (&[("services/17", NEWER)], ALL, &["services/17"]),
            (&[("services/17", GONE)], [1, 1, 1, 1, 2, 0], &[]),
        ],
    ),
    (
        "a service whose VIP another takes",
        &[(&[("services/17", CORRUPT)], ALL, &["services/17"]), (&[("services/18", Some(RIVAL_VIP))], ALL, &[])],
    ),
    (
        "a service whose name another takes",
        &[(&[("services/17", CORRUPT)], ALL, &["services/17"]), (&[("services/18", Some(RIVAL_NAME))], ALL, &[])],
    ),
    (
        "a service whose port another takes",
        &[(&[("services/17", CORRUPT)], ALL, &["services/17"]), (&[("services/18", Some(RIVAL_PORT))], ALL, &[])],
    ),
    ("what is no object", &[(&[("generation", CORRUPT), ("alive/7", CORRUPT), ("nodes/07", CORRUPT)], ALL, &[])]),
];

#[test]
fn what_runs_stays_while_its_record_cannot_be_read() {
    for (name, stages) in CASES {
        let whole = whole();
        let mut state = record::State::from_snapshot(&snapshot(&whole));
        let mut published = state.cluster().unwrap();
        let before = published.clone();
        assert_eq!(counts(&published), ALL);
        for (number, (commit, expected, kept)) in stages.iter().enumerate() {
            let name = format!("{name}, commit {number}");
            let revision = Revision(state.revision().0 + 1);
            let event = |(key, value): &(&str, Option<&str>)| {
                let path = format!("{}{key}", record::PREFIX);
                match value {
                    None => Event::Delete { key: path },
                    Some("") => Event::Put(Entry { key: path, value: whole[*key].clone(), version: revision }),
                    Some(value) => Event::Put(Entry { key: path, value: value.as_bytes().to_vec(), version: revision }),
                }
            };
            state.apply(&Changes { revision, events: commit.iter().map(event).collect() });
            let mut next = state.cluster().unwrap();
            record::carry_over(&published, &mut next);
            assert_eq!(counts(&next), *expected, "{name}: {:?}", next.unreadable);
            let said: Vec<&str> = next
                .unreadable
                .iter()
                .filter(|record| record.reason.ends_with("; until then its last readable state stays in force"))
                .map(|record| record.key.strip_prefix(record::PREFIX).unwrap())
                .collect();
            assert_eq!(said, *kept, "{name}: {:?}", next.unreadable);
            if *expected == ALL && !kept.is_empty() && next.unreadable.len() == kept.len() {
                // Not only as many as before, but the same.
                assert!(next.drains.keys().eq(before.drains.keys()), "{name}");
                let drains = before.drains.clone();
                let same = Cluster { revision: before.revision, drains, unreadable: vec![], ..next.clone() };
                assert_eq!(same, before, "{name}");
            }
            published = next;
        }
    }
}

#[test]
fn another_cluster_takes_over_nothing() {
    let mut records = whole();
    let previous = record::assemble(&snapshot(&records)).unwrap();
    records.insert("services/17".to_owned(), b"{".to_vec());
    let mut next = record::assemble(&snapshot(&records)).unwrap();
    next.settings.id.0 += 1;
    let expected = next.clone();
    record::carry_over(&previous, &mut next);
    assert_eq!(next, expected);
}

proptest! {
    #[test]
    fn with_nothing_unreadable_nothing_changes(before in subset(), after in subset()) {
        let previous = record::assemble(&snapshot(&before)).unwrap();
        let mut next = record::assemble(&snapshot(&after)).unwrap();
        next.unreadable.clear();
        let expected = next.clone();
        record::carry_over(&previous, &mut next);
        prop_assert_eq!(next, expected);
    }

    /// Whatever is spoilt of what was there, all is there as it was.
    #[test]
    fn what_was_spoilt_is_as_it_was(spoilt in vec(select(keys()), 0..6)) {
        let mut records = whole();
        let previous = record::assemble(&snapshot(&records)).unwrap();
        for key in spoilt {
            records.insert(key, b"{".to_vec());
        }
        let mut next = record::assemble(&snapshot(&records)).unwrap();
        record::carry_over(&previous, &mut next);
        next.unreadable.clear();
        prop_assert_eq!(next, previous);
    }
}

/// The whole goldens by key, and an endpoint with one address.
fn whole() -> BTreeMap<String, Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/records");
    let mut records: BTreeMap<String, Vec<u8>> = [
        ("alive/7", "alive"),
        ("blocks/3/10.9.1.0_26", "block"),
        ("cluster", "cluster"),
        (TWIN_V4, "endpoint"),
        (TWIN_V6, "endpoint"),
        ("generation", "generation"),
        ("networks/3", "network"),
        ("nodes/7", "node"),
        ("services/17", "service"),
    ]
    .map(|(key, file)| (key.to_owned(), fs::read(folder.join(format!("{file}.json"))).unwrap()))
    .into();
    records.insert(SINGLE.to_owned(), SUCCESSOR.replace("00003\"", "00002\"").into_bytes());
    records
}

/// The keys of all records but the cluster's, without which there is no cluster.
fn keys() -> Vec<String> {
    whole().into_keys().filter(|key| key != "cluster").collect()
}

/// Some of the whole records.
fn subset() -> impl Strategy<Value = BTreeMap<String, Vec<u8>>> {
    vec(select(keys()), 0..8).prop_map(|left_out| {
        let mut records = whole();
        records.retain(|key, _| !left_out.contains(key));
        records
    })
}

fn snapshot(records: &BTreeMap<String, Vec<u8>>) -> Snapshot {
    let entry = |(key, value): (&String, &Vec<u8>)| Entry {
        key: format!("{}{key}", record::PREFIX),
        value: value.clone(),
        version: Revision(1),
    };
    Snapshot { revision: Revision(1), entries: records.iter().map(entry).collect() }
}

fn counts(cluster: &Cluster) -> Counts {
    let Cluster {
        nodes,
        alive,
        reports: _,
        drains: _,
        networks,
        blocks,
        endpoints,
        services,
        unreadable: _,
        revision: _,
        settings: _,
        trust: _,
    } = cluster;
    [nodes.len(), alive.len(), networks.len(), blocks.len(), endpoints.len(), services.len()]
}
