//! `weft run`: a namespace, an endpoint, a command, and their end in order. It lives as long as the command.

mod ending;
mod links;
mod surroundings;

use std::{
    ffi::OsString,
    fs, io,
    num::NonZeroU16,
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{self, ExitStatus},
    sync::mpsc,
    thread,
};

use clap::Args;
use nix::{
    sched::{CloneFlags, unshare},
    sys::signal::Signal,
    unistd::gettid,
};
use tokio::{
    process::{Child, Command},
    runtime::Handle,
    signal::unix::{SignalKind, signal},
    sync::{mpsc as channel, oneshot},
};

use self::{
    ending::{Replica, supervise},
    links::{Link, LinkWord},
    surroundings::Surroundings,
};
use super::{
    complain, drain,
    exec::{self, ExecArgs},
    progress::waiting,
};
use crate::api::{
    Operations, Refusal, RefusalKind,
    wire::{AttachRequest, DEFAULT_IFNAME, NetnsTarget},
};

/// `weft run`.
///
/// The namespace has no name: a thread makes it and stays in it while the command runs, the agent finds it as
/// `/proc/PID/task/TID/ns/net`, and the command inherits it from that thread. So it ends with the last of them, whatever
/// happens, and there is nothing to clean up but the endpoint. If `weft run` itself is killed, the kernel sends the command
/// SIGTERM: it is not left running without the endpoint's owner.
///
/// The command's resolver and hosts are in a mount namespace that ends with it ([`exec::Files`]).
#[derive(Args)]
pub(super) struct RunArgs {
    /// The network
    #[arg(long, value_name = "NET")]
    network: String,
    /// The endpoint's name [default: the command's, with some random characters]
    #[arg(long)]
    name: Option<String>,
    /// One more name for it
    #[arg(long = "alias", value_name = "ALIAS")]
    aliases: Vec<String>,
    /// The service whose replica it is
    #[arg(long)]
    service: Option<String>,
    /// A service that the command finds in its environment (`ALIAS_PORT` and so on) and its /etc/hosts
    #[arg(long = "link", value_name = "SERVICE[:ALIAS]")]
    links: Vec<LinkWord>,
    /// The command and its arguments
    #[arg(last = true, required = true)]
    command: Vec<OsString>,
}

impl RunArgs {
    /// Runs the command attached, and returns its exit code: 128 and the signal's number if a signal ended it.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<u8, Refusal> {
        let Self { network, name, aliases, service, links, command } = self;
        // Before anything is made, so that no signal from here on ends us without a detach.
        let mut signals = forwarded_signals()?;
        let links = Link::find(agent, &network, links).await?;
        let namespace = Namespace::make().await?;
        let name = match name {
            Some(name) => name,
            None => made_up_name(command.first())?,
        };
        let request = AttachRequest {
            netns: NetnsTarget::Path(namespace.path.clone()),
            network,
            name: Some(name),
            aliases,
            service,
            ip: None,
            ifname: DEFAULT_IFNAME.to_owned(),
            weight: NonZeroU16::MIN,
            loopback_up: true,
        };
        let is_replica = request.service.is_some();
        let endpoint = waiting("attaching", agent.attach(request)).await?.endpoint;
        let surroundings = Surroundings::of(&endpoint, &links);
        let endpoint = endpoint.id;

        let outcome = match signals.try_recv() {
            Ok(signal) => Ok(exit_code_of(signal)),
            Err(_) => match namespace.launch(surroundings, command).await {
                Ok(mut child) => {
                    let replica = is_replica.then_some(Replica { agent, endpoint: &endpoint });
                    supervise(&mut child, &mut signals, replica).await
                }
                Err(refusal) => Err(refusal),
            },
        };

        match waiting("detaching", agent.release(&endpoint)).await {
            Ok(reply) => drain::tell(&reply),
            Err(Refusal { kind: RefusalKind::NotFound, .. }) => {}
            // The command's own end is what the caller asked about.
            Err(Refusal { kind: _, message, hint }) => {
                complain(&format!("cannot detach endpoint {endpoint}: {message}"), hint.as_deref());
            }
        }
        outcome
    }
}

fn exit_code(status: ExitStatus) -> u8 {
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
    code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX)
}

fn exit_code_of(signal: Signal) -> u8 {
    u8::try_from(128 + signal as i32).unwrap_or(u8::MAX)
}

/// Signals that wait to be forwarded: signals of one number that arrive faster than they are taken merge before they get
/// here, so more than a few of each of the six kinds never wait.
const SIGNALS_MAX: usize = 32;

/// The signals that are the command's and not ours, from now on. What our caller had us ignore stays ignored, by the command too: `nohup`.
fn forwarded_signals() -> Result<channel::Receiver<Signal>, Refusal> {
    let refuse = |error| Refusal::internal(format!("cannot handle signals: {error}"));
    let ignored = ignored_signals().map_err(refuse)?;
    let (sender, receiver) = channel::channel(SIGNALS_MAX);
    for number in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGQUIT, Signal::SIGUSR1, Signal::SIGUSR2] {
        if ignored & (1 << (number as u32 - 1)) != 0 {
            continue;
        }
        let mut arrivals = signal(SignalKind::from_raw(number as i32)).map_err(refuse)?;
        let sender = sender.clone();
        // It ends with the runtime.
        tokio::spawn(async move { while arrivals.recv().await.is_some() && sender.send(number).await.is_ok() {} });
    }
    Ok(receiver)
}

/// The signals that this process ignores, signal N as bit N - 1 (the field `SigIgn` of proc(5)).
fn ignored_signals() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok())
        .ok_or_else(|| io::Error::other("/proc/self/status does not tell which are ignored"))
}

/// A new network namespace and the thread that holds it. Dropping this ends the thread.
struct Namespace {
    path: String,
    launches: mpsc::SyncSender<Launch>,
}

/// A command for the namespace's thread, and where to put the started process.
type Launch = (Command, oneshot::Sender<io::Result<Child>>);

impl Namespace {
    async fn make() -> Result<Self, Refusal> {
        let (launches, orders) = mpsc::sync_channel::<Launch>(1);
        let (ready, made) = oneshot::channel();
        let runtime = Handle::current();
        let refuse = |why: String| Refusal::internal(format!("cannot make a network namespace: {why}"));
        thread::Builder::new()
            .name("weft-netns".to_owned())
            .spawn(move || {
                let result = unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid());
                // Nobody waits any longer only when the command line is ending.
                let _ = ready.send(result);
                let _within = runtime.enter();
                // The thread stays until the sender goes: the command's parent-death signal is tied to it.
                for (mut command, started) in orders {
                    let _ = started.send(command.spawn());
                }
            })
            .map_err(|error| refuse(error.to_string()))?;
        match made.await {
            Ok(Ok(thread)) => Ok(Self { path: format!("/proc/{}/task/{thread}/ns/net", process::id()), launches }),
            Ok(Err(error)) => Err(refuse(error.desc().to_owned()).with_hint("run the command as root")),
            Err(_) => Err(refuse("its thread ended".to_owned())),
        }
    }

    /// Starts the command inside.
    async fn launch(&self, surroundings: Surroundings, words: Vec<OsString>) -> Result<Child, Refusal> {
        let refuse = |why: String| Refusal::internal(format!("cannot start the command: {why}"));
        let mut command = Command::new("/proc/self/exe");
        let Surroundings { files, environment } = surroundings;
        command.arg0(exec::PROGRAM).args(ExecArgs::words(process::id(), files, words)).envs(environment);
        let (started, child) = oneshot::channel();
        self.launches.send((command, started)).map_err(|_| refuse("the namespace's thread ended".to_owned()))?;
        match child.await {
            Ok(result) => result.map_err(|error| refuse(error.to_string())),
            Err(_) => Err(refuse("the namespace's thread ended".to_owned())),
        }
    }
}

/// The command's file name as far as it can stand in a name, and six random hexadecimal digits: one in 16 million that two
/// of the same command meet, and then the second is refused and nothing else.
fn made_up_name(program: Option<&OsString>) -> Result<String, Refusal> {
    let mut random = [0; 3];
    getrandom::fill(&mut random).map_err(|error| Refusal::internal(format!("cannot make up a name: {error}")))?;
    let [a, b, c] = random;
    let program = program.and_then(|program| Path::new(program).file_name()).unwrap_or_default();
    Ok(format!("{}-{a:02x}{b:02x}{c:02x}", name_stem(&program.to_string_lossy())))
}

/// At most 56 characters, so that a hyphen and six more make 63: the longest name.
fn name_stem(file_name: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() { letter.to_ascii_lowercase() } else { '-' };
    let stem: String = file_name
        .trim_start_matches(|letter: char| !letter.is_ascii_alphanumeric())
        .chars()
        .map(plain)
        .take(56)
        .collect();
    match stem.trim_end_matches('-') {
        "" => "run".to_owned(),
        stem => stem.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_up_name_is_a_name() {
        let long = "x".repeat(300);
        for program in ["/usr/bin/python3.11", "sh", "./My_Tool", "/", "", "--", "é", "[", &long] {
            let name = made_up_name(Some(&program.into())).unwrap();
            let permitted = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            assert!(name.len() <= 63 && name.bytes().all(permitted), "{program:?} gives {name:?}");
            assert!(!name.starts_with('-') && !name.ends_with('-'), "{program:?} gives {name:?}");
        }
        assert_eq!(name_stem("python3.11"), "python3-11");
        assert_eq!(name_stem("._-Tool-"), "tool");
    }

    #[test]
    fn exit_codes_are_those_of_a_shell() {
        assert_eq!(exit_code(ExitStatus::from_raw(7 << 8)), 7);
        assert_eq!(exit_code(ExitStatus::from_raw(15)), 143);
        assert_eq!(exit_code_of(Signal::SIGINT), 130);
    }
}
