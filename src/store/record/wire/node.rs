//! Nodes, that they live, and what they say of themselves.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use serde::{Deserialize, Serialize};

use super::{Record, VERSION, node_id, parse_name};
use crate::model::{Availability, EndpointId, Fingerprint, Name, Node, Report};

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
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    addresses: BTreeSet<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
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
        let Node { id, name, underlay, labels, availability, addresses, fingerprint } = node;
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
            addresses: addresses.clone(),
            fingerprint: fingerprint.map(|fingerprint: Fingerprint| fingerprint.to_string()),
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
        let Self { v: _, id, name, underlay, labels, availability, addresses, fingerprint } = self;
        Ok(Node {
            id: node_id(id)?,
            name: parse_name(&name)?,
            underlay,
            labels,
            availability: match availability {
                AvailabilityWord::Active => Availability::Active,
                AvailabilityWord::Drain => Availability::Drain,
            },
            // Whoever wrote it: what nobody may be taken for is left out, and so is what is too much.
            addresses: addresses
                .into_iter()
                .filter(|address| Node::is_told(*address))
                .take(Node::ADDRESSES_MAX)
                .collect(),
            fingerprint: fingerprint.map(|text| text.parse()).transpose()?,
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

#[derive(Serialize, Deserialize)]
pub(in super::super) struct ReportRecord {
    v: u32,
    revision: u64,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    open: BTreeMap<String, u32>,
}

impl From<&Report> for ReportRecord {
    fn from(report: &Report) -> Self {
        let Report { revision, open } = report;
        let open = open.iter().map(|(id, connections)| (id.to_string(), *connections)).collect();
        Self { v: VERSION, revision: *revision, open }
    }
}

impl Record for ReportRecord {
    type Model = Report;

    const KIND: &'static str = "report";

    fn version(&self) -> u32 {
        self.v
    }

    fn into_model(self) -> Result<Report, String> {
        let Self { v: _, revision, open } = self;
        let open = open.into_iter().map(|(id, connections)| Ok((id.parse::<EndpointId>()?, connections)));
        Ok(Report { revision, open: open.collect::<Result<_, String>>()? })
    }
}
