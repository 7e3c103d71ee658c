use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;

use crate::{Family, Host, Netns, Process, testkit, wait_until};

/// From the start of a container's program to its first answer.
const SERVE_BOUND: Duration = Duration::from_secs(5);

/// A namespace attached to a network, with or without a replica's program in it.
pub struct Container {
    netns: Netns,
    name: String,
    addresses: Vec<IpAddr>,
    program: Option<Process>,
}

impl Container {
    /// Its endpoint's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its address on its network, IPv4 where it has one.
    pub fn address(&self) -> IpAddr {
        self.addresses[0]
    }

    /// Its address of a family.
    pub fn address_of(&self, family: Family) -> Result<IpAddr> {
        let found = self.addresses.iter().find(|address| Family::of(**address) == family);
        found.copied().ok_or_else(|| anyhow!("{} has no {family:?} address: {:?}", self.name, self.addresses))
    }

    /// A port at its address.
    pub fn at(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(), port)
    }

    /// Its namespace.
    pub fn netns(&self) -> &Netns {
        &self.netns
    }

    /// Takes the replica's program out of it, which ends when the program is dropped.
    pub fn stop_program(&mut self) -> Option<Process> {
        self.program.take()
    }

    /// Starts the replica's program in it.
    pub fn start_replica(&mut self, port: u16) -> Result<()> {
        self.program = Some(start_replica(&self.netns, &self.name, port)?);
        Ok(())
    }
}

impl Host {
    /// A container on this host: a namespace, attached as `name` with further `words` such as `--service web`.
    pub fn attach(&self, network: &str, name: &str, words: &str) -> Result<Container> {
        let netns = Netns::create(format!("{}-{name}", self.netns().name()))?;
        let path = netns.path();
        let line = format!("attach --netns {} --network {network} --name {name} {words}", path.display());
        self.weft_ok(&line)?;
        let addresses = self.endpoint_addresses(network, name)?;
        Ok(Container { netns, name: name.to_owned(), addresses, program: None })
    }

    /// As [`Host::attach`], with the replica's program answering on `port` before it is attached: no request finds a
    /// replica that does not listen yet.
    pub fn serve(&self, network: &str, name: &str, words: &str, port: u16) -> Result<Container> {
        let netns = Netns::create(format!("{}-{name}", self.netns().name()))?;
        let program = start_replica(&netns, name, port)?;
        let path = netns.path();
        self.weft_ok(&format!("attach --netns {} --network {network} --name {name} {words}", path.display()))?;
        let addresses = self.endpoint_addresses(network, name)?;
        Ok(Container { netns, name: name.to_owned(), addresses, program: Some(program) })
    }

    fn endpoint_addresses(&self, network: &str, name: &str) -> Result<Vec<IpAddr>> {
        let row = self.weft_json(&format!("endpoint inspect {network}/{name}"))?;
        let words: Vec<&str> = row["addresses"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        ensure!(!words.is_empty(), "the endpoint {name} has no address: {row}");
        let parse = |word: &&str| {
            word.split('/').next().unwrap_or(word).parse().with_context(|| format!("{word:?} is no address"))
        };
        words.iter().map(parse).collect()
    }
}

/// Starts a replica's program whose `/health` is answered as the file `mood` says, see [`testkit::serve_moody`], and waits until
/// it answers.
pub fn start_moody(netns: &Netns, name: &str, port: u16, mood: &Path) -> Result<Process> {
    let mut command = Command::new(crate::topology::beside_us("weft-testkit")?);
    command.args(["moody", &port.to_string(), name]).arg(mood).stdin(Stdio::null()).stdout(Stdio::null());
    let here = SocketAddr::from(([127, 0, 0, 1], port));
    netns.enter(|| {
        let process = Process::start(format!("the moody replica {name}"), command)?;
        wait_until(format!("the replica {name} answers"), SERVE_BOUND, || testkit::ask(here, SERVE_BOUND))?;
        Ok(process)
    })
}

/// Starts the replica's program in a namespace and waits until it answers there.
pub fn start_replica(netns: &Netns, name: &str, port: u16) -> Result<Process> {
    let mut command = Command::new(crate::topology::beside_us("weft-testkit")?);
    command.args(["serve", &port.to_string(), name]).stdin(Stdio::null()).stdout(Stdio::null());
    let here = SocketAddr::from(([127, 0, 0, 1], port));
    netns.enter(|| {
        let process = Process::start(format!("the replica {name}"), command)?;
        wait_until(format!("the replica {name} answers"), SERVE_BOUND, || testkit::ask(here, SERVE_BOUND))?;
        Ok(process)
    })
}
