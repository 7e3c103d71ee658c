//! The same path without weft, as a person would lay it: VXLAN between two hosts, routed, no bridge, and not one rule but
//! the DNAT of the front door.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use netns_tests::{Netns, Process, Topology};

use crate::measure::PORT;

/// The serving container's address.
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 142, 1, 2);
const REMOTE: Ipv4Addr = Ipv4Addr::new(10, 142, 2, 2);

/// Two hosts with a container each, a tunnel between them, and port 80 of the first leading to its container.
pub(crate) struct ByHand {
    // In the order in which they have to go.
    _program: Process,
    server: Netns,
    remote: Netns,
    topology: Topology,
}

impl ByHand {
    /// Makes it, with the replica answering.
    pub(crate) fn lay() -> Result<Self> {
        let topology = Topology::new(2, 1500)?;
        for (here, there) in [(0, 1), (1, 0)] {
            let (host, peer) = (topology.host(here), topology.host(there));
            let netns = host.netns();
            let local = host.address();
            netns.sysctl("net/ipv4/ip_forward", "1")?;
            netns.sysctl("net/ipv4/conf/all/rp_filter", "0")?;
            netns.sysctl("net/ipv4/conf/default/rp_filter", "0")?;
            netns.ip(&format!(
                "link add vx address {} mtu 1450 type vxlan id 142 dstport 7789 local {local} nolearning",
                vtep_mac(here)
            ))?;
            netns.ip(&format!("addr add {} dev vx", gateway(here)))?;
            netns.ip("link set vx up")?;
            netns.exec(&format!("bridge fdb append {} dev vx dst {}", vtep_mac(there), peer.address()))?;
            netns.ip(&format!("neigh replace {} lladdr {} dev vx nud permanent", gateway(there), vtep_mac(there)))?;
            netns.ip(&format!("route add {} via {} dev vx onlink", block(there), gateway(there)))?;
        }
        let server = container(&topology, 0, "server", SERVER)?;
        let remote = container(&topology, 1, "remote", REMOTE)?;
        let first = topology.host(0);
        first.netns().exec("nft add table ip door")?;
        first.netns().exec("nft add chain ip door pre { type nat hook prerouting priority dstnat ; }")?;
        first
            .netns()
            .exec(&format!("nft add rule ip door pre fib daddr type local tcp dport 80 dnat to {SERVER}:{PORT}"))?;
        let program = netns_tests::start_replica(&server, "by-hand", PORT)?;
        Ok(Self { _program: program, server, remote, topology })
    }

    /// The container that serves.
    pub(crate) fn server(&self) -> &Netns {
        &self.server
    }

    /// The container on the other host.
    pub(crate) fn remote(&self) -> &Netns {
        &self.remote
    }

    /// The client on the underlay.
    pub(crate) fn client(&self) -> &Netns {
        self.topology.client()
    }

    /// The published port.
    pub(crate) fn front_door(&self) -> SocketAddr {
        self.topology.host(0).at(80)
    }
}

/// A container as weft makes one: a veth pair, a full-length address, everything else by way of a link-local gateway.
fn container(topology: &Topology, host: usize, name: &str, address: Ipv4Addr) -> Result<Netns> {
    let host = topology.host(host).netns();
    let netns = Netns::create(format!("{}-{name}", host.name()))?;
    host.ip(&format!(
        "link add {name} address 02:00:00:00:00:fe mtu 1450 type veth peer name eth0 mtu 1450 netns {}",
        netns.name()
    ))?;
    host.ip(&format!("link set {name} up"))?;
    netns.ip(&format!("addr add {address}/32 dev eth0"))?;
    netns.ip("link set eth0 up")?;
    netns.ip("neigh replace 169.254.1.1 lladdr 02:00:00:00:00:fe dev eth0 nud permanent")?;
    netns.ip("route add default via 169.254.1.1 dev eth0 onlink")?;
    host.ip(&format!("route add {address}/32 dev {name}"))?;
    Ok(netns)
}

fn gateway(host: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 142, if host == 0 { 1 } else { 2 }, 1)
}

fn block(host: usize) -> &'static str {
    if host == 0 { "10.142.1.0/24" } else { "10.142.2.0/24" }
}

fn vtep_mac(host: usize) -> &'static str {
    if host == 0 { "02:00:00:00:01:01" } else { "02:00:00:00:01:02" }
}
