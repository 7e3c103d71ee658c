//! A real ZooKeeper (Debian's package libzookeeper-java, 3.8) as a child process.
//!
//! It listens on loopback, keeps its data in a directory of its own, and is killed and reaped when [`RealZooKeeper`] is dropped,
//! which a failing test does too. Should the test program itself be killed, the kernel kills it (`setpriv --pdeathsig`); only its
//! directory in the system's temporary one is then left.

use std::{
    fs,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{Instant, interval, timeout},
};

/// How long it may take to serve: about two seconds on a quiet machine.
const START_BOUND: Duration = Duration::from_mins(1);

/// How long it may take to say how it is.
const ANSWER_BOUND: Duration = Duration::from_secs(1);

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// It takes no port of the kernel's choice (0 means none to it), so that one which was just free may be lost to somebody else.
const TRIES: usize = 3;

/// ZooKeeper with what it needs: its manifest names the other archives.
const ARCHIVE: &str = "/usr/share/java/zookeeper.jar";

const CONFIGURATION: &str = "zoo.cfg";

/// A running ZooKeeper.
pub(crate) struct RealZooKeeper {
    port: u16,
    child: Child,
    directory: TempDir,
}

impl RealZooKeeper {
    /// Starts one with an empty tree and waits until it serves. Call it on the test's own thread: it is killed when the thread
    /// that started it ends.
    pub(crate) async fn start() -> Self {
        Self::start_all(1).await.remove(0)
    }

    /// Starts an ensemble of so many servers, or one by itself, likewise.
    pub(crate) async fn start_all(count: usize) -> Vec<Self> {
        assert!(
            Path::new(ARCHIVE).is_file(),
            "there is no {ARCHIVE}: `cargo xtask setup` installs it (Debian's libzookeeper-java)"
        );
        'tries: for _ in 0..TRIES {
            let ports = free_ports(3 * count);
            let peers = ports
                .chunks(3)
                .enumerate()
                .map(|(number, ports)| format!("server.{}=127.0.0.1:{}:{}\n", number + 1, ports[1], ports[2]));
            let peers = if count == 1 { String::new() } else { peers.collect() };
            let mut servers: Vec<Self> =
                (1..).zip(ports.chunks(3)).map(|(number, ports)| Self::spawn(number, ports[0], &peers)).collect();
            for server in &mut servers {
                if !server.serves().await {
                    continue 'tries;
                }
            }
            return servers;
        }
        panic!("ZooKeeper ended before it served, {TRIES} times");
    }

    fn spawn(number: usize, port: u16, peers: &str) -> Self {
        let directory = TempDir::new().unwrap();
        let data = directory.path().join("data");
        // Sessions of 4 to 40 s, as by default.
        let text = format!(
            "tickTime=2000\ninitLimit=10\nsyncLimit=5\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\n\
             admin.enableServer=false\nmaxClientCnxns=0\n{peers}",
            data.display()
        );
        fs::create_dir(&data).unwrap();
        fs::write(data.join("myid"), number.to_string()).unwrap();
        fs::write(directory.path().join(CONFIGURATION), text).unwrap();
        Self { port, child: run(directory.path()), directory }
    }

    /// Kills it, and waits until it has ended.
    #[allow(dead_code, reason = "only some of the test programs that this file is part of need it")]
    pub(crate) fn stop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts it again with what it had, at the same port.
    #[allow(dead_code, reason = "only some of the test programs that this file is part of need it")]
    pub(crate) async fn start_again(&mut self) {
        self.child = run(self.directory.path());
        assert!(self.serves().await, "ZooKeeper ended before it served again");
    }

    /// `HOST:PORT` of its clients.
    pub(crate) fn endpoint(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Whether it came to serve, or ended.
    async fn serves(&mut self) -> bool {
        let deadline = Instant::now() + START_BOUND;
        let mut turn = interval(ASK_EVERY);
        while self.child.try_wait().unwrap().is_none() {
            if self.mode().await.is_some() {
                return true;
            }
            assert!(Instant::now() < deadline, "ZooKeeper does not serve in time: {}", self.directory.path().display());
            turn.tick().await;
        }
        false
    }

    /// What it is, if it serves: `standalone`, `leader` or `follower`. It is asked with one of the words of four letters, which need not
    /// be allowed.
    pub(crate) async fn mode(&self) -> Option<String> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.ok()?;
        let mut answer = String::new();
        let asked = async {
            stream.write_all(b"srvr").await?;
            stream.read_to_string(&mut answer).await
        };
        // One that is just starting takes connections that it may never answer.
        timeout(ANSWER_BOUND, asked).await.ok()?.ok()?;
        answer.lines().find_map(|line| line.strip_prefix("Mode: ")).map(str::to_owned)
    }
}

impl Drop for RealZooKeeper {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Ports that were free just now.
fn free_ports(count: usize) -> Vec<u16> {
    let held: Vec<_> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Without waiting for the disk: nothing is to survive the machine.
fn run(directory: &Path) -> Child {
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "java", "-Xmx256m", "-Dzookeeper.forceSync=no", "-cp", ARCHIVE])
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(directory.join(CONFIGURATION))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setpriv (Debian's util-linux) cannot be run")
}
