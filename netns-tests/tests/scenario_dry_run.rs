//! `weft agent --dry-run`: it says what an agent would do, in words that the tools understand, and does nothing.

use anyhow::{Result, ensure};
use netns_tests::{Host, scenario};
use nix::sys::signal::Signal;

#[test]
fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    scenario(2, |topology| {
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.host(0).weft_ok("service create web --network blue --publish 80:8080")?;
        for host in topology.hosts() {
            topology.wait_known(host, "service", "web")?;
        }

        // Beside a living agent that has done its work.
        let second = topology.host(1);
        let said = dry_run(second)?;
        ensure!(said.starts_with("# nothing to do"), "{said}");
        ensure!(said.contains("udp dport 7789") && said.contains("tcp . 80 : goto port_tcp_80"), "{said}");

        // Where there is something to do, it is said and not done; what is said of the table is what nft takes.
        second.signal_agent(Signal::SIGSTOP)?;
        second.netns().exec("nft flush ruleset")?;
        let before = second.kernel()?;
        let said = dry_run(second)?;
        second.kernel()?.must_equal(&before)?;
        second.signal_agent(Signal::SIGCONT)?;
        ensure!(said.contains("nft add table inet weft"), "{said}");
        let (_, table) = said.split_once("# the table as it should be\n").unwrap_or_default();
        let file = topology.folder().join("table.nft");
        std::fs::write(&file, table)?;
        topology.client().exec(&format!("nft -c -f {}", file.display()))?;
        Ok(())
    });
}

fn dry_run(host: &Host) -> Result<String> {
    let folder = host.socket().parent().and_then(|run| run.parent()).map(|folder| folder.join("data"));
    let data = folder.ok_or_else(|| anyhow::anyhow!("{} has no folder", host.name()))?;
    host.netns().exec(&format!(
        "{} agent --dry-run --node {} --data-dir {}",
        host.binary().display(),
        host.name(),
        data.display()
    ))
}
