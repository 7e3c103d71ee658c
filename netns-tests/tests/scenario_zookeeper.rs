//! A cluster whose store is ZooKeeper: it forms, balances, drains with every node's word, sits out an outage of ZooKeeper, and misses
//! an agent that died.

use std::{
    fs,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Result, ensure};
use netns_tests::{CLIENT, Container, Ground, Machine, Process, Topology, wait_until};

/// From ZooKeeper's start to serving, and from then to agents that have found it again.
const ZOOKEEPER_BOUND: Duration = Duration::from_mins(1);

/// From an agent's death to everybody's knowledge: a session of 10 s, and the server's clock counts in ticks.
const MISSED_BOUND: Duration = Duration::from_secs(30);

#[test]
fn a_cluster_on_zookeeper() -> Result<()> {
    let before = Machine::look()?;
    let outcome = on_zookeeper();
    let left = Machine::look()?.left_since(&before);
    outcome?;
    ensure!(left.is_empty(), "the scenario left behind: {left:?}");
    Ok(())
}

fn on_zookeeper() -> Result<()> {
    let mut topology = Topology::lay(Ground::of(3))?;
    let zookeeper = start_zookeeper(&topology)?;
    for host in topology.hosts_mut() {
        host.start_agent()?;
    }
    wait_until("a cluster", ZOOKEEPER_BOUND, || {
        topology.host(0).weft_ok(&format!("init --store zk://{CLIENT}:2181/team"))
    })?;
    let join = topology.join_words()?;
    for host in &topology.hosts()[1..] {
        host.weft_ok(&join)?;
    }
    topology.wait_ready()?;
    let replicas = topology.web(4)?;
    let names: Vec<&str> = replicas.iter().map(Container::name).collect();

    let drained = topology.host(1).weft_words(&["endpoint", "drain", names[0]])?;
    ensure!(drained.status.success() && drained.stderr.is_empty(), "{drained:?}");
    topology.wait_balanced(80, &names[1..])?;

    // An agent that is back within its lease's time is not missed, and has its sign of life again.
    topology.host_mut(2).kill_agent()?;
    topology.host_mut(2).start_agent()?;
    topology.wait_ready()?;

    drop(zookeeper);
    let refused = topology.host(1).weft("network create red --subnet 10.43.0.0/16")?;
    ensure!(!refused.status.success() && refused.stderr.contains("zk://"), "{refused:?}");
    topology.wait_balanced(80, &names[1..])?;
    let _zookeeper = start_zookeeper(&topology)?;
    wait_until("a network", ZOOKEEPER_BOUND, || topology.host(1).weft_ok("network create red --subnet 10.43.0.0/16"))?;
    for host in topology.hosts() {
        wait_until(format!("{} knows it", host.name()), ZOOKEEPER_BOUND, || host.weft_ok("network inspect red"))?;
    }
    topology.wait_ready()?;

    topology.host_mut(2).kill_agent()?;
    wait_until("h3 is missed", MISSED_BOUND, || {
        let rows = topology.host(0).weft_rows("node ls")?;
        let ready: Vec<_> = rows.iter().filter(|row| row["status"] == "ready").collect();
        ensure!(ready.len() == 2 && ready.iter().all(|row| row["name"] != "h3"), "{rows:?}");
        Ok(())
    })
}

/// A server in the client's namespace, with what an earlier one wrote.
fn start_zookeeper(topology: &Topology) -> Result<Process> {
    let folder = topology.folder();
    let configuration = folder.join("zoo.cfg");
    let data = folder.join("zookeeper");
    fs::write(
        &configuration,
        format!(
            "tickTime=2000\ndataDir={}\nclientPort=2181\nclientPortAddress={CLIENT}\nadmin.enableServer=false\n",
            data.display()
        ),
    )?;
    let mut command = Command::new("java");
    command
        .args(["-Xmx256m", "-cp", "/usr/share/java/zookeeper.jar"])
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(configuration)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    topology.client().start("zookeeper", command)
}
