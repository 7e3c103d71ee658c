use std::{
    env, fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};

use crate::{
    Container, Host, Netns,
    cleanup::{held, sweep},
    testkit::ask,
    wait_until,
};

/// The client's address on the underlay (RFC 5737, TEST-NET-1).
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 100);

/// The client's IPv6 address on the underlay (RFC 3849).
pub const CLIENT6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x100);

/// From one agent's change to every other agent's kernel: a watch event and a pass, with room for a busy machine.
const CONVERGE_BOUND: Duration = Duration::from_secs(10);

/// How many topologies this process has made, for names that do not clash.
static COUNT: AtomicU32 = AtomicU32::new(0);

/// An IP version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// An address's.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The client's address of this family.
    pub fn client(self) -> IpAddr {
        match self {
            Self::V4 => CLIENT.into(),
            Self::V6 => CLIENT6.into(),
        }
    }
}

/// What hosts are laid on.
#[derive(Debug, Clone, Copy)]
pub struct Ground {
    /// How many hosts.
    pub hosts: u8,
    /// The MTU of everybody's `eth0`, in bytes.
    pub mtu: u32,
    /// The family of the addresses that the hosts advertise; they have addresses of both.
    pub underlay: Family,
}

impl Ground {
    /// So many hosts on Ethernet and IPv4.
    pub fn of(hosts: u8) -> Self {
        Self { hosts, mtu: 1500, underlay: Family::V4 }
    }
}

/// Hosts and one client on an underlay: a bridge in a namespace of its own, so that the machine's own namespace is not
/// touched at all. Dropping it ends the agents and removes everything.
pub struct Topology {
    // In the order in which they have to go: processes, namespaces, files.
    hosts: Vec<Host>,
    client: Netns,
    underlay: Netns,
    folder: Folder,
}

impl Topology {
    /// `hosts` hosts, named h1, h2 and so on, with agents not yet started, on an underlay with `mtu`.
    pub fn new(hosts: u8, mtu: u32) -> Result<Self> {
        Self::lay(Ground { mtu, ..Ground::of(hosts) })
    }

    /// As [`Topology::new`], on any ground.
    pub fn lay(Ground { hosts, mtu, underlay: family }: Ground) -> Result<Self> {
        ensure!(crate::is_root(), "namespaces need root: run this as root");
        sweep()?;
        let weft = beside_us("weft")?;
        let prefix = format!("weft-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = Folder::create(env::temp_dir().join(&prefix))?;
        let underlay = Netns::create(format!("{prefix}-net"))?;
        underlay.ip(&format!("link add br0 mtu {mtu} type bridge"))?;
        underlay.ip("link set br0 up")?;
        let client = Netns::create(format!("{prefix}-client"))?;
        plug(&underlay, &client, "client", [CLIENT.into(), CLIENT6.into()], mtu)?;
        let mut topology = Self { hosts: Vec::new(), client, underlay, folder };
        for number in 1..=hosts {
            let name = format!("h{number}");
            let netns = Netns::create(format!("{prefix}-{name}"))?;
            let addresses = [
                Ipv4Addr::new(192, 0, 2, 10 + number).into(),
                Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10 + u16::from(number)).into(),
            ];
            plug(&topology.underlay, &netns, &name, addresses, mtu)?;
            let folder = topology.folder.path.join(&name);
            topology.hosts.push(Host::new(netns, name, addresses, family, folder, weft.clone())?);
        }
        Ok(topology)
    }

    /// Hosts whose agents form one cluster, every one of them seen as ready by every other.
    pub fn cluster(hosts: u8) -> Result<Self> {
        Self::cluster_on(Ground::of(hosts))
    }

    /// As [`Topology::cluster`], on any ground.
    pub fn cluster_on(ground: Ground) -> Result<Self> {
        let mut topology = Self::lay(ground)?;
        for host in topology.hosts_mut() {
            host.start_agent()?;
        }
        topology.form_cluster()?;
        Ok(topology)
    }

    /// [`Topology::cluster`] of three.
    pub fn three_nodes() -> Result<Self> {
        Self::cluster(3)
    }

    /// `weft init` on the first host, `weft join` on all others, then waits until every node is ready in everybody's eyes.
    pub fn form_cluster(&self) -> Result<()> {
        self.form_cluster_by("init")
    }

    /// As [`Topology::form_cluster`], with other words on the first host.
    pub fn form_cluster_by(&self, init: &str) -> Result<()> {
        let (first, others) = self.hosts.split_first().ok_or_else(|| anyhow!("a topology without hosts"))?;
        first.weft_ok(init)?;
        let join = self.join_words()?;
        for host in others {
            host.weft_ok(&join)?;
        }
        self.wait_ready()
    }

    /// The words after `weft` that let a node join, from the first node's `weft token`.
    pub fn join_words(&self) -> Result<String> {
        let token = self.host(0).weft_json("token")?;
        let word =
            |key: &str| token[key].as_str().ok_or_else(|| anyhow!("`weft token -o json` names no {key}: {token}"));
        Ok(format!("join {} --token {}", word("address")?, word("token")?))
    }

    /// Waits until `node ls` on every host shows every node ready.
    pub fn wait_ready(&self) -> Result<()> {
        for host in &self.hosts {
            let what = format!("{} sees {} ready nodes", host.name(), self.hosts.len());
            wait_until(what, CONVERGE_BOUND, || {
                let rows = host.weft_rows("node ls")?;
                let ready = rows.iter().filter(|row| row["status"] == "ready").count();
                ensure!(ready == self.hosts.len() && rows.len() == ready, "`node ls`: {}", serde_json::json!(rows));
                Ok(())
            })?;
        }
        Ok(())
    }

    /// Waits until every node's kernel balances over exactly `replicas` at its published `port`: seen from the client, two
    /// rounds of requests in which every replica answers twice.
    pub fn wait_balanced(&self, port: u16, replicas: &[&str]) -> Result<()> {
        self.wait_balanced_in(Family::V4, port, replicas)
    }

    /// As [`Topology::wait_balanced`], by the nodes' addresses of a family.
    pub fn wait_balanced_in(&self, family: Family, port: u16, replicas: &[&str]) -> Result<()> {
        for host in &self.hosts {
            let what = format!("{} balances port {port} over {} replicas", host.name(), replicas.len());
            wait_until(what, CONVERGE_BOUND, || {
                let mut answers = Vec::new();
                self.client.enter(|| {
                    for _ in 0..2 * replicas.len() {
                        answers.push(ask(host.door(family, port), Duration::from_secs(1))?.replica);
                    }
                    Ok(())
                })?;
                for replica in replicas {
                    let count = answers.iter().filter(|answer| answer == replica).count();
                    ensure!(count == 2, "{replica} answered {count} of {} requests: {answers:?}", answers.len());
                }
                Ok(())
            })?;
        }
        Ok(())
    }

    /// The usual service: network `blue`, service `web` published at 80, and replicas `web-1` to `web-COUNT` that answer at
    /// 8080, spread over the hosts in turn.
    pub fn web(&self, count: usize) -> Result<Vec<Container>> {
        self.web_in(&[Family::V4], count)
    }

    /// As [`Topology::web`], with a network of these families.
    pub fn web_in(&self, families: &[Family], count: usize) -> Result<Vec<Container>> {
        let subnets = families.iter().map(|family| match family {
            Family::V4 => "--subnet 10.42.0.0/16",
            Family::V6 => "--subnet fd00:42::/64",
        });
        let subnets = subnets.collect::<Vec<_>>().join(" ");
        self.host(0).weft_ok(&format!("network create blue {subnets}"))?;
        self.host(0).weft_ok("service create web --network blue --publish 80:8080")?;
        let mut replicas = Vec::new();
        for number in 0..count {
            let host = &self.hosts[number % self.hosts.len()];
            self.wait_known(host, "service", "web")?;
            replicas.push(host.serve("blue", &format!("web-{}", number + 1), "--service web", 8080)?);
        }
        let names: Vec<&str> = replicas.iter().map(Container::name).collect();
        families.iter().try_for_each(|family| self.wait_balanced_in(*family, 80, &names))?;
        Ok(replicas)
    }

    /// Waits until `host` has heard of a thing: `("network", "blue")`.
    pub fn wait_known(&self, host: &Host, kind: &str, name: &str) -> Result<()> {
        let what = format!("{} knows the {kind} {name}", host.name());
        wait_until(what, CONVERGE_BOUND, || host.weft_ok(&format!("{kind} inspect {name}")).map(drop))
    }

    /// A service's VIP of the first family.
    pub fn vip(&self, service: &str, port: u16) -> Result<SocketAddr> {
        let row = self.host(0).weft_json(&format!("service inspect {service}"))?;
        let word = row["vips"][0].as_str().ok_or_else(|| anyhow!("the service {service} has no VIP: {row}"))?;
        Ok(SocketAddr::new(word.parse().with_context(|| format!("{word:?} is no address"))?, port))
    }

    /// Host number `index`, from 0.
    pub fn host(&self, index: usize) -> &Host {
        &self.hosts[index]
    }

    /// As [`Topology::host`], to start and stop its agent.
    pub fn host_mut(&mut self, index: usize) -> &mut Host {
        &mut self.hosts[index]
    }

    /// All hosts.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// All hosts, to start and stop their agents.
    pub fn hosts_mut(&mut self) -> &mut [Host] {
        &mut self.hosts
    }

    /// The client's namespace.
    pub fn client(&self) -> &Netns {
        &self.client
    }

    /// The underlay's namespace, with a bridge `br0` and one port a host, named after it.
    pub fn underlay(&self) -> &Netns {
        &self.underlay
    }

    /// Pulls host number `index`'s cable: it keeps its address and hears and reaches nobody.
    pub fn cut(&self, index: usize) -> Result<()> {
        self.underlay.ip(&format!("link set {} down", self.host(index).name())).map(drop)
    }

    /// Plugs the cable in again.
    pub fn heal(&self, index: usize) -> Result<()> {
        self.underlay.ip(&format!("link set {} up", self.host(index).name())).map(drop)
    }

    /// The folder that holds everything of this topology's files.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder.path
    }
}

/// A temporary folder, removed with this.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn create(path: PathBuf) -> Result<Self> {
        held().folders.insert(path.clone());
        fs::create_dir_all(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(Self { path })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.path) {
            eprintln!("warning: {} stays: {error}", self.path.display());
        }
        held().folders.remove(&self.path);
    }
}

/// Connects a namespace to the underlay's bridge: `eth0` inside, `port` on the bridge.
fn plug(underlay: &Netns, netns: &Netns, port: &str, addresses: [IpAddr; 2], mtu: u32) -> Result<()> {
    underlay.ip(&format!(
        "link add {port} mtu {mtu} master br0 type veth peer name eth0 mtu {mtu} netns {}",
        netns.name()
    ))?;
    underlay.ip(&format!("link set {port} up"))?;
    let [address, address6] = addresses;
    netns.ip(&format!("addr add {address}/24 dev eth0"))?;
    // Without duplicate address detection (RFC 4862, 5.4), which would keep the address tentative for a second.
    netns.ip(&format!("addr add {address6}/64 dev eth0 nodad"))?;
    netns.ip("link set eth0 up")?;
    Ok(())
}

/// A program of this workspace: it lies in the same target folder as the running test (one level up from `deps`) or task.
pub(crate) fn beside_us(name: &str) -> Result<PathBuf> {
    let here = env::current_exe().context("the running program's own path is unknown")?;
    let found = here.ancestors().skip(1).take(2).map(|folder| folder.join(name)).find(|path| path.is_file());
    found.ok_or_else(|| anyhow!("{name} has not been built beside {}: cargo build --workspace --bins", here.display()))
}
