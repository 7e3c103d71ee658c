//! One probe of a replica: a connection of its own, over when its answer or its time is. Dropping it ends it with a reset.

mod status;

use std::{io, net::SocketAddr, ops::RangeInclusive, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

use crate::model::Probe;

/// The most that is read of an answer, in bytes: a status line is some tens, and what a server may send before it some hundreds.
const ANSWER_BYTES_MAX: usize = 4096;

/// What was wrong with a replica.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// It could not be asked, for a reason that lies on this host and says nothing about the replica.
    #[error("{target} cannot be asked: {source}")]
    NotAsked {
        /// Where it was to be asked.
        target: SocketAddr,
        /// Why not.
        source: io::Error,
    },
    /// It does not accept connections.
    #[error("no connection to {target}: {source}")]
    NoConnection {
        /// Where it was asked.
        target: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The connection broke before the answer was there.
    #[error("{target} broke the connection off: {source}")]
    BrokenOff {
        /// Where it was asked.
        target: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// It did not answer in time.
    #[error("{target} did not answer within {} ms", .within.as_millis())]
    TooLate {
        /// Where it was asked.
        target: SocketAddr,
        /// The time that it had.
        within: Duration,
    },
    /// It closed the connection without an answer, or what it sent is none.
    #[error("{target} gave no HTTP answer")]
    NoHttp {
        /// Where it was asked.
        target: SocketAddr,
    },
    /// It answered with another status than it should.
    #[error("{target} answered with status {status}")]
    Status {
        /// Where it was asked.
        target: SocketAddr,
        /// Its status code.
        status: u16,
    },
}

/// Asks a replica whether it takes connections. All of it together, from the connection to the status line, takes no longer than
/// `within`.
///
/// The connection ends with a reset: a FIN would leave an entry of two minutes in conntrack behind for each probe, and with a
/// thousand replicas that is most of what a small host has.
pub async fn ask(target: SocketAddr, probe: &Probe, within: Duration) -> Result<(), ProbeError> {
    let asked = async {
        let mut stream = connect(target).await?;
        match probe {
            Probe::Tcp => Ok(()),
            Probe::Http { path, status } => get(&mut stream, target, path, status).await,
        }
    };
    timeout(within, asked).await.unwrap_or(Err(ProbeError::TooLate { target, within }))
}

async fn connect(target: SocketAddr) -> Result<TcpStream, ProbeError> {
    let not_asked = |source| ProbeError::NotAsked { target, source };
    let socket = if target.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(not_asked)?;
    socket.set_zero_linger().map_err(not_asked)?;
    socket.connect(target).await.map_err(|source| match source.kind() {
        // No free source port, no memory: this host's trouble.
        io::ErrorKind::AddrNotAvailable | io::ErrorKind::OutOfMemory => ProbeError::NotAsked { target, source },
        _ => ProbeError::NoConnection { target, source },
    })
}

/// `GET PATH`, read as far as the status line and no further: a body that never ends is never begun.
async fn get(
    stream: &mut TcpStream,
    target: SocketAddr,
    path: &str,
    expected: &RangeInclusive<u16>,
) -> Result<(), ProbeError> {
    let broken_off = |source| ProbeError::BrokenOff { target, source };
    // Without white space and control characters it stays one line, whoever wrote the record.
    if !path.starts_with('/') || path.bytes().any(|byte| byte <= b' ' || byte == 0x7f) {
        let source = io::Error::new(io::ErrorKind::InvalidInput, format!("{path:?} is no path of a URL"));
        return Err(ProbeError::NotAsked { target, source });
    }
    let agent = concat!("weft/", env!("CARGO_PKG_VERSION"));
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {target}\r\nUser-Agent: {agent}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(broken_off)?;
    let mut answer = Vec::with_capacity(512);
    loop {
        let room = ANSWER_BYTES_MAX - answer.len();
        let read = stream.take(room as u64).read_buf(&mut answer).await.map_err(broken_off)?;
        match status::status(&answer) {
            Ok(Some(status)) if expected.contains(&status) => return Ok(()),
            Ok(Some(status)) => return Err(ProbeError::Status { target, status }),
            Ok(None) if read > 0 && answer.len() < ANSWER_BYTES_MAX => {}
            Ok(None) | Err(status::NotHttp) => return Err(ProbeError::NoHttp { target }),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Longer than any answer takes on a busy machine, where an answer is expected.
    const LONG: Duration = Duration::from_secs(20);
    /// Where none is.
    const SHORT: Duration = Duration::from_millis(100);

    /// Asks a server that reads the request and then sends this, piece by piece, and holds the connection open or not.
    async fn ask_server(pieces: &'static [&'static str], holds: Holds, within: Duration) -> Result<(), ProbeError> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let serving = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                assert!(stream.read_buf(&mut request).await.unwrap() > 0);
            }
            let request = String::from_utf8(request).unwrap();
            assert!(request.starts_with("GET /health?deep=1 HTTP/1.1\r\n"), "{request}");
            assert!(request.contains(&format!("\r\nHost: {target}\r\n")), "{request}");
            assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
            for piece in pieces {
                // It may have heard enough already.
                if stream.write_all(piece.as_bytes()).await.is_err() {
                    break;
                }
                tokio::task::yield_now().await;
            }
            if holds == Holds::Open {
                std::future::pending::<()>().await;
            }
        };
        let probe = Probe::Http { path: "/health?deep=1".into(), status: 200..=204 };
        let asking = ask(target, &probe, within);
        tokio::pin!(serving, asking);
        tokio::select! {
            answer = &mut asking => answer,
            () = &mut serving => asking.await,
        }
    }

    #[derive(PartialEq, Eq)]
    enum Holds {
        Open,
        Nothing,
    }

    #[tokio::test]
    async fn an_http_answer_is_judged_by_its_status() {
        for (pieces, good) in [
            (&["HTTP/1.1 200 OK\r\n"][..], true),
            (&["HT", "TP/1.", "0 20", "4", "\n"], true),
            (&["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\n"], true),
            (&["HTTP/1.1 205 Reset\r\n"], false),
            (&["HTTP/1.1 500 No\r\n"], false),
            (&["SSH-2.0-OpenSSH\r\n"], false),
            (&["HTTP/1.1 2000 OK\r\n"], false),
            (&["HTTP/2 200\r\n"], false),
        ] {
            let answer = ask_server(pieces, Holds::Open, LONG).await;
            assert_eq!(answer.is_ok(), good, "{pieces:?}: {answer:?}");
            assert!(!matches!(answer, Err(ProbeError::TooLate { .. })), "{pieces:?} took all the time that there was");
        }
    }

    #[tokio::test]
    async fn whatever_a_server_does_the_probe_ends() {
        for pieces in [&[][..], &["HTTP/1.1 200 OK"], &["HTTP/1.1 100 Continue\r\nA: b\r\n"], &["H"]] {
            let answer = ask_server(pieces, Holds::Open, SHORT).await;
            assert!(matches!(answer, Err(ProbeError::TooLate { .. })), "{pieces:?}: {answer:?}");
            let answer = ask_server(pieces, Holds::Nothing, LONG).await;
            assert!(
                matches!(answer, Err(ProbeError::NoHttp { .. } | ProbeError::BrokenOff { .. })),
                "{pieces:?}: {answer:?}"
            );
        }
    }

    #[tokio::test]
    async fn what_never_ends_is_read_no_further_than_needed() {
        const LINE: &str =
            "X-Padding: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n";
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        let flooding = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 103 Early Hints\r\n").await.unwrap();
            while stream.write_all(LINE.as_bytes()).await.is_ok() {}
        };
        let probe = Probe::Http { path: "/".into(), status: Probe::STATUS_DEFAULT };
        // The flood ends because the prober goes away.
        let ((), answer) = tokio::join!(flooding, ask(target, &probe, LONG));
        assert!(matches!(answer, Err(ProbeError::NoHttp { .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn a_connection_is_all_that_tcp_asks_for() {
        let listener = TcpListener::bind("[::1]:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        ask(target, &Probe::Tcp, LONG).await.unwrap();
        drop(listener);
        let answer = ask(target, &Probe::Tcp, LONG).await;
        assert!(matches!(answer, Err(ProbeError::NoConnection { .. })), "{answer:?}");
    }

    #[tokio::test]
    async fn a_path_that_is_none_is_not_sent() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = listener.local_addr().unwrap();
        for path in ["", "health", "/a b", "/\r\nX: y", "/\u{7f}"] {
            let probe = Probe::Http { path: path.into(), status: Probe::STATUS_DEFAULT };
            let answer = ask(target, &probe, LONG).await;
            assert!(matches!(answer, Err(ProbeError::NotAsked { .. })), "{path:?}: {answer:?}");
        }
    }
}
