//! Where the kernel answers a published port: the map that leads to its chain, and the slots that are the chain's own.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
};

use crate::model::{Bind, ChainName, Cluster, Family, L4, PortMode, PublishedPort, SetKey, SetName, Slot};

/// How many services may have the same port, each at an address or device of its own: as many as there are maps to keep their
/// slots apart in. The replicas of more are not reached, and who calls is told so at once.
const BINDS_MAX: usize = 256;

/// The places where each port that the kernel serves answers, in one order on all nodes.
pub(super) struct Doors(BTreeMap<(u16, L4), BTreeSet<Bind>>);

/// A port's own place among all.
pub(super) struct Door {
    /// The chain.
    pub(super) chain: ChainName,
    /// The map that leads to the chain, and its key.
    pub(super) entrance: (SetName, SetKey),
    /// The shard of the slots; nothing if none is left.
    pub(super) shard: Option<u8>,
    /// The first slot.
    pub(super) first: Slot,
    /// The families that it can be called in.
    pub(super) families: &'static [Family],
}

impl Doors {
    /// Of all services.
    pub(super) fn of(cluster: &Cluster) -> Self {
        let mut doors: BTreeMap<_, BTreeSet<Bind>> = BTreeMap::new();
        for port in cluster.services.values().flat_map(|service| &service.ports).filter(|port| is_kernels(port)) {
            doors.entry((port.published.get(), port.protocol)).or_default().insert(port.bind);
        }
        Self(doors)
    }

    /// Where the kernel answers a port; nothing for what the agent's own listener answers.
    pub(super) fn door(&self, port: &PublishedPort) -> Option<Door> {
        if !is_kernels(port) {
            return None;
        }
        let (protocol, published) = (port.protocol, port.published.get());
        let (entrance, families): (_, &[Family]) = match port.bind {
            Bind::Any => ((SetName::Ports, SetKey::Port(protocol, published)), &Family::BOTH),
            Bind::Address(address) => (
                (SetName::Bound(Family::of(address)), SetKey::AddressPort(address, protocol, published)),
                match Family::of(address) {
                    Family::V4 => &[Family::V4],
                    Family::V6 => &[Family::V6],
                },
            ),
            Bind::Device(device) => {
                ((SetName::DevicePorts, SetKey::DevicePort(device, protocol, published)), &Family::BOTH)
            }
        };
        // The slots of one port and protocol have the same numbers, so each place has them in a map of its own.
        let binds = self.0.get(&(published, protocol))?;
        let place = binds.iter().position(|bind| *bind == port.bind)?;
        let shard =
            (place < BINDS_MAX).then(|| shard_of(published).wrapping_add(place.to_be_bytes()[size_of::<usize>() - 1]));
        Some(Door {
            chain: ChainName::Port(protocol, published, port.bind),
            entrance,
            shard,
            first: first_slot(published, protocol),
            families,
        })
    }
}

/// Whether the kernel answers it: neither what the agent carries nor what is called by loopback alone, whose source address a
/// connection could not take along.
pub(super) fn is_kernels(port: &PublishedPort) -> bool {
    let is_loopback = matches!(port.bind, Bind::Address(address) if is_loopback(address));
    port.mode == PortMode::Kernel && !is_loopback
}

fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

/// A published port's first slot: the port in the high 16 bits, the protocol in the next two, 14 for the turn.
fn first_slot(published: u16, protocol: L4) -> Slot {
    let protocol = match protocol {
        L4::Tcp => 0,
        L4::Udp => 1,
        L4::Sctp => 2,
    };
    Slot(u32::from(published) << 16 | protocol << 14)
}

/// 256 maps: by measurement the number at which neither the walk of a map's elements (when a rule is bound to it) nor
/// the walk of the list of maps (when one is looked up) shows, up to 10,000 services.
pub(super) fn shard_of(number: u16) -> u8 {
    number.to_be_bytes()[1]
}
