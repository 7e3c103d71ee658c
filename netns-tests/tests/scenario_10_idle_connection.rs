//! Scenario 10: a TCP connection through a VIP, and one through a published port, may be idle for longer than the 900 s after
//! which IPVS forgets. Nobody waits: the clock is connection tracking's own, the time that it still gives an idle connection on
//! every node on its way.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use netns_tests::{Netns, Topology, scenario};

/// What Swarm's users lose an idle connection after (moby/moby#31208).
const IPVS_TIMEOUT_S: u64 = 900;

const ANSWER_BOUND: Duration = Duration::from_secs(5);

/// The seconds that connection tracking of a host still gives the established connections of a client's port.
fn remaining(host: &Netns, source_port: u16) -> Result<Vec<u64>> {
    let text = host.exec(&format!("conntrack -L -p tcp --sport {source_port} --state ESTABLISHED"))?;
    text.lines()
        .filter(|line| line.contains("ESTABLISHED"))
        .map(|line| {
            let word = line.split_whitespace().nth(2).ok_or_else(|| anyhow!("no time-out in {line:?}"))?;
            word.parse().with_context(|| format!("{word:?} in {line:?} is no number"))
        })
        .collect()
}

fn exchange(stream: &TcpStream, line: &str) -> Result<()> {
    let mut writer = stream;
    writeln!(writer, "{line}")?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer).with_context(|| format!("{line:?} was not answered"))?;
    ensure!(answer.trim_end().ends_with(line), "{line:?} was answered by {answer:?}");
    Ok(())
}

fn idle_by(topology: &Topology, from: &Netns, server: SocketAddr, on_the_way: &[usize]) -> Result<()> {
    from.enter(|| {
        let stream = TcpStream::connect_timeout(&server, ANSWER_BOUND)?;
        stream.set_read_timeout(Some(ANSWER_BOUND))?;
        exchange(&stream, "before")?;
        let port = stream.local_addr()?.port();
        let found = on_the_way
            .iter()
            .map(|index| Ok((*index, remaining(topology.host(*index).netns(), port)?)))
            .collect::<Result<BTreeMap<usize, Vec<u64>>>>()?;
        for (index, seconds) in &found {
            let name = topology.host(*index).name();
            ensure!(!seconds.is_empty(), "{name} does not track the connection to {server}");
            ensure!(seconds.iter().all(|s| *s > IPVS_TIMEOUT_S), "{name} forgets it after {seconds:?} s");
        }
        println!("{server}: seconds left by node: {found:?}");
        exchange(&stream, "after")
    })
}

#[test]
fn an_idle_connection_outlives_what_ipvs_gives_it() {
    scenario(3, |topology| {
        let mut replica = topology.web(1)?;
        let replica = replica.remove(0);
        let asker = topology.host(2).attach("blue", "asker", "")?;
        let vip = topology.vip("web", 8080)?;
        // The replica is on the first host.
        idle_by(topology, asker.netns(), vip, &[2, 0]).context("by the VIP")?;
        idle_by(topology, topology.client(), topology.host(1).at(80), &[1, 0]).context("by a published port")?;
        idle_by(topology, topology.client(), topology.host(0).at(80), &[0]).context("by the replica's own node")?;
        drop(replica);
        Ok(())
    });
}
