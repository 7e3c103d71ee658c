//! Between the model's values and bytes. Equal values have equal bytes.

use serde::Deserialize;

use super::wire::{
    AdmittedRecord, AliveRecord, BlockRecord, ClusterRecord, EndpointRecord, GenerationRecord, NetworkRecord,
    NodeRecord, Record, ReportRecord, ServiceRecord, TokenRecord, VERSION,
};
use crate::model::{Block, ClusterSettings, Endpoint, JoinToken, Name, Network, Node, Report, Service};

/// The record of the cluster's settings.
pub fn encode_cluster(settings: &ClusterSettings) -> Vec<u8> {
    encode(&ClusterRecord::from(settings))
}

/// The record of the configuration's generation.
pub fn encode_generation(generation: u64) -> Vec<u8> {
    encode(&GenerationRecord::new(generation))
}

/// A node's record.
pub fn encode_node(node: &Node) -> Vec<u8> {
    encode(&NodeRecord::from(node))
}

/// What lies under a node's lease: its name, for people.
pub fn encode_alive(name: &Name) -> Vec<u8> {
    encode(&AliveRecord::from(name))
}

/// What a node says of itself.
pub fn encode_report(report: &Report) -> Vec<u8> {
    encode(&ReportRecord::from(report))
}

/// The record of the token that lets nodes join.
pub fn encode_token(token: &JoinToken) -> Vec<u8> {
    encode(&TokenRecord::from(token))
}

/// The record of a node on its way in: its name, for people.
pub fn encode_admitted(name: &Name) -> Vec<u8> {
    encode(&AdmittedRecord::from(name))
}

/// A network's record.
pub fn encode_network(network: &Network) -> Vec<u8> {
    encode(&NetworkRecord::from(network))
}

/// A block's record.
pub fn encode_block(block: &Block) -> Vec<u8> {
    encode(&BlockRecord::from(block))
}

/// An endpoint's record, the same under each of its keys.
pub fn encode_endpoint(endpoint: &Endpoint) -> Vec<u8> {
    encode(&EndpointRecord::from(endpoint))
}

/// A service's record.
pub fn encode_service(service: &Service) -> Vec<u8> {
    encode(&ServiceRecord::from(service))
}

/// A record's content, or what is wrong with it and the mend.
pub(super) fn decode<R: Record>(bytes: &[u8]) -> Result<R::Model, String> {
    match serde_json::from_slice::<R>(bytes) {
        Ok(record) if record.version() == VERSION => {
            record.into_model().map_err(|reason| format!("{reason}: {}", mend(R::KIND)))
        }
        Ok(record) => Err(other_version::<R>(record.version())),
        // A newer version may lack or reshape fields that this one asks for: its number says more than they do.
        Err(error) => match serde_json::from_slice::<VersionOnly>(bytes) {
            Ok(VersionOnly { v }) if v != VERSION => Err(other_version::<R>(v)),
            Ok(_) | Err(_) => Err(format!("this is no {} record ({error}): {}", R::KIND, mend(R::KIND))),
        },
    }
}

/// What all versions have.
#[derive(Deserialize)]
struct VersionOnly {
    v: u32,
}

#[expect(clippy::expect_used, reason = "it fails only for maps whose keys are not text, and no record has one")]
fn encode<R: Record>(record: &R) -> Vec<u8> {
    serde_json::to_vec(record).expect("records are made of text, numbers and lists")
}

fn other_version<R: Record>(version: u32) -> String {
    if version > VERSION {
        format!("written by a newer weft (record version {version}, this one reads {VERSION}): upgrade this node")
    } else {
        format!("no weft writes record version {version}: {}", mend(R::KIND))
    }
}

fn mend(kind: &str) -> String {
    match kind {
        // Without it there is no cluster at all.
        ClusterRecord::KIND => format!("put the {kind} record back from a backup"),
        _ => format!("put the {kind} record back from a backup, or delete the key"),
    }
}
