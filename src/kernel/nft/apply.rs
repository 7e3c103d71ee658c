//! Changes as one batch of messages: the kernel does all of it or nothing, and no packet sees a part.
//!
//! What is in the kernel is read first only where a change depends on it: the handles of the rules that a chain has. The
//! batch then names the generation that was read, and the kernel refuses it if anybody has changed nftables since. All
//! else is sent without looking. To delete what is not there is an error for the kernel and none for us: only then is the
//! set read, and the batch sent again without those deletions. (The kernel has a delete that does not mind since 6.3;
//! Debian 12 has 6.1.)

use std::{borrow::Cow, collections::BTreeSet, fmt::Display};

use nix::errno::Errno;

use crate::{
    kernel::KernelError,
    model::{Chain, ChainName, SetSchema, SetValue},
    plan::NftChange,
};

use super::{
    TABLE,
    batch::{Batch, BuildError, Ground, Owner, Task},
    observe,
    socket::{NetlinkSocket, Outcome, Refusal},
};

/// How often a batch is put together again: because others changed nftables in between (each time costs a read of a few
/// chains, well under a millisecond), or to take deletions of what is not there out of it (once for each set at most).
const BATCHES_MAX: usize = 64;

/// How often a batch is sent again because its answers did not fit into the socket's buffer.
const LOST_MAX: usize = 2;

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
        let batch = Batch::build(socket, ground, &tasks).map_err(|error| match error {
            BuildError::Read(error) => failed(changes, None, &error),
            BuildError::Change(index, reason) => failed(changes, Some(index), &reason),
        })?;
        let refusals = match socket.commit(&batch.bytes, batch.last).map_err(|error| failed(changes, None, &error))? {
            Outcome::Committed => {
                ground = Ground::Kept;
                tasks.clear();
                continue;
            }
            // Doing it again is right in both cases: what is there already stays, what is gone is passed over.
            Outcome::Unknown if lost < LOST_MAX => {
                lost += 1;
                continue;
            }
            Outcome::Unknown => {
                return Err(failed(
                    changes,
                    None,
                    &"the kernel's answers were lost; the next look shows what is in force",
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

/// Takes out of the tasks what the kernel refused without harm; otherwise the error's words.
fn mend<'a>(
    socket: &mut NetlinkSocket,
    tasks: &mut Vec<Task<'a>>,
    later: &mut Vec<Task<'a>>,
    index: usize,
    refusal: &Refusal,
) -> Result<(), String> {
    let Some(place) = tasks.iter().position(|task| task.index == index) else { return Ok(()) };
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
        (NftChange::DeleteChain(chain), Errno::EBUSY) if tasks.iter().any(|task| lets_go(&task.change, *chain)) => {
            later.push(tasks.remove(place));
            Ok(())
        }
        _ => Err(words(refusal)),
    }
}

/// Whether the change deletes an element that points, or may point, to the chain.
fn lets_go(change: &NftChange, chain: ChainName) -> bool {
    match change {
        NftChange::DeleteElements(_, elements) => elements.iter().any(|(_, value)| *value == SetValue::Goto(chain)),
        NftChange::DeleteSet(set) => matches!(
            set.schema(),
            SetSchema::PortToChain
                | SetSchema::AddressToChain(_)
                | SetSchema::AddressPortToChain(_)
                | SetSchema::DevicePortToChain
        ),
        _ => false,
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
