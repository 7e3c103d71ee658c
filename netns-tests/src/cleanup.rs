//! What this process has made on the machine, and its removal when a signal ends the process.
//!
//! Everything is registered here before it is made and forgotten after its owner's drop has removed it. One thread, started
//! with the first registration and alive until the process ends, waits for SIGINT, SIGTERM and SIGHUP, removes what is
//! registered and exits. SIGKILL alone gets past it: what such a process left is swept by the next one ([`sweep`]).

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::Command,
    sync::{Mutex, MutexGuard, Once, PoisonError},
    thread,
};

use anyhow::Result;
use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        wait::waitpid,
    },
    unistd::Pid,
};
use tokio::signal::unix::{SignalKind, signal};

use crate::leftovers::{entries, is_alive, owner_by_name, processes};

/// What is there now.
#[derive(Default)]
pub(crate) struct Held {
    /// Leaders of process groups.
    pub(crate) processes: BTreeSet<i32>,
    /// Names under /run/netns.
    pub(crate) namespaces: BTreeSet<String>,
    /// Temporary folders.
    pub(crate) folders: BTreeSet<PathBuf>,
}

static HELD: Mutex<Held> =
    Mutex::new(Held { processes: BTreeSet::new(), namespaces: BTreeSet::new(), folders: BTreeSet::new() });

static WATCH: Once = Once::new();

/// The register, to add to or to take from. Once a signal has come nobody gets it any more: the process is about to end.
pub(crate) fn held() -> MutexGuard<'static, Held> {
    WATCH.call_once(|| {
        if let Err(error) = watch_signals() {
            eprintln!("warning: signals cannot be watched, so Ctrl-C would leave namespaces behind: {error}");
        }
    });
    // A panic elsewhere does not make the list wrong.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Kills a process group and whatever of it is left.
pub(crate) fn kill_group(leader: i32) {
    // It may be gone already.
    let _ = killpg(Pid::from_raw(leader), Signal::SIGKILL);
}

/// Where iproute2 looks for a namespace's own files; `weft attach` writes a resolv.conf there.
pub(crate) const NETNS_FILES: &str = "/etc/netns";

/// Kills what runs in a namespace and removes its name and its files.
pub(crate) fn remove_namespace(name: &str) -> io::Result<()> {
    match fs::remove_dir_all(Path::new(NETNS_FILES).join(name)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if !Path::new("/run/netns").join(name).exists() {
        return Ok(());
    }
    let pids = Command::new("ip").args(["netns", "pids", name]).output()?;
    for pid in String::from_utf8_lossy(&pids.stdout).split_whitespace().filter_map(|pid| pid.parse().ok()) {
        // Only processes inside a namespace of our own are listed here.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let removed = Command::new("ip").args(["netns", "del", name]).output()?;
    if removed.status.success() {
        return Ok(());
    }
    Err(io::Error::other(String::from_utf8_lossy(&removed.stderr).trim().to_owned()))
}

/// Removes what processes that are gone have left: their processes, namespaces and folders.
pub(crate) fn sweep() -> Result<()> {
    for (pid, _) in processes()?.into_iter().filter(|(_, owner)| !is_alive(*owner)) {
        // It may have ended since.
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    let is_orphan = |name: &String| owner_by_name(name).is_some_and(|owner| !is_alive(owner));
    let names: BTreeSet<String> =
        entries(Path::new("/run/netns"))?.chain(entries(Path::new(NETNS_FILES))?).filter(is_orphan).collect();
    for name in names {
        if let Err(error) = remove_namespace(&name) {
            eprintln!("warning: the orphaned namespace {name} stays: {error}");
        }
    }
    let temp = std::env::temp_dir();
    for name in entries(&temp)?.filter(is_orphan) {
        // Somebody else may be sweeping too.
        let _ = fs::remove_dir_all(temp.join(name));
    }
    Ok(())
}

fn watch_signals() -> io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (mut interrupt, mut terminate, mut hangup) = {
        let _entered = runtime.enter();
        (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?, signal(SignalKind::hangup())?)
    };
    thread::Builder::new().name("cleanup".to_owned()).spawn(move || {
        let code = runtime.block_on(async {
            tokio::select! {
                _ = interrupt.recv() => 130,
                _ = terminate.recv() => 143,
                _ = hangup.recv() => 129,
            }
        });
        remove_everything_and_exit(code);
    })?;
    Ok(())
}

/// Keeps the register locked to the end, so that no other thread makes anything new.
#[expect(clippy::disallowed_methods, reason = "the guards' work has just been done for them, and main may be blocked")]
fn remove_everything_and_exit(code: i32) {
    let held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    eprintln!("\ninterrupted: removing namespaces and processes");
    for leader in &held.processes {
        kill_group(*leader);
        // The owner's thread may have waited for it already.
        let _ = waitpid(Pid::from_raw(*leader), None);
    }
    for name in &held.namespaces {
        if let Err(error) = remove_namespace(name) {
            eprintln!("warning: the namespace {name} stays: {error}");
        }
    }
    for folder in &held.folders {
        if let Err(error) = fs::remove_dir_all(folder)
            && error.kind() != io::ErrorKind::NotFound
        {
            eprintln!("warning: {} stays: {error}", folder.display());
        }
    }
    std::process::exit(code);
}
