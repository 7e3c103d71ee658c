//! Scenario 9: the client's address, TCP and UDP, IPv4 and IPv6, by an ingress node with and without a replica of its own,
//! over either underlay: every replica sees the client as it is.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Context, Result, ensure};
use netns_tests::{
    Family, Ground, Topology, scenario_on,
    testkit::{Answer, ask, ask_udp},
};

/// A request takes a millisecond; a packet that is dropped on its way costs a second at least.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

/// Several rounds over the two replicas.
const REQUESTS: usize = 12;

#[test]
fn of_both_families_over_ipv4() {
    replicas_see_the_client(Family::V4, &Family::BOTH);
}

#[test]
fn of_both_families_over_ipv6() {
    replicas_see_the_client(Family::V6, &Family::BOTH);
}

#[test]
fn of_ipv6_alone_over_ipv4() {
    replicas_see_the_client(Family::V4, &[Family::V6]);
}

/// Replicas on the first and the second of three nodes: the third has none of its own.
fn replicas_see_the_client(underlay: Family, families: &[Family]) {
    scenario_on(Ground { underlay, ..Ground::of(3) }, |topology| {
        let _replicas = topology.web_in(families, 2)?;
        topology.host(0).weft_ok("service update web --publish-add 80:8080/udp")?;
        for family in families {
            for host in topology.hosts() {
                let server = host.door(*family, 80);
                let tcp = || ask(server, REQUEST_BOUND);
                let udp = || ask_udp(server, REQUEST_BOUND);
                seen(topology, *family, &tcp).with_context(|| format!("TCP to {server} ({})", host.name()))?;
                // The port has only just been published.
                netns_tests::wait_until(format!("{server} answers by UDP"), Duration::from_secs(10), || {
                    topology.client().enter(udp)
                })?;
                seen(topology, *family, &udp).with_context(|| format!("UDP to {server} ({})", host.name()))?;
            }
        }
        Ok(())
    });
}

fn seen(topology: &Topology, family: Family, request: &(impl Fn() -> Result<Answer> + Sync)) -> Result<()> {
    topology.client().enter(|| {
        let mut replicas = BTreeSet::new();
        for turn in 0..REQUESTS {
            let answer = request().with_context(|| format!("request {turn}"))?;
            let client = answer.client.ip();
            ensure!(client == family.client(), "{} saw the client as {client}", answer.replica);
            replicas.insert(answer.replica);
        }
        ensure!(replicas.len() == 2, "only {replicas:?} answered");
        Ok(())
    })
}
