//! Steps as one line each, for logs and dry runs, in words close to the commands of `ip`, `bridge`, `sysctl` and `nft`.

use std::fmt;

use super::{NftChange, Step};
use crate::model::{
    Attachment, NextHop, PolicyAction, PolicyRule, Route, RouteTable, SetKey, SetName, SetValue, VTEP_LINK, Vtep,
};

/// How many changes of a transaction, and elements of a change, are written out: a line with the 20,000 elements of a
/// first start would drown a log, and three tell what kind of change it is.
const SHOWN_MAX: usize = 3;

impl Step {
    /// What kind of row the step concerns, as a metric's label.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::PutSysctl(..) => "sysctl",
            Self::CreateVtep(_) | Self::SetVtepMtu(_) | Self::DeleteVtep => "vtep",
            Self::PutFdb(..) | Self::DeleteFdb(_) => "fdb",
            Self::PutNeighbour(..) | Self::DeleteNeighbour(_) => "neighbour",
            Self::PutRoute(..) | Self::DeleteRoute(..) => "route",
            Self::AddPolicy(_) | Self::DeletePolicy(_) => "policy",
            Self::CreateLink(..) | Self::UpdateLink(..) | Self::DeleteLink(_) => "link",
            Self::ChangeRuleset(_) => "ruleset",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PutSysctl(sysctl, value) => write!(f, "sysctl -w {}={value}", sysctl.0),
            Self::CreateVtep(Vtep { mac, vni, port, local, mtu, address, address6 }) => {
                write!(
                    f,
                    "ip link add {VTEP_LINK} address {mac} mtu {mtu} up type vxlan id {vni} local {local} dstport {port} nolearning; \
                     ip addr add {address} dev {VTEP_LINK} scope link"
                )?;
                address6.iter().try_for_each(|address| write!(f, "; ip addr add {address} dev {VTEP_LINK} nodad"))
            }
            Self::SetVtepMtu(mtu) => write!(f, "ip link set {VTEP_LINK} mtu {mtu}"),
            Self::DeleteVtep => write!(f, "ip link del {VTEP_LINK}"),
            Self::PutFdb(mac, underlay) => write!(f, "bridge fdb replace {mac} dev {VTEP_LINK} dst {underlay}"),
            Self::DeleteFdb(mac) => write!(f, "bridge fdb del {mac} dev {VTEP_LINK}"),
            Self::PutNeighbour(gateway, mac) => {
                write!(f, "ip neigh replace {gateway} lladdr {mac} dev {VTEP_LINK} nud permanent")
            }
            Self::DeleteNeighbour(gateway) => write!(f, "ip neigh del {gateway} dev {VTEP_LINK}"),
            Self::PutRoute(table, prefix, Route { next_hop }) => match next_hop {
                NextHop::Tunnel(gateway) => {
                    write!(f, "ip route replace {prefix} via {gateway} dev {VTEP_LINK} onlink{}", InTable(*table))
                }
                NextHop::TunnelLink => {
                    write!(f, "ip route replace {prefix} dev {VTEP_LINK} scope link{}", InTable(*table))
                }
                NextHop::Link(link) => write!(f, "ip route replace {prefix} dev {link} scope link{}", InTable(*table)),
                NextHop::Local => write!(f, "ip route replace local {prefix} dev lo{}", InTable(*table)),
                NextHop::Unreachable => write!(f, "ip route replace unreachable {prefix}{}", InTable(*table)),
            },
            Self::DeleteRoute(table, prefix) => write!(f, "ip route del {prefix}{}", InTable(*table)),
            Self::AddPolicy(rule) => write!(f, "ip{}", Policy { verb: "add", rule }),
            Self::DeletePolicy(rule) => write!(f, "ip{}", Policy { verb: "del", rule }),
            Self::CreateLink(name, Attachment { netns, ifname, addresses, mtu }) => {
                write!(f, "ip link add {name} mtu {mtu} type veth peer name {ifname} netns {} address ", netns.path)?;
                separated(f, ",", addresses, fmt::Display::fmt)
            }
            Self::UpdateLink(name, attachment) => {
                write!(f, "ip link set {name} mtu {} alias \"{}\"", attachment.mtu, attachment.to_alias())
            }
            Self::DeleteLink(name) => write!(f, "ip link del {name}"),
            Self::ChangeRuleset(changes) => {
                f.write_str("nft ")?;
                separated(f, "; ", changes.iter().take(SHOWN_MAX), fmt::Display::fmt)?;
                match changes.len().checked_sub(SHOWN_MAX) {
                    None | Some(0) => Ok(()),
                    Some(1) => f.write_str("; and 1 more change"),
                    Some(more) => write!(f, "; and {more} more changes"),
                }
            }
        }
    }
}

impl fmt::Display for NftChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AddTable => f.write_str("add table inet weft"),
            Self::AddSet(set) => write!(f, "add set {set}"),
            Self::AddChain(chain) => write!(f, "add chain {chain}"),
            Self::SetRules(chain, content) => {
                write!(f, "set chain {chain} {{ ")?;
                separated(f, "; ", &content.rules, fmt::Display::fmt)?;
                f.write_str(" }")
            }
            Self::AddElements(set, elements) => write!(f, "add element {}", Elements(*set, elements)),
            Self::DeleteElements(set, elements) => write!(f, "delete element {}", Elements(*set, elements)),
            Self::DeleteChain(chain) => write!(f, "delete chain {chain}"),
            Self::DeleteSet(set) => write!(f, "delete set {set}"),
            Self::DeleteTable => f.write_str("delete table inet weft"),
        }
    }
}

/// A route's table, left out where it is the main one.
struct InTable(RouteTable);

impl fmt::Display for InTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == RouteTable::MAIN { Ok(()) } else { write!(f, " table {}", self.0.0) }
    }
}

/// A policy rule behind `ip`, for the families have separate lists.
struct Policy<'a> {
    verb: &'static str,
    rule: &'a PolicyRule,
}

impl fmt::Display for Policy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PolicyRule { priority, ipv6, mark: (value, mask), action } = self.rule;
        write!(f, "{} rule {} priority {priority}", if *ipv6 { " -6" } else { "" }, self.verb)?;
        if *mask != 0 {
            write!(f, " fwmark {value:#x}/{mask:#x}")?;
        }
        match action {
            PolicyAction::Lookup(RouteTable(table)) => write!(f, " lookup {table}"),
            PolicyAction::Goto(priority) => write!(f, " goto {priority}"),
            PolicyAction::Nop => f.write_str(" nop"),
        }
    }
}

/// A set's name and the first of its elements.
struct Elements<'a>(SetName, &'a [(SetKey, SetValue)]);

impl fmt::Display for Elements<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(set, elements) = self;
        write!(f, "{set} {{ ")?;
        separated(f, ", ", elements.iter().take(SHOWN_MAX), |element, f| write_element(*element, f))?;
        match elements.len().checked_sub(SHOWN_MAX) {
            None | Some(0) => f.write_str(" }"),
            Some(more) => write!(f, ", and {more} more }}"),
        }
    }
}

fn write_element((key, value): (SetKey, SetValue), f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match key {
        SetKey::Port(protocol, port) => write!(f, "{protocol} . {port}"),
        SetKey::Address(address) => write!(f, "{address}"),
        SetKey::AddressPort(address, protocol, port) => write!(f, "{address} . {protocol} . {port}"),
        SetKey::DevicePort(device, protocol, port) => write!(f, "{device} . {protocol} . {port}"),
        SetKey::AddressPair(source, destination) => write!(f, "{source} . {destination}"),
        SetKey::Slot(slot) => write!(f, "{}", slot.0),
        SetKey::Mac(mac) => write!(f, "{mac}"),
        SetKey::Prefix(prefix) => write!(f, "{prefix}"),
        SetKey::PrefixPair(source, destination) => write!(f, "{source} . {destination}"),
    }?;
    match value {
        SetValue::Nothing => Ok(()),
        SetValue::Goto(chain) => write!(f, " : goto {chain}"),
        SetValue::Mark(mark) => write!(f, " : {mark:#x}"),
        SetValue::Zone(zone) => write!(f, " : {zone}"),
        SetValue::Service(service) => write!(f, " : {service}"),
        SetValue::Address(address) => write!(f, " : {address}"),
        SetValue::Target(target) => write!(f, " : {} . {}", target.ip(), target.port()),
    }
}

fn separated<T>(
    f: &mut fmt::Formatter<'_>,
    separator: &str,
    items: impl IntoIterator<Item = T>,
    write: impl Fn(T, &mut fmt::Formatter<'_>) -> fmt::Result,
) -> fmt::Result {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        write(item, f)?;
    }
    Ok(())
}
