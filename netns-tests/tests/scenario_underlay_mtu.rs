//! The way between the nodes carries less, then more: the tunnel and both sides of every container's pair follow, each
//! pair stays the one it was, and no established connection breaks.

use std::time::Duration;

use anyhow::{Result, ensure};
use netns_tests::{
    Container, Family, Host, Topology, scenario,
    testkit::{self, Hold},
    wait_until,
};

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

/// A route says what the device does not know: a VPN or a cloud's gateway that carries less. And where too little is left for IPv6
/// it is said, and IPv4 goes on.
#[test]
fn a_route_of_less_is_followed_and_ipv6_is_missed_aloud() {
    scenario(2, |topology| {
        let replicas = topology.web_in(&[Family::V4, Family::V6], 2)?;
        let servers: Vec<_> = topology.hosts().iter().map(|host| host.at(80)).collect();
        for (mtu, has_ipv6) in [(1400, true), (1300, false), (1450, true)] {
            for host in topology.hosts() {
                host.netns().ip(&format!("route replace 192.0.2.0/24 dev eth0 mtu {mtu}"))?;
            }
            wait_until(format!("the tunnels follow a route of {mtu} bytes"), FOLLOW_BOUND, || {
                for host in topology.hosts() {
                    let tunnel = links(host)?.into_iter().find(|(name, ..)| name == "weft.vx");
                    ensure!(tunnel.is_some_and(|(_, _, found)| found == mtu - OVERHEAD));
                    let status = host.weft_ok("status")?;
                    ensure!(status.contains("networks with IPv6 do not work on this node") != has_ipv6, "{status}");
                }
                Ok(())
            })?;
            for (host, server) in topology.hosts().iter().zip(&servers) {
                wait_until(format!("{} answers at {mtu}", host.name()), TRAFFIC_BOUND, || {
                    let ask = |server| topology.client().enter(|| testkit::ask(server, Duration::from_secs(1)));
                    ask(*server)?;
                    if has_ipv6 { ask(host.door(Family::V6, 80)).map(drop) } else { Ok(()) }
                })?;
            }
        }
        drop(replicas);
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
