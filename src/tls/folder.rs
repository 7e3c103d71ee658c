//! A node's credentials on disk: `ca.pem`, `ca.key`, `node.pem` and `node.key` in a folder that only root looks into.
//!
//! The folder comes whole or not at all, by one rename; after that `node.pem` alone is written anew. It is there for people:
//! `etcdctl --cacert ca.pem --cert node.pem --key node.key`.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::SystemTime,
};

use super::{
    TlsError,
    authority::{Authority, NodeNames, unusable},
    credentials::{Credentials, KeyPair},
};

/// The folder's name within the agent's.
const NAME: &str = "tls";
const CA_CERTIFICATE: &str = "ca.pem";
const CA_KEY: &str = "ca.key";
const CERTIFICATE: &str = "node.pem";
const KEY: &str = "node.key";

impl Credentials {
    /// Writes them all under `data_dir`, in place of what was there.
    pub fn save(&self, data_dir: &Path) -> Result<(), TlsError> {
        let folder = data_dir.join(NAME);
        let staged = data_dir.join("tls.new");
        let write = || -> io::Result<()> {
            remove_folder(&staged)?;
            DirBuilder::new().recursive(true).create(data_dir)?;
            DirBuilder::new().mode(0o700).create(&staged)?;
            for (name, text) in [
                (CA_CERTIFICATE, self.authority().certificate_pem()),
                (CA_KEY, self.authority().key_pem()),
                (CERTIFICATE, self.certificate_pem()),
                (KEY, self.key_pem()),
            ] {
                write_file(&staged.join(name), text.as_bytes())?;
            }
            File::open(&staged)?.sync_all()?;
            remove_folder(&folder)?;
            fs::rename(&staged, &folder)?;
            File::open(data_dir)?.sync_all()
        };
        write().map_err(|error| failed(&folder, &error)).inspect_err(|_| {
            let _ = remove_folder(&staged);
        })
    }

    /// Writes the certificate anew.
    pub fn save_certificate(&self, data_dir: &Path) -> Result<(), TlsError> {
        let path = data_dir.join(NAME).join(CERTIFICATE);
        let staged = path.with_extension("pem.new");
        let write = || -> io::Result<()> {
            write_file(&staged, self.certificate_pem().as_bytes())?;
            fs::rename(&staged, &path)
        };
        write().map_err(|error| failed(&path, &error))
    }

    /// Reads them back, with a fresh certificate.
    pub fn load(data_dir: &Path, names: NodeNames, now: SystemTime) -> Result<Self, TlsError> {
        let folder = data_dir.join(NAME);
        let read = |name: &str| {
            let path = folder.join(name);
            fs::read_to_string(&path).map_err(|error| failed(&path, &error))
        };
        let damaged = |error: TlsError| failed(&folder, &error);
        let authority = Authority::from_pem(&read(CA_CERTIFICATE)?, &read(CA_KEY)?).map_err(damaged)?;
        let key = rcgen::KeyPair::from_pem(&read(KEY)?).map_err(|error| damaged(unusable(error)))?;
        Self::of(authority, names, KeyPair(key), now).map_err(damaged)
    }

    /// Removes what [`Self::save`] wrote; nothing there is fine.
    pub fn remove(data_dir: &Path) -> Result<(), TlsError> {
        let folder = data_dir.join(NAME);
        remove_folder(&folder).map_err(|error| failed(&folder, &error))
    }
}

fn write_file(path: &PathBuf, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn failed(path: &Path, reason: &impl ToString) -> TlsError {
    TlsError::File { path: path.display().to_string(), reason: reason.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn credentials_survive_on_disk_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let names = NodeNames { cluster: "7".into(), node: "a".into(), underlay: "192.0.2.1".parse().unwrap() };
        let now = SystemTime::now();
        let missing = Credentials::load(dir.path(), names.clone(), now).unwrap_err();
        assert!(missing.to_string().contains("ca.pem"), "{missing}");
        let made = Credentials::make(Authority::make("7").unwrap(), names.clone(), now).unwrap();
        // Twice: what an earlier attempt left is no hindrance.
        made.save(dir.path()).unwrap();
        made.save(dir.path()).unwrap();
        let folder = dir.path().join(NAME);
        let permissions = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(permissions(&folder), 0o700);
        for file in fs::read_dir(&folder).unwrap() {
            assert_eq!(permissions(&file.unwrap().path()), 0o600);
        }
        let read = Credentials::load(dir.path(), names.clone(), now).unwrap();
        assert_eq!(read.fingerprint(), made.fingerprint());
        assert_eq!(read.authority().certificate(), made.authority().certificate());
        // Renewed, it is another certificate of the same key pair.
        let later = now + std::time::Duration::from_hours(24 * 80);
        assert!(!read.renew_if_due(now).unwrap());
        assert!(read.renew_if_due(later).unwrap());
        read.save_certificate(dir.path()).unwrap();
        assert_ne!(read.certificate_pem(), made.certificate_pem());
        assert_eq!(fs::read_to_string(folder.join(CERTIFICATE)).unwrap(), read.certificate_pem());
        assert_eq!(permissions(&folder.join(CERTIFICATE)), 0o600);
        fs::write(folder.join(KEY), "hush").unwrap();
        let damaged = Credentials::load(dir.path(), names, now).unwrap_err().to_string();
        assert!(damaged.contains("tls") && !damaged.contains("hush"), "{damaged}");
        Credentials::remove(dir.path()).unwrap();
        Credentials::remove(dir.path()).unwrap();
        assert!(!folder.exists());
    }
}
