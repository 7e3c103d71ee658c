use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

use crate::model;

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeView {
    /// Its number in the cluster.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Its underlay address: where the other nodes send its tunnel packets.
    pub address: String,
    /// All addresses by which it may be asked or ask, as it says itself; none if its agent is older.
    #[serde(default)]
    pub addresses: Vec<String>,
    /// Whether its lease lives.
    pub status: NodeStatus,
    /// Whether it answers the node that answered, over the tunnel; nothing where that node does not listen for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reachable: Option<bool>,
    /// What a person wants of it.
    pub availability: Availability,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it holds the cluster's embedded store.
    pub store: bool,
    /// Whether it is the node that answered.
    #[serde(rename = "self")]
    pub is_self: bool,
    /// How many endpoints it has.
    pub endpoints: u32,
    /// The version of its agent, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
}

/// Whether a node's lease lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    /// It does.
    Ready,
    /// It has ended: the node's replicas are out of balancing, its records stay.
    Suspended,
}

impl NodeStatus {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Suspended => "suspended",
        }
    }
}

/// Whether a person wants a node's replicas balanced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Takes new connections.
    Active,
    /// Takes no new connections; those it has go on.
    Drain,
}

impl From<model::Availability> for Availability {
    fn from(availability: model::Availability) -> Self {
        match availability {
            model::Availability::Active => Self::Active,
            model::Availability::Drain => Self::Drain,
        }
    }
}

impl From<Availability> for model::Availability {
    fn from(availability: Availability) -> Self {
        match availability {
            Availability::Active => Self::Active,
            Availability::Drain => Self::Drain,
        }
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(model::Availability::from(*self).as_str())
    }
}

/// `POST /v1/nodes/{node}/availability`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AvailabilityRequest {
    /// What is wanted of the node.
    pub availability: Availability,
}

/// `POST /v1/nodes/{node}/labels`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeLabelRequest {
    /// Labels to set, or to remove where the value is `null`. Those not named stay.
    pub labels: BTreeMap<String, Option<String>>,
}
