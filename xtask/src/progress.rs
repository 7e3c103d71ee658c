//! A line for each step of a task, with the time that it took.

use std::{
    io::{IsTerminal, Write},
    time::{Duration, Instant},
};

use anyhow::Result;

/// A short silent step: one line, which on a terminal is there from the start.
pub(crate) fn step<T>(what: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let terminal = std::io::stdout().is_terminal();
    if terminal {
        print!("  … {what}");
        // The line is for looks alone.
        let _ = std::io::stdout().flush();
    }
    let begun = Instant::now();
    let result = work();
    let back = if terminal { "\r\x1b[K" } else { "" };
    println!("{back}{}", closing(what, begun, &result));
    result
}

/// The long steps of one task, and those that failed.
pub(crate) struct Steps {
    started: Instant,
    failed: Vec<String>,
}

impl Steps {
    /// No step taken yet.
    pub(crate) fn new() -> Self {
        Self { started: Instant::now(), failed: Vec::new() }
    }

    /// A step with output of its own: one line before and one after. A failure is kept for [`Steps::failed`].
    pub(crate) fn take<T>(&mut self, what: &str, work: impl FnOnce() -> Result<T>) -> Option<T> {
        println!("\n{}", paint("1", &format!("── {what}")));
        let begun = Instant::now();
        let result = work();
        println!("{}", closing(what, begun, &result));
        match result {
            Ok(value) => Some(value),
            Err(error) => {
                eprintln!("    {error:#}");
                self.failed.push(what.to_owned());
                None
            }
        }
    }

    /// The names of the steps that failed.
    pub(crate) fn failed(&self) -> &[String] {
        &self.failed
    }

    /// Since the first step.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }
}

fn closing<T>(what: &str, begun: Instant, result: &Result<T>) -> String {
    let took = paint("2", &format!("{:.1} s", begun.elapsed().as_secs_f64()));
    match result {
        Ok(_) => format!("  {} {what}  {took}", paint("32", "✓")),
        Err(_) => format!("  {} {what}  {took}", paint("31", "✗")),
    }
}

/// `text` in an ANSI style (ECMA-48, SGR), or plain where nobody would see it or `NO_COLOR` is set.
pub(crate) fn paint(style: &str, text: &str) -> String {
    if std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        format!("\x1b[{style}m{text}\x1b[0m")
    } else {
        text.to_owned()
    }
}
