//! What the kernel's tests share: tools, namespaces, rows.

use std::{
    io::Write,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
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
    kernel::netns,
    model::{Attachment, EndpointId, LinkName, Mac, NetnsRef, NodeId, Vtep},
};

/// What `command` writes; it has to succeed.
pub fn output(command: &str) -> String {
    let output = Command::new("sh").args(["-ec", command]).output().unwrap();
    assert!(output.status.success(), "{command}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Runs `command`, which has to succeed.
pub fn run(command: &str) {
    output(command);
}

/// Runs `command` with `input`, for all of which it has to succeed.
pub fn feed(command: &str, input: &str) {
    let mut child = Command::new("sh").args(["-ec", command]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{command}");
}

/// What `command` writes, as JSON.
pub fn json(command: &str) -> Value {
    let text = output(command);
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}: {text:?}"))
}

/// What `command` writes, as a JSON list; no output is an empty one. `ip` leaves empty objects for rows that it filtered.
pub fn rows(command: &str) -> Vec<Value> {
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
pub async fn median(count: usize, mut work: impl AsyncFnMut()) -> Duration {
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
pub fn vtep(id: u16) -> Vtep {
    Vtep {
        mac: Mac::of_vtep(NodeId::new(id).unwrap()),
        vni: 77,
        port: 7789,
        local: "192.0.2.1".parse().unwrap(),
        mtu: 1450,
    }
}

/// A link to a container with these addresses.
pub fn endpoint_link(number: u16, container: &Container, addresses: &[&str]) -> (LinkName, Attachment) {
    let attachment = Attachment {
        netns: container.netns(),
        ifname: "eth0".to_owned(),
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        mtu: 1450,
    };
    (LinkName::of_endpoint(EndpointId(u64::from(number))), attachment)
}

/// A network namespace that lives as long as this: a thread holds it, and nothing else does.
pub struct Container {
    /// Leads to it.
    pub path: String,
    work: Option<mpsc::Sender<Box<dyn FnOnce() + Send>>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Container {
    /// A new one with `lo` up.
    pub fn start() -> Self {
        let (work, orders) = mpsc::channel::<Box<dyn FnOnce() + Send>>();
        let (told, tid) = mpsc::channel();
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
    pub fn netns(&self) -> NetnsRef {
        netns::inspect(&self.path).unwrap()
    }

    /// Runs `command` inside; it has to succeed.
    pub fn run(&self, command: &str) {
        let command = command.to_owned();
        self.inside(move || run(&command));
    }

    /// What `command` writes inside, as JSON.
    pub fn json(&self, command: &str) -> Value {
        let command = command.to_owned();
        self.inside(move || json(&command))
    }

    /// What `command` writes inside, as a JSON list.
    pub fn rows(&self, command: &str) -> Vec<Value> {
        let command = command.to_owned();
        self.inside(move || rows(&command))
    }

    /// Listens at an address of its own.
    pub fn listen(&self, address: &str) -> Listener {
        let address: IpAddr = address.parse().unwrap();
        let listener = self.inside(move || TcpListener::bind((address, 0)).unwrap());
        Listener { port: listener.local_addr().unwrap().port(), listener }
    }

    /// Connects from inside, and tells from where.
    pub fn connect(&self, address: &str, port: u16) -> std::io::Result<SocketAddr> {
        let to = SocketAddr::new(address.parse().unwrap(), port);
        self.inside(move || TcpStream::connect_timeout(&to, Duration::from_secs(3))?.local_addr())
    }

    fn inside<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (told, result) = mpsc::channel();
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
pub struct Listener {
    /// Where.
    pub port: u16,
    listener: TcpListener,
}

impl Listener {
    /// The source of the next connection.
    pub fn accept(&self) -> SocketAddr {
        self.listener.accept().unwrap().1
    }
}
