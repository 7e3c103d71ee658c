//! Which node holds which key.
//!
//! The key `/weft/v1/nodes/3` is the node `ROOT/weft/v1/nodes/3`. A node above a key is a folder and has no data; that of a key
//! has [`MARK`] and the value, so that a key can have keys below it, and a folder is no key. Names that ZooKeeper does not take
//! (empty ones, dots, what is not printable ASCII) are percent-encoded (RFC 3986, 2.1); weft's own keys have none.

use std::fmt::Write as _;

use crate::store::url::unescape;

/// What stands before a key's value in its node's data. Without it an empty value would be a folder's.
const MARK: u8 = b'=';

/// The node that every commit counts up, directly under the root. No key has it: `%re` is not what encoding makes.
const COUNTER: &str = "%revision";

/// A name that means something to the server where it stands at the top of the tree.
const RESERVED: &str = "zookeeper";

/// The node of a key; nothing for one that does not begin with a slash.
pub(super) fn of_key(root: &str, key: &str) -> Option<String> {
    let mut node = root.to_owned();
    for name in key.strip_prefix('/')?.split('/') {
        node.push('/');
        node.push_str(&encode(name));
    }
    Some(node)
}

/// The key of a node; nothing for one that no key has.
pub(super) fn key_of(root: &str, node: &str) -> Option<String> {
    let mut key = String::new();
    for name in node.strip_prefix(root)?.strip_prefix('/')?.split('/') {
        key.push('/');
        key.push_str(&decode(name)?);
    }
    Some(key)
}

/// The deepest node that all keys with `prefix` lie under; nothing if no key can have it.
pub(super) fn folder_of(root: &str, prefix: &str) -> Option<String> {
    let folder = match prefix.rfind('/') {
        None if prefix.is_empty() => root.to_owned(),
        None => return None,
        Some(0) if prefix.starts_with('/') => root.to_owned(),
        Some(end) => of_key(root, &prefix[..end])?,
    };
    Some(if folder.is_empty() { "/".to_owned() } else { folder })
}

/// The node of a name in a folder.
pub(super) fn child(folder: &str, name: &str) -> String {
    format!("{}/{name}", folder.trim_end_matches('/'))
}

/// The node above; the root's own is itself.
pub(super) fn parent(node: &str) -> &str {
    match node.rfind('/') {
        None | Some(0) => "/",
        Some(end) => &node[..end],
    }
}

/// The folders between the root and a node, the uppermost first.
pub(super) fn folders_above<'a>(root: &str, node: &'a str) -> impl Iterator<Item = &'a str> {
    let first = root.len() + 1;
    node.match_indices('/').map(|(at, _)| at).filter(move |at| *at >= first).map(|at| &node[..at])
}

/// The node that every commit counts up.
pub(super) fn counter(root: &str) -> String {
    child(root, COUNTER)
}

/// A key's data.
pub(super) fn data_of(value: &[u8]) -> Vec<u8> {
    let mut data = Vec::with_capacity(value.len() + 1);
    data.push(MARK);
    data.extend_from_slice(value);
    data
}

/// The value in a key's data; nothing in a folder's.
pub(super) fn value_in(mut data: Vec<u8>) -> Option<Vec<u8>> {
    (data.first() == Some(&MARK)).then(|| {
        data.remove(0);
        data
    })
}

fn encode(name: &str) -> String {
    if name.is_empty() {
        return "%".to_owned();
    }
    let all_dots = name == "." || name == "..";
    let mut encoded = String::with_capacity(name.len());
    for (at, byte) in name.bytes().enumerate() {
        let plain = matches!(byte, b' '..=b'~') && byte != b'%' && !all_dots && !(name == RESERVED && at == 0);
        if plain {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// Nothing for what [`encode`] does not make: such a node is somebody else's.
fn decode(name: &str) -> Option<String> {
    if name == "%" {
        return Some(String::new());
    }
    let decoded = unescape(name)?;
    (encode(&decoded) == name).then_some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_and_nodes() {
        for (key, node) in [
            ("/weft/v1/nodes/3", "/weft/v1/nodes/3"),
            ("/weft/v1/endpoints/2/fd00::1", "/weft/v1/endpoints/2/fd00::1"),
            ("/", "/%"),
            ("/a/", "/a/%"),
            ("/a//b", "/a/%/b"),
            ("/./..", "/%2E/%2E%2E"),
            ("/...", "/..."),
            ("/a b%", "/a b%25"),
            ("/\u{10ffff}", "/%F4%8F%BF%BF"),
            ("/zookeeper/x", "/%7Aookeeper/x"),
        ] {
            for root in ["", "/clusters/a"] {
                let node = format!("{root}{node}");
                assert_eq!(of_key(root, key).as_ref(), Some(&node), "{key}");
                assert_eq!(key_of(root, &node).as_deref(), Some(key), "{node}");
            }
        }
        assert_eq!(of_key("", "a"), None);
        for foreign in ["/zookeeper/quota", "/%revision", "/%41", "/%4", "/%ff", "/%FF"] {
            assert_eq!(key_of("", foreign), None, "{foreign}");
        }
        assert_eq!(key_of("/a", "/b/c"), None);
        assert_eq!(key_of("/a", "/ab/c"), None);
    }

    #[test]
    fn folders() {
        for (prefix, folder) in [
            ("", Some("/r")),
            ("/", Some("/r")),
            ("/weft", Some("/r")),
            ("/weft/v1/", Some("/r/weft/v1")),
            ("/weft/v1/nodes/3", Some("/r/weft/v1/nodes")),
            ("/a//b", Some("/r/a/%")),
            ("a", None),
            ("a/b", None),
        ] {
            assert_eq!(folder_of("/r", prefix).as_deref(), folder, "{prefix}");
        }
        assert_eq!(folder_of("", "/weft").as_deref(), Some("/"));
        assert_eq!(child("/", "a"), "/a");
        assert_eq!(child("/a", "b"), "/a/b");
        assert_eq!((parent("/a/b"), parent("/a")), ("/a", "/"));
        assert_eq!(folders_above("", "/a/b/c").collect::<Vec<_>>(), ["/a", "/a/b"]);
        assert_eq!(folders_above("/a", "/a/b/c").collect::<Vec<_>>(), ["/a/b"]);
    }

    #[test]
    fn a_folder_is_no_key() {
        assert_eq!(value_in(data_of(b"")), Some(vec![]));
        assert_eq!(value_in(data_of(b"=x")), Some(b"=x".to_vec()));
        assert_eq!(value_in(vec![]), None);
        assert_eq!(value_in(b"another's".to_vec()), None);
    }
}
