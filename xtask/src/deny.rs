//! cargo-deny, for whoever has it. The tests do not depend on it: it takes minutes to build and its advisories need the
//! network. What can be judged offline, licences, bans and sources, `licences` judges in every test run from the same file.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::{
    no_arguments, root,
    setup::{on_path, quiet_success},
};

/// `cargo xtask deny`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    ensure!(
        on_path("cargo-deny") || quiet_success(Command::new("cargo").args(["deny", "--version"])),
        "cargo-deny is missing: cargo install --locked cargo-deny"
    );
    let status = Command::new("cargo")
        .args(["deny", "check"])
        .current_dir(root())
        .status()
        .context("`cargo deny` cannot be run")?;
    ensure!(status.success(), "cargo-deny found something ({status})");
    Ok(())
}
