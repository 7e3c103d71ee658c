use serde::{Deserialize, Serialize};

use crate::model;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkView {
    /// Its number in the cluster.
    pub id: u16,
    /// Its name.
    pub name: String,
    /// Its prefixes, one per family.
    pub subnets: Vec<SubnetView>,
    /// Whether containers are kept from opening connections to the outside.
    pub internal: bool,
    /// The containers' MTU where a person set one, in bytes; otherwise the tunnel's.
    pub mtu: Option<u32>,
    /// How many endpoints are attached to it.
    pub endpoints: u32,
    /// How many services it has.
    pub services: u32,
}

/// One family's address space of a network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SubnetView {
    /// The whole prefix.
    pub prefix: String,
    /// The prefix length of the blocks that nodes take from it.
    pub block_len: u8,
    /// The part of it that services get their VIPs from.
    pub vip_range: String,
}

/// `POST /v1/networks`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkCreateRequest {
    /// Its name.
    pub name: String,
    /// Its prefixes, one per family; without any, an IPv4 one is cut from the cluster's pools.
    #[serde(default)]
    pub subnets: Vec<String>,
    /// Whether it has IPv6 too, from the cluster's pools unless `subnets` names a prefix of that family.
    #[serde(default)]
    pub ipv6: bool,
    /// Whether containers are kept from opening connections to the outside.
    #[serde(default)]
    pub internal: bool,
    /// The containers' MTU in bytes; without one, the tunnel's.
    #[serde(default)]
    pub mtu: Option<u32>,
}

impl NetworkCreateRequest {
    /// The least [`Self::mtu`]: IPv4's least reassembly size and Linux's own bound for a device that carries IPv4 are lower, but
    /// IPv6 needs 1280 (RFC 8200, 5).
    pub const MTU_MIN: u32 = model::IPV6_MTU_MIN;
    /// The greatest [`Self::mtu`].
    pub const MTU_MAX: u32 = 65_535;
}

/// The answer to [`NetworkCreateRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkCreateReply {
    /// `false` if it was there already, with the same words.
    pub created: bool,
    /// The network.
    pub network: NetworkView,
}

/// A block: a slice of a network that one node assigns addresses from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlockView {
    /// The network's name.
    pub network: String,
    /// The slice.
    pub prefix: String,
    /// The name of the node that owns it.
    pub node: String,
    /// How many of its addresses endpoints have.
    pub used: u64,
    /// How many addresses it can give out.
    pub size: u64,
}
