//! Who gets into a cluster and who does not: tokens and their rotation, certificates on the port for other nodes, and a node that
//! was removed. No secret is to be read in a log, a status or the store.

use std::{
    collections::BTreeSet,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow, ensure};
use netns_tests::{Host, Topology, scenario, testkit::ask, wait_until};
use nix::sys::signal::Signal;

/// From a change in the store to what follows from it on a node, on a busy machine.
const NOTICE_BOUND: Duration = Duration::from_secs(10);

/// A lease, and what it takes to notice that it has ended.
const SILENCE_BOUND: Duration = Duration::from_secs(25);

#[test]
fn a_token_lets_nodes_in_and_nothing_else_does() {
    scenario(3, |topology| {
        let (first, second, third) = (topology.host(0), topology.host(1), topology.host(2));
        let (address, token) = token_of(first)?;
        ensure!(token_of(second)?.1 == token, "the members print different tokens");

        // A cluster of its own, to have a token and a certificate of another.
        third.weft_ok("leave")?;
        ensure!(files(third)?.is_empty(), "what is left after `leave`: {:?}", files(third)?);
        third.weft_ok("init")?;
        let (_, foreign_token) = token_of(third)?;
        let foreign = copied(third, "foreign-tls")?;
        third.weft_ok("leave")?;

        let (digest, secret) = parts(&token)?;
        let (foreign_digest, foreign_secret) = parts(&foreign_token)?;
        for (wrong, words) in [
            (format!("WEFT-1-{digest}-{foreign_secret}"), "does not accept the token"),
            (format!("WEFT-1-{foreign_digest}-{secret}"), "belongs to another cluster"),
            (foreign_token.clone(), "belongs to another cluster"),
            (token[..token.len() - 1].to_owned(), "incomplete or mistyped"),
        ] {
            for member in [first, second] {
                let at = member.at(7780);
                let run = third.weft(&format!("join {at} --token {wrong}"))?;
                ensure!(!run.status.success() && run.stderr.contains(words), "{wrong} at {at}: {run:?}");
                let errors = run.stderr.lines().filter(|line| line.starts_with("error:")).count();
                ensure!(errors == 1 && !run.stderr.contains(&secret), "{run:?}");
                ensure!(files(third)?.is_empty(), "{words}: written was {:?}", files(third)?);
            }
        }
        let dump = dump(first)?;
        ensure!(!dump.contains("/admitted/"), "somebody was let in: {dump}");

        strangers_at_the_port(first, &foreign)?;

        // By a file, at a member that does not hold the store.
        let file = topology.folder().join("token");
        fs::write(&file, format!("{token}\n"))?;
        third.weft_ok(&format!("join {} --token-file {}", second.at(7780), file.display()))?;
        topology.wait_ready()?;
        third.weft_ok("leave")?;
        // And by standard input.
        let mut command = Command::new(third.binary());
        command.arg("--socket").arg(third.socket()).args(["join", &address, "--token-file", "-"]);
        command.stdin(fs::File::open(&file)?);
        let output = third.netns().output(&mut command)?;
        ensure!(output.status.success(), "{output:?}");
        topology.wait_ready()?;

        let log = fs::read_to_string(third.log())?;
        ensure!(log.contains("POST /v1/join by uid 0, gid 0, pid "), "the log does not say who asked to join: {log}");

        let key = fs::read_to_string(tls(first).join("ca.key"))?;
        let key_line = key.lines().nth(1).ok_or_else(|| anyhow!("an empty key"))?;
        no_secret_shows(topology, &[&secret, key_line])
    });
}

#[test]
fn a_rotated_token_is_refused_at_once_by_every_member() {
    scenario(3, |topology| {
        let (first, second, third) = (topology.host(0), topology.host(1), topology.host(2));
        third.weft_ok("leave")?;
        let (_, old) = token_of(second)?;
        let said = second.weft_json("token --rotate")?;
        let new = said["token"].as_str().ok_or_else(|| anyhow!("{said}"))?.to_owned();
        ensure!(new != old && parts(&new)?.0 == parts(&old)?.0, "{old} became {new}");
        for member in [first, second] {
            let run = third.weft(&format!("join {} --token {old}", member.at(7780)))?;
            ensure!(!run.status.success() && run.stderr.contains("does not accept the token"), "{run:?}");
        }
        ensure!(token_of(second)?.1 == new, "who has rotated it prints another");
        wait_until("the other member prints the new token", NOTICE_BOUND, || {
            let told = token_of(first)?.1;
            ensure!(told == new, "{told}");
            Ok(())
        })?;
        third.weft_ok(&format!("join {} --token {new}", first.at(7780)))?;
        topology.wait_ready()?;
        no_secret_shows(topology, &[&parts(&old)?.1, &parts(&new)?.1])
    });
}

#[test]
fn a_removed_node_is_cut_off_at_once_and_nobody_else_is() {
    scenario(3, |topology| {
        let replicas = topology.web(2)?;
        let names: Vec<&str> = replicas.iter().map(netns_tests::Container::name).collect();
        let (first, third) = (topology.host(0), topology.host(2));
        // A connection of its own that is open when it happens.
        let mut command = etcdctl(first, Some(&tls(third)), "https", "watch --prefix /weft/");
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut watch = third.netns().start("a watch", command)?;

        third.signal_agent(Signal::SIGSTOP)?;
        wait_until("h3 is silent", SILENCE_BOUND, || {
            let rows = first.weft_rows("node ls")?;
            let silent = rows.iter().any(|row| row["name"] == "h3" && row["status"] != "ready");
            ensure!(silent, "{}", serde_json::json!(rows));
            Ok(())
        })?;
        ensure!(watch.ended()?.is_none(), "the watch has ended before");
        first.weft_ok("node rm h3")?;
        let refused = run(third, &mut etcdctl(first, Some(&tls(third)), "https", "get --prefix /weft/"))?;
        ensure!(refused.contains("removed from the cluster") && !refused.contains("/weft/v1"), "{refused}");
        third.signal_agent(Signal::SIGCONT)?;
        wait_until("h3 says why it is out", NOTICE_BOUND, || {
            let status = third.weft_ok("status")?;
            ensure!(status.contains("removed from the cluster"), "{status}");
            let log = third.log_tail(40);
            ensure!(log.contains("removed from the cluster"), "{log}");
            Ok(())
        })?;
        let refused = third.weft("network create red")?;
        ensure!(!refused.status.success(), "a removed node has changed the cluster: {refused:?}");
        for host in [first, topology.host(1)] {
            let ready = host.weft_rows("node ls")?.iter().filter(|row| row["status"] == "ready").count();
            ensure!(ready == 2, "{} sees {ready} nodes", host.name());
        }
        // What runs between the others goes on.
        let others = [first.at(80), topology.host(1).at(80)];
        topology.client().enter(|| {
            for door in others.into_iter().cycle().take(2 * others.len() * names.len()) {
                let answered = ask(door, Duration::from_secs(1))?.replica;
                ensure!(names.contains(&answered.as_str()), "{answered} answers at {door}");
            }
            Ok(())
        })?;
        wait_until("its open connection is cut", NOTICE_BOUND, || {
            // `etcdctl` comes again by itself, and is refused.
            let established = first.netns().exec("ss -Htn state established sport = :7780 dst 192.0.2.13")?;
            ensure!(established.lines().count() <= 1, "{established}");
            Ok(())
        })?;
        drop(watch);

        third.weft_ok("leave --force")?;
        third.weft_ok(&topology.join_words()?)?;
        topology.wait_ready()
    });
}

#[test]
fn a_cluster_over_etcd_is_joined_in_the_same_words() {
    scenario(3, |topology| {
        for host in topology.hosts().iter().rev() {
            host.weft_ok("leave")?;
            ensure!(files(host)?.is_empty(), "what is left on {}: {:?}", host.name(), files(host)?);
        }
        let folder = topology.folder().join("etcd");
        let url = format!("http://{}", topology.host(0).at(2379));
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(&folder).args(["--listen-client-urls", &url, "--advertise-client-urls", &url]);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let _etcd = topology.host(0).netns().start("etcd", command)?;
        let [first, second, third] = topology.hosts() else { return Err(anyhow!("not three hosts")) };
        let store = format!("etcd://{}/team", first.at(2379));
        wait_until("etcd takes the cluster", NOTICE_BOUND, || first.weft_ok(&format!("init --store {store}")))?;
        second.weft_ok(&topology.join_words()?)?;
        // By a node that has nothing to do with the store, and with a token that it has made itself.
        let (address, _) = token_of(second)?;
        let token = second.weft_json("token --rotate")?;
        let token = token["token"].as_str().ok_or_else(|| anyhow!("{token}"))?;
        third.weft_ok(&format!("join {address} --token {token}"))?;
        topology.wait_ready()?;
        ensure!(third.weft_json("status")?["store"]["url"] == store.as_str(), "{}", third.weft_json("status")?);
        // Nobody gets at the store by a node's port, with whichever certificate: it is not there.
        let refused = run(first, &mut etcdctl(first, Some(&tls(first)), "https", "get --prefix /"))?;
        ensure!(refused.contains("Error") && !refused.contains("/weft/v1"), "{refused}");
        Ok(())
    });
}

/// What is no node of the cluster gets nothing out of `host`'s port, and keeps nobody out.
fn strangers_at_the_port(host: &Host, foreign: &Path) -> Result<()> {
    let failures = host.metric("weft_peer_handshake_failures")?;
    let said = host.netns().enter(|| {
        let mut stream = TcpStream::connect(host.at(7780))?;
        stream.set_read_timeout(Some(NOTICE_BOUND))?;
        stream.write_all(b"GET /v1/status HTTP/1.1\r\nHost: weft\r\n\r\n")?;
        let mut said = Vec::new();
        // The other end resets what it has not read.
        let _ = stream.read_to_end(&mut said);
        Ok(said)
    })?;
    ensure!(!said.starts_with(b"HTTP"), "plain HTTP is answered: {}", String::from_utf8_lossy(&said));
    wait_until("it is counted", NOTICE_BOUND, || {
        let now = host.metric("weft_peer_handshake_failures")?;
        ensure!(now > failures, "{now} after {failures}");
        Ok(())
    })?;
    let get = "get --prefix /weft/ --keys-only";
    for (what, mut command) in [
        ("plain text", etcdctl(host, None, "http", get)),
        ("no certificate", etcdctl(host, None, "https", get)),
        ("another cluster's certificate", etcdctl(host, Some(foreign), "https", get)),
    ] {
        let printed = run(host, &mut command)?;
        ensure!(printed.contains("Error") && !printed.contains("/weft/v1"), "{what}: {printed}");
    }
    let printed = run(host, &mut etcdctl(host, Some(&tls(host)), "https", get))?;
    ensure!(printed.contains("/weft/v1/cluster") && printed.contains("/weft/v1/token"), "{printed}");
    Ok(())
}

/// `etcdctl` against a node's port, with the files in `shown` or with nothing but the authority's certificate.
fn etcdctl(host: &Host, shown: Option<&Path>, scheme: &str, words: &str) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").args(["--dial-timeout=3s", "--command-timeout=4s"]);
    command.arg("--endpoints").arg(format!("{scheme}://{}", host.at(7780)));
    let of_host = tls(host);
    if scheme == "https" {
        command.arg("--cacert").arg(of_host.join("ca.pem"));
    }
    if let Some(shown) = shown {
        command.arg("--cert").arg(shown.join("node.pem")).arg("--key").arg(shown.join("node.key"));
    }
    command.args(words.split(' '));
    command
}

/// Everything that it prints.
fn run(host: &Host, command: &mut Command) -> Result<String> {
    let output = host.netns().output(command)?;
    Ok(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

/// All that lies in the store.
fn dump(host: &Host) -> Result<String> {
    run(host, &mut etcdctl(host, Some(&tls(host)), "https", "get --prefix /"))
}

fn no_secret_shows(topology: &Topology, secrets: &[&str]) -> Result<()> {
    let mut shown = vec![("the store".to_owned(), dump(topology.host(0))?)];
    ensure!(shown[0].1.contains("/weft/v1/token"), "the store shows nothing: {}", shown[0].1);
    for host in topology.hosts() {
        shown.push((format!("the log of {}", host.name()), fs::read_to_string(host.log())?));
        for line in ["status", "status -o json", "node ls -o json", "node inspect h1 -o json"] {
            shown.push((format!("`weft {line}` on {}", host.name()), host.weft_ok(line)?));
        }
        shown.push((format!("the metrics of {}", host.name()), host.metrics()?));
    }
    for (place, text) in shown {
        for secret in secrets {
            ensure!(!text.to_ascii_uppercase().contains(&secret.to_ascii_uppercase()), "a secret shows in {place}");
        }
    }
    Ok(())
}

fn token_of(host: &Host) -> Result<(String, String)> {
    let told = host.weft_json("token")?;
    let word = |key: &str| told[key].as_str().map(str::to_owned).ok_or_else(|| anyhow!("no {key}: {told}"));
    Ok((word("address")?, word("token")?))
}

/// A token's digest and secret.
fn parts(token: &str) -> Result<(String, String)> {
    let rest = token.strip_prefix("WEFT-1-").and_then(|rest| rest.split_once('-'));
    rest.map(|(digest, secret)| (digest.to_owned(), secret.to_owned())).with_context(|| format!("no token: {token}"))
}

fn data(host: &Host) -> PathBuf {
    host.log().with_file_name("data")
}

fn tls(host: &Host) -> PathBuf {
    data(host).join("tls")
}

/// What the agent keeps on disk, but for its lock.
fn files(host: &Host) -> Result<BTreeSet<String>> {
    let entries = fs::read_dir(data(host))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
    Ok(entries.collect::<Result<BTreeSet<_>>>()?.into_iter().filter(|name| name != "lock").collect())
}

/// A copy of a node's certificate and key.
fn copied(host: &Host, name: &str) -> Result<PathBuf> {
    let to = host.log().with_file_name(name);
    fs::create_dir_all(&to)?;
    for file in ["node.pem", "node.key"] {
        fs::copy(tls(host).join(file), to.join(file))?;
    }
    Ok(to)
}
