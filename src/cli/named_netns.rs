//! What `ip netns exec NAME` finds in a namespace that has a name: iproute2 puts the files of /etc/netns/NAME in the place of
//! those in /etc (ip-netns(8)).

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{
    resolver::{RESOLV_CONF, resolv_conf},
    warn,
};
use crate::api::{Operations, wire::EndpointView};

/// By its first line a file is known to be ours.
const FIRST_LINE: &str = "# Written by `weft attach`; `weft detach` removes it.\n";

/// A namespace with a name, by the folder of its files.
pub(super) struct NamedNetns {
    /// /run/netns/NAME.
    path: PathBuf,
    /// /etc/netns/NAME.
    folder: PathBuf,
}

impl NamedNetns {
    /// The namespace that a path leads to, if iproute2 would find it by a name.
    pub(super) fn of_path(path: &str) -> Option<Self> {
        let path = Path::new(path);
        let is_named = ["/run/netns", "/var/run/netns"].iter().any(|folder| path.parent() == Some(Path::new(folder)));
        let folder = Path::new("/etc/netns").join(path.file_name()?);
        is_named.then(|| Self { path: path.to_owned(), folder })
    }

    /// Has its programs ask the node for names, unless somebody has written a resolv.conf for it. It may fail, where /etc cannot
    /// be written: the endpoint is attached all the same.
    pub(super) fn write_resolv_conf(&self, endpoint: &EndpointView) {
        // The agent may have found it in another file system than this process sees.
        if !self.path.exists() {
            return;
        }
        match self.read() {
            Ok(text) if !is_ours(&text) => return,
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                warn(&format!(
                    "{} stays as it is, for it cannot be read: {error}; programs that `ip netns exec` starts ask for names \
                     where it says",
                    self.resolv_conf().display()
                ));
                return;
            }
            Ok(_) | Err(_) => {}
        }
        let of_host = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
        let text = format!("{FIRST_LINE}{}", resolv_conf(&endpoint.resolvers(), &of_host));
        let written = fs::create_dir_all(&self.folder).and_then(|()| fs::write(self.resolv_conf(), text));
        if let Err(error) = written {
            warn(&format!(
                "cannot write {}: {error}; programs that `ip netns exec` starts ask the host's resolvers for names",
                self.resolv_conf().display()
            ));
        }
    }

    /// Takes our resolv.conf away, and the folder if nothing else is in it; somebody else's stays.
    pub(super) fn remove_resolv_conf(&self) {
        if !self.read().is_ok_and(|text| is_ours(&text)) {
            return;
        }
        if let Err(error) = fs::remove_file(self.resolv_conf()) {
            warn(&format!("cannot remove {}: {error}", self.resolv_conf().display()));
        }
        // It fails as long as there are other files, which is right.
        let _ = fs::remove_dir(&self.folder);
    }

    /// The named namespace of an endpoint of this node that is about to be detached, if no other endpoint is in it.
    pub(super) async fn left_by(agent: &impl Operations, endpoint: &str) -> Option<Self> {
        let leaving = agent.endpoint_inspect(endpoint).await.ok()?;
        let named = Self::of_path(&leaving.netns)?;
        let others = agent.endpoint_list().await.ok()?;
        let stays = |other: &EndpointView| {
            other.id != leaving.id && (&other.node, &other.netns) == (&leaving.node, &leaving.netns)
        };
        (!others.iter().any(stays)).then_some(named)
    }

    /// The named namespaces of all endpoints of the node that is asked; none if it cannot tell.
    pub(super) async fn all_of_node(agent: &impl Operations) -> Vec<Self> {
        let (Ok(status), Ok(endpoints)) = (agent.status().await, agent.endpoint_list().await) else {
            return Vec::new();
        };
        let me = status.node.map(|node| node.name);
        let own = endpoints.iter().filter(|endpoint| Some(&endpoint.node) == me.as_ref());
        own.filter_map(|endpoint| Self::of_path(&endpoint.netns)).collect()
    }

    fn resolv_conf(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    /// Its bytes: what somebody else has written need not be UTF-8.
    fn read(&self) -> io::Result<Vec<u8>> {
        fs::read(self.resolv_conf())
    }
}

fn is_ours(text: &[u8]) -> bool {
    text.starts_with(FIRST_LINE.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_namespace_is_known_by_its_path() {
        for (path, folder) in [
            ("/run/netns/web1", Some("/etc/netns/web1")),
            ("/var/run/netns/web1", Some("/etc/netns/web1")),
            ("/run/docker/netns/web1", None),
            ("/run/netns", None),
            ("/run/netns/..", None),
            ("/proc/4711/ns/net", None),
        ] {
            assert_eq!(NamedNetns::of_path(path).map(|named| named.folder), folder.map(PathBuf::from), "{path}");
        }
    }

    #[test]
    fn only_what_is_ours_is_written_and_removed() {
        let etc = tempfile::tempdir().unwrap();
        let named = NamedNetns { path: etc.path().to_owned(), folder: etc.path().join("netns/web1") };
        let endpoint = EndpointView {
            id: "00000000000000a1".into(),
            name: "web-1".into(),
            network: "blue".into(),
            addresses: vec!["10.9.0.1".into(), "fd00::1".into()],
            node: "n1".into(),
            service: None,
            state: crate::api::wire::EndpointState::Ready,
            aliases: vec![],
            weight: 1,
            ifname: "eth0".into(),
            netns: "/run/netns/web1".into(),
            link: "weft.00000000a1".into(),
            mac: "02:00:0a:c9:00:01".into(),
            fault: None,
        };
        for _ in 0..2 {
            named.write_resolv_conf(&endpoint);
            let text = String::from_utf8(named.read().unwrap()).unwrap();
            assert!(
                is_ours(text.as_bytes()) && text.contains("\nnameserver 169.254.1.1\nnameserver fd77:6566::1\n"),
                "{text}"
            );
        }
        named.remove_resolv_conf();
        assert!(!named.folder.exists());
        named.remove_resolv_conf();

        fs::create_dir(&named.folder).unwrap();
        for theirs in [&b"nameserver 192.0.2.1\n"[..], b"# \xe4\nnameserver 192.0.2.1\n", b""] {
            fs::write(named.resolv_conf(), theirs).unwrap();
            named.write_resolv_conf(&endpoint);
            named.remove_resolv_conf();
            assert_eq!(named.read().unwrap(), theirs);
        }
        // What cannot be read, though something is there: here a symbolic link to itself.
        fs::remove_file(named.resolv_conf()).unwrap();
        std::os::unix::fs::symlink("resolv.conf", named.resolv_conf()).unwrap();
        named.write_resolv_conf(&endpoint);
        named.remove_resolv_conf();
        assert!(fs::symlink_metadata(named.resolv_conf()).unwrap().is_symlink());
    }
}
