//! What weft costs, as ratios to the same path laid by hand with `ip` and `nft`, both up at once on one machine and measured
//! in turn, so that whatever else the machine does meets both alike. Run by `cargo xtask bench`, in release mode.
//!
//! Everything happens on the calling thread; the two topologies are removed when they are dropped or a signal comes.

mod by_hand;
mod measure;
mod names;
mod node_lost;
mod proxy;
mod report;
mod rolling_update;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, Result, bail};
use netns_tests::{Host, Topology};

use by_hand::ByHand;
use report::{Goal, Pairs, Sample, Unit};

/// How often each thing is measured on each side. Odd, so that the median is one of the measurements.
const ROUNDS: usize = 7;

/// How long one measurement of traffic lasts: long beside TCP's start, short enough for 7 rounds of 3 things on 2 sides.
const TIME: Duration = Duration::from_secs(2);

/// Attaches that are timed.
const ATTACHES: usize = 51;

/// Runs of `weft run -- true` that are timed.
const RUNS: usize = 21;

/// A part of the bench: its name and its code.
type Part = (&'static str, fn() -> Result<()>);

/// Every part, in the order in which all of them run.
const PARTS: &[Part] = &[
    ("paths", paths),
    ("names", names::run),
    ("proxy", proxy::run),
    ("rolling-update", rolling_update::run),
    ("node-lost", node_lost::run),
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match run(&words) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The named parts, or all.
fn run(words: &[String]) -> Result<()> {
    if let Some(unknown) = words.iter().find(|word| PARTS.iter().all(|(name, _)| name != word)) {
        let known: Vec<&str> = PARTS.iter().map(|(name, _)| *name).collect();
        bail!("the bench has no part {unknown:?}, but {}", known.join(", "));
    }
    report::machine()?;
    for (name, part) in PARTS {
        if words.is_empty() || words.iter().any(|word| word == name) {
            part()?;
        }
    }
    Ok(())
}

fn paths() -> Result<()> {
    println!(
        "method: two topologies at once, one by weft, one by hand; {ROUNDS} rounds of {} s each, in turn, weft and by hand directly\n        after each other; the ratio is taken within each round\n",
        TIME.as_secs()
    );
    let topology = Topology::three_nodes()?;
    let first = topology.host(0);
    first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
    first.weft_ok("service create web --network blue --publish 80:8080")?;
    for host in topology.hosts() {
        topology.wait_known(host, "service", "web")?;
    }
    let server = first.serve("blue", "web-1", "--service web", measure::PORT)?;
    let remote = topology.host(1).attach("blue", "remote", "")?;
    topology.wait_balanced(80, &["web-1"])?;
    let by_hand = ByHand::lay().context("laying the path by hand")?;

    let paths = [
        (remote.netns(), server.netns(), server.address()),
        (by_hand.remote(), by_hand.server(), by_hand::SERVER.into()),
    ];
    let doors = [(topology.client(), first.at(80)), (by_hand.client(), by_hand.front_door())];
    let mut pairs = [Pairs::default(), Pairs::default(), Pairs::default()];
    for round in 0..ROUNDS {
        // Both sides of one thing directly after each other; who goes first changes, so that neither always finds the warmer
        // or the busier machine.
        let order = if round % 2 == 0 { [0, 1] } else { [1, 0] };
        for (thing, pairs) in pairs.iter_mut().enumerate() {
            let mut values = [0.0; 2];
            for side in order {
                let (from, to, address) = paths[side];
                let (client, door) = doors[side];
                values[side] = match thing {
                    0 => measure::keep_alive_per_s(from, address, TIME)?,
                    1 => measure::bulk_gbit_per_s(from, to, address, TIME)?,
                    _ => measure::connects_per_s(client, door, TIME)?,
                };
            }
            pairs.add(values);
        }
    }
    let [keep_alive, bulk, connects] = &pairs;
    report::ratio("keep-alive requests, container to container across hosts", Unit::PerSecond, keep_alive, 0.97);
    report::ratio("bulk TCP, container to container across hosts", Unit::GbitPerSecond, bulk, 0.97);
    report::ratio("new connections through a published port", Unit::PerSecond, connects, 0.95);

    report::absolute("weft attach, as its caller sees it", Unit::Milliseconds, &attaches(first)?, Goal::AtMost(10.0));
    report::absolute("weft run -- true", Unit::Milliseconds, &runs(first)?, Goal::AtMost(40.0));
    let mut resident = Sample::default();
    for host in topology.hosts() {
        resident.add(measure::resident_mib(host.agent_pid()?)?);
    }
    report::absolute("agent's resident memory, 3 nodes, 1 service", Unit::Mebibytes, &resident, Goal::AtMost(20.0));
    Ok(())
}

/// Attach and detach in turn; only the attach is timed.
fn attaches(host: &Host) -> Result<Sample> {
    let netns = netns_tests::Netns::create(format!("{}-timed", host.netns().name()))?;
    let line = format!("attach --netns {} --network blue --name timed", netns.path().display());
    let mut sample = Sample::default();
    for _ in 0..ATTACHES {
        let run = host.weft(&line)?;
        anyhow::ensure!(run.status.success(), "`weft {line}` failed: {}", run.stderr.trim());
        sample.add(run.took.as_secs_f64() * 1000.0);
        host.weft_ok("detach timed")?;
    }
    Ok(sample)
}

fn runs(host: &Host) -> Result<Sample> {
    let mut sample = Sample::default();
    for _ in 0..RUNS {
        let run = host.weft("run --network blue -- true")?;
        anyhow::ensure!(run.status.success(), "`weft run -- true` failed: {}", run.stderr.trim());
        sample.add(run.took.as_secs_f64() * 1000.0);
    }
    Ok(sample)
}
