//! What IPv6 asks of a host and of containers: default routes by router advertisement survive forwarding, containers whose
//! engine has turned IPv6 off get it on our device, addresses are chosen or wished for in either family, and who is
//! refused hears so although the host has no IPv6 of its own.

use std::{
    net::{IpAddr, SocketAddr},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use netns_tests::{
    Family, Host, Netns, Topology, scenario,
    testkit::{ask, ask_udp},
    wait_until,
};

const BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_host_that_begins_to_forward_ipv6_keeps_heeding_router_advertisements() {
    scenario(2, |topology| {
        let read = |host: &Host, key: &str| host.netns().exec(&format!("cat /proc/sys/net/ipv6/conf/{key}"));
        for host in topology.hosts() {
            host.netns().ip("link add strict type bridge")?;
            host.netns().sysctl("net/ipv6/conf/strict/accept_ra", "0")?;
            ensure!(read(host, "eth0/accept_ra")?.trim() == "1" && read(host, "all/forwarding")?.trim() == "0");
            // As if a router had said so: RTPROT_RA, which forwarding would throw away.
            host.netns().ip("-6 route add default via 2001:db8::1 dev eth0 proto ra")?;
        }
        topology.host(0).weft_ok("network create four --subnet 10.42.0.0/16")?;
        ensure!(read(topology.host(0), "all/forwarding")?.trim() == "0", "IPv4 alone turns no IPv6 forwarding on");
        topology.host(0).weft_ok("network create both --ipv6")?;
        for host in topology.hosts() {
            wait_until(format!("{} forwards IPv6", host.name()), BOUND, || {
                ensure!(read(host, "all/forwarding")?.trim() == "1");
                Ok(())
            })?;
            ensure!(read(host, "eth0/accept_ra")?.trim() == "2", "a default route would be lost");
            ensure!(read(host, "strict/accept_ra")?.trim() == "0", "what heeded none heeds none");
        }
        Ok(())
    });
}

#[test]
fn addresses_of_either_family_can_be_wished_for() {
    scenario(2, |topology| {
        let host = topology.host(0);
        host.weft_ok("network create both --subnet 10.42.0.0/24 --subnet fd00:42::/64")?;
        for (name, wish) in [("four", "10.42.0.77"), ("six", "fd00:42::77")] {
            let container = host.attach("both", name, &format!("--ip {wish}"))?;
            let wished: IpAddr = wish.parse()?;
            ensure!(container.address_of(Family::of(wished))? == wished);
            for family in Family::BOTH {
                container.address_of(family)?;
            }
        }
        let refused = host.weft("network create more --subnet fd00:1::/64 --subnet fd00:2::/64")?;
        ensure!(refused.stderr.contains("one subnet of each family"), "{}", refused.stderr);
        let again = host.weft_ok("network create both --subnet fd00:42::/64 --subnet 10.42.0.0/24")?;
        ensure!(again.contains("already exists"), "{again}");
        let other = host.weft("network create both")?;
        ensure!(other.stderr.contains("IPv4 and IPv6"), "{}", other.stderr);
        let pools = host.weft_ok("network create auto --ipv6")?;
        ensure!(pools.contains("10.201.0.0/24") && pools.contains("fd"), "{pools}");
        Ok(())
    });
}

/// Hosts with IPv4 alone: nothing but weft gives them an IPv6 address.
#[test]
fn containers_have_ipv6_on_hosts_without() {
    scenario(2, |topology| {
        for host in topology.hosts() {
            host.netns().ip("-6 addr flush dev eth0")?;
        }
        let first = topology.host(0);
        first.weft_ok("network create both --subnet 10.42.0.0/16 --subnet fd00:42::/64")?;
        first.weft_ok("service create empty --network both")?;
        first.weft_ok("service create web --network both")?;
        topology.wait_known(topology.host(1), "service", "web")?;
        let askers = topology.hosts().iter().map(|host| without_ipv6(host, &format!("asker-{}", host.name())));
        let askers = askers.collect::<Result<Vec<_>>>()?;
        let replica = topology.host(1).serve("both", "web-1", "--service web", 8080)?;
        for asker in &askers {
            for family in Family::BOTH {
                let own = address(topology, asker, family)?;
                for server in [SocketAddr::new(replica.address_of(family)?, 8080), vip(topology, "web", family)?] {
                    wait_until(format!("{server} answers"), BOUND, || {
                        asker.enter(|| {
                            let answers = [ask(server, BOUND)?, ask_udp(server, BOUND)?];
                            ensure!(answers.iter().all(|answer| answer.client.ip() == own), "{answers:?} for {own}");
                            Ok(())
                        })
                    })?;
                }
                // Nobody there: said at once, by an address that the container can hear from.
                let nobody = vip(topology, "empty", family)?;
                wait_until(format!("{nobody} refuses"), BOUND, || {
                    asker.enter(|| {
                        let begun = Instant::now();
                        ensure!(ask(nobody, BOUND).is_err() && ask_udp(nobody, BOUND).is_err(), "{nobody} answers");
                        ensure!(begun.elapsed() < Duration::from_secs(2), "{nobody} is silent: {:?}", begun.elapsed());
                        Ok(())
                    })
                })?;
            }
        }
        Ok(())
    });
}

/// A container as Docker makes them for IPv4 networks.
fn without_ipv6(host: &Host, name: &str) -> Result<Netns> {
    let netns = Netns::create(format!("{}-{name}", host.netns().name()))?;
    for scope in ["all", "default"] {
        netns.sysctl(&format!("net/ipv6/conf/{scope}/disable_ipv6"), "1")?;
    }
    host.weft_ok(&format!("attach --netns {} --network both --name {name}", netns.path().display()))?;
    Ok(netns)
}

fn address(topology: &Topology, asker: &Netns, family: Family) -> Result<IpAddr> {
    let name = asker.name().rsplit_once("asker").map(|(_, rest)| format!("asker{rest}")).unwrap_or_default();
    let row = topology.host(0).weft_json(&format!("endpoint inspect both/{name}"))?;
    let words = row["addresses"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    let mut found = words.filter_map(|word| word.split('/').next()?.parse().ok());
    found.find(|address| Family::of(*address) == family).ok_or_else(|| anyhow!("{name} has no address: {row}"))
}

fn vip(topology: &Topology, service: &str, family: Family) -> Result<SocketAddr> {
    let row = topology.host(0).weft_json(&format!("service inspect {service}"))?;
    let vips = row["vips"].as_array().into_iter().flatten().filter_map(serde_json::Value::as_str);
    let mut vips = vips.filter_map(|word| word.parse().ok());
    let vip: Option<IpAddr> = vips.find(|vip| Family::of(*vip) == family);
    Ok(SocketAddr::new(vip.ok_or_else(|| anyhow!("no VIP: {row}"))?, 8080))
}
