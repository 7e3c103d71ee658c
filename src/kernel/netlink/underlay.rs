use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::PoisonError,
};

use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    route::{RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteProtocol, RouteType},
};
use nix::errno::Errno;

use super::{Rtnetlink, link, route, socket::Refusal};
use crate::{
    kernel::{KernelError, sysctl},
    model::{LinkName, Node, ROUTE_PROTOCOL, RouteTable, Sysctl},
};

/// Places far away that belong to nobody (RFC 5737, TEST-NET-1; RFC 3849): the way to them is the default route's.
const FAR_AWAY: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];

/// A prefix that this host reaches by other means than weft.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalPrefix {
    /// The prefix.
    pub prefix: IpNet,
    /// The device that it is reached by; nothing for a route that refuses or has several next hops.
    pub device: Option<String>,
}

impl fmt::Display for LocalPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.prefix)?;
        match &self.device {
            Some(device) => write!(f, " dev {device}"),
            None => Ok(()),
        }
    }
}

/// An address of this host.
struct LocalAddress {
    address: IpAddr,
    prefix_len: u8,
    index: u32,
    scope: AddressScope,
    /// Whether the kernel still looks whether somebody else has it (RFC 4862, 5.4), or has found somebody.
    is_tentative: bool,
}

impl LocalAddress {
    /// The address, if the other nodes are told of it.
    fn told(&self) -> Option<IpAddr> {
        let is_told = self.scope == AddressScope::Universe && !self.is_tentative && Node::is_told(self.address);
        is_told.then_some(self.address)
    }
}

/// The address of a notification, with its device's index, if the other nodes are told of it.
pub(super) fn told_address(row: &AddressMessage) -> Option<(u32, IpAddr)> {
    let address = local_address(row)?;
    Some((address.index, address.told()?))
}

impl Rtnetlink {
    /// The MTU, in bytes, of the device that carries the address `local`. Fails if no device does, and lists those that
    /// devices carry.
    pub async fn underlay_mtu(&self, local: IpAddr) -> Result<u32, KernelError> {
        let action = format!("find the MTU of the device that carries {local}");
        let fail = |refusal: Refusal| KernelError::new(action.clone(), refusal);
        let addresses = self.addresses().await.map_err(fail)?;
        let links = link::all(&self.socket).await.map_err(fail)?;
        let device = addresses
            .iter()
            .find(|candidate| candidate.address == local)
            .and_then(|carrier| links.iter().find(|link| link.index == carrier.index));
        device.map(|link| link.mtu).ok_or_else(|| {
            let names = names(&links);
            KernelError::new(
                &action,
                format!("no device of this host carries it; it has {}", list(addresses.iter(), &names)),
            )
        })
    }

    /// The least MTU, in bytes, of the routes to these addresses: a route's own where somebody has set one, otherwise its
    /// device's. Nothing if none of them says (no peers, no way to them, several next hops). What the kernel has learned of a
    /// path by itself does not count: it forgets that after ten minutes, applies it to the tunnel's packets meanwhile, and
    /// would believe it of strangers.
    pub async fn route_mtu(&self, peers: &[IpAddr]) -> Result<Option<u32>, KernelError> {
        let fail = |refusal: Refusal| KernelError::new("find the MTU of the way to the other nodes", refusal);
        if peers.is_empty() {
            return Ok(None);
        }
        let links = link::all(&self.socket).await.map_err(fail)?;
        let mut least: Option<u32> = None;
        let mut devices = BTreeSet::new();
        for peer in peers {
            let Some(row) = self.route_to(*peer, true).await.map_err(fail)? else { continue };
            let device = route::device_of(&row).and_then(|index| links.iter().find(|link| link.index == index));
            devices.extend(device.map(|link| link.index));
            let own = row.attributes.iter().find_map(|attribute| match attribute {
                RouteAttribute::Metrics(metrics) => metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
                    _ => None,
                }),
                _ => None,
            });
            least = [least, own, device.map(|link| link.mtu)].into_iter().flatten().min();
        }
        *self.underlay.lock().unwrap_or_else(PoisonError::into_inner) = devices;
        Ok(least)
    }

    /// The address that other hosts would see: the source that the default route chooses, IPv4 first; failing that, the
    /// single global address of this host. Fails if there is none or several, and lists them.
    pub async fn default_address(&self) -> Result<IpAddr, KernelError> {
        let fail = |refusal: Refusal| KernelError::new("find this host's own address", refusal);
        for far_away in FAR_AWAY {
            if let Some(address) = self.source_towards(far_away).await.map_err(fail)? {
                return Ok(address);
            }
        }
        let links = link::all(&self.socket).await.map_err(fail)?;
        let names = names(&links);
        let addresses = self.addresses().await.map_err(fail)?;
        let candidates: Vec<&LocalAddress> = addresses
            .iter()
            .filter(|address| {
                address.scope == AddressScope::Universe && !address.address.is_loopback() && !is_ours(address, &names)
            })
            .collect();
        match candidates.as_slice() {
            [one] => Ok(one.address),
            [] => Err(KernelError::new("find this host's own address", "no device has a global address")),
            several => Err(KernelError::new(
                "find this host's own address",
                format!(
                    "there is no default route and several addresses are possible: {}; choose one with --advertise",
                    list(several.iter().copied(), &names)
                ),
            )),
        }
    }

    /// The addresses of this host, on whichever device.
    pub async fn local_addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        let addresses = self.addresses().await;
        let addresses = addresses.map_err(|refusal| KernelError::new("list the addresses of this host", refusal))?;
        Ok(addresses.into_iter().map(|address| address.address).collect())
    }

    /// Those addresses of this host of which it tells the other nodes, on whichever device.
    pub async fn told_addresses(&self) -> Result<BTreeSet<IpAddr>, KernelError> {
        let addresses = self.addresses().await;
        let addresses = addresses.map_err(|refusal| KernelError::new("list the addresses of this host", refusal))?;
        Ok(addresses.iter().filter_map(LocalAddress::told).collect())
    }

    /// All prefixes that this host reaches by other means than weft: its addresses with their prefixes, and the routes of the
    /// main table but the default routes. A network must not overlap any of them.
    pub async fn local_prefixes(&self) -> Result<Vec<LocalPrefix>, KernelError> {
        let fail = |refusal: Refusal| KernelError::new("list the prefixes of this host", refusal);
        let links = link::all(&self.socket).await.map_err(fail)?;
        let names = names(&links);
        let mut prefixes = Vec::new();
        for address in self.addresses().await.map_err(fail)? {
            if let Ok(prefix) = IpNet::new(address.address, address.prefix_len)
                && !is_ours(&address, &names)
            {
                let device = names.get(&address.index).map(|name| (*name).to_owned());
                prefixes.push(LocalPrefix { prefix: prefix.trunc(), device });
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for row in route::in_main_table(&self.socket, family).await.map_err(fail)? {
                let device = route::device_of(&row).and_then(|index| names.get(&index)).map(|name| (*name).to_owned());
                let is_ours = row.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL)
                    || device.as_ref().is_some_and(|device| device.starts_with(LinkName::PREFIX));
                if let Some(prefix) = route::prefix_of(&row)
                    && prefix.prefix_len() > 0
                    && !is_ours
                {
                    prefixes.push(LocalPrefix { prefix, device });
                }
            }
        }
        prefixes.sort();
        prefixes.dedup();
        Ok(prefixes)
    }

    /// The setting `net.ipv4.conf.all.rp_filter`: 0 off, 1 strict, 2 loose (ip-sysctl.rst).
    pub fn rp_filter_all(&self) -> Result<u8, KernelError> {
        let key = Sysctl("net/ipv4/conf/all/rp_filter".to_owned());
        let value = sysctl::read(&key)?.unwrap_or_default();
        value.parse().map_err(|_| {
            KernelError::new(
                format!("read the kernel setting {}", key.0),
                format!("{value:?} is not a number from 0 to 2"),
            )
        })
    }

    /// The source address of packets to `destination`, if there is a way.
    async fn source_towards(&self, destination: IpAddr) -> Result<Option<IpAddr>, Refusal> {
        let Some(row) = self.route_to(destination, false).await? else { return Ok(None) };
        Ok(row.attributes.iter().find_map(|attribute| match attribute {
            RouteAttribute::PrefSource(RouteAddress::Inet(v4)) => Some(IpAddr::V4(*v4)),
            RouteAttribute::PrefSource(RouteAddress::Inet6(v6)) if !v6.is_unicast_link_local() => Some(IpAddr::V6(*v6)),
            _ => None,
        }))
    }

    /// The way to `destination`, if there is one: as it would be taken now, or the row of the table that it follows.
    async fn route_to(&self, destination: IpAddr, as_written: bool) -> Result<Option<RouteMessage>, Refusal> {
        let mut request = route::about(RouteTable(0), IpNet::from(destination));
        request.attributes.retain(|attribute| matches!(attribute, RouteAttribute::Destination(_)));
        if as_written {
            request.header.flags |= RouteFlags::FibMatch;
        }
        match self.socket.get(RouteNetlinkMessage::GetRoute(request)).await {
            Ok(Some(RouteNetlinkMessage::NewRoute(row))) if row.header.kind == RouteType::Unicast => Ok(Some(row)),
            Ok(_) => Ok(None),
            // No way there: no route, one that refuses, or a kernel without this family.
            Err(refusal)
                if [Errno::ENETUNREACH, Errno::EHOSTUNREACH, Errno::EACCES, Errno::EINVAL, Errno::EOPNOTSUPP]
                    .into_iter()
                    .any(|errno| refusal.is(errno)) =>
            {
                Ok(None)
            }
            Err(refusal) => Err(refusal),
        }
    }

    /// The tunnel device's own addresses: IPv4, the unspecified one, which nobody wants, if it has none; and the IPv6 one that
    /// is not link-local.
    pub(super) async fn vtep_addresses(&self, index: u32) -> Result<(Ipv4Addr, Option<Ipv6Addr>), Refusal> {
        let (mut own, mut own6) = (None, None);
        for row in self.addresses().await?.iter().filter(|row| row.index == index) {
            match row.address {
                IpAddr::V4(v4) => own = own.or(Some(v4)),
                IpAddr::V6(v6) if v6.is_unicast_link_local() => {}
                IpAddr::V6(v6) => own6 = own6.or(Some(v6)),
            }
        }
        Ok((own.unwrap_or(Ipv4Addr::UNSPECIFIED), own6))
    }

    async fn addresses(&self) -> Result<Vec<LocalAddress>, Refusal> {
        let rows = self.socket.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default())).await?;
        Ok(rows
            .into_iter()
            .filter_map(|row| match row {
                RouteNetlinkMessage::NewAddress(row) => local_address(&row),
                _ => None,
            })
            .collect())
    }
}

/// On a point-to-point device `IFA_ADDRESS` is the peer's address and `IFA_LOCAL` the own one; IPv6 tells only the first
/// where there is no peer.
fn local_address(row: &AddressMessage) -> Option<LocalAddress> {
    let own = row.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Local(address) => Some(*address),
        _ => None,
    });
    let any = row.attributes.iter().find_map(|attribute| match attribute {
        AddressAttribute::Address(address) => Some(*address),
        _ => None,
    });
    Some(LocalAddress {
        address: own.or(any)?,
        prefix_len: row.header.prefix_len,
        index: row.header.index,
        scope: row.header.scope,
        is_tentative: row.header.flags.intersects(AddressHeaderFlags::Tentative | AddressHeaderFlags::Dadfailed),
    })
}

fn names(links: &[link::Link]) -> HashMap<u32, &str> {
    links.iter().map(|link| (link.index, link.name.as_str())).collect()
}

fn is_ours(address: &LocalAddress, names: &HashMap<u32, &str>) -> bool {
    names.get(&address.index).is_some_and(|name| name.starts_with(LinkName::PREFIX))
}

fn list<'a>(addresses: impl Iterator<Item = &'a LocalAddress>, names: &HashMap<u32, &str>) -> String {
    let words: Vec<String> = addresses
        .map(|address| {
            format!("{} on {}", address.address, names.get(&address.index).copied().unwrap_or("a lost device"))
        })
        .collect();
    if words.is_empty() { "none".to_owned() } else { words.join(", ") }
}
