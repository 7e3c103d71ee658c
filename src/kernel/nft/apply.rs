//! Changes as one batch of messages: the kernel does all of it or nothing, and no packet sees a part.
//!
//! What is in the kernel is read first only where a change depends on it: the handles of the rules that a chain has. The
//! batch then names the generation that was read, and the kernel refuses it if anybody has changed nftables since. All
//! else is sent without looking. To delete what is not there is an error for the kernel and none for us: only then is the
//! set read, and the batch sent again without those deletions. (The kernel has a delete that does not mind since 6.3;
//! Debian 12 has 6.1.)

use std::{
    borrow::Cow,
    collections::{BTreeMap, BTreeSet},
    fmt::Display,
};

use netlink_packet_core::{NLM_F_ACK, NLM_F_APPEND, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST};
use nix::errno::Errno;

use crate::{
    kernel::KernelError,
    model::{Chain, ChainName, Rule, SetKey, SetName, SetValue},
    plan::NftChange,
};

use super::{
    TABLE, comment, element, expression, observe,
    schema::Declaration,
    socket::{NetlinkSocket, Outcome, Refusal, RequestError},
    wire::{self, Attributes, Kind, nfta},
};

/// How often a batch is put together again: because others changed nftables in between (each time costs a read of a few
/// chains, well under a millisecond), or to take deletions of what is not there out of it (once for each set at most).
const BATCHES_MAX: usize = 64;

/// How often a batch is sent again because its answers did not fit into the socket's buffer.
const LOST_MAX: usize = 2;

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

/// Does the changes in one transaction.
pub(super) fn apply(socket: &mut NetlinkSocket, ground: Ground, changes: &[NftChange]) -> Result<(), KernelError> {
    let mut tasks: Vec<Task<'_>> =
        changes.iter().enumerate().map(|(index, change)| Task { index, change: Cow::Borrowed(change) }).collect();
    let mut ground = ground;
    let mut later = Vec::new();
    let mut lost = 0;
    for _ in 0..BATCHES_MAX {
        if tasks.is_empty() && ground == Ground::Kept {
            if later.is_empty() {
                return Ok(());
            }
            tasks = std::mem::take(&mut later);
        }
        let batch = Batch::build(socket, ground, &tasks).map_err(|error| error.about(changes))?;
        let refusals = match socket.commit(&batch.bytes, batch.last).map_err(|error| failed(changes, None, &error))? {
            Outcome::Committed => {
                ground = Ground::Kept;
                tasks.clear();
                continue;
            }
            Outcome::Unknown => {
                return Err(failed(
                    changes,
                    None,
                    &"the kernel's answers were lost; what is in force is seen at the next look",
                ));
            }
            Outcome::Refused(refusals) => refusals,
        };
        // The generation that the batch builds on is not the present one any more: read again.
        if refusals.iter().any(|refusal| refusal.sequence == batch.first && refusal.errno == Errno::ERESTART) {
            continue;
        }
        let mut seen = BTreeSet::new();
        for refusal in refusals {
            match batch.owners.get(&refusal.sequence).copied() {
                Some(Owner::Ground) if refusal.errno == Errno::ENOENT => ground = Ground::Kept,
                // A change that is mended for one of its messages is mended for all.
                Some(Owner::Task(index)) if !seen.insert(index) => {}
                Some(Owner::Task(index)) => mend(socket, &mut tasks, &mut later, index, &refusal)
                    .map_err(|reason| failed(changes, Some(index), &reason))?,
                Some(Owner::Ground) | None => return Err(failed(changes, None, &words(&refusal))),
            }
        }
    }
    Err(failed(changes, None, &"others change nftables without pause; weft tries again"))
}

/// A change on its way, with its place among those asked for.
#[derive(Debug)]
struct Task<'a> {
    index: usize,
    change: Cow<'a, NftChange>,
}

/// Whose message it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// The clearing of the table that goes ahead.
    Ground,
    /// The change with this index.
    Task(usize),
}

/// Takes out of the tasks what the kernel refused without harm; otherwise the error's words.
fn mend<'a>(
    socket: &mut NetlinkSocket,
    tasks: &mut Vec<Task<'a>>,
    later: &mut Vec<Task<'a>>,
    index: usize,
    refusal: &Refusal,
) -> Result<(), String> {
    let Some(place) = tasks.iter().position(|task| task.index == index) else { return Ok(()) };
    let frees_chains = tasks.iter().any(|task| lets_go(&task.change));
    match (&*tasks[place].change, refusal.errno) {
        (NftChange::DeleteTable | NftChange::DeleteChain(_) | NftChange::DeleteSet(_), Errno::ENOENT) => {
            tasks.remove(place);
            Ok(())
        }
        (NftChange::DeleteElements(set, elements), Errno::ENOENT) => {
            let present = observe::read_elements(socket, *set).map_err(|error| error.to_string())??;
            let rest: Vec<_> = elements.iter().filter(|(key, _)| present.contains_key(key)).copied().collect();
            if rest.is_empty() {
                tasks.remove(place);
            } else if rest.len() < elements.len() {
                tasks[place].change = Cow::Owned(NftChange::DeleteElements(*set, rest));
            } else {
                return Err(words(refusal));
            }
            Ok(())
        }
        // Before Linux 6.2 an element lets go of its chain only when the batch that deletes it is done.
        (NftChange::DeleteChain(_), Errno::EBUSY) if frees_chains => {
            later.push(tasks.remove(place));
            Ok(())
        }
        _ => Err(words(refusal)),
    }
}

fn lets_go(change: &NftChange) -> bool {
    matches!(change, NftChange::DeleteElements(..) | NftChange::DeleteSet(_))
}

/// A batch ready to be sent.
#[derive(Debug, Default)]
struct Batch {
    bytes: Vec<u8>,
    /// The sequence number of the opening message.
    first: u32,
    /// The sequence number of the last message that says something.
    last: u32,
    owners: BTreeMap<u32, Owner>,
}

/// Why a batch could not be put together.
enum BuildError {
    /// What is in the kernel could not be read.
    Read(RequestError),
    /// A change makes no sense.
    Change(usize, String),
}

impl BuildError {
    fn about(self, changes: &[NftChange]) -> KernelError {
        match self {
            Self::Read(error) => failed(changes, None, &error),
            Self::Change(index, reason) => failed(changes, Some(index), &reason),
        }
    }
}

impl From<RequestError> for BuildError {
    fn from(error: RequestError) -> Self {
        Self::Read(error)
    }
}

impl Batch {
    fn build(socket: &mut NetlinkSocket, ground: Ground, tasks: &[Task<'_>]) -> Result<Self, BuildError> {
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

/// The kernel's answer in words.
fn words(refusal: &Refusal) -> String {
    let number = refusal.errno as i32;
    let base = match &refusal.detail {
        Some(detail) => format!("{} (errno {number}): {detail}", refusal.errno.desc()),
        None => format!("{} (errno {number})", refusal.errno.desc()),
    };
    match refusal.errno {
        Errno::EPERM => format!("{base}; changing nftables needs CAP_NET_ADMIN"),
        Errno::EBUSY => format!("{base}; a rule or an element still points to it"),
        Errno::EEXIST => format!("{base}; something else has this name or key"),
        _ => base,
    }
}

fn failed(changes: &[NftChange], index: Option<usize>, reason: &dyn Display) -> KernelError {
    let action = match index.and_then(|index| changes.get(index)) {
        Some(change) => describe(change),
        None => format!("change the nftables table inet {TABLE} ({} changes in one batch)", changes.len()),
    };
    KernelError::new(action, reason)
}

/// A change in words.
fn describe(change: &NftChange) -> String {
    let what = match change {
        NftChange::AddTable => "make it".to_owned(),
        NftChange::AddSet(set) => format!("make the set {set}"),
        NftChange::AddChain(chain) => format!("make the chain {chain}"),
        NftChange::SetRules(chain, Chain { rules }) => format!("give the chain {chain} its {} rules", rules.len()),
        NftChange::AddElements(set, elements) => format!("add {} elements to the set {set}", elements.len()),
        NftChange::DeleteElements(set, elements) => format!("remove {} elements from the set {set}", elements.len()),
        NftChange::DeleteChain(chain) => format!("remove the chain {chain}"),
        NftChange::DeleteSet(set) => format!("remove the set {set}"),
        NftChange::DeleteTable => "remove it".to_owned(),
    };
    format!("change the nftables table inet {TABLE}: {what}")
}
