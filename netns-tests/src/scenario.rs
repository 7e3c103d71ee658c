use std::env;

use anyhow::Result;

use crate::{Ground, Machine, Topology};

/// Runs one scenario on a cluster of `hosts` nodes. Where it fails, the agents' logs are shown with the reason; when it is
/// over, nothing of it may be left on the machine.
pub fn scenario(hosts: u8, body: impl FnOnce(&mut Topology) -> Result<()>) {
    scenario_on(Ground::of(hosts), body);
}

/// As [`scenario`], on any ground.
pub fn scenario_on(ground: Ground, body: impl FnOnce(&mut Topology) -> Result<()>) {
    scenario_made(|| Topology::cluster_on(ground), body);
}

/// As [`scenario`], on hosts whose agents run and have yet to form a cluster.
pub fn scenario_before_init(hosts: u8, body: impl FnOnce(&mut Topology) -> Result<()>) {
    let make = || {
        let mut topology = Topology::lay(Ground::of(hosts))?;
        topology.hosts_mut().iter_mut().try_for_each(crate::Host::start_agent)?;
        Ok(topology)
    };
    scenario_made(make, body);
}

#[expect(clippy::panic, reason = "a panic is how a test fails")]
fn scenario_made(make: impl FnOnce() -> Result<Topology>, body: impl FnOnce(&mut Topology) -> Result<()>) {
    let before = Machine::look();
    let outcome = make().and_then(|mut topology| {
        let outcome = body(&mut topology);
        if outcome.is_err() || env::var_os("WEFT_TEST_LOGS").is_some() {
            for host in topology.hosts() {
                eprintln!("── the log of {} ends:\n{}", host.name(), host.log_tail(40));
            }
        }
        outcome
    });
    if let Err(error) = outcome {
        panic!("{error:#}");
    }
    match before.and_then(|before| Ok(Machine::look()?.left_since(&before))) {
        Ok(left) => assert!(left.is_empty(), "the scenario left behind: {left:?}"),
        Err(error) => panic!("{error:#}"),
    }
}
