//! Scenario 1: three nodes, five replicas, one published port, 1,000 requests at every node. Each node on its own spreads
//! its requests exactly round-robin, and every replica sees the client's own address.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Result, ensure};
use netns_tests::{CLIENT, Host, Topology, scenario, testkit::ask};

const REQUESTS: usize = 1000;

/// A request takes well under a millisecond here; a lost SYN would show as a second.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

/// The client's source ports: few enough that it uses most of them towards more than one node within a minute, and so meets
/// replicas that have the very same address and port in `TIME_WAIT` from a connection by another node.
const SOURCE_PORTS: &str = "20000 24999";

#[test]
fn every_node_answers_exactly_round_robin_and_keeps_the_clients_address() {
    scenario(3, |topology| {
        let _replicas = topology.web(5)?;
        topology.client().sysctl("net/ipv4/ip_local_port_range", SOURCE_PORTS)?;
        for host in topology.hosts() {
            let counts = topology.client().enter(|| {
                let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                for turn in 0..REQUESTS {
                    let answer = ask(host.at(80), REQUEST_BOUND)?;
                    ensure!(
                        answer.client.ip() == CLIENT,
                        "request {turn} at {}: {} saw the client as {}",
                        host.name(),
                        answer.replica,
                        answer.client
                    );
                    *counts.entry(answer.replica).or_default() += 1;
                }
                Ok(counts)
            })?;
            let (least, most) = (counts.values().min(), counts.values().max());
            ensure!(counts.len() == 5, "{} used {} replicas: {counts:?}", host.name(), counts.len());
            in_step(topology, host)?;
            ensure!(least.zip(most).is_some_and(|(least, most)| most - least <= 1), "{}: {counts:?}", host.name());
        }
        Ok(())
    });
}

/// Strict order, not only equal counts: any five requests in a row meet five replicas, and the next five the same again.
fn in_step(topology: &Topology, host: &Host) -> Result<()> {
    let answers = topology
        .client()
        .enter(|| (0..20).map(|_| Ok(ask(host.at(80), REQUEST_BOUND)?.replica)).collect::<Result<Vec<String>>>())?;
    for (turn, replica) in answers.iter().enumerate().skip(5) {
        ensure!(*replica == answers[turn - 5], "{}: request {turn} is out of turn: {answers:?}", host.name());
    }
    Ok(())
}
