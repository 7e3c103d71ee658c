//! What a transaction does to which nodes: decided on what was seen of them, carried out by one multi.

use std::collections::{BTreeMap, BTreeSet};

use super::node;
use crate::store::{Compare, Revision, Transaction, Write};

/// What was seen of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seen {
    /// ZooKeeper's count of changes to its data.
    pub(super) version: i32,
    /// The transaction that last changed it (its mzxid).
    pub(super) changed: Revision,
    /// The session that it lives with; 0 for none.
    pub(super) owner: i64,
    /// Whether it holds a key, and is no mere folder.
    pub(super) is_key: bool,
    /// Whether there are nodes below it.
    pub(super) has_children: bool,
}

/// One operation of a multi.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// The node must still have this version.
    Check { node: String, version: i32 },
    /// A node without data, for others to lie under.
    Folder { node: String },
    /// A key's node, for good or with the session.
    Create { node: String, data: Vec<u8>, ephemeral: bool },
    /// New data; nothing makes a folder of a key.
    Set { node: String, data: Vec<u8>, version: i32 },
    /// The node goes.
    Delete { node: String, version: i32 },
}

/// Why there is nothing to carry out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Blocked {
    /// A compare does not hold.
    Conflict,
    /// It never can be.
    Refused(String),
}

/// The steps of a transaction. `seen` has all nodes of its keys, `folders` those above them that are there. `session` is the one
/// that leased keys live with. All keys begin with a slash.
pub(super) fn plan(
    root: &str,
    transaction: &Transaction,
    seen: &BTreeMap<String, Seen>,
    folders: &BTreeSet<String>,
    session: i64,
) -> Result<Vec<Step>, Blocked> {
    let node_of = |key: &str| node::of_key(root, key).unwrap_or_default();
    let key_at = |node: &str| seen.get(node).filter(|seen| seen.is_key);
    let written: BTreeSet<String> = transaction.writes.iter().map(|write| node_of(key_of(write))).collect();
    let mut steps = Vec::new();
    for compare in &transaction.compares {
        let (key, wanted) = match compare {
            Compare::Absent(key) => (key, Revision(0)),
            Compare::Unchanged(key, version) => (key, *version),
        };
        let node = node_of(key);
        let found = key_at(&node);
        if found.map_or(Revision(0), |seen| seen.changed) != wanted {
            return Err(Blocked::Conflict);
        }
        // Whatever else may change it counts up the counter; the end of a session does not.
        if let Some(seen) = found.filter(|seen| seen.owner != 0 && !written.contains(&node)) {
            steps.push(Step::Check { node, version: seen.version });
        }
    }
    let put: BTreeSet<String> = transaction
        .writes
        .iter()
        .filter_map(|write| match write {
            Write::Put { key, .. } => Some(node_of(key)),
            Write::Delete { .. } => None,
        })
        .collect();
    let mut made: BTreeSet<String> = BTreeSet::new();
    for write in &transaction.writes {
        match write {
            Write::Put { key, value, lease } => {
                let node = node_of(key);
                let (data, owner) = (node::data_of(value), if lease.is_some() { session } else { 0 });
                for folder in node::folders_above(root, &node) {
                    if !folders.contains(folder) && !seen.contains_key(folder) && made.insert(folder.to_owned()) {
                        steps.push(Step::Folder { node: folder.to_owned() });
                    }
                }
                match seen.get(&node) {
                    Some(seen) if seen.owner == owner => steps.push(Step::Set { node, data, version: seen.version }),
                    Some(seen) if seen.has_children => {
                        return Err(Blocked::Refused(format!(
                            "the key {key:?} has keys below it; in ZooKeeper one under a lease can have none"
                        )));
                    }
                    Some(seen) => {
                        steps.push(Step::Delete { node: node.clone(), version: seen.version });
                        steps.push(Step::Create { node, data, ephemeral: owner != 0 });
                    }
                    // Made for a key below it that comes before it in this transaction.
                    None if made.contains(&node) && owner == 0 => steps.push(Step::Set { node, data, version: 0 }),
                    None => {
                        made.insert(node.clone());
                        steps.push(Step::Create { node, data, ephemeral: owner != 0 });
                    }
                }
            }
            Write::Delete { key } => {
                let node = node_of(key);
                let Some(seen) = key_at(&node) else { continue };
                let below = format!("{node}/");
                if seen.has_children || put.iter().any(|put| put.starts_with(&below)) {
                    steps.push(Step::Set { node, data: Vec::new(), version: seen.version });
                } else {
                    steps.push(Step::Delete { node, version: seen.version });
                }
            }
        }
    }
    Ok(steps)
}

/// The key that is written.
pub(super) fn key_of(write: &Write) -> &str {
    match write {
        Write::Put { key, .. } | Write::Delete { key } => key,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::LeaseId;

    fn seen(changed: u64, owner: i64) -> Seen {
        Seen { version: 5, changed: Revision(changed), owner, is_key: true, has_children: false }
    }

    fn put(key: &str, lease: Option<i64>) -> Write {
        Write::Put { key: key.to_owned(), value: b"v".to_vec(), lease: lease.map(LeaseId) }
    }

    fn delete(key: &str) -> Write {
        Write::Delete { key: key.to_owned() }
    }

    /// What becomes of it, as text. There are: the key `/k` of revision 7, `/e` with session 9, the folder `/f`, and `/p` with a
    /// key below it.
    fn planned(compares: Vec<Compare>, writes: Vec<Write>) -> String {
        let nodes = BTreeMap::from([
            ("/k".to_owned(), seen(7, 0)),
            ("/e".to_owned(), seen(8, 9)),
            ("/f".to_owned(), Seen { is_key: false, ..seen(3, 0) }),
            ("/p".to_owned(), Seen { has_children: true, ..seen(4, 0) }),
        ]);
        let folders = BTreeSet::from(["/f".to_owned()]);
        match plan("", &Transaction { compares, writes }, &nodes, &folders, 9) {
            Err(Blocked::Conflict) => "conflict".to_owned(),
            Err(Blocked::Refused(_)) => "refused".to_owned(),
            Ok(steps) => steps.iter().map(step).collect::<Vec<_>>().join(", "),
        }
    }

    fn step(step: &Step) -> String {
        match step {
            Step::Check { node, version } => format!("check {node} {version}"),
            Step::Folder { node } => format!("folder {node}"),
            Step::Create { node, ephemeral: true, .. } => format!("lease {node}"),
            Step::Create { node, .. } => format!("create {node}"),
            Step::Set { node, data, version } if data.is_empty() => format!("empty {node} {version}"),
            Step::Set { node, version, .. } => format!("set {node} {version}"),
            Step::Delete { node, version } => format!("delete {node} {version}"),
        }
    }

    #[test]
    fn compares() {
        let absent = |key: &str| Compare::Absent(key.to_owned());
        let unchanged = |key: &str, version| Compare::Unchanged(key.to_owned(), Revision(version));
        for (compares, expected) in [
            (vec![absent("/new"), absent("/f")], ""),
            (vec![absent("/k")], "conflict"),
            (vec![unchanged("/k", 7)], ""),
            (vec![unchanged("/k", 6)], "conflict"),
            (vec![unchanged("/new", 7)], "conflict"),
            (vec![unchanged("/new", 0)], ""),
            (vec![unchanged("/e", 8)], "check /e 5"),
        ] {
            assert_eq!(planned(compares.clone(), vec![]), expected, "{compares:?}");
        }
        assert_eq!(planned(vec![unchanged("/e", 8)], vec![delete("/e")]), "delete /e 5");
    }

    #[test]
    fn writes() {
        for (writes, expected) in [
            (vec![put("/new", None)], "create /new"),
            (vec![put("/new", Some(9))], "lease /new"),
            (vec![put("/k", None)], "set /k 5"),
            (vec![put("/e", Some(9))], "set /e 5"),
            (vec![put("/e", None)], "delete /e 5, create /e"),
            (vec![put("/k", Some(9))], "delete /k 5, lease /k"),
            (vec![put("/f", None)], "set /f 5"),
            (vec![put("/p", Some(9))], "refused"),
            (vec![put("/f/a", None), put("/f/b", None)], "create /f/a, create /f/b"),
            (vec![put("/n/m/a", None), put("/n/b", None)], "folder /n, folder /n/m, create /n/m/a, create /n/b"),
            (vec![put("/n/a", None), put("/n", None)], "folder /n, create /n/a, set /n 0"),
            (vec![put("/n", None), put("/n/a", None)], "create /n, create /n/a"),
            (vec![put("/k/a", None)], "create /k/a"),
            (vec![delete("/k")], "delete /k 5"),
            (vec![delete("/p")], "empty /p 5"),
            (vec![delete("/k"), put("/k/a", None)], "empty /k 5, create /k/a"),
            (vec![delete("/f"), delete("/new")], ""),
        ] {
            assert_eq!(planned(vec![], writes.clone()), expected, "{writes:?}");
        }
    }
}
