//! Health checks: a replica that stops answering its probes leaves balancing and comes back; one that starts slowly is not
//! balanced before it is ready; and whatever a program does with a probe, nobody but itself has to bear it. Other services' traffic
//! notices nothing.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use netns_tests::{
    Host, Netns, scenario, start_moody,
    testkit::{Load, ask},
    wait_until,
};
use serde_json::Value;

/// From a change to every node's kernel: a few probes, and a busy machine.
const CONVERGE_BOUND: Duration = Duration::from_secs(15);

/// A request takes a millisecond.
const REQUEST_BOUND: Duration = Duration::from_secs(2);

#[test]
fn only_replicas_whose_probes_succeed_are_balanced() {
    scenario(2, |topology| {
        let [first, second] = [topology.host(0), topology.host(1)];
        first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        first.weft_ok(
            "service create web --network blue --publish 80:8080 --health tcp --health-interval 200ms --health-fall 2",
        )?;
        topology.wait_known(second, "service", "web")?;
        let steady = first.serve("blue", "steady", "--service web", 8080)?;

        // A slow starter: attached, and not listening yet.
        let mut slow = second.attach("blue", "slow", "--service web")?;
        wait_until("the replica that listens is ready", CONVERGE_BOUND, || has_state(first, "steady", "ready", true))?;
        wait_until("the one that does not says why", CONVERGE_BOUND, || {
            has_state(second, "slow", "starting", false)?;
            let reason = replica(second, "slow")?["reason"].to_string();
            ensure!(reason.contains("refused"), "{reason}");
            let endpoint = second.weft_json("endpoint inspect slow")?;
            ensure!(endpoint["fault"].to_string().contains("refused"), "{endpoint}");
            Ok(())
        })?;
        let load = Load::start(topology.client(), vec![first.at(80), second.at(80)], 100)?;
        topology.wait_balanced(80, &["steady"])?;

        slow.start_replica(8080)?;
        wait_until("the slow one is ready", CONVERGE_BOUND, || has_state(first, "slow", "ready", true))?;
        topology.wait_balanced(80, &["steady", "slow"])?;
        let report = load.stop()?;
        ensure!(report.failed == 0, "{:?}", report.errors);

        // It stops accepting, and starts again.
        drop(slow.stop_program());
        wait_until("the stopped one is unhealthy", CONVERGE_BOUND, || has_state(first, "slow", "unhealthy", false))?;
        // Its record says why, so other nodes know.
        let reason = replica(first, "slow")?["reason"].to_string();
        ensure!(reason.contains("refused"), "{reason}");
        topology.wait_balanced(80, &["steady"])?;
        slow.start_replica(8080)?;
        topology.wait_balanced(80, &["steady", "slow"])?;

        // An agent that is started again does not begin from nothing.
        let load = Load::start(topology.client(), vec![first.at(80)], 100)?;
        topology.host_mut(1).kill_agent()?;
        topology.host_mut(1).start_agent()?;
        let second = topology.host(1);
        wait_until("the agent has probed", CONVERGE_BOUND, || {
            ensure!(second.metric("weft_probes_total")? > 3.0, "not yet");
            Ok(())
        })?;
        has_state(second, "slow", "ready", true)?;
        let report = load.stop()?;
        ensure!(report.failed == 0, "{:?}", report.errors);

        // Without a check there is nothing to fail.
        drop(slow.stop_program());
        wait_until("the stopped one is unhealthy", CONVERGE_BOUND, || has_state(second, "slow", "unhealthy", false))?;
        second.weft_ok("service update web --health none")?;
        wait_until("without a check it is ready", CONVERGE_BOUND, || has_state(second, "slow", "ready", true))?;
        drop((steady, slow));
        Ok(())
    });
}

#[test]
fn whatever_a_program_does_with_a_probe_it_does_to_itself() {
    scenario(2, |topology| {
        let [first, second] = [topology.host(0), topology.host(1)];
        first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        first.weft_ok(
            "service create web --network blue --publish 80:8080 --health http:/health --health-interval 200ms \
             --health-timeout 400ms --health-fall 2",
        )?;
        first.weft_ok("service create other --network blue --publish 81:8080 --health tcp")?;
        topology.wait_known(second, "service", "other")?;
        let _other = second.serve("blue", "other-1", "--service other", 8080)?;
        let mood = topology.folder().join("mood");
        let good = topology.folder().join("good");
        fs::write(&mood, "bad").context("the mood cannot be set")?;
        fs::write(&good, "good").context("the mood cannot be set")?;
        let _moody = attach_moody(second, "moody", &mood)?;
        let _steady = attach_moody(first, "steady", &good)?;
        wait_until("the other service is ready", CONVERGE_BOUND, || {
            has_state_in(second, "other", "other-1", "ready", true)
        })?;
        topology.wait_balanced(80, &["steady"])?;
        let reason = replica(second, "moody")?["reason"].to_string();
        ensure!(reason.contains("status 503"), "{reason}");

        let load = Load::start(topology.client(), vec![second.at(81)], 100)?;
        for (bad, why) in [("bad", "status 503"), ("endless", "no HTTP answer"), ("drip", "did not answer within")] {
            fs::write(&mood, "good").context("the mood cannot be set")?;
            wait_until("in a good mood it is ready", CONVERGE_BOUND, || has_state(first, "moody", "ready", true))?;
            topology.wait_balanced(80, &["steady", "moody"])?;
            fs::write(&mood, bad).context("the mood cannot be set")?;
            wait_until(format!("in the mood {bad} it is unhealthy"), CONVERGE_BOUND, || {
                has_state(second, "moody", "unhealthy", false)?;
                let reason = replica(second, "moody")?["reason"].to_string();
                ensure!(reason.contains(why), "{reason}");
                Ok(())
            })?;
            topology.wait_balanced(80, &["steady"])?;
        }
        topology.client().enter(|| ask(first.at(80), REQUEST_BOUND))?;
        let report = load.stop()?;
        ensure!(report.failed == 0, "{:?}", report.errors);
        Ok(())
    });
}

/// What has to be kept for as long as the replica is to run.
fn attach_moody(host: &Host, name: &str, mood: &std::path::Path) -> Result<(netns_tests::Process, Netns)> {
    let netns = Netns::create(format!("{}-{name}", host.netns().name()))?;
    let program = start_moody(&netns, name, 8080, mood)?;
    let path = netns.path();
    host.weft_ok(&format!("attach --netns {} --network blue --name {name} --service web", path.display()))?;
    Ok((program, netns))
}

fn replica(host: &Host, name: &str) -> Result<Value> {
    replica_of(host, "web", name)
}

fn replica_of(host: &Host, service: &str, name: &str) -> Result<Value> {
    let rows = host.weft_rows(&format!("service ps {service}"))?;
    rows.into_iter().find(|row| row["endpoint"] == name).with_context(|| format!("{service} has no replica {name}"))
}

fn has_state(host: &Host, name: &str, state: &str, balanced: bool) -> Result<()> {
    has_state_in(host, "web", name, state, balanced)
}

fn has_state_in(host: &Host, service: &str, name: &str, state: &str, balanced: bool) -> Result<()> {
    let row = replica_of(host, service, name)?;
    ensure!(row["state"] == state && row["balanced"] == balanced, "{row}");
    Ok(())
}
