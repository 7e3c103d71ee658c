//! All keys under a prefix at one moment, and from then on what changes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use futures::{FutureExt as _, StreamExt as _, stream};
use zookeeper_client::{
    AddWatchMode, Client, Error, EventType, MultiReadResult, PersistentWatcher, SessionState, Stat, WatchedEvent,
};

use super::{
    link::{Link, within},
    node,
};
use crate::store::{Changes, Entry, Event, Revision, StoreError};

/// Requests under way while a tree is walked: enough to hide the round trips, few enough not to crowd others out.
const PIPELINE: usize = 256;

/// Nodes read by one request. It is what a snapshot's last look must fit into, so it is generous; weft's records make it some
/// hundred KiB.
const BATCH: usize = 500;

/// How often a look may be overtaken by changes of still other nodes. Each takes a round trip: that is seconds of hundreds of
/// new keys a second.
const LOOKS: usize = 200;

/// What is there of each key that was looked at.
type Found = BTreeMap<String, Option<Entry>>;

/// A recursive watch, and the keys under a prefix as they were at the revision reached.
pub(super) struct Reading {
    link: Arc<Link>,
    client: Client,
    watcher: PersistentWatcher,
    prefix: String,
    /// The node that is watched.
    folder: String,
    counter: String,
    /// The version of each key.
    known: BTreeMap<String, Revision>,
    pub(super) revision: Revision,
    /// Nodes that the watch has named and that were not read since, or may not have been.
    changed: BTreeSet<String>,
}

impl Reading {
    /// Reads all keys with `prefix`.
    pub(super) async fn begin(link: Arc<Link>, client: Client, prefix: &str) -> Result<(Self, Vec<Entry>), StoreError> {
        let folder = node::folder_of(&link.root, prefix)
            .ok_or_else(|| StoreError::Refused(format!("no key has the prefix {prefix:?}: keys begin with a slash")))?;
        let counter = node::counter(&link.root);
        let watcher = {
            // What anybody was told that he has written is seen by what follows, whichever server is asked.
            let synced = client.sync(&counter);
            let watched = client.watch(&folder, AddWatchMode::PersistentRecursive);
            within(synced).await.map_err(|error| link.explain(&error))?;
            within(watched).await.map_err(|error| link.explain(&error))?
        };
        let mut reading = Self {
            link,
            client,
            watcher,
            prefix: prefix.to_owned(),
            folder,
            counter,
            known: BTreeMap::new(),
            revision: Revision(0),
            changed: BTreeSet::new(),
        };
        let mut found = Found::new();
        reading.walk(&mut found).await?;
        reading.settle(&mut found).await?;
        let entries: Vec<Entry> = found.into_values().flatten().collect();
        reading.known = entries.iter().map(|entry| (entry.key.clone(), entry.version)).collect();
        Ok((reading, entries))
    }

    /// Whether it knows what was under a prefix at a revision.
    pub(super) fn has(&self, prefix: &str, revision: Revision) -> bool {
        prefix.starts_with(&self.prefix) && self.revision == revision
    }

    /// Of what is under a narrower prefix alone. It still hears of the others.
    pub(super) fn narrowed(mut self, prefix: &str) -> Self {
        if self.prefix != prefix {
            self.known.retain(|key, _| key.starts_with(prefix));
            prefix.clone_into(&mut self.prefix);
        }
        self
    }

    /// Waits for the next changes. After an error there are no more.
    pub(super) async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            while self.changed.is_empty() {
                let event = self.watcher.changed().await;
                self.note(event)?;
            }
            let mut found = Found::new();
            self.settle(&mut found).await?;
            let events = self.differences(found);
            if !events.is_empty() {
                return Ok(Changes { revision: self.revision, events });
            }
        }
    }

    /// Reads everything, level by level. What changes meanwhile is told by the watch.
    async fn walk(&mut self, found: &mut Found) -> Result<(), StoreError> {
        let mut folders = vec![self.folder.clone()];
        while !folders.is_empty() {
            let mut nodes = Vec::new();
            let lists = folders.into_iter().map(|folder| children(self.client.clone(), folder));
            let mut lists = stream::iter(lists).buffer_unordered(PIPELINE);
            while let Some((folder, list)) = lists.next().await {
                let Some((names, stat)) = present(list).map_err(|error| self.link.explain(&error))? else { continue };
                self.revision = self.revision.max(revision_of(&stat));
                nodes.extend(
                    names.iter().map(|name| node::child(&folder, name)).filter(|node| self.key_of(node).is_some()),
                );
            }
            drop(lists);
            folders = Vec::new();
            let nodes = nodes.into_iter().map(|node| data(self.client.clone(), node));
            let mut nodes = stream::iter(nodes).buffer_unordered(PIPELINE);
            while let Some((node, read)) = nodes.next().await {
                let Some((data, stat)) = present(read).map_err(|error| self.link.explain(&error))? else { continue };
                self.revision = self.revision.max(revision_of(&stat));
                self.found(&node, data, &stat, found);
                if stat.num_children > 0 {
                    folders.push(node);
                }
            }
        }
        Ok(())
    }

    /// Looks at what has changed until one look, which is one moment to the server, was overtaken by no change of another node:
    /// all that was read is then as it was at that moment.
    async fn settle(&mut self, found: &mut Found) -> Result<(), StoreError> {
        for _ in 0..LOOKS {
            self.drain()?;
            let mut nodes = std::mem::take(&mut self.changed);
            let look = loop {
                let look: Vec<String> = std::iter::from_fn(|| nodes.pop_first()).take(BATCH).collect();
                self.look(&look, found).await?;
                if nodes.is_empty() {
                    break look;
                }
            };
            self.drain()?;
            // Both are in order.
            if self.changed.iter().all(|node| look.binary_search(node).is_ok()) {
                return Ok(());
            }
        }
        Err(self.link.unavailable("it changes faster than it can be read"))
    }

    /// Reads some nodes and the counter in one request, which no write comes in between of.
    async fn look(&mut self, nodes: &[String], found: &mut Found) -> Result<(), StoreError> {
        let results = {
            let mut reader = self.client.new_multi_reader();
            for node in nodes.iter().chain([&self.counter]) {
                reader.add_get_data(node).map_err(|error| self.link.explain(&error))?;
            }
            reader.commit()
        };
        let results = within(results).await.map_err(|error| self.link.explain(&error))?;
        for (node, result) in nodes.iter().chain([&self.counter]).zip(results) {
            match result {
                MultiReadResult::Data { data, stat } => {
                    self.revision = self.revision.max(revision_of(&stat));
                    self.found(node, data, &stat, found);
                }
                MultiReadResult::Error { err: Error::NoNode } if *node != self.counter => {
                    if let Some(key) = self.key_of(node) {
                        found.insert(key, None);
                    }
                }
                MultiReadResult::Error { err } => return Err(self.link.explain(&err)),
                other => return Err(self.link.unavailable(&format!("it answered with {other:?}"))),
            }
        }
        Ok(())
    }

    fn found(&self, node: &str, data: Vec<u8>, stat: &Stat, found: &mut Found) {
        if let Some(key) = self.key_of(node) {
            let version = Revision(stat.mzxid.cast_unsigned());
            let entry = node::value_in(data).map(|value| Entry { key: key.clone(), value, version });
            found.insert(key, entry);
        }
    }

    /// What is news, and is none from now on. A key is in it once, so that its order says nothing: what is gone, then what was
    /// put, oldest first.
    fn differences(&mut self, found: Found) -> Vec<Event> {
        let mut events = Vec::new();
        let mut put = Vec::new();
        for (key, entry) in found {
            match entry {
                Some(entry) => {
                    if self.known.insert(key, entry.version) != Some(entry.version) {
                        put.push(entry);
                    }
                }
                None => {
                    if self.known.remove(&key).is_some() {
                        events.push(Event::Delete { key });
                    }
                }
            }
        }
        put.sort_by_key(|entry| entry.version);
        events.extend(put.into_iter().map(Event::Put));
        events
    }

    /// Notes what the watch has told so far.
    fn drain(&mut self) -> Result<(), StoreError> {
        while let Some(event) = self.watcher.changed().now_or_never() {
            self.note(event)?;
        }
        Ok(())
    }

    fn note(&mut self, event: WatchedEvent) -> Result<(), StoreError> {
        match event.event_type {
            EventType::Session if event.session_state == SessionState::SyncConnected => {}
            EventType::Session => {
                return Err(self.link.unavailable(&format!("the session is {}", event.session_state)));
            }
            EventType::NodeCreated | EventType::NodeDataChanged => {
                if self.key_of(&event.path).is_some() {
                    self.changed.insert(event.path);
                }
            }
            EventType::NodeDeleted => {
                if self.key_of(&event.path).is_some() {
                    // Where the end of a session leaves its number.
                    self.changed.insert(node::parent(&event.path).to_owned());
                    self.changed.insert(event.path);
                }
            }
            // A recursive watch does not tell it.
            EventType::NodeChildrenChanged => {}
        }
        Ok(())
    }

    /// The key of a node, if it has the prefix.
    fn key_of(&self, node: &str) -> Option<String> {
        node::key_of(&self.link.root, node).filter(|key| key.starts_with(&self.prefix))
    }
}

/// The last write that a node shows: to it, or a node that came or went directly below it.
fn revision_of(stat: &Stat) -> Revision {
    Revision(stat.mzxid.max(stat.pzxid).cast_unsigned())
}

/// What was read, or nothing where no node is.
fn present<T>(read: Result<T, Error>) -> Result<Option<T>, Error> {
    match read {
        Ok(read) => Ok(Some(read)),
        Err(Error::NoNode) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn children(client: Client, folder: String) -> (String, Result<(Vec<String>, Stat), Error>) {
    let list = within(client.get_children(&folder)).await;
    (folder, list)
}

async fn data(client: Client, node: String) -> (String, Result<(Vec<u8>, Stat), Error>) {
    let read = within(client.get_data(&node)).await;
    (node, read)
}
