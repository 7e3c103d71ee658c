use std::{collections::BTreeMap, net::IpAddr};

use crate::model::{Cluster, Family, HostFacts, IPV6_MTU_MIN, Mac, Node, Vtep};

use super::{families, gateway, own_address, peers};

/// What the tunnel adds to a packet, in bytes: outer IP header (20 or 40), UDP 8, VXLAN 8, inner Ethernet 14 (RFC 7348, 5).
pub fn overhead(underlay: Family) -> u32 {
    let outer_ip = match underlay {
        Family::V4 => 20,
        Family::V6 => 40,
    };
    outer_ip + 8 + 8 + 14
}

/// Whether a tunnel of this MTU, in bytes, has IPv6. Linux takes IPv6 from a device with less than 1280 (RFC 8200, 5), so that
/// no row of that family can be on it. Fragments of outer packets would make up for it (RFC 2473, 7.1), but many a
/// network drops these, and then large packets alone are lost, silently: a network that is refused is better.
pub fn carries_ipv6(tunnel_mtu: u32) -> bool {
    tunnel_mtu >= IPV6_MTU_MIN
}

/// This node's tunnel device.
pub fn vtep(cluster: &Cluster, me: &Node, facts: &HostFacts) -> Vtep {
    let mtu = facts.underlay_mtu.saturating_sub(overhead(Family::of(me.underlay)));
    let has_ipv6 = carries_ipv6(mtu) && families(cluster).contains(&Family::V6);
    Vtep {
        mac: Mac::of_vtep(me.id),
        vni: cluster.settings.vni,
        port: cluster.settings.vxlan_port,
        local: me.underlay,
        mtu,
        address: gateway(Family::V4, me.id),
        address6: has_ipv6.then(|| own_address(me.id)),
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
