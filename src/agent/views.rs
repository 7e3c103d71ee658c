//! The model in the API's words.

use std::collections::BTreeMap;

use super::member::Member;
use crate::{
    api::wire::{
        BlockView, ClusterView, EndpointView, NetworkView, NodeStatus, NodeView, ReplicaView, ServiceStatus,
        ServiceView, SubnetView,
    },
    mesh::{self, Balancing},
    model::{
        Attachment, Block, Cluster, Endpoint, Judgement, LinkName, Network, NetworkId, Node, NodeId, Service, ServiceId,
    },
};

/// A number of things.
fn count(things: impl Iterator) -> u32 {
    u32::try_from(things.count()).unwrap_or(u32::MAX)
}

pub(super) fn node(cluster: &Cluster, node: &Node, member: &Member) -> NodeView {
    let is_self = node.id == member.me();
    NodeView {
        id: node.id.get(),
        name: node.name.to_string(),
        address: node.underlay.to_string(),
        addresses: node.addresses.iter().map(ToString::to_string).collect(),
        status: if mesh::is_alive(cluster, node.id) { NodeStatus::Ready } else { NodeStatus::Suspended },
        reachable: member.findings.is_reachable(node.id),
        availability: node.availability.into(),
        labels: node.labels.clone(),
        store: member.holds_store(node),
        is_self,
        endpoints: count(cluster.endpoints_on(node.id)),
        version: is_self.then(|| env!("CARGO_PKG_VERSION").to_owned()),
    }
}

pub(super) fn network(cluster: &Cluster, network: &Network) -> NetworkView {
    NetworkView {
        id: network.id.get(),
        name: network.name.to_string(),
        subnets: network
            .subnets
            .iter()
            .map(|subnet| SubnetView {
                prefix: subnet.prefix.to_string(),
                block_len: subnet.block_len,
                vip_range: subnet.vip_range().to_string(),
            })
            .collect(),
        internal: network.internal,
        mtu: network.mtu,
        endpoints: count(cluster.endpoints.values().filter(|endpoint| endpoint.network == network.id)),
        services: count(cluster.services.values().filter(|service| service.network == network.id)),
    }
}

pub(super) fn service(cluster: &Cluster, judgement: &Judgement, service: &Service) -> ServiceView {
    let verdicts = mesh::balancing(cluster, service.id, judgement);
    let total = count(verdicts.values());
    let ready = count(verdicts.values().filter(|verdict| verdict.takes_connections()));
    ServiceView {
        id: service.id.get(),
        name: service.name.to_string(),
        network: network_name(cluster, service.network),
        vips: service.vips.iter().map(ToString::to_string).collect(),
        ports: service.ports.iter().map(|port| port.clone().into()).collect(),
        lb: service.lb.into(),
        affinity: service.affinity.into(),
        endpoint_mode: service.endpoint_mode.into(),
        health: service.health.as_ref().map(Into::into),
        drain: service.drain.into(),
        replicas_ready: ready,
        replicas_total: total,
        status: ServiceStatus::of(ready, total),
        traffic: None,
    }
}

pub(super) fn replicas(cluster: &Cluster, judgement: &Judgement, service: &Service) -> Vec<ReplicaView> {
    let verdicts = mesh::balancing(cluster, service.id, judgement);
    let mut replicas: Vec<ReplicaView> = cluster
        .replicas_of(service.id)
        .map(|replica| {
            let verdict = verdicts.get(&replica.id).copied().unwrap_or(Balancing::Starting);
            ReplicaView {
                endpoint: replica.name.to_string(),
                id: replica.id.to_string(),
                node: node_name(cluster, replica.node),
                address: replica.addresses.first().map(ToString::to_string).unwrap_or_default(),
                addresses: replica.addresses.iter().map(ToString::to_string).collect(),
                state: replica.state.into(),
                weight: replica.weight,
                balanced: verdict.takes_connections(),
                reason: verdict.reason().map(|reason| match (verdict, &replica.fault) {
                    (Balancing::Unhealthy, Some(fault)) => format!("{reason}: {fault}"),
                    _ => reason.to_owned(),
                }),
                traffic: None,
            }
        })
        .collect();
    replicas.sort_by(|a, b| a.endpoint.cmp(&b.endpoint));
    replicas
}

pub(super) fn endpoint(cluster: &Cluster, endpoint: &Endpoint) -> EndpointView {
    let attachment = Attachment {
        netns: endpoint.netns.clone(),
        ifname: endpoint.ifname.clone(),
        addresses: endpoint.addresses.clone(),
        mtu: 0,
    };
    EndpointView {
        id: endpoint.id.to_string(),
        name: endpoint.name.to_string(),
        network: network_name(cluster, endpoint.network),
        addresses: endpoint.addresses.iter().map(ToString::to_string).collect(),
        node: node_name(cluster, endpoint.node),
        service: endpoint.service.map(|service| service_name(cluster, service)),
        state: endpoint.state.into(),
        aliases: endpoint.aliases.iter().map(ToString::to_string).collect(),
        weight: endpoint.weight,
        ifname: endpoint.ifname.clone(),
        netns: endpoint.netns.path.clone(),
        link: LinkName::of_endpoint(endpoint.id).to_string(),
        mac: attachment.mac().to_string(),
        fault: endpoint.fault.as_ref().map(ToString::to_string),
    }
}

pub(super) fn blocks(cluster: &Cluster) -> Vec<BlockView> {
    // Each address looks for its block, not each block for its addresses: one walk over either.
    let mut used: BTreeMap<&Block, u64> = cluster.blocks.values().map(|block| (block, 0)).collect();
    for address in cluster.endpoints.values().flat_map(|endpoint| &endpoint.addresses) {
        let below = cluster.blocks.range(..=ipnet::IpNet::from(*address)).next_back();
        if let Some((_, block)) = below.filter(|(prefix, _)| prefix.contains(address)) {
            *used.entry(block).or_default() += 1;
        }
    }
    let mut named: Vec<(String, &Block, u64)> =
        used.into_iter().map(|(block, used)| (network_name(cluster, block.network), block, used)).collect();
    named.sort_by(|a, b| (&a.0, a.1.prefix).cmp(&(&b.0, b.1.prefix)));
    named
        .into_iter()
        .map(|(network, block, used)| BlockView {
            network,
            prefix: block.prefix.to_string(),
            node: node_name(cluster, block.owner),
            used,
            size: size(block),
        })
        .collect()
}

fn size(block: &Block) -> u64 {
    let host_bits = block.prefix.max_prefix_len() - block.prefix.prefix_len();
    1_u64.checked_shl(host_bits.into()).unwrap_or(u64::MAX)
}

pub(super) fn cluster(cluster: &Cluster) -> ClusterView {
    ClusterView {
        id: cluster.settings.id.to_string(),
        nodes: count(cluster.nodes.iter()),
        networks: count(cluster.networks.iter()),
        services: count(cluster.services.iter()),
        endpoints: count(cluster.endpoints.iter()),
    }
}

/// The name of a node, or its number where its record is gone.
pub(super) fn node_name(cluster: &Cluster, id: NodeId) -> String {
    cluster.nodes.get(&id).map_or_else(|| format!("node {id}"), |node| node.name.to_string())
}

/// The name of a network, or its number where its record is gone.
pub(super) fn network_name(cluster: &Cluster, id: NetworkId) -> String {
    cluster.networks.get(&id).map_or_else(|| format!("network {id}"), |network| network.name.to_string())
}

/// The name of a service, or its number where its record is gone.
pub(super) fn service_name(cluster: &Cluster, id: ServiceId) -> String {
    cluster.services.get(&id).map_or_else(|| format!("service {id}"), |service| service.name.to_string())
}
