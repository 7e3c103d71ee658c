//! What the agent is told at start: `weft.toml`, and flags that win over it.

use std::{
    fs, io,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};
use serde::Deserialize;

use super::{Options, identity::Identity};
use crate::model::{MarkMask, Name};

/// The configuration file that is read if it is there and no other is named.
const DEFAULT_FILE: &str = "/etc/weft/weft.toml";
const DEFAULT_DATA_DIR: &str = "/var/lib/weft";
const DEFAULT_RUN_DIR: &str = "/run/weft";
const DEFAULT_RESOLV_CONF: &str = "/etc/resolv.conf";
const DEFAULT_METRICS: &str = "127.0.0.1:7790";

/// Everything settled, nothing left to default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Config {
    /// This node's name, for when it joins a cluster.
    pub(super) node: Name,
    /// Whether somebody chose that name, and it is not just the host's.
    pub(super) is_node_given: bool,
    /// The underlay address to advertise; without one, that of the default route.
    pub(super) advertise: Option<IpAddr>,
    /// What must survive a reboot: identity, store.
    pub(super) data_dir: PathBuf,
    /// What must not: the API's socket.
    pub(super) run_dir: PathBuf,
    /// Where metrics are served, if anywhere.
    pub(super) metrics: Option<SocketAddr>,
    /// The bits of the packet mark that are ours.
    pub(super) mark_mask: MarkMask,
    /// The file that names the host's own resolvers, which are asked for names outside the cluster.
    pub(super) resolv_conf: PathBuf,
}

/// `weft.toml` as written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
struct File {
    node: Option<String>,
    advertise: Option<String>,
    data_dir: Option<PathBuf>,
    run_dir: Option<PathBuf>,
    metrics: Option<String>,
    mark_mask: Option<String>,
    resolv_conf: Option<PathBuf>,
}

impl Config {
    /// Reads the file and lays the flags over it. Every error names the file or flag and the word that is wrong.
    pub(super) fn load(options: Options) -> anyhow::Result<Self> {
        let Options { config, node, advertise, data_dir, run_dir, metrics } = options;
        let file = read_file(config.as_deref())?;
        let given = node.or(file.node);
        let is_node_given = given.is_some();
        let node = match given {
            Some(node) => node.parse().context("the node's name (--node) is wrong")?,
            None => host_name()?,
        };
        let advertise = advertise.or(file.advertise).map(|text| address(&text)).transpose()?;
        let metrics = match metrics.or(file.metrics).as_deref().unwrap_or(DEFAULT_METRICS) {
            "off" => None,
            text => Some(text.parse().with_context(|| format!("--metrics {text:?} is neither ADDR:PORT nor `off`"))?),
        };
        let mark_mask = match file.mark_mask {
            Some(text) => text.parse().map_err(|error| anyhow::anyhow!("mark-mask in the configuration: {error}"))?,
            None => MarkMask::DEFAULT,
        };
        Ok(Self {
            node,
            is_node_given,
            advertise,
            data_dir: data_dir.or(file.data_dir).unwrap_or_else(|| DEFAULT_DATA_DIR.into()),
            run_dir: run_dir.or(file.run_dir).unwrap_or_else(|| DEFAULT_RUN_DIR.into()),
            metrics,
            mark_mask,
            resolv_conf: file.resolv_conf.unwrap_or_else(|| DEFAULT_RESOLV_CONF.into()),
        })
    }

    /// What is said here and does not hold, a line each: a node keeps the name and the address that it has joined with.
    pub(super) fn not_applied(&self, identity: &Identity) -> Vec<String> {
        let Identity { name, underlay, .. } = identity;
        let node = (self.is_node_given && self.node != *name)
            .then(|| format!("the name {} (--node) is not applied: this node has joined as {name}", self.node));
        let advertise = self.advertise.filter(|given| given != underlay).map(|given| {
            format!("the address {given} (--advertise) is not applied: this node has joined with {underlay}")
        });
        let mend = |what| format!("{what}; to change it, let the node leave and join again");
        node.into_iter().chain(advertise).map(mend).collect()
    }

    /// Where the API listens.
    pub(super) fn socket(&self) -> PathBuf {
        self.run_dir.join("weft.sock")
    }
}

fn read_file(named: Option<&Path>) -> anyhow::Result<File> {
    let path = named.unwrap_or(Path::new(DEFAULT_FILE));
    match fs::read_to_string(path) {
        Ok(text) => toml::from_str(&text).map_err(|error| {
            // Its own words come with a drawing of several lines.
            let line =
                error.span().map_or(1, |span| 1 + text.bytes().take(span.start).filter(|byte| *byte == b'\n').count());
            anyhow::anyhow!("cannot read the configuration {}, line {line}: {}", path.display(), error.message())
        }),
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => Ok(File::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read the configuration {}", path.display())),
    }
}

fn address(text: &str) -> anyhow::Result<IpAddr> {
    let address: IpAddr = text.parse().with_context(|| format!("--advertise {text:?} is not an IP address"))?;
    if address.is_loopback() || address.is_unspecified() || address.is_multicast() {
        bail!("--advertise {address} is not an address that other hosts can send to");
    }
    Ok(address)
}

/// The host's name as a node name: the first label, in lower case.
fn host_name() -> anyhow::Result<Name> {
    let host = nix::unistd::gethostname().context("cannot read this host's name; name the node with --node")?;
    let host = host.to_string_lossy().to_lowercase();
    let label = host.split('.').next().unwrap_or_default();
    label.parse().with_context(|| format!("this host's name {host:?} cannot be a node's; name the node with --node"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        model::{ClusterId, NodeId},
        store::StoreUrl,
    };

    fn load(file: &str, options: Options) -> anyhow::Result<Config> {
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("weft.toml");
        fs::write(&path, file)?;
        Config::load(Options { config: Some(path), ..options })
    }

    #[test]
    fn flags_win_over_the_file() {
        let file = "node = \"a\"\nadvertise = \"192.0.2.1\"\nmetrics = \"off\"\nmark-mask = \"0xfff\"\n";
        let config = load(file, Options { node: Some("b".into()), ..Options::default() }).unwrap();
        assert_eq!(config.node.as_str(), "b");
        assert_eq!(config.advertise, Some("192.0.2.1".parse().unwrap()));
        assert_eq!((config.metrics, config.mark_mask.bits()), (None, 0xfff));
        assert_eq!(config.data_dir, Path::new(DEFAULT_DATA_DIR));
    }

    #[test]
    fn what_differs_from_the_identity_is_told() {
        let identity = Identity {
            cluster: ClusterId(7),
            node: NodeId::new(3).unwrap(),
            name: "a".parse().unwrap(),
            underlay: "192.0.2.3".parse().unwrap(),
            store: StoreUrl::embedded(),
        };
        for (file, told) in [
            ("", &[][..]),
            ("node = \"a\"\nadvertise = \"192.0.2.3\"", &[]),
            ("node = \"b\"", &["the name b (--node)"]),
            (
                "node = \"b\"\nadvertise = \"192.0.2.4\"",
                &["the name b (--node)", "the address 192.0.2.4 (--advertise)"],
            ),
        ] {
            let differences = load(file, Options::default()).unwrap().not_applied(&identity);
            assert_eq!(differences.len(), told.len(), "{file:?}: {differences:?}");
            for (difference, begin) in differences.iter().zip(told) {
                assert!(difference.starts_with(begin), "{difference}");
            }
        }
    }

    #[test]
    fn every_wrong_word_is_named() {
        for (file, flag, named) in [
            ("nod = \"a\"", None, "unknown field `nod`"),
            ("node = 7", None, "line 1: invalid type"),
            ("node = \"a\"\nmetrics = 7", None, "line 2: invalid type"),
            ("node = \"A\"", None, "\"A\""),
            ("node = \"a\"\nadvertise = \"127.0.0.1\"", None, "127.0.0.1"),
            ("node = \"a\"\nadvertise = \"here\"", None, "\"here\""),
            ("node = \"a\"\nmetrics = \"7790\"", None, "\"7790\""),
            ("node = \"a\"\nmark-mask = \"0xff\"", None, "mask"),
            ("node = \"a\"", Some("not a name"), "not a name"),
        ] {
            let options = Options { node: flag.map(str::to_owned), ..Options::default() };
            let error = format!("{:#}", load(file, options).unwrap_err());
            assert!(error.contains(named) && !error.contains('\n'), "{file:?}: {error}");
        }
        let missing = Config::load(Options { config: Some("/nowhere/weft.toml".into()), ..Options::default() });
        assert!(format!("{:#}", missing.unwrap_err()).contains("/nowhere/weft.toml"));
    }
}
