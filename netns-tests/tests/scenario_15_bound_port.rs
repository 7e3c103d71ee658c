//! Scenario 15: a published port bound to one address answers there and nowhere else: to a client, to the node itself and to
//! containers on every node; several services may have the same port, each at an address of its own; one bound to a device
//! answers to what arrives by it.

use std::{io::ErrorKind, net::SocketAddr, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use netns_tests::{Netns, scenario, testkit::ask, wait_until};

/// A request takes a millisecond; a packet that is dropped on its way costs a second at least.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

/// From a change on one node to every node's kernel.
const CONVERGE_BOUND: Duration = Duration::from_secs(12);

#[test]
fn a_bound_port_answers_there_and_nowhere_else() {
    scenario(3, |topology| {
        let first = topology.host(0);
        let (here, there) = (first.address(), topology.host(1).address());
        // A second address of the first node, which no peer knows as its underlay address.
        let second = "192.0.2.211";
        first.netns().exec(&format!("ip addr add {second}/24 dev eth0"))?;
        first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        for (service, publish) in [
            ("one", format!("{here}:80:8080")),
            ("two", format!("{there}:80:8080")),
            ("three", format!("{second}:80:8080")),
        ] {
            first.weft_ok(&format!("service create {service} --network blue --publish {publish}"))?;
            for host in topology.hosts() {
                topology.wait_known(host, "service", service)?;
            }
        }
        // Each behind another node's address than its own, and so by the tunnel.
        let _replicas = [("one", 2), ("two", 0), ("three", 1)]
            .into_iter()
            .map(|(service, host)| {
                topology.host(host).serve("blue", &format!("{service}-1"), &format!("--service {service}"), 8080)
            })
            .collect::<Result<Vec<_>>>()?;
        let askers = topology.hosts().iter().map(|host| host.attach("blue", &format!("asker-{}", host.name()), ""));
        let askers = askers.collect::<Result<Vec<_>>>()?;
        let callers = [("the client", topology.client())]
            .into_iter()
            .chain(topology.hosts().iter().map(|host| (host.name(), host.netns())))
            .chain(askers.iter().map(|asker| (asker.name(), asker.netns())));
        for (name, netns) in callers {
            for (address, replica) in [
                (here, Some("one-1")),
                (there, Some("two-1")),
                (second.parse()?, Some("three-1")),
                (topology.host(2).address(), None),
            ] {
                let to = SocketAddr::new(address, 80);
                wait_until(format!("{name} asks {to}"), CONVERGE_BOUND, || expect(netns, to, replica))?;
            }
        }
        Ok(())
    });
}

/// Where a caller's own node does not answer for another one (a second address, a device), the other one may choose the
/// caller's neighbour for a replica.
#[test]
fn another_node_may_send_a_caller_back_to_its_own_host() {
    scenario(2, |topology| {
        let (first, other) = (topology.host(0), topology.host(1));
        other.netns().exec("ip addr add 192.0.2.212/24 dev eth0")?;
        for (network, subnet) in [("blue", "10.42.0.0/16"), ("red", "10.43.0.0/16")] {
            first.weft_ok(&format!("network create {network} --subnet {subnet}"))?;
        }
        first.weft_ok("service create web --network blue --publish 80:8080 --publish eth0:81:8080")?;
        topology.wait_known(other, "service", "web")?;
        topology.wait_known(other, "network", "red")?;
        let _replicas = (
            first.serve("blue", "web-1", "--service web", 8080)?,
            other.serve("blue", "web-2", "--service web", 8080)?,
        );
        topology.wait_balanced(80, &["web-1", "web-2"])?;
        let askers = [first.attach("blue", "near", "")?, first.attach("red", "far", "")?];
        let callers = [first.netns(), askers[0].netns(), askers[1].netns()];
        for netns in callers {
            for to in ["192.0.2.212:80".parse()?, SocketAddr::new(other.address(), 81)] {
                let answers = (0..8).map(|_| netns.enter(|| ask(to, REQUEST_BOUND)).map(|answer| answer.replica));
                let answers = answers.collect::<Result<Vec<_>>>().with_context(|| format!("asking {to}"))?;
                for replica in ["web-1", "web-2"] {
                    ensure!(answers.iter().filter(|answer| *answer == replica).count() == 4, "{to}: {answers:?}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn the_same_address_and_port_is_nobody_elses() {
    scenario(1, |topology| {
        let host = topology.host(0);
        let address = host.address();
        host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        host.weft_ok(&format!("service create one --network blue --publish {address}:80:8080"))?;
        for publish in [format!("{address}:80:8080"), "80:8080".to_owned()] {
            let refused = host.weft(&format!("service create two --network blue --publish {publish}"))?;
            ensure!(!refused.status.success(), "a second service was given {publish}");
        }
        host.weft_ok(&format!("service create two --network blue --publish {address}:80:8080/udp"))?;
        Ok(())
    });
}

/// That the replica answers, or that nobody does and says so at once.
fn expect(netns: &Netns, to: SocketAddr, replica: Option<&str>) -> Result<()> {
    match (netns.enter(|| ask(to, REQUEST_BOUND)), replica) {
        (Ok(answer), Some(replica)) => ensure!(answer.replica == replica, "{answer:?} instead of {replica}"),
        (Ok(answer), None) => bail!("{answer:?}, and nobody should answer"),
        (Err(error), Some(replica)) => return Err(error).context(format!("{replica} should answer")),
        (Err(error), None) => {
            let cause = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>());
            let kind = cause.context("not a connection's error")?.kind();
            ensure!(kind == ErrorKind::ConnectionRefused, "it should be refused at once, not {kind:?}");
        }
    }
    Ok(())
}
