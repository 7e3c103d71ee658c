//! What the agent would do, without doing it: one look at store and kernel, the steps between them, the table as text.

use anyhow::{Context, bail};

use super::{
    Options,
    config::Config,
    configuration,
    host::{Host as _, LinuxHost},
    identity::Identity,
    member::{OpenStore, store_dir},
    trust,
};
use crate::{
    desired::desired,
    kernel::{Kernel as _, LinuxKernel, nft},
    model::Judgement,
    plan::plan,
    store::{Backend, embedded::Embedded},
};

/// The steps that an agent with these options would take now, one a line, and the nftables table as `nft -f` would take it.
/// Reads the store that this node belongs to; the embedded one only while no agent has it open.
pub fn dry_run(options: Options) -> anyhow::Result<String> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(look(options))
}

async fn look(options: Options) -> anyhow::Result<String> {
    let config = Config::load(options)?;
    let Some(identity) = Identity::load(&config.data_dir)? else {
        bail!("this node is not part of a cluster: there is nothing to plan");
    };
    if identity.store.backend == Backend::Embedded && !Embedded::exists(&store_dir(&config.data_dir)) {
        bail!("the store in {} is gone", config.data_dir.display());
    }
    let credentials = trust::load(&identity, &config.data_dir)?;
    let opened = OpenStore::open(&identity.store, &config.data_dir, &credentials).await?;
    let cluster = configuration::read(&*opened.store).await.map_err(anyhow::Error::new)?.cluster;
    let kernel = std::sync::Arc::new(LinuxKernel::open().await.context("cannot speak to the kernel's network")?);
    let host = LinuxHost { kernel: std::sync::Arc::clone(&kernel), mark_mask: config.mark_mask };
    let facts = host.facts(identity.node, &cluster).await?;
    let Some(wanted) = desired(&cluster, identity.node, &facts, &Judgement::default()) else {
        bail!("the store has no readable record of this node, {}", identity.name);
    };
    let steps = plan(&wanted, &kernel.observe().await?);
    let head = match steps.len() {
        0 => "# nothing to do: the kernel holds what it should".to_owned(),
        count => format!("# {count} steps"),
    };
    let steps = steps.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    let table = nft::render(&wanted.ruleset.unwrap_or_default());
    Ok(format!("{head}\n{steps}\n\n# the table as it should be\n{table}"))
}
