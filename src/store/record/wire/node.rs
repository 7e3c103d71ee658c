//! Nodes, and that they live.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

use super::{Record, VERSION, node_id, parse_name};
use crate::model::{Availability, Name, Node};

#[derive(Serialize, Deserialize)]
pub(in super::super) struct NodeRecord {
    v: u32,
    id: u16,
    name: String,
    underlay: IpAddr,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    #[serde(default)]
    availability: AvailabilityWord,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum AvailabilityWord {
    #[default]
    Active,
    Drain,
}

impl From<&Node> for NodeRecord {
    fn from(node: &Node) -> Self {
        let Node { id, name, underlay, labels, availability } = node;
        Self {
            v: VERSION,
            id: id.get(),
            name: name.to_string(),
            underlay: *underlay,
            labels: labels.clone(),
            availability: match availability {
                Availability::Active => AvailabilityWord::Active,
                Availability::Drain => AvailabilityWord::Drain,
            },
        }
    }
}

impl Record for NodeRecord {
    type Model = Node;

    const KIND: &'static str = "node";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Node, String> {
        let Self { v: _, id, name, underlay, labels, availability } = self;
        Ok(Node {
            id: node_id(id)?,
            name: parse_name(&name)?,
            underlay,
            labels,
            availability: match availability {
                AvailabilityWord::Active => Availability::Active,
                AvailabilityWord::Drain => Availability::Drain,
            },
        })
    }
}

#[derive(Serialize, Deserialize)]
pub(in super::super) struct AliveRecord {
    v: u32,
    name: String,
}

impl From<&Name> for AliveRecord {
    fn from(name: &Name) -> Self {
        Self { v: VERSION, name: name.to_string() }
    }
}

impl Record for AliveRecord {
    type Model = Name;

    const KIND: &'static str = "liveness";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Name, String> {
        parse_name(&self.name)
    }
}
