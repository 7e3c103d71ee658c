//! Session affinity and balancing by source, as a client meets them: it keeps its replica, goes to another at once when that one
//! is gone, and comes to the same one by every node where the source decides.

use std::{collections::BTreeSet, time::Duration};

use anyhow::{Result, ensure};
use netns_tests::{Topology, scenario, testkit::ask, wait_until};

/// A request takes a millisecond; a packet that is dropped on its way costs a second at least.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

/// From a change on one node to every node's kernel.
const CONVERGE_BOUND: Duration = Duration::from_secs(12);

/// More than there are replicas.
const REQUESTS: usize = 9;

#[test]
fn a_client_keeps_its_replica_until_that_is_gone() {
    scenario(2, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.host(0).weft_ok("service create web --network blue --publish 80:8080 --affinity 10m")?;
        for host in topology.hosts() {
            topology.wait_known(host, "service", "web")?;
        }
        let mut replicas = Vec::new();
        for number in 1..=3 {
            let host = topology.host(number % 2);
            replicas.push((host, host.serve("blue", &format!("web-{number}"), "--service web", 8080)?));
        }
        for _ in 0..2 {
            let kept = wait_until("one replica", CONVERGE_BOUND, || one_replica(topology, 0))?;
            let place = replicas.iter().position(|(_, replica)| replica.name() == kept);
            let (host, replica) = replicas.remove(place.unwrap_or_default());
            host.weft_ok(&format!("detach {kept}"))?;
            drop(replica);
            let next = wait_until("another replica", CONVERGE_BOUND, || one_replica(topology, 0))?;
            ensure!(next != kept, "{kept} is gone");
        }
        Ok(())
    });
}

#[test]
fn the_source_decides_alike_on_every_node() {
    scenario(3, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.host(0).weft_ok("service create web --network blue --publish 80:8080 --lb source")?;
        let mut replicas = Vec::new();
        for (number, host) in (1..).zip(topology.hosts()) {
            topology.wait_known(host, "service", "web")?;
            replicas.push(host.serve("blue", &format!("web-{number}"), "--service web", 8080)?);
        }
        wait_until("one replica by every node", CONVERGE_BOUND, || {
            let met = (0..3).map(|host| one_replica(topology, host)).collect::<Result<BTreeSet<_>>>()?;
            ensure!(met.len() == 1, "{met:?}");
            Ok(())
        })
    });
}

/// The replica that answers all of the client's requests at a host.
fn one_replica(topology: &Topology, host: usize) -> Result<String> {
    let mut met = BTreeSet::new();
    for _ in 0..REQUESTS {
        met.insert(topology.client().enter(|| ask(topology.host(host).at(80), REQUEST_BOUND))?.replica);
    }
    ensure!(met.len() == 1, "{met:?}");
    Ok(met.pop_first().unwrap_or_default())
}
