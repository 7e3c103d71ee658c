use std::{
    collections::{BTreeSet, HashSet},
    io,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use futures::FutureExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    neighbour::{NeighbourMessage, NeighbourState},
    route::{RouteAttribute, RouteMessage, RouteMetric, RouteProtocol},
};
use netlink_sys::{AsyncSocket, AsyncSocketExt, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use rtnetlink::MulticastGroup;

use super::{Rtnetlink, link, link::Link, rule, underlay};
use crate::{
    kernel::KernelError,
    model::{LinkName, ROUTE_PROTOCOL},
};

/// What the kernel may keep for us while we are busy, in bytes; it cuts this to `net.core.rmem_max`. Losing some is no harm, for
/// it counts as a change, but a host with many containers should not wake the agent for that alone.
const RECEIVE_BUFFER_BYTES: usize = 4 << 20;

/// How many datagrams one change swallows at most, so that a stream of changes cannot keep one waiting for ever.
const COALESCED_MAX: usize = 4096;

const GROUPS: [MulticastGroup; 10] = [
    MulticastGroup::Link,
    MulticastGroup::Neigh,
    MulticastGroup::Ipv4Route,
    MulticastGroup::Ipv6Route,
    MulticastGroup::Ipv4Rule,
    MulticastGroup::Ipv6Rule,
    MulticastGroup::Ipv4Ifaddr,
    MulticastGroup::Ipv6Ifaddr,
    // Kernel settings such as forwarding; the messages are not read, each counts as a change.
    MulticastGroup::Ipv4Netconf,
    MulticastGroup::Ipv6Netconf,
];

/// Tells when something of ours may have changed in the kernel, whoever changed it: the agent hears of its own steps too.
///
/// It has no task: the kernel queues while nobody waits, and what does not fit the queue counts as a change. Dropping it
/// ends the subscription.
pub struct Changes {
    socket: TokioSocket,
    /// The indices of devices of ours: neighbours and forwarding entries name nothing else.
    ours: HashSet<u32>,
    /// Those of devices that the underlay is known to use.
    underlay: Arc<Mutex<BTreeSet<u32>>>,
    /// Addresses that the other nodes are told of, by device, as far as they came up since: whoever hears router advertisements is told
    /// of the same ones again and again.
    told: HashSet<(u32, IpAddr)>,
}

impl Rtnetlink {
    /// Subscribes. Changes from here on are told, so a caller that observes afterwards misses nothing.
    pub async fn subscribe(&self) -> Result<Changes, KernelError> {
        let fail = |reason: &dyn std::fmt::Display| {
            KernelError::new("subscribe to the kernel's rtnetlink notifications", reason)
        };
        let socket = open().map_err(|error| fail(&error))?;
        let links = link::all(&self.socket).await.map_err(|refusal| fail(&refusal))?;
        let ours = links.into_iter().filter(Link::is_ours).map(|link| link.index).collect();
        Ok(Changes { socket, ours, underlay: Arc::clone(&self.underlay), told: HashSet::new() })
    }
}

fn open() -> io::Result<TokioSocket> {
    let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
    let groups = GROUPS.into_iter().fold(0, |groups, group| groups | 1 << (group as u32 - 1));
    let inner = socket.socket_mut();
    inner.set_rx_buf_sz(RECEIVE_BUFFER_BYTES)?;
    inner.bind(&SocketAddr::new(0, groups))?;
    Ok(socket)
}

impl Changes {
    /// Waits until something of ours may have changed; all that is queued by then is one change. May be dropped
    /// midway: nothing is read that is not told.
    pub async fn next(&mut self) -> Result<(), KernelError> {
        while !self.take().await? {}
        for _ in 0..COALESCED_MAX {
            match self.take().now_or_never() {
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => break,
            }
        }
        Ok(())
    }

    /// Takes one datagram: does it touch what is ours?
    async fn take(&mut self) -> Result<bool, KernelError> {
        let datagram = match self.socket.recv_from_full().await {
            Ok((datagram, _)) => datagram,
            // Some did not fit the queue: what they told is unknown.
            Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => return Ok(true),
            Err(error) => return Err(KernelError::new("receive the kernel's rtnetlink notifications", error)),
        };
        let mut touched = false;
        let mut rest = datagram.as_slice();
        while !rest.is_empty() {
            let Ok(message) = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest) else { return Ok(true) };
            // The next message begins at a multiple of four bytes (NLMSG_ALIGN); a length of 0 would stand still.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
            touched |= match message.payload {
                NetlinkPayload::InnerMessage(message) => self.touches(message),
                _ => true,
            };
        }
        Ok(touched)
    }

    fn touches(&mut self, message: RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewLink(_) => self.link_changed(message, |ours, index| {
                ours.insert(index);
            }),
            RouteNetlinkMessage::DelLink(_) => self.link_changed(message, |ours, index| {
                ours.remove(&index);
            }),
            RouteNetlinkMessage::NewNeighbour(row) => self.ours.contains(&row.header.ifindex) && is_ours_to_set(&row),
            RouteNetlinkMessage::DelNeighbour(row) => self.ours.contains(&row.header.ifindex),
            RouteNetlinkMessage::NewRoute(row) | RouteNetlinkMessage::DelRoute(row) => {
                is_route_of_ours(&row) || has_mtu(&row)
            }
            RouteNetlinkMessage::NewRule(row) | RouteNetlinkMessage::DelRule(row) => rule::is_ours(&row),
            RouteNetlinkMessage::NewAddress(row) => {
                let is_new = underlay::told_address(&row).is_some_and(|address| self.told.insert(address));
                is_new || self.ours.contains(&row.header.index)
            }
            RouteNetlinkMessage::DelAddress(row) => {
                let told = underlay::told_address(&row).inspect(|address| _ = self.told.remove(address));
                told.is_some() || self.ours.contains(&row.header.index)
            }
            // Nothing else is in the groups; if a kernel adds something, look.
            _ => true,
        }
    }

    /// Of foreign devices all but veths and bridge ports count, and these if they carry the underlay: its MTU is followed, and
    /// containers of others come and go.
    fn link_changed(&mut self, message: RouteNetlinkMessage, note: impl FnOnce(&mut HashSet<u32>, u32)) -> bool {
        let of_bridge = matches!(
            &message,
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link)
                if link.header.interface_family == AddressFamily::Bridge
        );
        let Some(link) = Link::from_message(message) else { return true };
        if link.name.starts_with(LinkName::PREFIX) {
            note(&mut self.ours, link.index);
            return true;
        }
        let carries = self.underlay.lock().unwrap_or_else(PoisonError::into_inner).contains(&link.index);
        // A device of ours that was given another name is no longer there.
        self.ours.remove(&link.index) || carries || !(link.is_veth() || of_bridge)
    }
}

/// Neighbours that the kernel learns and forgets by itself are no rows.
fn is_ours_to_set(row: &NeighbourMessage) -> bool {
    row.header.family == AddressFamily::Bridge || row.header.state == NeighbourState::Permanent
}

fn is_route_of_ours(row: &RouteMessage) -> bool {
    row.header.protocol == RouteProtocol::from(ROUTE_PROTOCOL)
}

/// Whether somebody has given the route an MTU of its own: it may be the way to the other nodes.
fn has_mtu(row: &RouteMessage) -> bool {
    row.attributes.iter().any(|attribute| {
        matches!(attribute, RouteAttribute::Metrics(metrics)
            if metrics.iter().any(|metric| matches!(metric, RouteMetric::Mtu(_))))
    })
}
