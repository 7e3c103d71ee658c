//! Passive ejection: a service without a health check sheds a replica that refuses connections, and one that swallows them, within
//! seconds, at each node on its own; and takes it back after it was mended. A single replica is never shed.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use netns_tests::{Topology, scenario, testkit::ask, wait_until};

/// A connection that was not answered by then has failed for good.
const REQUEST_BOUND: Duration = Duration::from_millis(500);

/// Five connections that fail, 1.5 s each for silent ones, a sixth of them at a time, on a busy machine.
const SHED_BOUND: Duration = Duration::from_secs(30);

/// The first ejection lasts 10 s; what fails while it ends counts for a second one of 20 s.
const BACK_BOUND: Duration = Duration::from_mins(1);

/// Two rounds over three replicas, and who answered; an error for each connection that failed.
fn twelve(topology: &Topology) -> Result<BTreeSet<String>> {
    topology.client().enter(|| {
        let answers: Vec<Result<String>> =
            (0..12).map(|_| Ok(ask(topology.host(0).at(80), REQUEST_BOUND)?.replica)).collect();
        let failed = answers.iter().filter(|answer| answer.is_err()).count();
        ensure!(failed == 0, "{failed} of 12 requests failed");
        answers.into_iter().collect()
    })
}

#[test]
fn a_replica_that_refuses_is_shed_and_taken_back() {
    scenario(2, |topology| {
        let mut replicas = topology.web(3)?;
        // Its program ends: the kernel answers each SYN with a reset.
        let program = replicas[1].stop_program();
        ensure!(program.is_some(), "the replica had no program");
        drop(program);
        let begun = Instant::now();
        let who = wait_until("no connection goes to the replica that refuses", SHED_BOUND, || twelve(topology))?;
        println!("shed after {:?}", begun.elapsed());
        ensure!(who.len() == 2 && !who.contains("web-2"), "{who:?}");
        let row = topology.host(0).weft_rows("service ps web")?;
        let reason = row.iter().find(|row| row["endpoint"] == "web-2").map(|row| row["reason"].to_string());
        ensure!(reason.as_deref().is_some_and(|reason| reason.contains("ejected")), "{reason:?}");
        replicas[1].start_replica(8080)?;
        wait_until("the replica is taken back after it was mended", BACK_BOUND, || {
            let who = twelve(topology)?;
            ensure!(who.len() == 3, "{who:?}");
            Ok(())
        })
    });
}

#[test]
fn a_replica_that_swallows_connections_is_shed_and_taken_back() {
    scenario(2, |topology| {
        let replicas = topology.web(3)?;
        replicas[1].netns().exec("nft add table inet silence")?;
        replicas[1]
            .netns()
            .exec("nft add chain inet silence in { type filter hook input priority 0; policy drop; }")?;
        let begun = Instant::now();
        let who = wait_until("no connection goes to the replica that is silent", SHED_BOUND, || twelve(topology))?;
        println!("shed after {:?}", begun.elapsed());
        ensure!(who.len() == 2 && !who.contains("web-2"), "{who:?}");
        replicas[1].netns().exec("nft delete table inet silence")?;
        wait_until("the replica is taken back after it was mended", BACK_BOUND, || {
            let who = twelve(topology)?;
            ensure!(who.len() == 3, "{who:?}");
            Ok(())
        })
    });
}

#[test]
fn a_single_replica_is_never_shed() {
    scenario(1, |topology| {
        let mut replicas = topology.web(1)?;
        drop(replicas[0].stop_program());
        topology.client().enter(|| {
            for _ in 0..30 {
                ensure!(ask(topology.host(0).at(80), REQUEST_BOUND).is_err(), "answered by nobody");
            }
            Ok(())
        })?;
        replicas[0].start_replica(8080)?;
        // At once: it was in balance all the time.
        let answer = topology.client().enter(|| ask(topology.host(0).at(80), REQUEST_BOUND))?;
        ensure!(answer.replica == "web-1", "{answer:?}");
        Ok(())
    });
}
