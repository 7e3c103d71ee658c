//! An etcd that asks who comes: certificates, passwords, rights.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "store_conformance/real_etcd.rs"]
mod real_etcd;

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use futures::StreamExt as _;
use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, date_time_ymd};
use tempfile::TempDir;
use tokio::process::Command;
use weft::store::{Event, LeaseId, Outcome, Revision, Store, StoreError, Transaction, Watch, Write, etcd::EtcdClient};

use real_etcd::RealEtcd;

/// Longer than anything below takes on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates() {
    let files = Certificates::new();
    let of = |name: &str| files.path(name).display().to_string();
    let server = |name: &str| [of(&format!("{name}.pem")), of(&format!("{name}.key"))];
    let [certificate, key] = server("server");
    let ca = of("ca.pem");
    let open = RealEtcd::start_with("https", &["--cert-file", &certificate, "--key-file", &key]).await;
    let closed = ["--cert-file", &certificate, "--key-file", &key, "--client-cert-auth", "--trusted-ca-file", &ca];
    let closed = RealEtcd::start_with("https", &closed).await;
    let [certificate, key] = server("expired");
    let expired = RealEtcd::start_with("https", &["--cert-file", &certificate, "--key-file", &key]).await;
    let plain = RealEtcd::start().await;

    let ours = format!("ca={ca}&cert={}&key={}", of("client.pem"), of("client.key"));
    let foreign = format!("ca={ca}&cert={}&key={}", of("stranger.pem"), of("stranger.key"));
    for (etcd, options, expected) in [
        (&open, format!("ca={ca}"), Ok(())),
        (&open, format!("ca={}", of("other.pem")), Err("unknown authority")),
        (&open, format!("ca={ca}&server-name=etcd.example"), Ok(())),
        (&open, format!("ca={ca}&server-name=wrong.example"), Err("is not for wrong.example")),
        (&open, String::new(), Err("tls=true")),
        (&plain, format!("ca={ca}"), Err("does not speak TLS")),
        (&expired, format!("ca={ca}"), Err("has expired")),
        (&closed, ours, Ok(())),
        (&closed, format!("ca={ca}"), Err("wants a certificate of its clients")),
        (&closed, foreign, Err("does not accept the certificate that we show")),
    ] {
        let store = client(&format!("etcd://{}?{options}", etcd.endpoint()));
        // The second time over a connection that has failed once.
        for turn in 0..2 {
            match (put(&store, "/weft/a", None).await, expected) {
                (Ok(_), Ok(())) => {}
                (Err(error @ StoreError::Unavailable { .. }), Err(part)) if error.to_string().contains(part) => {}
                (said, _) => panic!("{options}, turn {turn}: {said:?} for {expected:?}"),
            }
        }
        if expected.is_ok() {
            let mut watch = store.watch("/weft/", Revision(1)).await.unwrap();
            assert_eq!(keys(&mut watch).await[0], "/weft/a");
        }
    }
    for (option, file) in [("ca", "missing.pem"), ("ca", "client.key")] {
        let url = format!("etcd://{}?{option}={}", open.endpoint(), of(file));
        let refused = EtcdClient::new(&url.parse().unwrap()).err().unwrap().to_string();
        assert!(refused.contains(file), "{refused}");
    }

    // Renewed while the client lives: what lies there counts from the next connection on.
    let store = client(&format!("etcd://{}?ca={ca}&cert={}&key={}", closed.endpoint(), of("now.pem"), of("now.key")));
    for (shown, expected) in [("client", true), ("stranger", false), ("client", true)] {
        for ending in ["pem", "key"] {
            fs::copy(files.path(&format!("{shown}.{ending}")), files.path(&format!("now.{ending}"))).unwrap();
        }
        store.reconnect();
        let said = put(&store, "/weft/b", None).await;
        assert_eq!(said.is_ok(), expected, "{shown}: {said:?}");
    }
    fs::remove_file(files.path("now.key")).unwrap();
    store.reconnect();
    let said = put(&store, "/weft/b", None).await.unwrap_err().to_string();
    assert!(said.contains("now.key"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn passwords_and_rights() {
    let mut etcd = RealEtcd::start().await;
    let directory = TempDir::new().unwrap();
    let file = directory.path().join("password");
    fs::write(&file, "of weft\n").unwrap();
    let by_file = format!("etcd://{}/team?user=weft&password-file={}", etcd.endpoint(), file.display());
    let early = client(&by_file);
    put(&early, "/team/weft/v1/early", None).await.expect("an etcd that does not ask lets everybody in");

    for words in [
        "user add root:secret",
        "user grant-role root root",
        "user add weft:of_weft",
        "role add weft",
        "role grant-permission weft readwrite --prefix=true /team/weft/",
        "user grant-role weft weft",
        "user add idle:of_idle",
        "auth enable",
    ] {
        control(&etcd, words, false).await;
    }
    let with_user = |user: &str| client(&format!("etcd://{}/team?user={user}", etcd.endpoint()));
    for (store, part) in [
        (client(&format!("etcd://{}/team", etcd.endpoint())), "user=NAME"),
        (with_user("weft:wrong"), "\"weft\" is not let in"),
        (with_user("nobody:of_weft"), "\"nobody\" is not let in"),
        (with_user("idle:of_idle"), "readwrite --prefix=true /team/weft/"),
    ] {
        let snapshot = store.snapshot("/team/weft/v1/").await.err();
        let watch = store.watch("/team/weft/v1/", Revision(1)).await.err();
        let put = put(&store, "/team/weft/v1/a", None).await.err();
        for error in [snapshot, watch, put] {
            assert!(matches!(&error, Some(StoreError::Refused(text)) if text.contains(part)), "{part}: {error:?}");
            assert!(!format!("{error:?}").contains("of_weft"), "{error:?}");
        }
    }

    // It had been let in without a password, and the file is read when one is asked for.
    fs::write(&file, "of_weft\n").unwrap();
    for store in [early, client(&by_file), with_user("weft:of_weft")] {
        let lease = store.grant_lease(60).await.unwrap();
        let start = put(&store, "/team/weft/v1/leased", Some(lease)).await.unwrap();
        let mut watch = store.watch("/team/weft/v1/", start).await.unwrap();
        store.renew_lease(lease).await.unwrap();
        store.revoke_lease(lease).await.unwrap();
        assert_eq!(keys(&mut watch).await, ["/team/weft/v1/leased"]);
        let refused = put(&store, "/elsewhere", None).await.unwrap_err();
        assert!(refused.to_string().contains("readwrite --prefix=true /team/weft/"), "{refused}");
    }

    // A member that was started again knows none of its tokens, and says of a watch only that it is not permitted.
    let store = client(&by_file);
    let start = put(&store, "/team/weft/v1/a", None).await.unwrap();
    etcd.restart().await;
    let mut watch = again(|| store.watch("/team/weft/v1/", start)).await;
    etcd.restart().await;
    again(|| put(&store, "/team/weft/v1/b", None)).await;
    assert_eq!(keys(&mut watch).await, ["/team/weft/v1/b"], "it went on at the member that came back");
    // Another password ends all tokens.
    let mut change = Command::new("etcdctl");
    change.args(["--user", "root:secret", "--interactive=false", "user", "passwd", "weft"]);
    run(&etcd, change, Some("another")).await;
    let refused = put(&store, "/team/weft/v1/c", None).await.unwrap_err();
    assert!(refused.to_string().contains("not let in"), "{refused}");
    fs::write(&file, "another\n").unwrap();
    put(&store, "/team/weft/v1/c", None).await.unwrap();

    for wrong in ["", "\n"] {
        fs::write(&file, wrong).unwrap();
        let refused = EtcdClient::new(&by_file.parse().unwrap()).err().unwrap().to_string();
        assert!(refused.contains("password-file") && refused.contains("empty"), "{refused}");
    }
}

fn client(url: &str) -> EtcdClient {
    EtcdClient::new(&url.parse().unwrap()).unwrap()
}

async fn control(etcd: &RealEtcd, words: &str, as_root: bool) {
    let mut command = Command::new("etcdctl");
    if as_root {
        command.args(["--user", "root:secret"]);
    }
    command.args(words.split(' '));
    run(etcd, command, None).await;
}

async fn run(etcd: &RealEtcd, mut command: Command, said: Option<&str>) {
    use tokio::io::AsyncWriteExt as _;
    command.env("ETCDCTL_API", "3").args(["--endpoints", etcd.endpoint()]);
    command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.stderr(std::process::Stdio::piped()).kill_on_drop(true).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(format!("{}\n", said.unwrap_or_default()).as_bytes()).await.unwrap();
    drop(input);
    let done = tokio::time::timeout(BOUND, child.wait_with_output()).await.unwrap().unwrap();
    assert!(done.status.success(), "{command:?}: {done:?}");
}

/// Tries until it succeeds: the connection may still be the one that broke.
async fn again<T, F: Future<Output = Result<T, StoreError>>>(mut action: impl FnMut() -> F) -> T {
    let deadline = tokio::time::Instant::now() + BOUND;
    loop {
        match action().await {
            Ok(done) => return done,
            Err(StoreError::Unavailable { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::task::yield_now().await;
            }
            Err(error) => panic!("{error}"),
        }
    }
}

async fn put(store: &EtcdClient, key: &str, lease: Option<LeaseId>) -> Result<Revision, StoreError> {
    let writes = vec![Write::Put { key: key.to_owned(), value: b"v".to_vec(), lease }];
    match store.commit(Transaction { compares: vec![], writes }).await? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict => panic!("a transaction without compares cannot conflict"),
    }
}

/// The keys of the next changes.
async fn keys(watch: &mut Watch) -> Vec<String> {
    let changes = tokio::time::timeout(BOUND, watch.next()).await.expect("nothing came in time");
    let events = changes.expect("the watch ended").unwrap().events;
    let key = |event| match event {
        Event::Put(entry) => entry.key,
        Event::Delete { key } => key,
    };
    events.into_iter().map(key).collect()
}

/// Two authorities and what they signed, as files.
struct Certificates {
    directory: TempDir,
}

impl Certificates {
    fn new() -> Self {
        let files = Self { directory: TempDir::new().unwrap() };
        let ca = files.authority("ca");
        let other = files.authority("other");
        for (name, issuer, is_expired) in
            [("server", &ca, false), ("client", &ca, false), ("expired", &ca, true), ("stranger", &other, false)]
        {
            let key = KeyPair::generate().unwrap();
            let names = vec!["127.0.0.1".to_owned(), "etcd.example".to_owned()];
            let mut made = CertificateParams::new(names).unwrap();
            made.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
            if is_expired {
                made.not_before = date_time_ymd(2001, 1, 1);
                made.not_after = date_time_ymd(2002, 1, 1);
            }
            fs::write(files.path(&format!("{name}.pem")), made.signed_by(&key, issuer).unwrap().pem()).unwrap();
            fs::write(files.path(&format!("{name}.key")), key.serialize_pem()).unwrap();
        }
        fs::copy(files.path("client.pem"), files.path("now.pem")).unwrap();
        fs::copy(files.path("client.key"), files.path("now.key")).unwrap();
        files
    }

    fn authority(&self, name: &str) -> Issuer<'static, KeyPair> {
        let key = KeyPair::generate().unwrap();
        let mut made = CertificateParams::new(vec![]).unwrap();
        made.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        made.distinguished_name.push(rcgen::DnType::CommonName, name);
        fs::write(self.path(&format!("{name}.pem")), made.self_signed(&key).unwrap().pem()).unwrap();
        Issuer::new(made, key)
    }

    fn path(&self, name: &str) -> PathBuf {
        Path::new(self.directory.path()).join(name)
    }
}
