//! The programs that the tests need: looked for, installed where that can be done without asking, and named where not.

use std::{
    env,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::no_arguments;

/// What the tools are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// `cargo xtask test`.
    Tests,
    /// `cargo xtask bench`, which needs the tests' tools too.
    Bench,
}

/// A program, the Debian package that has it, and who needs it.
type Tool = (&'static str, &'static str, &'static str);

const TOOLS: &[Tool] = &[
    ("ip", "iproute2", "namespaces and links of the scenarios"),
    ("bridge", "iproute2", "damage to the forwarding table in scenario 13"),
    ("nft", "nftables", "checks the rule sets and looks at the kernel from outside"),
    ("conntrack", "conntrack", "looks at connections from outside"),
    ("tcpdump", "tcpdump", "assertions on the wire"),
    ("etcdctl", "etcd-client", "the real client against the embedded store"),
    ("cc", "gcc", "links every program"),
];

const BENCH_TOOLS: &[Tool] = &[
    ("wrk", "wrk", "measures requests and connections"),
    ("iperf3", "iperf3", "measures bulk transfer"),
    ("ss", "iproute2", "sees when iperf3 listens"),
];

/// `cargo xtask setup`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    no_arguments(arguments)?;
    ensure_tools(For::Bench)
}

/// Finds every tool or installs it. Missing root is an error here, because no scenario can run without.
pub(crate) fn ensure_tools(purpose: For) -> Result<()> {
    let tools: Vec<&Tool> = match purpose {
        For::Tests => TOOLS.iter().collect(),
        For::Bench => TOOLS.iter().chain(BENCH_TOOLS).collect(),
    };
    for component in ["fmt", "clippy"] {
        ensure!(
            quiet_success(Command::new("cargo").args([component, "--version"])),
            "`cargo {component}` is missing: rustup component add rustfmt clippy"
        );
    }
    ensure!(
        netns_tests::is_root(),
        "the namespace scenarios need root, and a test run without them proves little: run it as root \
         (`sudo -E env PATH=$PATH cargo xtask test`)"
    );
    let missing: Vec<&Tool> = tools.iter().copied().filter(|(program, ..)| !on_path(program)).collect();
    if missing.is_empty() {
        println!("    every tool is there: {}", names(tools.into_iter()));
        return Ok(());
    }
    let mut packages: Vec<&str> = missing.iter().map(|(_, package, _)| *package).collect();
    packages.dedup();
    if !Path::new("/etc/debian_version").exists() {
        for (program, package, why) in &missing {
            eprintln!("    missing: {program} (Debian package {package}): {why}");
        }
        bail!("install the missing programs by hand: this is not Debian, so they are not installed for you");
    }
    println!("    installing {}", packages.join(" "));
    apt_get(&["update", "-q"])?;
    let mut words = vec!["install", "-q", "-y", "--no-install-recommends"];
    words.extend(&packages);
    apt_get(&words)?;
    let still: Vec<&Tool> = missing.into_iter().filter(|(program, ..)| !on_path(program)).collect();
    ensure!(still.is_empty(), "apt-get ended well, yet these are still missing: {}", names(still.into_iter()));
    Ok(())
}

fn apt_get(words: &[&str]) -> Result<()> {
    let status = Command::new("apt-get")
        .args(words)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .context("apt-get cannot be run")?;
    ensure!(status.success(), "`apt-get {}` failed ({status})", words.join(" "));
    Ok(())
}

fn names<'a>(tools: impl Iterator<Item = &'a Tool>) -> String {
    tools.map(|(program, ..)| *program).collect::<Vec<_>>().join(", ")
}

/// Whether the shell would find `program`. Debian keeps `ip` and `nft` in /usr/sbin, which is on root's path.
pub(crate) fn on_path(program: &str) -> bool {
    env::var_os("PATH").is_some_and(|path| env::split_paths(&path).any(|folder| folder.join(program).is_file()))
}

/// Whether a command can be run and succeeds; its output is dropped.
pub(crate) fn quiet_success(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
