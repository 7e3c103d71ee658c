use std::{fmt, fs::File, io, net::IpAddr, os::fd::AsRawFd};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage},
    link::{InfoData, InfoKind, InfoVeth, LinkAttribute, LinkInfo, LinkMessage},
    route::{RouteMessage, RouteProtocol, RouteType},
};
use tokio::runtime::Handle;

use super::{
    Rtnetlink,
    link::{self, Link},
    neighbour, route,
    socket::{Refusal, Socket},
};
use crate::{
    kernel::{KernelError, netns, sysctl},
    model::{Attachment, IPV6_MTU_MIN, LinkName, Mac, Network, RouteTable, Sysctl},
};

impl Rtnetlink {
    /// Makes a veth pair. One of this name that is whole and has this attachment is kept; any other is removed first.
    ///
    /// Container side: the addresses (IPv6 without duplicate address detection, for the addresses are assigned), the
    /// gateways as permanent neighbours, and a default route for each family that has none yet: a container in two networks
    /// keeps the default route of the first. `lo` is left as it is. Host side: no addresses, the container's addresses as
    /// permanent neighbours (the host has no link-local address there to ask for an IPv6 one from), and the alias last.
    /// What fails midway is removed again; what is cut off midway has no alias and so reads as not whole.
    pub(super) async fn create_link(&self, name: &LinkName, wanted: &Attachment) -> Result<(), KernelError> {
        let making = Making { host: self, name, wanted };
        if let Some(reason) = too_small_for_ipv6(wanted) {
            return Err(making.fail(reason));
        }
        let netns = netns::open(&wanted.netns).map_err(|error| making.fail(error))?;
        let present = link::by_name(&self.socket, name.as_str()).await.map_err(|refusal| making.fail(refusal))?;
        if let Some(present) = present {
            if present.attachment() == *wanted {
                return Ok(());
            }
            self.delete_link(name.as_str()).await?;
        }
        let inside = Socket::open_inside(&netns).map_err(|error| making.fail(error))?;
        // Before anything is made: a name in use is the container's own affair.
        if link::by_name(&inside, &wanted.ifname).await.map_err(|refusal| making.fail(refusal))?.is_some() {
            return Err(making.fail(format!(
                "there is a device {} in {} already; choose another name for this network's",
                wanted.ifname, wanted.netns.path
            )));
        }
        if let Err(reason) = making.make(&netns, &inside).await {
            // The pair goes with either of its sides. If this fails too it is without an alias, and is removed later.
            let _ = link::delete(&self.socket, name.as_str()).await;
            return Err(making.fail(reason));
        }
        Ok(())
    }
}

impl Rtnetlink {
    /// Gives a living pair another MTU on both sides and another alias. Its connections go on.
    ///
    /// The first thing done is to make the alias say that the MTU is not certain, and the last that it is: whatever is cut off or
    /// refused in between shows in the next look ([`link::Link::attachment`]) and is done again. The container's side is found
    /// by its index, for its name is the container's affair. Where it has gone from the namespace there is nothing left to
    /// keep, and the pair is made anew.
    pub(super) async fn update_link(&self, name: &LinkName, wanted: &Attachment) -> Result<(), KernelError> {
        let fail = |reason: &dyn fmt::Display| {
            KernelError::new(format!("set the MTU of {name} ({}) to {} bytes", wanted.netns.path, wanted.mtu), reason)
        };
        let refused = |refusal: Refusal| fail(&refusal);
        if let Some(reason) = too_small_for_ipv6(wanted) {
            return Err(fail(&reason));
        }
        let netns = netns::open(&wanted.netns).map_err(|error| fail(&error))?;
        let host = link::by_name(&self.socket, name.as_str()).await.map_err(refused)?;
        let Some(host) = host.filter(|host| host.attachment().is_same_pair(wanted)) else {
            return Err(fail(&"the pair has gone or is another one by now"));
        };
        let inside = Socket::open_inside(&netns).map_err(|error| fail(&error))?;
        let Some(container) = other_side(&host, &inside).await.map_err(refused)? else {
            return self.delete_and_create(name, wanted).await;
        };
        let uncertain = Attachment { mtu: link::UNCERTAIN_MTU, ..wanted.clone() };
        let begin = [
            ("the alias".to_owned(), link::set_alias(host.index, uncertain.to_alias()), 0),
            ("the host's side".to_owned(), link::set_mtu(host.index, wanted.mtu), 0),
        ];
        do_all(&self.socket, begin).await.map_err(|reason| fail(&reason))?;
        let far = [("the container's side".to_owned(), link::set_mtu(container.index, wanted.mtu), 0)];
        do_all(&inside, far).await.map_err(|reason| fail(&reason))?;
        // An MTU set by hand may have cost the host's side its IPv6, and with it the neighbours.
        Making { host: self, name, wanted }.furnish_host().await.map_err(|reason| fail(&reason))
    }

    async fn delete_and_create(&self, name: &LinkName, wanted: &Attachment) -> Result<(), KernelError> {
        self.delete_link(name.as_str()).await?;
        self.create_link(name, wanted).await
    }

    /// Sets `lo` up in a namespace.
    pub async fn set_loopback_up(netns: &File) -> Result<(), KernelError> {
        let fail = |reason: &dyn fmt::Display| KernelError::new("set lo up in the namespace", reason);
        let inside = Socket::open_inside(netns).map_err(|error| fail(&error))?;
        inside.change(link::set_up("lo"), 0).await.map_err(|refusal| fail(&refusal))
    }
}

impl Socket {
    /// A socket in another network namespace, driven by the calling runtime: a socket stays where it was opened.
    fn open_inside(netns: &File) -> io::Result<Self> {
        let runtime = Handle::current();
        netns::within(netns, || Self::open_on(&runtime))?
    }
}

/// One pair being made.
struct Making<'a> {
    host: &'a Rtnetlink,
    name: &'a LinkName,
    wanted: &'a Attachment,
}

impl Making<'_> {
    fn fail(&self, reason: impl fmt::Display) -> KernelError {
        let addresses: Vec<String> = self.wanted.addresses.iter().map(ToString::to_string).collect();
        KernelError::new(
            format!(
                "link {} ({}) as {} to {}",
                self.name,
                addresses.join(", "),
                self.wanted.ifname,
                self.wanted.netns.path
            ),
            reason,
        )
    }

    async fn make(&self, netns: &File, inside: &Socket) -> Result<(), String> {
        self.create(netns).await?;
        if self.has_family(AddressFamily::Inet6) {
            self.allow_ipv6(netns)?;
        }
        self.furnish_container(inside).await?;
        self.furnish_host().await
    }

    /// Both sides in one request, the container's straight into its namespace: it is never seen in the host's.
    async fn create(&self, netns: &File) -> Result<(), String> {
        let mut peer = link::named(&self.wanted.ifname);
        peer.attributes.extend([
            LinkAttribute::Address(self.wanted.mac().0.to_vec()),
            LinkAttribute::Mtu(self.wanted.mtu),
            LinkAttribute::NetNsFd(netns.as_raw_fd()),
        ]);
        let mut pair: LinkMessage = link::named(self.name.as_str());
        pair.attributes.extend([
            LinkAttribute::Address(Mac::GATEWAY.0.to_vec()),
            LinkAttribute::Mtu(self.wanted.mtu),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Veth),
                LinkInfo::Data(InfoData::Veth(InfoVeth::Peer(peer))),
            ]),
        ]);
        self.host
            .socket
            .change(RouteNetlinkMessage::NewLink(pair), NLM_F_CREATE | NLM_F_EXCL)
            .await
            .map_err(|refusal| format!("the pair: {refusal}"))
    }

    /// Container engines turn IPv6 off in the namespaces that they make for IPv4 networks; ours needs it on its own device.
    fn allow_ipv6(&self, netns: &File) -> Result<(), String> {
        let key = Sysctl(format!("net/ipv6/conf/{}/disable_ipv6", self.wanted.ifname));
        netns::within(netns, || sysctl::write(&key, "0"))
            .map_err(|error| error.to_string())?
            .map_err(|error| error.to_string())
    }

    async fn furnish_container(&self, inside: &Socket) -> Result<(), String> {
        let ifname = &self.wanted.ifname;
        let device = link::by_name(inside, ifname)
            .await
            .map_err(|refusal| refusal.to_string())?
            .ok_or_else(|| format!("{ifname} vanished from the container while it was made"))?;
        // The addresses before the device is up, the gateways and routes after: going down would lose these.
        let mut tasks: Vec<(String, RouteNetlinkMessage, u16)> = Vec::new();
        for address in &self.wanted.addresses {
            let add = RouteNetlinkMessage::NewAddress(address_on(device.index, *address));
            tasks.push((format!("the address {address}"), add, NLM_F_CREATE | NLM_F_REPLACE));
        }
        tasks.push((format!("setting {ifname} up"), link::set_up(ifname), 0));
        for (family, gateway) in GATEWAYS {
            if !self.has_family(family) {
                continue;
            }
            let resolve = neighbour::neighbour(device.index, gateway, Some(Mac::GATEWAY));
            tasks.push((
                format!("the gateway {gateway}"),
                RouteNetlinkMessage::NewNeighbour(resolve),
                NLM_F_CREATE | NLM_F_REPLACE,
            ));
            if !has_default_route(inside, family).await.map_err(|refusal| refusal.to_string())? {
                let route = default_route(gateway, device.index);
                tasks.push((
                    format!("the default route via {gateway}"),
                    RouteNetlinkMessage::NewRoute(route),
                    NLM_F_CREATE | NLM_F_EXCL,
                ));
            }
        }
        do_all(inside, tasks).await
    }

    async fn furnish_host(&self) -> Result<(), String> {
        let socket = &self.host.socket;
        let name = self.name.as_str();
        if self.has_family(AddressFamily::Inet6) {
            let key = Sysctl(format!("net/ipv6/conf/{name}/disable_ipv6"));
            sysctl::write(&key, "0").map_err(|error| error.to_string())?;
        }
        link::bring_up(socket, name).await.map_err(|refusal| format!("setting {name} up: {refusal}"))?;
        let index = self
            .host
            .index_of(name)
            .await
            .map_err(|refusal| refusal.to_string())?
            .ok_or_else(|| format!("{name} vanished while it was made"))?;
        let mac = self.wanted.mac();
        let neighbours = self.wanted.addresses.iter().map(|address| {
            let resolve = RouteNetlinkMessage::NewNeighbour(neighbour::neighbour(index, *address, Some(mac)));
            (format!("the neighbour {address}"), resolve, NLM_F_CREATE | NLM_F_REPLACE)
        });
        do_all(socket, neighbours).await?;
        do_all(socket, [("the alias".to_owned(), link::set_alias(index, self.wanted.to_alias()), 0)]).await
    }

    fn has_family(&self, family: AddressFamily) -> bool {
        self.wanted.addresses.iter().any(|address| address.is_ipv6() == (family == AddressFamily::Inet6))
    }
}

/// What is wrong with an MTU at which a device has no IPv6, for an attachment with an IPv6 address.
fn too_small_for_ipv6(wanted: &Attachment) -> Option<String> {
    let is_too_small = wanted.mtu < IPV6_MTU_MIN && wanted.addresses.iter().any(IpAddr::is_ipv6);
    is_too_small.then(|| {
        format!(
            "its network has IPv6, which needs an MTU of {IPV6_MTU_MIN} bytes (RFC 8200, 5), and the tunnel leaves {}; give the \
             way between the nodes a larger MTU",
            wanted.mtu
        )
    })
}

/// The container's side of a pair, if it is in this namespace. The number alone would not do: another device may have the same
/// one in a namespace that the container's side has been moved out of.
async fn other_side(host: &Link, inside: &Socket) -> Result<Option<Link>, Refusal> {
    let Some(index) = host.other else { return Ok(None) };
    let found = link::by_index(inside, index).await?;
    Ok(found.filter(|link| link.is_veth() && link.other == Some(host.index)))
}

/// The containers' default gateway of each family.
const GATEWAYS: [(AddressFamily, IpAddr); 2] =
    [(AddressFamily::Inet, IpAddr::V4(Network::GATEWAY_V4)), (AddressFamily::Inet6, IpAddr::V6(Network::GATEWAY_V6))];

/// Asks for several changes at once; the first that is refused is named.
async fn do_all(
    socket: &Socket,
    tasks: impl IntoIterator<Item = (String, RouteNetlinkMessage, u16)>,
) -> Result<(), String> {
    let (words, requests): (Vec<_>, Vec<_>) =
        tasks.into_iter().map(|(words, request, flags)| (words, (request, flags))).unzip();
    for (words, result) in words.into_iter().zip(socket.change_each(requests).await) {
        result.map_err(|refusal| format!("{words}: {refusal}"))?;
    }
    Ok(())
}

/// An address of full length: nothing else is on the link.
pub(super) fn address_on(index: u32, address: IpAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = index;
    message.attributes.extend([AddressAttribute::Local(address), AddressAttribute::Address(address)]);
    match address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
            message.header.prefix_len = 32;
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            message.header.prefix_len = 128;
            message.header.flags = AddressHeaderFlags::Nodad;
        }
    }
    message
}

/// Whether a namespace has a default route in its main table. An unreachable one is none.
async fn has_default_route(inside: &Socket, family: AddressFamily) -> Result<bool, Refusal> {
    let rows = route::in_main_table(inside, family).await?;
    Ok(rows.iter().any(|row| row.header.destination_prefix_length == 0 && row.header.kind == RouteType::Unicast))
}

fn default_route(gateway: IpAddr, index: u32) -> RouteMessage {
    let everything = match gateway {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    let mut message = route::about(RouteTable::MAIN, everything);
    message.header.protocol = RouteProtocol::Static;
    message.header.kind = RouteType::Unicast;
    route::via(&mut message, gateway, index);
    message
}
