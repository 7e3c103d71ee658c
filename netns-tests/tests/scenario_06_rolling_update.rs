//! Scenario 6: all replicas of a service are replaced one after the other under load, the new one before the old one or after it,
//! by `weft run` and by `attach` and `detach`, once with an agent killed meanwhile. No request fails.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::{
    Host, Topology, pause, scenario,
    testkit::{Load, LoadReport},
    updating::{Order, Replicas, Way},
    wait_until,
};

/// New connections a second over all three nodes: one every 4 ms, so that a gap of 10 ms would be seen.
const RATE_PER_S: u32 = 250;

const REPLICAS: usize = 5;

/// From the end of an update to a settled load.
const SETTLE_BOUND: Duration = Duration::from_secs(10);

/// How long the killed agent stays away: as long as systemd takes to start it again.
const ABSENCE: Duration = Duration::from_millis(300);

#[test]
fn start_first_with_run_loses_nothing() {
    update(Order::StartFirst, Way::Run, |_, _| Ok(()));
}

#[test]
fn stop_first_with_run_loses_nothing() {
    update(Order::StopFirst, Way::Run, |_, _| Ok(()));
}

#[test]
fn start_first_with_attach_and_detach_loses_nothing() {
    update(Order::StartFirst, Way::Attach, |_, _| Ok(()));
}

#[test]
fn stop_first_with_attach_and_detach_loses_nothing() {
    update(Order::StopFirst, Way::Attach, |_, _| Ok(()));
}

#[test]
fn an_agent_that_is_killed_meanwhile_loses_nothing() {
    update(Order::StopFirst, Way::Attach, |topology, number| {
        // The one that neither holds the store nor the replica that is next.
        if number != 2 {
            return Ok(());
        }
        topology.host_mut(1).kill_agent()?;
        pause(ABSENCE);
        topology.host_mut(1).start_agent()
    });
}

/// Replaces every replica under load; `meanwhile` happens before the replica of that number is replaced.
fn update(order: Order, way: Way, meanwhile: impl Fn(&mut Topology, usize) -> Result<()>) {
    // A command is balanced as soon as it is attached, unless something tells when it answers.
    let words = match way {
        Way::Run => "--health tcp --health-interval 200ms",
        Way::Attach => "",
    };
    scenario(3, |topology| {
        let mut replicas = Replicas::start(topology, REPLICAS, way, words)?;
        let servers = topology.hosts().iter().map(|host| host.at(80)).collect();
        let load = Load::start(topology.client(), servers, RATE_PER_S)?;
        wait_until("traffic before the update", SETTLE_BOUND, || {
            let answered = load.so_far().replicas;
            ensure!(answered.len() == REPLICAS, "{answered:?}");
            Ok(())
        })?;
        for number in 0..REPLICAS {
            meanwhile(topology, number)?;
            replicas.replace(topology, number, order).with_context(|| format!("replacing replica {number}"))?;
        }
        let seen = load.so_far();
        wait_until("traffic after the update", SETTLE_BOUND, || {
            ensure!(load.so_far().requests > seen.requests + u64::from(RATE_PER_S), "{:?}", load.so_far());
            Ok(())
        })?;
        nothing_lost(&load.stop()?, 2 * REPLICAS)?;
        replicas.shrink(topology, 0)?;
        for host in topology.hosts() {
            nothing_left(host)?;
        }
        Ok(())
    });
}

#[test]
fn commands_that_are_told_to_end_lose_nothing() {
    scenario(3, |topology| {
        let mut replicas = Replicas::start(topology, REPLICAS, Way::Run, "")?;
        let servers = topology.hosts().iter().map(|host| host.at(80)).collect();
        let load = Load::start(topology.client(), servers, RATE_PER_S)?;
        for left in (1..REPLICAS).rev() {
            let seen = load.so_far().requests;
            wait_until("traffic before the next one", SETTLE_BOUND, || {
                ensure!(load.so_far().requests > seen + u64::from(RATE_PER_S) / 2, "{:?}", load.so_far());
                Ok(())
            })?;
            replicas.shrink(topology, left)?;
        }
        nothing_lost(&load.stop()?, REPLICAS)?;
        replicas.shrink(topology, 0)?;
        topology.hosts().iter().try_for_each(nothing_left)
    });
}

fn nothing_lost(load: &LoadReport, replicas: usize) -> Result<()> {
    ensure!(load.failed == 0, "{} of {} requests failed: {:?}", load.failed, load.requests, load.errors);
    ensure!(load.replicas.len() == replicas, "not every replica, old and new, answered: {:?}", load.replicas);
    Ok(())
}

fn nothing_left(host: &Host) -> Result<()> {
    wait_until(format!("{} lists no endpoint", host.name()), SETTLE_BOUND, || {
        let endpoints = host.weft_rows("endpoint ls")?;
        ensure!(endpoints.is_empty(), "{endpoints:?}");
        Ok(())
    })
}
