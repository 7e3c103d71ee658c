//! A cluster whose store is Consul: it forms, balances, drains with every node's word, sits out an outage of Consul, and misses an agent
//! that died.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use netns_tests::{CLIENT, Container, Ground, Machine, Process, Topology, wait_until};

/// From Consul's start to a leader, and from then to agents that have found it again: they ask every 5 s at least.
const CONSUL_BOUND: Duration = Duration::from_mins(1);

/// From an agent's death to everybody's knowledge: Consul takes up to 20 s for a lease of 10 s.
const MISSED_BOUND: Duration = Duration::from_secs(40);

#[test]
fn a_cluster_on_consul() -> Result<()> {
    let before = Machine::look()?;
    let outcome = on_consul();
    let left = Machine::look()?.left_since(&before);
    outcome?;
    ensure!(left.is_empty(), "the scenario left behind: {left:?}");
    Ok(())
}

fn on_consul() -> Result<()> {
    let mut topology = Topology::lay(Ground::of(3))?;
    let consul = start_consul(&topology)?;
    for host in topology.hosts_mut() {
        host.start_agent()?;
    }
    wait_until("a cluster", CONSUL_BOUND, || {
        topology.host(0).weft_ok(&format!("init --store consul://{CLIENT}:8500/team"))
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

    drop(consul);
    let refused = topology.host(1).weft("network create red --subnet 10.43.0.0/16")?;
    ensure!(!refused.status.success() && refused.stderr.contains("consul://"), "{refused:?}");
    topology.wait_balanced(80, &names[1..])?;
    let _consul = start_consul(&topology)?;
    wait_until("a network", CONSUL_BOUND, || topology.host(1).weft_ok("network create red --subnet 10.43.0.0/16"))?;
    for host in topology.hosts() {
        wait_until(format!("{} knows it", host.name()), CONSUL_BOUND, || host.weft_ok("network inspect red"))?;
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
fn start_consul(topology: &Topology) -> Result<Process> {
    let log = fs::File::create(topology.folder().join("consul.log"))?;
    let mut command = Command::new(program()?);
    command
        .args(["agent", "-server", "-bootstrap-expect=1"])
        .args([format!("-bind={CLIENT}"), format!("-client={CLIENT}")])
        .arg("-data-dir")
        .arg(topology.folder().join("consul"))
        .args([
            "-hcl",
            "ports { dns = -1 serf_wan = -1 } disable_update_check = true performance { raft_multiplier = 1 }",
        ])
        .stdin(Stdio::null())
        .stdout(log)
        .stderr(Stdio::null());
    topology.client().start("consul", command)
}

/// Where `cargo xtask setup` puts it, or where the shell would find one.
fn program() -> Result<PathBuf> {
    let unpacked = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("tools/consul/usr/bin/consul");
    let path = env::var_os("PATH").unwrap_or_default();
    let installed: Vec<PathBuf> = env::split_paths(&path).map(|folder| folder.join("consul")).collect();
    let found = [unpacked].into_iter().chain(installed).find(|program| program.is_file());
    found.context("there is no `consul`: `cargo xtask setup` fetches it")
}
