//! Scenario 16, as far as this release goes: a published port is reached from outside, from every node by its own and by every
//! other node's address, and from containers on every node by every node's address and by the VIP; whatever reverse-path
//! filter the hosts run. (127.0.0.1, `[::1]` and a replica that calls itself come with the whole mesh.)

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use netns_tests::{Netns, Topology, scenario, testkit::ask, wait_until};

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
