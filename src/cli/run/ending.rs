//! From the command's start to its end: which signals it gets, and when.
//!
//! Who asks `weft run` to end (systemd, a deployment) means that nothing shall be lost by it. So the first such signal is held
//! back until the endpoint has left balancing and its connections have finished; the command, which would close its
//! listener, hears of it after that. Whoever insists is obeyed at once.

use std::{fs::File, future::Future, process::ExitStatus};

use nix::{
    sys::signal::{Signal, kill},
    unistd::{Pid, getpgrp, tcgetpgrp},
};
use tokio::{process::Child, sync::mpsc};

use super::exit_code;
use crate::{
    api::{Operations, Refusal, wire::DrainRequest},
    cli::{
        drain::{self, Of, watching},
        warn,
    },
};

/// A replica that is to be drained before its command is told to end.
pub(super) struct Replica<'a, O> {
    pub(super) agent: &'a O,
    /// Its endpoint's id.
    pub(super) endpoint: &'a str,
}

/// Waits for the command's end and hands it every signal meanwhile; that of a replica is drained first.
pub(super) async fn supervise(
    child: &mut Child,
    signals: &mut mpsc::Receiver<Signal>,
    replica: Option<Replica<'_, impl Operations>>,
) -> Result<u8, Refusal> {
    let mut replica = replica;
    loop {
        tokio::select! {
            status = child.wait() => return ended(status),
            Some(signal) = signals.recv() => {
                if came_from_terminal(signal) {
                    continue;
                }
                match replica.take_if(|_| asks_to_end(signal)) {
                    None => forward(child, signal),
                    Some(replica) => match hold_back(child, signals, replica.drain()).await {
                        Held::Drained => forward(child, signal),
                        Held::Insisted(insisting) => forward(child, insisting),
                        Held::Ended(status) => return ended(status),
                    },
                }
            }
        }
    }
}

impl<O: Operations> Replica<'_, O> {
    async fn drain(self) {
        let what = format!("draining {} before its command is told to end", self.endpoint);
        let work = self.agent.endpoint_drain(self.endpoint, DrainRequest::default());
        match watching(&what, self.agent, Of::Endpoint(self.endpoint), work).await {
            Ok(reply) => drain::tell(&reply),
            Err(Refusal { message, .. }) => {
                warn(&format!("the command is told to end without having been drained: {message}"));
            }
        }
    }
}

/// How the holding back of a signal ended.
enum Held {
    /// The endpoint is drained, as far as it could be.
    Drained,
    /// Somebody has asked once more.
    Insisted(Signal),
    /// The command has ended by itself.
    Ended(std::io::Result<ExitStatus>),
}

async fn hold_back(child: &mut Child, signals: &mut mpsc::Receiver<Signal>, drain: impl Future<Output = ()>) -> Held {
    let mut drain = std::pin::pin!(drain);
    loop {
        tokio::select! {
            status = child.wait() => return Held::Ended(status),
            () = &mut drain => return Held::Drained,
            Some(signal) = signals.recv() => match () {
                () if came_from_terminal(signal) => {}
                () if asks_to_end(signal) => return Held::Insisted(signal),
                () => forward(child, signal),
            },
        }
    }
}

/// The signals by which a program is asked to end, and may take its time.
fn asks_to_end(signal: Signal) -> bool {
    matches!(signal, Signal::SIGTERM | Signal::SIGINT | Signal::SIGHUP)
}

fn forward(child: &Child, signal: Signal) {
    // No id: it has ended and been waited for, and its number may be another's by now.
    if let Some(pid) = child.id().and_then(|id| i32::try_from(id).ok()) {
        // It fails only when the command has ended or has become another user's; the wait goes on.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn ended(status: std::io::Result<ExitStatus>) -> Result<u8, Refusal> {
    status.map(exit_code).map_err(|error| Refusal::internal(format!("cannot wait for the command: {error}")))
}

/// Whether the terminal gave the signal to the command already: it sends what a person types to the whole group of
/// processes in its foreground (termios(3), `ISIG`).
fn came_from_terminal(signal: Signal) -> bool {
    matches!(signal, Signal::SIGINT | Signal::SIGQUIT)
        && File::open("/dev/tty").is_ok_and(|tty| tcgetpgrp(tty) == Ok(getpgrp()))
}
