//! Three real etcds as one cluster, on loopback. Members must know each other's ports, so free ones are chosen first, and others if
//! somebody else has taken one in between.

use std::{
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use tempfile::TempDir;
use tokio::time::{Instant, interval};
use weft::store::{Store as _, etcd::EtcdClient};

/// How long a cluster may take to elect a leader: some seconds on a quiet machine.
const START_BOUND: Duration = Duration::from_mins(1);

/// How often it is asked.
const ASK_EVERY: Duration = Duration::from_millis(50);

/// How often ports are chosen.
const TRIES: usize = 5;

/// How many members there are.
pub(crate) const MEMBERS: usize = 3;

/// A signal that is sent to a member.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Signal {
    /// It ends at once.
    Kill,
    /// It ends in order.
    Term,
    /// It falls silent.
    Stop,
    /// It goes on.
    Continue,
}

/// A running cluster; whatever runs of it is killed and reaped when it is dropped.
pub(crate) struct RealEtcdCluster {
    members: Vec<Member>,
    directory: TempDir,
}

struct Member {
    client: u16,
    peer: u16,
    child: Child,
}

impl RealEtcdCluster {
    /// Starts one with an empty store and waits until each member serves. Call it on the test's own thread: members are killed when
    /// the thread that started them ends.
    pub(crate) async fn start() -> Self {
        for _ in 0..TRIES {
            let directory = TempDir::new().unwrap();
            let ports = free_ports(2 * MEMBERS);
            let (clients, peers) = ports.split_at(MEMBERS);
            let members = (0..MEMBERS).map(|number| Member {
                client: clients[number],
                peer: peers[number],
                child: spawn(directory.path(), number, clients, peers),
            });
            let mut cluster = Self { members: members.collect(), directory };
            if cluster.serves().await {
                return cluster;
            }
        }
        panic!("no cluster came up, {TRIES} times");
    }

    /// `HOST:PORT` of a member's clients.
    pub(crate) fn endpoint(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].client)
    }

    /// A client of all members; it begins with `first`.
    pub(crate) fn client(&self, first: usize) -> EtcdClient {
        let hosts: Vec<String> = (0..MEMBERS).map(|step| self.endpoint((first + step) % MEMBERS)).collect();
        client_of(&hosts.join(","))
    }

    /// A client of one member alone.
    pub(crate) fn client_of(&self, member: usize) -> EtcdClient {
        client_of(&self.endpoint(member))
    }

    /// Sends a signal, and waits for the end of a member that is to end.
    pub(crate) fn signal(&mut self, member: usize, signal: Signal) {
        let child = &mut self.members[member].child;
        let (word, ends) = match signal {
            Signal::Kill => ("KILL", true),
            Signal::Term => ("TERM", true),
            Signal::Stop => ("STOP", false),
            Signal::Continue => ("CONT", false),
        };
        let sent = Command::new("kill").args(["-s", word, &child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "kill -s {word} {}", child.id());
        if ends {
            child.wait().unwrap();
        }
    }

    /// Starts a member that has ended, with what it had, and waits until it serves.
    pub(crate) async fn start_again(&mut self, member: usize) {
        let clients: Vec<u16> = self.members.iter().map(|member| member.client).collect();
        let peers: Vec<u16> = self.members.iter().map(|member| member.peer).collect();
        self.members[member].child = spawn(self.directory.path(), member, &clients, &peers);
        self.wait_for(member).await;
    }

    /// Waits until a member serves.
    pub(crate) async fn wait_for(&mut self, member: usize) {
        assert!(self.member_serves(member).await, "{}", self.log(member));
    }

    /// The member that leads.
    pub(crate) fn leader(&self) -> usize {
        let deadline = std::time::Instant::now() + START_BOUND;
        while std::time::Instant::now() < deadline {
            for member in 0..MEMBERS {
                let words = ["--endpoints", &self.endpoint(member), "endpoint", "status", "-w", "json"];
                let mut command = Command::new("etcdctl");
                let done = command.env("ETCDCTL_API", "3").args(words).output();
                let done = done.expect("there is no `etcdctl` on the path: `cargo xtask setup` installs it");
                let told: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap_or_default();
                let status = &told[0]["Status"];
                if status["leader"].is_u64() && status["leader"] == status["header"]["member_id"] {
                    return member;
                }
            }
        }
        panic!("nobody leads");
    }

    async fn serves(&mut self) -> bool {
        for member in 0..MEMBERS {
            if !self.member_serves(member).await {
                return false;
            }
        }
        true
    }

    /// Whether it came to serve, or ended.
    async fn member_serves(&mut self, member: usize) -> bool {
        let deadline = Instant::now() + START_BOUND;
        let client = self.client_of(member);
        let mut looks = interval(ASK_EVERY);
        while self.members[member].child.try_wait().unwrap().is_none() {
            if client.snapshot("/").await.is_ok() {
                return true;
            }
            assert!(Instant::now() < deadline, "it does not serve in time: {}", self.log(member));
            looks.tick().await;
        }
        false
    }

    fn log(&self, member: usize) -> String {
        fs::read_to_string(log_of(self.directory.path(), member)).unwrap_or_default()
    }
}

impl Drop for RealEtcdCluster {
    fn drop(&mut self) {
        for Member { child, .. } in &mut self.members {
            // Both fail only if it has ended and was waited for, which is what is wanted. One that is stopped is killed, too.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn client_of(hosts: &str) -> EtcdClient {
    EtcdClient::new(&format!("etcd://{hosts}").parse().unwrap()).unwrap()
}

/// Ports that nobody has now; all are taken at once, so that they differ.
fn free_ports(count: usize) -> Vec<u16> {
    let listeners: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

fn log_of(directory: &Path, member: usize) -> PathBuf {
    directory.join(format!("{member}.log"))
}

fn spawn(directory: &Path, member: usize, clients: &[u16], peers: &[u16]) -> Child {
    let url = |port: u16| format!("http://127.0.0.1:{port}");
    let (client, peer) = (url(clients[member]), url(peers[member]));
    let all: Vec<String> = peers.iter().enumerate().map(|(number, port)| format!("{number}={}", url(*port))).collect();
    Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "etcd", "--name", &member.to_string(), "--data-dir"])
        .arg(directory.join(member.to_string()))
        .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
        .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
        .args(["--initial-cluster", &all.join(","), "--logger=zap", "--log-outputs=stderr"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::options().create(true).append(true).open(log_of(directory, member)).unwrap())
        .spawn()
        .expect("setpriv (Debian's util-linux) cannot be run")
}
