//! What the kernel's tests share: tools, namespaces, rows.

use std::{
    collections::BTreeMap,
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, unshare},
    unistd::gettid,
};
use serde_json::Value;
use weft::{
    kernel::{Kernel, LinuxKernel, netns},
    model::{Attachment, EndpointId, HostState, LinkName, Mac, NetnsRef, NodeId, Vtep},
    plan::Step,
};

/// What `command` writes; it has to succeed.
pub(super) fn output(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `command`, which has to succeed.
pub(super) fn run(command: &str) {
    output(command);
}

/// Runs many commands of `ip` in one process; all have to succeed.
pub(super) fn batch(commands: impl Iterator<Item = String>) {
    let mut child = Command::new("ip").args(["-batch", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    let mut input = std::io::BufWriter::new(child.stdin.take().unwrap());
    for command in commands {
        writeln!(input, "{command}").unwrap();
    }
    drop(input);
    assert!(child.wait().unwrap().success(), "a command of the batch failed");
}

/// What `command` writes, as JSON.
pub(super) fn json(command: &str) -> Value {
    let text = output(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text:?}"))
}

/// What `command` writes, as a JSON list; no output is an empty one. `ip` leaves empty objects for rows that it filtered.
pub(super) fn rows(command: &str) -> Vec<Value> {
    list(&output(command))
}

fn list(text: &str) -> Vec<Value> {
    if text.trim().is_empty() {
        return Vec::new();
    }
    let value: Value = serde_json::from_str(text).unwrap();
    value.as_array().unwrap().iter().filter(|row| row.as_object().is_some_and(|row| !row.is_empty())).cloned().collect()
}

/// The middle of the times that `work` takes.
pub(super) async fn median(count: usize, mut work: impl AsyncFnMut()) -> Duration {
    let mut times = Vec::new();
    for _ in 0..count {
        let start = Instant::now();
        work().await;
        times.push(start.elapsed());
    }
    times.sort();
    times[count / 2]
}

/// The tunnel device of node `id`.
pub(super) fn vtep(id: u16) -> Vtep {
    Vtep {
        mac: Mac::of_vtep(NodeId::new(id).unwrap()),
        vni: 77,
        port: 7789,
        local: "192.0.2.1".parse().unwrap(),
        mtu: 1450,
        address: "169.254.64.1".parse().unwrap(),
        address6: None,
    }
}

/// A link to a container with these addresses.
pub(super) fn endpoint_link(number: u16, container: &Container, addresses: &[&str]) -> (LinkName, Attachment) {
    let attachment = Attachment {
        netns: container.netns(),
        ifname: "eth0".to_owned(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        mtu: 1450,
    };
    (LinkName::of_endpoint(EndpointId(u64::from(number))), attachment)
}

/// Node `id`.
pub(super) fn node(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

/// Does a step twice, and expects the same state after each.
pub(super) async fn put(kernel: &LinuxKernel, step: Step) -> HostState {
    kernel.apply(&step).await.unwrap_or_else(|error| panic!("{step:?}: {error}"));
    let first = kernel.observe().await.unwrap();
    kernel.apply(&step).await.unwrap_or_else(|error| panic!("{step:?} again: {error}"));
    let second = kernel.observe().await.unwrap();
    assert_eq!(first, second, "{step:?} again changed something");
    second
}

/// A state but for its settings.
pub(super) fn without_settings(state: &HostState) -> HostState {
    HostState { sysctls: BTreeMap::new(), ..state.clone() }
}

/// How many threads of this process in this thread's network namespace have this name.
pub(super) fn threads_here(name: &str) -> usize {
    let here = std::fs::metadata("/proc/thread-self/ns/net").unwrap().ino();
    std::fs::read_dir("/proc/self/task")
        .unwrap()
        .filter_map(|task| Some(task.ok()?.path()))
        .filter(|task| std::fs::read_to_string(task.join("comm")).is_ok_and(|comm| comm.trim() == name))
        .filter(|task| std::fs::metadata(task.join("ns/net")).is_ok_and(|netns| netns.ino() == here))
        .count()
}

/// A network namespace that lives as long as this: a thread holds it, and nothing else does.
pub(super) struct Container {
    /// Leads to it.
    pub(super) path: String,
    work: Option<mpsc::SyncSender<Box<dyn FnOnce() + Send>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Container {
    /// A new one with `lo` up.
    pub(super) fn start() -> Self {
        let (work, orders) = mpsc::sync_channel::<Box<dyn FnOnce() + Send>>(1);
        let (told, tid) = mpsc::sync_channel(1);
        let thread = thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            run("ip link set lo up");
            told.send(gettid()).unwrap();
            for order in orders {
                order();
            }
        });
        let path = format!("/proc/{}/task/{}/ns/net", std::process::id(), tid.recv().unwrap());
        Self { path, work: Some(work), thread: Some(thread) }
    }

    /// Names it.
    pub(super) fn netns(&self) -> NetnsRef {
        netns::inspect(&self.path).unwrap()
    }

    /// Runs `command` inside; it has to succeed.
    pub(super) fn run(&self, command: &str) {
        let command = command.to_owned();
        self.inside(move || run(&command));
    }

    /// What `command` writes inside, as JSON.
    pub(super) fn json(&self, command: &str) -> Value {
        let command = command.to_owned();
        self.inside(move || json(&command))
    }

    /// What `command` writes inside, as a JSON list.
    pub(super) fn rows(&self, command: &str) -> Vec<Value> {
        let command = command.to_owned();
        self.inside(move || rows(&command))
    }

    /// Listens at an address of its own.
    pub(super) fn listen(&self, address: &str) -> Listener {
        let address: IpAddr = address.parse().unwrap();
        let listener = self.inside(move || TcpListener::bind((address, 0)).unwrap());
        Listener { port: listener.local_addr().unwrap().port(), listener }
    }

    /// Connects from inside, and tells from where.
    pub(super) fn connect(&self, address: &str, port: u16) -> std::io::Result<SocketAddr> {
        self.open(address, port)?.local_addr()
    }

    /// A connection from inside.
    pub(super) fn open(&self, address: &str, port: u16) -> std::io::Result<TcpStream> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        self.inside(move || TcpStream::connect_timeout(&to, Duration::from_secs(3)))
    }

    /// Does something inside.
    pub(super) fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (told, result) = mpsc::sync_channel(1);
        let order = Box::new(move || drop(told.send(work())));
        self.work.as_ref().unwrap().send(order).unwrap();
        result.recv().expect("the work inside the container panicked")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        drop(self.work.take());
        let _ = self.thread.take().unwrap().join();
    }
}

/// Waits for connections in a container.
pub(super) struct Listener {
    /// Where.
    pub(super) port: u16,
    listener: TcpListener,
}

impl Listener {
    /// The source of the next connection.
    pub(super) fn accept(&self) -> SocketAddr {
        self.listener.accept().unwrap().1
    }

    /// The next connection.
    pub(super) fn accept_stream(&self) -> TcpStream {
        self.listener.accept().unwrap().0
    }
}
