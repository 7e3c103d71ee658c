//! Records that cannot be used: each disables its own object and no other, and says what is wrong and what to do.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::{collections::BTreeMap, fs, path::PathBuf};

use weft::{
    model::{Cluster, UnreadableRecord},
    store::{Entry, Event, Revision, Snapshot, record},
};

/// The whole goldens by key.
fn base() -> BTreeMap<String, Vec<u8>> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/goldens/records");
    [
        ("alive/7", "alive"),
        ("blocks/3/10.9.1.0_26", "block"),
        ("cluster", "cluster"),
        ("endpoints/3/10.9.1.5", "endpoint"),
        ("endpoints/3/fd00:9::5", "endpoint"),
        ("generation", "generation"),
        ("networks/3", "network"),
        ("nodes/7", "node"),
        ("services/17", "service"),
    ]
    .map(|(key, file)| (key.to_owned(), fs::read(folder.join(format!("{file}.json"))).unwrap()))
    .into()
}

fn snapshot(records: &BTreeMap<String, Vec<u8>>) -> Snapshot {
    let entry = |(key, value): (&String, &Vec<u8>)| Entry {
        key: format!("{}{key}", record::PREFIX),
        value: value.clone(),
        version: Revision(1),
    };
    Snapshot { revision: Revision(1), entries: records.iter().map(entry).collect() }
}

fn with(changes: &[(&str, &str)]) -> Result<Cluster, record::RecordError> {
    let mut records = base();
    for (key, value) in changes {
        records.insert((*key).to_owned(), value.as_bytes().to_vec());
    }
    record::assemble(&snapshot(&records))
}

const NETWORK_4: &str = r#"{"v":1,"id":4,"name":"red","subnets":[{"prefix":"10.10.0.0/16","block_len":26}]}"#;

/// What is wrong, the records put beside or instead of the whole ones, the keys that are refused with what the reasons
/// have to say, and what is left: nodes, living nodes, networks, blocks, endpoints, services.
type Case =
    (&'static str, &'static [(&'static str, &'static str)], &'static [(&'static str, &'static str)], [usize; 6]);

const CASES: &[Case] = &[
    ("nothing", &[], &[], [1, 1, 1, 1, 1, 1]),
    ("another network is fine", &[("networks/4", NETWORK_4)], &[], [1, 1, 2, 1, 1, 1]),
    ("a foreign key is left alone", &[("tokens", "\u{1}"), ("a/b", "{")], &[], [1, 1, 1, 1, 1, 1]),
    (
        "a token that nobody can read lets nobody in",
        &[("token", r#"{"v":1,"hash":"ab","sealed":""}"#)],
        &[("token", "is not a fingerprint")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "an admission under no key pair",
        &[("admitted/ab", r#"{"v":1,"name":"n"}"#)],
        &[("admitted/ab", "weft keeps nothing under such a key")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "no JSON",
        &[("nodes/8", "hello")],
        &[(
            "nodes/8",
            "this is no node record (expected value at line 1 column 1): put the node record back from a backup, or delete the key",
        )],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "nothing at all",
        &[("services/17", "")],
        &[("services/17", "this is no service record (EOF")],
        [1, 1, 1, 1, 1, 0],
    ),
    (
        "no version",
        &[("nodes/8", r#"{"id":8,"name":"beta","underlay":"192.0.2.8"}"#)],
        &[("nodes/8", "missing field `v`")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a newer version that still reads",
        &[("nodes/8", r#"{"v":3,"id":8,"name":"beta","underlay":"192.0.2.8"}"#)],
        &[("nodes/8", "written by a newer weft (record version 3, this one reads 1): upgrade this node")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a newer version of another shape",
        &[("nodes/8", r#"{"v":2,"identity":{"number":8}}"#)],
        &[("nodes/8", "written by a newer weft (record version 2, this one reads 1): upgrade this node")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a version that never was",
        &[("nodes/8", r#"{"v":0,"id":8,"name":"beta","underlay":"192.0.2.8"}"#)],
        &[("nodes/8", "no weft writes record version 0")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "node 0",
        &[("nodes/0", r#"{"v":1,"id":0,"name":"beta","underlay":"192.0.2.8"}"#)],
        &[("nodes/0", "\"0\" is not a node number from 1 to 4095")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "node 0 under another key",
        &[("nodes/8", r#"{"v":1,"id":0,"name":"beta","underlay":"192.0.2.8"}"#)],
        &[("nodes/8", "0 is not a node number from 1 to 4095")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a node under another's key",
        &[("nodes/8", r#"{"v":1,"id":9,"name":"beta","underlay":"192.0.2.8"}"#)],
        &[("nodes/8", "its content belongs under /weft/v1/nodes/9: move it there, or delete this key")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a key that is not written as weft writes it",
        &[("nodes/08", r#"{"v":1,"id":8,"name":"beta","underlay":"192.0.2.8"}"#)],
        &[("nodes/08", "weft keeps nothing under such a key (it should be written /weft/v1/nodes/8): delete the key")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a name that is none",
        &[("nodes/8", r#"{"v":1,"id":8,"name":"Beta","underlay":"192.0.2.8"}"#)],
        &[("nodes/8", "the name \"Beta\" is not made of a-z, 0-9 and inner hyphens")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a second node of a name",
        &[("nodes/8", r#"{"v":1,"id":8,"name":"alpha","underlay":"192.0.2.8"}"#)],
        &[("nodes/8", "the name alpha is already that of node 7: change or remove one of the two")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a life sign that cannot be read is one",
        &[("alive/7", "{}")],
        &[("alive/7", "this is no liveness record")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "somebody else's life sign",
        &[("alive/7", r#"{"v":1,"name":"omega"}"#)],
        &[("alive/7", "node 7 is alpha, but omega lives under this number")],
        [1, 0, 1, 1, 1, 1],
    ),
    ("the life sign of a removed node", &[("alive/8", r#"{"v":1,"name":"omega"}"#)], &[], [1, 1, 1, 1, 1, 1]),
    ("the generation", &[("generation", "7")], &[("generation", "this is no generation record")], [1, 1, 1, 1, 1, 1]),
    (
        "overlapping prefixes",
        &[("networks/4", r#"{"v":1,"id":4,"name":"red","subnets":[{"prefix":"10.9.128.0/17","block_len":26}]}"#)],
        &[(
            "networks/4",
            "its prefix 10.9.128.0/17 overlaps with 10.9.0.0/16 of network 3: remove one of the two networks",
        )],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a prefix around another",
        &[("networks/4", r#"{"v":1,"id":4,"name":"red","subnets":[{"prefix":"fd00::/16","block_len":122}]}"#)],
        &[("networks/4", "its prefix fd00::/16 overlaps with fd00:9::/64 of network 3")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a prefix with host bits",
        &[("networks/4", r#"{"v":1,"id":4,"name":"red","subnets":[{"prefix":"10.10.0.1/16","block_len":26}]}"#)],
        &[("networks/4", "10.10.0.1/16 has bits set behind its length")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "two prefixes of a family",
        &[(
            "networks/4",
            r#"{"v":1,"id":4,"name":"red","subnets":[{"prefix":"10.10.0.0/16","block_len":26},{"prefix":"10.11.0.0/16","block_len":26}]}"#,
        )],
        &[("networks/4", "it has several prefixes of one IP version")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "blocks wider than the prefix",
        &[("networks/4", r#"{"v":1,"id":4,"name":"red","subnets":[{"prefix":"10.10.0.0/16","block_len":12}]}"#)],
        &[("networks/4", "10.10.0.0/16 cannot be cut into blocks of /12")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a network takes with it what is on it",
        &[("networks/3", "")],
        &[
            ("blocks/3/10.9.1.0_26", "its network 3 is not there or cannot be read"),
            ("endpoints/3/10.9.1.5", "its network 3 is not there or cannot be read"),
            ("endpoints/3/fd00:9::5", "its network 3 is not there or cannot be read"),
            ("networks/3", "this is no network record"),
            ("services/17", "its network 3 is not there or cannot be read"),
        ],
        [1, 1, 0, 0, 0, 0],
    ),
    (
        "a block outside of its network",
        &[("blocks/3/10.10.1.0_26", r#"{"v":1,"network":3,"prefix":"10.10.1.0/26","owner":7}"#)],
        &[("blocks/3/10.10.1.0_26", "10.10.1.0/26 lies outside of network 3: delete this key")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a block over others",
        &[("blocks/3/10.9.1.0_24", r#"{"v":1,"network":3,"prefix":"10.9.1.0/24","owner":7}"#)],
        &[("blocks/3/10.9.1.0_24", "10.9.1.0/24 overlaps with other blocks, for network 3 is cut into blocks of /26")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a block among the VIPs",
        &[("blocks/3/10.9.240.0_26", r#"{"v":1,"network":3,"prefix":"10.9.240.0/26","owner":7}"#)],
        &[("blocks/3/10.9.240.0_26", "10.9.240.0/26 overlaps with 10.9.240.0/20, where network 3 has its VIPs")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a block under another's key",
        &[("blocks/3/10.9.2.0_26", r#"{"v":1,"network":3,"prefix":"10.9.3.0/26","owner":7}"#)],
        &[("blocks/3/10.9.2.0_26", "its content belongs under /weft/v1/blocks/3/10.9.3.0_26")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "an endpoint on an unknown network",
        &[(
            "endpoints/4/10.10.1.5",
            r#"{"v":1,"id":"00000000000000aa","network":4,"addresses":["10.10.1.5"],"name":"a","node":7,"state":"ready","netns":{"path":"/n","inode":1},"ifname":"eth0"}"#,
        )],
        &[("endpoints/4/10.10.1.5", "its network 4 is not there or cannot be read")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "an endpoint outside of its network",
        &[(
            "endpoints/3/10.10.1.5",
            r#"{"v":1,"id":"00000000000000aa","network":3,"addresses":["10.10.1.5"],"name":"a","node":7,"state":"ready","netns":{"path":"/n","inode":1},"ifname":"eth0"}"#,
        )],
        &[("endpoints/3/10.10.1.5", "10.10.1.5 lies outside of network 3")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "an endpoint under another's key",
        &[(
            "endpoints/3/10.9.1.6",
            r#"{"v":1,"id":"00000000000000aa","network":3,"addresses":["10.9.1.7"],"name":"a","node":7,"state":"ready","netns":{"path":"/n","inode":1},"ifname":"eth0"}"#,
        )],
        &[("endpoints/3/10.9.1.6", "its content belongs under /weft/v1/endpoints/3/10.9.1.7")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "an endpoint whose second address is somebody else's",
        &[(
            "endpoints/3/fd00:9::5",
            r#"{"v":1,"id":"00000000000000aa","network":3,"addresses":["fd00:9::5"],"name":"a","node":7,"state":"ready","netns":{"path":"/n","inode":1},"ifname":"eth0"}"#,
        )],
        &[(
            "endpoints/3/10.9.1.5",
            "its twin /weft/v1/endpoints/3/fd00:9::5 is another one: detach and attach endpoint 00c0ffee00000001 again",
        )],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "an endpoint one of whose records is broken",
        &[("endpoints/3/10.9.1.5", "{")],
        &[
            ("endpoints/3/10.9.1.5", "this is no endpoint record"),
            ("endpoints/3/fd00:9::5", "its twin /weft/v1/endpoints/3/10.9.1.5 cannot be read"),
        ],
        [1, 1, 1, 1, 0, 1],
    ),
    (
        "a second endpoint of an id",
        &[(
            "endpoints/3/10.9.1.6",
            r#"{"v":1,"id":"00c0ffee00000001","network":3,"addresses":["10.9.1.6"],"name":"a","node":7,"state":"ready","netns":{"path":"/n","inode":1},"ifname":"eth0"}"#,
        )],
        &[(
            "endpoints/3/10.9.1.6",
            "its id is also the one of /weft/v1/endpoints/3/10.9.1.5: detach and attach it again",
        )],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "an endpoint in no namespace",
        &[(
            "endpoints/3/10.9.1.6",
            r#"{"v":1,"id":"00000000000000aa","network":3,"addresses":["10.9.1.6"],"name":"a","node":7,"state":"ready","netns":{"path":"/a b","inode":1},"ifname":"eth0"}"#,
        )],
        &[("endpoints/3/10.9.1.6", "\"/a b\" is not a path of a network namespace")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "an endpoint with a device that cannot be",
        &[(
            "endpoints/3/10.9.1.6",
            r#"{"v":1,"id":"00000000000000aa","network":3,"addresses":["10.9.1.6"],"name":"a","node":7,"state":"ready","netns":{"path":"/n","inode":1},"ifname":"a/b"}"#,
        )],
        &[("endpoints/3/10.9.1.6", "\"a/b\" is not a device's name")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a state that is none",
        &[(
            "endpoints/3/10.9.1.6",
            r#"{"v":1,"id":"00000000000000aa","network":3,"addresses":["10.9.1.6"],"name":"a","node":7,"state":"paused","netns":{"path":"/n","inode":1},"ifname":"eth0"}"#,
        )],
        &[("endpoints/3/10.9.1.6", "unknown variant `paused`")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a second service with a published port",
        &[(
            "services/18",
            r#"{"v":1,"id":18,"name":"api","network":3,"vips":["10.9.240.2"],"ports":[{"published":80,"target":1,"protocol":"tcp"}]}"#,
        )],
        &[("services/18", "the published port 80/tcp is already that of service 17: change or remove one of the two")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "the same port in another protocol is fine",
        &[(
            "services/18",
            r#"{"v":1,"id":18,"name":"api","network":3,"vips":["10.9.240.2"],"ports":[{"published":80,"target":1,"protocol":"udp"}]}"#,
        )],
        &[],
        [1, 1, 1, 1, 1, 2],
    ),
    (
        "a service with a port twice",
        &[(
            "services/18",
            r#"{"v":1,"id":18,"name":"api","network":3,"vips":[],"ports":[{"published":81,"target":1,"protocol":"tcp"},{"published":81,"target":2,"protocol":"tcp"}]}"#,
        )],
        &[("services/18", "it has the published port 81/tcp twice: remove one of them")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a second service with a VIP",
        &[("services/18", r#"{"v":1,"id":18,"name":"api","network":3,"vips":["10.9.240.1"]}"#)],
        &[("services/18", "the VIP 10.9.240.1 is already that of service 17")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "a VIP outside of the network",
        &[("services/18", r#"{"v":1,"id":18,"name":"api","network":3,"vips":["10.10.240.1"]}"#)],
        &[("services/18", "10.10.240.1 lies outside of network 3")],
        [1, 1, 1, 1, 1, 1],
    ),
    (
        "published port 0",
        &[(
            "services/18",
            r#"{"v":1,"id":18,"name":"api","network":3,"vips":[],"ports":[{"published":0,"target":1,"protocol":"tcp"}]}"#,
        )],
        &[("services/18", "this is no service record")],
        [1, 1, 1, 1, 1, 1],
    ),
];

#[test]
fn a_record_that_cannot_be_used_disables_its_object_alone() {
    for (name, changes, refused, left) in CASES {
        let cluster = with(changes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let Cluster {
            nodes,
            alive,
            reports: _,
            drains: _,
            networks,
            blocks,
            endpoints,
            services,
            unreadable,
            revision: _,
            settings: _,
            trust: _,
        } = &cluster;
        let keys: Vec<String> = refused.iter().map(|(key, _)| format!("{}{key}", record::PREFIX)).collect();
        assert_eq!(
            unreadable.iter().map(|record| &record.key).collect::<Vec<_>>(),
            keys.iter().collect::<Vec<_>>(),
            "{name}"
        );
        for (UnreadableRecord { key, reason }, (_, expected)) in unreadable.iter().zip(*refused) {
            assert!(reason.contains(expected), "{name}: {key}: {reason}");
        }
        let counts = [nodes.len(), alive.len(), networks.len(), blocks.len(), endpoints.len(), services.len()];
        assert_eq!(counts, *left, "{name}");
    }
}

#[test]
fn without_the_cluster_record_there_is_no_cluster() {
    let mut records = base();
    records.remove("cluster");
    assert_eq!(record::assemble(&snapshot(&records)), Err(record::RecordError::NotInitialised));
    assert!(record::RecordError::NotInitialised.to_string().contains("`weft init`"));

    let error = with(&[("cluster", r#"{"v":1,"id":"00","vxlan_port":7789,"vni":16777216}"#)]).unwrap_err();
    assert!(error.to_string().starts_with("the record /weft/v1/cluster cannot be read: the VNI 16777216"), "{error}");
    let error = with(&[("cluster", r#"{"v":2}"#)]).unwrap_err();
    assert!(error.to_string().ends_with("upgrade this node"), "{error}");
}

#[test]
fn a_generation_that_cannot_be_read_is_not_taken_for_none() {
    let mut state = record::State::from_snapshot(&snapshot(&base()));
    let event = Event::Delete { key: record::GENERATION_KEY.to_owned() };
    state.apply(&weft::store::Changes { revision: Revision(2), events: vec![event] });
    assert_eq!(state.generation(), Ok(record::Generation { value: 0, version: None }));
    let entry = Entry { key: record::GENERATION_KEY.to_owned(), value: b"x".to_vec(), version: Revision(3) };
    state.apply(&weft::store::Changes { revision: Revision(3), events: vec![Event::Put(entry)] });
    assert!(state.generation().is_err());
    assert_eq!(state.version_of(record::GENERATION_KEY), Some(Revision(3)));
}
