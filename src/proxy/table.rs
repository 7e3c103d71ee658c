use std::{collections::BTreeSet, fmt, net::IpAddr, num::NonZeroU16, sync::Arc};

use super::CountKey;
use crate::model::{Bind, EndpointId, L4, ProxyMode};

/// Every door that should be open, and what lies behind each.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Table {
    /// The doors, no two at one place.
    pub doors: Vec<Door>,
    /// What there is to count.
    pub known: Known,
}

/// What there is, with or without a door at the moment: of what is gone the counters are forgotten.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Known {
    /// The published ports.
    pub ports: BTreeSet<CountKey>,
    /// The replicas.
    pub replicas: BTreeSet<EndpointId>,
}

/// One listening socket and the replicas behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Door {
    /// Where it is.
    pub place: Place,
    /// The service's name, for people and counters.
    pub service: String,
    /// Whether the kernel carries the same port at the host's other addresses.
    pub beside_kernel: bool,
    /// PROXY headers that are sent and accepted.
    pub headers: ProxyMode,
    /// The replicas that take connections.
    pub targets: Vec<Target>,
    /// How they are chosen.
    pub spread: Spread,
}

/// A place to listen at; it is also the name under which the service manager keeps its socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// On which addresses.
    pub bind: Bind,
    /// The port.
    pub port: NonZeroU16,
    /// TCP or UDP; nothing listens for SCTP.
    pub protocol: L4,
}

/// As few characters as can be, none of those that a name in the service manager's store may not have (`:` and control
/// characters, `sd_notify(3)`).
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bind, port, protocol } = self;
        match bind {
            Bind::Any => write!(f, "weft-{protocol}-{port}"),
            Bind::Address(IpAddr::V4(address)) => write!(f, "weft-{protocol}-{port}-at-{address}"),
            Bind::Address(IpAddr::V6(address)) => {
                write!(f, "weft-{protocol}-{port}-at-{}", address.to_string().replace(':', "_"))
            }
            Bind::Device(device) => {
                let device: String =
                    device.as_str().chars().map(|c| if c.is_ascii_graphic() { c } else { '?' }).collect();
                write!(f, "weft-{protocol}-{port}-on-{device}")
            }
        }
    }
}

/// A replica behind a door.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Which one.
    pub id: EndpointId,
    /// Its addresses; the one of the client's family is preferred.
    pub addresses: Vec<IpAddr>,
    /// Its port.
    pub port: NonZeroU16,
    /// Its share.
    pub weight: u16,
}

/// How a new connection finds its replica. The rounds are indices into [`Door::targets`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spread {
    /// Through this round in turn.
    InTurn(Arc<[u16]>),
    /// Anywhere in this round.
    ByChance(Arc<[u16]>),
    /// To whoever has the fewest open connections for its weight.
    FewestOpen,
    /// To the place in this round to which the client's address hashes.
    BySource(Arc<[u16]>),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_service_managers() {
        let place = |bind| Place { bind, port: NonZeroU16::new(80).unwrap(), protocol: L4::Tcp }.to_string();
        for (bind, name) in [
            (Bind::Any, "weft-tcp-80"),
            (Bind::Address("192.0.2.1".parse().unwrap()), "weft-tcp-80-at-192.0.2.1"),
            (Bind::Address("2001:db8::1".parse().unwrap()), "weft-tcp-80-at-2001_db8__1"),
            (Bind::Device("eth0".parse().unwrap()), "weft-tcp-80-on-eth0"),
        ] {
            assert_eq!(place(bind), name);
        }
    }
}
