//! Scenario 8: a UDP service is redeployed under a steady flow from one source port. While the old replica drains the flow stays
//! with it; the next datagram after it has gone reaches the new one. Likewise a flow that began before its port was published, and a
//! TCP client that comes back with the source port of a connection whose replica vanished without a word.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use netns_tests::{
    scenario,
    testkit::{Steady, ask, ask_udp},
    wait_until,
};

/// From a change on one node to every node's kernel, on a busy machine.
const CONVERGE_BOUND: Duration = Duration::from_secs(10);

/// So many answers in a row show that a flow stays: half a second of it.
const SOME: usize = 25;

/// Waits until the flow has had `SOME` answers from now on, all by `replica`.
fn stays(flow: &Steady, what: &str, replica: &str) -> Result<()> {
    let begun = Instant::now();
    wait_until(format!("{what} is answered by {replica}"), CONVERGE_BOUND, || {
        let answers = flow.since(begun);
        ensure!(answers.len() >= SOME, "{} answers so far", answers.len());
        ensure!(answers.iter().all(|answer| answer == replica), "{answers:?}");
        Ok(())
    })
}

/// Waits until `replica` answers the flow, and sees that it keeps doing so.
fn moves(flow: &Steady, what: &str, replica: &str, since: Instant) -> Result<()> {
    wait_until(format!("{what} reaches {replica}"), CONVERGE_BOUND, || {
        let answers = flow.since(since);
        ensure!(answers.iter().any(|answer| answer == replica), "{} answers, none by it", answers.len());
        Ok(())
    })?;
    stays(flow, what, replica)
}

#[test]
fn a_steady_udp_flow_stays_while_its_replica_drains_and_moves_when_it_is_gone() {
    scenario(3, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.host(0).weft_ok("service create echo --network blue --publish 5300:8080/udp")?;
        for host in topology.hosts() {
            topology.wait_known(host, "service", "echo")?;
        }
        let asker = topology.host(0).attach("blue", "asker", "")?;
        let _old = topology.host(1).serve("blue", "echo-1", "--service echo", 8080)?;
        let vip = topology.vip("echo", 8080)?;
        let ways = [
            ("by a published port far from the replica", topology.client(), topology.host(0).at(5300)),
            ("by a published port at the replica's own node", topology.client(), topology.host(1).at(5300)),
            ("by the VIP", asker.netns(), vip),
        ];
        let flows = ways.iter().map(|(_, from, server)| Steady::start(from, *server)).collect::<Result<Vec<_>>>()?;
        for (flow, (what, ..)) in flows.iter().zip(ways) {
            moves(flow, what, "echo-1", Instant::now())?;
        }

        // Start first; then the old one's node is drained: new flows go elsewhere, these stay.
        let _new = topology.host(2).serve("blue", "echo-2", "--service echo", 8080)?;
        topology.host(0).weft_ok("node drain h2")?;
        for (what, from, server) in ways {
            wait_until(format!("a new flow {what} goes to the new replica"), CONVERGE_BOUND, || {
                let answers =
                    from.enter(|| (0..3).map(|_| ask_udp(server, CONVERGE_BOUND)).collect::<Result<Vec<_>>>())?;
                ensure!(answers.iter().all(|answer| answer.replica == "echo-2"), "{answers:?}");
                Ok(())
            })?;
        }
        for (flow, (what, ..)) in flows.iter().zip(ways) {
            stays(flow, &format!("while it drains, a flow {what}"), "echo-1")?;
        }

        let gone = Instant::now();
        topology.host(1).weft_ok("detach echo-1")?;
        for (flow, (what, ..)) in flows.iter().zip(ways) {
            moves(flow, &format!("after the drain, a flow {what}"), "echo-2", gone)?;
        }
        flows.into_iter().try_for_each(Steady::stop)
    });
}

#[test]
fn a_flow_from_before_its_port_was_published_comes_in_once_it_is() {
    scenario(2, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.host(0).weft_ok("service create echo --network blue")?;
        topology.wait_known(topology.host(1), "service", "echo")?;
        let _replica = topology.host(1).serve("blue", "echo-1", "--service echo", 8080)?;
        let before = Instant::now();
        let server = topology.host(0).at(5300);
        let listener = topology.host(0).netns().enter(|| Ok(std::net::UdpSocket::bind(server)?))?;
        let flow = Steady::start(topology.client(), server)?;
        listener.set_read_timeout(Some(CONVERGE_BOUND))?;
        // It has an entry in connection tracking, by which it belongs to the host itself.
        for _ in 0..SOME {
            listener.recv_from(&mut [0; 64])?;
        }
        ensure!(flow.since(before).is_empty(), "answered before it was published");
        topology.host(0).weft_ok("service update echo --publish-add 5300:8080/udp")?;
        moves(&flow, "a flow from before", "echo-1", before)?;
        flow.stop()
    });
}

#[test]
fn a_source_port_of_a_vanished_replicas_connection_can_be_used_again() {
    scenario(3, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.host(0).weft_ok("service create web --network blue --publish 80:8080")?;
        for host in topology.hosts() {
            topology.wait_known(host, "service", "web")?;
        }
        let old = topology.host(1).serve("blue", "web-1", "--service web", 8080)?;
        topology.wait_balanced(80, &["web-1"])?;
        let client = topology.client();
        // One source port for all, and no word of the client's when it gives a connection up.
        client.sysctl("net/ipv4/ip_local_port_range", "40000 40000")?;
        client.exec("nft add table inet mute")?;
        client.exec("nft add chain inet mute out { type filter hook output priority 0; }")?;
        client.exec("nft add rule inet mute out tcp flags & (fin | rst) != 0 drop")?;
        let server = topology.host(0).at(80);
        let stream = client.enter(|| Ok(TcpStream::connect_timeout(&server, CONVERGE_BOUND)?))?;
        ensure!(stream.local_addr()?.port() == 40000, "{:?}", stream.local_addr());
        // The replica's link goes first, so that its end is heard by nobody.
        let _new = topology.host(2).serve("blue", "web-2", "--service web", 8080)?;
        topology.host(1).weft_ok("detach web-1")?;
        drop(old);
        let abort = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &abort)?;
        drop(stream);
        let answer = wait_until("the port used again reaches the new replica", CONVERGE_BOUND, || {
            client.enter(|| ask(server, Duration::from_secs(1)))
        })?;
        ensure!(answer.replica == "web-2" && answer.client.port() == 40000, "{answer:?}");
        Ok(())
    });
}
