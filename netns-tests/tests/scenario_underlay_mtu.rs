//! The way between the nodes carries less, then more: the tunnel and both sides of every container's pair follow, each
//! pair stays the one it was, and no established connection breaks.

use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::{Container, Host, Topology, scenario, testkit::Hold, wait_until};

/// The kernel tells the agent of the device; it need not wait for its next look, 10 s later.
const FOLLOW_BOUND: Duration = Duration::from_secs(5);

/// From one line of a connection to the next one's answer, several times over.
const TRAFFIC_BOUND: Duration = Duration::from_secs(5);

/// What VXLAN adds over IPv4.
const OVERHEAD: u64 = 50;

#[test]
fn links_follow_the_underlays_mtu_and_connections_go_on() {
    scenario(2, |topology| {
        let replicas = topology.web(4)?;
        let before = pairs(topology)?;
        ensure!(before.len() == replicas.len(), "{before:?}");
        let servers: Vec<_> = topology.hosts().iter().map(|host| host.at(80)).collect();
        let hold = Hold::start(topology.client(), &servers, 4)?;
        for mtu in [1400, 1500] {
            for host in topology.hosts() {
                host.netns().exec(&format!("ip link set eth0 mtu {mtu}"))?;
            }
            wait_until(format!("everything follows an underlay of {mtu} bytes"), FOLLOW_BOUND, || {
                topology.hosts().iter().try_for_each(|host| has_followed(host, mtu - OVERHEAD))?;
                replicas.iter().try_for_each(|replica| container_has_followed(replica, mtu - OVERHEAD))
            })?;
            ensure!(pairs(topology)? == before, "pairs were made anew: {before:?}, then {:?}", pairs(topology)?);
            let answered = hold.exchanges();
            wait_until("every connection goes on", TRAFFIC_BOUND, || {
                ensure!(hold.exchanges() > answered + 24, "only {} lines", hold.exchanges() - answered);
                Ok(())
            })?;
        }
        let report = hold.stop();
        ensure!(report.broken.is_empty(), "{} connections broke: {:?}", report.broken.len(), report.broken);
        Ok(())
    });
}

/// The host sides of all pairs: node, name and index, which is another one for a pair that was made anew.
fn pairs(topology: &Topology) -> Result<Vec<(String, String, u64)>> {
    let mut pairs = Vec::new();
    for host in topology.hosts() {
        for (name, index, _) in links(host)? {
            if name.starts_with("weft.") && name != "weft.vx" {
                pairs.push((host.name().to_owned(), name, index));
            }
        }
    }
    Ok(pairs)
}

fn has_followed(host: &Host, wanted: u64) -> Result<()> {
    for (name, _, mtu) in links(host)?.into_iter().filter(|(name, ..)| name.starts_with("weft.")) {
        ensure!(mtu == wanted, "{name} on {} has an MTU of {mtu} bytes", host.name());
    }
    Ok(())
}

fn container_has_followed(container: &Container, wanted: u64) -> Result<()> {
    let links = container.netns().exec("ip -j link show dev eth0")?;
    let links: serde_json::Value = serde_json::from_str(&links)?;
    ensure!(links[0]["mtu"] == wanted, "eth0 of {} has an MTU of {} bytes", container.name(), links[0]["mtu"]);
    Ok(())
}

/// Name, index and MTU of all devices.
fn links(host: &Host) -> Result<Vec<(String, u64, u64)>> {
    let links: Vec<serde_json::Value> = serde_json::from_str(&host.netns().exec("ip -j link show")?)?;
    let text = |link: &serde_json::Value| link["ifname"].as_str().unwrap_or_default().to_owned();
    let number = |link: &serde_json::Value, key: &str| link[key].as_u64().unwrap_or_default();
    Ok(links.iter().map(|link| (text(link), number(link, "ifindex"), number(link, "mtu"))).collect())
}
