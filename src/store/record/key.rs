//! Keys: which object lies where.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::model::{Endpoint, Fingerprint, NetworkId, NodeId, ServiceId};

/// What all our keys begin with. The number is the layout's version: another layout would lie beside this one.
pub const PREFIX: &str = "/weft/v1/";

/// The key of the cluster's settings.
pub const CLUSTER_KEY: &str = "/weft/v1/cluster";

/// The key of the counter that serialises changes of configuration.
pub const GENERATION_KEY: &str = "/weft/v1/generation";

/// The key of the token that lets nodes join.
pub const TOKEN_KEY: &str = "/weft/v1/token";

/// The key of a node.
pub fn key_of_node(id: NodeId) -> String {
    Key::Node(id).to_text()
}

/// The key that lives as long as a node's lease.
pub fn key_of_alive(id: NodeId) -> String {
    Key::Alive(id).to_text()
}

/// The key of what a node says of itself; it lives as long as its lease.
pub fn key_of_report(id: NodeId) -> String {
    Key::Report(id).to_text()
}

/// The key that lets a node in that has shown the token, until its own record does.
pub fn key_of_admitted(fingerprint: Fingerprint) -> String {
    Key::Admitted(fingerprint).to_text()
}

/// The key of a network.
pub fn key_of_network(id: NetworkId) -> String {
    Key::Network(id).to_text()
}

/// The key of a block. One key for each block: claiming it is creating it.
pub fn key_of_block(network: NetworkId, prefix: IpNet) -> String {
    Key::Block(network, prefix.trunc()).to_text()
}

/// What the keys of all blocks of a network begin with.
pub fn prefix_of_blocks(network: NetworkId) -> String {
    format!("{PREFIX}blocks/{network}/")
}

/// What the keys of all endpoints of a network begin with.
pub fn prefix_of_endpoints(network: NetworkId) -> String {
    format!("{PREFIX}endpoints/{network}/")
}

/// The key of whoever has an address. One key for each address: nobody can be given it twice.
pub fn key_of_endpoint(network: NetworkId, address: IpAddr) -> String {
    Key::Endpoint(network, address).to_text()
}

/// All keys of an endpoint, one for each of its addresses, in their order.
pub fn keys_of_endpoint(endpoint: &Endpoint) -> Vec<String> {
    endpoint.addresses.iter().map(|address| key_of_endpoint(endpoint.network, *address)).collect()
}

/// The key of a service.
pub fn key_of_service(id: ServiceId) -> String {
    Key::Service(id).to_text()
}

/// What a key is the place of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Cluster,
    Generation,
    Node(NodeId),
    Alive(NodeId),
    Report(NodeId),
    Token,
    Admitted(Fingerprint),
    Network(NetworkId),
    Block(NetworkId, IpNet),
    Endpoint(NetworkId, IpAddr),
    Service(ServiceId),
}

/// Whose a key is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// An object's.
    Of(Key),
    /// Among our objects, but no object can lie there; why not.
    Nowhere(String),
    /// Somebody else's.
    Foreign,
}

impl Key {
    pub(super) fn to_text(self) -> String {
        match self {
            Self::Cluster => CLUSTER_KEY.to_owned(),
            Self::Generation => GENERATION_KEY.to_owned(),
            Self::Node(id) => format!("{PREFIX}nodes/{id}"),
            Self::Alive(id) => format!("{PREFIX}alive/{id}"),
            Self::Report(id) => format!("{PREFIX}reports/{id}"),
            Self::Token => TOKEN_KEY.to_owned(),
            Self::Admitted(fingerprint) => format!("{PREFIX}admitted/{fingerprint}"),
            Self::Network(id) => format!("{PREFIX}networks/{id}"),
            // A prefix's own slash would make one more folder of it.
            Self::Block(network, prefix) => {
                format!("{PREFIX}blocks/{network}/{}_{}", prefix.addr(), prefix.prefix_len())
            }
            Self::Endpoint(network, address) => format!("{PREFIX}endpoints/{network}/{address}"),
            Self::Service(id) => format!("{PREFIX}services/{id}"),
        }
    }
}

impl Place {
    pub(super) fn of(key: &str) -> Self {
        let Some(rest) = key.strip_prefix(PREFIX) else { return Self::Foreign };
        let words: Vec<&str> = rest.split('/').collect();
        let parsed = match words.as_slice() {
            ["cluster"] => Ok(Key::Cluster),
            ["generation"] => Ok(Key::Generation),
            ["token"] => Ok(Key::Token),
            ["nodes", id] => id.parse().map(Key::Node),
            ["alive", id] => id.parse().map(Key::Alive),
            ["reports", id] => id.parse().map(Key::Report),
            ["admitted", key] => key.parse().map(Key::Admitted),
            ["networks", id] => id.parse().map(Key::Network),
            ["services", id] => id.parse().map(Key::Service),
            ["blocks", network, prefix] => {
                network.parse().and_then(|network| parse_prefix(prefix).map(|prefix| Key::Block(network, prefix)))
            }
            ["endpoints", network, address] => network.parse().and_then(|network| {
                let address = address.parse().map_err(|_| format!("{address:?} is not an address"))?;
                Ok(Key::Endpoint(network, address))
            }),
            ["nodes" | "alive" | "reports" | "admitted" | "networks" | "services" | "blocks" | "endpoints", ..] => {
                Err("it has too few or too many parts".to_owned())
            }
            _ => return Self::Foreign,
        };
        let canonical = parsed.and_then(|parsed| {
            let text = parsed.to_text();
            if text == key { Ok(parsed) } else { Err(format!("it should be written {text}")) }
        });
        match canonical {
            Ok(key) => Self::Of(key),
            Err(reason) => Self::Nowhere(format!("weft keeps nothing under such a key ({reason}): delete the key")),
        }
    }
}

fn parse_prefix(text: &str) -> Result<IpNet, String> {
    let refuse = || format!("{text:?} is not a prefix such as 10.9.1.0_26");
    let (address, len) = text.split_once('_').ok_or_else(refuse)?;
    let address = address.parse().map_err(|_| refuse())?;
    let len = len.parse().map_err(|_| refuse())?;
    IpNet::new(address, len).map(|prefix| prefix.trunc()).map_err(|_| refuse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_and_others_are_told_apart() {
        let node = NodeId::new(7).unwrap();
        let network = NetworkId::new(3).unwrap();
        let block = |text: &str| Place::Of(Key::Block(network, text.parse().unwrap()));
        let endpoint = |text: &str| Place::Of(Key::Endpoint(network, text.parse().unwrap()));
        let admitted = format!("admitted/{}", "ab".repeat(32));
        for (key, place) in [
            ("cluster", Place::Of(Key::Cluster)),
            ("generation", Place::Of(Key::Generation)),
            ("nodes/7", Place::Of(Key::Node(node))),
            ("alive/7", Place::Of(Key::Alive(node))),
            ("reports/7", Place::Of(Key::Report(node))),
            ("networks/3", Place::Of(Key::Network(network))),
            ("services/3", Place::Of(Key::Service(ServiceId::new(3).unwrap()))),
            ("blocks/3/10.9.1.0_26", block("10.9.1.0/26")),
            ("blocks/3/fd00:9::_122", block("fd00:9::/122")),
            ("endpoints/3/10.9.1.5", endpoint("10.9.1.5")),
            ("endpoints/3/fd00:9::5", endpoint("fd00:9::5")),
            ("token", Place::Of(Key::Token)),
            (&admitted, Place::Of(Key::Admitted(Fingerprint([0xab; 32])))),
            ("tokens", Place::Foreign),
            ("", Place::Foreign),
            ("peers/1", Place::Foreign),
        ] {
            let text = format!("{PREFIX}{key}");
            let parsed = Place::of(&text);
            assert_eq!(parsed, place, "{key}");
            if let Place::Of(key) = parsed {
                assert_eq!(key.to_text(), text);
            }
        }
        for key in [
            "nodes/0",
            "nodes/4096",
            "nodes/07",
            "nodes/+7",
            "nodes",
            "nodes/",
            "nodes/7/name",
            "networks/x",
            "blocks/3",
            "blocks/3/10.9.1.0",
            "blocks/3/10.9.1.1_26",
            "blocks/3/10.9.1.0_33",
            "endpoints/0/10.9.1.5",
            "endpoints/3/10.9.1.0_26",
            "endpoints/3/FD00:9::5",
            "services/65536",
            "admitted",
            "admitted/ab",
        ] {
            assert!(matches!(Place::of(&format!("{PREFIX}{key}")), Place::Nowhere(_)), "{key}");
        }
        assert_eq!(Place::of("/registry/pods"), Place::Foreign);
    }
}
