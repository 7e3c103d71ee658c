//! What goes over the API's socket, and what `-o json` prints: JSON objects whose field names are stable, in snake case.
//!
//! Requests refuse fields that they do not know, so that a misspelt wish is an error and not silence. Views may gain
//! fields. Names, addresses and prefixes are text in both; the agent checks those in requests and says what is wrong.

use serde::Serialize;

use super::Refusal;

mod balancing;
mod cluster;
mod drain;
mod endpoint;
mod health;
mod network;
mod node;
pub(super) mod port;
mod service;
mod span;
mod traffic;

pub use balancing::{Affinity, EndpointMode, Lb};
pub use cluster::{
    ClusterView, DataPlaneView, DownReply, ErrorBody, InitReply, InitRequest, JoinReply, JoinRequest, LeaveRequest,
    Membership, ReconcileView, StatusView, StoreState, StoreView, TokenView, UnreadableView,
};
pub use drain::{CONFIRM_WAIT, DetachRequest, DrainReply, DrainRequest, DrainView, DrainingReplica};
pub use endpoint::{AttachReply, AttachRequest, DEFAULT_IFNAME, EndpointState, EndpointView, NetnsTarget};
pub use health::{HealthRequest, HealthView, Probe, StatusRange};
pub use network::{BlockView, NetworkCreateReply, NetworkCreateRequest, NetworkView, SubnetView};
pub use node::{Availability, AvailabilityRequest, NodeLabelRequest, NodeStatus, NodeView};
pub use port::{PortKey, PortSpec, Protocol};
pub use service::{
    ReplicaView, ServiceCreateReply, ServiceCreateRequest, ServiceStatus, ServiceUpdateRequest, ServiceView,
};
pub use span::Span;
pub use traffic::{EntranceTraffic, ReplicaTraffic, ServiceTraffic};

/// What can be printed for a program.
pub trait ToJson {
    /// As JSON on several lines, indented, with a line's end.
    fn to_json(&self) -> Result<String, Refusal>;
}

impl<T: Serialize> ToJson for T {
    fn to_json(&self) -> Result<String, Refusal> {
        match serde_json::to_string_pretty(self) {
            Ok(json) => Ok(json + "\n"),
            Err(error) => Err(Refusal::internal(format!("cannot print as JSON: {error}"))),
        }
    }
}
