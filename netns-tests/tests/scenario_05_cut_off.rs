//! Scenario 5: a node is cut off, its cable pulled, for longer than its lease lasts, and comes back. The others leave its
//! replicas out within 2 s on their own judgement, and take them back within 1 s; nothing else is disturbed, and the tables are
//! as they were. All of it is measured at a client that sends throughout.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netns_tests::{Host, KernelView, pause, scenario, testkit::Load, wait_until};

/// New connections a second over both nodes that stay.
const RATE_PER_S: u32 = 60;

/// A request takes a millisecond; one to a node that is gone takes for ever.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

/// Longer than the lease, which is 10 s from its last renewal.
const OUTAGE: Duration = Duration::from_secs(13);

/// Until the replicas of the lost node get no more connections, and until they get them again.
const LEAVE_BOUND: Duration = Duration::from_secs(2);
const RETURN_BOUND: Duration = Duration::from_secs(1);

/// From the return to tables as they were.
const SETTLE_BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_node_that_is_cut_off_leaves_and_returns() {
    scenario(3, |topology| {
        // The third and sixth are on the third node.
        let _replicas = topology.web(6)?;
        let everybody_is_heard = || topology.hosts().iter().try_for_each(hears_its_peers);
        wait_until("every node hears its peers", SETTLE_BOUND, everybody_is_heard)?;
        let settled: Vec<KernelView> = topology.hosts().iter().map(Host::kernel).collect::<Result<_>>()?;
        let stay = [topology.host(0).at(80), topology.host(1).at(80)];
        let load = Load::start_impatient(topology.client(), stay.to_vec(), RATE_PER_S, REQUEST_BOUND)?;
        wait_until("traffic", SETTLE_BOUND, || {
            let seen = load.so_far();
            ensure!(seen.requests > 2 * u64::from(RATE_PER_S), "{seen:?}");
            Ok(())
        })?;

        let cut = Instant::now();
        topology.cut(2)?;
        wait_until("the first node takes it for silent", LEAVE_BOUND * 2, || is_unreachable(topology.host(0), "h3"))?;
        pause(OUTAGE.saturating_sub(cut.elapsed()));
        let during = load.so_far();
        let rows = topology.host(0).weft_rows("node ls")?;
        ensure!(rows.iter().any(|row| row["name"] == "h3" && row["status"] == "suspended"), "{rows:?}");
        // On its own it goes on with its own replicas.
        let own = topology.host(2).weft_json("service inspect web")?;
        ensure!(own["replicas_ready"] == 2, "{own}");

        let healed = Instant::now();
        topology.heal(2)?;
        let before = load.so_far().replicas;
        let returned = wait_until("the replicas of the third node are back", SETTLE_BOUND, || {
            let seen = load.so_far().replicas;
            for replica in ["web-3", "web-6"] {
                ensure!(seen.get(replica) > before.get(replica), "{replica} has not answered yet");
            }
            Ok(healed.elapsed())
        })?;
        topology.wait_balanced(80, &["web-1", "web-2", "web-3", "web-4", "web-5", "web-6"])?;
        let load = load.stop()?;
        let left = during.failing_for(cut).unwrap_or_default();
        eprintln!("left after {} ms, returned after {} ms", left.as_millis(), returned.as_millis());
        ensure!(left <= LEAVE_BOUND, "requests failed for {} ms: {:?}", left.as_millis(), during.errors);
        ensure!(returned <= RETURN_BOUND, "back only after {} ms", returned.as_millis());
        ensure!(load.failed == during.failed, "requests failed after the return: {:?}", load.errors);
        let before_cut = load.failed_sent.iter().filter(|sent| **sent < cut.checked_sub(REQUEST_BOUND).unwrap_or(cut));
        ensure!(before_cut.count() == 0, "requests failed before the cut: {:?}", load.errors);
        for (host, settled) in topology.hosts().iter().zip(&settled) {
            let same = || host.kernel()?.must_equal(settled).with_context(|| host.name().to_owned());
            wait_until("the tables are as they were", SETTLE_BOUND, same)?;
        }
        Ok(())
    });
}

fn hears_its_peers(host: &Host) -> Result<()> {
    let up = host.metric("weft_peer_up")?;
    ensure!((up - 2.0).abs() < 0.5, "{} hears {up} of 2", host.name());
    Ok(())
}

fn is_unreachable(host: &Host, peer: &str) -> Result<()> {
    let rows = host.weft_rows("node ls")?;
    ensure!(rows.iter().any(|row| row["name"] == peer && row["reachable"] == false), "{rows:?}");
    let status = host.weft_ok("status")?;
    ensure!(status.contains("h3 does not answer over the tunnel"), "{status}");
    Ok(())
}

/// An agent that stands still for a while comes back to a full mailbox, not to silent peers; and one whose agent is gone is not
/// silent, for its kernel answers.
#[test]
fn an_agent_that_stands_still_makes_nobody_silent() {
    scenario(2, |topology| {
        let _replicas = topology.web(4)?;
        let heard = |host: &Host| {
            let up = host.metric("weft_peer_up")?;
            ensure!((up - 1.0).abs() < 0.5, "{} hears {up} of 1", host.name());
            Ok(())
        };
        wait_until("the nodes hear each other", SETTLE_BOUND, || topology.hosts().iter().try_for_each(heard))?;
        let all = vec![topology.host(0).at(80), topology.host(1).at(80)];
        let load = Load::start(topology.client(), all, RATE_PER_S)?;
        topology.host(0).signal_agent(nix::sys::signal::Signal::SIGSTOP)?;
        pause(Duration::from_secs(3));
        topology.host(0).signal_agent(nix::sys::signal::Signal::SIGCONT)?;
        topology.host_mut(1).kill_agent()?;
        pause(Duration::from_secs(3));
        heard(topology.host(0))?;
        topology.host_mut(1).start_agent()?;
        let load = load.stop()?;
        ensure!(load.failed == 0, "{:?}", load.errors);
        for host in topology.hosts() {
            let log = std::fs::read_to_string(host.log()).context("the log cannot be read")?;
            ensure!(!log.contains("does not answer over the tunnel"), "a false alarm on {}", host.name());
        }
        Ok(())
    });
}
