use std::{
    fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use nix::unistd::Group;
use tokio::net::UnixListener;

/// Who may call besides root.
const GROUP: &str = "weft";

/// Listens at `path`, mode 0660, of the group `weft` where this host has one, in place of a socket that a dead agent left. Needs a tokio runtime around it.
///
/// Whether an agent lives is asked of a lock on `PATH.lock`, not of the socket: two agents that start at the same
/// time cannot both see a dead socket and both take its place.
pub(super) fn listen(path: &Path) -> Result<(UnixListener, SocketClaim), BindError> {
    let io_error = |action: &'static str, path: &Path| {
        let path = path.to_owned();
        move |reason| BindError::Io { action, path, reason }
    };
    if let Some(folder) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(folder).map_err(io_error("make the folder", folder))?;
    }

    let lock_path = with_suffix(path, ".lock");
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(io_error("open", &lock_path))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(BindError::InUse(path.to_owned())),
        Err(TryLockError::Error(source)) => return Err(io_error("lock", &lock_path)(source)),
    }

    match fs::symlink_metadata(path) {
        Ok(metadata) if !metadata.file_type().is_socket() => return Err(BindError::NotASocket(path.to_owned())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("look at", path)(error)),
    }

    // Under another name first: at its own name the socket never stands with a mode that the umask chose, and it
    // replaces a dead one without a moment of absence.
    let fresh = with_suffix(path, ".new");
    match fs::remove_file(&fresh) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(io_error("remove", &fresh)(error)),
    }
    let listener = UnixListener::bind(&fresh).map_err(io_error("listen at", &fresh))?;
    // Before the mode lets any group in. A host without the group, or one that cannot say, keeps it for root.
    give_to(GROUP, &fresh).map_err(io_error("give to the group weft", &fresh))?;
    fs::set_permissions(&fresh, Permissions::from_mode(0o660)).map_err(io_error("set the mode of", &fresh))?;
    fs::rename(&fresh, path).map_err(io_error("put the socket at", path))?;
    Ok((listener, SocketClaim { path: path.to_owned(), _lock: lock }))
}

fn give_to(group: &str, path: &Path) -> io::Result<()> {
    match Group::from_name(group) {
        Ok(Some(group)) => chown(path, None, Some(group.gid.as_raw())),
        Ok(None) | Err(_) => Ok(()),
    }
}

/// The right to a socket's path. Dropping it removes the socket.
#[derive(Debug)]
pub(super) struct SocketClaim {
    path: PathBuf,
    /// Held while the socket is ours; the kernel lets go of it when the process ends, however it ends.
    _lock: File,
}

/// Why the API's socket could not be made.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another living agent has it.
    #[error("cannot listen at {}: another agent is running there", .0.display())]
    InUse(PathBuf),
    /// Something that is not a socket has the name.
    #[error("cannot listen at {}: there is something that is not a socket; remove it or choose another --run-dir", .0.display())]
    NotASocket(PathBuf),
    /// The file system refused.
    #[error("cannot {action} {}: {reason}", path.display())]
    Io {
        /// What was wanted.
        action: &'static str,
        /// Of which file.
        path: PathBuf,
        /// Why not. It is in the message, so it is no source of it.
        reason: io::Error,
    },
}

impl Drop for SocketClaim {
    fn drop(&mut self) {
        // A socket that stays behind is harmless: the next agent replaces it.
        let _ = fs::remove_file(&self.path);
    }
}

fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut path = path.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

#[cfg(test)]
mod tests {
    use std::os::unix::{fs::MetadataExt as _, net::UnixListener as StdListener};

    use super::*;

    #[tokio::test]
    async fn a_dead_agents_socket_is_replaced_and_a_living_ones_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run/weft.sock");
        fs::create_dir(folder.path().join("run")).unwrap();
        drop(StdListener::bind(&path).unwrap());
        assert!(path.exists());

        let living = listen(&path).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
        let refused = listen(&path).unwrap_err();
        assert!(matches!(refused, BindError::InUse(_)), "{refused}");
        std::os::unix::net::UnixStream::connect(&path).unwrap();

        drop(living);
        assert!(!path.exists());
        listen(&path).unwrap();
    }

    #[test]
    fn a_group_that_is_there_gets_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let own = Group::from_gid(nix::unistd::getegid()).unwrap().unwrap();
        give_to(&own.name, file.path()).unwrap();
        give_to("no-such-group-as-this", file.path()).unwrap();
        assert_eq!(file.as_file().metadata().unwrap().gid(), own.gid.as_raw());
        assert!(give_to(&own.name, Path::new("/nowhere/weft.sock")).is_err());
    }

    #[tokio::test]
    async fn what_is_not_a_socket_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("weft.sock");
        fs::write(&path, "precious").unwrap();
        let refused = listen(&path).unwrap_err();
        assert!(matches!(refused, BindError::NotASocket(_)), "{refused}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }
}
