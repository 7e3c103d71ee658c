use std::fmt;

use serde::{Deserialize, Serialize};

use super::NodeView;

/// `POST /v1/init`.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InitRequest {
    /// The store's URL; without one, the store embedded in this agent.
    #[serde(default)]
    pub store: Option<String>,
    /// Prefixes from which networks without a subnet are cut; without any, the default pool.
    #[serde(default)]
    pub pools: Vec<String>,
    /// The UDP port of the tunnels; without one, the default.
    #[serde(default)]
    pub vxlan_port: Option<u16>,
}

/// The answer to [`InitRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InitReply {
    /// `false` if this node is the first of that cluster already.
    pub created: bool,
    /// The cluster's id.
    pub cluster: String,
    /// This node.
    pub node: NodeView,
    /// How others join.
    pub join: TokenView,
}

/// `POST /v1/join`.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JoinRequest {
    /// `HOST:PORT` of a node of the cluster.
    pub address: String,
    /// The secret that `weft token` prints there.
    pub token: String,
}

/// The answer to [`JoinRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinReply {
    /// `false` if this node is one of that cluster already.
    pub created: bool,
    /// The cluster's id.
    pub cluster: String,
    /// This node.
    pub node: NodeView,
}

/// `POST /v1/leave`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LeaveRequest {
    /// Whether to leave even with endpoints attached, as the holder of a store that others use, or with the store away.
    #[serde(default)]
    pub force: bool,
}

/// The answer to `POST /v1/down`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownReply {
    /// How many rows were removed from the kernel: devices, routes, rules, tables.
    pub removed: u32,
}

/// How a node joins.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    /// The secret.
    pub token: String,
    /// `HOST:PORT` of the node that answered.
    pub address: String,
    /// The whole command to type on the joining node.
    pub command: String,
}

/// Of the store nothing behind the question mark: there may be a password.
impl fmt::Debug for InitRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { store, pools, vxlan_port } = self;
        let place = store.as_ref().and_then(|url| url.split('?').next());
        f.debug_struct("InitRequest")
            .field("store", &place)
            .field("pools", pools)
            .field("vxlan_port", vxlan_port)
            .finish()
    }
}

/// Never the secret.
impl fmt::Debug for JoinRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, token: _ } = self;
        f.debug_struct("JoinRequest").field("address", address).finish_non_exhaustive()
    }
}

/// Never the secret.
impl fmt::Debug for TokenView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { token: _, address, command: _ } = self;
        f.debug_struct("TokenView").field("address", address).finish_non_exhaustive()
    }
}

/// How the agent is. While no membership runs, `node`, `cluster`, `store` and `data_plane` are `null`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StatusView {
    /// The agent's version.
    pub version: String,
    /// Whether it is in a cluster.
    pub membership: Membership,
    /// This node.
    pub node: Option<NodeView>,
    /// Its cluster.
    pub cluster: Option<ClusterView>,
    /// The cluster's store, as seen from here.
    pub store: Option<StoreView>,
    /// What is programmed here.
    pub data_plane: Option<DataPlaneView>,
    /// The last pass over the kernel; nothing before the first.
    pub reconcile: Option<ReconcileView>,
    /// What a person should look at, one line each.
    pub warnings: Vec<String>,
    /// Records in the store that this agent cannot read.
    pub unreadable: Vec<UnreadableView>,
}

/// Whether a node is in a cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Membership {
    /// It is not.
    Outside,
    /// It is, but its agent does not act for it; a warning says why.
    Stopped,
    /// It is.
    Running,
}

/// A cluster in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterView {
    /// Its id.
    pub id: String,
    /// How many nodes it has.
    pub nodes: u32,
    /// How many networks.
    pub networks: u32,
    /// How many services.
    pub services: u32,
    /// How many endpoints.
    pub endpoints: u32,
}

/// A store, as seen from one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreView {
    /// Its URL.
    pub url: String,
    /// Whether it can be reached.
    pub state: StoreState,
    /// The last revision seen of it.
    pub revision: u64,
    /// Why it cannot be reached.
    pub error: Option<String>,
}

/// Whether a store can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreState {
    /// It can.
    Connected,
    /// It cannot: what is programmed keeps working, changes wait.
    Away,
}

impl StoreState {
    /// The word for people and programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connected => "connected",
            Self::Away => "away",
        }
    }
}

/// What is programmed on one node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DataPlaneView {
    /// The tunnel device's name.
    pub device: String,
    /// The tunnel's source address.
    pub address: String,
    /// The tunnel's MTU in bytes.
    pub mtu: u32,
    /// The tunnel's UDP port.
    pub vxlan_port: u16,
    /// How many other nodes have a living lease.
    pub peers_alive: u32,
    /// How many other nodes there are.
    pub peers_total: u32,
}

/// The last pass over the kernel: observed, compared, changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReconcileView {
    /// How long ago it ended, in milliseconds.
    pub age_ms: u64,
    /// How long it took, in milliseconds.
    pub duration_ms: f64,
    /// How many steps it took.
    pub steps: u32,
    /// What failed in it; tried again in the next.
    pub errors: Vec<String>,
    /// How many rows have been found changed by others and mended, since the agent began.
    pub drift: u64,
}

/// A record in the store that this agent cannot read. It disables its object alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnreadableView {
    /// Its key.
    pub key: String,
    /// What is wrong with it.
    pub reason: String,
}

/// The body of every answer that is not a success.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// `what failed: why`.
    pub error: String,
    /// What to do about it, where that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_and_answers_show_no_secret() {
        let init = InitRequest { store: Some("etcd://a/p?user=root:hush".to_owned()), ..InitRequest::default() };
        let join = JoinRequest { address: "192.0.2.1:7780".to_owned(), token: "WEFT-1-A-HUSH".to_owned() };
        let [token, command] = ["WEFT-1-A-HUSH", "weft join --token WEFT-1-A-HUSH"].map(str::to_owned);
        let view = TokenView { token, address: "192.0.2.1:7780".to_owned(), command };
        let shown = format!("{init:?} {join:?} {view:?}");
        assert!(shown.contains("etcd://a/p") && !shown.to_ascii_lowercase().contains("hush"), "{shown}");
    }
}
