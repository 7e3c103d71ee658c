use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    RouteNetlinkMessage,
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask,
        LinkFlags, LinkInfo, LinkMessage,
    },
};
use nix::errno::Errno;

use super::{
    Rtnetlink,
    pair::address_on,
    socket::{Refusal, Socket, accept},
};
use crate::{
    kernel::{KernelError, sysctl},
    model::{Attachment, LinkName, Mac, NetnsRef, Sysctl, VTEP_LINK, Vtep},
};

/// A VNI has 24 bits (RFC 7348, 5): a tunnel device that is reported with this one equals no wanted device.
const NO_VNI: u32 = u32::MAX;

/// No veth can have this MTU (`ETH_MIN_MTU` is 68), so that it is wanted by nobody: the two sides of a pair may differ.
pub(super) const UNCERTAIN_MTU: u32 = 0;

/// A device, in so far as it matters here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mtu: u32,
    pub(super) is_up: bool,
    /// The index of the device that it rests on; of a veth, its other side, in the namespace where that is.
    pub(super) other: Option<u32>,
    mac: Mac,
    kind: Option<InfoKind>,
    alias: String,
    vxlan: Vec<InfoVxlan>,
}

impl Link {
    /// From an answer or a notification.
    pub(super) fn from_message(message: RouteNetlinkMessage) -> Option<Self> {
        let (RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)) = message else {
            return None;
        };
        let mut link = Self {
            index: message.header.index,
            name: String::new(),
            mtu: 0,
            other: None,
            is_up: message.header.flags.contains(LinkFlags::Up),
            mac: Mac([0; 6]),
            kind: None,
            alias: String::new(),
            vxlan: Vec::new(),
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Link(other) => link.other = Some(other),
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(bytes) => link.mac = mac_of(&bytes),
                LinkAttribute::IfAlias(alias) => link.alias = alias,
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        match info {
                            LinkInfo::Kind(kind) => link.kind = Some(kind),
                            LinkInfo::Data(InfoData::Vxlan(data)) => link.vxlan = data,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        Some(link)
    }

    /// Whether it is ours by its name.
    pub(super) fn is_ours(&self) -> bool {
        self.name.starts_with(LinkName::PREFIX)
    }

    /// Whether it is one end of a veth pair.
    pub(super) fn is_veth(&self) -> bool {
        self.kind == Some(InfoKind::Veth)
    }

    /// The tunnel device as a row. One that is not a VXLAN device, is down, learns, or sends to a group or by other means than
    /// its forwarding entries keeps its MAC, port, address and MTU for the log, but gets a VNI that no device can have.
    /// `address` and `address6` are the device's own.
    pub(super) fn vtep(&self, address: Ipv4Addr, address6: Option<Ipv6Addr>) -> Vtep {
        let mut vtep = Vtep {
            mac: self.mac,
            vni: NO_VNI,
            port: 0,
            local: IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            mtu: self.mtu,
            address: address.into(),
            address6,
        };
        let mut vni = NO_VNI;
        let mut is_plain = self.is_up && self.kind == Some(InfoKind::Vxlan);
        for attribute in &self.vxlan {
            match attribute {
                InfoVxlan::Id(id) => vni = *id,
                InfoVxlan::Port(port) => vtep.port = *port,
                InfoVxlan::Local(local) => vtep.local = IpAddr::V4(*local),
                InfoVxlan::Local6(local) => vtep.local = IpAddr::V6(*local),
                InfoVxlan::Learning(on)
                | InfoVxlan::CollectMetadata(on)
                | InfoVxlan::Vnifilter(on)
                | InfoVxlan::Proxy(on) => {
                    is_plain &= !on;
                }
                InfoVxlan::Group(_) | InfoVxlan::Group6(_) | InfoVxlan::Gpe => is_plain = false,
                InfoVxlan::Link(lower) => is_plain &= *lower == 0,
                _ => {}
            }
        }
        if is_plain {
            vtep.vni = vni;
        }
        vtep
    }

    /// The host side of a pair as a row. One that is not whole reads as an attachment without addresses to no namespace, which
    /// nobody wants: not a veth, no alias of ours, down, or with another MAC than the containers' gateway has.
    ///
    /// A whole one whose real MTU is not the one in its alias was changed by somebody else, or a change of it was cut off and
    /// nobody knows how far it came: it has [`UNCERTAIN_MTU`], so that it equals no wanted one but is the same pair still.
    /// The container's side is not looked at. Asking each namespace at each look would cost a request a container, and who is
    /// root in one may well choose to send smaller packets; the next change of the pair sets both sides alike.
    pub(super) fn attachment(&self) -> Attachment {
        let is_sound = self.is_veth() && self.is_up && self.mac == Mac::GATEWAY;
        match Attachment::from_alias(&self.alias) {
            Some(whole) if is_sound && whole.mtu == self.mtu => whole,
            Some(whole) if is_sound => Attachment { mtu: UNCERTAIN_MTU, ..whole },
            _ => Attachment {
                netns: NetnsRef { path: String::new(), inode: 0 },
                ifname: String::new(),
                addresses: Vec::new(),
                mtu: self.mtu,
            },
        }
    }
}

/// Six bytes as a MAC; anything else as zeroes, which no device of ours has.
pub(super) fn mac_of(bytes: &[u8]) -> Mac {
    Mac(bytes.try_into().unwrap_or_default())
}

/// All devices of the socket's namespace. Statistics, the bulk of what the kernel would send, are left out.
pub(super) async fn all(socket: &Socket) -> Result<Vec<Link>, Refusal> {
    let rows = socket.dump(RouteNetlinkMessage::GetLink(lean(LinkMessage::default()))).await?;
    Ok(rows.into_iter().filter_map(Link::from_message).collect())
}

/// One device by its name; nothing if there is none.
pub(super) async fn by_name(socket: &Socket, name: &str) -> Result<Option<Link>, Refusal> {
    match socket.get(RouteNetlinkMessage::GetLink(lean(named(name)))).await {
        Ok(row) => Ok(row.and_then(Link::from_message)),
        Err(refusal) if refusal.is(Errno::ENODEV) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// One device by its index; nothing if there is none.
pub(super) async fn by_index(socket: &Socket, index: u32) -> Result<Option<Link>, Refusal> {
    match socket.get(RouteNetlinkMessage::GetLink(lean(numbered(index)))).await {
        Ok(row) => Ok(row.and_then(Link::from_message)),
        Err(refusal) if refusal.is(Errno::ENODEV) => Ok(None),
        Err(refusal) => Err(refusal),
    }
}

/// A request about the device of this name.
pub(super) fn named(name: &str) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.push(LinkAttribute::IfName(name.to_owned()));
    message
}

/// A request about the device of this index.
fn numbered(index: u32) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message
}

/// Sets a device's MTU, in bytes.
pub(super) fn set_mtu(index: u32, mtu: u32) -> RouteNetlinkMessage {
    let mut message = numbered(index);
    message.attributes.push(LinkAttribute::Mtu(mtu));
    RouteNetlinkMessage::SetLink(message)
}

/// Sets a device's alias.
pub(super) fn set_alias(index: u32, alias: String) -> RouteNetlinkMessage {
    let mut message = numbered(index);
    message.attributes.push(LinkAttribute::IfAlias(alias));
    RouteNetlinkMessage::SetLink(message)
}

/// Sets a device up.
pub(super) fn set_up(name: &str) -> RouteNetlinkMessage {
    let mut message = named(name);
    message.header.flags = LinkFlags::Up;
    message.header.change_mask = LinkFlags::Up;
    RouteNetlinkMessage::SetLink(message)
}

/// Keeps a device, before it is set up, from giving itself an IPv6 link-local address: nobody needs one on a link of ours,
/// and each would be a neighbour discovery, a multicast group and a route more.
pub(super) fn set_no_autoconf(name: &str) -> RouteNetlinkMessage {
    let mut message = named(name);
    message.attributes.push(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(
        In6AddrGenMode::None,
    )])]));
    RouteNetlinkMessage::SetLink(message)
}

/// Turns autoconfiguration off and sets a device up. A kernel without IPv6 has nothing to turn off.
pub(super) async fn bring_up(socket: &Socket, name: &str) -> Result<(), Refusal> {
    let results = socket.change_each([(set_no_autoconf(name), 0), (set_up(name), 0)]).await;
    for result in results {
        accept(result, &[Errno::EAFNOSUPPORT, Errno::EOPNOTSUPP])?;
    }
    Ok(())
}

/// Removes a device; one that is not there is fine.
pub(super) async fn delete(socket: &Socket, name: &str) -> Result<(), Refusal> {
    accept(socket.change(RouteNetlinkMessage::DelLink(named(name)), 0).await, &[Errno::ENODEV])
}

impl Rtnetlink {
    /// Makes the tunnel device. If it is there and has this identity it is kept, with its entries, and gets the MTU.
    pub(super) async fn create_vtep(&self, wanted: Vtep) -> Result<(), KernelError> {
        let fail = |reason: &dyn fmt::Display| {
            KernelError::new(
                format!(
                    "create the tunnel device {VTEP_LINK} (VNI {}, UDP port {}, from {})",
                    wanted.vni, wanted.port, wanted.local
                ),
                reason,
            )
        };
        if let Some(present) = by_name(&self.socket, VTEP_LINK).await.map_err(|refusal| fail(&refusal))? {
            // Its MTU and its own addresses can be changed in place.
            let Vtep { mtu, address, address6, .. } = wanted;
            if (Vtep { mtu, address, ..present.vtep(Ipv4Addr::UNSPECIFIED, address6) }) == wanted {
                // The MTU first: without enough of it the device has no IPv6.
                self.set_vtep_mtu(mtu).await?;
                return self.put_vtep_addresses(wanted).await.map_err(|refusal| fail(&refusal));
            }
            delete(&self.socket, VTEP_LINK).await.map_err(|refusal| fail(&refusal))?;
        }
        self.seen().vtep = None;
        let mut message = named(VTEP_LINK);
        message.attributes.extend([
            LinkAttribute::Address(wanted.mac.0.to_vec()),
            LinkAttribute::Mtu(wanted.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vxlan),
                LinkInfo::Data(InfoData::Vxlan(vec![
                    InfoVxlan::Id(wanted.vni),
                    match wanted.local {
                        IpAddr::V4(local) => InfoVxlan::Local(local),
                        IpAddr::V6(local) => InfoVxlan::Local6(local),
                    },
                    InfoVxlan::Port(wanted.port),
                    InfoVxlan::Learning(false),
                ])),
            ]),
        ]);
        let created = self.socket.change(RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL).await;
        if let Err(refusal) = created {
            let user = if refusal.is(Errno::EEXIST) { self.user_of(wanted).await } else { None };
            return Err(match user {
                Some(name) => fail(&format!(
                    "the device {name} has this VNI and port; remove it if nobody needs it (`ip link del {name}`), or give \
                     the cluster another port"
                )),
                None => fail(&refusal),
            });
        }
        let made = match self.put_vtep_addresses(wanted).await {
            Ok(()) => bring_up(&self.socket, VTEP_LINK).await.map_err(|refusal| refusal.to_string()),
            refused => refused,
        };
        if let Err(reason) = made {
            // Half a device is worse than none. If it cannot be removed either it reads as unwanted, for it is down.
            let _ = delete(&self.socket, VTEP_LINK).await;
            return Err(fail(&reason));
        }
        Ok(())
    }

    /// Gives the device its own addresses, and takes another IPv6 one away.
    async fn put_vtep_addresses(&self, wanted: Vtep) -> Result<(), String> {
        let words = |refusal: Refusal| refusal.to_string();
        let Some(device) = by_name(&self.socket, VTEP_LINK).await.map_err(words)? else { return Ok(()) };
        let (_, present6) = self.vtep_addresses(device.index).await.map_err(words)?;
        if let Some(other) = present6.filter(|present| Some(*present) != wanted.address6) {
            let remove = RouteNetlinkMessage::DelAddress(address_on(device.index, other.into()));
            accept(self.socket.change(remove, 0).await, &[Errno::EADDRNOTAVAIL, Errno::ENODEV]).map_err(words)?;
        }
        if wanted.address6.is_some() {
            // Some hosts leave IPv6 off on whatever device comes.
            let key = Sysctl(format!("net/ipv6/conf/{VTEP_LINK}/disable_ipv6"));
            sysctl::write(&key, "0").map_err(|error| error.to_string())?;
        }
        // Of global scope, though it is link-local: a host without another IPv4 address speaks to containers from this one.
        let message = address_on(device.index, wanted.address);
        let messages = [Some(message), wanted.address6.map(|address| address_on(device.index, address.into()))];
        for message in messages.into_iter().flatten() {
            let add = RouteNetlinkMessage::NewAddress(message);
            self.socket.change(add, NLM_F_CREATE | NLM_F_REPLACE).await.map_err(words)?;
        }
        Ok(())
    }

    /// The name of the VXLAN device, other than ours, that has the VNI and port of `wanted`.
    async fn user_of(&self, wanted: Vtep) -> Option<String> {
        let links = all(&self.socket).await.ok()?;
        let user = links.into_iter().find(|link| {
            link.vxlan.contains(&InfoVxlan::Id(wanted.vni)) && link.vxlan.contains(&InfoVxlan::Port(wanted.port))
        });
        user.map(|link| link.name)
    }

    /// Sets the tunnel device's MTU.
    pub(super) async fn set_vtep_mtu(&self, mtu: u32) -> Result<(), KernelError> {
        let mut message = named(VTEP_LINK);
        message.attributes.push(LinkAttribute::Mtu(mtu));
        self.socket
            .change(RouteNetlinkMessage::SetLink(message), 0)
            .await
            .map_err(|refusal| KernelError::new(format!("set the MTU of {VTEP_LINK} to {mtu} bytes"), refusal))
    }

    /// Removes a device of ours; one that is not there is fine.
    pub(super) async fn delete_link(&self, name: &str) -> Result<(), KernelError> {
        if name == VTEP_LINK {
            self.seen().vtep = None;
        }
        delete(&self.socket, name)
            .await
            .map_err(|refusal| KernelError::new(format!("remove the device {name}"), refusal))
    }
}

fn lean(mut message: LinkMessage) -> LinkMessage {
    message.attributes.push(LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]));
    message
}
