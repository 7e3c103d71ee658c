//! The records' fields. Their order here is their order in the bytes. Whatever is checked here concerns one record by
//! itself; `assemble` checks them against each other.

mod cluster;
mod endpoint;
mod network;
mod node;
mod service;
mod trust;

pub(super) use cluster::{ClusterRecord, GenerationRecord};
pub(super) use endpoint::EndpointRecord;
pub(super) use network::{BlockRecord, NetworkRecord};
pub(super) use node::{AliveRecord, NodeRecord, ReportRecord};
pub(super) use service::ServiceRecord;
pub(super) use trust::{AdmittedRecord, TokenRecord};

use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Serialize, de::DeserializeOwned};

use crate::model::{Name, NameError, NetworkId, NodeId, ServiceId};

/// The version of all records that this code writes, and the only one that it reads.
pub(super) const VERSION: u32 = 1;

/// One kind of record.
pub(super) trait Record: Serialize + DeserializeOwned {
    /// What it decodes to.
    type Model;

    /// What it is, for people.
    const KIND: &'static str;

    /// The version that it was written in.
    fn version(&self) -> u32;

    /// Its content, or what is wrong with it.
    fn into_model(self) -> Result<Self::Model, String>;
}

pub(super) fn node_id(number: u16) -> Result<NodeId, String> {
    NodeId::new(number).ok_or_else(|| format!("{number} is not a node number from 1 to {}", NodeId::MAX))
}

pub(super) fn network_id(number: u16) -> Result<NetworkId, String> {
    NetworkId::new(number).ok_or_else(|| format!("{number} is not a network number"))
}

pub(super) fn service_id(number: u16) -> Result<ServiceId, String> {
    ServiceId::new(number).ok_or_else(|| format!("{number} is not a service number"))
}

pub(super) fn parse_name(text: &str) -> Result<Name, String> {
    text.parse().map_err(|error: NameError| error.to_string())
}

pub(super) fn check_prefix(prefix: IpNet) -> Result<(), String> {
    if prefix == prefix.trunc() { Ok(()) } else { Err(format!("{prefix} has bits set behind its length")) }
}

pub(super) fn one_per_family(addresses: impl Iterator<Item = IpAddr>, what: &str) -> Result<(), String> {
    let mut count = [0_usize; 2];
    for address in addresses {
        count[usize::from(address.is_ipv6())] += 1;
    }
    if count.iter().all(|count| *count <= 1) { Ok(()) } else { Err(format!("it has several {what} of one IP version")) }
}
