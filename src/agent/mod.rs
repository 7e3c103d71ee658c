//! The daemon: the one place where the pure middle and the edges are put together.
//!
//! Tasks and who owns them: [`run`] owns the API server, the metrics server and, while this node belongs to a cluster, a
//! [`member::Member`], which owns the follower of the store, the sign of life, the reconcile loop, the port for other
//! nodes and the release of dead endpoints. Stopping drops them in that order and removes nothing from the kernel: the data
//! plane outlives the agent.

mod addressing;
mod announce;
mod config;
mod configuration;
mod down;
mod dry_run;
mod flows;
mod follower;
mod health;
mod host;
mod identity;
mod member;
mod metrics;
mod naming;
mod operations;
mod presence;
mod proxies;
mod reconciler;
mod report;
mod trust;
mod views;

pub use down::down;
pub use dry_run::dry_run;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Mutex, RwLock},
    time::sleep,
};
use tracing::{error, info, warn};

use self::{
    config::Config,
    host::{Host, LinuxHost},
    identity::Identity,
    member::{Member, OpenStore},
    metrics::Metrics,
    proxies::Proxies,
};
use crate::{
    api,
    kernel::LinuxKernel,
    proxy::{Handed, Proxy},
};

/// What the command line says; what it leaves out comes from the configuration file or is a default.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// The configuration file.
    pub config: Option<PathBuf>,
    /// This node's name.
    pub node: Option<String>,
    /// The underlay address to advertise.
    pub advertise: Option<String>,
    /// Where identity and store live.
    pub data_dir: Option<PathBuf>,
    /// Where the API's socket lives.
    pub run_dir: Option<PathBuf>,
    /// `ADDR:PORT` or `off`.
    pub metrics: Option<String>,
}

/// The first and the longest wait before trying again to take up a membership: at boot an address may come late.
const START_RETRY_MIN: Duration = Duration::from_millis(200);
const START_RETRY_MAX: Duration = Duration::from_secs(5);

/// Runs the agent until it is told to stop (SIGTERM, SIGINT).
pub fn run(options: Options) -> anyhow::Result<()> {
    // The tasks mostly wait; two threads keep a slow dump of the kernel from delaying a person's question.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let outcome = runtime.block_on(daemon(options));
    // Blocking work still under way (a commit to disk) is not worth waiting for longer.
    runtime.shutdown_timeout(Duration::from_secs(2));
    outcome
}

async fn daemon(options: Options) -> anyhow::Result<()> {
    log_to_stderr();
    let config = Config::load(options)?;
    let _lock = lock(&config.data_dir)?;
    let _sign = down::hold_sign().inspect_err(|error| {
        warn!("another agent may run in this network namespace and undo what this one does: {error}");
    });
    let kernel = Arc::new(LinuxKernel::open().await.context("cannot speak to the kernel's network")?);
    let agent = Arc::new(Agent {
        host: Arc::new(LinuxHost { kernel: Arc::clone(&kernel), mark_mask: config.mark_mask }),
        kernel,
        metrics: Arc::new(Metrics::new()?),
        proxies: Proxies::new(Proxy::start(Handed::from_environment()).context("cannot start the proxy's threads")?),
        member: RwLock::default(),
        trouble: RwLock::default(),
        changing: Mutex::default(),
        config,
    });
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let socket = agent.config.socket();
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let server = api::Server::bind(&socket)?;
    let serving = tokio::spawn(server.serve(Arc::new(Arc::clone(&agent)), async move {
        let _ = stopped.await;
    }));
    let metrics = agent.config.metrics.map(|address| tokio::spawn(serve_metrics(address, Arc::clone(&agent))));
    let resuming = tokio::spawn(resume(Arc::clone(&agent)));
    info!(socket = %socket.display(), version = env!("CARGO_PKG_VERSION"), "weft is running");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);

    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        ended = watch_over(metrics) => ended,
    };
    info!("stopping; what is programmed stays");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    resuming.abort();
    let _ = stop.send(());
    if let Ok(Err(error)) = serving.await {
        warn!("the API's socket did not close well: {error:#}");
    }
    outcome
}

/// The daemon, as its operations see it.
pub(crate) struct Agent {
    config: Config,
    kernel: Arc<LinuxKernel>,
    host: Arc<dyn Host>,
    metrics: Arc<Metrics>,
    proxies: Arc<Proxies>,
    member: RwLock<Option<Arc<Member>>>,
    /// Why there is no membership although there should be one.
    trouble: RwLock<Option<String>>,
    /// Held by whoever begins or ends a membership.
    changing: Mutex<()>,
}

impl Agent {
    async fn membership(&self) -> Option<Arc<Member>> {
        self.member.read().await.clone()
    }

    async fn set_membership(&self, member: Option<Arc<Member>>) {
        if let Some(member) = &member {
            let tally = Arc::clone(&self.metrics.questions);
            naming::start(member, self.config.resolv_conf.clone(), tally);
            member.also_run(trust::keep_young(Arc::clone(&member.credentials), self.config.data_dir.clone()));
            self.proxies.open();
            let judgements = member.judgements.subscribe();
            let (clusters, proxied) = (member.clusters.clone(), member.proxied.clone());
            member.also_run(proxies::follow(Arc::clone(&self.proxies), clusters, judgements, proxied));
        } else {
            let proxies = Arc::clone(&self.proxies);
            // It waits until the doors are closed.
            let _ = tokio::task::spawn_blocking(move || proxies.close()).await;
        }
        *self.trouble.write().await = None;
        *self.member.write().await = member;
    }

    async fn trouble(&self) -> Option<String> {
        self.trouble.read().await.clone()
    }

    async fn set_trouble(&self, trouble: impl Into<String>) {
        *self.trouble.write().await = Some(trouble.into());
    }
}

/// Takes up the membership that is on disk, as often as it takes.
async fn resume(agent: Arc<Agent>) {
    let mut retry = START_RETRY_MIN;
    loop {
        let changing = agent.changing.lock().await;
        match resume_once(&agent).await {
            Ok(()) => return,
            Err(error) => {
                error!("cannot take up this node's membership, trying again: {error:#}");
                agent.set_trouble(format!("{error:#}")).await;
            }
        }
        drop(changing);
        sleep(retry).await;
        retry = (retry * 2).min(START_RETRY_MAX);
    }
}

async fn resume_once(agent: &Arc<Agent>) -> anyhow::Result<()> {
    if agent.membership().await.is_some() {
        return Ok(());
    }
    let Some(identity) = Identity::load(&agent.config.data_dir)? else { return Ok(()) };
    let not_applied = agent.config.not_applied(&identity);
    let door = member::open_door(identity.underlay).await?;
    let credentials = trust::load(&identity, &agent.config.data_dir)?;
    let opened = OpenStore::open(&identity.store, &agent.config.data_dir, &credentials).await?;
    let member = Member::start(identity, credentials, opened, door, Arc::clone(&agent.host), &agent.metrics);
    agent.set_membership(Some(member)).await;
    for difference in not_applied {
        warn!("{difference}");
    }
    Ok(())
}

async fn serve_metrics(address: std::net::SocketAddr, agent: Arc<Agent>) -> anyhow::Result<()> {
    let metrics = Arc::clone(&agent.metrics);
    let before: metrics::BeforeScrape = Arc::new(move || {
        let agent = Arc::clone(&agent);
        Box::pin(async move { operations::gather(&agent).await })
    });
    metrics::serve(address, metrics, before).await
}

/// Ends with the metrics server if there is one; without one, never.
async fn watch_over(metrics: Option<tokio::task::JoinHandle<anyhow::Result<()>>>) -> anyhow::Result<()> {
    match metrics {
        Some(task) => task.await?,
        None => std::future::pending().await,
    }
}

/// Makes sure that no other agent uses the data directory. The lock ends with the process, however it ends.
fn lock(data_dir: &Path) -> anyhow::Result<Flock<File>> {
    let path = data_dir.join("lock");
    fs::create_dir_all(data_dir).with_context(|| format!("cannot make the data directory {}", data_dir.display()))?;
    let file =
        File::create(&path).with_context(|| format!("cannot write to the data directory {}", data_dir.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(lock),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => {
            bail!("another agent uses the data directory {}; choose another with --data-dir", data_dir.display())
        }
        Err((_, errno)) => bail!("cannot lock {}: {errno}", path.display()),
    }
}

/// Logs go to standard error, which systemd keeps; `WEFT_LOG` sets how much (`info`, `debug`, `weft::agent=debug`).
fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("WEFT_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,zookeeper_client=warn"));
    // A second initialisation (in a test) keeps the first.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))
        .try_init();
}
