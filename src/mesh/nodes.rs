//! Which node is meant by an address.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use ipnet::IpNet;

use super::is_alive;
use crate::model::{Cluster, Node, NodeId};

/// The addresses that mean one node: those that are advertised, and of the others those that one node alone has. Programs give
/// many hosts the same address of a bridge (Docker's 172.17.0.1, libvirt's 192.168.122.1), and an address of a network is a container's.
pub fn addresses_of_nodes(cluster: &Cluster) -> BTreeMap<IpAddr, NodeId> {
    let subnets = cluster.networks.values().flat_map(|network| &network.subnets);
    let prefixes: BTreeSet<IpNet> = subnets.map(|subnet| subnet.prefix).collect();
    // They never overlap, so the last one that begins at or before the address is the only one that can hold it.
    let is_containers = |address: IpAddr| {
        prefixes.range(..=IpNet::from(address)).next_back().is_some_and(|prefix| prefix.contains(&address))
    };
    let mut holders: BTreeMap<IpAddr, Option<NodeId>> = BTreeMap::new();
    for node in cluster.nodes.values() {
        for address in node.addresses.iter().filter(|address| !is_containers(**address)) {
            holders.entry(*address).and_modify(|holder| *holder = None).or_insert(Some(node.id));
        }
    }
    holders.extend(cluster.nodes.values().map(|node| (node.underlay, Some(node.id))));
    holders.into_iter().filter_map(|(address, holder)| Some((address, holder?))).collect()
}

/// Whether no live node has an address, as far as they tell: nothing is said of addresses that nodes do not tell of, nor while a
/// live node tells none (its agent is older) or as many as it can.
pub fn is_nobodys(cluster: &Cluster, address: IpAddr) -> bool {
    let mut alive = cluster.nodes.values().filter(|node| is_alive(cluster, node.id)).peekable();
    let says_not = |node: &Node| {
        let told = node.addresses.len();
        told > 0 && told < Node::ADDRESSES_MAX && node.underlay != address && !node.addresses.contains(&address)
    };
    Node::is_told(address) && alive.peek().is_some() && alive.all(says_not)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Availability, ClusterId, ClusterSettings, Network, NetworkId, Subnet};

    fn node(number: u16) -> NodeId {
        NodeId::new(number).unwrap()
    }

    /// Living nodes from 1, each with what it tells, and a network.
    fn cluster(told: &[&str]) -> Cluster {
        let mut cluster =
            Cluster::empty(ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: vec![] });
        for (number, told) in (1..).zip(told) {
            let id = node(number);
            let node = Node {
                id,
                name: format!("h{number}").parse().unwrap(),
                underlay: format!("192.0.2.{number}").parse().unwrap(),
                labels: BTreeMap::new(),
                availability: Availability::Active,
                addresses: told.split_whitespace().map(|address| address.parse().unwrap()).collect(),
                fingerprint: None,
            };
            cluster.nodes.insert(id, node);
            cluster.alive.insert(id);
        }
        let id = NetworkId::new(1).unwrap();
        let subnets = vec![Subnet { prefix: "10.9.0.0/16".parse().unwrap(), block_len: 26 }];
        cluster.networks.insert(id, Network { id, name: "blue".parse().unwrap(), subnets, internal: false, mtu: None });
        cluster
    }

    #[test]
    fn an_address_means_the_one_node_that_has_it() {
        let cluster = cluster(&[
            "192.0.2.1 2001:db8::1 172.17.0.1",
            "192.0.2.2 2001:db8::2 172.17.0.1 10.9.0.1 10.8.0.1",
            // Another's advertised address is that node's; this one has an older agent's record otherwise.
            "192.0.2.1",
        ]);
        let expected = [("192.0.2.1", 1), ("2001:db8::1", 1), ("192.0.2.2", 2), ("2001:db8::2", 2), ("10.8.0.1", 2)];
        let expected: BTreeMap<IpAddr, NodeId> = expected
            .into_iter()
            .chain([("192.0.2.3", 3)])
            .map(|(address, number)| (address.parse().unwrap(), node(number)))
            .collect();
        assert_eq!(addresses_of_nodes(&cluster), expected);
    }

    #[test]
    fn an_address_is_nobodys_only_if_every_live_node_says_so() {
        let two = ["192.0.2.1 2001:db8::1", "192.0.2.2 198.51.100.2"];
        let many: Vec<String> = (0..Node::ADDRESSES_MAX).map(|number| format!("10.0.0.{number}")).collect();
        for (what, told, address, is_nobodys_) in [
            ("nobody has it", &two[..], "198.51.100.9", true),
            ("a node has it", &two, "198.51.100.2", false),
            ("a node advertises it", &["2001:db8::1"], "192.0.2.1", false),
            ("everybody has it", &two, "127.0.0.1", false),
            ("nobody tells of such", &two, "fe80::9", false),
            ("an older agent may have it", &["192.0.2.1", ""], "198.51.100.9", false),
            ("there may be more", &[many.join(" ").as_str()], "198.51.100.9", false),
            ("nobody lives", &[], "198.51.100.9", false),
        ] {
            assert_eq!(is_nobodys(&cluster(told), address.parse().unwrap()), is_nobodys_, "{what}");
        }
        let mut cluster = cluster(&two);
        cluster.alive.remove(&node(2));
        assert!(is_nobodys(&cluster, "198.51.100.2".parse().unwrap()), "its node is silent");
    }
}
