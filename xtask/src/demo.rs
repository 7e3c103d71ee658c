//! weft on one bare machine: three hosts in namespaces, three real agents, one service, and requests at every front door.
//!
//! Needs root, the Rust toolchain and iproute2, nothing else. Everything lies in namespaces and one temporary folder that
//! [`Topology`] owns: the end of this task, a failure and Ctrl-C remove them all.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use netns_tests::{
    CLIENT, Host, Machine, Process, Topology, is_root,
    testkit::{Answer, ask},
    wait_until,
};

use crate::{
    progress::{paint, step},
    root,
    setup::on_path,
};

/// How many replicas the service has.
const REPLICAS: usize = 5;

/// Requests at each node's address: every replica answers twice.
const REQUESTS: usize = 2 * REPLICAS;

/// From `weft run` to an attached replica, and from SIGTERM to its end.
const REPLICA_BOUND: Duration = Duration::from_secs(15);

/// A request through the mesh takes well under a millisecond; a second tells that something is wrong.
const REQUEST_BOUND: Duration = Duration::from_secs(1);

/// `cargo xtask demo [--keep]`.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let keep = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => Keep::No,
        ["--keep"] => Keep::Yes,
        _ => bail!("usage: cargo xtask demo [--keep]"),
    };
    ensure!(is_root(), "the demo makes network namespaces and needs root: sudo -E env PATH=$PATH cargo xtask demo");
    ensure!(on_path("ip"), "the demo needs `ip` of iproute2: apt-get install iproute2");

    let begun = Instant::now();
    let before = Machine::look()?;
    println!("{}", paint("1", "weft demo: three hosts, one network, one front door"));
    step("build weft and the replicas' program (some minutes the first time)", build)?;
    let mut topology =
        step("three host namespaces and a client on one underlay, 192.0.2.0/24", || Topology::new(3, 1500))?;
    let outcome = lay(&mut topology).and_then(|replicas| {
        show(&topology)?;
        if keep == Keep::Yes {
            wait_for_the_end(&topology);
        }
        Ok(replicas)
    });
    if outcome.is_err() {
        for host in topology.hosts() {
            let tail = host.log_tail(15);
            eprintln!("\n{}\n{tail}", paint("1", &format!("the log of {} ends:", host.name())));
        }
    }
    let replicas = outcome?;
    step("stop the replicas: each is detached when its command ends", || {
        replicas.into_iter().try_for_each(|replica| replica.stop(REPLICA_BOUND).map(drop))
    })?;
    step("stop the agents, remove the namespaces", || {
        drop(topology);
        let left = Machine::look()?.left_since(&before);
        ensure!(left.is_empty(), "the demo left behind: {}", left.join(", "));
        Ok(())
    })?;
    println!("  all of it in {:.1} s, nothing left behind", begun.elapsed().as_secs_f64());
    Ok(())
}

/// Whether to leave everything up when the show is over.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Keep {
    No,
    Yes,
}

/// Builds the two programs into the folder that this task itself runs from.
fn build() -> Result<()> {
    let output = Command::new("cargo")
        .args(["build", "--package", "weft", "--package", "netns-tests", "--bins"])
        .current_dir(root())
        .stdin(Stdio::null())
        .output()
        .context("cargo cannot be run")?;
    ensure!(output.status.success(), "the build failed:\n{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// From empty hosts to a balanced service; the replicas run as long as what is returned.
fn lay(topology: &mut Topology) -> Result<Vec<Process>> {
    step("start an agent on each: h1, h2, h3", || topology.hosts_mut().iter_mut().try_for_each(Host::start_agent))?;
    let (first, others) = topology.hosts().split_first().context("a topology without hosts")?;
    step("h1: weft init", || first.weft_ok("init"))?;
    let join = topology.join_words()?;
    for host in others {
        let (command, _) = join.split_once(" --token").unwrap_or((&join, ""));
        step(&format!("{}: weft {command} --token …", host.name()), || host.weft_ok(&join))?;
    }
    step("every node sees every other", || topology.wait_ready())?;
    for line in ["network create blue --subnet 10.42.0.0/16", "service create web --network blue --publish 80:8080"] {
        step(&format!("h1: weft {line}"), || first.weft_ok(line))?;
    }
    let mut replicas = Vec::new();
    for number in 0..REPLICAS {
        let host = topology.host(number % topology.hosts().len());
        let name = format!("web-{}", number + 1);
        let line =
            format!("{}: weft run --network blue --name {name} --service web -- weft-testkit serve 8080", host.name());
        let replica = step(&line, || start_replica(topology, host, &name))?;
        replicas.push(replica);
    }
    let names: Vec<String> = (1..=REPLICAS).map(|number| format!("web-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    step("every node balances over all five", || topology.wait_balanced(80, &names))?;
    Ok(replicas)
}

fn start_replica(topology: &Topology, host: &Host, name: &str) -> Result<Process> {
    topology.wait_known(host, "service", "web")?;
    let program = host.binary().with_file_name("weft-testkit");
    let program = program.to_str().context("the path of weft-testkit is not UTF-8")?;
    let words = ["run", "--network", "blue", "--name", name, "--service", "web", "--", program, "serve", "8080", name];
    let mut replica = host.start_weft(name, &words)?;
    wait_until(format!("{name} is attached"), REPLICA_BOUND, || {
        if let Some(status) = replica.ended()? {
            // The reason stands in the replica's own output.
            return Ok(Err(anyhow::anyhow!("{name} ended at once ({status}): {}", host.output_of(name))));
        }
        host.weft_ok(&format!("endpoint inspect blue/{name}")).map(|_| Ok(()))
    })??;
    Ok(replica)
}

/// What a person wants to see.
fn show(topology: &Topology) -> Result<()> {
    for line in ["node ls", "service ls", "service ps web"] {
        println!("\n{}", paint("1", &format!("h1 # weft {line}")));
        for row in topology.host(0).weft_ok(line)?.lines() {
            println!("  {row}");
        }
    }
    for host in topology.hosts() {
        let title = format!("client # for i in $(seq {REQUESTS}); do curl http://{}/; done", host.address());
        println!("\n{}   {}", paint("1", &title), paint("2", &format!("({})", host.name())));
        let answers = topology
            .client()
            .enter(|| (0..REQUESTS).map(|_| ask(host.at(80), REQUEST_BOUND)).collect::<Result<Vec<Answer>>>())?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for answer in &answers {
            println!("  {} answered and saw the client {}", paint("36", &answer.replica), answer.client);
            *counts.entry(&answer.replica).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(replica, count)| format!("{replica} {count}")).collect();
        let kept = answers.iter().all(|answer| answer.client.ip() == CLIENT);
        let address = if kept { "the client's own address at every replica" } else { "THE CLIENT'S ADDRESS WAS LOST" };
        println!("  {}  {}", paint("32", "→"), counts.join(", "));
        println!("  {}  {address}", paint(if kept { "32" } else { "31" }, "→"));
        ensure!(kept, "a replica saw another address than the client's, {CLIENT}");
    }
    println!();
    Ok(())
}

/// Tells how to look around, then sleeps until Ctrl-C: the clean-up thread of `netns_tests` ends the process.
fn wait_for_the_end(topology: &Topology) {
    let host = topology.host(0);
    let (netns, socket, weft) = (host.netns().name(), host.socket(), host.binary());
    let bold = |text: &str| paint("1", text);
    println!("{}", bold("It stays up. In another terminal, as root:"));
    println!("\n  a shell on h1 (h2, h3 likewise), where `weft` talks to its agent:");
    println!(
        "    ip netns exec {netns} env WEFT_SOCKET={} PATH={}:$PATH bash",
        socket.display(),
        weft.parent().unwrap_or(weft).display()
    );
    println!("\n  requests from the client:");
    println!("    ip netns exec {} curl http://{}/", topology.client().name(), host.address());
    println!("\n  the cluster's store, by etcd's own client (Debian package etcd-client):");
    let tls = topology.folder().join(host.name()).join("data/tls");
    let files = [("cacert", "ca.pem"), ("cert", "node.pem"), ("key", "node.key")];
    let files = files.map(|(option, file)| format!("--{option} {}", tls.join(file).display())).join(" ");
    let command = format!("etcdctl {files} --endpoints https://{} get --prefix /weft/ --keys-only", host.at(7780));
    println!("    ip netns exec {netns} env ETCDCTL_API=3 {command}");
    println!("\n  the agents' logs: {}/h*/agent.log", topology.folder().display());
    println!("\n{}", bold("Ctrl-C removes everything."));
    loop {
        thread::park();
    }
}
