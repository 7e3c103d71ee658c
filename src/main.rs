//! Arguments and exit codes, nothing else.

use std::process::ExitCode;

use weft::{
    agent,
    cli::{self, AgentArgs, Invocation},
};

fn main() -> ExitCode {
    match cli::parse() {
        Invocation::Agent(AgentArgs { config, node, advertise, data_dir, run_dir, metrics, dry_run }) => {
            let options = agent::Options { config, node, advertise, data_dir, run_dir, metrics };
            let ended =
                if dry_run { agent::dry_run(options).map(|text| print!("{text}")) } else { agent::run(options) };
            match ended {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => cli::fail(&format!("{error:#}"), None),
            }
        }
        Invocation::Command(task) => task.run(agent::down),
    }
}
