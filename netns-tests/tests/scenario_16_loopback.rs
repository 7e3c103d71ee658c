//! Scenario 16, the way in from the node itself: a published port answers at 127.0.0.1, at `[::1]` and at the node's own
//! addresses, TCP and UDP, whichever node the replicas are on. A program of the host that has the port keeps it, and the status
//! says so; once it is gone, the port answers.

use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netns_tests::{
    Host, Topology, scenario,
    testkit::{Answer, ask, ask_udp},
    wait_until,
};

/// A request takes milliseconds; a packet that is dropped on its way costs a second at least.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

/// From a change to every node's doors; one that could not be opened is tried every 2 s.
const CONVERGE_BOUND: Duration = Duration::from_secs(10);

const REPLICAS: usize = 2;

type Ask = fn(SocketAddr, Duration) -> Result<Answer>;

#[test]
fn a_node_reaches_what_it_publishes_by_its_own_loopback() {
    scenario(3, |topology| {
        let first = topology.host(0);
        first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        first.weft_ok("service create web --network blue --publish 80:8080 --publish 5300:8080/udp")?;
        for host in topology.hosts() {
            topology.wait_known(host, "service", "web")?;
        }
        // None on the third node: all of its connections take the tunnel.
        let _replicas = (0..REPLICAS)
            .map(|number| topology.host(number).serve("blue", &format!("web-{}", number + 1), "--service web", 8080))
            .collect::<Result<Vec<_>>>()?;
        for host in topology.hosts() {
            let v4: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), host.address()];
            for address in v4.into_iter().chain([Ipv6Addr::LOCALHOST.into()]) {
                everybody(host, SocketAddr::new(address, 80), ask).with_context(|| host.name().to_owned())?;
                everybody(host, SocketAddr::new(address, 5300), ask_udp).with_context(|| host.name().to_owned())?;
            }
        }
        nothing_from_outside(topology)?;
        a_program_keeps_its_port(topology)
    });
}

/// In two rounds every replica answers.
fn everybody(host: &Host, to: SocketAddr, ask: Ask) -> Result<()> {
    wait_until(format!("{to} on {} reaches every replica", host.name()), CONVERGE_BOUND, || {
        host.netns().enter(|| {
            let answers = (0..2 * REPLICAS).map(|_| Ok(ask(to, REQUEST_BOUND)?.replica));
            let replicas = answers.collect::<Result<BTreeSet<String>>>()?;
            ensure!(replicas.len() == REPLICAS, "only {replicas:?} answered");
            Ok(())
        })
    })
}

/// The listeners on loopback are no way in for others: nothing is changed that would let a packet for 127.0.0.1 in.
fn nothing_from_outside(topology: &Topology) -> Result<()> {
    for host in topology.hosts() {
        let settings = host.netns().exec("sysctl -a -r net.ipv4.conf.*.route_localnet")?;
        ensure!(!settings.contains("= 1"), "{}: {settings}", host.name());
    }
    Ok(())
}

fn a_program_keeps_its_port(topology: &Topology) -> Result<()> {
    let host = topology.host(1);
    let program = host.netns().enter(|| Ok(TcpListener::bind((Ipv4Addr::UNSPECIFIED, 8888))?))?;
    topology.host(0).weft_ok("service update web --publish-add 8888:8080")?;
    let warning = "the service web does not answer at 127.0.0.1, port 8888/tcp, of this node: a program of this host has the \
                   port. What comes to the host's other addresses the kernel gives to the service all the same";
    wait_until("the status tells of the program", CONVERGE_BOUND, || {
        let status = host.weft_ok("status")?.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(status.contains(warning), "{status}");
        Ok(())
    })?;
    // From outside the port is the service's all the same.
    everybody(host, host.at(8888), ask)?;
    drop(program);
    everybody(host, SocketAddr::from((Ipv4Addr::LOCALHOST, 8888)), ask)?;
    wait_until("the status is quiet", CONVERGE_BOUND, || {
        ensure!(!host.weft_ok("status")?.contains("8888"), "it is not");
        Ok(())
    })?;
    let told = host.log_tail(2000).matches("port 8888/tcp, of this node: a program").count();
    ensure!(told == 1, "it was logged {told} times");
    Ok(())
}
