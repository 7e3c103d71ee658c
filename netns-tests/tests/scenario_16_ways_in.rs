//! Scenario 16, as far as this release goes: a published port is reached from outside, from every node by its own and by every
//! other node's address, and from containers on every node by every node's address and by the VIP; whatever reverse-path
//! filter the hosts run. (127.0.0.1, `[::1]` and a replica that calls itself come with the whole mesh.)

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::{Container, Family, Host, Netns, Topology, scenario, testkit::ask, wait_until};

/// A request takes a millisecond; a packet that is dropped on its way costs a second at least.
const REQUEST_BOUND: Duration = Duration::from_millis(900);

/// From a kernel setting to the pass that answers it.
const CONVERGE_BOUND: Duration = Duration::from_secs(12);

/// Two rounds over the five replicas, so that each is met on each way.
const REQUESTS: usize = 10;

#[test]
fn a_published_port_is_reached_from_everywhere() {
    scenario(3, |topology| {
        let _replicas = topology.web(5)?;
        let askers = topology.hosts().iter().map(|host| host.attach("blue", &format!("asker-{}", host.name()), ""));
        let askers = askers.collect::<Result<Vec<_>>>()?;
        // 0 off, 1 strict, 2 loose: distributions differ, and the kernel takes the greater of this and the device's.
        for rp_filter in ["0", "2", "1"] {
            for host in topology.hosts() {
                host.netns().sysctl("net/ipv4/conf/all/rp_filter", rp_filter)?;
            }
            let wanted = if rp_filter == "0" { "0" } else { "2" };
            for host in topology.hosts() {
                wait_until(format!("{} follows all.rp_filter={rp_filter}", host.name()), CONVERGE_BOUND, || {
                    let setting = host.netns().exec("sysctl -n net/ipv4/conf/weft.vx/rp_filter")?;
                    ensure!(setting.trim() == wanted, "it is {setting}");
                    Ok(())
                })?;
            }
            for (host, asker) in topology.hosts().iter().zip(&askers) {
                let name = host.name();
                everybody(topology, topology.client()).with_context(|| format!("client, all.rp_filter={rp_filter}"))?;
                everybody(topology, host.netns()).with_context(|| format!("{name}, all.rp_filter={rp_filter}"))?;
                everybody(topology, asker.netns())
                    .with_context(|| format!("a container on {name}, all.rp_filter={rp_filter}"))?;
                let vip = topology.vip("web", 8080)?;
                requests(asker.netns(), vip)
                    .with_context(|| format!("the VIP from {name}, all.rp_filter={rp_filter}"))?;
            }
        }
        Ok(())
    });
}

/// Of five requests of a replica one comes back to itself, and only that one has its source translated.
#[test]
fn a_replica_reaches_itself_by_every_door() {
    scenario(2, |topology| {
        let replicas = topology.web(5)?;
        let vip = topology.vip("web", 8080)?;
        for replica in &replicas {
            for to in topology.hosts().iter().map(|host| host.at(80)).chain([vip]) {
                let mut own = 0;
                for turn in 0..REQUESTS {
                    let answer = replica
                        .netns()
                        .enter(|| ask(to, REQUEST_BOUND))
                        .with_context(|| format!("{} asks {to}, request {turn}", replica.name()))?;
                    let is_own = answer.replica == replica.name();
                    let seen = answer.client.ip().to_canonical();
                    let is_translated = seen == std::net::Ipv4Addr::new(169, 254, 1, 1);
                    ensure!(is_own == is_translated, "{} asks {to}: {answer:?}", replica.name());
                    own += usize::from(is_own);
                }
                ensure!(own == 2, "{} asks {to}: itself {own} times of {REQUESTS}", replica.name());
            }
        }
        Ok(())
    });
}

/// The cluster is over IPv4, and the hosts have IPv6 addresses too: who asks for one of them is served as at the advertised one.
/// By way of the node that has it, a replica on the asker's own host would answer the host itself, which knows nothing of it.
#[test]
fn a_node_is_asked_at_an_address_that_it_does_not_advertise() {
    scenario(2, |topology| {
        let replicas = topology.web_in(&Family::BOTH, 4)?;
        let askers = topology.hosts().iter().map(|host| host.attach("blue", &format!("asker-{}", host.name()), ""));
        let askers = askers.collect::<Result<Vec<_>>>()?;
        for (host, other) in [(0, 1), (1, 0)] {
            known(topology.host(host), topology.host(other), topology.host(other).address6(), true)?;
            let to = topology.host(other).door(Family::V6, 80);
            let name = topology.host(host).name();
            every_replica(topology.host(host).netns(), to, &replicas).with_context(|| name.to_owned())?;
            every_replica(askers[host].netns(), to, &replicas).with_context(|| format!("a container on {name}"))?;
        }
        for host in topology.hosts() {
            let rows = host.weft_rows("service ps web")?;
            let balanced = rows.iter().filter(|row| row["balanced"] == true).count();
            ensure!(balanced == replicas.len(), "{}: {rows:?}", host.name());
        }
        Ok(())
    });
}

/// Addresses come and go while the agents run, and the others hear of it.
#[test]
fn a_node_is_asked_at_an_address_that_it_is_given_later() {
    scenario(2, |topology| {
        let replicas = topology.web(4)?;
        let (host, other) = (topology.host(0), topology.host(1));
        host.weft_ok("service create bound --network blue --publish 198.51.100.2:81:8080")?;
        warned(host, true)?;
        host.netns().ip("route add 198.51.100.0/24 dev eth0")?;
        other.netns().ip("addr add 198.51.100.2/24 dev eth0")?;
        let later = "198.51.100.2".parse()?;
        known(host, other, later, true)?;
        warned(host, false)?;
        every_replica(host.netns(), std::net::SocketAddr::new(later, 80), &replicas)?;
        other.netns().ip("addr del 198.51.100.2/24 dev eth0")?;
        known(host, other, later, false)
    });
}

/// Whether the status names the port that is published at an address that no node has.
fn warned(host: &Host, wanted: bool) -> Result<()> {
    wait_until(format!("a warning: {wanted}"), CONVERGE_BOUND, || {
        let warnings = host.weft_json("status")?["warnings"].to_string();
        let warning = "the service bound publishes 198.51.100.2:81/tcp, but no live node has the address";
        ensure!(warnings.contains(warning) == wanted, "{warnings}");
        Ok(())
    })
}

/// Waits until the kernel of `host` takes an address for another node's, or no longer does.
fn known(host: &Host, other: &Host, address: std::net::IpAddr, wanted: bool) -> Result<()> {
    let family = Family::of(address);
    let set = if family == Family::V4 { "nodes4" } else { "nodes6" };
    wait_until(format!("{} knows {address}: {wanted}", host.name()), CONVERGE_BOUND, || {
        let told = host.weft_json(&format!("node inspect {}", other.name()))?;
        let is_told = told["addresses"].as_array().is_some_and(|all| all.contains(&address.to_string().into()));
        ensure!(is_told == wanted, "{told}");
        let listed = host.netns().exec(&format!("nft list set inet weft {set}"))?;
        ensure!(listed.contains(&format!("{address}")) == wanted, "{listed}");
        Ok(())
    })
}

/// As many requests as make ten rounds: each is answered, and every replica has its share.
fn every_replica(from: &Netns, to: std::net::SocketAddr, replicas: &[Container]) -> Result<()> {
    let mut answers = std::collections::BTreeMap::<String, usize>::new();
    from.enter(|| {
        for turn in 0..REQUESTS * replicas.len() {
            let answer =
                ask(to, REQUEST_BOUND).with_context(|| format!("request {turn} to {to}; before: {answers:?}"))?;
            *answers.entry(answer.replica).or_default() += 1;
        }
        Ok(())
    })?;
    let is_even = replicas.iter().all(|replica| answers.get(replica.name()) == Some(&REQUESTS));
    ensure!(is_even, "{answers:?}");
    Ok(())
}

fn everybody(topology: &Topology, from: &Netns) -> Result<()> {
    topology
        .hosts()
        .iter()
        .try_for_each(|host| requests(from, host.at(80)).with_context(|| format!("to {}", host.name())))
}

fn requests(from: &Netns, to: std::net::SocketAddr) -> Result<()> {
    from.enter(|| {
        for turn in 0..REQUESTS {
            ask(to, REQUEST_BOUND).with_context(|| format!("request {turn}"))?;
        }
        Ok(())
    })
}
