//! The programs that the tests need: looked for, installed where that can be done without asking, and named where not.

use std::{
    env, fs, io,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::{no_arguments, unpacked};

/// What the tools are wanted for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum For {
    /// `cargo xtask test`.
    Tests,
    /// `cargo xtask bench`, which needs the tests' tools too.
    Bench,
}

/// A program or a file, the Debian package that has it, and who needs it.
type Tool = (&'static str, &'static str, &'static str);

/// etcd itself. Debian starts it as a service and at every boot, which the tests do not want: each starts its own.
const SERVER_PACKAGE: &str = "etcd-server";

const TOOLS: &[Tool] = &[
    ("ip", "iproute2", "namespaces and links of the scenarios"),
    ("bridge", "iproute2", "damage to the forwarding table in scenario 13"),
    ("nft", "nftables", "checks the rule sets and looks at the kernel from outside"),
    ("conntrack", "conntrack", "looks at connections from outside"),
    ("tcpdump", "tcpdump", "assertions on the wire"),
    ("dig", "bind9-dnsutils", "asks the nodes for names"),
    ("kdig", "knot-dnsutils", "asks the nodes for names, another client"),
    ("etcdctl", "etcd-client", "the real client against the embedded store"),
    ("etcd", SERVER_PACKAGE, "the reference that the stores and their protocol are held against"),
    ("java", "default-jre-headless", "runs ZooKeeper"),
    // The library alone: the packages around it would add a user, a service and a desktop program.
    ("/usr/share/java/zookeeper.jar", "libzookeeper-java", "ZooKeeper itself, which the store there is tested with"),
    ("cc", "gcc", "links every program"),
];

const BENCH_TOOLS: &[Tool] = &[
    ("wrk", "wrk", "measures requests and connections"),
    ("iperf3", "iperf3", "measures bulk transfer"),
    ("dnsperf", "dnsperf", "measures answers to questions for names"),
    ("taskset", "util-linux", "keeps a program to one core"),
    ("ss", "iproute2", "sees when iperf3 listens"),
    ("haproxy", "haproxy", "what proxy mode is measured beside"),
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
    install(&tools)?;
    unpacked::ensure_programs()
}

/// Installs what is missing of `tools`.
fn install(tools: &[&Tool]) -> Result<()> {
    let missing: Vec<&Tool> = tools.iter().copied().filter(|(program, ..)| !on_path(program)).collect();
    if missing.is_empty() {
        println!("    every tool is there: {}", names(tools.iter().copied()));
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
    {
        let _held = NoServices::hold()?;
        apt_get(&words)?;
    }
    if packages.contains(&SERVER_PACKAGE) {
        // For systemd and for init scripts alike (update-rc.d(8), of the essential package init-system-helpers).
        let disabled = quiet_success(Command::new("update-rc.d").args(["etcd", "disable"]));
        ensure!(disabled, "etcd is installed, but would start at the next boot: `update-rc.d etcd disable` failed");
    }
    let still: Vec<&Tool> = missing.into_iter().filter(|(program, ..)| !on_path(program)).collect();
    ensure!(still.is_empty(), "apt-get ended well, yet these are still missing: {}", names(still.into_iter()));
    Ok(())
}

/// Where Debian's packages ask whether they may start their services.
const POLICY_PATH: &str = "/usr/sbin/policy-rc.d";

/// 101 is "forbidden by policy" (invoke-rc.d's POLICY-RC.D specification).
const POLICY: &str =
    "#!/bin/sh\n# Put here by `cargo xtask setup` while it installs packages; it may be removed.\nexit 101\n";

/// Keeps packages from starting services while it lives. Containers mostly have such a policy; one that is there stays as
/// it is, since whoever wrote it decided.
enum NoServices {
    /// It is ours and goes with us.
    Ours,
    /// It was there.
    Theirs,
}

impl NoServices {
    fn hold() -> Result<Self> {
        match fs::read(POLICY_PATH) {
            // Left by a run that was killed.
            Ok(policy) if policy == POLICY.as_bytes() => {}
            Ok(_) => return Ok(Self::Theirs),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error).context(format!("{POLICY_PATH} cannot be read")),
        }
        let held = Self::Ours;
        let context = || format!("{POLICY_PATH}, which keeps packages from starting services, cannot be written");
        fs::write(POLICY_PATH, POLICY).with_context(context)?;
        fs::set_permissions(POLICY_PATH, fs::Permissions::from_mode(0o755)).with_context(context)?;
        Ok(held)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        match self {
            Self::Ours => {
                if let Err(error) = fs::remove_file(POLICY_PATH) {
                    eprintln!(
                        "    {POLICY_PATH} could not be removed ({error}): packages start no services while it is there"
                    );
                }
            }
            Self::Theirs => {}
        }
    }
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

/// Whether the shell would find `program`, or it is a file's whole path. Debian keeps `ip` and `nft` in /usr/sbin, which is on
/// root's path.
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
