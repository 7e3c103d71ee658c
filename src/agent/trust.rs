//! Who may speak to this node, and how a new one is let in.
//!
//! Two tasks for the life of a membership: one tells the port for other nodes whose key pairs the cluster knows, the other keeps
//! this node's certificate young. What they are based on is the store's and the disk's, so nothing is lost with them.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;
use async_trait::async_trait;
use tokio::{sync::watch, time::sleep};
use tracing::{info, warn};

use super::{identity::Identity, member::reachable_url};
use crate::{
    model::{Cluster, Fingerprint, JoinToken},
    peer::{Admission, Applicant, Gatekeeper, NotAdmitted, Secret, Token, Unopened},
    store::{Outcome, Store, StoreError, StoreUrl, Transaction, Write, record},
    tls::{Credentials, NodeNames},
};

/// How often the certificate's age is looked at. By a clock that only goes forward: the wall clock, which may jump, is what
/// is looked at.
const LOOK_EVERY: Duration = Duration::from_mins(1);

/// How long a node that was let in has until its own record says so.
const ADMITTED_S: u32 = 60;

/// What the token's secret is sealed for.
const SEAL: &str = "weft token seal 1";

/// The folder for what a store's URL names, within the agent's.
const STORE_CREDENTIALS: &str = "store-credentials";

/// What this node is called in its certificate.
pub(super) fn names(identity: &Identity) -> NodeNames {
    NodeNames { cluster: identity.cluster.to_string(), node: identity.name.to_string(), underlay: identity.underlay }
}

/// Reads this node's credentials, and takes a fresh certificate.
pub(super) fn load(identity: &Identity, data_dir: &Path) -> anyhow::Result<Arc<Credentials>> {
    let credentials = Credentials::load(data_dir, names(identity), SystemTime::now());
    let credentials = credentials.context("this node's credentials cannot be used (put them back from a backup)")?;
    Ok(Arc::new(credentials))
}

/// Keeps a membership's certificate young, for ever, in memory and on disk.
pub(super) async fn keep_young(credentials: Arc<Credentials>, data_dir: PathBuf) {
    let mut saved = None;
    loop {
        if let Err(error) = credentials.renew_if_due(SystemTime::now()) {
            warn!("this node's certificate cannot be renewed, trying again: {error}");
        }
        // A connection may have renewed it meanwhile.
        let until = credentials.good_until();
        if saved != Some(until) {
            match credentials.save_certificate(&data_dir) {
                Ok(()) => {
                    if saved.replace(until).is_some() {
                        info!("this node's certificate was renewed");
                    }
                }
                // It is for people alone; the connections have theirs.
                Err(error) => warn!("this node's certificate cannot be written down, trying again: {error}"),
            }
        }
        sleep(LOOK_EVERY).await;
    }
}

/// Tells for ever whose key pairs the newest cluster knows.
pub(super) async fn tell_known(
    mut clusters: watch::Receiver<Option<Arc<Cluster>>>,
    known: watch::Sender<Option<Arc<BTreeSet<Fingerprint>>>>,
) {
    loop {
        let now = clusters.borrow_and_update().as_ref().map(|cluster| Arc::new(cluster.known_keys()));
        known.send_if_modified(|before| {
            let differs = *before != now;
            if differs {
                *before = now;
            }
            differs
        });
        if clusters.changed().await.is_err() {
            return;
        }
    }
}

/// What the store gets of a new token.
pub(super) fn sealed(credentials: &Credentials, secret: &Secret, nonce: [u8; 12]) -> JoinToken {
    JoinToken { hash: secret.hash(), sealed: secret.seal(&credentials.authority().derive(SEAL), nonce) }
}

/// The token that the store has sealed.
pub(super) fn opened(credentials: &Credentials, token: &JoinToken) -> Result<Token, Unopened> {
    let secret = Secret::open(&token.sealed, &credentials.authority().derive(SEAL))?;
    Ok(Token::new(credentials.authority().certificate(), secret))
}

/// Lets nodes in on behalf of one membership.
pub(super) struct Gate {
    pub(super) identity: Identity,
    pub(super) store: Arc<dyn Store>,
    pub(super) credentials: Arc<Credentials>,
}

#[async_trait]
impl Gatekeeper for Gate {
    async fn admit(&self, applicant: Applicant) -> Result<Admission, NotAdmitted> {
        let Applicant { secret, fingerprint, name } = applicant;
        let later = |error: StoreError| NotAdmitted::Unavailable(format!("it cannot let nodes in now: {error}"));
        // Not what was last heard: a token that was rotated a moment ago lets nobody in.
        let snapshot = self.store.snapshot(record::TOKEN_KEY).await.map_err(later)?;
        let records = record::State::from_snapshot(&snapshot);
        let Some(token) = records.token() else {
            let reason = "the cluster has no readable token; `weft token --rotate` on a member makes one";
            return Err(NotAdmitted::Unavailable(reason.to_owned()));
        };
        if !secret.has_hash(&token.hash) {
            info!("a node that calls itself {name} was not let in: the token's secret is not this cluster's");
            return Err(NotAdmitted::WrongSecret);
        }
        let url = reachable_url(&self.identity);
        let files = contents(&url).map_err(|error| NotAdmitted::Unavailable(format!("{error:#}")))?;
        let lease = self.store.grant_lease(ADMITTED_S).await.map_err(later)?;
        let (key, value) = (record::key_of_admitted(fingerprint), record::encode_admitted(&name));
        let writes = vec![Write::Put { key, value, lease: Some(lease) }];
        match self.store.commit(Transaction { compares: vec![], writes }).await.map_err(later)? {
            Outcome::Committed(_) | Outcome::Conflict => {}
        }
        info!("a node that calls itself {name} is let in");
        let authority = self.credentials.authority();
        Ok(Admission {
            cluster: self.identity.cluster.to_string(),
            certificate: authority.certificate().to_vec(),
            key: authority.key().to_vec(),
            store_url: url.exposed(),
            files,
        })
    }
}

/// What the files hold that a store's URL names.
fn contents(url: &StoreUrl) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let read = |(option, path): (crate::store::StoreOption, &Path)| {
        let bytes = fs::read(path).with_context(|| format!("cannot read {}, which the store needs", path.display()))?;
        Ok((option.as_str().to_owned(), bytes))
    };
    url.files().map(read).collect()
}

/// Writes what came with a store's URL, and gives the URL that names it here.
pub(super) fn keep_contents(url: StoreUrl, files: &[(String, Vec<u8>)], data_dir: &Path) -> anyhow::Result<StoreUrl> {
    let folder = data_dir.join(STORE_CREDENTIALS);
    let wanted: Vec<&str> = url.files().map(|(option, _)| option.as_str()).collect();
    let write = || -> io::Result<()> {
        remove_folder(&folder)?;
        if wanted.is_empty() {
            return Ok(());
        }
        DirBuilder::new().recursive(true).create(data_dir)?;
        DirBuilder::new().mode(0o700).create(&folder)?;
        for option in &wanted {
            let found = files.iter().find(|(name, _)| name == option);
            let (_, bytes) = found.ok_or_else(|| io::Error::other(format!("the member sent no {option}")))?;
            let path = folder.join(option);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
            file.write_all(bytes)?;
            file.sync_all()?;
        }
        Ok(())
    };
    write().with_context(|| format!("cannot keep the store's credentials in {}", folder.display())).inspect_err(
        |_| {
            let _ = remove_folder(&folder);
        },
    )?;
    Ok(url.with_files_at(|option| folder.join(option.as_str())))
}

/// Removes this node's credentials, for the cluster and for the store.
pub(super) fn forget(data_dir: &Path) {
    let folder = data_dir.join(STORE_CREDENTIALS);
    if let Err(error) = remove_folder(&folder) {
        warn!("cannot remove the store's credentials in {}: {error}", folder.display());
    }
    if let Err(error) = Credentials::remove(data_dir) {
        warn!("cannot remove this node's credentials: {error}");
    }
}

fn remove_folder(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_stores_credentials_travel_to_another_host() {
        let [here, there] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        fs::write(here.path().join("pw"), "hush").unwrap();
        fs::write(here.path().join("ca.pem"), "certificate").unwrap();
        let place = here.path().display();
        let url: StoreUrl =
            format!("etcd://192.0.2.1?user=root&password-file={place}/pw&ca={place}/ca.pem").parse().unwrap();
        let files = contents(&url).unwrap();
        // What an earlier attempt left is no hindrance.
        for _ in 0..2 {
            let kept = keep_contents(url.clone(), &files, there.path()).unwrap();
            assert!(kept.is_same_place(&url) && kept.user() == url.user());
            let read: Vec<String> = kept.files().map(|(_, path)| fs::read_to_string(path).unwrap()).collect();
            assert_eq!(read, ["certificate", "hush"]);
            for (_, path) in kept.files() {
                assert!(path.starts_with(there.path()), "{}", path.display());
                assert_eq!(fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
            }
            // And from there to the next.
            assert_eq!(contents(&kept).unwrap(), files);
        }
        // Nothing stays of what is incomplete, and a name that nobody asked for is not written.
        let folder = there.path().join(STORE_CREDENTIALS);
        assert!(keep_contents(url, &files[..1], there.path()).is_err());
        assert!(!folder.exists());
        let plain: StoreUrl = "etcd://192.0.2.1".parse().unwrap();
        let strange = [("../identity.json".to_owned(), b"{}".to_vec())];
        assert_eq!(keep_contents(plain.clone(), &strange, there.path()).unwrap(), plain);
        assert_eq!(fs::read_dir(there.path()).unwrap().count(), 0);
        let gone: StoreUrl = format!("etcd://192.0.2.1?ca={place}/gone.pem").parse().unwrap();
        assert!(format!("{:#}", contents(&gone).unwrap_err()).contains("gone.pem"));
    }

    #[test]
    fn a_token_opens_with_its_own_clusters_authority_alone() {
        let names = || NodeNames { cluster: "7".into(), node: "a".into(), underlay: "192.0.2.1".parse().unwrap() };
        let make = || {
            let authority = crate::tls::Authority::make("7").unwrap();
            Credentials::make(authority, names(), SystemTime::now()).unwrap()
        };
        let (one, other) = (make(), make());
        let secret = Secret::new([7; 20]);
        let token = sealed(&one, &secret, [1; 12]);
        assert_eq!(opened(&one, &token), Ok(Token::new(one.authority().certificate(), secret)));
        assert_eq!(opened(&other, &token), Err(Unopened));
    }
}
