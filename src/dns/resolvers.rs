//! The host's own resolvers, as `resolv.conf` names them.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use nix::net::if_::if_nametoindex;
use tracing::{info, warn};

use super::{ADDRESSES, PORT};

/// More are not used (`MAXNS`, resolv.conf(5)).
const RESOLVERS_MAX: usize = 3;

/// A file larger than this is no `resolv.conf`.
const BYTES_MAX: u64 = 64 * 1024;

/// How often the file is looked at, at most. A person who changes it does not notice.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// The resolvers in a `resolv.conf`, in its order and as far as they are used. Our own addresses are left out: a container's file
/// may have found its way to the host. Without any the resolver is this host (resolv.conf(5)).
pub fn parse(text: &str) -> Vec<SocketAddr> {
    let lines = text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver")).then(|| words.next()).flatten()
    });
    let addresses = lines.filter_map(address).filter(|address| !ADDRESSES.contains(&address.ip()));
    let mut resolvers: Vec<SocketAddr> = addresses.take(RESOLVERS_MAX).collect();
    if resolvers.is_empty() {
        resolvers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
    }
    resolvers
}

/// An address, with `%` and a device where it is link-local (RFC 4007, 11).
fn address(word: &str) -> Option<SocketAddr> {
    let Some((address, device)) = word.split_once('%') else {
        return Some(SocketAddr::new(word.parse::<IpAddr>().ok()?, PORT));
    };
    let scope = device.parse().ok().or_else(|| if_nametoindex(device).ok())?;
    Some(SocketAddr::V6(SocketAddrV6::new(address.parse().ok()?, PORT, 0, scope)))
}

/// The resolvers of a file that may change at any time.
#[derive(Debug)]
pub(super) struct Resolvers {
    path: PathBuf,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    looked: Option<Instant>,
    stamp: Option<Stamp>,
    list: Arc<[SocketAddr]>,
}

/// What tells a changed file from the same (stat(2)): editors replace it, DHCP clients write it anew.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    len: u64,
    modified: (i64, i64),
}

impl Resolvers {
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, known: Mutex::default() }
    }

    /// The resolvers now.
    pub(super) fn now(&self) -> Arc<[SocketAddr]> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|looked| looked.elapsed() >= LOOK_INTERVAL) {
            known.looked = Some(Instant::now());
            self.look(&mut known);
        }
        Arc::clone(&known.list)
    }

    fn look(&self, known: &mut Known) {
        let stamp = fs::metadata(&self.path).ok().map(|data| Stamp {
            inode: data.ino(),
            len: data.len(),
            modified: (data.mtime(), data.mtime_nsec()),
        });
        if stamp == known.stamp && !known.list.is_empty() {
            return;
        }
        let text = match &stamp {
            Some(stamp) if stamp.len <= BYTES_MAX => read(&self.path),
            Some(_) => {
                warn!("{} is too long for a resolv.conf, so it is taken to be empty", self.path.display());
                String::new()
            }
            None => String::new(),
        };
        known.list = parse(&text).into();
        known.stamp = stamp;
        info!(resolvers = ?known.list, "names outside the cluster are asked of the host's resolvers");
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| {
        warn!("{} cannot be read, so it is taken to be empty: {error}", path.display());
        String::new()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf_is_read_as_the_resolver_does() {
        for (text, found) in [
            ("", &["127.0.0.1:53"][..]),
            ("# nameserver 192.0.2.9\n; x\nsearch a b\nnameserver 192.0.2.1\n", &["192.0.2.1:53"]),
            ("nameserver\t192.0.2.1\nnameserver 2001:db8::1 # x\n", &["192.0.2.1:53", "[2001:db8::1]:53"]),
            ("nameserver 169.254.1.1\nnameserver fd77:6566::1\nnameserver 192.0.2.1", &["192.0.2.1:53"]),
            ("nameserver 169.254.1.1", &["127.0.0.1:53"]),
            (
                "nameserver 192.0.2.1\nnameserver x\nnameserver 192.0.2.2\nnameserver 192.0.2.3\nnameserver 192.0.2.4",
                &["192.0.2.1:53", "192.0.2.2:53", "192.0.2.3:53"],
            ),
            ("nameserver fe80::1%1", &["[fe80::1%1]:53"]),
            ("nameserver fe80::1%lo", &["[fe80::1%1]:53"]),
            ("nameserver", &["127.0.0.1:53"]),
            ("nameserver 192.0.2.1%lo", &["127.0.0.1:53"]),
        ] {
            let resolvers: Vec<String> = parse(text).iter().map(ToString::to_string).collect();
            assert_eq!(resolvers, found, "{text:?}");
        }
    }

    #[test]
    fn a_replaced_file_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("resolv.conf");
        let resolvers = Resolvers::new(path.clone());
        let mut known = Known::default();
        for (text, first) in [(None, "127.0.0.1:53"), (Some("nameserver 192.0.2.1"), "192.0.2.1:53")] {
            if let Some(text) = text {
                fs::write(&path, text).unwrap();
            }
            resolvers.look(&mut known);
            assert_eq!(known.list[0].to_string(), first);
        }
    }
}
