//! Scenario 2: the agent is killed under load and started again, on each node in turn, the store's node among them; then
//! each is upgraded to another binary. No request fails, no established connection breaks, and the kernel's tables stay as
//! they are while nobody looks after them.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use netns_tests::{
    KernelView, Topology, pause, scenario,
    testkit::{Hold, Load},
    wait_until,
};

/// New connections a second over all three nodes: a request every 3 ms, so that an outage of 10 ms would be seen.
const RATE_PER_S: u32 = 300;

/// How long each node stays without an agent: short of the lease, so that nothing but the agent's absence is tested.
const ABSENCE: Duration = Duration::from_millis(700);

/// From the agent's return to a kernel as it was.
const SETTLE_BOUND: Duration = Duration::from_secs(10);

#[test]
fn traffic_does_not_notice_that_agents_die_and_come_back() {
    scenario(3, |topology| {
        let _replicas = topology.web(5)?;
        let servers: Vec<_> = topology.hosts().iter().map(|host| host.at(80)).collect();
        let settled: Vec<KernelView> = topology.hosts().iter().map(netns_tests::Host::kernel).collect::<Result<_>>()?;
        let load = Load::start(topology.client(), servers.clone(), RATE_PER_S)?;
        let hold = Hold::start(topology.client(), &servers, 5)?;

        for node in 0..3 {
            topology.host_mut(node).kill_agent()?;
            absent(topology, node, &settled)?;
        }
        let upgraded = topology.folder().join("weft-upgraded");
        fs::copy(topology.host(0).binary(), &upgraded).context("the binary cannot be copied")?;
        for node in 0..3 {
            topology.host_mut(node).stop_agent()?;
            topology.host_mut(node).set_binary(upgraded.clone());
            absent(topology, node, &settled)?;
        }

        let seen = load.so_far();
        let exchanged = hold.exchanges();
        wait_until("traffic after the last restart", SETTLE_BOUND, || {
            ensure!(load.so_far().requests > seen.requests + u64::from(RATE_PER_S), "{:?}", load.so_far());
            ensure!(hold.exchanges() > exchanged + 15, "only {} lines", hold.exchanges());
            Ok(())
        })?;
        let (load, hold) = (load.stop()?, hold.stop());
        ensure!(load.failed == 0, "{} of {} requests failed: {:?}", load.failed, load.requests, load.errors);
        ensure!(
            hold.broken.is_empty(),
            "{} of {} connections broke: {:?}",
            hold.broken.len(),
            hold.connections,
            hold.broken
        );
        ensure!(load.replicas.len() == 5, "not every replica answered: {:?}", load.replicas);
        Ok(())
    });
}

/// The time without an agent on `node`, and its return: the tables are looked at before, at the end of and after it.
fn absent(topology: &mut Topology, node: usize, settled: &[KernelView]) -> Result<()> {
    let name = topology.host(node).name().to_owned();
    let gone = topology.host(node).kernel()?;
    gone.must_equal(&settled[node]).with_context(|| format!("the end of the agent changed the kernel of {name}"))?;
    pause(ABSENCE);
    let still = topology.host(node).kernel()?;
    still.must_equal(&gone).with_context(|| format!("somebody changed the kernel of {name} without an agent"))?;
    topology.host_mut(node).start_agent()?;
    topology.wait_ready()?;
    for (host, settled) in topology.hosts().iter().zip(settled) {
        wait_until(format!("{} is as it was", host.name()), SETTLE_BOUND, || host.kernel()?.must_equal(settled))?;
    }
    Ok(())
}
