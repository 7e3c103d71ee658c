use std::{
    os::unix::process::CommandExt,
    process::{Child, Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::{
    cleanup::{held, kill_group},
    leftovers::OWNER,
    wait_until,
};

/// A child with a process group of its own. It is killed with its group and waited for when this is dropped.
///
/// The own group keeps a terminal's Ctrl-C away from it, so that the end stays in this process's hands.
pub struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts `command` on this thread, hence in this thread's network namespace.
    pub fn start(what: impl Into<String>, mut command: Command) -> Result<Self> {
        let what = what.into();
        // Registered under the same lock as it is started: a signal finds either nothing or the whole.
        let mut held = held();
        let owner = std::process::id().to_string();
        let child =
            command.env(OWNER, owner).process_group(0).spawn().with_context(|| format!("{what} cannot be started"))?;
        let process = Self { child, what };
        held.processes.insert(process.pid());
        Ok(process)
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        // Linux's process ids end at 2^22 (proc(5), pid_max).
        self.child.id().cast_signed()
    }

    /// Its exit status, if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().with_context(|| format!("{} cannot be waited for", self.what))
    }

    /// Sends one signal to the process, not to its group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.pid()), signal).with_context(|| format!("{} cannot be sent {signal}", self.what))
    }

    /// Waits for the end, at most for `bound`.
    pub fn wait(&mut self, bound: Duration) -> Result<ExitStatus> {
        let what = format!("{} ends", self.what);
        wait_until(what, bound, || match self.ended()? {
            Some(status) => Ok(status),
            None => bail!("it runs"),
        })
    }

    /// SIGTERM, then the end within `bound`.
    pub fn stop(mut self, bound: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        self.wait(bound)
    }

    /// SIGKILL, then the end.
    pub fn kill(self) {
        drop(self);
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        kill_group(self.pid());
        // SIGKILL cannot be refused; an error means that the child has been waited for.
        let _ = self.child.wait();
        held().processes.remove(&self.pid());
    }
}
