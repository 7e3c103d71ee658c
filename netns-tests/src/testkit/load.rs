use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow};

use super::ask;
use crate::{Netns, pause};

/// A request that took longer counts as failed. TCP sends a lost SYN again after 1 s (RFC 6298, 2.1), so a lost packet
/// alone does not fail a request, but shows as latency.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// Requests under way at once: at 5 s each it takes `rate * 5` to keep the pace against a server that never answers;
/// 64 keep it up to some hundred milliseconds a request at 500/s, and what is late is sent late, not dropped.
const WORKERS: usize = 64;

/// Requests at a steady rate to several servers in turn, each on a connection of its own, until it is stopped.
pub struct Load {
    stop: Arc<AtomicBool>,
    report: Arc<Mutex<LoadReport>>,
    driver: JoinHandle<Result<()>>,
}

/// What a load has seen.
#[derive(Debug, Clone, Default)]
pub struct LoadReport {
    /// Requests that ended, one way or the other.
    pub requests: u64,
    /// Those without a proper answer.
    pub failed: u64,
    /// What went wrong, and how often.
    pub errors: BTreeMap<String, u64>,
    /// Answers by replica.
    pub replicas: BTreeMap<String, u64>,
    /// The slowest answer.
    pub slowest: Duration,
    /// When those that failed were sent, in no order.
    pub failed_sent: Vec<Instant>,
}

impl LoadReport {
    /// How long after `event` the last request was sent that failed; nothing if none was.
    pub fn failing_for(&self, event: Instant) -> Option<Duration> {
        self.failed_sent.iter().filter_map(|sent| sent.checked_duration_since(event)).max()
    }
}

impl Load {
    /// Starts `rate_per_s` requests a second from inside `netns`, to each of `servers` in turn.
    pub fn start(netns: &Netns, servers: Vec<SocketAddr>, rate_per_s: u32) -> Result<Self> {
        Self::start_impatient(netns, servers, rate_per_s, REQUEST_TIMEOUT)
    }

    /// As [`Load::start`]; a request that takes longer than `timeout` has failed. With a short one the pace is kept while many
    /// fail.
    pub fn start_impatient(
        netns: &Netns,
        servers: Vec<SocketAddr>,
        rate_per_s: u32,
        timeout: Duration,
    ) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let report = Arc::new(Mutex::new(LoadReport::default()));
        let (stopped, shared) = (Arc::clone(&stop), Arc::clone(&report));
        let driver = netns.enter_detached(move || {
            drive(&servers, rate_per_s, timeout, &stopped, &shared);
            Ok(())
        })?;
        Ok(Self { stop, report, driver })
    }

    /// What it has seen so far.
    pub fn so_far(&self) -> LoadReport {
        self.report.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Lets the requests under way end and tells what was seen in all.
    pub fn stop(self) -> Result<LoadReport> {
        self.stop.store(true, Ordering::Relaxed);
        self.driver.join().map_err(|_| anyhow!("the load's thread panicked"))??;
        Ok(self.report.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

/// The workers share one clock: request n is due at n / rate, whoever is free sends it.
fn drive(servers: &[SocketAddr], rate_per_s: u32, timeout: Duration, stop: &AtomicBool, report: &Mutex<LoadReport>) {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let work = || {
        while !stop.load(Ordering::Relaxed) {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            let due = begun + Duration::from_nanos(turn * 1_000_000_000 / u64::from(rate_per_s));
            pause(due.saturating_duration_since(Instant::now()));
            // The remainder is less than the number of servers.
            let server = servers[usize::try_from(turn % servers.len() as u64).unwrap_or(0)];
            let sent = Instant::now();
            let answer = ask(server, timeout);
            let took = sent.elapsed();
            let mut report = report.lock().unwrap_or_else(PoisonError::into_inner);
            report.requests += 1;
            match answer {
                Ok(answer) => {
                    report.slowest = report.slowest.max(took);
                    *report.replicas.entry(answer.replica).or_default() += 1;
                }
                Err(error) => {
                    report.failed += 1;
                    report.failed_sent.push(sent);
                    *report.errors.entry(format!("{error:#}")).or_default() += 1;
                }
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(work);
        }
    });
}
