//! Scenario 18: a service without ready replicas. TCP is refused at once by a RST, UDP by an ICMP port unreachable, at every
//! node and at the VIP; never a silent drop. The same holds after the last replica has gone.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use netns_tests::{
    Netns, Topology, scenario,
    testkit::{Answer, ask, ask_udp},
    wait_until,
};

/// A refusal takes a round trip; a client that saw a lost SYN would wait for a second (RFC 6298).
const AT_ONCE: Duration = Duration::from_millis(500);

/// How long a silent drop is waited for.
const SILENCE_BOUND: Duration = Duration::from_secs(3);

/// From a change on one node to every node's kernel.
const CONVERGE_BOUND: Duration = Duration::from_secs(5);

#[test]
fn a_service_without_replicas_refuses_at_once() {
    scenario(3, |topology| {
        let first = topology.host(0);
        first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        first.weft_ok("service create web --network blue --publish 80:8080 --publish 5300:8080/udp")?;
        for host in topology.hosts() {
            topology.wait_known(host, "service", "web")?;
        }
        let asker = topology.host(2).attach("blue", "asker", "")?;
        let vip = topology.vip("web", 8080)?;
        refused_everywhere(topology, asker.netns(), vip).context("before the first replica")?;

        let replica = topology.host(1).serve("blue", "web-1", "--service web", 8080)?;
        for host in topology.hosts() {
            for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 5300)] {
                let what = format!("{protocol:?} at {} with a replica", host.name());
                let answer = wait_until(what, CONVERGE_BOUND, || {
                    topology.client().enter(|| protocol.ask(host.at(port), AT_ONCE))
                })?;
                ensure!(answer.replica == "web-1", "{answer:?}");
            }
        }

        topology.host(1).weft_ok("detach web-1")?;
        drop(replica);
        refused_everywhere(topology, asker.netns(), vip).context("after the last replica")
    });
}

/// The range for VIPs has a route into the tunnel, so what nobody has there would be lost on it.
#[test]
fn an_address_that_no_service_has_is_refused_at_once() {
    scenario(2, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16 --subnet fd00:42::/64")?;
        topology.host(0).weft_ok("service create web --network blue")?;
        let host = topology.host(1);
        topology.wait_known(host, "service", "web")?;
        let asker = host.attach("blue", "asker", "")?;
        let row = host.weft_json("service inspect web")?;
        let vips = row["vips"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
        let vips = vips.map(str::parse).collect::<Result<Vec<IpAddr>, _>>()?;
        ensure!(vips.len() == 2, "{vips:?}");
        for vip in vips {
            let unused: IpAddr = match vip {
                IpAddr::V4(vip) => Ipv4Addr::from_bits(vip.to_bits() + 77).into(),
                IpAddr::V6(vip) => Ipv6Addr::from_bits(vip.to_bits() + 77).into(),
            };
            let (container, host) = (asker.netns(), host.netns());
            // A packet that is rejected where it leaves its own host fails the call that sends it: EPERM.
            for (protocol, from, kind) in [
                (Protocol::Tcp, container, ErrorKind::ConnectionRefused),
                (Protocol::Udp, container, ErrorKind::ConnectionRefused),
                (Protocol::Tcp, host, ErrorKind::ConnectionRefused),
                (Protocol::Udp, host, ErrorKind::PermissionDenied),
            ] {
                let server = SocketAddr::new(unused, 8080);
                fails_at_once(from, protocol, server, kind)
                    .with_context(|| format!("{protocol:?} from {}", from.name()))?;
            }
        }
        Ok(())
    });
}

fn refused_everywhere(topology: &Topology, container: &Netns, vip: SocketAddr) -> Result<()> {
    for host in topology.hosts() {
        for (protocol, port) in [(Protocol::Tcp, 80), (Protocol::Udp, 5300)] {
            let what = format!("{protocol:?} is refused at {}", host.name());
            wait_until(what, CONVERGE_BOUND, || refused(topology.client(), protocol, host.at(port)))?;
            // Once it is refused it stays refused: no other answer and no silence in between.
            for _ in 0..protocol.repeats() {
                refused(topology.client(), protocol, host.at(port))?;
            }
        }
    }
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let what = format!("{protocol:?} at the VIP {vip} is refused from a container");
        wait_until(what, CONVERGE_BOUND, || refused(container, protocol, vip))?;
    }
    Ok(())
}

/// The refusal as the client's kernel tells it: ECONNREFUSED stands for a RST (tcp(7)) or for an ICMP port unreachable
/// (udp(7)), and for nothing else.
fn refused(from: &Netns, protocol: Protocol, server: SocketAddr) -> Result<()> {
    fails_at_once(from, protocol, server, ErrorKind::ConnectionRefused)
}

fn fails_at_once(from: &Netns, protocol: Protocol, server: SocketAddr, wanted: ErrorKind) -> Result<()> {
    from.enter(|| {
        let begun = Instant::now();
        let error = match protocol.ask(server, SILENCE_BOUND) {
            Ok(answer) => bail!("{server} answered: {answer:?}"),
            Err(error) => error,
        };
        let took = begun.elapsed();
        let kind = error.chain().find_map(|cause| cause.downcast_ref::<std::io::Error>()).map(std::io::Error::kind);
        ensure!(kind == Some(wanted), "{server}: no {wanted} but: {error:#}");
        ensure!(took < AT_ONCE, "{server} refused after {} ms", took.as_millis());
        Ok(())
    })
}

#[derive(Debug, Clone, Copy)]
enum Protocol {
    Tcp,
    Udp,
}

impl Protocol {
    /// How often a refusal is asked for again. A kernel sends one host six ICMP errors in a row and then one a second
    /// (icmp(7), `icmp_ratelimit`; RFC 1812, 4.3.2.8 asks for such a limit); RSTs have none.
    fn repeats(self) -> usize {
        match self {
            Self::Tcp => 50,
            Self::Udp => 2,
        }
    }

    fn ask(self, server: SocketAddr, timeout: Duration) -> Result<Answer> {
        match self {
            Self::Tcp => ask(server, timeout),
            Self::Udp => ask_udp(server, timeout),
        }
    }
}
