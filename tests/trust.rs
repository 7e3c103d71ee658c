//! A member's port and those who come to it, in one process: joining, being let in, being cut off.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use futures::StreamExt as _;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::watch, task::JoinHandle, time::timeout};
use weft::{
    model::{Fingerprint, Name},
    peer::{self, Admission, Applicant, Gatekeeper, JoinError, Membership, NotAdmitted, Secret, Token},
    store::{
        Outcome, Revision, Store, StoreError, StoreUrl, Transaction, Write,
        embedded::Embedded,
        etcd::{EtcdClient, EtcdServer},
    },
    tls::{Authority, Credentials, Door, KeyPair, NodeNames},
};

/// Longer than any of the waits below takes on a busy machine.
const BOUND: Duration = Duration::from_mins(1);

/// A member that holds the store.
struct Member {
    address: SocketAddr,
    credentials: Arc<Credentials>,
    gate: Arc<Gate>,
    serving: JoinHandle<Result<(), StoreError>>,
    _directory: TempDir,
}

/// Lets in whoever knows the secret.
struct Gate {
    authority: Authority,
    secret: Mutex<Option<Secret>>,
    known: watch::Sender<Option<Arc<BTreeSet<Fingerprint>>>>,
    /// Who was let in last, which nobody else has heard of yet.
    admitted: Mutex<Option<Fingerprint>>,
}

#[async_trait]
impl Gatekeeper for Gate {
    async fn admit(&self, applicant: Applicant) -> Result<Admission, NotAdmitted> {
        let secret = self.secret.lock().unwrap().clone();
        let secret = secret.ok_or_else(|| NotAdmitted::Unavailable("the store is away".to_owned()))?;
        if !applicant.secret.has_hash(&secret.hash()) {
            return Err(NotAdmitted::WrongSecret);
        }
        *self.admitted.lock().unwrap() = Some(applicant.fingerprint);
        Ok(Admission {
            cluster: "7".to_owned(),
            certificate: self.authority.certificate().to_vec(),
            key: self.authority.key().to_vec(),
            store_url: "etcd://192.0.2.1?user=root:hush".to_owned(),
            files: vec![("ca".to_owned(), b"hush".to_vec())],
        })
    }
}

fn names(node: &str) -> NodeNames {
    NodeNames { cluster: "7".into(), node: node.into(), underlay: "192.0.2.1".parse().unwrap() }
}

fn again(authority: &Authority) -> Authority {
    Authority::from_der(authority.certificate().to_vec(), authority.key()).unwrap()
}

impl Member {
    async fn start(secret: Option<Secret>) -> Self {
        let directory = TempDir::new().unwrap();
        let embedded = Arc::new(Embedded::open(directory.path()).await.unwrap());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let authority = Authority::make("7").unwrap();
        let credentials = Credentials::make(again(&authority), names("member"), SystemTime::now()).unwrap();
        let (known, told) = watch::channel(Some(Arc::default()));
        let gate = Arc::new(Gate { authority, secret: Mutex::new(secret), known, admitted: Mutex::default() });
        let door = Door::new(listener, &credentials, told.clone(), || {});
        let server = EtcdServer::new(embedded).layered(|routes| peer::guarded(routes, told));
        let server = server.merge(peer::router(Membership::new(Arc::clone(&gate) as Arc<dyn Gatekeeper>)));
        let serving = tokio::spawn(server.serve_on(door, std::future::pending()));
        Self { address, credentials: Arc::new(credentials), gate, serving, _directory: directory }
    }

    fn token(&self, secret: &Secret) -> Token {
        Token::new(self.gate.authority.certificate(), secret.clone())
    }

    fn know(&self, key: Option<Fingerprint>) {
        self.gate.known.send_replace(Some(Arc::new(key.into_iter().collect())));
    }

    fn client_of(&self, credentials: &Arc<Credentials>) -> EtcdClient {
        EtcdClient::of_member(&StoreUrl::member(self.address.to_string()), Arc::clone(credentials)).unwrap()
    }

    async fn join(&self, token: &Token, key: &KeyPair) -> Result<Admission, JoinError> {
        let name: Name = "newcomer".parse().unwrap();
        timeout(BOUND, peer::join(&self.address.to_string(), token, key.fingerprint(), &name)).await.expect("an end")
    }
}

async fn put(client: &EtcdClient, key: &str) -> Result<Outcome, StoreError> {
    let write = Write::Put { key: key.to_owned(), value: vec![], lease: None };
    client.commit(Transaction { compares: vec![], writes: vec![write] }).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_the_secret_joins_and_is_in_at_once() {
    let secret = Secret::new([7; 20]);
    let member = Member::start(Some(secret.clone())).await;
    let key = KeyPair::make().unwrap();
    let admission = member.join(&member.token(&secret), &key).await.unwrap();
    assert!(!format!("{admission:?}").contains("hush"), "{admission:?}");
    let authority = Authority::from_der(admission.certificate, &admission.key).unwrap();
    let credentials = Arc::new(Credentials::of(authority, names("newcomer"), key, SystemTime::now()).unwrap());
    // Faster than the word of it.
    let client = member.client_of(&credentials);
    let word = async {
        tokio::task::yield_now().await;
        let admitted = *member.gate.admitted.lock().unwrap();
        member.know(admitted);
    };
    let (written, ()) = tokio::join!(put(&client, "a"), word);
    written.unwrap();
    assert_eq!(client.snapshot("").await.unwrap().entries.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_token_gets_one_clear_line() {
    let secret = Secret::new([7; 20]);
    let (member, other) = (Member::start(Some(secret.clone())).await, Member::start(None).await);
    let key = KeyPair::make().unwrap();
    let wrong = Secret::new([8; 20]);
    let nowhere = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().to_string();
    for (refused, words) in [
        (member.join(&member.token(&wrong), &key).await, "does not accept the token"),
        (member.join(&other.token(&secret), &key).await, "belongs to another cluster"),
        (other.join(&other.token(&secret), &key).await, "the store is away"),
        (peer::join(&nowhere, &member.token(&secret), key.fingerprint(), &"a".parse().unwrap()).await, "cannot reach"),
    ] {
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(words) && !refused.contains('\n'), "{refused}");
    }
    assert_eq!(*member.gate.admitted.lock().unwrap(), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_no_weft_is_said_to_be_none() {
    let directory = TempDir::new().unwrap();
    let embedded = Arc::new(Embedded::open(directory.path()).await.unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let serving = tokio::spawn(EtcdServer::new(embedded).serve(listener, std::future::pending()));
    let token = Token::new(b"certificate", Secret::new([7; 20]));
    let (key, name): (_, Name) = (KeyPair::make().unwrap(), "a".parse().unwrap());
    let joined = timeout(BOUND, peer::join(&address, &token, key.fingerprint(), &name));
    let refused = joined.await.expect("an end").unwrap_err();
    assert!(matches!(refused, JoinError::NotWeft { .. }), "{refused}");
    serving.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forgotten_node_loses_its_watches_and_hears_why() {
    let member = Member::start(None).await;
    let node = Credentials::make(again(&member.gate.authority), names("node"), SystemTime::now()).unwrap();
    let node = Arc::new(node);
    member.know(Some(node.fingerprint()));
    let client = member.client_of(&node);
    put(&client, "a").await.unwrap();
    let mut changes = client.watch("", Revision(1)).await.unwrap();
    timeout(BOUND, changes.next()).await.expect("the first change").unwrap().unwrap();
    member.know(None);
    let end = timeout(BOUND, changes.next()).await.expect("the watch ends").unwrap();
    assert!(end.is_err(), "{end:?}");
    let refused = put(&client, "b").await.unwrap_err();
    let refused =
        if matches!(refused, StoreError::Unavailable { .. }) { put(&client, "b").await.unwrap_err() } else { refused };
    assert!(refused.to_string().contains("removed from the cluster"), "{refused}");
    // Whoever shows nothing, or nothing that counts, is not answered either.
    let plain = EtcdClient::new(&format!("etcd://{}", member.address).parse().unwrap()).unwrap();
    assert!(plain.snapshot("").await.is_err());
    let strange = Credentials::make(Authority::make("7").unwrap(), names("node"), SystemTime::now()).unwrap();
    assert!(member.client_of(&Arc::new(strange)).snapshot("").await.is_err());
    // And it comes back as it went.
    member.know(Some(node.fingerprint()));
    assert_eq!(client.snapshot("").await.unwrap().entries.len(), 1);
    assert_eq!(member.credentials.authority().certificate(), member.gate.authority.certificate());
    member.serving.abort();
}
