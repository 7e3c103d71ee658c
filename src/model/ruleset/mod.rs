//! The nftables table `inet weft` as values: chains of rules that seldom change, and sets whose elements do.
//!
//! A [`Rule`] says what it is for, not which bytes the kernel gets; `kernel/nft` knows those. It is written into the
//! kernel's rule as a comment ([`Rule`]'s text), which is also how an observer reads it back: `nft list` shows people why a
//! rule is there, and rules compare as values.

mod chain;
mod rule;
mod set;
mod text;

use std::collections::BTreeMap;

pub use chain::{ChainName, Hook};
pub use rule::{Memory, Pick, Rule, SOURCE_SEED};
pub use set::{SetKey, SetName, SetSchema, SetValue, Slot};

/// The table's content.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ruleset {
    /// Sets and maps with their elements.
    pub sets: BTreeMap<SetName, BTreeMap<SetKey, SetValue>>,
    /// Chains with their rules in order.
    pub chains: BTreeMap<ChainName, Chain>,
}

/// What the rules of a service's chain have counted since they were made: a connection passes them once, with its first
/// packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connections {
    /// Sent to a replica.
    pub balanced: u64,
    /// Refused, for want of a replica.
    pub refused: u64,
}

/// A chain's rules in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Chain {
    /// The rules.
    pub rules: Vec<Rule>,
}
