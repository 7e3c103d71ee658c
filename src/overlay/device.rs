use std::{collections::BTreeMap, net::IpAddr};

use crate::model::{Cluster, Family, HostFacts, Mac, Node, Vtep};

use super::{families, gateway, peers};

/// What the tunnel adds to a packet, in bytes: outer IP header (20 or 40), UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348, 5).
pub fn overhead(underlay: Family) -> u32 {
    let outer_ip = match underlay {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    outer_ip + 8 + 8 + 14
}

/// This node's tunnel device.
pub fn vtep(cluster: &Cluster, me: &Node, facts: &HostFacts) -> Vtep {
    Vtep {
        mac: Mac::of_vtep(me.id),
        vni: cluster.settings.vni,
        port: cluster.settings.vxlan_port,
        local: me.underlay,
        mtu: facts.underlay_mtu.saturating_sub(overhead(Family::of(me.underlay))),
        address: gateway(Family::V4, me.id),
    }
}

/// One entry per remote node: its VTEP's MAC to its underlay address. A node whose underlay is of the other family
/// cannot be reached and gets none.
pub fn fdb(cluster: &Cluster, me: &Node) -> BTreeMap<Mac, IpAddr> {
    peers(cluster, me.id)
        .filter(|peer| Family::of(peer.underlay) == Family::of(me.underlay))
        .map(|peer| (Mac::of_vtep(peer.id), peer.underlay))
        .collect()
}

/// One permanent neighbour per remote node and family: its gateway address to its VTEP's MAC. In IPv4 always: the nodes probe
/// each other at these addresses, whatever the networks use.
pub fn neighbours(cluster: &Cluster, me: &Node) -> BTreeMap<IpAddr, Mac> {
    let mut families = families(cluster);
    families.insert(Family::V4);
    peers(cluster, me.id)
        .flat_map(|peer| families.iter().map(move |family| (gateway(*family, peer.id), Mac::of_vtep(peer.id))))
        .collect()
}
