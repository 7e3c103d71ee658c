//! From the words that people type to the things they mean.

use std::sync::Arc;

use super::Member;
use crate::{
    agent::{follower::StoreHealth, views},
    api::Refusal,
    model::{Cluster, Endpoint, Name, Network, Node, NodeId, Service},
};

/// The newest cluster.
pub(super) fn cluster(member: &Member) -> Result<Arc<Cluster>, Refusal> {
    member.cluster().ok_or_else(|| {
        let why = match &*member.health.borrow() {
            StoreHealth::Away(reason) | StoreHealth::Unusable(reason) => reason.clone(),
            StoreHealth::Connecting | StoreHealth::Connected => "the store has not answered yet".to_owned(),
        };
        Refusal::unavailable(format!("nothing is known of the cluster yet: {why}"))
    })
}

/// A name as typed, checked.
pub(super) fn name(text: &str) -> Result<Name, Refusal> {
    text.parse().map_err(Refusal::invalid)
}

/// A node by name or number.
pub(super) fn node<'a>(cluster: &'a Cluster, text: &str) -> Result<&'a Node, Refusal> {
    let by_name = cluster.nodes.values().find(|node| node.name.as_str() == text);
    let by_number = || text.parse::<NodeId>().ok().and_then(|id| cluster.nodes.get(&id));
    by_name
        .or_else(by_number)
        .ok_or_else(|| Refusal::not_found(format!("there is no node {text:?}")).with_hint("see `weft node ls`"))
}

/// A network by name.
pub(super) fn network<'a>(cluster: &'a Cluster, text: &str) -> Result<&'a Network, Refusal> {
    cluster.networks.values().find(|network| network.name.as_str() == text).ok_or_else(|| {
        Refusal::not_found(format!("there is no network {text:?}"))
            .with_hint("see `weft network ls`; `weft network create` makes one")
    })
}

/// A service by name.
pub(super) fn service<'a>(cluster: &'a Cluster, text: &str) -> Result<&'a Service, Refusal> {
    cluster.services.values().find(|service| service.name.as_str() == text).ok_or_else(|| {
        Refusal::not_found(format!("there is no service {text:?}"))
            .with_hint("see `weft service ls`; `weft service create` makes one")
    })
}

/// An endpoint by id, by `NETWORK/NAME`, or by name where one alone has it.
pub(super) fn endpoint<'a>(cluster: &'a Cluster, text: &str) -> Result<&'a Endpoint, Refusal> {
    if let Some(endpoint) = text.parse().ok().and_then(|id| cluster.endpoints.get(&id)) {
        return Ok(endpoint);
    }
    let (network, name) = match text.split_once('/') {
        Some((network, name)) => (Some(self::network(cluster, network)?.id), name),
        None => (None, text),
    };
    let named: Vec<&Endpoint> = cluster
        .endpoints
        .values()
        .filter(|endpoint| endpoint.name.as_str() == name && network.is_none_or(|network| endpoint.network == network))
        .collect();
    match named.as_slice() {
        [endpoint] => Ok(endpoint),
        [] => Err(Refusal::not_found(format!("there is no endpoint {text:?}")).with_hint("see `weft endpoint ls`")),
        several => {
            // Two nodes that attach at the same moment can give one name twice in one network; an id is never given twice.
            let which = several.iter().map(|endpoint| {
                let (network, node) = (endpoint.network, endpoint.node);
                let (network, node) = (views::network_name(cluster, network), views::node_name(cluster, node));
                format!("{} (in {network}, on {node})", endpoint.id)
            });
            Err(Refusal::conflict(format!("{} endpoints are called {text:?}", several.len()))
                .with_hint(format!("say the id of the one: {}", listed(which))))
        }
    }
}

/// Some words as one list for a message: at most five, and how many more.
pub(super) fn listed<T: ToString>(words: impl IntoIterator<Item = T>) -> String {
    const SHOWN: usize = 5;
    let words: Vec<String> = words.into_iter().map(|word| word.to_string()).collect();
    let shown = words[..words.len().min(SHOWN)].join(", ");
    match words.len() {
        0..=SHOWN => shown,
        all => format!("{shown} and {} more", all - SHOWN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterId, ClusterSettings, EndpointId, EndpointState, NetnsRef, NetworkId};

    fn cluster_with_twins(count: u64) -> Cluster {
        let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: vec![] };
        let mut cluster = Cluster::empty(settings);
        for id in (1..=count).map(EndpointId) {
            let endpoint = Endpoint {
                id,
                network: NetworkId::new(3).unwrap(),
                addresses: vec![],
                name: "dup".parse().unwrap(),
                aliases: vec![],
                node: NodeId::new(1).unwrap(),
                service: None,
                state: EndpointState::Ready,
                weight: 1,
                netns: NetnsRef { path: String::new(), inode: 0 },
                ifname: "eth0".into(),
                fault: None,
            };
            cluster.endpoints.insert(id, endpoint);
        }
        cluster
    }

    #[test]
    fn a_name_that_several_have_is_answered_with_their_ids() {
        assert!(endpoint(&cluster_with_twins(1), "dup").is_ok());
        let hint = endpoint(&cluster_with_twins(3), "dup").unwrap_err().hint.unwrap();
        for id in (1..=3).map(EndpointId) {
            assert!(hint.contains(&id.to_string()), "{hint}");
        }
        let many = endpoint(&cluster_with_twins(7), "dup").unwrap_err().hint.unwrap();
        assert!(many.ends_with("and 2 more") && !many.contains(&EndpointId(6).to_string()), "{many}");
    }
}
