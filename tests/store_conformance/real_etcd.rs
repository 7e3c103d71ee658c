//! A real etcd (Debian's package etcd-server, 3.4) as a child process: the reference that the project's own server and
//! client are held against.
//!
//! It listens on loopback at ports that the kernel chooses, keeps its data in a directory of its own, and is killed and
//! reaped when [`RealEtcd`] is dropped, which a failing test does too. Should the test program itself be killed, the kernel
//! kills it (`setpriv --pdeathsig`); only its directory in the system's temporary one is then left.

use std::{
    env,
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, Command, Stdio},
    thread,
    time::Duration,
};

use tempfile::TempDir;
use tokio::sync::oneshot;

/// How long it may take to elect itself and listen: about a second on a quiet machine.
const START_BOUND: Duration = Duration::from_mins(1);

/// Client and peer address: a free port of the kernel's choice, which cannot be lost to another process in between. The
/// member has no peers, so that nobody has to know the second one.
const ANY_PORT: &str = "127.0.0.1:0";

/// The start of the log message that tells the client port; it comes when there is a leader (etcd 3.4, `embed/serve.go`).
const SERVING: &str = "serving client traffic";

/// A running etcd.
pub(crate) struct RealEtcd {
    endpoint: String,
    scheme: &'static str,
    more: Vec<String>,
    child: Child,
    directory: TempDir,
}

impl RealEtcd {
    /// Starts one with an empty store and waits until it serves. Call it on the test's own thread: etcd is killed when the thread
    /// that started it ends.
    pub(crate) async fn start() -> Self {
        Self::start_with("http", &[]).await
    }

    /// Starts one with more words on its command line, and `https` for its clients if they make it speak TLS.
    pub(crate) async fn start_with(scheme: &'static str, more: &[&str]) -> Self {
        let installed = env::split_paths(&env::var_os("PATH").unwrap()).any(|folder| folder.join("etcd").is_file());
        assert!(installed, "there is no `etcd` on the path: `cargo xtask setup` installs it (Debian's etcd-server)");
        let directory = TempDir::new().unwrap();
        let more: Vec<String> = more.iter().map(|word| (*word).to_owned()).collect();
        let (endpoint, child) = spawn(&directory, &format!("{scheme}://{ANY_PORT}"), &more).await;
        Self { endpoint, scheme, more, child, directory }
    }

    /// Kills it, and starts it again with what it had, at the same port.
    #[allow(dead_code, reason = "only some of the test programs that this file is part of need it")]
    pub(crate) async fn restart(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let listen = format!("{}://{}", self.scheme, self.endpoint);
        let (_, child) = spawn(&self.directory, &listen, &self.more).await;
        self.child = child;
    }

    /// `HOST:PORT` of its clients.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }
}

async fn spawn(directory: &TempDir, listen: &str, more: &[String]) -> (String, Child) {
    let peers = format!("http://{ANY_PORT}");
    let mut child = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "etcd", "--name", "only", "--data-dir"])
        .arg(directory.path().join("data"))
        .args(["--listen-client-urls", listen, "--advertise-client-urls", listen])
        .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
        .args(["--initial-cluster", &format!("only={peers}")])
        // The gateway from HTTP connects to the port as it was asked for, which is none.
        .args(["--enable-grpc-gateway=false", "--logger=zap", "--log-outputs=stderr"])
        .args(more)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("setpriv (Debian's util-linux) cannot be run");
    let (serving, told) = oneshot::channel();
    let log = child.stderr.take().unwrap();
    // The thread ends with etcd: its log ends then.
    thread::spawn(move || follow(log, serving));
    let told = tokio::time::timeout(START_BOUND, told).await;
    let endpoint = told.expect("etcd does not serve in time").unwrap().unwrap_or_else(|log| {
        panic!("etcd ended before it served:\n{log}");
    });
    (endpoint, child)
}

impl Drop for RealEtcd {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tells the address that etcd serves its clients at, or all that it wrote if it ends before; then reads on, so that etcd
/// never waits for a reader of its log.
fn follow(log: ChildStderr, serving: oneshot::Sender<Result<String, String>>) {
    let mut before = String::new();
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let address = lines.by_ref().find_map(|line| {
        let address = client_address(&line);
        before += &line;
        before.push('\n');
        address
    });
    // The test may have given up.
    let _ = serving.send(address.ok_or(before));
    lines.for_each(drop);
}

fn client_address(line: &str) -> Option<String> {
    let entry: serde_json::Value = serde_json::from_str(line).ok()?;
    entry["msg"].as_str()?.starts_with(SERVING).then(|| entry["address"].as_str().map(str::to_owned))?
}
