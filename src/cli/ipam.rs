use clap::Subcommand;

use super::output::{Cell, Format, Table};
use crate::api::{Operations, Refusal, wire::BlockView};

/// `weft ipam`.
#[derive(Subcommand)]
pub(super) enum IpamCommand {
    /// List the blocks: which node assigns addresses from which slice of which network
    Ls(Format),
}

impl IpamCommand {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        match self {
            Self::Ls(format) => format.show(&agent.ipam_list().await?, |blocks| table(blocks)),
        }
    }
}

fn table(blocks: &[BlockView]) -> Table {
    Table::new(
        &["NETWORK", "BLOCK", "NODE", "USED", "SIZE"],
        blocks.iter().map(|block| {
            [
                Cell::from(block.network.as_str()),
                Cell::from(block.prefix.as_str()),
                Cell::from(block.node.as_str()),
                Cell::from(block.used.to_string()),
                Cell::from(block.size.to_string()),
            ]
        }),
    )
}
