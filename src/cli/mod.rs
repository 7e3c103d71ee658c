//! The command line: words in, one call to the agent, text out.
//!
//! Every command turns its words into a request, makes one call through [`crate::api::Operations`] and returns the text to print;
//! printing, colours and exit codes are here alone. One thread, one tokio runtime on it, both gone with the command;
//! `weft run` adds a thread for its namespace.

mod cluster;
mod drain;
mod endpoint;
mod exec;
mod ipam;
mod named_netns;
mod network;
mod node;
mod number;
mod output;
mod progress;
mod resolver;
mod run;
mod service;
mod status;

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
};

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, error::ErrorKind, parser::ValueSource};

use self::output::Paint;
use crate::api::{Client, DEFAULT_SOCKET, Refusal, wire::DownReply};

/// What the process was asked to be.
pub enum Invocation {
    /// The daemon.
    Agent(AgentArgs),
    /// Anything else.
    Command(Task),
}

/// `weft agent`: each of these wins over the configuration file.
#[derive(Debug, Clone, Args)]
pub struct AgentArgs {
    /// Configuration file [default: /etc/weft/weft.toml, where there is one]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// This node's name [default: the host's name]
    #[arg(long, value_name = "NAME")]
    pub node: Option<String>,
    /// Address at which the other nodes reach this one [default: that of the default route]
    #[arg(long, value_name = "ADDR")]
    pub advertise: Option<String>,
    /// Folder for what must survive a reboot [default: /var/lib/weft]
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Folder for the socket, weft.sock [default: /run/weft]
    #[arg(long, value_name = "DIR")]
    pub run_dir: Option<PathBuf>,
    /// Where to serve metrics, or `off` [default: 127.0.0.1:7790]
    #[arg(long, value_name = "ADDR:PORT|off")]
    pub metrics: Option<String>,
    /// Print what would be changed in the kernel and the nftables table as text, change nothing, and end
    #[arg(long)]
    pub dry_run: bool,
}

/// A command that is not the daemon, ready to run.
pub struct Task(Kind);

enum Kind {
    /// Ask the agent behind this socket.
    Client(PathBuf, Box<ClientCommand>),
    /// Print a completion script.
    Completion(clap_complete::Shell),
    /// Become the command of `weft run`.
    Exec(exec::ExecArgs),
}

/// Joins Linux hosts into one container network with one front door
#[derive(Parser)]
#[command(name = "weft", version, max_term_width = 120, arg_required_else_help = true, subcommand_required = true)]
struct Cli {
    /// The agent's socket
    #[arg(long, global = true, value_name = "PATH", env = "WEFT_SOCKET", default_value = DEFAULT_SOCKET, display_order = 900)]
    socket: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the daemon of this node
    Agent(AgentArgs),
    #[command(flatten)]
    Client(ClientCommand),
    /// Print a completion script for a shell
    Completion {
        /// The shell
        shell: clap_complete::Shell,
    },
}

#[derive(Subcommand)]
enum ClientCommand {
    /// Make this node the first of a new cluster; prints the command by which others join
    Init(cluster::InitArgs),
    /// Make this node one of a cluster
    Join(cluster::JoinArgs),
    /// Take this node out of its cluster
    Leave(cluster::LeaveArgs),
    /// Remove everything of weft from this host's kernel, with or without its agent
    ///
    /// The node stays a member of its cluster: its agent brings everything back when it is started again. An agent that runs is
    /// asked to do it, and stops working until then; where none runs, this command does it by itself.
    Down(output::Format),
    /// Print the secret by which nodes join, and the command that uses it
    Token(cluster::TokenArgs),
    /// Show how this node is: cluster, store, data plane, warnings
    Status(output::Format),
    /// The hosts of the cluster
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Address spaces that containers attach to, isolated from each other
    #[command(subcommand)]
    Network(network::NetworkCommand),
    /// Names with a virtual address and published ports in front of endpoints
    #[command(subcommand)]
    Service(service::ServiceCommand),
    /// Attach a network namespace of this host to a network
    Attach(endpoint::AttachArgs),
    /// Take an endpoint of this node off its network, a service's replica only after it has been drained
    Detach(endpoint::DetachArgs),
    /// Attached containers, processes and namespaces
    #[command(subcommand)]
    Endpoint(endpoint::EndpointCommand),
    /// Run a command in a network namespace of its own, attached while it runs
    ///
    /// Signals to `weft run` are the command's. With --service, the first SIGTERM, SIGINT or SIGHUP is held back until no node
    /// sends new connections to it and those that are open have finished, or the service's drain time has passed; a second one
    /// ends the waiting and is handed on at once. What is typed at a terminal, such as Ctrl-C, reaches the command directly.
    /// Without its agent nothing is held back. Give whoever stops it (`TimeoutStopSec=` of a systemd unit) more than the drain time.
    Run(run::RunArgs),
    /// Address management
    #[command(subcommand)]
    Ipam(ipam::IpamCommand),
}

/// Reads the arguments of this process. Ends it for `--help` and `--version` (0) and for wrong usage (2).
pub fn parse() -> Invocation {
    if let Some(args) = exec::ExecArgs::of_process() {
        return Invocation::Command(Task(Kind::Exec(args)));
    }
    let matches = Cli::command().get_matches();
    let Cli { socket, command } = match Cli::from_arg_matches(&matches) {
        Ok(cli) => cli,
        Err(error) => error.exit(),
    };
    match command {
        Command::Agent(args) => {
            // The variable may be set for the other commands; the option was meant for this one.
            let given = |matches: &clap::ArgMatches| matches.value_source("socket") == Some(ValueSource::CommandLine);
            if given(&matches) || matches.subcommand_matches("agent").is_some_and(given) {
                let message = "`weft agent` takes no --socket; it listens at weft.sock in its --run-dir";
                Cli::command().error(ErrorKind::ArgumentConflict, message).exit();
            }
            Invocation::Agent(args)
        }
        Command::Client(command) => Invocation::Command(Task(Kind::Client(socket, Box::new(command)))),
        Command::Completion { shell } => Invocation::Command(Task(Kind::Completion(shell))),
    }
}

/// Says on standard error that something failed: exit code 1.
pub fn fail(message: &str, hint: Option<&str>) -> ExitCode {
    complain(message, hint);
    ExitCode::FAILURE
}

impl Task {
    /// Does the command and prints what it returns. `down` does the work of `weft down` where no agent runs.
    pub fn run(self, down: impl FnOnce() -> Result<DownReply, Refusal>) -> ExitCode {
        match self.0 {
            Kind::Client(socket, command) => ask(socket, *command, down),
            Kind::Completion(shell) => print(&completion(shell)),
            Kind::Exec(args) => ExitCode::from(args.run()),
        }
    }
}

fn ask(socket: PathBuf, command: ClientCommand, down: impl FnOnce() -> Result<DownReply, Refusal>) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("cannot start: {error}"), None),
    };
    let agent = Client::new(socket);
    let outcome = match command {
        ClientCommand::Down(format) if !runtime.block_on(agent.is_there()) => {
            down().and_then(|reply| cluster::down_alone(format, reply)).map(Outcome::Text)
        }
        command => runtime.block_on(command.run(&agent)),
    };
    match outcome {
        Ok(Outcome::Text(text)) => print(&text),
        Ok(Outcome::Exit(code)) => ExitCode::from(code),
        Err(Refusal { kind: _, message, hint }) => fail(&message, hint.as_deref()),
    }
}

/// What a command that did not fail leaves to do.
enum Outcome {
    /// Print this.
    Text(String),
    /// End with this code; everything is printed.
    Exit(u8),
}

impl ClientCommand {
    async fn run(self, agent: &Client) -> Result<Outcome, Refusal> {
        let text = match self {
            Self::Init(args) => args.run(agent).await?,
            Self::Join(args) => args.run(agent).await?,
            Self::Leave(args) => args.run(agent).await?,
            Self::Down(format) => cluster::down(format, agent).await?,
            Self::Token(args) => args.run(agent).await?,
            Self::Status(format) => status::status(format, agent).await?,
            Self::Node(command) => command.run(agent).await?,
            Self::Network(command) => command.run(agent).await?,
            Self::Service(command) => command.run(agent).await?,
            Self::Attach(args) => args.run(agent).await?,
            Self::Detach(args) => args.run(agent).await?,
            Self::Endpoint(command) => command.run(agent).await?,
            Self::Ipam(command) => command.run(agent).await?,
            Self::Run(args) => return args.run(agent).await.map(Outcome::Exit),
        };
        Ok(Outcome::Text(text))
    }
}

fn completion(shell: clap_complete::Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "weft", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

fn print(text: &str) -> ExitCode {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has seen enough, as `head` does.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&format!("cannot print: {error}"), None),
    }
}

fn complain(message: &str, hint: Option<&str>) {
    let paint = Paint::of_stderr();
    let hint = hint.map(|hint| paint.hint(hint)).unwrap_or_default();
    // Nobody is left to be told that standard error is closed.
    let _ = io::stderr().write_all(format!("{} {message}\n{hint}", paint.bad("error:")).as_bytes());
}

fn warn(message: &str) {
    let paint = Paint::of_stderr();
    let _ = io::stderr().write_all(format!("{} {message}\n", paint.bad("warning:")).as_bytes());
}
