use std::{
    fs::{self, File, OpenOptions},
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{Family, KernelView, Netns, Process, testkit, wait_until};

/// From the agent's start to its first answer on the socket, on a machine busy with other tests.
const AGENT_START_BOUND: Duration = Duration::from_secs(10);

/// From SIGTERM to the agent's end.
const AGENT_STOP_BOUND: Duration = Duration::from_secs(10);

/// The agent's metrics, in its host's namespace.
const METRICS: &str = "127.0.0.1:7790";

/// A host: a namespace on the underlay with an agent of its own, and what the agent keeps in the file system.
pub struct Host {
    netns: Netns,
    name: String,
    address: IpAddr,
    address6: IpAddr,
    underlay: Family,
    folder: PathBuf,
    weft: PathBuf,
    agent: Option<Process>,
}

/// How a command of weft ended.
#[derive(Debug)]
pub struct Run {
    /// Its exit status.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it took.
    pub took: Duration,
}

impl Host {
    pub(crate) fn new(
        netns: Netns,
        name: impl Into<String>,
        [address, address6]: [IpAddr; 2],
        underlay: Family,
        folder: PathBuf,
        weft: PathBuf,
    ) -> Result<Self> {
        fs::create_dir_all(&folder).with_context(|| format!("{} cannot be made", folder.display()))?;
        // The machine's own resolvers are nobody's business here.
        let config = format!("resolv-conf = \"{}\"\n", folder.join("resolv.conf").display());
        fs::write(folder.join("weft.toml"), config).context("the agent's configuration cannot be written")?;
        Ok(Self { netns, name: name.into(), address, address6, underlay, folder, weft, agent: None })
    }

    /// Its node name, such as `h1`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Its IPv4 address on the underlay.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Its IPv6 address on the underlay.
    pub fn address6(&self) -> IpAddr {
        self.address6
    }

    /// A port at its IPv4 address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// A port at its address of a family.
    pub fn door(&self, family: Family, port: u16) -> SocketAddr {
        let address = match family {
            Family::V4 => self.address,
            Family::V6 => self.address6,
        };
        SocketAddr::new(address, port)
    }

    /// Where its agent listens for commands.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("run/weft.sock")
    }

    /// Where its agent's output goes, of all its lives.
    pub fn log(&self) -> PathBuf {
        self.folder.join("agent.log")
    }

    /// The last lines of the log.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = fs::read_to_string(self.log()).unwrap_or_default();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// The file in which its agent looks for the host's own resolvers; there is none until somebody writes it.
    pub fn resolv_conf(&self) -> PathBuf {
        self.folder.join("resolv.conf")
    }

    /// The binary that its agent and commands run from.
    pub fn binary(&self) -> &Path {
        &self.weft
    }

    /// Runs agent and commands from another file from now on: an upgrade.
    pub fn set_binary(&mut self, weft: PathBuf) {
        self.weft = weft;
    }

    /// Starts the agent and waits until it answers.
    pub fn start_agent(&mut self) -> Result<()> {
        let mut command = Command::new(&self.weft);
        command.args(self.agent_words());
        self.start_agent_by(command)
    }

    /// As [`Host::start_agent`], under a service manager that keeps its listening sockets and starts it again whenever it ends
    /// ([`testkit::manage`]).
    pub fn start_managed_agent(&mut self) -> Result<()> {
        let mut command = Command::new(crate::topology::beside_us("weft-testkit")?);
        command.arg("manage").arg(self.pid_file()).arg(self.folder.join("notify")).arg(&self.weft);
        command.args(self.agent_words());
        self.start_agent_by(command)
    }

    /// The id of the process that the service manager runs as the agent now.
    pub fn managed_pid(&self) -> Result<i32> {
        let text = fs::read_to_string(self.pid_file()).context("no managed agent has been started")?;
        text.trim().parse().with_context(|| format!("{text:?} is no process id"))
    }

    fn pid_file(&self) -> PathBuf {
        self.folder.join("agent.pid")
    }

    fn agent_words(&self) -> Vec<std::ffi::OsString> {
        let address = self.door(self.underlay, 0).ip().to_string();
        let [config, data, run] = ["weft.toml", "data", "run"].map(|name| self.folder.join(name).into());
        let mut words: Vec<std::ffi::OsString> =
            ["agent", "--node", &self.name, "--advertise", &address, "--metrics", METRICS].map(Into::into).into();
        words.extend(["--config".into(), config, "--data-dir".into(), data, "--run-dir".into(), run]);
        words
    }

    fn start_agent_by(&mut self, mut command: Command) -> Result<()> {
        ensure!(self.agent.is_none(), "the agent of {} runs already", self.name);
        let log = OpenOptions::new().create(true).append(true).open(self.log()).context("the log cannot be opened")?;
        command.stdin(Stdio::null()).stdout(log.try_clone().context("the log cannot be shared")?).stderr(log);
        let mut agent = self.netns.start(format!("the agent of {}", self.name), command)?;
        let answers = wait_until(format!("the agent of {} answers", self.name), AGENT_START_BOUND, || {
            if let Some(status) = agent.ended()? {
                // No use in waiting; the error is told below.
                return Ok(Err(anyhow!("the agent of {} ended at once ({status})", self.name)));
            }
            self.weft_ok("status").map(|_| Ok(()))
        });
        match answers {
            Ok(Ok(())) => {}
            Ok(Err(error)) | Err(error) => bail!("{error:#}; its log ends:\n{}", self.log_tail(20)),
        }
        self.agent = Some(agent);
        Ok(())
    }

    /// Stops the agent in the ordinary way: SIGTERM, and a good exit status within the bound.
    pub fn stop_agent(&mut self) -> Result<()> {
        let status = self.take_agent()?.stop(AGENT_STOP_BOUND)?;
        ensure!(status.success(), "the agent of {} did not end well: {status}", self.name);
        Ok(())
    }

    /// Kills the agent in the middle of whatever it does: SIGKILL.
    pub fn kill_agent(&mut self) -> Result<()> {
        self.take_agent()?.kill();
        Ok(())
    }

    /// Sends a signal to the agent, such as SIGSTOP.
    pub fn signal_agent(&self, signal: Signal) -> Result<()> {
        self.running()?.signal(signal)
    }

    /// The agent's process id.
    pub fn agent_pid(&self) -> Result<i32> {
        Ok(self.running()?.pid())
    }

    /// A command of weft against this host's agent, words parted by spaces: `weft("node ls")`.
    pub fn weft(&self, line: &str) -> Result<Run> {
        self.weft_words(&line.split_whitespace().collect::<Vec<_>>())
    }

    /// As [`Host::weft`] with the words as they are.
    pub fn weft_words(&self, words: &[&str]) -> Result<Run> {
        let begun = Instant::now();
        let output = self.netns.output(&mut self.command(words))?;
        Ok(Run {
            status: output.status,
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: begun.elapsed(),
        })
    }

    /// A command of weft that has to succeed; what it printed.
    pub fn weft_ok(&self, line: &str) -> Result<String> {
        let run = self.weft(line)?;
        let errors = run.stderr.trim();
        ensure!(run.status.success(), "`weft {line}` on {} failed ({}): {errors}", self.name, run.status);
        Ok(run.stdout)
    }

    /// A command of weft with `-o json`.
    pub fn weft_json(&self, line: &str) -> Result<Value> {
        let printed = self.weft_ok(&format!("{line} -o json"))?;
        serde_json::from_str(&printed).with_context(|| format!("`weft {line} -o json` printed no JSON: {printed}"))
    }

    /// The rows of a command of weft that lists things.
    pub fn weft_rows(&self, line: &str) -> Result<Vec<Value>> {
        match self.weft_json(line)? {
            Value::Array(rows) => Ok(rows),
            other => bail!("`weft {line} -o json` printed no list but {other}"),
        }
    }

    /// Starts a command of weft that lasts, such as `run`; its output goes to a file of the name `what` beside the log.
    pub fn start_weft(&self, what: &str, words: &[&str]) -> Result<Process> {
        let path = self.folder.join(format!("{what}.log"));
        let log = File::create(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let mut command = self.command(words);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.netns.start(what, command)
    }

    /// What a command that was started as `what` has printed so far.
    pub fn output_of(&self, what: &str) -> String {
        fs::read_to_string(self.folder.join(format!("{what}.log"))).unwrap_or_default().trim().to_owned()
    }

    /// What the kernel holds of weft's here.
    pub fn kernel(&self) -> Result<KernelView> {
        KernelView::of(&self.netns)
    }

    /// The agent's metrics as Prometheus reads them.
    pub fn metrics(&self) -> Result<String> {
        self.netns.enter(|| testkit::fetch(METRICS.parse()?, "/metrics", Duration::from_secs(2)))
    }

    /// The sum of all samples whose metric name contains `part`; 0 if there are none yet, as of a labelled counter that has
    /// not counted anything.
    pub fn metric(&self, part: &str) -> Result<f64> {
        let text = self.metrics()?;
        let samples = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.rsplit_once(' '));
        let values: Vec<f64> = samples
            .filter(|(name, _)| name.split('{').next().is_some_and(|name| name.contains(part)))
            .filter_map(|(_, value)| value.parse().ok())
            .collect();
        Ok(values.iter().sum())
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(&self.weft);
        command.arg("--socket").arg(self.socket()).args(words).env_remove("WEFT_SOCKET");
        command
    }

    fn running(&self) -> Result<&Process> {
        self.agent.as_ref().ok_or_else(|| anyhow!("the agent of {} does not run", self.name))
    }

    fn take_agent(&mut self) -> Result<Process> {
        self.agent.take().ok_or_else(|| anyhow!("the agent of {} does not run", self.name))
    }
}
