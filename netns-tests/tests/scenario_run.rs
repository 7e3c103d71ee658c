//! `weft run`: the command's own exit status, its signals, and nothing left behind on any way out, the violent ones included.

use std::{os::unix::process::ExitStatusExt as _, time::Duration};

use anyhow::{Result, ensure};
use netns_tests::{Host, KernelView, Topology, scenario, wait_until};
use nix::sys::signal::Signal;

/// From the end of a command to a host without a trace of it; a killed `weft run` is noticed by its namespace's end.
const GONE_BOUND: Duration = Duration::from_secs(5);

/// How long a signal may take to its command and back.
const SIGNAL_BOUND: Duration = Duration::from_secs(5);

#[test]
fn a_command_comes_and_goes_with_its_status_and_leaves_nothing() {
    scenario(1, |topology| {
        let host = topology.host(0);
        host.weft_ok("network create blue --subnet 10.42.0.0/16")?;
        // The first attach claims a block, which stays.
        host.weft_ok("run --network blue -- true")?;
        let before = gone(host, None)?;

        for (words, status) in [
            ("run --network blue -- true", 0),
            ("run --network blue -- false", 1),
            ("run --network blue -- ip link show eth0", 0),
            ("run --network blue -- ip route get 10.42.99.99", 0),
            ("run --network blue -- ip link show eth7", 1),
            ("run --network blue -- /nowhere/at-all", 127),
            ("run --network blue -- /etc", 126),
            ("run --network nowhere -- true", 1),
            ("run --network blue", 2),
        ] {
            let run = host.weft(words)?;
            ensure!(run.status.code() == Some(status), "`weft {words}`: {:?}: {}", run.status, run.stderr);
            gone(host, Some(&before))?;
        }

        for (signal, status) in [(Signal::SIGTERM, 143), (Signal::SIGINT, 130), (Signal::SIGHUP, 129)] {
            let mut process = sleeper(topology, "one")?;
            process.signal(signal)?;
            let ended = process.wait(SIGNAL_BOUND)?;
            ensure!(ended.code() == Some(status), "{signal}: {ended:?}");
            gone(host, Some(&before))?;
        }

        let mut process = sleeper(topology, "killed")?;
        process.signal(Signal::SIGKILL)?;
        ensure!(process.wait(SIGNAL_BOUND)?.signal() == Some(Signal::SIGKILL as i32));
        gone(host, Some(&before))?;
        Ok(())
    });
}

/// A command that runs until it is told to stop, attached.
fn sleeper(topology: &Topology, name: &str) -> Result<netns_tests::Process> {
    let host = topology.host(0);
    let process = host.start_weft(name, &["run", "--network", "blue", "--name", name, "--", "sleep", "60"])?;
    wait_until(format!("{name} is attached"), SIGNAL_BOUND, || {
        let endpoints = host.weft_rows("endpoint ls")?;
        ensure!(endpoints.iter().any(|endpoint| endpoint["name"] == name), "{endpoints:?}");
        Ok(())
    })?;
    Ok(process)
}

/// Waits until no endpoint is left and the kernel is as it was.
fn gone(host: &Host, before: Option<&KernelView>) -> Result<KernelView> {
    wait_until("nothing is left of the command", GONE_BOUND, || {
        let endpoints = host.weft_rows("endpoint ls")?;
        ensure!(endpoints.is_empty(), "{endpoints:?}");
        let now = host.kernel()?;
        ensure!(now.only("link").iter().all(|link| !link.contains("weft.") || link.contains("weft.vx")), "{now:?}");
        if let Some(before) = before {
            now.must_equal(before)?;
        }
        Ok(now)
    })
}
