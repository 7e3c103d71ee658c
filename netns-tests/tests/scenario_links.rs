//! `weft run`: the resolver, the hosts and the links that its command sees, and that a link leads to a replica on another host.
//! What is made for a command is seen by nobody else and ends with it.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use netns_tests::{Host, Topology, scenario, wait_until};

/// From the end of a command to a host without its endpoint.
const GONE_BOUND: Duration = Duration::from_secs(10);

#[test]
fn a_command_sees_its_links_and_reaches_them_on_another_host() {
    scenario(2, |topology| {
        let (first, second) = (topology.host(0), topology.host(1));
        first.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        first.weft_ok("network create red --subnet 10.43.0.0/16")?;
        first.weft_ok("service create store --network blue --publish 15432:5432 --publish 8053:53/udp")?;
        first.weft_ok("service create quiet --network blue")?;
        first.weft_ok("service create loose --network blue --endpoint-mode dnsrr")?;
        topology.wait_known(second, "service", "store")?;
        let _replica = second.serve("blue", "store-1", "--service store", 5432)?;
        topology.wait_balanced(15432, &["store-1"])?;
        let vip = topology.vip("store", 5432)?;

        let seen = run(first, "env", &["--link", "store:my-db", "--link", "quiet"])?;
        let ip = vip.ip();
        for line in [
            "MY_DB_NAME=/env/my-db".to_owned(),
            format!("MY_DB_PORT=udp://{ip}:53"),
            format!("MY_DB_PORT_5432_TCP=tcp://{ip}:5432"),
            format!("MY_DB_PORT_5432_TCP_ADDR={ip}"),
            "MY_DB_PORT_5432_TCP_PORT=5432".to_owned(),
            "MY_DB_PORT_5432_TCP_PROTO=tcp".to_owned(),
            format!("MY_DB_PORT_53_UDP=udp://{ip}:53"),
            "QUIET_NAME=/env/quiet".to_owned(),
        ] {
            ensure!(seen.lines().any(|seen| seen == line), "{line:?} is not in\n{seen}");
        }
        ensure!(!seen.contains("QUIET_PORT"), "a service without ports has some:\n{seen}");

        let hosts = run(first, "cat", &["--link", "store:my-db", "--link", "quiet", "--", "/etc/hosts"])?;
        let quiet = topology.vip("quiet", 1)?.ip();
        for line in ["127.0.0.1\tlocalhost".to_owned(), format!("{ip}\tmy-db store"), format!("{quiet}\tquiet")] {
            ensure!(hosts.lines().any(|seen| seen == line), "{line:?} is not in\n{hosts}");
        }
        ensure!(hosts.lines().any(|line| line.starts_with("10.42.") && line.ends_with("\tcat")), "{hosts}");

        // Through the hosts file and the VIP to the replica's host.
        let asked = run(first, "getent", &["--link", "store:my-db", "--", "hosts", "my-db"])?;
        ensure!(asked.split_whitespace().next() == Some(&ip.to_string()), "{asked}");
        let testkit = first.binary().with_file_name("weft-testkit").to_string_lossy().into_owned();
        let words = ["run", "--network", "blue", "--link", "store:my-db", "--", &testkit, "get", "my-db:5432"];
        let answer = first.weft_words(&words)?;
        ensure!(answer.stdout.starts_with("replica=store-1 "), "{answer:?}");

        let resolv = run(first, "cat", &["--", "/etc/resolv.conf"])?;
        ensure!(resolv.starts_with("nameserver 169.254.1.1\n") && resolv.ends_with("options ndots:0\n"), "{resolv}");
        wait_until("the commands' endpoints are gone", GONE_BOUND, || {
            let endpoints = first.weft_rows("endpoint ls")?;
            ensure!(endpoints.len() == 1, "{endpoints:?}");
            Ok(())
        })?;

        for (link, network, word) in [
            ("nosuch", "blue", "nosuch"),
            ("store", "red", "isolated"),
            ("loose", "blue", "has no VIP"),
            ("store:DB", "blue", "store:DB"),
            ("store:db --link quiet:db", "blue", "the alias db"),
        ] {
            let refused = first.weft(&format!("run --network {network} --link {link} -- true"))?;
            ensure!(!refused.status.success() && refused.stderr.contains(word), "{link} in {network}: {refused:?}");
        }
        Ok(())
    });
}

/// A host whose /etc is as bare as can be: nothing to put the files on, and the command runs.
#[test]
fn a_host_without_the_files_is_no_obstacle_and_its_own_files_stay_as_they_are() {
    scenario(1, |topology| {
        let host = topology.host(0);
        host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        let (resolv, hosts) = (fs::read("/etc/resolv.conf")?, fs::read("/etc/hosts")?);
        // Other tests' namespaces come and go meanwhile: each is a mount.
        let mounts = || -> Result<Vec<String>> {
            let all = fs::read_to_string("/proc/self/mountinfo")?;
            Ok(all.lines().filter(|line| !line.contains(" /run/netns")).map(str::to_owned).collect())
        };
        let before = mounts()?;
        for prepare in [
            "mount -t tmpfs none /etc",
            // As systemd-resolved lays it out; and what listens in its folder must not be asked.
            "mount -t tmpfs none /etc && mount -t tmpfs none /run && mkdir -p /run/systemd/resolve && \
             echo nameserver 127.0.0.53 > /run/systemd/resolve/stub-resolv.conf && touch /run/systemd/resolve/socket && \
             ln -s /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf && touch /etc/hosts",
        ] {
            let look = "cat /etc/resolv.conf /etc/hosts 2>&1; ls /run/systemd/resolve 2>&1; mount";
            let (weft, socket) = (host.binary().display(), host.socket());
            let script =
                format!("{prepare} && exec {weft} --socket {} run --network blue -- sh -c '{look}'", socket.display());
            let mut command = std::process::Command::new("unshare");
            command.args(["--mount", "sh", "-c", &script]);
            let output = host.netns().output(&mut command)?;
            let (seen, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
            ensure!(output.status.success(), "{prepare}: {told}{seen}");
            ensure!(seen.contains("/etc type tmpfs"), "{prepare}: the test's own mount is not there:\n{seen}");
            if prepare.contains("resolve") {
                ensure!(seen.starts_with("nameserver 169.254.1.1\noptions ndots:0\n127.0.0.1\tlocalhost\n"), "{seen}");
                ensure!(!seen.contains("127.0.0.53") && !seen.contains("\nsocket\n"), "{seen}");
            }
        }
        ensure!(
            fs::read("/etc/resolv.conf")? == resolv && fs::read("/etc/hosts")? == hosts,
            "the host's files changed"
        );
        ensure!(mounts()? == before, "a mount has got out to the host");
        Ok(())
    });
}

/// `ip netns exec` finds the resolver too, as long as the namespace is attached.
#[test]
fn a_named_namespace_has_a_resolv_conf_while_it_is_attached() {
    scenario(1, |topology| attached_and_detached(topology));
}

fn attached_and_detached(topology: &Topology) -> Result<()> {
    let host = topology.host(0);
    host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
    host.weft_ok("network create red --subnet 10.43.0.0/16")?;
    let container = host.attach("blue", "one", "")?;
    let folder = std::path::Path::new("/etc/netns").join(container.netns().name());
    let text = fs::read_to_string(folder.join("resolv.conf"))?;
    ensure!(text.starts_with("# Written by `weft attach`") && text.contains("\nnameserver 169.254.1.1\n"), "{text}");
    let mut command = std::process::Command::new("ip");
    let output = command.args(["netns", "exec", container.netns().name(), "cat", "/etc/resolv.conf"]).output()?;
    ensure!(String::from_utf8_lossy(&output.stdout) == text, "{output:?}");

    // A second endpoint in the same namespace keeps it.
    let path = container.netns().path();
    host.weft_ok(&format!("attach --netns {} --network red --name two --ifname eth1", path.display()))?;
    host.weft_ok("detach two")?;
    ensure!(folder.join("resolv.conf").exists(), "it went with the second endpoint");
    host.weft_ok("detach one")?;
    ensure!(!folder.exists(), "{} stays", folder.display());

    fs::create_dir_all(&folder)?;
    fs::write(folder.join("resolv.conf"), "nameserver 192.0.2.1\n")?;
    host.weft_ok(&format!("attach --netns {} --network blue --name three", path.display()))?;
    host.weft_ok("detach three")?;
    ensure!(fs::read_to_string(folder.join("resolv.conf"))? == "nameserver 192.0.2.1\n", "a person's file was changed");
    Ok(())
}

/// What a command in the network `blue` prints; it has to succeed. Its endpoint is named as the program; words behind `--`
/// are its own.
fn run(host: &Host, program: &str, words: &[&str]) -> Result<String> {
    let split = words.iter().position(|word| *word == "--").unwrap_or(words.len());
    let (options, own) = words.split_at(split);
    let mut line = vec!["run", "--network", "blue", "--name", program];
    line.extend_from_slice(options);
    line.extend_from_slice(&["--", program]);
    line.extend_from_slice(own.get(1..).unwrap_or_default());
    let run = host.weft_words(&line)?;
    ensure!(run.status.success(), "{line:?}: {run:?}");
    Ok(run.stdout)
}
