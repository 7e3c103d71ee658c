//! `endpoint drain`, `node drain` and `detach`: a connection that is established goes on while new ones go elsewhere; the
//! command returns as soon as it ends, or when the time has passed; the address is not given away before that.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use netns_tests::{
    Container, Host, Process, Topology, pause, scenario,
    testkit::{Hold, ask},
    wait_until,
};

/// From the end of a connection to the end of what waits for it: a count, a report and an answer, on a busy machine.
const NOTICE_BOUND: Duration = Duration::from_secs(5);

/// A time that no test waits for.
const LONG: &str = "300s";

/// A time that passes. Long beside a command's own time on a busy machine.
const SHORT: Duration = Duration::from_secs(2);

#[test]
fn a_connection_goes_on_while_new_ones_go_elsewhere() {
    scenario(3, |topology| {
        let replicas = topology.web(2)?;
        let held = hold(topology, &replicas)?;
        let busy = replicas[0].name();

        // From a node that neither holds the replica nor sends the connection.
        let mut drain = topology.host(2).start_weft("drain", &["endpoint", "drain", busy, "--timeout", LONG])?;
        out_of_balancing(topology, busy)?;
        let exchanged = held.exchanges();
        wait_until("the held connection goes on", NOTICE_BOUND, || {
            ensure!(held.exchanges() > exchanged + 5, "{} lines", held.exchanges());
            Ok(())
        })?;
        for host in topology.hosts() {
            wait_until(format!("{} tells how far it is", host.name()), NOTICE_BOUND, || {
                let row = endpoint(host, busy)?;
                ensure!(row["state"] == "draining", "{row}");
                Ok(())
            })?;
        }
        ensure!(drain.ended()?.is_none(), "the drain did not wait: {}", topology.host(2).output_of("drain"));

        let report = held.stop();
        ensure!(report.broken.is_empty(), "{:?}", report.broken);
        ensure!(drain.wait(NOTICE_BOUND)?.success(), "{}", topology.host(2).output_of("drain"));
        // Into a file it prints the result and nothing else.
        let said = topology.host(2).output_of("drain");
        ensure!(said == format!("endpoint {busy} drained"), "{said:?}");

        // It stays attached, and out.
        ensure!(endpoint(topology.host(0), busy)?["state"] == "draining");
        let again = topology.host(1).weft_ok(&format!("endpoint drain {busy}"))?;
        ensure!(again.contains("drained"), "{again}");
        out_of_balancing(topology, busy)?;
        ensure!(topology.host(2).metric("weft_drain_outcomes_total")? >= 1.0);
        Ok(())
    });
}

#[test]
fn the_time_is_kept_and_what_is_open_goes_on() {
    scenario(3, |topology| {
        let replicas = topology.web(2)?;
        let held = hold(topology, &replicas)?;
        let busy = replicas[0].name();
        let timeout = format!("{}s", SHORT.as_secs());
        let run = topology.host(0).weft_words(&["endpoint", "drain", busy, "--timeout", &timeout])?;
        ensure!(run.status.success() && run.took >= SHORT, "{run:?}");
        ensure!(run.stderr.contains("was still open after 2s"), "{run:?}");
        ensure!(run.stdout.trim() == format!("endpoint {busy} takes no new connections"), "{run:?}");
        let exchanged = held.exchanges();
        wait_until("the held connection goes on", NOTICE_BOUND, || {
            ensure!(held.exchanges() > exchanged + 5, "{} lines", held.exchanges());
            Ok(())
        })?;
        let report = held.stop();
        ensure!(report.broken.is_empty(), "{:?}", report.broken);
        Ok(())
    });
}

#[test]
fn detach_waits_and_keeps_the_address_meanwhile() {
    scenario(2, |topology| {
        let replicas = topology.web(2)?;
        topology.host(0).weft_ok(&format!("service update web --drain {LONG}"))?;
        let held = hold(topology, &replicas)?;
        let host = topology.host(0);
        let (busy, address) = (replicas[0].name(), replicas[0].address());
        let mut detach = host.start_weft("detach", &["detach", busy])?;
        out_of_balancing(topology, busy)?;
        let spare = netns_tests::Netns::create(format!("{}-spare", host.netns().name()))?;
        let wish = format!("attach --netns {} --network blue --name spare --ip {address}", spare.path().display());
        let refused = host.weft(&wish)?;
        ensure!(!refused.status.success() && refused.stderr.contains("another endpoint has it"), "{refused:?}");
        ensure!(detach.ended()?.is_none(), "the detach did not wait: {}", host.output_of("detach"));
        let report = held.stop();
        ensure!(report.broken.is_empty(), "{:?}", report.broken);
        ensure!(detach.wait(NOTICE_BOUND)?.success(), "{}", host.output_of("detach"));
        host.weft_ok(&wish)?;

        // Without waiting, whatever is open.
        let held = hold(topology, &replicas[1..])?;
        let run = topology.host(1).weft(&format!("detach --force {}", replicas[1].name()))?;
        ensure!(run.status.success() && run.took < Duration::from_secs(5), "{run:?}");
        drop(held);
        Ok(())
    });
}

#[test]
fn a_node_is_drained_with_its_replicas() {
    scenario(3, |topology| {
        let replicas = topology.web(3)?;
        let held = hold(topology, &replicas)?;
        let mut drain = topology.host(2).start_weft("drain", &["node", "drain", "h1", "--timeout", LONG])?;
        out_of_balancing(topology, replicas[0].name())?;
        ensure!(drain.ended()?.is_none(), "the drain did not wait: {}", topology.host(2).output_of("drain"));
        held_ends(&mut drain, held)?;
        let said = topology.host(2).output_of("drain");
        ensure!(said == "node h1 drained", "{said:?}");

        topology.host(1).weft_ok("node activate h1")?;
        let names: Vec<&str> = replicas.iter().map(Container::name).collect();
        topology.wait_balanced(80, &names)
    });
}

/// A node whose agent is dead cannot confirm; its lease ends, and who waited is told.
#[test]
fn a_dead_agent_holds_a_drain_up_for_no_longer_than_its_lease() {
    scenario(3, |topology| {
        let replicas = topology.web(2)?;
        topology.host_mut(2).kill_agent()?;
        let begun = Instant::now();
        let run = topology.host(0).weft(&format!("detach {}", replicas[0].name()))?;
        ensure!(run.status.success(), "{run:?}");
        ensure!(run.stderr.contains("h3 has not confirmed"), "{run:?}");
        ensure!(begun.elapsed() < Duration::from_secs(30), "{run:?}");
        Ok(())
    });
}

/// In a cluster where something stays drained the store comes to rest.
#[test]
fn a_drained_node_writes_nothing_more() {
    scenario(3, |topology| {
        let _replicas = topology.web(3)?;
        topology.host(0).weft_ok("node drain h2")?;
        let revision = || topology.host(0).weft_json("status").map(|status| status["store"]["revision"].clone());
        let before = revision()?;
        pause(Duration::from_secs(3));
        let after = revision()?;
        ensure!(before == after, "the store went from {before} to {after}");
        Ok(())
    });
}

fn held_ends(drain: &mut Process, held: Hold) -> Result<()> {
    let report = held.stop();
    ensure!(report.broken.is_empty(), "{:?}", report.broken);
    ensure!(drain.wait(NOTICE_BOUND)?.success());
    Ok(())
}

/// As many connections through the second host's published port as there are replicas: one to each of them.
fn hold(topology: &Topology, replicas: &[Container]) -> Result<Hold> {
    Hold::start(topology.client(), &[topology.host(1).at(80)], replicas.len())
}

/// Waits until no node sends new connections to a replica.
fn out_of_balancing(topology: &Topology, replica: &str) -> Result<()> {
    for host in topology.hosts() {
        wait_until(format!("{} sends nothing new to {replica}", host.name()), NOTICE_BOUND, || {
            topology.client().enter(|| {
                for _ in 0..6 {
                    let answer = ask(host.at(80), Duration::from_secs(1))?;
                    ensure!(answer.replica != replica, "{replica} answered");
                }
                Ok(())
            })
        })?;
    }
    Ok(())
}

fn endpoint(host: &Host, name: &str) -> Result<serde_json::Value> {
    host.weft_json(&format!("endpoint inspect {name}"))
}
