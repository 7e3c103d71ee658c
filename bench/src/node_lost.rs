//! A node that is lost: how long new connections are still sent to it, as a client sees it that asks the nodes that stay.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netns_tests::{Topology, pause, testkit::Load, wait_until};

use crate::report::{self, Goal, Sample, Unit};

/// How often the node is lost.
const TRIES: usize = 20;

/// New connections a second over both nodes that stay; a third of them should go to the lost one, so that the last of those is
/// seen to some 15 ms.
const RATE_PER_S: u32 = 200;

/// A connection takes a millisecond; one to a node that is gone takes for ever.
const TIMEOUT: Duration = Duration::from_millis(400);

/// How long it is gone: longer than the worst goal, shorter than its lease, so that only peers' own judgement counts.
const OUTAGE: Duration = Duration::from_millis(3500);

/// From the cable's return to traffic.
const RETURN_BOUND: Duration = Duration::from_secs(20);

/// Loses the third node's cable, again and again.
pub(crate) fn run() -> Result<()> {
    let topology = Topology::three_nodes()?;
    let _replicas = topology.web(3)?;
    let stay = vec![topology.host(0).at(80), topology.host(1).at(80)];
    let (mut lost, mut back) = (Sample::default(), Sample::default());
    for _ in 0..TRIES {
        wait_until("the third node is heard", RETURN_BOUND, || {
            for host in &topology.hosts()[..2] {
                let up = host.metric("weft_peer_up")?;
                ensure!((up - 2.0).abs() < 0.5, "{} hears {up} of 2", host.name());
            }
            Ok(())
        })?;
        topology.wait_balanced(80, &["web-1", "web-2", "web-3"])?;
        let load = Load::start_impatient(topology.client(), stay.clone(), RATE_PER_S, TIMEOUT)?;
        wait_until("traffic", RETURN_BOUND, || {
            ensure!(load.so_far().replicas.len() == 3, "{:?}", load.so_far());
            Ok(())
        })?;
        let cut = Instant::now();
        topology.cut(2)?;
        pause(OUTAGE);
        let during = load.so_far();
        let healed = Instant::now();
        topology.heal(2)?;
        wait_until("its replica answers again", RETURN_BOUND, || {
            ensure!(load.so_far().replicas.get("web-3") > during.replicas.get("web-3"), "not yet");
            Ok(())
        })?;
        back.add(healed.elapsed().as_secs_f64() * 1000.0);
        load.stop()?;
        let failing = during.failing_for(cut).unwrap_or_default();
        ensure!(!failing.is_zero(), "no connection failed: nothing was measured");
        lost.add(failing.as_secs_f64() * 1000.0);
    }
    report::absolute(
        "a node lost: until no new connection is sent to it",
        Unit::Milliseconds,
        &lost,
        Goal::AtMost(1000.0),
    );
    report::absolute(
        "a node back: until new connections are sent to it",
        Unit::Milliseconds,
        &back,
        Goal::AtMost(1000.0),
    );
    Ok(())
}
