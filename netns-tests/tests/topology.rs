//! The ground that the scenarios stand on: without it, a failing scenario says nothing about weft.

use std::{net::SocketAddr, process::Command, time::Duration};

use anyhow::Result;
use netns_tests::{
    CLIENT, CLIENT6, KernelView, Machine, Process, Topology,
    testkit::{Hold, Load, ask, ask_udp},
    wait_until,
};

const BOUND: Duration = Duration::from_secs(5);

fn replica(topology: &Topology) -> Result<Process> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weft-testkit"));
    command.args(["serve", "8080", "r1"]);
    topology.host(1).netns().start("the replica r1", command)
}

#[test]
fn a_topology_connects_its_hosts_and_leaves_nothing() -> Result<()> {
    let before = Machine::look()?;
    let topology = Topology::new(2, 1400)?;
    let (v4, v6) = (topology.host(1).at(8080), SocketAddr::new(topology.host(1).address6(), 8080));
    let program = replica(&topology)?;
    let pid = program.pid();
    wait_until("the replica answers", BOUND, || topology.client().enter(|| ask(v4, BOUND)))?;
    topology.client().enter(|| {
        for (server, client) in [(v4, CLIENT.into()), (v6, CLIENT6.into())] {
            let (tcp, udp) = (ask(server, BOUND)?, ask_udp(server, BOUND)?);
            assert_eq!((tcp.replica.as_str(), tcp.client.ip()), ("r1", client));
            assert_eq!((udp.replica.as_str(), udp.client.ip()), ("r1", client));
        }
        Ok(())
    })?;
    assert!(topology.host(0).netns().ip("link show eth0")?.contains("mtu 1400"));
    let there = Machine::look()?.left_since(&before);
    for kind in ["namespace", "folder", "process"] {
        assert!(there.iter().any(|thing| thing.starts_with(kind)), "no {kind} among {there:?}");
    }
    drop(program);
    drop(topology);
    let left = Machine::look()?.left_since(&before);
    assert!(left.is_empty(), "{left:?}");
    assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
    Ok(())
}

#[test]
fn load_and_held_connections_count_what_is_lost() -> Result<()> {
    let topology = Topology::new(2, 1500)?;
    let server = topology.host(1).at(8080);
    let program = replica(&topology)?;
    wait_until("the replica answers", BOUND, || topology.client().enter(|| ask(server, BOUND)))?;
    let load = Load::start(topology.client(), vec![server], 200)?;
    let hold = Hold::start(topology.client(), &[server], 3)?;
    wait_until("200 requests and 30 lines", BOUND, || {
        anyhow::ensure!(load.so_far().requests >= 200 && hold.exchanges() >= 30, "{:?}", load.so_far());
        Ok(())
    })?;
    assert_eq!(load.so_far().failed, 0, "{:?}", load.so_far());
    program.kill();
    wait_until("failures are seen", BOUND, || {
        anyhow::ensure!(load.so_far().failed > 0, "none yet");
        Ok(())
    })?;
    let (load, hold) = (load.stop()?, hold.stop());
    assert_eq!(load.replicas.keys().collect::<Vec<_>>(), ["r1"]);
    assert_eq!((hold.connections, hold.broken.len()), (3, 3), "{hold:?}");
    Ok(())
}

#[test]
fn the_kernel_view_sees_what_is_weft_s_and_nothing_else() -> Result<()> {
    let topology = Topology::new(1, 1500)?;
    let netns = topology.host(0).netns();
    netns.ip("route add 10.1.0.0/16 dev eth0")?;
    netns.ip("rule add fwmark 7 lookup 100")?;
    netns.exec("nft add table inet foreign")?;
    let before = KernelView::of(netns)?;
    assert!(before.is_empty(), "{before:?}");

    netns.ip("link add weft.vx type vxlan id 7 dstport 7789 local 192.0.2.11 nolearning")?;
    netns.ip("link set weft.vx up")?;
    netns.exec("bridge fdb append 02:00:00:00:00:02 dev weft.vx dst 192.0.2.12")?;
    netns.ip("neigh replace 10.2.0.1 lladdr 02:00:00:00:00:02 dev weft.vx nud permanent")?;
    netns.ip("route add 10.2.0.0/16 dev weft.vx proto 77")?;
    netns.ip("route add 10.3.0.0/16 dev weft.vx proto 77 table 1002")?;
    netns.ip("rule add fwmark 9 lookup 1002 protocol 77")?;
    netns.exec("nft add table inet weft")?;
    netns.exec("nft add set inet weft s { type ipv4_addr ; }")?;
    netns.exec("nft add element inet weft s { 10.0.0.1, 10.0.0.2 }")?;
    let full = KernelView::of(netns)?;
    for (kind, count) in
        [("link", 1), ("fdb", 1), ("neighbour", 1), ("route -4", 2), ("rule -4", 1), ("nft element", 2)]
    {
        assert_eq!(full.only(kind).len(), count, "{kind}: {full:?}");
    }
    netns.exec("nft delete element inet weft s { 10.0.0.2 }")?;
    let less = KernelView::of(netns)?.must_equal(&full).expect_err("an element is missing");
    assert!(less.to_string().contains("10.0.0.2") && less.to_string().contains("1 rows"), "{less}");
    Ok(())
}
