//! Both ends of a connection: who is let in, who is cut off, and who keeps nobody waiting.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures::StreamExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::{mpsc, watch},
    time::timeout,
};

use super::*;
use crate::model::Fingerprint;

/// Longer than anything here takes on a busy machine.
const BOUND: Duration = Duration::from_secs(20);

/// More than any test has at once.
const GUESTS: usize = 64;

struct Served {
    address: std::net::SocketAddr,
    guests: mpsc::Receiver<Guest>,
    known: watch::Sender<Option<Arc<BTreeSet<Fingerprint>>>>,
    failures: Arc<AtomicUsize>,
}

fn credentials(authority: &Authority, node: &str) -> Credentials {
    let authority = Authority::from_der(authority.certificate().to_vec(), authority.key()).unwrap();
    let names = NodeNames { cluster: "7".into(), node: node.into(), underlay: "192.0.2.1".parse().unwrap() };
    Credentials::make(authority, names, SystemTime::now()).unwrap()
}

async fn serve(credentials: &Credentials) -> Served {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (known, told) = watch::channel(Some(Arc::default()));
    let failures = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&failures);
    let mut door = Door::new(listener, credentials, told, move || _ = counted.fetch_add(1, Ordering::SeqCst));
    let (tell, guests) = mpsc::channel(GUESTS);
    tokio::spawn(async move {
        while let Some(guest) = door.next().await {
            if tell.send(guest.unwrap()).await.is_err() {
                return;
            }
        }
    });
    Served { address, guests, known, failures }
}

impl Served {
    async fn next(&mut self) -> Guest {
        timeout(BOUND, self.guests.recv()).await.expect("a guest comes").unwrap()
    }

    fn know(&self, keys: &[Fingerprint]) {
        self.known.send_replace(Some(Arc::new(keys.iter().copied().collect())));
    }

    async fn stream(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    async fn failed(&self, times: usize) {
        let reached = async {
            while self.failures.load(Ordering::SeqCst) < times {
                tokio::task::yield_now().await;
            }
        };
        timeout(BOUND, reached).await.expect("a failure is counted");
    }
}

/// That a connection carries a byte each way.
async fn speaks(guest: &mut Guest, caller: &mut TlsStream) -> bool {
    let both = async {
        caller.write_all(b"?").await?;
        let mut byte = [0];
        guest.read_exact(&mut byte).await?;
        guest.write_all(b"!").await?;
        guest.flush().await?;
        caller.read_exact(&mut byte).await
    };
    timeout(BOUND, both).await.expect("an answer, or an end").is_ok()
}

#[tokio::test]
async fn a_node_is_let_in_by_its_key_pair_and_cut_off_with_it() {
    let authority = Authority::make("7").unwrap();
    let (here, there) = (credentials(&authority, "here"), credentials(&authority, "there"));
    let mut served = serve(&here).await;
    served.know(&[there.fingerprint()]);
    let mut caller = there.connect(served.stream().await).await.unwrap();
    let mut guest = served.next().await;
    assert_eq!(guest.visitor().key, Some(there.fingerprint()));
    assert!(speaks(&mut guest, &mut caller).await);
    // Others may come and go; renewal changes nothing of it.
    served.know(&[here.fingerprint(), there.fingerprint()]);
    assert!(there.renew_if_due(SystemTime::now() + Duration::from_hours(24 * 70)).unwrap());
    assert!(speaks(&mut guest, &mut caller).await);
    // One that waits for a byte is woken.
    let waiting = tokio::spawn(async move {
        let mut byte = [0];
        let read = guest.read_exact(&mut byte).await;
        (read.map(drop), guest.write_all(b"!").await)
    });
    served.know(&[here.fingerprint()]);
    let (read, written) = timeout(BOUND, waiting).await.expect("the connection is cut").unwrap();
    assert!(read.is_err() && written.is_err(), "{read:?} {written:?}");
    // Who knocks again is heard, for whoever answers to say why not.
    let _caller = there.connect(served.stream().await).await.unwrap();
    assert_eq!(served.next().await.visitor().key, Some(there.fingerprint()));
}

#[tokio::test]
async fn an_old_certificate_is_renewed_by_being_shown() {
    let authority = Authority::make("7").unwrap();
    let now = SystemTime::now();
    for (days_here, days_there) in [(0, 70), (70, 0), (1000, 1000), (0, 59)] {
        let made = |days: u32, node: &str| {
            let authority = Authority::from_der(authority.certificate().to_vec(), authority.key()).unwrap();
            let names = NodeNames { cluster: "7".into(), node: node.into(), underlay: "192.0.2.1".parse().unwrap() };
            Credentials::make(authority, names, now - Duration::from_hours(24) * days).unwrap()
        };
        let (here, there) = (made(days_here, "here"), made(days_there, "there"));
        let mut served = serve(&here).await;
        served.know(&[there.fingerprint()]);
        let mut caller = there.connect(served.stream().await).await.unwrap();
        assert!(speaks(&mut served.next().await, &mut caller).await, "{days_here} {days_there}");
        for (days, shown) in [(days_here, here), (days_there, there)] {
            let is_fresh = shown.good_until() > now + Duration::from_hours(24 * 80);
            assert_eq!(is_fresh, days != 59, "{days}");
        }
    }
}

#[tokio::test]
async fn strangers_are_told_apart_and_keep_nobody_waiting() {
    let (authority, other) = (Authority::make("7").unwrap(), Authority::make("7").unwrap());
    let (here, there) = (credentials(&authority, "here"), credentials(&authority, "there"));
    let mut served = serve(&here).await;
    served.know(&[there.fingerprint()]);
    // As many as may be silent here, but for one.
    let mut silent = Vec::new();
    for _ in 0..15 {
        silent.push(served.stream().await);
    }
    let mut plain = served.stream().await;
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    served.failed(1).await;
    let mut rest = Vec::new();
    timeout(BOUND, plain.read_to_end(&mut rest)).await.expect("it is closed").ok();
    // Of another authority, by which neither side takes the other for one of its own.
    let strange = credentials(&other, "there");
    assert!(strange.connect(served.stream().await).await.is_err());
    served.failed(2).await;
    // Right in all but that nobody knows the authority's certificate that it shows.
    let meant = authority.certificate().to_vec();
    let pin: Pin = Arc::new(move |certificate| certificate == meant);
    let mut caller = connect_pinned(served.stream().await, Arc::clone(&pin)).await.unwrap();
    let mut guest = served.next().await;
    assert_eq!(guest.visitor().key, None);
    assert!(speaks(&mut guest, &mut caller).await);
    drop((caller, guest));
    let mut caller = there.connect(served.stream().await).await.unwrap();
    assert!(speaks(&mut served.next().await, &mut caller).await);
    let refused = connect_pinned(served.stream().await, Arc::new(|_| false)).await.unwrap_err();
    assert!(matches!(refused, PinError::OtherAuthority), "{refused}");
    served.failed(3).await;
    // One silent connection too many.
    silent.push(served.stream().await);
    let mut refused = served.stream().await;
    timeout(BOUND, refused.read_to_end(&mut rest)).await.expect("it is closed").ok();
    served.failed(4).await;
}

#[tokio::test]
async fn a_joining_node_takes_nobody_else_for_a_member() {
    let authority = Authority::make("7").unwrap();
    let meant = authority.certificate().to_vec();
    let pin: Pin = Arc::new(move |certificate| certificate == meant);
    // No TLS at all.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
    });
    let refused = connect_pinned(TcpStream::connect(address).await.unwrap(), Arc::clone(&pin)).await.unwrap_err();
    assert!(matches!(refused, PinError::NotTls(_)), "{refused}");
}
