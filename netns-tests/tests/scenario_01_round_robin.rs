//! Scenario 1: three nodes, five replicas, one published port, 1,000 requests at every node. Each node on its own spreads
//! its requests exactly round-robin, and every replica sees the client's own address.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use anyhow::{Result, bail, ensure};
use netns_tests::{Family, Host, Topology, scenario, testkit::ask};

const REQUESTS: usize = 1000;

/// A request takes well under a millisecond here; a lost SYN would show as a second.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

#[test]
fn every_node_answers_exactly_round_robin_and_keeps_the_clients_address() {
    round_robin(Family::V4);
}

#[test]
fn so_it_does_in_ipv6() {
    round_robin(Family::V6);
}

fn round_robin(family: Family) {
    scenario(3, |topology| {
        let _replicas = topology.web_in(&[family], 5)?;
        // The client takes its source ports anew for each node, and so uses hundreds of them towards more than one: replicas
        // meet an address and port that they have in `TIME_WAIT` from a connection by another node.
        for host in topology.hosts() {
            let counts = topology.client().enter(|| {
                let mut counts: BTreeMap<String, usize> = BTreeMap::new();
                for turn in 0..REQUESTS {
                    let answer = ask(host.door(family, 80), REQUEST_BOUND)?;
                    ensure!(
                        answer.client.ip() == family.client(),
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
            in_step(topology, host, family)?;
            if least.zip(most).is_none_or(|(least, most)| most - least > 1) {
                bail!("{}: {counts:?}\n{}", host.name(), witnesses(topology)?);
            }
        }
        Ok(())
    });
}

/// What the kernels have counted: a turn is lost where a SYN is sent again.
fn witnesses(topology: &Topology) -> Result<String> {
    let words = "TcpActiveOpens TcpOutRsts TcpRetransSegs TcpExtTCPSynRetrans TcpExtTCPChallengeACK TcpExtTCPTimeouts";
    let mut text = format!("the client:\n{}", topology.client().exec(&format!("nstat -asz {words}"))?);
    for host in topology.hosts() {
        write!(text, "{}:\n{}", host.name(), host.netns().exec("conntrack -S")?)?;
    }
    Ok(text)
}

/// Strict order, not only equal counts: any five requests in a row meet five replicas, and the next five the same again.
fn in_step(topology: &Topology, host: &Host, family: Family) -> Result<()> {
    let answers = topology.client().enter(|| {
        (0..20).map(|_| Ok(ask(host.door(family, 80), REQUEST_BOUND)?.replica)).collect::<Result<Vec<String>>>()
    })?;
    for (turn, replica) in answers.iter().enumerate().skip(5) {
        ensure!(*replica == answers[turn - 5], "{}: request {turn} is out of turn: {answers:?}", host.name());
    }
    Ok(())
}
