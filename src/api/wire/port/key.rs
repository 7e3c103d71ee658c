//! What names a published port, and how a service's ports are changed by such names.

use std::{net::IpAddr, num::NonZeroU16};

use serde::{Deserialize, Serialize};

use super::{PortSpec, Protocol, bind, bind_fields};
use crate::model::{Bind, PublishedPort};

/// What tells a published port from every other of the cluster: `[ADDR:|DEVICE:]PUBLISHED[/tcp|udp|sctp]` as text,
/// `{"published":8080,"protocol":"tcp"}` in JSON, with `address` or `device` where it is bound to one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "KeyFields", into = "KeyFields")]
pub struct PortKey {
    /// Where it answers on each node.
    pub bind: Bind,
    /// The port on every node.
    pub published: NonZeroU16,
    /// The protocol.
    pub protocol: Protocol,
}

/// [`PortKey`]'s fields in JSON.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFields {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    published: NonZeroU16,
    #[serde(default)]
    protocol: Protocol,
}

impl PortKey {
    /// The one that is meant: that which is bound so, or, if the key names neither address nor device, the only one with its
    /// number and protocol.
    pub fn find<'a>(&self, ports: &'a [PortSpec]) -> Option<&'a PortSpec> {
        let same: Vec<&PortSpec> = self.candidates(ports).collect();
        let exact = same.iter().copied().find(|port| port.bind == self.bind);
        exact.or(match same.as_slice() {
            [port] if self.bind == Bind::Any => Some(*port),
            _ => None,
        })
    }

    /// Those with its number and protocol, wherever they answer.
    pub fn candidates<'a>(&self, ports: &'a [PortSpec]) -> impl Iterator<Item = &'a PortSpec> {
        let (published, protocol) = (self.published.get(), self.protocol);
        ports.iter().filter(move |port| (port.published, port.protocol) == (published, protocol))
    }
}

impl From<&PublishedPort> for PortKey {
    fn from(port: &PublishedPort) -> Self {
        Self { bind: port.bind, published: port.published, protocol: port.protocol.into() }
    }
}

impl TryFrom<KeyFields> for PortKey {
    type Error = String;

    fn try_from(fields: KeyFields) -> Result<Self, String> {
        let KeyFields { address, device, published, protocol } = fields;
        Ok(Self { bind: bind(address, device.as_deref())?, published, protocol })
    }
}

impl From<PortKey> for KeyFields {
    fn from(key: PortKey) -> Self {
        let (address, device) = bind_fields(key.bind);
        Self { address, device, published: key.published, protocol: key.protocol }
    }
}

/// The ports of a service that had `ports`: `replaced` in their place, then less `removed`, then with `added`. What is added
/// takes the place of one that answers at the same place, and a choice that is left to the cluster and was made before is not
/// made anew.
pub(in crate::api::wire) fn changed_ports(
    ports: &[PortSpec],
    replaced: Option<&[PortSpec]>,
    removed: &[PortKey],
    added: &[PortSpec],
) -> Vec<PortSpec> {
    let ports = replaced.unwrap_or(ports);
    let removed: Vec<&PortSpec> = removed.iter().filter_map(|key| key.find(ports)).collect();
    let stays = |port: &&PortSpec| !removed.contains(port) && !added.iter().any(|added| port.has_place_of(added));
    let mut stay: Vec<PortSpec> = ports.iter().filter(stays).cloned().collect();
    let mut chosen = vec![false; stay.len()];
    let mut come = Vec::new();
    for wish in added {
        let choice = stay.iter().zip(&chosen).position(|(port, chosen)| !chosen && port.is_choice_for(wish));
        match choice.and_then(|index| chosen.get_mut(index)) {
            Some(chosen) => *chosen = true,
            None => come.push(wish.clone()),
        }
    }
    stay.append(&mut come);
    stay
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(words: &str) -> Vec<PortSpec> {
        words.split_whitespace().map(|word| word.parse().unwrap()).collect()
    }

    #[test]
    fn a_change_replaces_removes_and_adds() {
        let keys = |words: &str| words.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<PortKey>>();
        for (had, replace, add, remove, has) in [
            ("80:8080", None, "", "", "80:8080"),
            ("80:8080", Some(""), "", "", ""),
            ("80:8080", Some("81:81 82:82"), "", "", "81:81 82:82"),
            ("80:8080", None, "53:53/udp", "", "80:8080 53:53/udp"),
            ("80:8080", None, "80:9090", "", "80:9090"),
            ("80:8080", None, "80:8080,mode=proxy", "", "80:8080,mode=proxy"),
            ("80:8080 80:53/udp", None, "", "80/udp 99", "80:8080"),
            ("80:8080", None, "80:1", "80", "80:1"),
            ("eth0:80:8080 eth1:80:8080", None, "eth1:80:9090", "", "eth0:80:8080 eth1:80:9090"),
            ("eth0:80:8080 eth1:80:8080", None, "", "eth1:80", "eth0:80:8080"),
            ("eth0:80:8080 eth1:80:8080", None, "", "80", "eth0:80:8080 eth1:80:8080"),
            ("eth0:80:8080", None, "", "80", ""),
            ("eth0:80:8080", None, "", "eth1:80", "eth0:80:8080"),
            ("30007:80", None, "0:80", "", "30007:80"),
            ("30007:80", None, "0:80 0:80", "", "30007:80 0:80"),
            ("30007:80", None, "0:81 0:80/udp 0:80,mode=proxy", "", "30007:80 0:81 0:80/udp 0:80,mode=proxy"),
            ("80:80", None, "0:80", "", "80:80 0:80"),
            ("30007:80", None, "0:80", "30007", "0:80"),
        ] {
            let has_now = changed_ports(&ports(had), replace.map(ports).as_deref(), &keys(remove), &ports(add));
            assert_eq!(has_now, ports(has), "{had} replace {replace:?} add {add} remove {remove}");
        }
    }

    #[test]
    fn json_reads_back() {
        for key in ["80", "53/udp", "192.0.2.1:80", "eth0:80"] {
            let key: PortKey = key.parse().unwrap();
            assert_eq!(serde_json::from_str::<PortKey>(&serde_json::to_string(&key).unwrap()).unwrap(), key);
        }
    }
}
