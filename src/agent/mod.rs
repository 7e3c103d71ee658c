//! Placeholder for compiling the command line alone; the agent itself replaces it in the merge.

use std::path::PathBuf;

/// What the command line says to the agent.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// The node's name.
    pub node: Option<String>,
    /// The underlay address.
    pub advertise: Option<String>,
    /// Where the agent keeps what must survive.
    pub data_dir: Option<PathBuf>,
    /// Where the agent keeps its socket.
    pub run_dir: Option<PathBuf>,
    /// Where the agent serves metrics.
    pub metrics: Option<String>,
}

/// Runs the agent.
pub fn run(options: Options) -> anyhow::Result<()> {
    anyhow::bail!("this build has no agent ({options:?})")
}
