//! Who this node is, on disk: which cluster, which number, which store. Written once at `init` or `join`, gone at `leave`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};

use crate::{
    model::{ClusterId, Name, NodeId},
    store::StoreUrl,
};

const FILE: &str = "identity.json";
/// Format 1 had a token of its own for each node and no certificates.
const FORMAT: u32 = 2;

/// A node's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Identity {
    /// The cluster.
    pub(super) cluster: ClusterId,
    /// This node's number in it.
    pub(super) node: NodeId,
    /// This node's name in it.
    pub(super) name: Name,
    /// The address that it advertises.
    pub(super) underlay: IpAddr,
    /// Where the store is.
    pub(super) store: StoreUrl,
}

/// What all formats have.
#[derive(Deserialize)]
struct Format {
    v: u32,
}

/// As on disk.
#[derive(Serialize, Deserialize)]
struct Record {
    v: u32,
    cluster: String,
    node: u16,
    name: String,
    underlay: IpAddr,
    store: String,
}

impl Identity {
    /// Reads the identity; nothing if this node belongs to no cluster.
    pub(super) fn load(data_dir: &Path) -> anyhow::Result<Option<Self>> {
        let path = path(data_dir);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        match serde_json::from_str(&text) {
            Ok(Format { v }) if v > FORMAT => bail!(
                "{} was written by a newer weft (format {v}, this one reads {FORMAT}): upgrade this node",
                path.display()
            ),
            Ok(Format { v: 1 }) => bail!(
                "{} is of format 1, from before nodes had certificates, and its cluster cannot be gone on with: \
                 remove {} and begin anew with `weft init` or `weft join`",
                path.display(),
                data_dir.display()
            ),
            Ok(Format { .. }) | Err(_) => {}
        }
        let identity = Self::decode(&text).with_context(|| {
            format!("{} is damaged: put it back from a backup, or remove it and join again", path.display())
        })?;
        Ok(Some(identity))
    }

    /// Writes the identity so that after a power loss it is there whole or not at all.
    pub(super) fn save(&self, data_dir: &Path) -> anyhow::Result<()> {
        let path = path(data_dir);
        let staged = path.with_extension("json.new");
        let write = || -> io::Result<()> {
            fs::create_dir_all(data_dir)?;
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&staged)?;
            file.write_all(self.encode()?.as_bytes())?;
            file.sync_all()?;
            fs::rename(&staged, &path)?;
            File::open(data_dir)?.sync_all()
        };
        write().with_context(|| format!("cannot write {}", path.display())).inspect_err(|_| {
            // What is not there for certain must not be found at the next start.
            let _ = fs::remove_file(&staged);
            let _ = fs::remove_file(&path);
        })
    }

    /// Forgets the membership.
    pub(super) fn remove(data_dir: &Path) -> anyhow::Result<()> {
        let path = path(data_dir);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(error).with_context(|| format!("cannot remove {}", path.display()))
            }
            _ => Ok(()),
        }
    }

    fn encode(&self) -> io::Result<String> {
        let record = Record {
            v: FORMAT,
            cluster: self.cluster.to_string(),
            node: self.node.get(),
            name: self.name.to_string(),
            underlay: self.underlay,
            store: self.store.exposed(),
        };
        Ok(serde_json::to_string_pretty(&record)? + "\n")
    }

    fn decode(text: &str) -> anyhow::Result<Self> {
        let record: Record = serde_json::from_str(text)?;
        if record.v != FORMAT {
            bail!("it is of format {}, and this weft reads {FORMAT}", record.v);
        }
        Ok(Self {
            cluster: record.cluster.parse().map_err(anyhow::Error::msg)?,
            node: NodeId::new(record.node).context("its node number is out of range")?,
            name: record.name.parse()?,
            underlay: record.underlay,
            store: record.store.parse()?,
        })
    }
}

fn path(data_dir: &Path) -> PathBuf {
    data_dir.join(FILE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_on_disk_and_a_damaged_one_is_told() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), None);
        let identity = Identity {
            cluster: ClusterId(7),
            node: NodeId::new(3).unwrap(),
            name: "node3".parse().unwrap(),
            underlay: "192.0.2.3".parse().unwrap(),
            store: "etcd://192.0.2.1:7780?user=root:secret".parse().unwrap(),
        };
        identity.save(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), Some(identity));
        fs::write(path(dir.path()), "{").unwrap();
        assert!(format!("{:#}", Identity::load(dir.path()).unwrap_err()).contains("damaged"));
        fs::write(path(dir.path()), "{\"v\": 1, \"cluster_key\": \"00\"}").unwrap();
        let older = format!("{:#}", Identity::load(dir.path()).unwrap_err());
        assert!(older.contains("format 1") && older.contains("weft join"), "{older}");
        fs::write(path(dir.path()), "{\"v\": 3, \"seat\": 7}").unwrap();
        let newer = format!("{:#}", Identity::load(dir.path()).unwrap_err());
        assert!(newer.contains("newer weft") && !newer.contains("damaged"), "{newer}");
        Identity::remove(dir.path()).unwrap();
        Identity::remove(dir.path()).unwrap();
        assert_eq!(Identity::load(dir.path()).unwrap(), None);
    }
}
