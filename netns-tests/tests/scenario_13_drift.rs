//! Scenario 13: somebody else damages weft's part of the kernel. Within 2 s everything is as it was, the drift metric has
//! counted it, traffic passes again, and what is not weft's has not been touched.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use netns_tests::{Host, scenario, testkit::ask, wait_until};

/// The bound that the scenario sets.
const HEAL_BOUND: Duration = Duration::from_secs(2);

/// Until a counter that the healing pass raises is read after it.
const COUNT_BOUND: Duration = Duration::from_secs(1);

/// What is done, as commands in the host's namespace.
const DAMAGE: &[(&str, &str)] = &[
    ("the table is deleted", "nft delete table inet weft"),
    ("a chain is emptied", "nft flush chain inet weft {chain}"),
    ("the limit on segments is taken away", "nft flush chain inet weft clamp_mss"),
    ("the way into the tunnel is emptied", "nft flush chain inet weft to_tunnel"),
    ("replicas cannot reach themselves any more", "nft flush set inet weft hairpin4"),
    ("clients have no replica to come back to", "nft flush map inet weft takers4"),
    ("ports of one address are not answered", "nft flush map inet weft bound4"),
    ("the tunnel device is deleted", "ip link del weft.vx"),
    ("the tunnel device is set down", "ip link set weft.vx down"),
    ("weft's routes are flushed", "ip route flush table all proto 77"),
    ("weft's rules are flushed", "ip rule flush protocol 77"),
    ("an FDB entry is deleted", "bridge fdb del {mac} dev weft.vx dst {peer}"),
    ("a foreign FDB entry is added", "bridge fdb append 02:de:ad:be:ef:01 dev weft.vx dst 192.0.2.99"),
    ("an FDB entry is led astray", "bridge fdb replace {mac} dev weft.vx dst 192.0.2.99"),
    ("the neighbours are flushed", "ip neigh flush dev weft.vx nud permanent"),
    // Last, because it takes the foreign table with it.
    ("the whole rule set is flushed", "nft flush ruleset"),
];

#[test]
fn damage_heals_within_two_seconds_and_foreign_things_stay() {
    scenario(3, |topology| {
        let _replicas = topology.web(5)?;
        let host = topology.host(1);
        let words = format!("--publish {}:8090:8080 --affinity 60s", host.address());
        host.weft_ok(&format!("service create kept --network blue {words}"))?;
        let _kept = host.serve("blue", "kept-1", "--service kept", 8080)?;
        wait_until("the bound port answers", HEAL_BOUND, || {
            topology.client().enter(|| ask(host.at(8090), Duration::from_secs(1)))
        })?;
        lay_foreign_things(host)?;
        let whole = host.kernel()?;
        let foreign = foreign_things(host)?;
        for (what, command) in DAMAGE {
            let command = fill_in(command, host, &topology.host(0).address().to_string())?;
            let drift = host.metric("drift")?;
            host.netns().exec(&command).with_context(|| format!("{what} (`{command}`)"))?;
            let begun = Instant::now();
            wait_until(format!("healed after {what} (`{command}`)"), HEAL_BOUND, || host.kernel()?.must_equal(&whole))?;
            eprintln!("{what}: healed in {} ms", begun.elapsed().as_millis());
            wait_until(format!("counted after {what} (`{command}`)"), COUNT_BOUND, || {
                let now = host.metric("drift")?;
                ensure!(now > drift, "the drift metric stays at {drift}");
                Ok(())
            })?;
            if *command != *"nft flush ruleset" {
                let now = foreign_things(host)?;
                ensure!(now == foreign, "after {what} the foreign things changed from\n{foreign}\nto\n{now}");
            }
            let answer = topology.client().enter(|| ask(host.at(80), Duration::from_secs(1)));
            answer.with_context(|| format!("traffic after {what}"))?;
        }
        topology.wait_balanced(80, &["web-1", "web-2", "web-3", "web-4", "web-5"])
    });
}

/// Things of other people, some of them close to ours: an nft table with the same hooks, a link, routes and rules of another
/// protocol, and a table number such as weft's.
fn lay_foreign_things(host: &Host) -> Result<()> {
    let netns = host.netns();
    for line in [
        "ip link add foreign0 type veth peer name foreign1",
        "ip link set foreign0 up",
        "ip route add 10.99.0.0/16 dev eth0 proto static",
        "ip route add 10.98.0.0/16 dev eth0 proto static table 4242",
        "ip rule add fwmark 0x7 lookup 4242 priority 50 protocol static",
        "ip neigh add 192.0.2.200 lladdr 02:00:00:00:00:c8 dev eth0 nud permanent",
        "nft add table inet foreign",
        "nft add chain inet foreign pre { type filter hook prerouting priority -10 ; }",
        "nft add rule inet foreign pre tcp dport 4242 drop",
    ] {
        netns.exec(line)?;
    }
    Ok(())
}

fn foreign_things(host: &Host) -> Result<String> {
    let netns = host.netns();
    let mut text = String::new();
    for line in [
        "ip -br link show foreign0",
        "ip route show proto static table all",
        "ip rule show priority 50",
        "ip neigh show dev eth0 nud permanent",
        "nft list table inet foreign",
    ] {
        text += &netns.exec(line)?;
    }
    Ok(text)
}

/// Puts what only the running host knows into a command: a chain of the table, the MAC of the first node's tunnel end.
fn fill_in(command: &str, host: &Host, peer: &str) -> Result<String> {
    let mut command = command.to_owned();
    if command.contains("{chain}") {
        let listing = host.netns().exec("nft list table inet weft")?;
        let chains = listing.lines().filter_map(|line| line.trim().strip_prefix("chain "));
        let service = chains.filter_map(|line| line.split_whitespace().next()).find(|name| name.starts_with("port_"));
        command = command.replace("{chain}", service.context("the table has no chain of a published port")?);
    }
    if command.contains("{mac}") {
        let listing = host.netns().exec("bridge fdb show dev weft.vx")?;
        let row = listing.lines().find(|row| row.contains(&format!("dst {peer} ")));
        let mac = row.and_then(|row| row.split_whitespace().next()).context("no FDB entry leads to the first node")?;
        command = command.replace("{mac}", mac);
    }
    Ok(command.replace("{peer}", peer))
}
