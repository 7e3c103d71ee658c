//! Everything that has to pass before a change is good, in one command: what a developer runs and what `.ci/run` runs.
//!
//! A step that fails does not hide the next: only missing tools and a build that fails end the run at once. Nothing is
//! skipped: what cannot be run is a failure.

use std::{
    io::{BufRead, BufReader, IsTerminal, Read, Write},
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use netns_tests::Machine;

use crate::{
    licences, no_arguments,
    progress::{Steps, paint},
    root, run_tidy,
    setup::{For, ensure_tools, quiet_success},
};

/// The package with the scenarios: they need root and the machine for themselves.
const SCENARIOS: &str = "netns-tests";

/// `cargo xtask test`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    let mut steps = Steps::new();
    let mut count = Count::default();

    steps.take("tools", || ensure_tools(For::Tests)).context("the tests cannot start")?;
    steps.take("format", || cargo(&["fmt", "--all", "--check"]));
    steps.take("tidy", || run_tidy(&[]));
    steps.take("licences, bans, sources", licences::check);
    steps.take("clippy", || cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]));

    let runner = Runner::found();
    println!("\n    tests by {}", runner.name());
    // One build for all tests. It makes the binaries too, because the root package has integration tests: the scenarios
    // run the `weft` that lies beside them.
    steps.take("build", || cargo(&runner.build())).context("the tests cannot start")?;
    steps.take("unit and integration tests", || cargo_counted(&runner.ordinary(), &mut count));
    steps.take("documentation tests", || cargo_counted(&["test", "--workspace", "--doc", "--quiet"], &mut count));
    let before = Machine::look()?;
    steps.take("namespace scenarios, one after the other", || cargo_counted(&runner.scenarios(), &mut count));
    steps.take("nothing is left behind", || {
        let left = Machine::look()?.left_since(&before);
        ensure!(left.is_empty(), "the scenarios left behind: {}", left.join(", "));
        Ok(())
    });

    println!();
    let took = clock(steps.elapsed());
    println!("{} passed, {} failed, in {took}", count.passed, count.failed);
    match steps.failed() {
        [] if count.passed > 0 => {
            println!("{}", paint("32", "everything passes"));
            Ok(())
        }
        [] => bail!("no test was run"),
        failed => bail!("failed: {}", failed.join("; ")),
    }
}

/// What the runners' own summaries say, added up.
#[derive(Default)]
struct Count {
    passed: usize,
    failed: usize,
}

impl Count {
    /// Adds a line of output if it is a summary: nextest's `Summary [ 0.1s] 3 tests run: 2 passed, 1 failed` or libtest's
    /// `test result: ok. 3 passed; 0 failed; ...`.
    fn add(&mut self, line: &str) {
        let plain = without_ansi(line);
        if !plain.trim_start().starts_with("Summary [") && !plain.starts_with("test result:") {
            return;
        }
        let words: Vec<&str> = plain.split([' ', ',', ';']).filter(|word| !word.is_empty()).collect();
        for pair in words.windows(2) {
            let number = pair[0].parse().unwrap_or(0);
            match pair[1] {
                "passed" => self.passed += number,
                // A test that ran out of time or could not be started did not pass either.
                "failed" | "timed" | "exec" => self.failed += number,
                _ => {}
            }
        }
    }
}

/// What runs the tests.
enum Runner {
    /// Each test in a process of its own, and several at once.
    Nextest,
    /// What every Rust has.
    CargoTest,
}

impl Runner {
    fn found() -> Self {
        let nextest = quiet_success(Command::new("cargo").args(["nextest", "--version"]));
        if nextest { Self::Nextest } else { Self::CargoTest }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Nextest => "cargo nextest",
            Self::CargoTest => "cargo test (cargo nextest is not installed)",
        }
    }

    fn build(&self) -> Vec<&'static str> {
        match self {
            Self::Nextest => vec!["nextest", "run", "--workspace", "--no-run"],
            Self::CargoTest => vec!["test", "--workspace", "--no-run"],
        }
    }

    fn ordinary(&self) -> Vec<&'static str> {
        match self {
            // Both runs name the whole workspace, so that neither builds anything with other features again.
            Self::Nextest => {
                vec!["nextest", "run", "--workspace", "--no-fail-fast", "-E", "not package(netns-tests)"]
            }
            Self::CargoTest => {
                vec!["test", "--workspace", "--exclude", SCENARIOS, "--no-fail-fast", "--lib", "--bins", "--tests"]
            }
        }
    }

    fn scenarios(&self) -> Vec<&'static str> {
        match self {
            Self::Nextest => vec![
                "nextest",
                "run",
                "--workspace",
                "--no-fail-fast",
                "--test-threads=1",
                "-E",
                "package(netns-tests)",
            ],
            Self::CargoTest => {
                vec![
                    "test",
                    "--package",
                    SCENARIOS,
                    "--no-fail-fast",
                    "--lib",
                    "--bins",
                    "--tests",
                    "--",
                    "--test-threads=1",
                ]
            }
        }
    }
}

fn cargo(words: &[&str]) -> Result<()> {
    let status = Command::new("cargo")
        .args(words)
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .context("cargo cannot be run")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", words.join(" "));
    Ok(())
}

/// Runs cargo, passes its output on line by line, and counts the tests in it.
fn cargo_counted(words: &[&str], count: &mut Count) -> Result<()> {
    let colour = if std::io::stderr().is_terminal() { "always" } else { "never" };
    let mut child = Command::new("cargo")
        .args(words)
        .current_dir(root())
        .env("CARGO_TERM_COLOR", colour)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cargo cannot be run")?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let (from_stdout, from_stderr) = thread::scope(|scope| {
        let other = scope.spawn(|| pass_on(stderr, std::io::stderr()));
        (pass_on(stdout, std::io::stdout()), other.join().unwrap_or_default())
    });
    for line in from_stdout.iter().chain(&from_stderr) {
        count.add(line);
    }
    let status = child.wait().context("cargo got lost")?;
    ensure!(status.success(), "`cargo {}` failed ({status})", words.join(" "));
    Ok(())
}

/// Copies a stream line by line and returns the lines.
fn pass_on(from: Option<impl Read>, mut to: impl Write) -> Vec<String> {
    let Some(from) = from else { return Vec::new() };
    let mut lines = Vec::new();
    for line in BufReader::new(from).lines().map_while(Result::ok) {
        // A reader that went away must not stop the tests.
        let _ = writeln!(to, "{line}");
        lines.push(line);
    }
    lines
}

/// Without colour sequences (ECMA-48: `ESC [`, parameters, a letter).
fn without_ansi(line: &str) -> String {
    let mut plain = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once("\x1b[") {
        plain.push_str(before);
        rest = after.find(|c: char| c.is_ascii_alphabetic()).map_or("", |end| &after[end + 1..]);
    }
    plain + rest
}

fn clock(time: Duration) -> String {
    format!("{} min {:02} s", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_runners_summaries_are_counted() {
        let mut count = Count::default();
        for line in [
            "     Summary [   0.010s] 12 tests run: 9 passed, 1 failed, 2 timed out, 3 skipped",
            "\x1b[32;1m     Summary\x1b[0m [   0.010s] \x1b[1m2\x1b[0m tests run: \x1b[1m2\x1b[0m \x1b[32;1mpassed\x1b[0m",
            "     Summary [   1.003s] 4 tests run: 4 passed (1 slow), 0 skipped",
            "test result: ok. 5 passed; 1 failed; 0 ignored; 0 measured; 2 filtered out; finished in 0.00s",
            "test tests::it_says_7_passed ... ok",
            "7 passed, 7 failed",
        ] {
            count.add(line);
        }
        assert_eq!((count.passed, count.failed), (20, 4));
    }
}
