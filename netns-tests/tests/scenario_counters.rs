//! What entered the mesh at a node is counted there by service, entrance and replica, and shown by `service inspect`, `service ps`
//! and the metrics, whether the kernel or the proxy carried it; what entered elsewhere is not. A replica that is gone leaves the
//! metrics.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Result, ensure};
use netns_tests::{
    Host, Netns, Topology, scenario,
    testkit::{Answer, ask, ask_udp},
    wait_until,
};
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

type Ask = fn(SocketAddr, Duration) -> Result<Answer>;

/// Asks twice for each of two replicas by a way that the proxy carries, and waits until that is counted for both.
fn count_proxied(host: &Host, from: &Netns, to: SocketAddr, ask: Ask) -> Result<()> {
    wait_until(format!("{to} is open"), BOUND, || from.enter(|| ask(to, Duration::from_secs(1)).map(drop)))?;
    let before = settled(host)?;
    from.enter(|| (0..4).try_for_each(|_| ask(to, BOUND).map(drop)))?;
    wait_until(format!("{} counts what comes by {to}", host.name()), BOUND, || {
        let after = by_replica(host)?;
        let grown: Vec<_> =
            after.iter().zip(&before).map(|(after, before)| (after.0 - before.0, after.1 - before.1)).collect();
        ensure!(
            grown.len() == 2 && grown.iter().all(|(connections, bytes)| *connections == 2 && *bytes > 40),
            "{grown:?}"
        );
        Ok(())
    })
}

/// The counts once they stand: the proxy tells the bytes of a connection when both sides have closed it.
fn settled(host: &Host) -> Result<Vec<(u64, u64)>> {
    wait_until("the counts stand", BOUND, || {
        let open = series(host, "weft_proxy_connections{")?;
        ensure!(open.iter().all(|line| line.ends_with(" 0") || line.contains("/udp")), "{open:?}");
        let counts = by_replica(host)?;
        ensure!(by_replica(host)? == counts, "they grow");
        Ok(counts)
    })
}

#[test]
fn what_the_proxy_carries_is_counted_by_replica() {
    scenario(2, |topology| {
        let _replicas = topology.web(2)?;
        let (host, client) = (topology.host(0), topology.client());
        host.weft_ok("service update web --publish-add 81:8080,mode=proxy --publish-add 5300:8080/udp")?;
        let loopback = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        count_proxied(host, client, host.at(81), ask)?;
        count_proxied(host, host.netns(), loopback(80), ask)?;
        count_proxied(host, host.netns(), loopback(5300), ask_udp)?;

        let sheet = host.weft_json("service inspect web")?;
        let entrances = sheet["traffic"]["entrances"].as_array().cloned().unwrap_or_default();
        for via in ["80/tcp", "80/tcp (proxy)", "81/tcp (proxy)", "5300/udp (proxy)"] {
            let entrance = entrances.iter().find(|entrance| entrance["via"] == via);
            let counted = |key: &str| entrance.and_then(|entrance| entrance[key].as_u64()).unwrap_or_default();
            ensure!(counted("connections") >= 4 && counted("bytes") > 4 * 40, "{via}: {sheet}");
        }
        for name in ["weft_proxy_replica_connections_total", "weft_proxy_replica_bytes_total"] {
            let lines = series(host, name)?;
            // Two replicas by three ports.
            ensure!(lines.len() == 6 && lines.iter().all(|line| line.contains("service=\"web\"")), "{lines:?}");
        }

        // What is gone has no series, and what comes by its name begins anew.
        topology.host(1).weft_ok("detach --force web-2")?;
        wait_until("the replica that is gone leaves the metrics", BOUND, || {
            let lines = series(host, "weft_proxy_replica_")?;
            ensure!(lines.len() == 6 && !lines.iter().any(|line| line.contains("web-2")), "{lines:?}");
            Ok(())
        })?;
        host.weft_ok("detach --force web-1")?;
        host.weft_ok("service rm web")?;
        wait_until("the service that is gone leaves the metrics", BOUND, || {
            // A flow of datagrams by loopback ends with its door.
            let lines = series(host, "weft_proxy_")?;
            ensure!(lines.is_empty(), "{lines:?}");
            Ok(())
        })?;
        host.weft_ok("service create web --network blue --publish 81:8080,mode=proxy")?;
        let replica = host.serve("blue", "web-3", "--service web", 8080)?;
        wait_until("it answers again", BOUND, || client.enter(|| ask(host.at(81), Duration::from_secs(1)).map(drop)))?;
        wait_until("it is counted from the start", BOUND, || {
            let lines = series(host, "weft_proxy_replica_connections_total")?;
            let wanted = "weft_proxy_replica_connections_total{port=\"81/tcp\",replica=\"web-3\",service=\"web\"} 1";
            ensure!(lines == [wanted], "{lines:?}");
            Ok(())
        })?;
        drop(replica);
        Ok(())
    });
}
