//! Answers to questions for names, by dnsperf from a container on the same node: how many a second the agent gives on one core,
//! and how long one takes at 10,000 a second.

use std::{
    fs,
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::{Netns, Topology};

use crate::report::{self, Goal, Sample, Unit};

/// Where every node answers.
const RESOLVER: &str = "169.254.1.1";

/// How often each thing is measured.
const ROUNDS: usize = 5;

/// How long one measurement lasts.
const TIME: Duration = Duration::from_secs(5);

/// The rate at which the time of an answer is measured, questions a second.
const STEADY: u32 = 10_000;

/// Every kind of answer, as many of each as applications ask: mostly services, in both families.
const QUESTIONS: &str = "web A
web AAAA
web.blue A
web.blue AAAA
tasks.web A
web-1 A
web-1.blue AAAA
nobody.blue A
_80._tcp.web SRV
cache A
";

/// One node with a service of three replicas, the agent on one core and dnsperf on another.
pub(crate) fn run() -> Result<()> {
    println!(
        "names: dnsperf in a container on the agent's own node, {} kinds of questions in turn, UDP; every thread of the agent\n       pinned to core 1, dnsperf to core 0; {ROUNDS} rounds of {} s\n",
        QUESTIONS.lines().count(),
        TIME.as_secs()
    );
    ensure!(std::thread::available_parallelism().map_or(1, usize::from) >= 2, "this takes two cores");
    let topology = Topology::cluster(1)?;
    let host = topology.host(0);
    host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
    host.weft_ok("service create web --network blue --publish 80:8080")?;
    host.weft_ok("service create cache --network blue --endpoint-mode dnsrr")?;
    let mut containers = Vec::new();
    for (name, words) in [
        ("web-1", "--service web"),
        ("web-2", "--service web"),
        ("web-3", "--service web"),
        ("cache-1", "--service cache"),
    ] {
        containers.push(host.attach("blue", name, words)?);
    }
    let asker = host.attach("blue", "asker", "")?;
    let questions = topology.folder().join("questions");
    fs::write(&questions, QUESTIONS).context("the questions cannot be written")?;
    let file = questions.to_str().context("a temporary folder without a name")?;
    let pid = host.agent_pid()?;
    pin(pid)?;

    let (mut rates, mut busy, mut percentiles) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..ROUNDS {
        let before = cpu_s(pid)?;
        let printed = dnsperf(asker.netns(), file, &["-q", "100"])?;
        rates.add(rate(&printed)?);
        busy.add((cpu_s(pid)? - before) / TIME.as_secs_f64());
        let printed = dnsperf(asker.netns(), file, &["-v", "-Q", &STEADY.to_string()])?;
        percentiles.add(percentile_99_ms(&printed)?);
    }
    report::absolute("answers to questions for names, on one core", Unit::PerSecond, &rates, Goal::AtLeast(60_000.0));
    report::absolute("share of that core that the agent used", Unit::Ratio, &busy, Goal::AtMost(1.0));
    report::absolute(
        "99th percentile of an answer's time, at 10,000 /s",
        Unit::Milliseconds,
        &percentiles,
        Goal::AtMost(1.0),
    );
    Ok(())
}

/// Every thread of a process to core 1.
fn pin(pid: i32) -> Result<()> {
    let mut command = Command::new("taskset");
    succeeded(command.args(["--all-tasks", "--cpu-list", "--pid", "1", &pid.to_string()]).output())?;
    Ok(())
}

fn dnsperf(from: &Netns, file: &str, words: &[&str]) -> Result<String> {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "0", "dnsperf", "-s", RESOLVER, "-d", file, "-l", &TIME.as_secs().to_string()]);
    let printed = succeeded(from.output(command.args(words)))?;
    let lost = printed.lines().find(|line| line.contains("Queries lost:")).context("dnsperf printed no losses")?;
    // A machine that does other things too may lose one now and then; more would not be a measurement of answers.
    let share = lost.split(['(', '%']).nth(1).and_then(|word| word.trim().parse::<f64>().ok());
    ensure!(share.is_some_and(|percent| percent < 0.1), "{}", lost.trim());
    Ok(printed)
}

fn succeeded(output: Result<Output, impl Into<anyhow::Error>>) -> Result<String> {
    let output = output.map_err(Into::into)?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{printed}{}", String::from_utf8_lossy(&output.stderr));
    Ok(printed)
}

fn rate(printed: &str) -> Result<f64> {
    let line = printed.lines().find_map(|line| line.trim().strip_prefix("Queries per second:"));
    line.and_then(|rate| rate.trim().parse().ok()).ok_or_else(|| anyhow!("dnsperf printed no rate:\n{printed}"))
}

/// From dnsperf's line for each answer: `> NOERROR web A 0.000061`.
fn percentile_99_ms(printed: &str) -> Result<f64> {
    let times = printed.lines().filter_map(|line| line.strip_prefix("> ")?.rsplit_once(' ')?.1.parse::<f64>().ok());
    let mut times: Vec<f64> = times.collect();
    ensure!(times.len() > 1000, "dnsperf printed the times of {} answers only", times.len());
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() * 99 / 100] * 1000.0)
}

/// The time that a process has spent on cores, in seconds (proc(5), `utime` and `stime`, in hundredths everywhere).
fn cpu_s(pid: i32) -> Result<f64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).context("the agent is gone")?;
    // Behind the name, which may hold blanks.
    let fields: Vec<&str> = text.rsplit_once(')').context("no name")?.1.split_whitespace().collect();
    let ticks = |index: usize| fields.get(index).and_then(|word| word.parse::<f64>().ok()).context("no times");
    Ok((ticks(11)? + ticks(12)?) / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_dnsperf_prints_is_read() {
        let lines =
            (1..=2000).map(|number| format!("> NOERROR web A 0.{number:06}\n")).collect::<Vec<String>>().concat();
        assert!((percentile_99_ms(&lines).unwrap() - 1.981).abs() < 1e-9);
        assert!((rate("  Queries per second:   70000.5\n").unwrap() - 70000.5).abs() < 1e-9);
    }
}
