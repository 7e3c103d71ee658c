//! The one thread that writes. It takes all requests that wait, carries them out in one write transaction of the file,
//! each at a revision of its own, and makes them durable with one fsync: the more callers, the more commits a second.
//!
//! It ends when the store is closed or nobody can send any more; requests that are then still in the queue are answered
//! with [`KvError::Closed`] and were not carried out.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Shared,
    batch::{Batch, Written},
    disk,
    request::{KvError, Transacted, Txn},
};

/// The most requests in one fsync. It bounds what one failure of the disk takes with it, and the memory of a batch.
const GROUP_MAX: usize = 128;

/// How many requests may wait; senders wait beyond that.
pub(super) const QUEUE: usize = 256;

type Reply<T> = oneshot::Sender<Result<T, KvError>>;

/// A request to the writer.
pub(super) enum Command {
    Transact(Txn, Reply<Transacted>),
    Compact(u64, Reply<u64>),
    Grant {
        id: i64,
        ttl_s: u64,
        reply: Reply<u64>,
    },
    Revoke(i64, Reply<u64>),
    /// End the leases whose time is over.
    Expire(Reply<()>),
    /// Stop, once what was asked before is done.
    Close,
}

/// What is done with the batch's fate: answer the caller, and keep the deadlines of the leases in step.
type Settle = Box<dyn FnOnce(&Shared, Result<(), &KvError>)>;

/// Writes until there is nothing more to write. `reached` tells the watches; it ends with this thread.
#[expect(clippy::needless_pass_by_value, reason = "the thread owns all three for as long as it runs")]
pub(super) fn run(shared: Arc<Shared>, mut commands: mpsc::Receiver<Command>, reached: watch::Sender<u64>) {
    while let Some(first) = commands.blocking_recv() {
        let mut group = vec![first];
        while group.len() < GROUP_MAX
            && let Ok(next) = commands.try_recv()
        {
            group.push(next);
        }
        let closing = group.iter().any(|command| matches!(command, Command::Close));
        let mut settles = Vec::new();
        match write(&shared, group, &mut settles) {
            Ok(written) => {
                shared.recent.push(&written.commits, written.position.oldest);
                if !written.commits.is_empty() {
                    reached.send_replace(written.position.revision);
                }
                for settle in settles {
                    settle(&shared, Ok(()));
                }
            }
            Err(error) => {
                for settle in settles {
                    settle(&shared, Err(&error));
                }
                reopen(&shared, &reached);
            }
        }
        if closing {
            break;
        }
    }
}

/// Opens the file again after it failed: redb takes no more writes after a failed one, and a full disk may have room again.
/// Where that fails too, the next request tries once more. What was not acknowledged may turn out to be there.
fn reopen(shared: &Shared, reached: &watch::Sender<u64>) {
    let mut database = shared.database.blocking_write();
    // The lock on the file goes with the old handle.
    drop(database.take());
    match disk::open(&shared.path) {
        Ok(disk::Opened { database: opened, position, leases }) => {
            shared.recent.clear();
            shared.deadlines.adopt(&leases);
            *database = Some(opened);
            reached.send_replace(position.revision);
        }
        Err(error) => tracing::error!("{} failed and cannot be opened again: {error}", shared.path.display()),
    }
}

/// Carries the group out, all of it in one transaction of the file. Every command has its entry in `settles`, whether
/// this succeeds or not.
fn write(shared: &Shared, group: Vec<Command>, settles: &mut Vec<Settle>) -> Result<Written, KvError> {
    let mut failure = None;
    let guard = shared.database.blocking_read();
    let opened = guard.as_ref().ok_or(KvError::Closed).and_then(|database| Ok(database.begin_write()?));
    let transaction = match opened {
        Ok(transaction) => Some(transaction),
        Err(error) => {
            failure = Some(error);
            None
        }
    };
    let mut batch = match transaction.as_ref().map(Batch::begin) {
        Some(Ok(batch)) => Some(batch),
        Some(Err(error)) => {
            failure = Some(error);
            None
        }
        None => None,
    };
    for command in group {
        settles.push(carry_out(shared, command, batch.as_mut(), &mut failure));
    }
    let written = match (failure, batch) {
        (None, Some(batch)) => batch.finish()?,
        (failure, _) => return Err(failure.unwrap_or(KvError::Closed)),
    };
    if let Some(transaction) = transaction
        && written.touched
    {
        // redb's default durability: the data is on the disk when this returns.
        transaction.commit()?;
    }
    Ok(written)
}

fn carry_out(shared: &Shared, command: Command, batch: Option<&mut Batch>, failure: &mut Option<KvError>) -> Settle {
    let mut batch = batch;
    match command {
        Command::Transact(txn, reply) => {
            let result = attempt(&mut batch, failure, |batch| batch.transact(txn));
            Box::new(move |_, fate| answer(reply, result, fate))
        }
        Command::Compact(revision, reply) => {
            let result = attempt(&mut batch, failure, |batch| batch.compact(revision));
            Box::new(move |_, fate| answer(reply, result, fate))
        }
        Command::Grant { id, ttl_s, reply } => {
            let result = attempt(&mut batch, failure, |batch| batch.grant(id, ttl_s));
            Box::new(move |shared, fate| {
                if fate.is_ok() && result.is_ok() {
                    shared.deadlines.insert(id, ttl_s);
                }
                answer(reply, result, fate);
            })
        }
        Command::Revoke(id, reply) => {
            let result = attempt(&mut batch, failure, |batch| batch.revoke(id));
            Box::new(move |shared, fate| {
                if fate.is_ok() && result.is_ok() {
                    shared.deadlines.remove(id);
                }
                answer(reply, result, fate);
            })
        }
        Command::Expire(reply) => {
            let ended = shared.deadlines.take_ended();
            let ids: Vec<i64> = ended.iter().map(|(id, _)| *id).collect();
            let result = attempt(&mut batch, failure, |batch| batch.end(&ids)).map(|_| ());
            Box::new(move |shared, fate| {
                if fate.is_err() {
                    // They are still in the file: begin anew and try again at the next end.
                    for (id, ttl_s) in ended {
                        shared.deadlines.insert(id, ttl_s);
                    }
                }
                answer(reply, result, fate);
            })
        }
        Command::Close => Box::new(|_, _| ()),
    }
}

/// Does one request in the batch. A refusal is the request's own; a failure of the file is everybody's.
fn attempt<T>(
    batch: &mut Option<&mut Batch>,
    failure: &mut Option<KvError>,
    request: impl FnOnce(&mut Batch) -> Result<T, KvError>,
) -> Result<T, KvError> {
    if let Some(error) = failure {
        return Err(error.clone());
    }
    let result = batch.as_mut().map_or(Err(KvError::Closed), |batch| request(batch));
    if let Err(error @ KvError::Storage(_)) = &result {
        *failure = Some(error.clone());
    }
    result
}

fn answer<T>(reply: Reply<T>, result: Result<T, KvError>, fate: Result<(), &KvError>) {
    let outcome = match fate {
        Ok(()) => result,
        Err(error) => Err(error.clone()),
    };
    // A caller that was dropped midway does not hear it; the write stands all the same, as the trait says.
    let _ = reply.send(outcome);
}
