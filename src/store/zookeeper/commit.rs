//! Commits: look, decide, and carry out unless somebody was quicker; then again.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::PoisonError,
    time::Duration,
};

use futures::future::join_all;
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client::{Client, Error, MultiWriteError, MultiWriteResult, Stat};

use super::{
    ZooKeeperClient,
    link::{REQUEST_TIMEOUT, within},
    node,
    plan::{self, Blocked, Seen, Step},
};
use crate::store::{Compare, LeaseId, Outcome, Revision, StoreError, Transaction, Write, limits};

/// How long others may be quicker. One of all that try at once succeeds in each round trip, so that this is thousands of commits.
const COMMIT_TIMEOUT: Duration = Duration::from_secs(10);

/// The longest wait before the next try; the first is a sixteenth of it.
const WAIT_MS_MAX: u32 = 64;

/// The nodes that a transaction hangs on.
struct Nodes {
    /// Those of its keys.
    keys: BTreeSet<String>,
    /// Those above the keys that it puts.
    folders: BTreeSet<String>,
}

/// What they looked like.
struct Sight {
    /// The counter's version.
    counter: i32,
    seen: BTreeMap<String, Seen>,
}

impl ZooKeeperClient {
    pub(super) async fn carry_out(&self, transaction: Transaction) -> Result<Outcome, StoreError> {
        limits::check(&transaction)?;
        let nodes = self.nodes_of(&transaction)?;
        let lease = lease_of(&transaction)?;
        let client = match lease {
            Some(lease) => self.leases.client(lease).await?,
            None => self.client().await?,
        };
        let explain = |error: &Error| match (error, lease) {
            (Error::NoNode, _) => {
                self.forget_session();
                self.link.explain(error)
            }
            (error, Some(lease)) => self.leases.explain(lease, error),
            (error, None) => self.link.explain(error),
        };
        // Out of politeness: it is not needed, and not waited for where another waits for an answer.
        let _turn = timeout(REQUEST_TIMEOUT, self.turn.lock()).await.ok();
        let deadline = Instant::now() + COMMIT_TIMEOUT;
        let mut wait_ms = WAIT_MS_MAX / 16;
        let mut is_fresh = false;
        loop {
            let sight = self.look(&client, &nodes, is_fresh).await.map_err(|error| explain(&error))?;
            let planned = {
                let folders = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
                plan::plan(&self.link.root, &transaction, &sight.seen, &folders, client.session_id().0)
            };
            match planned {
                // The server that was asked may be behind what the caller has seen at another one.
                Err(Blocked::Conflict) if !is_fresh => {
                    is_fresh = true;
                    continue;
                }
                Err(Blocked::Conflict) => return Ok(Outcome::Conflict),
                Err(Blocked::Refused(reason)) => return Err(StoreError::Refused(reason)),
                Ok(steps) => match self.write(&client, sight.counter, &steps).await {
                    Ok(revision) => {
                        self.folders.lock().unwrap_or_else(PoisonError::into_inner).extend(nodes.folders);
                        return Ok(Outcome::Committed(revision));
                    }
                    Err(MultiWriteError::OperationFailed {
                        source: Error::BadVersion | Error::NoNode | Error::NodeExists,
                        ..
                    }) => self.folders.lock().unwrap_or_else(PoisonError::into_inner).clear(),
                    Err(error) => return Err(explain(&Error::from(error))),
                },
            }
            if Instant::now() >= deadline {
                return Err(self.link.unavailable("others commit all the time, and were quicker at every try"));
            }
            is_fresh = true;
            sleep(Duration::from_millis(u64::from(getrandom::u32().unwrap_or_default() % wait_ms))).await;
            wait_ms = (wait_ms * 2).min(WAIT_MS_MAX);
        }
    }

    /// The nodes that decide.
    fn nodes_of(&self, transaction: &Transaction) -> Result<Nodes, StoreError> {
        let root = &self.link.root;
        let mut nodes = Nodes { keys: BTreeSet::new(), folders: BTreeSet::new() };
        let written = transaction.writes.iter().map(plan::key_of);
        let compared = transaction.compares.iter().map(|compare| match compare {
            Compare::Absent(key) | Compare::Unchanged(key, _) => key.as_str(),
        });
        for key in compared.chain(written) {
            let node = node::of_key(root, key)
                .ok_or_else(|| StoreError::Refused(format!("the key {key:?} does not begin with a slash")))?;
            nodes.keys.insert(node);
        }
        for write in &transaction.writes {
            if let Write::Put { key, .. } = write {
                let node = node::of_key(root, key).unwrap_or_default();
                nodes.folders.extend(node::folders_above(root, &node).map(str::to_owned));
            }
        }
        Ok(nodes)
    }

    /// The counter first: what is read after it still holds if the counter does. All requests are sent before the first answer
    /// is waited for.
    async fn look(&self, client: &Client, nodes: &Nodes, is_fresh: bool) -> Result<Sight, Error> {
        let counter = node::counter(&self.link.root);
        let synced = is_fresh.then(|| client.sync(&counter));
        let stat = client.check_stat(&counter);
        let asked: Vec<_> = {
            let known = self.folders.lock().unwrap_or_else(PoisonError::into_inner);
            let unknown = nodes.folders.iter().filter(|node| !known.contains(*node) && !nodes.keys.contains(*node));
            let asked = nodes.keys.iter().chain(unknown);
            asked.map(|node| (node.clone(), within(client.check_stat(node)))).collect()
        };
        if let Some(synced) = synced {
            within(synced).await?;
        }
        let stat = within(stat).await?.ok_or(Error::NoNode)?;
        let (names, answers): (Vec<String>, Vec<_>) = asked.into_iter().unzip();
        let mut seen = BTreeMap::new();
        for (name, answer) in names.into_iter().zip(join_all(answers).await) {
            if let Some(stat) = answer? {
                seen.insert(name, seen_in(&stat));
            }
        }
        Ok(Sight { counter: stat.version, seen })
    }

    /// One multi, which counts the counter up.
    async fn write(&self, client: &Client, counter: i32, steps: &[Step]) -> Result<Revision, MultiWriteError> {
        let results = {
            let mut writer = client.new_multi_writer();
            writer.add_set_data(&node::counter(&self.link.root), &[], Some(counter))?;
            for step in steps {
                match step {
                    Step::Check { node, version } => writer.add_check_version(node, *version)?,
                    Step::Folder { node } => writer.add_create(node, &[], &self.link.lasting())?,
                    Step::Create { node, data, ephemeral: true } => {
                        writer.add_create(node, data, &self.link.ephemeral())?;
                    }
                    Step::Create { node, data, ephemeral: false } => {
                        writer.add_create(node, data, &self.link.lasting())?;
                    }
                    Step::Set { node, data, version } => writer.add_set_data(node, data, Some(*version))?,
                    Step::Delete { node, version } => writer.add_delete(node, Some(*version))?,
                }
            }
            writer.commit()
        };
        let results = timeout(REQUEST_TIMEOUT, results).await.map_err(|_| Error::Timeout)??;
        match results.into_iter().next() {
            Some(MultiWriteResult::SetData { stat }) => Ok(Revision(stat.mzxid.cast_unsigned())),
            other => Err(Error::UnexpectedError(format!("it answered with {other:?}")).into()),
        }
    }
}

/// The one lease of a transaction. A multi is one session's, and so are the keys that it leases.
fn lease_of(transaction: &Transaction) -> Result<Option<LeaseId>, StoreError> {
    let mut leases = transaction.writes.iter().filter_map(|write| match write {
        Write::Put { lease, .. } => *lease,
        Write::Delete { .. } => None,
    });
    let first = leases.next();
    if leases.any(|lease| Some(lease) != first) {
        return Err(StoreError::Refused("one transaction puts keys under one lease at most in ZooKeeper".to_owned()));
    }
    Ok(first)
}

fn seen_in(stat: &Stat) -> Seen {
    Seen {
        version: stat.version,
        changed: Revision(stat.mzxid.cast_unsigned()),
        owner: stat.ephemeral_owner,
        is_key: stat.data_length > 0,
        has_children: stat.num_children > 0,
    }
}
