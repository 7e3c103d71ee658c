//! A rolling update, as a deployment does it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::{Container, Host, Process, Topology, wait_until};

/// From the start of a replica to its place in every node's balancing.
const READY_BOUND: Duration = Duration::from_secs(15);

/// From the signal to a replica's end: the drain time of its service, and some more.
const END_BOUND: Duration = Duration::from_secs(40);

/// Where replicas answer, and where their service is published.
const TARGET: u16 = 8080;

/// Which of a replica's two lives comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// The new one is ready before the old one is told to go.
    StartFirst,
    /// The old one is gone before the new one is started.
    StopFirst,
}

/// How replicas come and go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// As commands of `weft run`, ended by SIGTERM.
    Run,
    /// As namespaces, by `attach` and `detach`.
    Attach,
}

/// The service `web`, published at 80, and its replicas, spread over the hosts in turn.
pub struct Replicas {
    way: Way,
    running: Vec<Running>,
    /// How often any has been replaced.
    lives: usize,
}

enum Running {
    Run(Process, String),
    Attached(Container),
}

impl Replicas {
    /// Network, service (made with further `words` such as `--health tcp`) and `count` replicas, balanced on every node.
    pub fn start(topology: &Topology, count: usize, way: Way, words: &str) -> Result<Self> {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.host(0).weft_ok(&format!("service create web --network blue --publish 80:8080 {words}"))?;
        for host in topology.hosts() {
            topology.wait_known(host, "service", "web")?;
        }
        let mut replicas = Self { way, running: Vec::new(), lives: 0 };
        for number in 0..count {
            let running = replicas.begin(Self::host_of(topology, number))?;
            replicas.running.push(running);
        }
        let names: Vec<&str> = replicas.running.iter().map(Running::name).collect();
        topology.wait_balanced(80, &names)?;
        Ok(replicas)
    }

    /// Ends replica `number` and puts a new one in its place, on the same host.
    pub fn replace(&mut self, topology: &Topology, number: usize, order: Order) -> Result<()> {
        let host = Self::host_of(topology, number);
        match order {
            Order::StartFirst => {
                let new = self.begin(host)?;
                let old = std::mem::replace(&mut self.running[number], new);
                old.end(host)
            }
            Order::StopFirst => {
                let old = self.running.remove(number);
                old.end(host)?;
                let new = self.begin(host)?;
                self.running.insert(number, new);
                Ok(())
            }
        }
    }

    /// Ends the last ones until `left` are left.
    pub fn shrink(&mut self, topology: &Topology, left: usize) -> Result<()> {
        while self.running.len() > left {
            let Some(last) = self.running.pop() else { break };
            last.end(Self::host_of(topology, self.running.len()))?;
        }
        Ok(())
    }

    fn host_of(topology: &Topology, number: usize) -> &Host {
        &topology.hosts()[number % topology.hosts().len()]
    }

    /// A new replica, balanced as far as its own node knows.
    fn begin(&mut self, host: &Host) -> Result<Running> {
        self.lives += 1;
        let name = format!("web-{}", self.lives);
        match self.way {
            Way::Attach => Ok(Running::Attached(host.serve("blue", &name, "--service web", TARGET)?)),
            Way::Run => {
                let program = crate::topology::beside_us("weft-testkit")?;
                let program = program.to_str().context("the path of weft-testkit is not UTF-8")?;
                let words = ["run", "--network", "blue", "--name", &name, "--service", "web"];
                // A program that ends at once on SIGTERM, with whatever it has under way: what is lost, weft has lost.
                let serve = ["--", program, "serve", "8080", &name];
                let mut process = host.start_weft(&name, &[&words[..], &serve[..]].concat())?;
                wait_until(format!("{name} runs"), READY_BOUND, || {
                    if let Some(status) = process.ended()? {
                        return Ok(Err(anyhow::anyhow!("{name} ended ({status}): {}", host.output_of(&name))));
                    }
                    let rows = host.weft_rows("service ps web")?;
                    let row = rows.iter().find(|row| row["endpoint"] == name);
                    ensure!(row.is_some_and(|row| row["balanced"] == true), "{rows:?}");
                    ensure!(host.output_of(&name).contains("answers on port"), "it does not answer yet");
                    Ok(Ok(()))
                })??;
                Ok(Running::Run(process, name))
            }
        }
    }
}

impl Running {
    fn name(&self) -> &str {
        match self {
            Self::Run(_, name) => name,
            Self::Attached(container) => container.name(),
        }
    }

    fn end(self, host: &Host) -> Result<()> {
        match self {
            Self::Run(process, name) => {
                let status = process.stop(END_BOUND)?;
                ensure!(status.code() == Some(143), "{name} ended with {status}: {}", host.output_of(&name));
                let said = host.output_of(&name);
                ensure!(!said.contains("warning") && !said.contains("error"), "{name} said: {said}");
                Ok(())
            }
            Self::Attached(container) => {
                let run = host.weft(&format!("detach {}", container.name()))?;
                ensure!(run.status.success() && run.stderr.is_empty(), "{}: {run:?}", container.name());
                Ok(())
            }
        }
    }
}
