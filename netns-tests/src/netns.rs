use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Output},
    thread,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::sched::{CloneFlags, setns};

use crate::{
    Process,
    cleanup::{held, remove_namespace},
};

/// A named network namespace with `lo` up. Its name, and all that runs in it, goes with this.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes /run/netns/NAME.
    pub fn create(name: impl Into<String>) -> Result<Self> {
        let name = name.into();
        held().namespaces.insert(name.clone());
        let netns = Self { name };
        run(Command::new("ip").args(["netns", "add", &netns.name]))?;
        netns.ip("link set lo up")?;
        Ok(netns)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it can be opened.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Its inode on nsfs, by which the kernel tells namespaces apart (namespaces(7)).
    pub fn inode(&self) -> Result<u64> {
        Ok(std::fs::metadata(self.path()).with_context(|| format!("{} is gone", self.path().display()))?.ino())
    }

    /// Does `work` on a new thread inside the namespace. Threads and processes that it starts are inside too.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = self.open()?;
        let inside = || {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("{} cannot be entered", self.name))?;
            work()
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }

    /// As [`Netns::enter`], without waiting for the end.
    pub fn enter_detached<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<thread::JoinHandle<Result<T>>> {
        let (file, name) = (self.open()?, self.name.clone());
        let inside = move || {
            setns(&file, CloneFlags::CLONE_NEWNET).with_context(|| format!("{name} cannot be entered"))?;
            drop(file);
            work()
        };
        thread::Builder::new().name(self.name.clone()).spawn(inside).context("a thread cannot be started")
    }

    /// Starts a process inside.
    pub fn start(&self, what: impl Into<String> + Send, command: Command) -> Result<Process> {
        self.enter(|| Process::start(what, command))
    }

    /// Runs a command inside to its end, whatever that is.
    pub fn output(&self, command: &mut Command) -> Result<Output> {
        self.enter(|| command.output().with_context(|| format!("{} cannot be run", show(command))))
    }

    /// Runs a command line inside, words parted by spaces, and returns what it printed. A failure is an error.
    pub fn exec(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().ok_or_else(|| anyhow!("an empty command line"))?;
        self.enter(|| run(Command::new(program).args(words))).with_context(|| format!("in {}", self.name))
    }

    /// `ip WORDS` inside.
    pub fn ip(&self, words: &str) -> Result<String> {
        self.exec(&format!("ip {words}"))
    }

    /// Sets a kernel setting of the namespace: `sysctl("net/ipv4/ip_forward", "1")`.
    pub fn sysctl(&self, key: &str, value: &str) -> Result<()> {
        // /proc/sys/net shows the namespace of whoever opens it (proc_sys_net(5)).
        let path = Path::new("/proc/sys").join(key);
        self.enter(|| {
            std::fs::write(&path, value).with_context(|| format!("{} cannot be set to {value:?}", path.display()))
        })
    }

    fn open(&self) -> Result<File> {
        File::open(self.path()).with_context(|| format!("the namespace {} is gone", self.name))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = remove_namespace(&self.name) {
            eprintln!("warning: the namespace {} stays: {error}", self.name);
        }
        held().namespaces.remove(&self.name);
    }
}

/// Runs a command to its end on this thread and returns what it printed.
fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("`{}` cannot be run", show(command)))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{}` failed ({}): {}", show(command), output.status, errors.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
