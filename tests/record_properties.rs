//! Records under any bytes and any order of events.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*, sample::select};
use weft::{
    model::{
        Availability, Block, Cluster, ClusterId, ClusterSettings, Endpoint, EndpointId, EndpointState, Fingerprint,
        JoinToken, L4, NetnsRef, Network, NetworkId, Node, NodeId, PublishedPort, Report, Service, ServiceId, Subnet,
    },
    store::{Changes, Entry, Event, Revision, Snapshot, record},
};

fn settings() -> ClusterSettings {
    ClusterSettings { id: ClusterId(7), vxlan_port: 7789, vni: 77, pools: vec![] }
}

fn fingerprint(id: NodeId) -> Fingerprint {
    Fingerprint([id.get().to_be_bytes()[1]; 32])
}

/// A cluster of `services` services with `replicas` replicas each, in one network of both families.
fn cluster(services: u16, replicas: u16, weight: u16) -> Cluster {
    let network_id = NetworkId::new(1).unwrap();
    let subnet = |prefix: &str, block_len| Subnet { prefix: prefix.parse().unwrap(), block_len };
    let mut cluster = Cluster::empty(settings());
    let subnets = vec![subnet("10.0.0.0/8", 26), subnet("fd00::/64", 122)];
    let network = Network { id: network_id, name: "n".parse().unwrap(), subnets, internal: false, mtu: None };
    cluster.networks.insert(network_id, network);
    for id in NodeId::all().take(3) {
        let underlay = std::net::Ipv4Addr::from(0xc000_0200 + u32::from(id.get())).into();
        let name = format!("node-{id}").parse().unwrap();
        cluster.nodes.insert(
            id,
            Node {
                id,
                name,
                underlay,
                labels: BTreeMap::new(),
                availability: Availability::Active,
                fingerprint: Some(fingerprint(id)),
            },
        );
        cluster.alive.insert(id);
        cluster.trust.admitted.insert(fingerprint(id));
        let open = BTreeMap::from([(EndpointId(7), id.get().into())]);
        cluster.reports.insert(id, Report { revision: 4, open });
        let prefix = format!("10.0.{id}.0/26").parse().unwrap();
        cluster.blocks.insert(prefix, Block { network: network_id, prefix, owner: id });
    }
    cluster.trust.token = Some(JoinToken { hash: [7; 32], sealed: weight.to_be_bytes().to_vec() });
    for index in 0..services {
        let id = ServiceId::new(index + 1).unwrap();
        let port = PublishedPort::new(id.get().try_into().unwrap(), 80.try_into().unwrap(), L4::Tcp);
        let vips = vec![std::net::Ipv4Addr::from(0x0af0_0001 + u32::from(index)).into()];
        let name = format!("service-{id}").parse().unwrap();
        cluster.services.insert(id, Service::new(id, name, network_id, vips, vec![port]));
        for replica in 0..replicas {
            let number = u32::from(index) * u32::from(replicas) + u32::from(replica);
            let id = EndpointId(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
            let endpoint = Endpoint {
                id,
                network: network_id,
                addresses: vec![
                    std::net::Ipv4Addr::from(0x0a00_0101 + number).into(),
                    std::net::Ipv6Addr::from((0xfd00 << 112) + 0x101 + u128::from(number)).into(),
                ],
                name: format!("e-{number}").parse().unwrap(),
                aliases: vec![],
                node: NodeId::new(1 + u16::try_from(number % 3).unwrap()).unwrap(),
                service: ServiceId::new(index + 1),
                state: EndpointState::Ready,
                weight,
                netns: NetnsRef { path: format!("/run/netns/e{number}"), inode: u64::from(number) },
                ifname: "eth0".into(),
            };
            cluster.endpoints.insert(id, endpoint);
        }
    }
    cluster
}

/// All its records by key.
fn records(cluster: &Cluster) -> BTreeMap<String, Vec<u8>> {
    let Cluster {
        settings,
        nodes,
        alive,
        reports,
        drains: _,
        networks,
        blocks,
        endpoints,
        services,
        trust,
        revision: _,
        unreadable: _,
    } = cluster;
    let mut records = BTreeMap::from([
        (record::CLUSTER_KEY.to_owned(), record::encode_cluster(settings)),
        (record::GENERATION_KEY.to_owned(), record::encode_generation(1)),
    ]);
    records.extend(nodes.values().map(|node| (record::key_of_node(node.id), record::encode_node(node))));
    records.extend(alive.iter().map(|id| (record::key_of_alive(*id), record::encode_alive(&nodes[id].name))));
    records.extend(trust.token.iter().map(|token| (record::TOKEN_KEY.to_owned(), record::encode_token(token))));
    let admitted = trust.admitted.iter().map(|key| record::key_of_admitted(*key));
    records.extend(admitted.map(|key| (key, record::encode_admitted(&"n".parse().unwrap()))));
    records.extend(reports.iter().map(|(id, report)| (record::key_of_report(*id), record::encode_report(report))));
    records
        .extend(networks.values().map(|network| (record::key_of_network(network.id), record::encode_network(network))));
    let blocks = blocks.values();
    records
        .extend(blocks.map(|block| (record::key_of_block(block.network, block.prefix), record::encode_block(block))));
    for endpoint in endpoints.values() {
        records
            .extend(record::keys_of_endpoint(endpoint).into_iter().map(|key| (key, record::encode_endpoint(endpoint))));
    }
    records
        .extend(services.values().map(|service| (record::key_of_service(service.id), record::encode_service(service))));
    records
}

fn snapshot(records: &BTreeMap<String, (Vec<u8>, Revision)>, revision: Revision) -> Snapshot {
    let entries = records.iter();
    let entries =
        entries.map(|(key, (value, version))| Entry { key: key.clone(), value: value.clone(), version: *version });
    Snapshot { revision, entries: entries.collect() }
}

/// Keys and values that get in each other's way: the whole records, their like under other keys, and nonsense.
fn writes() -> impl Strategy<Value = Vec<Vec<(String, Option<Vec<u8>>)>>> {
    let mut sources = records(&cluster(3, 2, 1));
    let mut conflicting = cluster(4, 2, 5);
    let twin = conflicting.networks[&NetworkId::new(1).unwrap()].clone();
    conflicting.networks.insert(NetworkId::new(2).unwrap(), Network { id: NetworkId::new(2).unwrap(), ..twin });
    let mut values: Vec<Vec<u8>> = sources.values().cloned().collect();
    values.extend([b"".to_vec(), b"{}".to_vec(), br#"{"v":2}"#.to_vec()]);
    sources.extend(records(&conflicting));
    values.extend(sources.values().cloned());
    let mut keys: Vec<String> = sources.keys().cloned().collect();
    keys.extend(
        ["nodes/0", "tokens", "admitted/ab", "blocks/1/10.0.0.0_8", "endpoints/1/x"]
            .map(|key| format!("{}{key}", record::PREFIX)),
    );
    keys.push("/elsewhere".to_owned());
    let proper = select(sources.into_iter().collect::<Vec<_>>()).prop_map(|(key, value)| (key, Some(value)));
    let shuffled = (select(keys.clone()), select(values)).prop_map(|(key, value)| (key, Some(value)));
    let deleted = select(keys).prop_map(|key| (key, None));
    vec(vec(prop_oneof![6 => proper, 1 => shuffled, 2 => deleted], 1..12), 0..12)
}

proptest! {
    #[test]
    fn a_snapshot_and_the_changes_that_lead_to_it_are_the_same(commits in writes(), half in 0_usize..12) {
        let mut now: BTreeMap<String, (Vec<u8>, Revision)> = BTreeMap::new();
        let mut replayed = record::State::default();
        for (commit, revision) in commits.iter().zip(1..) {
            let revision = Revision(revision);
            let mut events = Vec::new();
            for (key, value) in commit {
                if let Some(value) = value {
                    now.insert(key.clone(), (value.clone(), revision));
                    events.push(Event::Put(Entry { key: key.clone(), value: value.clone(), version: revision }));
                } else {
                    now.remove(key);
                    events.push(Event::Delete { key: key.clone() });
                }
            }
            replayed.apply(&Changes { revision, events });
            let read = record::State::from_snapshot(&snapshot(&now, revision));
            prop_assert_eq!(&replayed, &read);
            prop_assert_eq!(replayed.cluster(), read.cluster());
            for (key, (value, version)) in now.iter().filter(|(key, _)| key.starts_with(record::PREFIX)) {
                prop_assert_eq!(replayed.version_of(key), Some(*version), "{}", key);
                prop_assert!(replayed.foreign(key).is_none_or(|foreign| foreign == value.as_slice()));
            }
            if revision.0 == u64::try_from(half).unwrap() {
                // Going on from a snapshot is no different either.
                replayed = read;
            }
        }
    }

    #[test]
    fn what_is_written_is_read(services in 0_u16..6, replicas in 0_u16..6, weight in 0_u16..9) {
        let written = cluster(services, replicas, weight);
        let records = records(&written).into_iter().map(|(key, value)| (key, (value, Revision(1)))).collect();
        prop_assert_eq!(record::assemble(&snapshot(&records, Revision(0))), Ok(written));
    }

    #[test]
    fn no_bytes_do_harm(
        key in "(cluster|generation|nodes|alive|networks|blocks|endpoints|services)?(/[0-9:._a-f]{0,6}){0,3}",
        value in vec(any::<u8>(), 0..64),
        cut in any::<prop::sample::Index>(),
        flip in any::<prop::sample::Index>(),
        bits in any::<u8>(),
    ) {
        let whole = cluster(2, 2, 1);
        let mut damaged: BTreeMap<_, _> =
            records(&whole).into_iter().map(|(key, value)| (key, (value, Revision(1)))).collect();
        damaged.insert(format!("{}{key}", record::PREFIX), (value, Revision(1)));
        let keys: Vec<String> = damaged.keys().filter(|key| *key != record::CLUSTER_KEY).cloned().collect();
        let (cut_value, _) = damaged.get_mut(cut.get(&keys)).unwrap();
        cut_value.truncate(cut.index(cut_value.len() + 1));
        let (flipped, _) = damaged.get_mut(flip.get(&keys)).unwrap();
        if !flipped.is_empty() {
            let at = flip.index(flipped.len());
            flipped[at] ^= bits;
        }
        let read = record::assemble(&snapshot(&damaged, Revision(1)));
        prop_assert!(key == "cluster" || read.is_ok());
    }
}
