//! Scenario 11: 100 cycles of attach and detach with the agent killed at odd moments. In the end nothing is left: no
//! endpoint, no used address, no link, route, rule or table element, nothing in the containers' namespaces, and no
//! namespace held open by the agent.

use std::{fs, time::Duration};

use anyhow::{Context, Result, ensure};
use netns_tests::{Host, Netns, Process, pause, scenario, wait_until};

const CYCLES: u32 = 100;

/// As many containers as are attached at once at most.
const CONTAINERS: u32 = 4;

/// From the last detach to a kernel without a trace.
const SETTLE_BOUND: Duration = Duration::from_secs(10);

/// From an agent's return to the end of a command that was repeated.
const REPEAT_BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_hundred_cycles_with_kills_leave_nothing() {
    scenario(2, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.host(0).weft_ok("service create web --network blue --publish 80:8080")?;
        topology.wait_known(topology.host(1), "service", "web")?;
        let prefix = topology.host(1).netns().name().to_owned();
        let containers: Vec<Netns> =
            (0..CONTAINERS).map(|number| Netns::create(format!("{prefix}-c{number}"))).collect::<Result<_>>()?;
        // The first endpoint makes the node claim its block; block and route stay when it goes.
        attach(topology.host(1), 0, &containers[0])?;
        detach(topology.host(1), 0)?;
        let clean = topology.host(1).kernel()?;

        let mut dice = Dice(0x5eed_0011);
        let mut kills = 0;
        for cycle in 0..CYCLES {
            let number = cycle % CONTAINERS;
            let container = &containers[usize::try_from(number)?];
            for step in [Step::Attach, Step::Detach] {
                if dice.roll(100) < 8 {
                    kills += 1;
                    let begun = begin(topology.host(1), step, number, container)?;
                    pause(Duration::from_millis(dice.roll(12)));
                    topology.host_mut(1).kill_agent()?;
                    // Its other end is gone; what it would have said does not matter.
                    begun.kill();
                    topology.host_mut(1).start_agent()?;
                }
                let host = topology.host(1);
                // What the killed agent did half must not stand in the way: the same words again succeed.
                wait_until(format!("cycle {cycle}: {step:?}"), REPEAT_BOUND, || match step {
                    Step::Attach => attach(host, number, container),
                    Step::Detach => detach(host, number),
                })
                .with_context(|| format!("after {kills} kills"))?;
            }
        }
        ensure!(kills >= 5, "only {kills} kills: the dice are loaded");

        let host = topology.host(1);
        wait_until("the kernel is as before the cycles", SETTLE_BOUND, || host.kernel()?.must_equal(&clean))?;
        for node in topology.hosts() {
            let what = format!("{} lists no endpoint and no used address", node.name());
            wait_until(what, SETTLE_BOUND, || {
                let endpoints = node.weft_rows("endpoint ls")?;
                ensure!(endpoints.is_empty(), "`endpoint ls`: {endpoints:?}");
                let used: Vec<_> = node.weft_rows("ipam ls")?.into_iter().filter(|block| block["used"] != 0).collect();
                ensure!(used.is_empty(), "`ipam ls`: {used:?}");
                Ok(())
            })?;
        }
        for container in &containers {
            let links: serde_json::Value = serde_json::from_str(&container.ip("-j link show")?)?;
            let names: Vec<_> = links.as_array().into_iter().flatten().map(|link| link["ifname"].clone()).collect();
            ensure!(names == ["lo"], "{} still has {names:?}", container.name());
        }
        for link in links_of(host)? {
            ensure!(link == "weft.vx" || !link.starts_with("weft."), "{} still has the link {link}", host.name());
        }
        no_namespace_held(host, &containers)
    });
}

/// Half of a cycle.
#[derive(Debug, Clone, Copy)]
enum Step {
    Attach,
    Detach,
}

fn attach_words(number: u32, container: &Netns) -> String {
    let path = container.path();
    format!("attach --netns {} --network blue --name c{number} --service web", path.display())
}

fn attach(host: &Host, number: u32, container: &Netns) -> Result<()> {
    host.weft_ok(&attach_words(number, container))?;
    // Attached means that the container can speak now, not later.
    let links = container.ip("-4 route show default")?;
    ensure!(links.contains("eth0"), "c{number} is attached without a default route: {links:?}");
    Ok(())
}

/// Detaches, or finds that the endpoint is gone: a detach that was killed after its end may be repeated in vain.
fn detach(host: &Host, number: u32) -> Result<()> {
    let run = host.weft(&format!("detach c{number}"))?;
    if run.status.success() {
        return Ok(());
    }
    let rows = host.weft_rows("endpoint ls")?;
    let there = rows.iter().any(|row| row["name"] == format!("c{number}"));
    ensure!(!there, "`weft detach c{number}` failed: {}", run.stderr.trim());
    Ok(())
}

/// Starts a command without waiting for its end: the agent is about to be killed in the middle of it.
fn begin(host: &Host, step: Step, number: u32, container: &Netns) -> Result<Process> {
    let line = match step {
        Step::Attach => attach_words(number, container),
        Step::Detach => format!("detach c{number}"),
    };
    let words: Vec<&str> = line.split_whitespace().collect();
    host.start_weft(&format!("begun-c{number}"), &words)
}

fn links_of(host: &Host) -> Result<Vec<String>> {
    let links: serde_json::Value = serde_json::from_str(&host.netns().ip("-j link show")?)?;
    let names = links.as_array().into_iter().flatten().filter_map(|link| link["ifname"].as_str().map(str::to_owned));
    Ok(names.collect())
}

/// No file of the agent leads to a container's namespace: an open one would keep a removed container's network alive.
fn no_namespace_held(host: &Host, containers: &[Netns]) -> Result<()> {
    let folder = format!("/proc/{}/fd", host.agent_pid()?);
    for container in containers {
        let wanted = format!("net:[{}]", container.inode()?);
        for entry in fs::read_dir(&folder)?.flatten() {
            // A file may be closed between the two looks.
            let Ok(target) = fs::read_link(entry.path()) else { continue };
            ensure!(target.to_string_lossy() != wanted, "the agent holds {wanted} of {} open", container.name());
        }
    }
    Ok(())
}

/// Numbers that look random and are the same in every run (Knuth's 64-bit linear congruential generator, MMIX).
struct Dice(u64);

impl Dice {
    /// A number below `sides`.
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}
