use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
};
use nix::errno::Errno;

use super::{
    Rtnetlink,
    link::mac_of,
    socket::{Refusal, Socket, accept},
};
use crate::{
    kernel::KernelError,
    model::{Mac, VTEP_LINK},
};

/// The underlay address of a forwarding entry that is not as we make them: it equals no wanted one.
pub(super) const NO_UNDERLAY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// The forwarding entries on the device with this index, whoever made them: the device is ours. An entry that sends to
/// several addresses, to another port or VNI, through a next hop group, or that ages reads as one to `0.0.0.0`.
pub(super) async fn forwarding_entries(socket: &Socket, index: u32) -> Result<BTreeMap<Mac, IpAddr>, Refusal> {
    let mut entries = BTreeMap::new();
    for row in dump(socket, AddressFamily::Bridge, index).await? {
        let mut mac = None;
        let mut underlay = NO_UNDERLAY;
        let mut is_plain = is_lasting(row.header.state);
        for attribute in row.attributes {
            match attribute {
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = Some(mac_of(&bytes)),
                NeighbourAttribute::Destination(destination) => underlay = ip_of(&destination).unwrap_or(NO_UNDERLAY),
                // The kernel tells these only where they differ from the device's own, and of the next two it tells
                // the one that belongs to the outer packet's device or to a group.
                NeighbourAttribute::Port(_)
                | NeighbourAttribute::Vni(_)
                | NeighbourAttribute::SourceVni(_)
                | NeighbourAttribute::IfIndex(_) => is_plain = false,
                NeighbourAttribute::Other(other) => is_plain &= netlink_packet_core::Nla::kind(&other) != NDA_NH_ID,
                _ => {}
            }
        }
        let Some(mac) = mac else { continue };
        let underlay = if is_plain { underlay } else { NO_UNDERLAY };
        entries.entry(mac).and_modify(|several| *several = NO_UNDERLAY).or_insert(underlay);
    }
    Ok(entries)
}

/// `NDA_NH_ID` of linux/neighbour.h: the entry sends to a next hop group.
const NDA_NH_ID: u16 = 13;

/// The permanent neighbours on the device with this index, both families, whoever made them. Learned ones and those that
/// the kernel makes itself (`NOARP`: multicast, the device's own) are no rows. One without a MAC reads as all zeroes.
pub(super) async fn permanent_neighbours(socket: &Socket, index: u32) -> Result<BTreeMap<IpAddr, Mac>, Refusal> {
    let mut neighbours = BTreeMap::new();
    for row in dump(socket, AddressFamily::Unspec, index).await? {
        if row.header.state != NeighbourState::Permanent {
            continue;
        }
        let mut address = None;
        let mut mac = Mac([0; 6]);
        for attribute in row.attributes {
            match attribute {
                NeighbourAttribute::Destination(destination) => address = ip_of(&destination),
                NeighbourAttribute::LinkLayerAddress(bytes) => mac = mac_of(&bytes),
                _ => {}
            }
        }
        if let Some(address) = address {
            neighbours.insert(address, mac);
        }
    }
    Ok(neighbours)
}

/// A permanent neighbour on a device: set with [`NLM_F_CREATE`] and [`NLM_F_REPLACE`], or removed.
pub(super) fn neighbour(index: u32, address: IpAddr, mac: Option<Mac>) -> NeighbourMessage {
    let family = if address.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
    let mut message = about(family, index);
    message.attributes.push(NeighbourAttribute::Destination(address.into()));
    message.attributes.extend(mac.map(|mac| NeighbourAttribute::LinkLayerAddress(mac.0.to_vec())));
    message
}

impl Rtnetlink {
    /// Makes a forwarding entry, or changes it in one go. One that was seen to be odd is removed before: the kernel's replace
    /// leaves further destinations as they are, and succeeds without any effect on one that sends to a next hop group
    /// (`vxlan_core.c`, `vxlan_fdb_update_existing`).
    pub(super) async fn put_fdb(&self, mac: Mac, underlay: IpAddr) -> Result<(), KernelError> {
        let action = format!("send frames for {mac} on {VTEP_LINK} to {underlay}");
        let index = self.need_vtep(&action).await?;
        let is_odd = self.seen().odd_forwarding.remove(&mac);
        let mut wanted = entry(index, mac);
        wanted.attributes.push(NeighbourAttribute::Destination(underlay.into()));
        let remove = is_odd.then(|| (RouteNetlinkMessage::DelNeighbour(entry(index, mac)), 0));
        let put = (RouteNetlinkMessage::NewNeighbour(wanted), NLM_F_CREATE | NLM_F_REPLACE);
        self.change_rows(remove.into_iter().chain([put])).await.map_err(|refusal| KernelError::new(action, refusal))
    }

    /// Removes a forwarding entry with all its destinations; one that is not there is fine.
    pub(super) async fn delete_fdb(&self, mac: Mac) -> Result<(), KernelError> {
        let fail = |reason: Refusal| KernelError::new(format!("forget the VTEP {mac} on {VTEP_LINK}"), reason);
        let Some(index) = self.vtep_index().await.map_err(fail)? else { return Ok(()) };
        let remove = RouteNetlinkMessage::DelNeighbour(entry(index, mac));
        accept(self.change_rows([(remove, 0)]).await, &[Errno::ENOENT, Errno::ENODEV]).map_err(fail)
    }

    /// Makes a permanent neighbour on the tunnel, or changes it.
    pub(super) async fn put_neighbour(&self, gateway: IpAddr, mac: Mac) -> Result<(), KernelError> {
        let action = format!("resolve {gateway} to {mac} on {VTEP_LINK}");
        let index = self.need_vtep(&action).await?;
        let put = RouteNetlinkMessage::NewNeighbour(neighbour(index, gateway, Some(mac)));
        self.change_rows([(put, NLM_F_CREATE | NLM_F_REPLACE)])
            .await
            .map_err(|refusal| KernelError::new(action, refusal))
    }

    /// Removes a neighbour on the tunnel; one that is not there is fine.
    pub(super) async fn delete_neighbour(&self, gateway: IpAddr) -> Result<(), KernelError> {
        let fail = |reason: Refusal| KernelError::new(format!("forget {gateway} on {VTEP_LINK}"), reason);
        let Some(index) = self.vtep_index().await.map_err(fail)? else { return Ok(()) };
        let remove = RouteNetlinkMessage::DelNeighbour(neighbour(index, gateway, None));
        accept(self.change_rows([(remove, 0)]).await, &[Errno::ENOENT, Errno::ENODEV]).map_err(fail)
    }
}

/// The rows of a family on one device; the kernel leaves the others out, and so does this in case it is too old to.
async fn dump(socket: &Socket, family: AddressFamily, index: u32) -> Result<Vec<NeighbourMessage>, Refusal> {
    let mut request = NeighbourMessage::default();
    request.header.family = family;
    request.attributes.push(NeighbourAttribute::IfIndex(index));
    let rows = socket.dump(RouteNetlinkMessage::GetNeighbour(request)).await?;
    Ok(rows
        .into_iter()
        .filter_map(|row| match row {
            RouteNetlinkMessage::NewNeighbour(row) if row.header.ifindex == index => Some(row),
            _ => None,
        })
        .collect())
}

/// A forwarding entry of the device itself (not of a bridge that it may be a port of).
fn entry(index: u32, mac: Mac) -> NeighbourMessage {
    let mut message = about(AddressFamily::Bridge, index);
    message.header.flags = NeighbourFlags::Own;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()));
    message
}

fn about(family: AddressFamily, index: u32) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family;
    message.header.ifindex = index;
    message.header.state = NeighbourState::Permanent;
    message
}

/// Whether an entry in this state never ages: `NUD_PERMANENT` or `NUD_NOARP` (`vxlan_core.c`, `vxlan_cleanup`).
fn is_lasting(state: NeighbourState) -> bool {
    u16::from(state) & (u16::from(NeighbourState::Permanent) | u16::from(NeighbourState::Noarp)) != 0
}

/// The address of a row. In a forwarding entry the family of the row says nothing about it, its length does.
fn ip_of(address: &NeighbourAddress) -> Option<IpAddr> {
    match address {
        NeighbourAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        NeighbourAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        NeighbourAddress::Other(bytes) => <[u8; 4]>::try_from(bytes.as_slice())
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(bytes.as_slice()).map(IpAddr::from))
            .ok(),
        _ => None,
    }
}
