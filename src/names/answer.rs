use std::net::IpAddr;

use super::{
    reverse,
    zone::{Asker, Host, Owner, Zone},
};
use crate::{
    mesh::mix,
    model::{Endpoint, EndpointId, EndpointMode, L4, NetworkId, PublishedPort, Service},
};

/// How long an answer may be kept, in seconds. A replica that goes is named for so long at most by those who keep answers; a
/// VIP stays, whichever replicas come and go.
pub const TTL_S: u32 = 5;

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// The name's labels, the leftmost first, without the root, in lower case.
    pub labels: &'a [&'a [u8]],
    /// The records wanted.
    pub kind: Kind,
}

/// The types of records that are told apart (RFC 1035, 3.2; RFC 3596; RFC 2782).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// IPv4 addresses.
    A,
    /// IPv6 addresses.
    Aaaa,
    /// An address's name.
    Ptr,
    /// Hosts and ports of a service.
    Srv,
    /// The zone's own record.
    Soa,
    /// Whatever there is.
    Any,
    /// A type of which we have no records.
    Other,
}

/// What is known of a name.
#[derive(Debug, PartialEq, Eq)]
pub enum Answer {
    /// Not for this asker: a stranger, or a name outside the cluster asked for from networks that have no way out.
    Refused,
    /// The name is none of ours: somebody else may know it.
    Outside,
    /// Nothing has this name, which lies in a zone of ours. The zone's name is the last `apex` labels of the question's.
    NoSuchName {
        /// Labels of the zone's name.
        apex: usize,
    },
    /// The name exists.
    Records {
        /// Its records of the wanted type; none is an answer, too.
        records: Vec<Data>,
        /// Addresses of the names in the records.
        additional: Vec<(String, IpAddr)>,
        /// As in [`Answer::NoSuchName`].
        apex: usize,
    },
}

/// A record's data; its name is the question's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Data {
    /// An A or AAAA record.
    Address(IpAddr),
    /// A PTR record: the name of the address, complete but for the dot at its end.
    Name(String),
    /// An SRV record, all of one priority.
    Service {
        /// The share of connections.
        weight: u16,
        /// The port at the target.
        port: u16,
        /// The target's name, complete but for the dot at its end.
        target: String,
    },
    /// The SOA record of one of our zones.
    Soa,
}

/// Names outside the reverse tree are their own zones by their last label: `web`, `blue`.
const FORWARD_APEX: usize = 1;

impl Zone {
    /// Answers a question from an address. `turn` ([`turn`]) chooses which of several records comes first; it should be random, for many
    /// clients take the first, and A and AAAA are asked for by turns.
    pub fn answer(&self, asker: IpAddr, question: Question<'_>, turn: u64) -> Answer {
        let Some(asker) = self.asker(asker) else { return Answer::Refused };
        let outside = if asker.has_way_out { Answer::Outside } else { Answer::Refused };
        let Question { labels, kind } = question;
        if let [.., b"in-addr" | b"ip6", b"arpa"] = labels {
            return self.reverse(asker, labels, kind).unwrap_or(outside);
        }
        let found = asker.networks.iter().find_map(|network| self.within(*network, labels, kind));
        // The host's own resolvers may know a single label, by their search domains or by other means; and of longer names they
        // are the only ones to know anything.
        let Some(answer) = found.or_else(|| self.qualified(asker, labels, kind)) else { return outside };
        rotated(answer, turn)
    }

    /// `NAME.NETWORK` of one of the asker's networks, which is a zone of ours with all that is in it.
    fn qualified(&self, asker: &Asker, labels: &[&[u8]], kind: Kind) -> Option<Answer> {
        let (last, rest) = labels.split_last()?;
        let network = self.network_named(text(last)?).filter(|network| asker.networks.contains(network))?;
        Some(match rest {
            [] if matches!(kind, Kind::Soa | Kind::Any) => records(vec![Data::Soa]),
            // Empty, but with names beneath (RFC 8020).
            [] => records(vec![]),
            _ => match self.within(network, rest, kind) {
                Some(answer) => answer,
                None if rest == [b"tasks"] => records(vec![]),
                None => Answer::NoSuchName { apex: FORWARD_APEX },
            },
        })
    }

    /// A name in a network, if it is known there.
    fn within(&self, network: NetworkId, labels: &[&[u8]], kind: Kind) -> Option<Answer> {
        match labels {
            [name] => Some(match self.host(network, text(name)?)? {
                Host::Service(service) => match service.endpoint_mode {
                    EndpointMode::Vip => records(of_kind(service.vips.iter().copied(), kind)),
                    EndpointMode::Dnsrr => self.addresses(self.balanced(service.id), kind),
                },
                Host::Endpoints(ids) => self.addresses(ids, kind),
            }),
            [b"tasks", service] => {
                let service = self.service(network, text(service)?)?;
                Some(self.addresses(self.balanced(service.id), kind))
            }
            [port, protocol, service] => {
                let service = self.service(network, text(service)?)?;
                let (port, protocol) = (text(port)?, text(protocol)?);
                match port_of(service, port, protocol) {
                    Some(port) => self.srv(service, port, kind),
                    // Nobody else knows the ports of a service of ours.
                    None if port.starts_with('_') && protocol_of(protocol).is_some() => {
                        Some(Answer::NoSuchName { apex: FORWARD_APEX })
                    }
                    None => None,
                }
            }
            [protocol, service] => {
                let service = self.service(network, text(service)?)?;
                let protocol = protocol_of(text(protocol)?)?;
                service.ports.iter().any(|port| port.protocol == protocol).then(|| records(vec![]))
            }
            _ => None,
        }
    }

    fn addresses(&self, ids: &[EndpointId], kind: Kind) -> Answer {
        records(of_kind(self.endpoints(ids).flat_map(|endpoint| endpoint.addresses.iter().copied()), kind))
    }

    fn endpoints<'a>(&'a self, ids: &'a [EndpointId]) -> impl Iterator<Item = &'a Endpoint> {
        ids.iter().filter_map(|id| self.cluster.endpoints.get(id))
    }

    /// Each replica by name. A target has to have addresses of its own, so it is an endpoint and not the VIP (RFC 2782 forbids
    /// aliases): whoever asks for SRV wants to choose for himself.
    fn srv(&self, service: &Service, port: &PublishedPort, kind: Kind) -> Option<Answer> {
        if !matches!(kind, Kind::Srv | Kind::Any) {
            return Some(records(vec![]));
        }
        let (mut targets, mut additional) = (Vec::new(), Vec::new());
        for replica in self.endpoints(self.balanced(service.id)) {
            let target = self.full_name(replica.name.as_str(), replica.network)?;
            additional.extend(replica.addresses.iter().map(|address| (target.clone(), *address)));
            targets.push(Data::Service { weight: replica.weight, port: port.target.get(), target });
        }
        Some(Answer::Records { records: targets, additional, apex: FORWARD_APEX })
    }

    /// The name of an address of the asker's networks. All other addresses of ours have no name, and nobody else is asked about
    /// them; nothing for addresses that are not ours.
    fn reverse(&self, asker: &Asker, labels: &[&[u8]], kind: Kind) -> Option<Answer> {
        let part = reverse::addresses_of(labels)?;
        let (prefix, network) = self.prefix_around(&part)?;
        let apex = reverse::labels_of(prefix).min(labels.len());
        if part.prefix_len() < part.max_prefix_len() {
            return Some(Answer::Records { records: vec![], additional: vec![], apex });
        }
        if !asker.networks.contains(&network) {
            return Some(Answer::NoSuchName { apex });
        }
        let name = match self.owner(part.addr()) {
            Some(Owner::Endpoint(id)) => self.cluster.endpoints.get(&id).map(|endpoint| &endpoint.name),
            Some(Owner::Vip(id)) => self.cluster.services.get(&id).map(|service| &service.name),
            None => None,
        };
        let Some(name) = name.and_then(|name| self.full_name(name.as_str(), network)) else {
            return Some(Answer::NoSuchName { apex });
        };
        let records = if matches!(kind, Kind::Ptr | Kind::Any) { vec![Data::Name(name)] } else { vec![] };
        Some(Answer::Records { records, additional: vec![], apex })
    }

    fn full_name(&self, name: &str, network: NetworkId) -> Option<String> {
        Some(format!("{name}.{}", self.cluster.networks.get(&network)?.name))
    }
}

fn records(records: Vec<Data>) -> Answer {
    Answer::Records { records, additional: vec![], apex: FORWARD_APEX }
}

fn of_kind(addresses: impl Iterator<Item = IpAddr>, kind: Kind) -> Vec<Data> {
    let is_wanted = |address: &IpAddr| match kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Any => true,
        Kind::Ptr | Kind::Srv | Kind::Soa | Kind::Other => false,
    };
    addresses.filter(is_wanted).map(Data::Address).collect()
}

/// A turn for [`Zone::answer`] from the number of a question: two that follow on each other differ in everything.
pub fn turn(question: u64) -> u64 {
    mix(question)
}

/// With another record first.
fn rotated(answer: Answer, turn: u64) -> Answer {
    match answer {
        Answer::Records { mut records, additional, apex } if records.len() > 1 => {
            let first = turn % records.len() as u64;
            records.rotate_left(usize::try_from(first).unwrap_or_default());
            Answer::Records { records, additional, apex }
        }
        other => other,
    }
}

/// The port that `_8080` means: the one in the container, or else the one that is published, which leads to the one in the
/// container. Names of ports, such as `_http`, are not known: nobody has told us which port would be meant.
fn port_of<'a>(service: &'a Service, port: &str, protocol: &str) -> Option<&'a PublishedPort> {
    let number: u16 = port.strip_prefix('_')?.parse().ok()?;
    let protocol = protocol_of(protocol)?;
    let ports = || service.ports.iter().filter(|port| port.protocol == protocol);
    let by_target = ports().find(|port| port.target.get() == number);
    by_target.or_else(|| ports().find(|port| port.published.get() == number))
}

fn protocol_of(label: &str) -> Option<L4> {
    label.strip_prefix('_')?.parse().ok()
}

/// Names of ours are text; any other label is nobody's.
fn text(label: &[u8]) -> Option<&str> {
    std::str::from_utf8(label).ok()
}
