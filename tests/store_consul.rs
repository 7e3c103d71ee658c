//! What only Consul has: tokens, TLS with certificates of its own, agents that fail over, an index that goes back.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "store_conformance/real_consul.rs"]
mod real_consul;

use std::{fs, net::Ipv4Addr, path::Path, sync::Arc, time::Duration};

use futures::StreamExt as _;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use tempfile::TempDir;
use tokio::{net::TcpListener, process::Command};
use weft::store::{
    self, Changes, Compare, Event, LeaseId, Outcome, Revision, Store, StoreError, Transaction, Watch, Write,
};

use real_consul::{RealConsul, own_address, program};

/// Longer than anything below takes on a busy machine, and than Consul holds a request.
const BOUND: Duration = Duration::from_mins(2);

fn connect(url: &str) -> Arc<dyn Store> {
    store::connect(&url.parse().unwrap(), None).unwrap()
}

async fn put(store: &dyn Store, key: &str, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
    let writes = vec![Write::Put { key: key.to_owned(), value: b"v".to_vec(), lease }];
    match store.commit(Transaction { compares: vec![], writes }).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict => panic!("a transaction without compares cannot conflict"),
    }
}

async fn watch_from_now(store: &dyn Store, prefix: &str) -> Watch {
    let now = store.snapshot(prefix).await.unwrap().revision;
    store.watch(prefix, now).await.unwrap()
}

async fn next(watch: &mut Watch) -> Result<Changes, StoreError> {
    tokio::time::timeout(BOUND, watch.next()).await.expect("nothing came in time").expect("the watch ended")
}

fn refusal<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Refused(text)) => text,
        other => panic!("{other:?}"),
    }
}

const MASTER: &str = "5cbcd4d0-1ad5-4a3b-9c5e-0d0b3e8ef0aa";
const WEFT: &str = "0f9d7f0e-9e0c-4a3c-8f6e-000000000001";
const NOBODY: &str = "0f9d7f0e-9e0c-4a3c-8f6e-000000000002";
const UNKNOWN: &str = "0f9d7f0e-9e0c-4a3c-8f6e-000000000003";

/// The rights that weft's documentation asks for, under the prefix of the URL.
const RIGHTS: &str = r#"key_prefix "team/weft/" { policy = "write" } session_prefix "" { policy = "write" }"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens() {
    let acl = format!(
        r#"acl {{ enabled = true default_policy = "deny" tokens {{ master = "{MASTER}" agent = "{MASTER}" }} }}"#
    );
    let consul = RealConsul::start(own_address(), &acl).await;
    let control = async |words: &[&str]| {
        let mut command = Command::new(program());
        command.arg("acl").args(words).env("CONSUL_HTTP_TOKEN", MASTER).env("CONSUL_HTTP_ADDR", consul.endpoint());
        let done = tokio::time::timeout(BOUND, command.output()).await.unwrap().unwrap();
        assert!(done.status.success(), "consul acl {words:?}: {done:?}");
    };
    control(&["policy", "create", "-name", "weft", "-rules", RIGHTS]).await;
    control(&["token", "create", "-policy-name", "weft", "-secret", WEFT]).await;
    control(&["policy", "create", "-name", "none", "-rules", r#"key_prefix "other/" { policy = "write" }"#]).await;
    control(&["token", "create", "-policy-name", "none", "-secret", NOBODY]).await;

    let directory = TempDir::new().unwrap();
    let file = directory.path().join("token");
    fs::write(&file, format!("{WEFT}\n")).unwrap();
    let place = format!("consul://{}/team", consul.endpoint());
    for url in [format!("{place}?token={WEFT}"), format!("{place}?token-file={}", file.display())] {
        let store = connect(&url);
        assert!(store.snapshot("/weft/v1/").await.unwrap().entries.is_empty());
        let lease = store.grant_lease(10).await.unwrap();
        put(&*store, "/weft/v1/alive", Some(lease)).await.unwrap();
        let mut watch = watch_from_now(&*store, "/weft/v1/").await;
        store.renew_lease(lease).await.unwrap();
        store.revoke_lease(lease).await.unwrap();
        assert_eq!(next(&mut watch).await.unwrap().events, [Event::Delete { key: "/weft/v1/alive".to_owned() }]);
    }
    // What is outside of its rights looks empty in a listing, and would be a cluster that lost everything.
    let store = connect(&format!("{place}?token={WEFT}"));
    for prefix in ["/elsewhere/", "/"] {
        let said = refusal(store.snapshot(prefix).await);
        assert!(said.contains("Permission denied"), "{said}");
    }
    for (token, why) in [("", "Permission denied"), (NOBODY, "Permission denied"), (UNKNOWN, "ACL not found")] {
        let url = if token.is_empty() { place.clone() } else { format!("{place}?token={token}") };
        let store = connect(&url);
        let compares = vec![Compare::Absent("/weft/v1/a".to_owned())];
        let writes = vec![Write::Put { key: "/weft/v1/a".to_owned(), value: vec![], lease: None }];
        for said in [
            refusal(store.snapshot("/weft/v1/").await),
            refusal(store.commit(Transaction { compares, writes }).await),
            refusal(store.grant_lease(10).await),
        ] {
            assert!(said.contains(why) && said.contains("key_prefix \"team/weft/\""), "{said}");
            assert!(token.is_empty() || !said.contains(token), "{said}");
        }
    }
    fs::write(&file, "two\nlines").unwrap();
    for path in [file.as_path(), Path::new("/no/such/file")] {
        let url = format!("{place}?token-file={}", path.display());
        let refused = store::connect(&url.parse().unwrap(), None).err().unwrap().to_string();
        assert!(refused.contains("token"), "{refused}");
    }
}

/// An authority, and what it signs for an address, as files.
struct Certificates {
    directory: TempDir,
}

impl Certificates {
    fn new(address: Ipv4Addr) -> Self {
        let directory = TempDir::new().unwrap();
        let write = |name: &str, text: &str| fs::write(directory.path().join(name), text).unwrap();
        let key = KeyPair::generate().unwrap();
        let mut authority = CertificateParams::new(vec![]).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        write("ca.pem", &authority.self_signed(&key).unwrap().pem());
        let issuer = Issuer::new(authority, key);
        for (name, names) in [("server", vec![address.to_string()]), ("client", vec!["weft".to_owned()])] {
            let key = KeyPair::generate().unwrap();
            let mut params = CertificateParams::new(names).unwrap();
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            write(&format!("{name}.pem"), &params.signed_by(&key, &issuer).unwrap().pem());
            write(&format!("{name}.key"), &key.serialize_pem());
        }
        Self { directory }
    }

    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls() {
    let address = own_address();
    let ours = Certificates::new(address);
    let theirs = Certificates::new(address);
    let [ca, cert, key] = ["ca.pem", "server.pem", "server.key"].map(|name| ours.path(name));
    let configuration = format!(
        r#"ports {{ http = -1 https = 8501 }} ca_file = "{ca}" cert_file = "{cert}" key_file = "{key}" verify_incoming_https = true"#
    );
    let _consul = RealConsul::start(address, &configuration).await;
    let place = format!("consul://{address}:8501");
    let shown = format!("cert={}&key={}", ours.path("client.pem"), ours.path("client.key"));
    let store = connect(&format!("{place}?ca={ca}&{shown}"));
    let mut watch = watch_from_now(&*store, "/weft/").await;
    let revision = put(&*store, "/weft/a", None).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, revision);
    for (options, why) in [
        (format!("ca={}&{shown}", theirs.path("ca.pem")), "certificate"),
        (format!("ca={ca}&{shown}&server-name=other.example"), "certificate"),
        (format!("ca={ca}"), "ertificate"),
    ] {
        let error = connect(&format!("{place}?{options}")).snapshot("/weft/").await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
        assert!(error.to_string().contains(why), "{error}");
    }
    let said = refusal(connect(&place).snapshot("/weft/").await);
    assert!(said.contains("HTTPS"), "{said}");
    let refused = store::connect(&format!("{place}?ca=/no/such/file").parse().unwrap(), None).err().unwrap();
    assert!(refused.to_string().contains("/no/such/file"), "{refused}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_that_come_and_go() {
    let address = own_address();
    let consul = RealConsul::start(address, "").await;
    // Nobody listens there: the test holds the address.
    let silent = own_address();
    let store = connect(&format!("consul://{silent},{}", consul.endpoint()));
    put(&*store, "/weft/a", None).await.unwrap();
    put(&*store, "/weft/b", None).await.unwrap();
    let before = store.snapshot("/weft/").await.unwrap();
    let mut watch = store.watch("/weft/", before.revision).await.unwrap();
    drop(consul);
    let error = next(&mut watch).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    assert!(watch.next().await.is_none(), "it ends after an error");
    let error = store.snapshot("/weft/").await.unwrap_err();
    assert!(error.to_string().contains("refused"), "{error}");
    // It comes back empty, at a lower index.
    let _consul = RealConsul::start(address, "").await;
    let now = store.snapshot("/weft/").await.unwrap();
    assert!(now.entries.is_empty() && now.revision < before.revision, "{now:?}");
    let mut watch = store.watch("/weft/", now.revision).await.unwrap();
    let revision = put(&*store, "/weft/c", None).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, revision);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restore_ends_watches() {
    let consul = RealConsul::start(own_address(), "").await;
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("backup").display().to_string();
    let backup = async |verb| {
        let mut command = Command::new(program());
        command.args(["snapshot", verb, &file]).env("CONSUL_HTTP_ADDR", consul.endpoint());
        let done = tokio::time::timeout(BOUND, command.output()).await.unwrap().unwrap();
        assert!(done.status.success(), "consul snapshot {verb}: {done:?}");
    };
    let store = connect(&format!("consul://{}", consul.endpoint()));
    put(&*store, "/weft/a", None).await.unwrap();
    backup("save").await;
    let mut watch = watch_from_now(&*store, "/weft/").await;
    let revision = put(&*store, "/weft/b", None).await.unwrap();
    assert_eq!(next(&mut watch).await.unwrap().revision, revision);
    let ended = tokio::spawn(async move { next(&mut watch).await });
    backup("restore").await;
    let error = ended.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Compacted(reached) if reached == revision), "{error}");
    assert_eq!(store.snapshot("/weft/").await.unwrap().entries.len(), 1);
}

/// A commit whose answer is lost may have been carried out: it is not sent to the next agent, and a look is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_not_repeated() {
    let consul = RealConsul::start(own_address(), "").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hangs_up = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // It takes the request, so that the client cannot know how far it came.
            stream.readable().await.unwrap();
            let _ = stream.try_read(&mut [0; 4096]);
        }
    });
    let url = format!("consul://{hangs_up},{}", consul.endpoint());
    let error = put(&*connect(&url), "/weft/a", None).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable { .. }), "{error}");
    let store = connect(&url);
    assert!(store.snapshot("/weft/").await.unwrap().entries.is_empty());
    put(&*store, "/weft/a", None).await.unwrap();
}
