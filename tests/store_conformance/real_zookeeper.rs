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
        assert!(
            Path::new(ARCHIVE).is_file(),
            "there is no {ARCHIVE}: `cargo xtask setup` installs it (Debian's libzookeeper-java)"
        );
        for _ in 0..TRIES {
            let directory = TempDir::new().unwrap();
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let child = spawn(directory.path(), port);
            let mut server = Self { port, child, directory };
            if server.serves().await {
                return server;
            }
        }
        panic!("ZooKeeper ended before it served, {TRIES} times");
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
        self.child = spawn(self.directory.path(), self.port);
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
            if self.answers().await {
                return true;
            }
            assert!(Instant::now() < deadline, "ZooKeeper does not serve in time: {}", self.directory.path().display());
            turn.tick().await;
        }
        false
    }

    /// Asks with one of the words of four letters that need not be allowed.
    async fn answers(&self) -> bool {
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", self.port)).await else { return false };
        let mut answer = String::new();
        let asked = async {
            stream.write_all(b"srvr").await?;
            stream.read_to_string(&mut answer).await
        };
        // One that is just starting takes connections that it may never answer.
        matches!(timeout(ANSWER_BOUND, asked).await, Ok(Ok(_))) && answer.contains("Mode:")
    }
}

impl Drop for RealZooKeeper {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spawn(directory: &Path, port: u16) -> Child {
    let configuration = directory.join("zoo.cfg");
    // Sessions of 4 to 40 s, as by default; a disk that need not be waited for, as nothing is to survive.
    let text = format!(
        "tickTime=2000\ndataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=0\n",
        directory.join("data").display()
    );
    fs::write(&configuration, text).unwrap();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "java", "-Xmx256m", "-Dzookeeper.forceSync=no", "-cp", ARCHIVE])
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(configuration)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("setpriv (Debian's util-linux) cannot be run")
}
