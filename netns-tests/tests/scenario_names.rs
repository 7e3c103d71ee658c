//! Names: what `dig` and `kdig` are told in containers on every node. Services, replicas, endpoints, aliases, addresses, ports; one
//! network apart from another; the host's own resolvers behind it; and how soon a new name is known everywhere.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use netns_tests::{
    CLIENT, Container, Process, Topology, scenario,
    testkit::{UPSTREAM_ANSWER, resolve},
    wait_until,
};

/// Where every node answers.
const RESOLVER: &str = "169.254.1.1";

/// The same in IPv6.
const RESOLVER6: &str = "fd77:6566::1";

/// From a change to all nodes' answers, on a machine that does much else.
const FOLLOW_BOUND: Duration = Duration::from_secs(5);

/// What is promised of a name.
const PROMISED: Duration = Duration::from_secs(1);

/// How often a new name is waited for; odd, so that the median is one of the times.
const NEW_NAMES: usize = 9;

#[test]
fn every_kind_of_name_on_every_node() {
    scenario(2, |topology| {
        let askers = world(topology)?;
        for asker in &askers {
            let has = |words: &str, wanted: &[&str]| -> Result<()> {
                wait_until(format!("`{words}` in {}", asker.name()), FOLLOW_BOUND, || {
                    let mut found = dig(asker, &format!("+short {words}"))?;
                    found.sort();
                    ensure!(found == wanted, "{found:?} instead of {wanted:?}");
                    Ok(())
                })
            };
            let vip = topology.vip("web", 0)?.ip().to_string();
            let (one, two) = (address(topology, "web-1")?, address(topology, "web-2")?);
            let mut both = [one.as_str(), two.as_str()];
            both.sort_unstable();
            has("web A", &[&vip])?;
            has("WEB.blue. A", &[&vip])?;
            has("tasks.web A", &both)?;
            has("tasks.web.blue A", &both)?;
            has("web-1 A", &[&one])?;
            has("web-2.blue A", &[&two])?;
            has("front A", &both)?;
            has("cache A", &[&address(topology, "cache-1")?])?;
            has(&format!("-x {one}"), &["web-1.blue."])?;
            has(&format!("-x {vip}"), &["web.blue."])?;
            has("_80._tcp.web SRV", &["0 1 8080 web-1.blue.", "0 1 8080 web-2.blue."])?;
            has("_8080._tcp.web.blue SRV", &["0 1 8080 web-1.blue.", "0 1 8080 web-2.blue."])?;
            has("+tcp tasks.web A", &both)?;
            has("www.example.com AAAA", &[])?;
            for (words, code) in [
                ("nobody.blue A", "NXDOMAIN"),
                ("web TXT", "NOERROR"),
                ("10.42.99.99.blue A", "NXDOMAIN"),
                ("shop.blue A", "NXDOMAIN"),
                ("web CH A", "REFUSED"),
                ("+opcode=NOTIFY web A", "NOTIMP"),
                ("+edns=1 +noednsneg web A", "BADVERS"),
            ] {
                let printed = dig(asker, words)?.join("\n");
                ensure!(printed.contains(&format!("status: {code},")), "`{words}`: {printed}");
            }
            // Another client, and what only it shows: flags, and the records that come along.
            let printed = kdig(asker, "+edns _80._tcp.web SRV")?;
            ensure!(printed.contains("status: NOERROR") && printed.contains("Flags: qr aa rd ra"), "{printed}");
            ensure!(printed.contains(&format!("web-1.blue.         \t5\tIN\tA\t{one}")), "{printed}");
            let printed = kdig(asker, "+tcp +keepopen web A tasks.web A")?;
            ensure!(printed.contains(&vip) && printed.contains(&one) && printed.contains(&two), "{printed}");
            let printed = kdig(asker, "nobody.blue A")?;
            ensure!(
                printed.contains("status: NXDOMAIN") && printed.contains("blue.               \t5\tIN\tSOA"),
                "{printed}"
            );
        }
        // The other network sees nothing of it, the host itself is a stranger.
        let red = topology.host(0).attach("red", "red-asker", "")?;
        for name in ["web", "web-1", "tasks.web", "web.blue", "front"] {
            let printed = dig(&red, &format!("{name} A"))?.join("\n");
            ensure!(printed.contains("ANSWER: 0,") && !printed.contains("NOERROR"), "{name}: {printed}");
        }
        let shop = dig(&red, "+short shop A")?;
        ensure!(shop == [topology.vip("shop", 0)?.ip().to_string()], "{shop:?}");
        let printed = topology.host(0).netns().exec(&format!("dig @{RESOLVER} +tries=1 +time=2 web A"))?;
        ensure!(printed.contains("status: REFUSED"), "{printed}");

        // Counted.
        ensure!(topology.host(0).metric("weft_dns_queries_total")? > 20.0, "{}", topology.host(0).metrics()?);
        Ok(())
    });
}

#[test]
fn names_have_both_families() {
    scenario(2, |topology| {
        let first = topology.host(0);
        first.weft_ok("network create blue --subnet 10.42.0.0/16 --subnet fd42::/64")?;
        first.weft_ok("service create web --network blue --publish 80:8080")?;
        topology.wait_known(topology.host(1), "service", "web")?;
        let replica = first.serve("blue", "web-1", "--service web", 8080)?;
        let asker = topology.host(1).attach("blue", "asker", "")?;
        let row = first.weft_json("service inspect web")?;
        let vips: Vec<&str> = row["vips"].as_array().into_iter().flatten().filter_map(|vip| vip.as_str()).collect();
        ensure!(vips.len() == 2, "{row}");
        let row = first.weft_json("endpoint inspect blue/web-1")?;
        let addresses: Vec<String> = row["addresses"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|address| Some(address.as_str()?.split('/').next()?.to_owned()))
            .collect();
        ensure!(addresses.len() == 2 && addresses[0] == replica.address().to_string(), "{row}");
        for server in [RESOLVER, RESOLVER6] {
            for (words, wanted) in [
                ("web A", vips[0]),
                ("web AAAA", vips[1]),
                ("tasks.web A", &addresses[0]),
                ("tasks.web AAAA", &addresses[1]),
                (&format!("-x {}", addresses[1]), "web-1.blue."),
                (&format!("-x {}", vips[1]), "web.blue."),
            ] {
                for way in ["", "+tcp"] {
                    wait_until(format!("{words} {way} of {server}"), FOLLOW_BOUND, || {
                        let line = format!("dig @{server} +tries=1 +time=2 +short {way} {words}");
                        let found = asker.netns().exec(&line)?;
                        ensure!(found.trim() == wanted, "{found:?} instead of {wanted:?}");
                        Ok(())
                    })?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn other_names_are_asked_of_the_hosts_resolvers() {
    scenario(1, |topology| {
        let host = topology.host(0);
        host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        host.weft_ok("network create vault --subnet 10.44.0.0/16 --internal")?;
        let asker = host.attach("blue", "asker", "")?;
        let safe = host.attach("vault", "safe", "")?;
        let expect = |container: &Container, words: &str, code: &str| -> Result<String> {
            wait_until(format!("`{words}` in {}: {code}", container.name()), FOLLOW_BOUND, || {
                let printed = dig(container, words)?.join("\n");
                ensure!(printed.contains(&format!("status: {code},")), "{printed}");
                Ok(printed)
            })
        };
        // Without resolvers of its own the host can only say that it could not find out.
        expect(&asker, "www.example.com A", "SERVFAIL")?;

        // They may come at any time. The first of these is nobody, so that each answer is the second's.
        let upstream = upstream(topology)?;
        fs::write(host.resolv_conf(), format!("nameserver 192.0.2.77\nnameserver {RESOLVER}\nnameserver {CLIENT}\n"))?;
        expect(&asker, "www.example.com A", "NOERROR")?;
        fs::write(host.resolv_conf(), format!("nameserver {CLIENT}\n"))?;
        for words in ["www.example.com A", "single A", "+tcp www.example.com A", "+noedns WWW.example.com A"] {
            let printed = expect(&asker, words, "NOERROR")?;
            ensure!(printed.contains(&UPSTREAM_ANSWER.to_string()), "{words}: {printed}");
        }
        let printed = expect(&asker, "+ignore big.example.com A", "NOERROR")?;
        ensure!(printed.contains("flags: qr tc rd ra;"), "{printed}");
        let printed = expect(&asker, "big.example.com A", "NOERROR")?;
        ensure!(printed.contains("ANSWER: 100,"), "dig comes back over TCP by itself: {printed}");
        expect(&asker, "fail.example.com A", "SERVFAIL")?;
        expect(&asker, "+time=4 mute.example.com A", "SERVFAIL")?;

        // An internal network has no way out, not even this one.
        expect(&safe, "www.example.com A", "REFUSED")?;
        expect(&safe, "single A", "REFUSED")?;
        expect(&safe, "safe A", "NOERROR")?;
        ensure!(host.metric("weft_dns_forward_failures_total")? >= 2.0, "{}", host.metrics()?);
        drop(upstream);
        Ok(())
    });
}

#[test]
fn a_new_name_is_known_everywhere_within_a_second() {
    scenario(3, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        let mut askers = Vec::new();
        for (number, host) in topology.hosts().iter().enumerate() {
            topology.wait_known(host, "network", "blue")?;
            askers.push(host.attach("blue", &format!("asker-{number}"), "")?);
        }
        let server = SocketAddr::new(RESOLVER.parse()?, 53);
        let mut times = Vec::new();
        for number in 0..NEW_NAMES {
            let name = format!("new-{number}");
            let container = topology.host(number % 3).attach("blue", &name, "")?;
            let begun = Instant::now();
            for asker in &askers {
                let known: Vec<IpAddr> = wait_until(format!("{name} in {}", asker.name()), FOLLOW_BOUND, || {
                    asker.netns().enter(|| resolve(server, &name, false, PROMISED))
                })?;
                ensure!(known == [container.address()], "{known:?}");
            }
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        let median = times[times.len() / 2];
        eprintln!("after `weft attach`, known on all 3 nodes: median {median:?}, all: {times:?}");
        ensure!(median <= PROMISED, "{times:?}");
        Ok(())
    });
}

/// Two networks, three services, replicas on both nodes; one asker on each.
fn world(topology: &Topology) -> Result<Vec<Container>> {
    let (first, second) = (topology.host(0), topology.host(1));
    first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
    first.weft_ok("network create red --subnet 10.43.0.0/16")?;
    first.weft_ok("service create web --network blue --publish 80:8080")?;
    first.weft_ok("service create cache --network blue --endpoint-mode dnsrr")?;
    first.weft_ok("service create shop --network red")?;
    topology.wait_known(second, "service", "shop")?;
    Ok(vec![
        first.attach("blue", "asker-1", "")?,
        second.attach("blue", "asker-2", "")?,
        first.attach("blue", "web-1", "--service web --alias front")?,
        second.attach("blue", "web-2", "--service web --alias front")?,
        second.attach("blue", "cache-1", "--service cache")?,
    ]
    .into_iter()
    .collect())
}

fn address(topology: &Topology, name: &str) -> Result<String> {
    let row = topology.host(0).weft_json(&format!("endpoint inspect blue/{name}"))?;
    let word = row["addresses"][0].as_str().ok_or_else(|| anyhow!("{name} has no address: {row}"))?;
    Ok(word.split('/').next().unwrap_or(word).to_owned())
}

/// The lines that `dig` prints.
fn dig(container: &Container, words: &str) -> Result<Vec<String>> {
    let printed = container.netns().exec(&format!("dig @{RESOLVER} +tries=1 +time=2 {words}"))?;
    Ok(printed.lines().map(str::to_owned).collect())
}

fn kdig(container: &Container, words: &str) -> Result<String> {
    container.netns().exec(&format!("kdig @{RESOLVER} +retry=0 +timeout=2 {words}"))
}

/// The hosts' resolver, in the client's namespace.
fn upstream(topology: &Topology) -> Result<Process> {
    let mut command = Command::new(topology.host(0).binary().with_file_name("weft-testkit"));
    command.args(["names", &format!("{CLIENT}:53")]).stdin(Stdio::null()).stdout(Stdio::null());
    let process = topology.client().start("the hosts' resolver", command)?;
    wait_until("the hosts' resolver answers", FOLLOW_BOUND, || {
        topology.client().enter(|| resolve(SocketAddr::new(CLIENT.into(), 53), "x", false, PROMISED))
    })?;
    Ok(process)
}
