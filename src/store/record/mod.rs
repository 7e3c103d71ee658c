//! Records: what lies under which key of the store, as versioned JSON that people can read with `etcdctl`.
//!
//! Every value is `{"v":1, ...}`. Fields that this version does not know are passed over, so that a later one may add
//! some; whatever changes the meaning of what is there takes a new version, which this one refuses by name. The bytes of
//! each kind are pinned under `tests/goldens/records/`.
//!
//! | key under [`PREFIX`] | value |
//! |---|---|
//! | `cluster` | what was decided at `weft init` |
//! | `generation` | a counter that every change of configuration bumps: nodes, networks and services are serialised by it |
//! | `nodes/ID` | a node |
//! | `alive/ID` | the node's name, under its lease |
//! | `reports/ID` | what a node says of itself, under its lease |
//! | `token` | the token that lets nodes join: the hash of its secret, and the secret sealed |
//! | `admitted/FINGERPRINT` | the name of a node that has shown the token and has no record yet, under a lease of a minute |
//! | `networks/ID` | a network |
//! | `blocks/NETWORK/ADDRESS_LENGTH` | a block and its owner |
//! | `endpoints/NETWORK/ADDRESS` | an endpoint; one with two addresses lies under both, the same record twice |
//! | `services/ID` | a service |
//!
//! Other keys are other people's: they are kept and not looked into ([`State::foreign`]).
//!
//! [`State`] holds the decoded records, fed by a snapshot or by a watch's changes, and makes a [`Cluster`] of them. A
//! record that is corrupt, newer than this agent, or at odds with the others disables its object alone and is named in
//! [`Cluster::unreadable`]; what it last said stays in force ([`carry_over`]). Nothing here runs by itself, and nothing is lost by dropping it: a snapshot brings it back.

mod assemble;
mod carry;
mod codec;
mod key;
mod state;
mod wire;

pub use carry::carry_over;
pub use codec::{
    encode_admitted, encode_alive, encode_block, encode_cluster, encode_endpoint, encode_generation, encode_network,
    encode_node, encode_report, encode_service, encode_token,
};
pub use key::{
    CLUSTER_KEY, GENERATION_KEY, PREFIX, TOKEN_KEY, key_of_admitted, key_of_alive, key_of_block, key_of_endpoint,
    key_of_network, key_of_node, key_of_report, key_of_service, keys_of_endpoint, prefix_of_blocks,
    prefix_of_endpoints,
};
pub use state::{Generation, State};

use super::Snapshot;
use crate::model::{Cluster, UnreadableRecord};

/// Why the store's records make no cluster at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// There is no `cluster` record.
    #[error("the store holds no cluster: `weft init` has not run on it, or it has been wiped")]
    NotInitialised,
    /// A record that everything else rests on cannot be read.
    #[error("the record {} cannot be read: {}", .0.key, .0.reason)]
    Unreadable(UnreadableRecord),
}

/// The cluster in a snapshot. Who follows the store keeps a [`State`] instead, which decodes only what changes.
pub fn assemble(snapshot: &Snapshot) -> Result<Cluster, RecordError> {
    State::from_snapshot(snapshot).cluster()
}
