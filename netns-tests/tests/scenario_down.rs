//! `weft down` empties the kernel of what is weft's, and of nothing else, also where no agent runs; and it does not work against one.

use std::{fs, path::Path, time::Duration};

use anyhow::ensure;
use netns_tests::{Host, KernelView, scenario, wait_until};

#[test]
fn down_works_without_an_agent_and_not_against_one() {
    scenario(1, |topology| {
        let host = topology.host(0);
        host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        host.weft_ok("service create web --network blue --publish 80:8080")?;
        let replica = host.serve("blue", "web-1", "--service web", 8080)?;
        // What others have, with names that are nearly ours.
        let foreign = [
            "link add weftish type veth peer name weftish2",
            "route add blackhole 10.99.0.0/24",
            "rule add pref 99 lookup main",
        ];
        for line in foreign {
            host.netns().ip(line)?;
        }
        host.netns().exec("nft add table inet weft2")?;
        let before = host.kernel()?;

        // An agent runs, and the command was told another socket: nothing is done behind its back.
        let elsewhere = format!("{} --socket /run/nowhere/weft.sock down", host.binary().display());
        let refused = match host.netns().exec(&elsewhere) {
            Ok(said) => anyhow::bail!("not refused: {said}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(refused.contains("an agent runs"), "{refused}");
        host.kernel()?.must_equal(&before)?;

        // Killed, it leaves its socket behind; stopped, it does not.
        for end in [Host::kill_agent, Host::stop_agent] {
            end(topology.host_mut(0))?;
            let host = topology.host(0);
            host.kernel()?.must_equal(&before)?;
            let said = host.weft_ok("down")?;
            ensure!(said.contains("rows of weft removed") && said.contains("no agent"), "{said}");
            let left: KernelView = host.kernel()?;
            ensure!(left.is_empty(), "left in the kernel: {left:?}");
            for (line, there) in [
                ("ip link show weftish", "weftish"),
                ("ip route", "10.99.0.0/24"),
                ("ip rule", "99:"),
                ("nft list tables", "weft2"),
            ] {
                let listed = host.netns().exec(line)?;
                ensure!(listed.contains(there), "{there} is gone: {listed}");
            }
            let again = host.weft_json("down")?;
            ensure!(again["removed"] == 0, "{again}");
            // The node is a member as before.
            topology.host_mut(0).start_agent()?;
            topology.wait_balanced(80, &["web-1"])?;
        }
        drop(replica);
        Ok(())
    });
}

#[test]
fn a_node_that_leaves_takes_its_files_of_named_namespaces_along() {
    scenario(1, |topology| {
        let host = topology.host(0);
        host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        let [ours, theirs] = [host.attach("blue", "ours", "")?, host.attach("blue", "theirs", "")?];
        let file = |name: &str| Path::new("/etc/netns").join(name).join("resolv.conf");
        let [ours, theirs] = [&ours, &theirs].map(|container| file(container.netns().name()));
        ensure!(ours.exists() && theirs.exists(), "attaching wrote no resolv.conf");
        fs::write(&theirs, "nameserver 192.0.2.1\n")?;
        // The node comes back from this one, and its containers with it.
        host.weft_ok("down")?;
        ensure!(ours.exists(), "`weft down` took a file away that nobody writes again");
        topology.host_mut(0).stop_agent()?;
        topology.host_mut(0).start_agent()?;
        let host = topology.host(0);
        wait_until("the agent is a member again", Duration::from_secs(10), || host.weft_ok("endpoint ls"))?;
        host.weft_ok("leave --force")?;
        ensure!(!ours.exists(), "{} is left", ours.display());
        ensure!(fs::read_to_string(&theirs)? == "nameserver 192.0.2.1\n", "somebody else's file was changed");
        fs::remove_file(&theirs)?;
        Ok(())
    });
}
