//! The project's chores, one file each: `cargo xtask TASK`.
//!
//! Everything runs on the calling thread and ends with it. `demo` and `test` make namespaces; those are registered with
//! `netns_tests` before they exist and removed on every way out, Ctrl-C included.

mod bench;
mod demo;
mod deny;
mod fuzz;
mod licences;
mod progress;
mod setup;
mod test;
mod tidy;
mod unpacked;

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Result, bail};

/// A task: its name, what its arguments are, what it does in one line, and its code.
type Task = (&'static str, &'static str, &'static str, fn(&[String]) -> Result<()>);

/// Every task, in the order in which a newcomer wants them.
const TASKS: &[Task] = &[
    (
        "demo",
        "[--keep]",
        "three hosts in namespaces, one service, and a look at it; needs root and iproute2",
        demo::run,
    ),
    ("test", "", "everything that has to pass: format, lints, tidy, tests, namespace scenarios; needs root", test::run),
    (
        "bench",
        "[PART]...",
        "what weft costs: `paths` beside the same laid by hand, `names`; needs root, takes some minutes",
        bench::run,
    ),
    (
        "fuzz",
        "[SECONDS [TARGET]]",
        "every parser of foreign bytes, fed with damaged ones, for 10 minutes each or so many seconds",
        fuzz::run,
    ),
    ("tidy", "", "the project's own rules: import direction, size of files, marks of unfinished work", run_tidy),
    (
        "setup",
        "",
        "installs the tools that `test` and `bench` need (root on Debian), or says which are missing",
        setup::run,
    ),
    ("deny", "", "licences, bans and advisories of the dependencies by cargo-deny, which must be installed", deny::run),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let Some((name, arguments)) = words.split_first() else {
        eprintln!("{}", usage());
        return ExitCode::from(2);
    };
    let Some((.., run)) = TASKS.iter().find(|(task, ..)| task == name) else {
        eprintln!("error: there is no task {name:?}\n\n{}", usage());
        return ExitCode::from(2);
    };
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The repository's root folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new(".")).to_owned()
}

/// Refuses words that a task does not know.
fn no_arguments(arguments: &[String]) -> Result<()> {
    match arguments {
        [] => Ok(()),
        [word, ..] => bail!("this task takes no arguments, but was given {word:?}"),
    }
}

fn run_tidy(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    let report = tidy::check(&root())?;
    for warning in &report.warnings {
        eprintln!("warning: {warning}");
    }
    for violation in &report.violations {
        eprintln!("{violation}");
    }
    match report.violations.len() {
        0 => {
            println!("tidy: {} files, no violation", report.files);
            Ok(())
        }
        count => bail!("tidy: {count} violations in {} files", report.files),
    }
}

fn usage() -> String {
    use std::fmt::Write;

    let mut text = String::from("usage: cargo xtask TASK\n");
    for (name, arguments, what, _) in TASKS {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n  {:<14} {what}", format!("{name} {arguments}"));
    }
    text
}
