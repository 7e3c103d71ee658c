//! What a rolling update costs its clients: five replicas are replaced one after the other under load, in both orders, and once more with the
//! agent of another node killed and started again meanwhile. Counted at the client, which sends throughout.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use netns_tests::{
    Topology, pause,
    testkit::Load,
    updating::{Order, Replicas, Way},
};

use crate::report;

/// New connections a second, to the three nodes in turn.
const RATE_PER_S: u32 = 2000;

const REPLICAS: usize = 5;

/// Load before the first and after the last replacement.
const MARGIN: Duration = Duration::from_secs(2);

/// How long a killed agent stays away: as long as systemd takes to start it again.
const ABSENCE: Duration = Duration::from_millis(300);

/// The replica before whose replacement the agent of the second node is killed: it lives on the third.
const KILLED_BEFORE: usize = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Agents {
    Live,
    OneIsKilled,
}

/// Measures and prints.
pub(crate) fn run() -> Result<()> {
    report::machine()?;
    println!(
        "method: 3 nodes, {REPLICAS} replicas by attach and detach, {RATE_PER_S} requests/s on a connection each to the nodes in turn\n"
    );
    for order in [Order::StartFirst, Order::StopFirst] {
        for agents in [Agents::Live, Agents::OneIsKilled] {
            update(order, agents)?;
        }
    }
    Ok(())
}

fn update(order: Order, agents: Agents) -> Result<()> {
    let mut topology = Topology::three_nodes()?;
    let mut replicas = Replicas::start(&topology, REPLICAS, Way::Attach, "")?;
    let servers = topology.hosts().iter().map(|host| host.at(80)).collect();
    let begun = Instant::now();
    let load = Load::start(topology.client(), servers, RATE_PER_S)?;
    pause(MARGIN);
    let updating = Instant::now();
    for number in 0..REPLICAS {
        if agents == Agents::OneIsKilled && number == KILLED_BEFORE {
            topology.host_mut(1).kill_agent()?;
            pause(ABSENCE);
            topology.host_mut(1).start_agent()?;
        }
        replicas.replace(&topology, number, order).with_context(|| format!("replacing replica {number}"))?;
    }
    let took = updating.elapsed();
    pause(MARGIN);
    let seen = load.stop()?;
    let order = match order {
        Order::StartFirst => "start first",
        Order::StopFirst => "stop first",
    };
    let killed = if agents == Agents::OneIsKilled { ", an agent killed meanwhile" } else { "" };
    println!("rolling update of {REPLICAS} replicas, {order}{killed}");
    println!(
        "  requests {} at {:.0} /s, slowest {} ms; the update took {:.1} s",
        seen.requests,
        f64::from(u32::try_from(seen.requests).unwrap_or(u32::MAX)) / begun.elapsed().as_secs_f64(),
        seen.slowest.as_millis(),
        took.as_secs_f64()
    );
    let verdict = if seen.failed == 0 { "met" } else { "MISSED" };
    println!("  failed   {} (goal 0): {verdict} {}\n", seen.failed, errors(&seen.errors));
    Ok(())
}

fn errors(errors: &std::collections::BTreeMap<String, u64>) -> String {
    errors.iter().map(|(error, count)| format!("{count} x {error}")).collect::<Vec<_>>().join("; ")
}
