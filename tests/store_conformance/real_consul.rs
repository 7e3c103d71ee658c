//! A real Consul (Debian's package consul of bullseye, 1.8) as a child process: one server in memory, with nobody beside it.
//!
//! It listens at a loopback address of its own, on Consul's usual ports: unlike etcd it cannot tell which free port the kernel gave it. It
//! is killed and reaped when [`RealConsul`] is dropped, which a failing test does too; should the test program itself be killed, the
//! kernel kills it (`setpriv --pdeathsig`).

use std::{
    env,
    io::{BufRead, BufReader, PipeReader},
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::{self, Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::Duration,
};

use tokio::sync::oneshot;

/// How long it may take to elect itself and to know itself: about a second on a quiet machine.
const START_BOUND: Duration = Duration::from_mins(1);

/// The log message that comes when there is a leader and the agent's node is known, which sessions need (Consul 1.8, `agent/local`).
const SERVING: &str = "Synced node info";

/// A running Consul with an empty store.
pub(crate) struct RealConsul {
    address: Ipv4Addr,
    child: Child,
}

impl RealConsul {
    /// Starts one and waits until it serves. `configuration` is more of Consul's HCL. Call it on the test's own thread: Consul is
    /// killed when the thread that started it ends.
    pub(crate) async fn start(address: Ipv4Addr, configuration: &str) -> Self {
        let (log, writer) = std::io::pipe().unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program())
            .args(["agent", "-dev", "-log-level", "info", "-bind", &address.to_string()])
            .args(["-client", &address.to_string()])
            .args(["-hcl", "ports { dns = -1 grpc = -1 serf_wan = -1 } disable_update_check = true"])
            .args(["-hcl", configuration])
            .stdin(Stdio::null())
            .stdout(writer.try_clone().unwrap())
            .stderr(writer)
            .spawn()
            .expect("setpriv (Debian's util-linux) cannot be run");
        let consul = Self { address, child };
        let (serving, told) = oneshot::channel();
        // The thread ends with Consul: its log ends then.
        thread::spawn(move || follow(log, serving));
        let told = tokio::time::timeout(START_BOUND, told).await;
        told.expect("Consul does not serve in time").unwrap().unwrap_or_else(|log| {
            panic!("Consul ended before it served:\n{log}");
        });
        consul
    }

    /// `HOST:PORT` of its HTTP API.
    pub(crate) fn endpoint(&self) -> String {
        format!("{}:8500", self.address)
    }
}

impl Drop for RealConsul {
    fn drop(&mut self) {
        // Both fail only if it has ended and was waited for, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback address that no other test has: of this process's number, and counted.
pub(crate) fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let turn = NEXT.fetch_add(1, Ordering::Relaxed);
    // A process number has 22 bits at most (proc_pid(5), pid_max), and 127.0.0.0/8 has 24.
    assert!(turn < 4, "more Consuls in one test program than it has addresses");
    Ipv4Addr::from_bits(Ipv4Addr::new(127, 0, 0, 0).to_bits() | (process::id() << 2) & 0x00ff_ffff | turn)
}

/// Where `cargo xtask setup` puts it, or where the shell would find one.
pub(crate) fn program() -> PathBuf {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools/consul/usr/bin/consul");
    let installed =
        env::split_paths(&env::var_os("PATH").unwrap()).map(|folder| folder.join("consul")).collect::<Vec<_>>();
    let found = [unpacked].into_iter().chain(installed).find(|program| program.is_file());
    found.expect("there is no `consul`: `cargo xtask setup` fetches it (Debian's consul, of bullseye)")
}

/// Tells that Consul serves, or all that it wrote if it ends before; then reads on, so that Consul never waits for a reader of its log.
fn follow(log: PipeReader, serving: oneshot::Sender<Result<(), String>>) {
    let mut before = String::new();
    let mut lines = BufReader::new(log).lines().map_while(Result::ok);
    let serves = lines.by_ref().any(|line| {
        before += &line;
        before.push('\n');
        line.contains(SERVING)
    });
    // The test may have given up.
    let _ = serving.send(if serves { Ok(()) } else { Err(before) });
    lines.for_each(drop);
}
