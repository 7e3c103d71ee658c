//! The nouns, and nothing that does anything: no I/O, no clock, no randomness, no logging.
//!
//! Two values meet here. [`Cluster`] is what the store says: nodes, networks, blocks, endpoints, services.
//! [`HostState`] is what a kernel holds, or should hold, of ours: devices, rows and rules. Wanted and present are the
//! same type, so that a difference between them is a difference of values.

mod block;
mod cluster;
mod drain;
mod endpoint;
mod flow;
mod health;
mod host;
mod judgement;
mod mac;
mod name;
mod network;
mod node;
mod port;
mod protocol;
mod ruleset;
mod service;
mod trust;

pub use block::Block;
pub use cluster::{Cluster, ClusterId, ClusterSettings, DEFAULT_POOL, UnreadableRecord};
pub use drain::Draining;
pub use endpoint::{Attachment, Endpoint, EndpointId, EndpointState, Fault, IPV6_MTU_MIN, NetnsRef};
pub use flow::{Flow, FlowStage};
pub use health::{HealthCheck, Probe};
pub use host::{
    FIRST_NODE_TABLE, HostFacts, HostState, LinkName, MarkMask, NextHop, PolicyAction, PolicyRule, ROUTE_PROTOCOL,
    Route, RouteTable, Sysctl, VTEP_LINK, Vtep,
};
pub use judgement::{Judgement, Report};
pub use mac::Mac;
pub use name::{Name, NameError};
pub use network::{Network, NetworkId, Subnet};
pub use node::{Availability, Node, NodeId, PEER_PORT};
pub use port::{Bind, DeviceName, PortMode, ProxyMode, ProxyProtocol, PublishedPort};
pub use protocol::{Family, L4};
pub use ruleset::{
    Chain, ChainName, Connections, Hook, Memory, Pick, Rule, Ruleset, SOURCE_SEED, SetKey, SetName, SetSchema,
    SetValue, Slot,
};
pub use service::{EndpointMode, Lb, Service, ServiceId};
pub use trust::{Fingerprint, JoinToken, Trust};
