//! What entered the mesh at a node is counted there by service, entrance and replica, and shown by `service inspect`, `service ps`
//! and the metrics; what entered elsewhere is not. A replica that is gone leaves the metrics.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use netns_tests::{Host, Netns, Topology, scenario, testkit::ask, wait_until};
use serde_json::Value;

const BOUND: Duration = Duration::from_secs(10);

fn request(from: &Netns, server: SocketAddr, times: usize) -> Result<()> {
    from.enter(|| (0..times).try_for_each(|_| ask(server, BOUND).map(drop)))
}

/// Connections and bytes by replica, in the order of their names.
fn by_replica(host: &Host) -> Result<Vec<(u64, u64)>> {
    let rows = host.weft_rows("service ps web")?;
    let number = |row: &Value, key: &str| row["traffic"][key].as_u64().unwrap_or_default();
    Ok(rows.iter().map(|row| (number(row, "connections"), number(row, "bytes"))).collect())
}

fn series(host: &Host, name: &str) -> Result<Vec<String>> {
    Ok(host.metrics()?.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect())
}

/// Counts grow by two requests for each of three replicas at a time.
fn count_up(topology: &Topology, host: &Host) -> Result<()> {
    let before = by_replica(host)?;
    request(topology.client(), host.at(80), 6)?;
    wait_until(format!("{} counts by replica", host.name()), BOUND, || {
        let after = by_replica(host)?;
        let grown: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after.0 - before.0).collect();
        ensure!(grown == [2, 2, 2], "{grown:?}");
        // A request and its answer have some hundred bytes each, headers not counted.
        ensure!(after.iter().zip(&before).all(|(after, before)| after.1 > before.1 + 400), "{before:?} {after:?}");
        Ok(())
    })
}

#[test]
fn connections_and_bytes_are_counted_where_they_enter() {
    scenario(2, |topology| {
        let _replicas = topology.web(3)?;
        let (first, second) = (topology.host(0), topology.host(1));
        let elsewhere = by_replica(second)?;
        count_up(topology, first)?;
        ensure!(by_replica(second)? == elsewhere, "what entered at h1 was counted by h2");
        count_up(topology, second)?;

        let vip = topology.vip("web", 8080)?;
        let asker = first.attach("blue", "asker", "")?;
        request(asker.netns(), vip, 3)?;
        let sheet = wait_until("the VIP's connections are counted", BOUND, || {
            let sheet = first.weft_json("service inspect web")?;
            let entrances = sheet["traffic"]["entrances"].as_array().cloned().unwrap_or_default();
            let vip = entrances.iter().find(|entrance| entrance["via"] == "vip");
            ensure!(vip.is_some_and(|vip| vip["connections"].as_u64() == Some(3)), "{sheet}");
            ensure!(entrances.iter().any(|entrance| entrance["via"] == "80/tcp"), "{sheet}");
            Ok(sheet)
        })?;
        ensure!(sheet["traffic"]["node"] == "h1", "{sheet}");

        let name = "weft_replica_connections_total";
        ensure!(series(first, name)?.iter().any(|line| line.contains("web-2")), "{:?}", series(first, name));
        second.weft_ok("detach web-2")?;
        wait_until("the replica that is gone leaves the metrics", BOUND, || {
            let lines = series(first, name)?;
            ensure!(!lines.is_empty() && !lines.iter().any(|line| line.contains("web-2")), "{lines:?}");
            Ok(())
        })
    });
}
