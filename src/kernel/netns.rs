//! Network namespaces by path: what a path leads to, and how to do something inside.
//!
//! A thread carries its network namespace with it, so nothing here ever changes that of the calling thread: [`within`]
//! starts a thread of its own, which ends with the one thing that it does. Threads of an async runtime are never moved.

use std::{
    fs::File,
    io::{self, ErrorKind},
    os::{
        fd::AsFd,
        unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::Path,
    thread,
};

use nix::{
    errno::Errno,
    fcntl::OFlag,
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

use super::KernelError;
use crate::model::NetnsRef;

/// What `path` leads to, if that is a network namespace other than the calling thread's. Refuses, each with its own
/// words: a missing path, one that is too long or has white space in it (the reference has to fit a link's alias), a thing
/// that is no network namespace, and the host's own namespace.
pub fn inspect(path: &str) -> Result<NetnsRef, KernelError> {
    let refuse = |reason: String| KernelError::new(format!("use {path:?} as a network namespace"), reason);
    if path.len() > NetnsRef::PATH_LEN_MAX {
        return Err(refuse(format!(
            "the path has {} bytes, at most {} can be kept",
            path.len(),
            NetnsRef::PATH_LEN_MAX
        )));
    }
    if path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(refuse(
            "the path has white space in it; give it a name without, such as by `ip netns attach`".into(),
        ));
    }
    if !Path::new(path).is_absolute() {
        return Err(refuse("the path is not absolute; the agent does not know your working directory".into()));
    }
    let file = open_file(path).map_err(refuse)?;
    let inode = inode_of(&file).map_err(|error| refuse(error.to_string()))?;
    if inode == own_inode().map_err(|error| refuse(format!("this thread's own namespace cannot be read: {error}")))? {
        return Err(refuse("it is the host's own namespace; a container needs one of its own".into()));
    }
    // Only entering tells a network namespace from one of another kind without an ioctl.
    within(&file, || ()).map_err(|error| match Errno::from_raw(error.raw_os_error().unwrap_or_default()) {
        Errno::EINVAL => refuse("it is a namespace of another kind, not a network namespace".into()),
        Errno::EPERM => refuse("entering it is not permitted; the agent needs CAP_SYS_ADMIN".into()),
        _ => refuse(format!("it cannot be entered: {error}")),
    })?;
    Ok(NetnsRef { path: path.to_owned(), inode })
}

/// Whether the path still leads to the same namespace. A path that leads to another one now (a name used again, a process
/// number used again) counts as gone.
pub fn is_alive(netns: &NetnsRef) -> bool {
    open(netns).is_ok()
}

/// Opens the namespace. Refuses if the path leads nowhere, or to something else than it did: the error names both inodes.
pub fn open(netns: &NetnsRef) -> Result<File, KernelError> {
    let refuse = |reason: String| KernelError::new(format!("open the network namespace {}", netns.path), reason);
    let file = open_file(&netns.path).map_err(refuse)?;
    match inode_of(&file) {
        Ok(inode) if inode == netns.inode => Ok(file),
        Ok(inode) => Err(refuse(format!(
            "the path leads to another namespace now: inode {inode} instead of {}; the container has gone",
            netns.inode
        ))),
        Err(error) => Err(refuse(error.to_string())),
    }
}

/// Runs `work` inside the namespace, on a thread of its own that ends with it, and waits for it. `work` is to be short: the
/// caller waits. Fails if the thread cannot be started or the namespace cannot be entered.
pub fn within<T: Send>(netns: &File, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("weft-netns".to_owned())
            .spawn_scoped(scope, || {
                setns(netns.as_fd(), CloneFlags::CLONE_NEWNET)?;
                Ok(work())
            })?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread inside the namespace panicked")))
    })
}

/// Opens what lies at `path` if it lies on nsfs. Never waits: a FIFO or a device at that path is opened without blocking.
fn open_file(path: &str) -> Result<File, String> {
    let file =
        File::options().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path).map_err(|error| {
            match error.kind() {
                ErrorKind::NotFound => "there is nothing at this path".to_owned(),
                ErrorKind::PermissionDenied => {
                    format!("{error}; the agent needs CAP_SYS_PTRACE for another user's process")
                }
                _ => error.to_string(),
            }
        })?;
    let on_nsfs = fstatfs(&file).map_err(|errno| errno.to_string())?.filesystem_type() == NSFS_MAGIC;
    if on_nsfs {
        return Ok(file);
    }
    let kind = file.metadata().map(|metadata| metadata.file_type());
    Err(match kind {
        Ok(kind) if kind.is_dir() => "it is a directory, not a namespace".to_owned(),
        Ok(kind) if kind.is_fifo() || kind.is_socket() || kind.is_char_device() || kind.is_block_device() => {
            "it is a device, pipe or socket, not a namespace".to_owned()
        }
        _ => {
            "it is a plain file, not a namespace; perhaps the namespace was unmounted and its file was left".to_owned()
        }
    })
}

fn inode_of(file: &File) -> io::Result<u64> {
    Ok(file.metadata()?.ino())
}

/// The inode of the calling thread's own network namespace.
fn own_inode() -> io::Result<u64> {
    Ok(std::fs::metadata("/proc/thread-self/ns/net")?.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_wrong_path_is_refused_in_its_own_words() {
        for (path, word) in [
            ("/run/netns/no-such-namespace", "nothing at this path"),
            ("/etc/passwd", "plain file"),
            ("/etc", "directory"),
            ("/dev/null", "device"),
            ("/proc/self/ns/net", "host's own"),
            ("/tmp/a b", "white space"),
            ("run/netns/x", "absolute"),
            (&"/x".repeat(100), "at most 128"),
        ] {
            let error = inspect(path).unwrap_err().to_string();
            assert!(error.contains(word), "{path}: {error}");
        }
    }

    #[test]
    fn a_path_that_leads_elsewhere_now_is_not_alive() {
        let inode = own_inode().unwrap();
        let here = NetnsRef { path: "/proc/thread-self/ns/net".to_owned(), inode };
        assert!(is_alive(&here));
        let elsewhere = NetnsRef { inode: inode + 1, ..here };
        assert!(!is_alive(&elsewhere));
        let error = open(&elsewhere).unwrap_err().to_string();
        assert!(error.contains(&inode.to_string()) && error.contains(&(inode + 1).to_string()), "{error}");
    }
}
