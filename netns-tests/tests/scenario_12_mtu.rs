//! Scenario 12, plain: an underlay of 1280, 1500 and 9000 bytes, of either family. What it carries is used and not more is
//! sent: transfers of some megabytes and datagrams of any size go through, between containers of two nodes and from a client
//! to a replica behind another node.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::{
    Container, Family, Ground, Topology, scenario_on,
    testkit::{Bulk, echo_datagram, transfer},
    wait_until,
};

const BYTES: u64 = 4 << 20;

/// Just over and under what each underlay and tunnel carries, and the largest there is over IPv4 less our headers.
const DATAGRAMS: [usize; 9] = [1, 1180, 1250, 1400, 1460, 1500, 8900, 9100, 60_000];

/// Each part of a way may cost one, until its size is known.
const TRIES: usize = 5;

/// IP and TCP headers (RFC 9293: no options are counted), and with timestamps (RFC 7323, 3.2).
fn headers(family: Family) -> u32 {
    match family {
        Family::V4 => 40,
        Family::V6 => 60,
    }
}

const TIMESTAMPS: u32 = 12;

#[test]
fn over_1280_bytes_of_ipv4() {
    carries(1280, Family::V4);
}

#[test]
fn over_1280_bytes_of_ipv6() {
    carries(1280, Family::V6);
}

#[test]
fn over_1500_bytes_of_ipv4() {
    carries(1500, Family::V4);
}

#[test]
fn over_1500_bytes_of_ipv6() {
    carries(1500, Family::V6);
}

#[test]
fn over_9000_bytes_of_ipv4() {
    carries(9000, Family::V4);
}

#[test]
fn over_9000_bytes_of_ipv6() {
    carries(9000, Family::V6);
}

fn carries(mtu: u32, underlay: Family) {
    scenario_on(Ground { hosts: 2, mtu, underlay }, |topology| {
        let overhead = if underlay == Family::V4 { 50 } else { 70 };
        let tunnel = mtu - overhead;
        let families: &[Family] = if tunnel < 1280 {
            ipv6_is_refused(topology, tunnel)?;
            &[Family::V4]
        } else {
            &Family::BOTH
        };
        let first = topology.host(0);
        let subnets =
            if families.len() == 2 { "--subnet 10.42.0.0/16 --subnet fd00:42::/64" } else { "--subnet 10.42.0.0/16" };
        first.weft_ok(&format!("network create blue {subnets}"))?;
        first.weft_ok("service create bulk --network blue --publish 90:9000 --publish 90:9000/udp")?;
        topology.wait_known(topology.host(1), "service", "bulk")?;
        let asker = first.attach("blue", "asker", "")?;
        let far = topology.host(1).attach("blue", "far", "--service bulk")?;
        for container in [&asker, &far] {
            let link = container.netns().ip("-o link show eth0")?;
            ensure!(
                link.contains(&format!("mtu {tunnel} ")),
                "{} has another MTU than {tunnel}: {link}",
                container.name()
            );
        }
        let bulk = Bulk::start(far.netns(), 9000)?;
        for family in families {
            between_containers(*family, &asker, &far, tunnel)?;
            from_outside(*family, topology, tunnel)?;
        }
        drop(bulk);
        Ok(())
    });
}

fn between_containers(family: Family, asker: &Container, far: &Container, tunnel: u32) -> Result<()> {
    let server = std::net::SocketAddr::new(far.address_of(family)?, 9000);
    wait_until(format!("{server} answers"), Duration::from_secs(5), || {
        asker.netns().enter(|| echo_datagram(server, 1, 1))
    })?;
    asker.netns().enter(|| {
        let done = transfer(server, BYTES)?;
        let most = tunnel - headers(family);
        for mss in [done.mss_first, done.mss_last] {
            ensure!(mss == most || mss == most - TIMESTAMPS, "segments of {mss} bytes where {most} fit to {server}");
        }
        DATAGRAMS.iter().try_for_each(|size| echo_datagram(server, *size, TRIES))
    })
}

/// By the first node, whose replica is on the other: the client's own link carries more than the tunnel.
fn from_outside(family: Family, topology: &Topology, tunnel: u32) -> Result<()> {
    let server = topology.host(0).door(family, 90);
    wait_until(format!("{server} answers"), Duration::from_secs(10), || {
        topology.client().enter(|| echo_datagram(server, 1, 1))
    })?;
    topology.client().enter(|| {
        let done = transfer(server, BYTES)?;
        let most = tunnel - headers(family);
        ensure!(done.mss_first <= most, "segments of {} bytes to {server}, the tunnel takes {most}", done.mss_first);
        ensure!(done.mss_first + TIMESTAMPS >= most, "segments of {} bytes only to {server}", done.mss_first);
        DATAGRAMS
            .iter()
            .try_for_each(|size| echo_datagram(server, *size, TRIES).with_context(|| format!("by {family:?}")))
    })
}

/// Less than IPv6 can live on is left: said at once, with the number that is needed.
fn ipv6_is_refused(topology: &Topology, tunnel: u32) -> Result<()> {
    for words in ["--ipv6", "--subnet fd00:42::/64"] {
        let run = topology.host(0).weft(&format!("network create six {words}"))?;
        let error = run.stderr.trim();
        ensure!(!run.status.success() && error.contains(&format!("carries {tunnel} bytes")), "{words}: {error}");
        ensure!(error.contains("needs 1280") && error.contains("hint:"), "{words}: {error}");
    }
    ensure!(topology.host(0).weft_rows("network ls")?.is_empty(), "a network was half made");
    Ok(())
}
