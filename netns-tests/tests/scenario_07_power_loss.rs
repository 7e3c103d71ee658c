//! Scenario 7: a replica's node loses power: its agent is gone, its kernel is gone, and nobody says goodbye. The other nodes stop
//! choosing it within 2 s; after that no new connection sees anything of it.

use std::time::{Duration, Instant};

use anyhow::ensure;
use netns_tests::{pause, scenario, testkit::Load, wait_until};

/// New connections a second over both nodes that stay.
const RATE_PER_S: u32 = 60;

/// Of clients that wait for 5 s.
const PATIENT_PER_S: u32 = 10;

/// A request takes a millisecond; one to a node that is gone takes for ever.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

/// Until no new connection fails any more.
const LEAVE_BOUND: Duration = Duration::from_secs(2);

/// Past the end of its lease, so that both ways of missing it have had their turn.
const AFTERMATH: Duration = Duration::from_secs(14);

/// From the replicas' start to traffic.
const SETTLE_BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_node_without_power_is_missed_within_two_seconds() {
    scenario(3, |topology| {
        let _replicas = topology.web(6)?;
        wait_until("the first node hears its peers", SETTLE_BOUND, || {
            let up = topology.host(0).metric("weft_peer_up")?;
            ensure!((up - 2.0).abs() < 0.5, "it hears {up} of 2");
            Ok(())
        })?;
        let stay = vec![topology.host(0).at(80), topology.host(1).at(80)];
        let patient = Load::start(topology.client(), stay.clone(), PATIENT_PER_S)?;
        let load = Load::start_impatient(topology.client(), stay, RATE_PER_S, REQUEST_BOUND)?;
        wait_until("traffic", SETTLE_BOUND, || {
            let seen = load.so_far();
            ensure!(seen.requests > 2 * u64::from(RATE_PER_S), "{seen:?}");
            Ok(())
        })?;

        let lost = Instant::now();
        topology.cut(2)?;
        topology.host_mut(2).kill_agent()?;
        pause(AFTERMATH);
        let (load, patient) = (load.stop()?, patient.stop()?);
        let failing = load.failing_for(lost).unwrap_or_default();
        let mut at: Vec<u128> =
            load.failed_sent.iter().map(|sent| sent.saturating_duration_since(lost).as_millis()).collect();
        at.sort_unstable();
        eprintln!("failed: {at:?}");
        eprintln!("requests failed for {} ms, {} of {}", failing.as_millis(), load.failed, load.requests);
        ensure!(failing <= LEAVE_BOUND, "requests failed for {} ms: {:?}", failing.as_millis(), load.errors);
        // Whoever waits for TCP's next try, 1 and 3 s after the first, gets to a replica that answers.
        eprintln!("the slowest of {} patient requests took {} ms", patient.requests, patient.slowest.as_millis());
        ensure!(patient.failed == 0, "{} patient requests failed: {:?}", patient.failed, patient.errors);
        ensure!(load.failed > 0, "the node was not missed at all: nothing was measured");
        for replica in ["web-1", "web-2", "web-4", "web-5"] {
            ensure!(load.replicas.contains_key(replica), "{replica} never answered: {:?}", load.replicas);
        }
        Ok(())
    });
}
