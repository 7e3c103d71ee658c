use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::model::{
    Attachment, Cluster, Endpoint, Family, LinkName, Network, NextHop, Node, NodeId, Route, RouteTable,
};

use super::{families, gateway, gateways, peers};

/// Every route of this node: the resolver's addresses to itself, the other nodes' gateway addresses; one per remote block, one per
/// local container, one for each address that lives away from its block, the return tables, and for each prefix an
/// `unreachable` beneath them all.
pub fn routes(cluster: &Cluster, me: &Node) -> BTreeMap<(RouteTable, IpNet), Route> {
    let mut routes = BTreeMap::new();
    let mut put = |table, prefix, next_hop| {
        routes.insert((table, prefix), Route { next_hop });
    };
    let families = families(cluster);
    put(RouteTable::MAIN, gateways(), NextHop::TunnelLink);
    put(RouteTable::LOCAL, IpAddr::V4(Network::RESOLVER_V4).into(), NextHop::Local);
    if families.contains(&Family::V6) {
        put(RouteTable::LOCAL, IpAddr::V6(Network::RESOLVER_V6).into(), NextHop::Local);
    }
    for subnet in cluster.networks.values().flat_map(|network| &network.subnets) {
        put(RouteTable::MAIN, subnet.prefix, NextHop::Unreachable);
        put(RouteTable::MAIN, subnet.vip_range(), NextHop::TunnelLink);
    }
    for block in cluster.blocks.values() {
        if block.owner != me.id && cluster.nodes.contains_key(&block.owner) {
            put(RouteTable::MAIN, block.prefix, NextHop::Tunnel(gateway(Family::of(block.prefix.addr()), block.owner)));
        }
    }
    for endpoint in cluster.endpoints.values() {
        for address in &endpoint.addresses {
            if endpoint.node == me.id {
                put(RouteTable::MAIN, IpNet::from(*address), NextHop::Link(LinkName::of_endpoint(endpoint.id)));
            } else if cluster.nodes.contains_key(&endpoint.node) && !is_at_home(cluster, endpoint.node, *address) {
                put(
                    RouteTable::MAIN,
                    IpNet::from(*address),
                    NextHop::Tunnel(gateway(Family::of(*address), endpoint.node)),
                );
            }
        }
    }
    for peer in peers(cluster, me.id) {
        for family in &families {
            put(RouteTable::of_ingress(peer.id), everything(*family), NextHop::Tunnel(gateway(*family, peer.id)));
        }
    }
    routes
}

/// The veth pairs of this node's endpoints.
pub fn attachments(cluster: &Cluster, me: NodeId, tunnel_mtu: u32) -> BTreeMap<LinkName, Attachment> {
    cluster
        .endpoints_on(me)
        .filter_map(|endpoint| {
            let network = cluster.networks.get(&endpoint.network)?;
            let mtu = network.mtu.map_or(tunnel_mtu, |wanted| wanted.min(tunnel_mtu));
            Some((LinkName::of_endpoint(endpoint.id), attachment(endpoint, mtu)))
        })
        .collect()
}

fn attachment(endpoint: &Endpoint, mtu: u32) -> Attachment {
    Attachment {
        netns: endpoint.netns.clone(),
        ifname: endpoint.ifname.clone(),
        addresses: endpoint.addresses.clone(),
        mtu,
    }
}

/// Whether the address lies in a block of the node that holds it, so that the block's route covers it.
fn is_at_home(cluster: &Cluster, node: NodeId, address: IpAddr) -> bool {
    // Blocks never overlap, so the last one that begins at or before the address is the only one that can hold it.
    let below = ..=IpNet::from(address);
    cluster
        .blocks
        .range(below)
        .next_back()
        .is_some_and(|(prefix, block)| prefix.contains(&address) && block.owner == node)
}

fn everything(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        Family::V6 => IpNet::new_assert(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0),
    }
}
