//! Watches, made of listings: Consul holds a request for a listing until its index has passed the one that is named ("blocking
//! queries" in its documentation), and the watch tells the difference to what it knew.
//!
//! What a key was in between is never seen, and every change costs a listing of the whole prefix for every watch: a hundred nodes that
//! follow a thousand records of 1 KiB read 150 MB from their agents for each change. That is what Consul offers, and right for clusters
//! that change rarely.
//!
//! What was deleted can only be told by who knows what was there. So the client keeps which keys it saw in its newest looks, and a
//! watch from any other revision gets [`StoreError::Compacted`], as from a store that has forgotten it.
//!
//! A listing's index may go back without harm: it is that of the newest key or deletion under the prefix, and Consul forgets deletions
//! after about 15 minutes. If the keys have changed too, Consul was restored or wiped, and the watch ends with
//! [`StoreError::Compacted`].

use std::{
    collections::{BTreeMap, VecDeque},
    fmt::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Repeat, Shared, failure, http::Call, wire};
use crate::store::{Changes, Entry, Event, Revision, StoreError};

/// How long Consul holds a request while nothing changes; it adds up to a sixteenth. It is the time within which a watch notices that
/// its agent has lost the cluster, and each round costs a listing.
const HOLD: Duration = Duration::from_mins(1);

/// How long a listing may take to begin: Consul writes all of it first. 100,000 records of 400 bytes took it 1 to 3 s on a busy machine.
const LISTING_TIMEOUT: Duration = Duration::from_secs(15);

/// Looks whose keys are kept. A follower watches right after its snapshot; meanwhile few others take one. A look of 10,000 keys is about a
/// megabyte.
const LOOKS_MAX: usize = 8;

/// The keys of a listing and the index of each one's last change.
pub(super) type Keys = BTreeMap<String, u64>;

/// What was there at an index.
pub(super) struct Listing {
    pub(super) index: u64,
    /// In order of their keys.
    pub(super) entries: Vec<Entry>,
}

impl Listing {
    pub(super) fn keys(&self) -> Keys {
        self.entries.iter().map(|entry| (entry.key.clone(), entry.version.0)).collect()
    }
}

/// The newest looks, each with its prefix and index.
#[derive(Default)]
pub(super) struct Seen(Mutex<VecDeque<(String, u64, Arc<Keys>)>>);

impl Seen {
    pub(super) fn note(&self, prefix: &str, index: u64, keys: Arc<Keys>) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // The newer look is right, should they differ: a deletion may have been forgotten in between.
        looks.retain(|(of, at, _)| (of.as_str(), *at) != (prefix, index));
        if looks.len() == LOOKS_MAX {
            looks.pop_front();
        }
        looks.push_back((prefix.to_owned(), index, keys));
    }

    /// The keys that were there at an index, if a look at this prefix or a wider one has seen it.
    pub(super) fn find(&self, prefix: &str, index: u64) -> Option<Arc<Keys>> {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (of, _, keys) = looks.iter().find(|(of, at, _)| *at == index && prefix.starts_with(of.as_str()))?;
        if of == prefix {
            return Some(Arc::clone(keys));
        }
        let under = keys.iter().filter(|(key, _)| key.starts_with(prefix));
        Some(Arc::new(under.map(|(key, version)| (key.clone(), *version)).collect()))
    }
}

/// A watch under way.
pub(super) struct Watching {
    shared: Arc<Shared>,
    prefix: String,
    /// The revision that was told last.
    reached: u64,
    /// The next look.
    look: Look,
    known: Arc<Keys>,
}

impl Watching {
    pub(super) fn new(shared: Arc<Shared>, prefix: &str, after: Revision) -> Result<Self, StoreError> {
        let known = shared.seen.find(prefix, after.0).ok_or(StoreError::Compacted(after))?;
        Ok(Self { shared, prefix: prefix.to_owned(), reached: after.0, look: Look::After(after.0), known })
    }

    /// Waits for the next changes.
    pub(super) async fn next(&mut self) -> Result<Changes, StoreError> {
        loop {
            let began = Instant::now();
            let listing = self.shared.list(&self.prefix, self.look).await?;
            // When its state is replaced by a restore, Consul lets go of what it holds, and answers with what was there before.
            let let_go = matches!(self.look, Look::After(index) if listing.index <= index) && began.elapsed() < HOLD;
            self.look = if let_go { Look::Now } else { Look::After(listing.index) };
            match step(&self.known, self.reached, listing) {
                Step::Same => {}
                Step::Changed(changes, keys) => {
                    self.reached = changes.revision.0;
                    self.known = Arc::new(keys);
                    self.shared.seen.note(&self.prefix, self.reached, Arc::clone(&self.known));
                    return Ok(changes);
                }
                Step::Lost => return Err(StoreError::Compacted(Revision(self.reached))),
            }
        }
    }
}

/// What a look means.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// Nothing has changed.
    Same,
    /// These have, and these are the keys now.
    Changed(Changes, Keys),
    /// Something has, and the index does not say so.
    Lost,
}

/// Compares a look with what was known when `reached` was told.
fn step(known: &Keys, reached: u64, listing: Listing) -> Step {
    let differs = |entry: &Entry| known.get(&entry.key) != Some(&entry.version.0);
    if listing.entries.len() == known.len() && !listing.entries.iter().any(differs) {
        return Step::Same;
    }
    if listing.index <= reached {
        return Step::Lost;
    }
    let keys = listing.keys();
    let deleted = known.keys().filter(|key| !keys.contains_key(*key));
    let mut events: Vec<Event> = deleted.map(|key| Event::Delete { key: key.clone() }).collect();
    events.extend(listing.entries.into_iter().filter(differs).map(Event::Put));
    Step::Changed(Changes { revision: Revision(listing.index), events }, keys)
}

/// Which listing.
#[derive(Debug, Clone, Copy)]
pub(super) enum Look {
    /// The newest, confirmed by a quorum.
    Now,
    /// The first whose index has passed this one, or the same again when nothing comes.
    After(u64),
}

impl Shared {
    /// All keys under `prefix`, which is the trait's.
    pub(super) async fn list(&self, prefix: &str, look: Look) -> Result<Listing, StoreError> {
        let bare = escaped(bare_prefix(prefix)?);
        let call = match look {
            Look::Now => Call { patience: LISTING_TIMEOUT, ..Call::get(format!("/v1/kv/{bare}?recurse&consistent")) },
            Look::After(index) => Call {
                patience: HOLD + HOLD / 16 + LISTING_TIMEOUT,
                // 0 would not wait at all.
                ..Call::get(format!("/v1/kv/{bare}?recurse&index={}&wait={}s", index.max(1), HOLD.as_secs()))
            },
        };
        let answer = self.ask(&call, Repeat::Safe).await?;
        let no_consul = || StoreError::Refused(format!("{}: what answers there is no Consul", self.name));
        let rows = match answer.status {
            200 => wire::rows(&answer.body).map_err(|_| no_consul())?,
            404 => {
                self.check_readable(&bare).await?;
                Vec::new()
            }
            _ => return Err(failure::unexpected(&self.name, &answer)),
        };
        let index = answer.index.ok_or_else(no_consul)?;
        let entry = |row: wire::Row| {
            let value = row.value()?;
            Some(Entry { key: format!("/{}", row.key), value, version: Revision(row.modify_index) })
        };
        let entries: Option<Vec<Entry>> = rows.into_iter().map(entry).collect();
        let mut entries = entries.ok_or_else(no_consul)?;
        entries.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(Listing { index, entries })
    }

    /// A listing leaves out what the token must not read, so that all of it looks empty; a single key is refused instead.
    async fn check_readable(&self, bare: &str) -> Result<(), StoreError> {
        if bare.is_empty() {
            return Ok(());
        }
        self.ask(&Call::get(format!("/v1/kv/{bare}")), Repeat::Safe).await.map(|_| ())
    }
}

/// Consul's form of a prefix: no key of ours begins with anything but a slash.
fn bare_prefix(prefix: &str) -> Result<&str, StoreError> {
    if prefix.is_empty() {
        return Ok(prefix);
    }
    prefix
        .strip_prefix('/')
        .ok_or_else(|| StoreError::Refused(format!("the prefix {prefix:?} does not begin with a slash")))
}

/// A key as part of a path (RFC 3986, 3.3); slashes stay.
fn escaped(key: &str) -> String {
    let mut escaped = String::with_capacity(key.len());
    for byte in key.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(index: u64, keys: &[(&str, u64)]) -> Listing {
        let entry =
            |(key, version): &(&str, u64)| Entry { key: (*key).to_owned(), value: vec![], version: Revision(*version) };
        Listing { index, entries: keys.iter().map(entry).collect() }
    }

    #[test]
    fn looks_become_changes() {
        let known = [("/a", 3), ("/b", 5)];
        for (index, keys, expected) in [
            (9, &[("/a", 3), ("/b", 5)][..], Some("")),
            // Others have written elsewhere, or a deletion was forgotten.
            (4, &[("/a", 3), ("/b", 5)], Some("")),
            (9, &[("/a", 3), ("/b", 9)], Some("put /b")),
            (9, &[("/a", 3), ("/b", 5), ("/c", 8)], Some("put /c")),
            (9, &[("/b", 5)], Some("delete /a")),
            (9, &[("/a2", 9), ("/b", 8)], Some("delete /a, put /a2, put /b")),
            (9, &[], Some("delete /a, delete /b")),
            // Another history.
            (7, &[("/b", 5)], None),
            (6, &[("/a", 6), ("/b", 5)], None),
            (1, &[], None),
        ] {
            let told = match step(&listing(7, &known).keys(), 7, listing(index, keys)) {
                Step::Same => Some(String::new()),
                Step::Changed(changes, now) => {
                    assert_eq!((changes.revision, now), (Revision(index), listing(index, keys).keys()));
                    let word = |event: &Event| match event {
                        Event::Put(entry) => format!("put {}", entry.key),
                        Event::Delete { key } => format!("delete {key}"),
                    };
                    Some(changes.events.iter().map(word).collect::<Vec<_>>().join(", "))
                }
                Step::Lost => None,
            };
            assert_eq!(told.as_deref(), expected, "{index} {keys:?}");
        }
    }

    #[test]
    fn the_newest_looks_are_known() {
        let seen = Seen::default();
        let keys = |number: u64| Arc::new(Keys::from([("/k".to_owned(), number)]));
        for number in 0..=LOOKS_MAX as u64 {
            seen.note("/p/", number, keys(number));
        }
        seen.note("/p/", 3, keys(33));
        assert_eq!(seen.find("/p/", 0), None);
        assert_eq!(seen.find("/p/", 1), Some(keys(1)));
        assert_eq!(seen.find("/p/", 3), Some(keys(33)));
        assert_eq!(seen.find("/", 1), None);
        seen.note("/", 1, Arc::new(Keys::from([("/q/k".to_owned(), 7), ("/p".to_owned(), 7)])));
        assert_eq!(seen.find("/q/", 1), Some(Arc::new(Keys::from([("/q/k".to_owned(), 7)]))));
    }

    #[test]
    fn keys_in_paths() {
        assert_eq!(escaped("weft/v1/a b?&é%"), "weft/v1/a%20b%3F%26%C3%A9%25");
        assert!(bare_prefix("weft").is_err());
        assert_eq!(bare_prefix("/").unwrap(), "");
    }
}
