use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
};

use clap::{Args, builder::NonEmptyStringValueParser};

use super::{named_netns::NamedNetns, number::whole, output::Format, progress::waiting};
use crate::api::{
    Operations, Refusal,
    wire::{DownReply, InitRequest, JoinRequest, LeaveRequest, TokenView},
};

/// The longest token file in bytes. A token is one line of some dozen characters; a path to something endless, such as a
/// device, must not be read for ever.
const TOKEN_FILE_LEN_MAX: u64 = 4096;

/// `weft init`.
#[derive(Args)]
pub(super) struct InitArgs {
    /// Where the cluster's records live [default: embedded in this agent]
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// Prefix from which networks without a --subnet are cut, of either family [default: 10.201.0.0/16 and a random IPv6 /48]
    #[arg(long = "pool", value_name = "CIDR")]
    pools: Vec<String>,
    /// UDP port of the tunnels [default: 7789]
    #[arg(long, value_name = "N", allow_negative_numbers = true, value_parser = whole(1, u16::MAX))]
    vxlan_port: Option<u16>,
    #[command(flatten)]
    format: Format,
}

/// `weft join`.
#[derive(Args)]
pub(super) struct JoinArgs {
    /// A node of the cluster, as HOST:PORT
    #[arg(value_name = "HOST:PORT", value_parser = NonEmptyStringValueParser::new())]
    address: String,
    #[command(flatten)]
    secret: Secret,
    #[command(flatten)]
    format: Format,
}

#[derive(Args)]
#[group(required = true, multiple = false)]
struct Secret {
    /// The secret that `weft token` prints on any node; `ps` shows it as long as this command runs
    #[arg(long, value_parser = NonEmptyStringValueParser::new())]
    token: Option<String>,
    /// The file that holds the secret, or `-` for standard input
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
}

/// `weft leave`.
#[derive(Args)]
pub(super) struct LeaveArgs {
    /// Leave even with endpoints attached, with the store that others use, or with the store away
    #[arg(long)]
    force: bool,
}

/// `weft token`.
#[derive(Args)]
pub(super) struct TokenArgs {
    /// Make a new secret; the old one lets nobody in from then on
    #[arg(long)]
    rotate: bool,
    #[command(flatten)]
    format: Format,
}

impl InitArgs {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        let Self { store, pools, vxlan_port, format } = self;
        let reply = waiting("making a cluster", agent.init(InitRequest { store, pools, vxlan_port })).await?;
        format.show(&reply, |reply| {
            let (node, verb) = (&reply.node, if reply.created { "is" } else { "already is" });
            format!(
                "node {} ({}) {verb} in cluster {}\n\n{}",
                node.name,
                node.address,
                reply.cluster,
                how_to_join(&reply.join)
            )
        })
    }
}

impl JoinArgs {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        let Self { address, secret, format } = self;
        let token = secret.read()?;
        let what = format!("joining {address}");
        let reply = waiting(&what, agent.join(JoinRequest { address, token })).await?;
        format.show(&reply, |reply| {
            let (node, verb) = (&reply.node, if reply.created { "has joined" } else { "already is in" });
            format!("node {} ({}) {verb} cluster {}", node.name, node.address, reply.cluster)
        })
    }
}

impl LeaveArgs {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        let Self { force } = self;
        // Without --force nothing is left that could have files.
        let named = if force { NamedNetns::all_of_node(agent).await } else { Vec::new() };
        waiting("leaving the cluster", agent.leave(LeaveRequest { force })).await?;
        for netns in named {
            netns.remove_resolv_conf();
        }
        Ok("this node has left the cluster\n".to_owned())
    }
}

/// `weft down`.
pub(super) async fn down(format: Format, agent: &impl Operations) -> Result<String, Refusal> {
    let reply = waiting("removing everything of weft from this host's kernel", agent.down()).await?;
    format.show(&reply, |reply| removed(*reply))
}

/// `weft down` where no agent runs.
pub(super) fn down_alone(format: Format, reply: DownReply) -> Result<String, Refusal> {
    format.show(&reply, |reply| format!("{} (no agent runs)", removed(*reply)))
}

fn removed(reply: DownReply) -> String {
    match reply.removed {
        0 => "nothing of weft was in this host's kernel".to_owned(),
        1 => "1 row of weft removed from this host's kernel".to_owned(),
        rows => format!("{rows} rows of weft removed from this host's kernel"),
    }
}

impl TokenArgs {
    /// Does it and returns what to print.
    pub(super) async fn run(self, agent: &impl Operations) -> Result<String, Refusal> {
        let Self { rotate, format } = self;
        let join = if rotate { agent.token_rotate().await? } else { agent.token().await? };
        format.show(&join, |join| format!("{}\n\n{}", join.token, how_to_join(join)))
    }
}

fn how_to_join(join: &TokenView) -> String {
    format!("to join another node, run on it:\n\n    {}", join.command)
}

impl Secret {
    fn read(self) -> Result<String, Refusal> {
        let Self { token, token_file } = self;
        match (token, token_file) {
            (Some(token), _) => Ok(token),
            (None, Some(path)) => {
                let text = read_bounded(&path).map_err(|error| {
                    Refusal::invalid(format!("cannot read the token from {}: {error}", path.display()))
                })?;
                match text.trim() {
                    "" => Err(Refusal::invalid(format!("cannot read the token from {}: it is empty", path.display()))),
                    token => Ok(token.to_owned()),
                }
            }
            (None, None) => Err(Refusal::invalid("cannot join without a token")),
        }
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(fs::File::open(path)?) };
    let mut text = String::new();
    source.take(TOKEN_FILE_LEN_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > TOKEN_FILE_LEN_MAX {
        return Err(io::Error::other(format!("it is longer than {TOKEN_FILE_LEN_MAX} bytes")));
    }
    Ok(text)
}
