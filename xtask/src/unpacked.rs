//! Programs that Debian has in an older suite only: apt fetches the package, by its own lists and signatures, and it is unpacked into the
//! build folder. Nothing is installed, and the host's own lists and sources stay as they are.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail, ensure};

use crate::setup::on_path;

/// A program of an older suite.
struct Unpacked {
    program: &'static str,
    package: &'static str,
    suite: &'static str,
    /// Where the program lies in the package.
    path: &'static str,
}

/// bookworm has no Consul: later versions are under a licence that Debian does not take.
const PROGRAMS: &[Unpacked] =
    &[Unpacked { program: "consul", package: "consul", suite: "bullseye", path: "usr/bin/consul" }];

/// The mirror, where apt's own sources name none.
const MIRROR: &str = "http://deb.debian.org/debian";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Fetches what is not there yet. Tests look under `tools` in the build folder first, then on the path.
pub(crate) fn ensure_programs() -> Result<()> {
    let tools = build_folder()?.join("tools");
    for Unpacked { program, package, suite, path } in PROGRAMS {
        let folder = tools.join(package);
        if folder.join(path).is_file() || on_path(program) {
            continue;
        }
        if !Path::new("/etc/debian_version").exists() {
            bail!("install {program} by hand: this is not Debian, so it is not fetched for you");
        }
        println!("    fetching {package} from Debian {suite} into {}", folder.display());
        fetch(package, suite, &tools).with_context(|| format!("{package} cannot be had from Debian {suite}"))?;
        ensure!(folder.join(path).is_file(), "the package {package} of Debian {suite} has no {path}");
    }
    Ok(())
}

/// Unpacks a package of a suite into `TOOLS/PACKAGE`, all of it or nothing.
fn fetch(package: &str, suite: &str, tools: &Path) -> Result<()> {
    let work = tools.join(format!("{package}.new"));
    if work.exists() {
        fs::remove_dir_all(&work)?;
    }
    for folder in ["lists/partial", "cache/archives/partial", "root"] {
        fs::create_dir_all(work.join(folder))?;
    }
    let sources = work.join("apt.sources");
    let source = format!("Types: deb\nURIs: {}\nSuites: {suite}\nComponents: main\nSigned-By: {KEYRING}\n", mirror());
    fs::write(&sources, source)?;
    let at = |option: &str, path: &Path| format!("{option}={}", path.display());
    let options = [
        at("Dir::Etc::SourceList", &sources),
        "Dir::Etc::SourceParts=-".to_owned(),
        at("Dir::State::Lists", &work.join("lists")),
        at("Dir::Cache", &work.join("cache")),
        // The build folder need not be readable for apt's own user.
        "APT::Sandbox::User=root".to_owned(),
        "Acquire::Languages=none".to_owned(),
        "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
    ];
    let apt = |words: &[&str]| {
        let options = options.iter().flat_map(|option| ["-o", option]);
        run(Command::new("apt-get").arg("-q").args(options).args(words).current_dir(&work))
    };
    apt(&["update"])?;
    apt(&["download", package])?;
    let mut files = fs::read_dir(&work)?.filter_map(|entry| Some(entry.ok()?.path()));
    let archive = files.find(|file| file.extension().is_some_and(|extension| extension == "deb"));
    let archive = archive.context("apt-get download left no package behind")?;
    run(Command::new("dpkg-deb").arg("-x").arg(archive).arg(work.join("root")))?;
    let folder = tools.join(package);
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::rename(work.join("root"), folder)?;
    fs::remove_dir_all(work)?;
    Ok(())
}

/// The mirror of Debian that this host uses.
fn mirror() -> String {
    let listed = Command::new("apt-get")
        .args(["indextargets", "--format", "$(LABEL) $(REPO_URI)", "Created-By: Packages"])
        .stdin(Stdio::null())
        .output();
    let listed = listed.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    let mirror = listed.lines().find_map(|line| line.strip_prefix("Debian "));
    mirror.unwrap_or(MIRROR).to_owned()
}

/// Where cargo puts what it builds.
fn build_folder() -> Result<PathBuf> {
    let output = Command::new("cargo")
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cargo cannot be run")?;
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).context("`cargo metadata` failed")?;
    let folder = metadata["target_directory"].as_str().context("`cargo metadata` names no build folder")?;
    Ok(PathBuf::from(folder))
}

fn run(command: &mut Command) -> Result<()> {
    let output = command.env("DEBIAN_FRONTEND", "noninteractive").stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{} cannot be run", command.get_program().display()))?;
    ensure!(
        output.status.success(),
        "{} failed ({}): {}",
        command.get_program().display(),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
