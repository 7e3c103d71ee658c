use std::{
    collections::{BTreeMap, HashMap},
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    route::{
        RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
        RouteVia,
    },
};
use nix::errno::Errno;

use super::{
    Rtnetlink,
    socket::{Refusal, Socket, accept},
};
use crate::{
    kernel::KernelError,
    model::{LinkName, NextHop, ROUTE_PROTOCOL, Route, RouteTable, VTEP_LINK},
};

/// The metric of all our routes.
///
/// The kernel knows a route by table, prefix, TOS and metric; what is replaced is the first route with these, whoever made
/// it (IPv4: `fib_table_insert`; IPv6: `fib6_add_rt2node`, there the first that has a gateway if the new one has one, and else
/// the first of all). The protocol number plays no part. So no route of ours may have a metric that others use: then a
/// foreign route to the same prefix stays beside ours, untouched. 77 is nobody's default (0 and 1024 the kernel's, 100 and
/// 1024 those of DHCP clients, 20 of routing daemons) and lies before those of network managers. A foreign IPv4 route without
/// a metric still comes before ours: a network may not overlap such a prefix, which is checked when it is created.
pub const ROUTE_METRIC: u32 = 77;

/// The device that local routes name.
const LOOPBACK: &str = "lo";

/// The next hop of a route of ours that is not as we make them: no wanted route leads there.
const NO_HOP: NextHop = NextHop::Tunnel(IpAddr::V4(Ipv4Addr::UNSPECIFIED));

/// Routes of ours that stand in the way of rows: with another metric, TOS or source, or a second one to a prefix. They are
/// removed together with the row, or before it is put.
pub(super) type Strays = BTreeMap<(RouteTable, IpNet), Vec<RouteMessage>>;

/// The routes with our protocol number in all tables and both families; the kernel leaves all others out. A route that is not
/// as we make them reads as one through the tunnel to `0.0.0.0`, and is among the strays if putting the right one
/// would not replace it.
pub(super) async fn ours(
    socket: &Socket,
    names: &HashMap<u32, &str>,
) -> Result<(BTreeMap<(RouteTable, IpNet), Route>, Strays), Refusal> {
    let mut rows: BTreeMap<_, Vec<RouteMessage>> = BTreeMap::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut filter = RouteMessage::default();
        filter.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        for row in dump(socket, family, filter).await? {
            if row.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL)
                && let Some(prefix) = prefix_of(&row)
            {
                rows.entry((table_of(&row), prefix)).or_default().push(row);
            }
        }
    }
    let mut routes = BTreeMap::new();
    let mut strays = Strays::new();
    for (place, candidates) in rows {
        let next_hop = match candidates.as_slice() {
            [one] if is_in_place(one) => next_hop_of(one, names).unwrap_or(NO_HOP),
            _ => {
                strays.insert(place, candidates);
                NO_HOP
            }
        };
        routes.insert(place, Route { next_hop });
    }
    Ok((routes, strays))
}

/// All routes of a family in the main table, whoever made them.
pub(super) async fn in_main_table(socket: &Socket, family: AddressFamily) -> Result<Vec<RouteMessage>, Refusal> {
    let mut filter = RouteMessage::default();
    filter.header.table = RouteHeader::RT_TABLE_MAIN;
    match dump(socket, family, filter).await {
        // The table comes into being with its first route.
        Err(refusal) if refusal.is(Errno::ENOENT) => Ok(Vec::new()),
        rows => rows,
    }
}

/// All routes of a family that pass a filter, in all tables unless it names one.
async fn dump(socket: &Socket, family: AddressFamily, mut filter: RouteMessage) -> Result<Vec<RouteMessage>, Refusal> {
    filter.header.address_family = family;
    let rows = socket.dump(RouteNetlinkMessage::GetRoute(filter)).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match row {
            // A kernel without this family answers with all others.
            RouteNetlinkMessage::NewRoute(row) if row.header.address_family == family => Some(row),
            _ => None,
        })
        .collect())
}

/// The prefix that a route leads to, if it is one of an IP family.
pub(super) fn prefix_of(row: &RouteMessage) -> Option<IpNet> {
    let len = row.header.destination_prefix_length;
    let destination = row.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => Some(address),
        _ => None,
    });
    match (row.header.address_family, destination) {
        (AddressFamily::Inet, Some(RouteAddress::Inet(v4))) => Ipv4Net::new(*v4, len).ok().map(IpNet::V4),
        (AddressFamily::Inet6, Some(RouteAddress::Inet6(v6))) => Ipv6Net::new(*v6, len).ok().map(IpNet::V6),
        (AddressFamily::Inet, None) => Ipv4Net::new(Ipv4Addr::UNSPECIFIED, len).ok().map(IpNet::V4),
        (AddressFamily::Inet6, None) => Ipv6Net::new(Ipv6Addr::UNSPECIFIED, len).ok().map(IpNet::V6),
        _ => None,
    }
}

/// The table that a route is in.
pub(super) fn table_of(row: &RouteMessage) -> RouteTable {
    let table = row.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Table(table) => Some(*table),
        _ => None,
    });
    RouteTable(table.unwrap_or(u32::from(row.header.table)))
}

/// The device that a route leaves by.
pub(super) fn device_of(row: &RouteMessage) -> Option<u32> {
    row.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Oif(index) => Some(*index),
        _ => None,
    })
}

/// A request about a route to `prefix` in `table` with these properties of the header.
pub(super) fn about(table: RouteTable, prefix: IpNet) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = if prefix.addr().is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    message.header.destination_prefix_length = prefix.prefix_len();
    message.attributes.push(RouteAttribute::Table(table.0));
    if prefix.prefix_len() > 0 {
        message.attributes.push(RouteAttribute::Destination(prefix.network().into()));
    }
    message
}

/// Completes a route: `via` a gateway that need not be in a prefix of the device, or a gateway of the other family.
pub(super) fn via(message: &mut RouteMessage, gateway: IpAddr, index: u32) {
    message.header.flags |= RouteFlags::Onlink;
    message.attributes.push(RouteAttribute::Oif(index));
    message.attributes.push(match (message.header.address_family, gateway) {
        (AddressFamily::Inet, IpAddr::V6(v6)) => RouteAttribute::Via(RouteVia::Inet6(v6)),
        (_, gateway) => RouteAttribute::Gateway(gateway.into()),
    });
}

impl Rtnetlink {
    /// Sets our route to a prefix in a table; another of ours is replaced in one go, and strays are removed before.
    pub(super) async fn put_route(&self, table: RouteTable, prefix: IpNet, route: &Route) -> Result<(), KernelError> {
        let action = || {
            let hop = match &route.next_hop {
                NextHop::Tunnel(gateway) => format!("via {gateway} dev {VTEP_LINK}"),
                NextHop::TunnelLink => format!("dev {VTEP_LINK}"),
                NextHop::Link(name) => format!("dev {name}"),
                NextHop::Local => format!("local dev {LOOPBACK}"),
                NextHop::Unreachable => "unreachable".to_owned(),
            };
            format!("set the route {prefix} {hop} in table {}", table.0)
        };
        let fail = |reason: Refusal| KernelError::new(action(), reason);
        let mut message = about(table, prefix);
        message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        message.header.kind = RouteType::Unicast;
        message.attributes.push(RouteAttribute::Priority(ROUTE_METRIC));
        match &route.next_hop {
            NextHop::Tunnel(gateway) => {
                if prefix.addr().is_ipv6() && gateway.is_ipv4() {
                    return Err(KernelError::new(action(), "an IPv6 route cannot have an IPv4 gateway"));
                }
                via(&mut message, *gateway, self.need_vtep(&action()).await?);
            }
            NextHop::TunnelLink => on_link(&mut message, self.need_vtep(&action()).await?),
            NextHop::Link(name) => {
                let index = self.index_of(name.as_str()).await.map_err(fail)?;
                let index = index.ok_or_else(|| KernelError::new(action(), format!("there is no device {name}")))?;
                on_link(&mut message, index);
            }
            NextHop::Local => {
                let index = self.index_of(LOOPBACK).await.map_err(fail)?;
                let index =
                    index.ok_or_else(|| KernelError::new(action(), format!("there is no device {LOOPBACK}")))?;
                message.header.kind = RouteType::Local;
                message.header.scope = RouteScope::Host;
                message.attributes.push(RouteAttribute::Oif(index));
            }
            NextHop::Unreachable => message.header.kind = RouteType::Unreachable,
        }
        self.remove_strays(table, prefix).await.map_err(fail)?;
        self.change_rows([(RouteNetlinkMessage::NewRoute(message), NLM_F_CREATE | NLM_F_REPLACE)]).await.map_err(fail)
    }

    /// Removes our route to a prefix in a table, with strays; one that is not there is fine.
    pub(super) async fn delete_route(&self, table: RouteTable, prefix: IpNet) -> Result<(), KernelError> {
        let fail =
            |reason: Refusal| KernelError::new(format!("remove the route {prefix} from table {}", table.0), reason);
        self.remove_strays(table, prefix).await.map_err(fail)?;
        let mut message = about(table, prefix);
        message.header.protocol = RouteProtocol::from(ROUTE_PROTOCOL);
        message.header.scope = RouteScope::NoWhere;
        message.attributes.push(RouteAttribute::Priority(ROUTE_METRIC));
        accept(self.socket.change(RouteNetlinkMessage::DelRoute(message), 0).await, &GONE).map_err(fail)
    }

    async fn remove_strays(&self, table: RouteTable, prefix: IpNet) -> Result<(), Refusal> {
        let strays = self.seen().stray_routes.remove(&(table, prefix)).unwrap_or_default();
        for mut stray in strays {
            stray.header.flags = RouteFlags::default();
            stray.attributes.retain(|attribute| {
                matches!(
                    attribute,
                    RouteAttribute::Table(_)
                        | RouteAttribute::Destination(_)
                        | RouteAttribute::Source(_)
                        | RouteAttribute::Priority(_)
                )
            });
            accept(self.socket.change(RouteNetlinkMessage::DelRoute(stray), 0).await, &GONE)?;
        }
        Ok(())
    }
}

/// What the kernel answers when there is no such route, or no such table.
const GONE: [Errno; 2] = [Errno::ESRCH, Errno::ENOENT];

/// Straight out of a device. IPv6 knows no scopes of routes and ignores it.
fn on_link(message: &mut RouteMessage, index: u32) {
    message.header.scope = RouteScope::Link;
    message.attributes.push(RouteAttribute::Oif(index));
}

/// Whether a route stands where ours stand, so that putting one replaces it.
fn is_in_place(row: &RouteMessage) -> bool {
    row.header.tos == 0
        && row.header.source_prefix_length == 0
        && row.attributes.contains(&RouteAttribute::Priority(ROUTE_METRIC))
}

/// Where a route leads, if that is one of the ways that ours lead.
fn next_hop_of(row: &RouteMessage, names: &HashMap<u32, &str>) -> Option<NextHop> {
    let is_local = match row.header.kind {
        RouteType::Unreachable => return Some(NextHop::Unreachable),
        RouteType::Unicast => false,
        RouteType::Local => true,
        _ => return None,
    };
    let mut gateway = None;
    for attribute in &row.attributes {
        match attribute {
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
                gateway = Some(IpAddr::V6(*v6));
            }
            RouteAttribute::Oif(_)
            | RouteAttribute::Destination(_)
            | RouteAttribute::Table(_)
            | RouteAttribute::Priority(_)
            | RouteAttribute::Preference(_)
            | RouteAttribute::CacheInfo(_) => {}
            // Several next hops, a preferred source, an encapsulation, metrics: none of ours has them.
            _ => return None,
        }
    }
    let name = *names.get(&device_of(row)?)?;
    match (gateway, LinkName::from_kernel(name)) {
        (None, _) if is_local && name == LOOPBACK => Some(NextHop::Local),
        _ if is_local => None,
        (Some(gateway), _) if name == VTEP_LINK => Some(NextHop::Tunnel(gateway)),
        (None, _) if name == VTEP_LINK => Some(NextHop::TunnelLink),
        (None, Some(link)) => Some(NextHop::Link(link)),
        _ => None,
    }
}
