//! Files of a command's own, in a mount namespace of its own.

use std::{fs, io, os::unix::fs::PermissionsExt, path::Path};

use nix::{
    mount::{MntFlags, MsFlags, mount, umount2},
    sched::{CloneFlags, unshare},
};

use crate::cli::resolver::RESOLV_CONF;

const HOSTS: &str = "/etc/hosts";

/// Where the files are made: a folder that is there on every host on which weft runs. It is covered for a moment, and in the
/// command's namespace alone.
const WORKSHOP: &str = "/proc";

/// Folders in which the host's own name services listen. What asks there (the NSS module `resolve`, glibc by `nscd`) is
/// answered with the host's names and never gets to [`RESOLV_CONF`].
const NAME_SERVICES: [&str; 2] = ["/run/systemd/resolve", "/run/nscd"];

/// What the command finds under its two paths.
pub(in crate::cli) struct Files {
    /// [`RESOLV_CONF`].
    pub(in crate::cli) resolv_conf: String,
    /// /etc/hosts.
    pub(in crate::cli) hosts: String,
}

impl Files {
    /// Gives this process, which has one thread, a mount namespace in which these stand for the host's files.
    ///
    /// The files lie in a file system in memory that is nowhere mounted but on their paths: it ends with the last process of
    /// the namespace, however that ends. What the host mounts and unmounts later arrives here (else a command that runs for
    /// long would keep the host's disks busy); nothing goes from here to the host (mount_namespaces(7), "slave").
    ///
    /// A host without one of the files has nothing to put a mount on: the command has none either.
    pub(super) fn install(&self) -> Result<(), String> {
        unshare(CloneFlags::CLONE_NEWNS).map_err(|error| format!("cannot make a mount namespace: {}", error.desc()))?;
        attach(None, Path::new("/"), None, MsFlags::MS_REC | MsFlags::MS_SLAVE, None)?;
        let workshop = Path::new(WORKSHOP);
        let in_memory = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        attach(Some("tmpfs"), workshop, Some("tmpfs"), in_memory, Some("mode=0755,size=1m"))?;
        let (resolv_conf, hosts) = (workshop.join("resolv.conf"), workshop.join("hosts"));
        make(&resolv_conf, &self.resolv_conf)?;
        make(&hosts, &self.hosts)?;
        for (index, folder) in NAME_SERVICES.iter().map(Path::new).enumerate() {
            if folder.is_dir() {
                let empty = workshop.join(index.to_string());
                fs::create_dir(&empty).map_err(|error| told("make", &empty, &error))?;
                // A host's resolv.conf may lead to one of these in the hidden folder.
                make(&empty.join("resolv.conf"), &self.resolv_conf)?;
                make(&empty.join("stub-resolv.conf"), &self.resolv_conf)?;
                bind(&empty, folder)?;
            }
        }
        for (from, to) in [(&resolv_conf, Path::new(RESOLV_CONF)), (&hosts, Path::new(HOSTS))] {
            if to.exists() {
                bind(from, to)?;
            }
        }
        umount2(workshop, MntFlags::MNT_DETACH).map_err(|error| told("uncover", workshop, &error.into()))
    }
}

/// For everybody to read, whatever the caller's umask.
fn make(path: &Path, text: &str) -> Result<(), String> {
    let made = fs::write(path, text).and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o644)));
    made.map_err(|error| told("make", path, &error))
}

fn bind(from: &Path, to: &Path) -> Result<(), String> {
    attach(from.to_str(), to, None, MsFlags::MS_BIND, None)
}

fn attach(
    source: Option<&str>,
    target: &Path,
    kind: Option<&str>,
    flags: MsFlags,
    data: Option<&str>,
) -> Result<(), String> {
    mount(source, target, kind, flags, data).map_err(|error| told("mount on", target, &error.into()))
}

fn told(what: &str, path: &Path, error: &io::Error) -> String {
    format!("cannot {what} {}: {error}", path.display())
}
