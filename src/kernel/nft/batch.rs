//! Changes written as the messages of one batch.

use std::{borrow::Cow, collections::BTreeMap};

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST};

use crate::{
    model::{Chain, ChainName, Rule, SetKey, SetName, SetValue},
    plan::NftChange,
};

use super::{
    TABLE, comment, element, expression, observe,
    schema::Declaration,
    socket::{NetlinkSocket, RequestError},
    wire::{self, Attributes, Kind, nfta},
};

/// From how many chains on one read of all rules is cheaper than one read a chain.
const CHAINS_READ_SINGLY_MAX: usize = 64;

/// What a batch begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ground {
    /// The table as it is.
    Kept,
    /// An empty table in place of the one that is there.
    Cleared,
}

/// A change on its way, with its place among those asked for.
#[derive(Debug)]
pub(super) struct Task<'a> {
    /// The place.
    pub(super) index: usize,
    /// The change, or what is left of it.
    pub(super) change: Cow<'a, NftChange>,
}

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The clearing of the table that goes ahead.
    Ground,
    /// The change with this index.
    Task(usize),
}

/// A batch ready to be sent.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// The messages.
    pub(super) bytes: Vec<u8>,
    /// The sequence number of the opening message.
    pub(super) first: u32,
    /// The sequence number of the last message that says something.
    pub(super) last: u32,
    /// Whose each message is, by its sequence number.
    pub(super) owners: BTreeMap<u32, Owner>,
}

/// Why a batch could not be put together.
pub(super) enum BuildError {
    /// What is in the kernel could not be read.
    Read(RequestError),
    /// A change makes no sense.
    Change(usize, String),
}

impl From<RequestError> for BuildError {
    fn from(error: RequestError) -> Self {
        Self::Read(error)
    }
}

impl Batch {
    /// Reads what the changes depend on and writes them.
    pub(super) fn build(socket: &mut NetlinkSocket, ground: Ground, tasks: &[Task<'_>]) -> Result<Self, BuildError> {
        let mut rules = PresentRules::read(socket, ground, tasks)?;
        let mut batch = Self { first: socket.next_sequence(), ..Self::default() };
        let generation = rules.generation;
        wire::write_message(&mut batch.bytes, Kind::BatchBegin, NLM_F_REQUEST, batch.first, |begin| {
            if let Some(generation) = generation {
                begin.number(nfta::BATCH_GENID, generation);
            }
        });
        let mut last_at = 0;
        let mut writer = Writer { socket, batch: &mut batch, owner: Owner::Ground, last_at: &mut last_at };
        if ground == Ground::Cleared {
            writer.table(Kind::DelTable, 0);
            writer.table(Kind::NewTable, NLM_F_CREATE);
        }
        for task in tasks {
            writer.owner = Owner::Task(task.index);
            writer.change(&mut rules, &task.change).map_err(|reason| BuildError::Change(task.index, reason))?;
        }
        let end = socket.next_sequence();
        // Older kernels do not acknowledge the closing message, so the one before it asks.
        if let Some(flags) = batch.bytes.get_mut(last_at + 6..last_at + 8) {
            let asking = u16::from_ne_bytes([flags[0], flags[1]]) | NLM_F_ACK;
            flags.copy_from_slice(&asking.to_ne_bytes());
        }
        wire::write_message(&mut batch.bytes, Kind::BatchEnd, NLM_F_REQUEST, end, |_| {});
        Ok(batch)
    }
}

/// The rules that chains have in the kernel, kept up with while the batch is written.
#[derive(Debug, Default)]
struct PresentRules {
    /// When they were read; nothing if no change needed them.
    generation: Option<u32>,
    chains: BTreeMap<String, Present>,
}

/// A chain's rules.
#[derive(Debug)]
enum Present {
    /// As read.
    Known(Vec<(u64, Rule)>),
    /// Written in this batch, so without handles yet.
    Fresh,
}

impl PresentRules {
    fn read(socket: &mut NetlinkSocket, ground: Ground, tasks: &[Task<'_>]) -> Result<Self, RequestError> {
        let chains: Vec<ChainName> = tasks
            .iter()
            .filter_map(|task| match &*task.change {
                NftChange::SetRules(chain, _) => Some(*chain),
                _ => None,
            })
            .collect();
        if chains.is_empty() || ground == Ground::Cleared {
            return Ok(Self::default());
        }
        let generation = observe::generation(socket)?;
        let mut present = BTreeMap::new();
        let wanted: Vec<Option<ChainName>> =
            if chains.len() > CHAINS_READ_SINGLY_MAX { vec![None] } else { chains.into_iter().map(Some).collect() };
        for chain in wanted {
            // A read that met a change is of a generation that the kernel will not accept: the batch is built again.
            match observe::read_rules(socket, chain) {
                Ok(rules) => present.extend(rules.into_iter().map(|(name, rules)| (name, Present::Known(rules)))),
                Err(RequestError::Interrupted) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Self { generation: Some(generation), chains: present })
    }

    fn forget_all(&mut self) {
        self.chains.clear();
    }

    fn forget(&mut self, chain: &str) {
        self.chains.remove(chain);
    }

    /// What the chain has up to here; from now on it has rules of this batch.
    fn take(&mut self, chain: &str) -> Present {
        self.chains.insert(chain.to_owned(), Present::Fresh).unwrap_or(Present::Known(Vec::new()))
    }
}

/// Writes messages into a batch.
struct Writer<'a> {
    socket: &'a mut NetlinkSocket,
    batch: &'a mut Batch,
    owner: Owner,
    /// Where the last message begins.
    last_at: &'a mut usize,
}

impl Writer<'_> {
    fn message(&mut self, kind: Kind, flags: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        let sequence = self.socket.next_sequence();
        *self.last_at = self.batch.bytes.len();
        self.batch.last = sequence;
        self.batch.owners.insert(sequence, self.owner);
        wire::write_message(&mut self.batch.bytes, kind, NLM_F_REQUEST | flags, sequence, body);
    }

    fn change(&mut self, rules: &mut PresentRules, change: &NftChange) -> Result<(), String> {
        match change {
            NftChange::AddTable => self.table(Kind::NewTable, NLM_F_CREATE),
            NftChange::DeleteTable => {
                rules.forget_all();
                self.table(Kind::DelTable, 0);
            }
            NftChange::AddSet(set) => {
                let id = self.socket.next_sequence();
                self.message(Kind::NewSet, NLM_F_CREATE, |attributes| {
                    attributes.text(nfta::SET_TABLE, TABLE);
                    attributes.text(nfta::SET_NAME, &set.to_string());
                    attributes.number(nfta::SET_ID, id);
                    Declaration::of(*set).write(attributes);
                });
            }
            NftChange::DeleteSet(set) => self.message(Kind::DelSet, 0, |attributes| {
                attributes.text(nfta::SET_TABLE, TABLE);
                attributes.text(nfta::SET_NAME, &set.to_string());
            }),
            NftChange::AddChain(chain) => self.add_chain(*chain),
            NftChange::DeleteChain(chain) => {
                let name = chain.to_string();
                rules.forget(&name);
                self.message(Kind::DelChain, 0, |attributes| {
                    attributes.text(nfta::CHAIN_TABLE, TABLE);
                    attributes.text(nfta::CHAIN_NAME, &name);
                });
            }
            NftChange::SetRules(chain, wanted) => {
                let name = chain.to_string();
                let present = rules.take(&name);
                self.set_rules(&name, present, wanted)?;
            }
            NftChange::AddElements(set, elements) => self.elements(Kind::NewElements, NLM_F_CREATE, *set, elements)?,
            NftChange::DeleteElements(set, elements) => self.elements(Kind::DelElements, 0, *set, elements)?,
        }
        Ok(())
    }

    fn table(&mut self, kind: Kind, flags: u16) {
        self.message(kind, flags, |attributes| {
            attributes.text(nfta::TABLE_NAME, TABLE);
            if kind == Kind::NewTable {
                attributes.number(nfta::TABLE_FLAGS, 0);
            }
        });
    }

    fn add_chain(&mut self, chain: ChainName) {
        self.message(Kind::NewChain, NLM_F_CREATE, |attributes| {
            attributes.text(nfta::CHAIN_TABLE, TABLE);
            attributes.text(nfta::CHAIN_NAME, &chain.to_string());
            if let Some(hook) = chain.hook() {
                attributes.nest(nfta::CHAIN_HOOK, |attributes| {
                    attributes.number(nfta::HOOK_HOOKNUM, hook.number);
                    attributes.number(nfta::HOOK_PRIORITY, hook.priority.cast_unsigned());
                });
                attributes.text(nfta::CHAIN_TYPE, hook.kind);
                attributes.number(nfta::CHAIN_POLICY, wire::VERDICT_ACCEPT.cast_unsigned());
            }
        });
    }

    /// Place by place: a rule that stays is not touched, so its counter of turns goes on; one that differs is replaced;
    /// the rest is added or deleted at the end.
    fn set_rules(&mut self, chain: &str, present: Present, wanted: &Chain) -> Result<(), String> {
        if let Some(Rule::Foreign(handle)) = wanted.rules.iter().find(|rule| matches!(rule, Rule::Foreign(_))) {
            return Err(format!("rule {handle} is not weft's and cannot be made"));
        }
        let present = match present {
            Present::Known(rules) => rules,
            Present::Fresh => {
                self.delete_rules(chain, None);
                Vec::new()
            }
        };
        for ((handle, old), new) in present.iter().zip(&wanted.rules) {
            if old != new {
                self.write_rule(NLM_F_REPLACE, chain, Some(*handle), *new);
            }
        }
        for (handle, _) in present.iter().skip(wanted.rules.len()) {
            self.delete_rules(chain, Some(*handle));
        }
        for rule in wanted.rules.iter().skip(present.len()) {
            self.write_rule(NLM_F_CREATE | NLM_F_APPEND, chain, None, *rule);
        }
        Ok(())
    }

    fn write_rule(&mut self, flags: u16, chain: &str, handle: Option<u64>, rule: Rule) {
        self.message(Kind::NewRule, flags, |attributes| {
            attributes.text(nfta::RULE_TABLE, TABLE);
            attributes.text(nfta::RULE_CHAIN, chain);
            if let Some(handle) = handle {
                attributes.bytes(nfta::RULE_HANDLE, &handle.to_be_bytes());
            }
            attributes.nest(nfta::RULE_EXPRESSIONS, |list| expression::compile(rule, list));
            attributes.bytes(nfta::RULE_USERDATA, &comment::write(rule));
        });
    }

    /// One rule, or all of the chain's.
    fn delete_rules(&mut self, chain: &str, handle: Option<u64>) {
        self.message(Kind::DelRule, 0, |attributes| {
            attributes.text(nfta::RULE_TABLE, TABLE);
            attributes.text(nfta::RULE_CHAIN, chain);
            if let Some(handle) = handle {
                attributes.bytes(nfta::RULE_HANDLE, &handle.to_be_bytes());
            }
        });
    }

    fn elements(
        &mut self,
        kind: Kind,
        flags: u16,
        set: SetName,
        elements: &[(SetKey, SetValue)],
    ) -> Result<(), String> {
        let mut result = Ok(());
        for chunk in elements.chunks(element::CHUNK_BYTES_MAX / element::size_max(set)) {
            self.message(kind, flags, |attributes| {
                attributes.text(nfta::SET_ELEM_LIST_TABLE, TABLE);
                attributes.text(nfta::SET_ELEM_LIST_SET, &set.to_string());
                attributes.nest(nfta::SET_ELEM_LIST_ELEMENTS, |list| {
                    result = chunk.iter().try_for_each(|(key, value)| element::write(set, *key, *value, list));
                });
            });
            result?;
            result = Ok(());
        }
        result
    }
}
