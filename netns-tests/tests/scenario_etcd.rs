//! A cluster whose store is a real etcd (Debian's etcd-server), with a user of its own, and one of three members that are
//! restarted one after the other.

use std::{
    fs::{self, File},
    net::SocketAddr,
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, ensure};
use netns_tests::{CLIENT, Host, Netns, Process, Topology, scenario_before_init, testkit::Load, wait_until};
use nix::sys::signal::Signal;

/// From the start of etcd's members to a leader that answers.
const START_BOUND: Duration = Duration::from_secs(30);

/// From a change to what is seen of it.
const SETTLE_BOUND: Duration = Duration::from_secs(20);

/// The longest time from the first try of an attach or a detach to its success while members of etcd are restarted: one that was
/// under way at the member which ended may have to be said again.
const CHANGE_BOUND: Duration = Duration::from_secs(10);

const RATE_PER_S: u32 = 50;

const PASSWORD: &str = "b1g-secret";

#[test]
fn etcd_with_a_user() {
    scenario_before_init(3, |topology| {
        let etcd = Etcds::start(topology, &[Place::Client(0)])?;
        etcd.ask_for_passwords(topology)?;
        let file = topology.folder().join("password");
        fs::write(&file, format!("{PASSWORD}\n"))?;
        let place = format!("etcd://{}/team", etcd.hosts(topology));

        // What is refused, is refused before anything is made, and says why.
        for (options, part) in [
            (String::new(), "user=NAME"),
            ("?user=weft:wrong".to_owned(), "not let in"),
            ("?user=idle:idle".to_owned(), "readwrite --prefix=true /team/weft/"),
            ("?user=weft&password-file=/no/such/file".to_owned(), "/no/such/file"),
        ] {
            let run = topology.host(0).weft(&format!("init --store {place}{options}"))?;
            ensure!(!run.status.success() && run.stderr.contains(part), "{options}: {}", run.stderr);
            ensure!(!run.stderr.contains("wrong"), "{options}: {}", run.stderr);
        }
        topology.form_cluster_by(&format!("init --store {place}?user=weft&password-file={}", file.display()))?;
        let replicas = topology.web(3)?;
        for host in topology.hosts() {
            let status = host.weft_ok("status")?;
            ensure!(status.contains(&place) && status.contains("user=weft"), "{status}");
            ensure!(!status.contains(PASSWORD), "{status}");
        }
        let keys = etcd.control(topology, "--user root:root get --prefix / --keys-only")?;
        ensure!(keys.contains("/team/weft/v1/"), "{keys}");
        ensure!(keys.lines().all(|key| key.is_empty() || key.starts_with("/team/weft/v1/")), "{keys}");

        // Agents that start anew log in anew; those that joined got a file of their own.
        fs::remove_file(&file)?;
        for index in [1, 2, 0] {
            if index == 0 {
                fs::write(&file, PASSWORD)?;
            }
            topology.host_mut(index).stop_agent()?;
            topology.host_mut(index).start_agent()?;
        }
        topology.wait_ready()?;
        for (index, replica) in replicas.iter().enumerate().skip(1) {
            topology.host(index).weft_ok(&format!("detach {}", replica.name()))?;
        }
        topology.wait_balanced(80, &["web-1"])?;
        for host in topology.hosts() {
            ensure!(!host.log_tail(10_000).contains(PASSWORD), "the password is in the log of {}", host.name());
        }
        Ok(())
    });
}

#[test]
fn three_etcds_restarted_under_churn() {
    scenario_before_init(3, |topology| {
        let mut etcds = Etcds::start(topology, &[0, 1, 2].map(Place::Client))?;
        etcds.ask_for_passwords(topology)?;
        topology
            .form_cluster_by(&format!("init --store etcd://{}/team?user=weft:{PASSWORD}", etcds.hosts(topology)))?;
        let replicas = topology.web(3)?;
        for host in topology.hosts() {
            let status = host.weft_ok("status")?;
            ensure!(status.contains("user=weft:(secret)") && !status.contains(PASSWORD), "{status}");
        }
        let servers = topology.hosts().iter().map(|host| host.at(80)).collect();
        let load = Load::start(topology.client(), servers, RATE_PER_S)?;
        let prefix = topology.host(1).netns().name().to_owned();
        let container = Netns::create(format!("{prefix}-churn"))?;
        let mut changes = Changes::default();
        // Everything in turn while the members end and come back: each attach, each detach.
        let topology = &*topology;
        let host = topology.host(1);
        let made = AtomicU32::new(0);
        let restart = |member| {
            etcds.restart(topology, member)?;
            let seen = made.load(Ordering::Relaxed);
            wait_until("changes after a restart", SETTLE_BOUND, || {
                ensure!(made.load(Ordering::Relaxed) >= seen + 4, "none");
                Ok(())
            })
        };
        let restarted = thread::scope(|scope| {
            let restarting = scope.spawn(|| (0..3).try_for_each(restart));
            while !restarting.is_finished() {
                changes.make(host, &container)?;
                made.store(changes.made, Ordering::Relaxed);
            }
            restarting.join().map_err(|_| anyhow!("the restarts panicked"))?
        });
        restarted?;
        changes.make(host, &container)?;
        eprintln!("{changes:?}");
        ensure!(changes.longest < CHANGE_BOUND, "{changes:?}");
        let seen = load.so_far().requests;
        wait_until("traffic after the restarts", SETTLE_BOUND, || {
            ensure!(load.so_far().requests > seen + u64::from(RATE_PER_S), "{:?}", load.so_far());
            Ok(())
        })?;
        let report = load.stop()?;
        ensure!(report.failed == 0, "{report:?}");
        eprintln!("{} requests, the slowest {:?}", report.requests, report.slowest);
        for host in topology.hosts() {
            let what = format!("{} lists the three replicas and nothing else", host.name());
            wait_until(what, SETTLE_BOUND, || {
                let endpoints = host.weft_rows("endpoint ls")?;
                ensure!(endpoints.len() == replicas.len(), "{endpoints:?}");
                ensure!(host.weft_json("status")?["store"]["state"] == "connected");
                Ok(())
            })?;
        }
        Ok(())
    });
}

/// Each host has a member. The one whose cable is pulled has a member without a leader at hand: its agent says that the store is away, and
/// the others, which asked just that member first, go on.
#[test]
fn a_host_that_is_cut_off_with_its_member() {
    scenario_before_init(3, |topology| {
        let etcds = Etcds::start(topology, &[0, 1, 2].map(Place::Host))?;
        topology.form_cluster_by(&format!("init --store etcd://{}", etcds.hosts(topology)))?;
        topology.host(0).weft_ok("network create blue --subnet 10.42.0.0/16")?;
        topology.wait_known(topology.host(1), "network", "blue")?;
        let prefix = topology.host(1).netns().name().to_owned();
        let container = Netns::create(format!("{prefix}-churn"))?;
        let mut changes = Changes::default();
        changes.make(topology.host(1), &container)?;
        let state = |host: &Host| -> Result<String> {
            Ok(host.weft_json("status")?["store"]["state"].as_str().unwrap_or_default().to_owned())
        };

        topology.cut(0)?;
        let cut = Instant::now();
        changes.make(topology.host(1), &container)?;
        changes.make(topology.host(1), &container)?;
        eprintln!("cut off: {changes:?}");
        ensure!(changes.longest < CHANGE_BOUND, "{changes:?}");
        wait_until("the host that is cut off says so", Duration::from_secs(30), || {
            let state = state(topology.host(0))?;
            ensure!(state == "away", "its store is {state}");
            Ok(())
        })?;
        eprintln!("away after {:?}", cut.elapsed());
        for host in &topology.hosts()[1..] {
            ensure!(state(host)? == "connected", "{}", host.weft_ok("status")?);
        }
        let run = topology.host(0).weft("network create red --subnet 10.43.0.0/16")?;
        ensure!(!run.status.success() && run.took < Duration::from_secs(20), "{run:?}");
        topology.host(1).weft_ok("network create green --subnet 10.44.0.0/16")?;

        topology.heal(0)?;
        let healed = Instant::now();
        topology.wait_known(topology.host(0), "network", "green")?;
        eprintln!("heard of what it missed after {:?}", healed.elapsed());
        topology.wait_ready()?;
        // The member that was alone asks for an election, and a write that is under way then may have to be said again.
        let red = "network create red --subnet 10.43.0.0/16";
        wait_until("the host that was cut off makes changes again", CHANGE_BOUND, || {
            let host = topology.host(0);
            host.weft_ok(red).or_else(|refused| host.weft_ok("network inspect red").map_err(|_| refused))
        })?;
        drop(etcds);
        Ok(())
    });
}

/// Attaches and detaches, one after the other.
#[derive(Debug, Default)]
struct Changes {
    made: u32,
    /// Tries that were refused, and with which words.
    refused: Vec<String>,
    longest: Duration,
}

impl Changes {
    fn make(&mut self, host: &Host, container: &Netns) -> Result<()> {
        let attach = format!("attach --netns {} --network blue --name churn", container.path().display());
        for line in [attach.as_str(), "detach churn"] {
            let begun = Instant::now();
            wait_until(line, SETTLE_BOUND, || {
                let run = host.weft(line)?;
                if run.status.success() {
                    return Ok(());
                }
                self.refused.push(format!("after {:?}: {}", run.took, run.stderr.trim()));
                // A detach that was carried out and not heard of is done all the same.
                let is_there = host.weft_rows("endpoint ls")?.iter().any(|row| row["name"] == "churn");
                ensure!(line.starts_with("detach") && !is_there, "{}", run.stderr.trim());
                Ok(())
            })?;
            self.made += 1;
            self.longest = self.longest.max(begun.elapsed());
        }
        Ok(())
    }
}

/// Members of one etcd cluster, in namespaces where nobody else takes their ports.
struct Etcds {
    folder: PathBuf,
    places: Vec<Place>,
    members: Vec<Process>,
}

/// Where a member lives.
#[derive(Debug, Clone, Copy)]
enum Place {
    /// Beside the client, one of several.
    Client(u16),
    /// On a host.
    Host(usize),
}

impl Place {
    fn netns(self, topology: &Topology) -> &Netns {
        match self {
            Self::Client(_) => topology.client(),
            Self::Host(index) => topology.host(index).netns(),
        }
    }

    /// Where it serves clients; its peers find it at the next port.
    fn address(self, topology: &Topology) -> SocketAddr {
        match self {
            Self::Client(number) => SocketAddr::new(CLIENT.into(), 2379 + 10 * number),
            Self::Host(index) => SocketAddr::new(topology.host(index).address(), 2379),
        }
    }
}

impl Etcds {
    fn start(topology: &Topology, places: &[Place]) -> Result<Self> {
        let mut etcds = Self { folder: topology.folder().to_owned(), places: places.to_vec(), members: Vec::new() };
        for member in 0..places.len() {
            etcds.members.push(etcds.spawn(topology, member)?);
        }
        wait_until("etcd answers", START_BOUND, || etcds.control(topology, "endpoint health"))?;
        Ok(etcds)
    }

    fn spawn(&self, topology: &Topology, member: usize) -> Result<Process> {
        let client = |place: Place| format!("http://{}", place.address(topology));
        let peer = |place: Place| {
            let address = place.address(topology);
            format!("http://{}", SocketAddr::new(address.ip(), address.port() + 1))
        };
        let cluster = self.places.iter().enumerate().map(|(member, place)| format!("m{member}={}", peer(*place)));
        let cluster = cluster.collect::<Vec<_>>().join(",");
        let place = self.places[member];
        let log = self.folder.join(format!("etcd-{member}.log"));
        let mut command = Command::new("etcd");
        command
            .args(["--name", &format!("m{member}"), "--initial-cluster", &cluster, "--data-dir"])
            .arg(self.folder.join(format!("etcd-{member}")))
            .args(["--listen-client-urls", &client(place), "--advertise-client-urls", &client(place)])
            .args(["--listen-peer-urls", &peer(place), "--initial-advertise-peer-urls", &peer(place)])
            .args(["--logger=zap", "--log-outputs=stderr"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::options().create(true).append(true).open(log)?);
        place.netns(topology).start(format!("etcd {member}"), command)
    }

    /// SIGTERM, and the same member again; when it serves, it is over.
    fn restart(&mut self, topology: &Topology, member: usize) -> Result<()> {
        let old = &mut self.members[member];
        old.signal(Signal::SIGTERM)?;
        old.wait(START_BOUND)?;
        self.members[member] = self.spawn(topology, member)?;
        let words = format!("--endpoints {} --user root:root endpoint health", self.places[member].address(topology));
        wait_until(format!("etcd {member} is back"), START_BOUND, || control(topology, &words)).map(drop)
    }

    /// A user for weft, and one who may do nothing.
    fn ask_for_passwords(&self, topology: &Topology) -> Result<()> {
        for words in [
            "user add root:root",
            "user grant-role root root",
            &format!("user add weft:{PASSWORD}"),
            "role add weft",
            "role grant-permission weft readwrite --prefix=true /team/weft/",
            "user grant-role weft weft",
            "user add idle:idle",
            "auth enable",
        ] {
            self.control(topology, words)?;
        }
        Ok(())
    }

    /// The members as a URL names them.
    fn hosts(&self, topology: &Topology) -> String {
        let hosts = self.places.iter().map(|place| place.address(topology).to_string());
        hosts.collect::<Vec<_>>().join(",")
    }

    fn control(&self, topology: &Topology, words: &str) -> Result<String> {
        control(topology, &format!("--endpoints {} {words}", self.hosts(topology)))
    }
}

/// `etcdctl WORDS` from where the client is.
fn control(topology: &Topology, words: &str) -> Result<String> {
    let mut command = Command::new("etcdctl");
    let output = topology.client().output(command.env("ETCDCTL_API", "3").args(words.split(' ')))?;
    ensure!(output.status.success(), "etcdctl {words}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
