//! The command's side of `weft run`: what happens between the new namespace and the command's own first instruction.

mod files;

use std::{env, ffi::OsString, io, os::unix::process::CommandExt, process::Command};

use nix::{
    sys::{prctl::set_pdeathsig, signal::Signal},
    unistd::{Pid, getppid},
};

pub(super) use self::files::Files;
use super::complain;

/// What `weft run` calls its own program as.
pub(super) const PROGRAM: &str = "weft-run-exec";

/// The command could not be found, and the command could not be executed, as a shell tells them (POSIX, 2.8.2).
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// As a shell reports a command that SIGTERM (15) ended.
const ENDED_BY_SIGTERM: u8 = 128 + 15;

/// The command line between `weft run` and its command.
///
/// Only the child itself can ask to be signalled when its parent ends (prctl(2), `PR_SET_PDEATHSIG`), and between fork and
/// exec no safe code can run; so `weft run` executes this, and this executes the command, in the same process. So it is with the
/// command's mount namespace, which only a process with one thread gets (unshare(2)).
///
/// It is told from the `weft` that people call by the program's name, `argv[0]`: so it is no word of the command line.
pub(super) struct ExecArgs {
    parent: i32,
    files: Files,
    command: Vec<OsString>,
}

impl ExecArgs {
    /// The arguments that [`Self::of_process`] reads in the child.
    pub(super) fn words(parent: u32, files: Files, command: Vec<OsString>) -> impl Iterator<Item = OsString> {
        let Files { resolv_conf, hosts } = files;
        [parent.to_string(), resolv_conf, hosts].into_iter().map(OsString::from).chain(command)
    }

    /// What this process was asked to become, if it was started by `weft run`.
    pub(super) fn of_process() -> Option<Self> {
        let mut words = env::args_os();
        if words.next()? != PROGRAM {
            return None;
        }
        let mut text = || words.next()?.into_string().ok();
        let parent = text()?.parse().ok()?;
        let files = Files { resolv_conf: text()?, hosts: text()? };
        Some(Self { parent, files, command: words.collect() })
    }

    /// Becomes the command; returns the exit code if that fails.
    pub(super) fn run(self) -> u8 {
        let Self { parent, files, command } = self;
        let mut words = command.into_iter();
        let program = words.next().unwrap_or_default();
        if let Err(error) = set_pdeathsig(Signal::SIGTERM) {
            complain(&format!("cannot ask for a signal at the end of `weft run`: {error}"), None);
            return NOT_EXECUTABLE;
        }
        // The parent may have ended before the signal was asked for: then another process is the parent by now.
        if getppid() != Pid::from_raw(parent) {
            return ENDED_BY_SIGTERM;
        }
        if let Err(why) = files.install() {
            complain(&format!("cannot give the command a resolv.conf and hosts of its own: {why}"), None);
            return NOT_EXECUTABLE;
        }
        let error = Command::new(&program).args(words).exec();
        complain(&format!("cannot run {}: {error}", program.display()), None);
        if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE }
    }
}
