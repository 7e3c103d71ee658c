//! One measurement each, by the tools that others use: wrk and iperf3.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::{Netns, Process, wait_until};
use serde_json::Value;

/// Where the replicas answer.
pub(crate) const PORT: u16 = 8080;

/// iperf3's own default.
const IPERF_PORT: u16 = 5201;

/// Keep-alive connections at once: enough to keep both of the smallest machine's cores busy.
const CONNECTIONS: usize = 16;

/// Requests a second on connections that stay.
pub(crate) fn keep_alive_per_s(from: &Netns, server: IpAddr, time: Duration) -> Result<f64> {
    wrk(from, SocketAddr::new(server, PORT), time, &[])
}

/// Requests a second, each on a connection of its own.
pub(crate) fn connects_per_s(from: &Netns, server: SocketAddr, time: Duration) -> Result<f64> {
    wrk(from, server, time, &["--header", "Connection: close"])
}

fn wrk(from: &Netns, server: SocketAddr, time: Duration, words: &[&str]) -> Result<f64> {
    let mut command = Command::new("wrk");
    command
        .args(["--threads", "1", "--connections", &CONNECTIONS.to_string()])
        .args(["--duration", &format!("{}s", time.as_secs())])
        .args(words)
        .arg(format!("http://{server}/"));
    let output = from.output(&mut command)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "wrk failed: {text}{}", String::from_utf8_lossy(&output.stderr));
    ensure!(!text.contains("Socket errors"), "wrk met errors at {server}:\n{text}");
    let rate = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:"));
    rate.and_then(|rate| rate.trim().parse().ok()).ok_or_else(|| anyhow!("wrk printed no rate:\n{text}"))
}

/// What one TCP connection carries, as its receiver counts it.
pub(crate) fn bulk_gbit_per_s(from: &Netns, to: &Netns, server: IpAddr, time: Duration) -> Result<f64> {
    let mut command = Command::new("iperf3");
    command.args(["--server", "--one-off", "--bind", &server.to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let listener: Process = to.start("iperf3's server", command)?;
    wait_until("iperf3's server listens", Duration::from_secs(5), || {
        let sockets = to.exec("ss -H -l -t -n")?;
        ensure!(sockets.contains(&format!(":{IPERF_PORT} ")), "it does not");
        Ok(())
    })?;
    let mut command = Command::new("iperf3");
    command.args(["--json", "--client", &server.to_string(), "--time", &time.as_secs().to_string()]);
    let output = from.output(&mut command)?;
    drop(listener);
    let report: Value = serde_json::from_slice(&output.stdout).context("iperf3 printed no JSON")?;
    let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.ok_or_else(|| anyhow!("iperf3 failed: {}", report["error"]))? / 1e9)
}

/// A process's resident memory (`VmRSS`, proc(5)).
pub(crate) fn resident_mib(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).context("the agent is gone")?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.split_whitespace().next().and_then(|word| word.parse().ok()).context("VmRSS is no number")?;
    Ok(kib / 1024.0)
}
