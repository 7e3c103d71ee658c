//! Scenario 19: wishes that cannot be met. Each is refused with exit status 1 or 2 and one clear line that names the thing,
//! and afterwards kernel and cluster are what they were: nothing half-made.

use std::{fs, net::TcpListener, time::Duration};

use anyhow::{Context, Result, ensure};
use netns_tests::{Host, KernelView, Topology, scenario, wait_until};
use serde_json::Value;

/// 64 characters: one more than a name may have.
const LONG: &str = "a23456789-123456789-123456789-123456789-123456789-123456789-1234";

/// The wish, and a word that the line has to contain so that the person knows what is meant. `{free}` is the path of a
/// namespace that nobody has attached, `{taken}` one that is `web-1`.
const WISHES: &[(&str, &str)] = &[
    // The same published port twice: of another service, and in one wish.
    ("service create shop --network blue --publish 80:9090", "80"),
    ("service create shop --network blue --publish 81:8080 --publish 81:9090", "81"),
    ("service update web --publish 82:8080 --publish 82:9090", "82"),
    // Prefixes that overlap: equal, inside, around, another network's, the host's own.
    ("network create red --subnet 10.42.0.0/16", "10.42.0.0/16"),
    ("network create red --subnet 10.42.7.0/24", "10.42.7.0/24"),
    ("network create red --subnet 10.0.0.0/8", "10.0.0.0/8"),
    ("network create red --subnet 192.0.2.0/24", "192.0.2.0/24"),
    ("network create red --subnet 192.0.0.0/16", "192.0.0.0/16"),
    // Prefixes that are none.
    ("network create red --subnet 10.43.0.0/33", "10.43.0.0/33"),
    ("network create red --subnet 10.43.0.0", "10.43.0.0"),
    ("network create red --subnet ten/16", "ten/16"),
    ("network create red --subnet 10.43.0.1/16", "10.43.0.1/16"),
    ("network create red --subnet 10.1.0.0/7", "between"),
    ("network create red --subnet 127.0.0.0/8", "127.0.0.0/8"),
    ("network create red --subnet 224.0.0.0/8", "224.0.0.0/8"),
    // Names.
    ("network create {long} --subnet 10.43.0.0/16", "63"),
    ("network create Red --subnet 10.43.0.0/16", "Red"),
    ("network create red- --subnet 10.43.0.0/16", "red-"),
    ("service create {long} --network blue", "63"),
    ("attach --netns {free} --network blue --name {long}", "63"),
    // Things that are not there.
    ("service create shop --network nosuch", "nosuch"),
    ("attach --netns {free} --network nosuch --name x", "nosuch"),
    ("attach --netns {free} --network blue --name x --service nosuch", "nosuch"),
    ("attach --netns /run/netns/nosuch --network blue --name x", "/run/netns/nosuch"),
    ("attach --netns /etc/hostname --network blue --name x", "/etc/hostname"),
    ("detach nosuch", "nosuch"),
    ("service rm nosuch", "nosuch"),
    ("service ps nosuch", "nosuch"),
    ("network rm nosuch", "nosuch"),
    ("network inspect nosuch", "nosuch"),
    ("endpoint inspect nosuch", "nosuch"),
    ("node inspect nosuch", "nosuch"),
    ("node drain nosuch", "nosuch"),
    // Addresses and devices that cannot be had.
    ("attach --netns {free} --network blue --name x --ip 10.43.0.5", "10.43.0.5"),
    ("attach --netns {free} --network blue --name x --ip {address}", "{address}"),
    ("attach --netns {free} --network blue --name x --ip ten", "ten"),
    ("attach --netns {free} --network blue --name x --ifname lo", "lo"),
    ("attach --netns {free} --network blue --name x --ifname a-name-of-16-char", "a-name-of-16-char"),
    ("attach --netns {taken} --network blue --name x", "eth0"),
    ("attach --netns {free} --network blue --name x --ifname all", "all"),
    ("attach --netns {free} --network blue --name x --ifname default", "default"),
    ("attach --netns {free} --network blue --name x --ifname eth%d", "eth%d"),
    // What exists, with other words.
    ("attach --netns {free} --network blue --name web-1", "web-1"),
    ("network create blue --subnet 10.44.0.0/16", "10.44.0.0/16"),
    ("service create web --network blue --publish 81:8080", "81"),
    ("service create web --network nosuch", "service rm web"),
    ("service update web --publish-rm 81", "81/tcp"),
    // What is in use.
    ("network rm blue", "web"),
    ("service rm web", "web-1"),
    // Ports that are none.
    ("service create shop --network blue --publish 0x50:80", "0x50"),
    ("service create shop --network blue --publish 70000:80", "70000"),
    ("service create shop --network blue --publish 81:0", "0"),
    ("service create shop --network blue --publish 81", "81"),
    ("service create shop --network blue --publish 81:80/icmp", "icmp"),
    ("service create shop --network blue --publish 81:80,mode=fast", "fast"),
    ("service create shop --network blue --publish 81:80,colour=red", "colour=red"),
    ("service create shop --network blue --publish 0.0.0.0:81:80", "0.0.0.0"),
    ("service create shop --network blue --publish 2001:db8::1:81:80", "[2001:db8::1]"),
    ("service create shop --network blue --publish a-name-of-16-char:81:80", "a-name-of-16-char"),
    ("service update web --publish-rm 80:8080", "target"),
    // Ports in a place that is taken, and what their carrier cannot do.
    ("service create shop --network blue --publish 192.0.2.11:80:80", "192.0.2.11:80/tcp"),
    ("service create shop --network blue --publish eth0:80:80", "web"),
    ("service create shop --network blue --publish 81:80 --publish eth0:81:80", "eth0:81/tcp"),
    ("service update web --publish-rm eth0:80", "80:8080/tcp"),
    ("service create shop --network blue --publish [2001:db8::1]:81:80", "IPv6"),
    ("service create shop --network blue --publish 81:80/udp,mode=proxy", "TCP"),
    ("service create shop --network blue --publish 81:80,proxy-protocol=v1", "mode=proxy"),
    ("service create shop --network blue --publish 81:80,mode=proxy,proxy-from=ten", "ten"),
    // Settings that are none, that contradict each other, or that have nothing to work on.
    ("service create shop --network blue --lb fair", "fair"),
    ("service create shop --network blue --lb least-conn", "least-conn"),
    ("service create shop --network blue --publish 81:80 --lb least-conn", "mode=proxy"),
    ("service create shop --network blue --publish 81:80,mode=proxy --lb least-conn --affinity 1m", "affinity"),
    ("service create shop --network blue --affinity 10", "10"),
    ("service create shop --network blue --affinity 10ms", "1s to 24h"),
    ("service create shop --network blue --endpoint-mode dns", "dnsrr"),
    ("service create shop --network blue --endpoint-mode dnsrr --lb random", "nothing to balance"),
    ("service update web --lb least-conn", "mode=proxy"),
    ("service create shop --network blue --health tcp", "--health-port"),
    ("service create shop --network blue --publish 81:80/udp --health http:/", "--health-port"),
    ("service create shop --network blue --publish 81:80 --health http:healthz", "healthz"),
    ("service create shop --network blue --publish 81:80 --health udp", "udp"),
    ("service create shop --network blue --publish 81:80 --health tcp --health-interval 99ms", "100ms"),
    ("service create shop --network blue --publish 81:80 --health tcp --health-timeout 61s", "1m"),
    ("service create shop --network blue --publish 81:80 --health tcp --health-status 200", "HTTP"),
    ("service create shop --network blue --publish 81:80 --health http:/ --health-status 600", "600"),
    ("service create shop --network blue --health-interval 5s", "what is asked"),
    ("service update web --health-interval 5s", "what is asked"),
    ("service create shop --network blue --drain 61m", "1h"),
    ("service create web --network blue --publish 80:8080 --lb random", "random"),
    ("service create web --network blue --publish 80:8080 --drain 5s", "5s"),
    ("service create web --network blue --publish 0:8080", "0:8080/tcp"),
    ("service update web", "--publish"),
    // Names that would stand for two things.
    ("service create web-1 --network blue", "web-1"),
    ("service create tasks --network blue", "tasks"),
    ("attach --netns {free} --network blue --name web", "web"),
    ("attach --netns {free} --network blue --name x --alias web", "web"),
    ("attach --netns {free} --network blue --name x --alias web-1", "web-1"),
    ("attach --netns {free} --network blue --name x --alias Www", "Www"),
    // Links.
    ("run --network blue --link nosuch -- true", "nosuch"),
    ("run --network blue --link web:a_b -- true", "web:a_b"),
    ("run --network blue --link web:a --link web:a -- true", "a"),
    // Ports that weft needs itself.
    ("service create shop --network blue --publish 7780:80", "7780/tcp"),
    ("service create shop --network blue --publish 7789:80/udp", "7789/udp"),
    ("service update web --publish-add 7780:8080", "7780/tcp"),
    // Words that the command line does not have.
    ("service create shop", "--network"),
    ("network create red --colour red", "--colour"),
    ("netwrok ls", "netwrok"),
    // A second cluster on top of the first.
    ("join 192.0.2.13:7780 --token WEFT-1-wrong", "token"),
];

#[test]
fn wishes_that_cannot_be_met_are_refused_and_change_nothing() {
    scenario(2, |topology| {
        let replicas = topology.web(1)?;
        let host = topology.host(0);
        let free = netns_tests::Netns::create(format!("{}-free", host.netns().name()))?;
        let taken = replicas[0].netns();
        let before = look(topology)?;
        let mut wrong = Vec::new();
        for (wish, word) in WISHES {
            let fill = |text: &str| {
                text.replace("{long}", LONG)
                    .replace("{free}", &free.path().to_string_lossy())
                    .replace("{taken}", &taken.path().to_string_lossy())
                    .replace("{address}", &replicas[0].address().to_string())
            };
            if let Err(error) = refused(host, &fill(wish), &fill(word)) {
                wrong.push(format!("{error:#}"));
            }
            let now = look(topology)?;
            if let Err(error) = unchanged(&before, &now) {
                wrong.push(format!("`weft {wish}` changed something: {error:#}"));
            }
        }
        ensure!(free.ip("-br link show")?.lines().count() == 1, "a link was left in the free namespace");
        ensure!(wrong.is_empty(), "{} of {} wishes went wrong:\n{}", wrong.len(), WISHES.len(), wrong.join("\n"));
        repeated_wishes_succeed(host, &taken.path().to_string_lossy())?;
        unchanged(&before, &look(topology)?).context("repeating what exists changed something")
    });
}

#[test]
fn a_cluster_that_cannot_be_entered_is_left_as_it_was() {
    scenario(2, |topology| {
        topology.web(0)?;
        let (member, host) = (topology.host(0), topology.host(1));
        host.weft_ok("leave")?;
        let before = wait_until("the member is alone", Duration::from_secs(5), || {
            let nodes = member.weft_json("node ls")?;
            ensure!(nodes.as_array().is_some_and(|nodes| nodes.len() == 1), "{nodes}");
            Ok(nodes)
        })?;
        let join = topology.join_words()?;
        let taken = || host.netns().enter(|| Ok(TcpListener::bind(host.at(7780))?));

        let squatter = taken()?;
        refused(host, &join, "7780")?;
        refused(host, "init", "7780")?;
        ensure!(member.weft_json("node ls")? == before, "a node that could not join has left its record");
        drop(squatter);
        refused(host, "init --pool fd77:6566:1::/48", "weft's own addresses")?;
        refused(host, "init --store etcd://192.0.2.77:2379", "does this host reach")?;
        refused(host, "join 192.0.2.11 --token WEFT-1-x", "HOST:PORT")?;
        host.weft_ok("init")?;
        host.weft_ok("leave")?;

        host.netns().ip("route add blackhole 10.42.3.0/24")?;
        refused(host, &join, "10.42.3.0/24")?;
        ensure!(member.weft_json("node ls")? == before, "a node that could not join has left its record");
        host.netns().ip("route del blackhole 10.42.3.0/24")?;
        host.weft_ok(&join)?;
        host.netns().ip("route add blackhole 10.42.3.0/24")?;
        let status = host.weft_json("status")?["warnings"].to_string();
        ensure!(status.contains("10.42.3.0/24"), "no warning of the route: {status}");

        host.weft_ok("down")?;
        for wish in ["network ls", "init", &join] {
            refused(host, wish, "not running")?;
        }
        let status = host.weft_json("status")?;
        ensure!(status["membership"] == "stopped", "{status}");

        // The store's node, whose file does not open, and then an identity of a later release.
        let data = topology.folder().join("h1/data");
        topology.host_mut(0).stop_agent()?;
        let store: Vec<_> = fs::read_dir(data.join("store"))?.collect::<std::io::Result<_>>()?;
        for file in store {
            fs::write(file.path(), "no store")?;
        }
        for (identity, why) in [
            (None, "store"),
            (Some("{\"v\": 3}"), "newer weft"),
            (Some("{\"v\": 1}"), "format 1"),
            (Some("{"), "damaged"),
        ] {
            if let Some(identity) = identity {
                fs::write(data.join("identity.json"), identity)?;
            }
            topology.host_mut(0).start_agent()?;
            // It answers before it has tried.
            wait_until(format!("{why} is the reason"), Duration::from_secs(5), || {
                refused(topology.host(0), "network ls", why)
            })?;
            refused(topology.host(0), "init", why)?;
            topology.host_mut(0).stop_agent()?;
        }
        Ok(())
    });
}

/// Exit status 1 or 2, nothing on standard output, and `error:` in front of one line that names the thing.
fn refused(host: &Host, wish: &str, word: &str) -> Result<()> {
    let run = host.weft(wish)?;
    let code = run.status.code();
    let context = || format!("`weft {wish}` ({}): {}", run.status, run.stderr.trim());
    ensure!(matches!(code, Some(1 | 2)), "not refused: {}", context());
    ensure!(run.stdout.is_empty(), "it printed {:?}: {}", run.stdout, context());
    let first = run.stderr.lines().next().unwrap_or_default();
    ensure!(first.starts_with("error: "), "no `error:` in front: {}", context());
    ensure!(run.stderr.contains(word), "{word:?} is not named: {}", context());
    if code == Some(1) {
        let rest: Vec<&str> = run.stderr.lines().skip(1).collect();
        ensure!(
            rest.iter().all(|line| line.starts_with("hint: ")) && rest.len() <= 1,
            "more than a line: {}",
            context()
        );
    }
    Ok(())
}

/// Creating what exists with the same words succeeds.
fn repeated_wishes_succeed(host: &Host, taken: &str) -> Result<()> {
    host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
    host.weft_ok("service create web --network blue --publish 80:8080")?;
    host.weft_ok(&format!("attach --netns {taken} --network blue --name web-1 --service web"))?;
    Ok(())
}

/// Everything that a wish could have changed.
struct Look {
    kernels: Vec<KernelView>,
    lists: Vec<(String, Value)>,
}

fn look(topology: &Topology) -> Result<Look> {
    let kernels = topology.hosts().iter().map(Host::kernel).collect::<Result<_>>()?;
    let commands = ["network ls", "service ls", "service ps web", "endpoint ls", "ipam ls", "node ls"];
    let lists = commands.map(|command| Ok((command.to_owned(), topology.host(0).weft_json(command)?)));
    Ok(Look { kernels, lists: lists.into_iter().collect::<Result<_>>()? })
}

fn unchanged(before: &Look, now: &Look) -> Result<()> {
    for (now, before) in now.kernels.iter().zip(&before.kernels) {
        now.must_equal(before)?;
    }
    for ((command, now), (_, before)) in now.lists.iter().zip(&before.lists) {
        ensure!(now == before, "`weft {command}` went from\n{before}\nto\n{now}");
    }
    Ok(())
}
