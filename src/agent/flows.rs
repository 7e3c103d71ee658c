//! What connection tracking knows, put to use: connections that lead nowhere are forgotten ([`forget`]), replicas that fail
//! this node's connections are ejected ([`eject`]), and all are counted ([`tally`]).

pub(super) mod eject;
pub(super) mod forget;
pub(super) mod tally;
