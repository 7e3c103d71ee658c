//! Every parser of foreign bytes, fed with damaged ones at length. `cargo xtask test` runs the same for 2 s each; the targets are in
//! `tests/fuzz`.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::root;

/// How long each target runs unless somebody says otherwise, in seconds.
const SECONDS: u32 = 600;

/// `cargo xtask fuzz [SECONDS [TARGET]]`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (seconds, target) = match words[..] {
        [] => (SECONDS, None),
        [seconds] => (number(seconds)?, None),
        [seconds, target] => (number(seconds)?, Some(target)),
        _ => bail!("usage: cargo xtask fuzz [SECONDS [TARGET]]"),
    };
    let status = Command::new("cargo")
        // Optimised, but with every check of overflow and every assertion.
        .args(["test", "--release", "--package", "weft", "--test", "fuzz"])
        .args(["--config", "profile.release.overflow-checks=true", "--config", "profile.release.debug-assertions=true"])
        .args(["--config", "profile.release.lto=false"])
        .args(["--", "--nocapture"])
        .args(target)
        .env("WEFT_FUZZ_SECONDS", seconds.to_string())
        .current_dir(root())
        .stdin(Stdio::null())
        .status()
        .context("cargo cannot be run")?;
    ensure!(status.success(), "an input has made a parser fail; it is shown above and kept in target/tmp/fuzz");
    Ok(())
}

fn number(word: &str) -> Result<u32> {
    word.parse().with_context(|| format!("{word:?} is not a number of seconds"))
}
