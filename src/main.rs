//! Arguments and exit codes, nothing else.

use std::process::ExitCode;

use weft::{
    agent,
    cli::{self, AgentArgs, Invocation},
};

fn main() -> ExitCode {
    match cli::parse() {
        Invocation::Agent(AgentArgs { config, node, advertise, data_dir, run_dir, metrics }) => {
            match agent::run(agent::Options { config, node, advertise, data_dir, run_dir, metrics }) {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => cli::fail(&format!("{error:#}"), None),
            }
        }
        Invocation::Command(task) => task.run(),
    }
}
