//! Measurements in release mode: throughput, latency and size beside the same path laid by hand.

use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::{root, setup};

/// `cargo xtask bench [PART]...`: all parts, or those that are named, such as `rolling-update`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    setup::ensure_tools(setup::For::Bench)?;
    // The programs under test have to lie beside the one that measures.
    let build =
        ["build", "--release", "--package", "weft", "--package", "netns-tests", "--package", "weft-bench", "--bins"];
    let parts: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let measure = [&["run", "--release", "--quiet", "--package", "weft-bench", "--"], &parts[..]].concat();
    for words in [&build[..], &measure[..]] {
        let status = Command::new("cargo")
            .args(words)
            .current_dir(root())
            .stdin(Stdio::null())
            .status()
            .context("cargo cannot be run")?;
        ensure!(status.success(), "`cargo {}` failed ({status})", words.join(" "));
    }
    Ok(())
}
