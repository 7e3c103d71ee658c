//! What an attach asks for, checked against what is known.

use std::net::IpAddr;

use super::{Member, lookup, names};
use crate::{
    agent::{host::Host, views},
    api::{
        Refusal,
        wire::{AttachRequest, NetnsTarget},
    },
    model::{Cluster, Endpoint, Name, NetnsRef, Network, Service},
};

/// Aliases of one endpoint.
const ALIASES_MAX: usize = 32;
/// The longest device name, in bytes (`IFNAMSIZ` less the final NUL, linux/if.h).
const IFNAME_LEN_MAX: usize = 15;

/// A request, checked against what was known when it came.
pub(super) struct Wish {
    pub(super) netns: NetnsRef,
    pub(super) network: Network,
    pub(super) name: Name,
    pub(super) aliases: Vec<Name>,
    pub(super) service: Option<Service>,
    pub(super) address: Option<IpAddr>,
    pub(super) ifname: String,
    pub(super) weight: u16,
}

/// A request as a wish, or what is wrong with it.
pub(super) fn check(host: &dyn Host, cluster: &Cluster, request: &AttachRequest) -> Result<Wish, Refusal> {
    let network = lookup::network(cluster, &request.network)?.clone();
    let service = request.service.as_deref().map(|name| lookup::service(cluster, name)).transpose()?.cloned();
    if let Some(service) = service.as_ref().filter(|service| service.network != network.id) {
        return Err(Refusal::conflict(format!(
            "the service {} is in the network {}, not in {}",
            service.name,
            views::network_name(cluster, service.network),
            network.name
        )));
    }
    let name = match &request.name {
        Some(name) => lookup::name(name)?,
        None => made_up_name(host)?,
    };
    let aliases: Vec<Name> = request.aliases.iter().map(|alias| lookup::name(alias)).collect::<Result<_, _>>()?;
    if aliases.len() > ALIASES_MAX {
        return Err(Refusal::invalid(format!(
            "{name} would have {} aliases; {ALIASES_MAX} is the most",
            aliases.len()
        )));
    }
    names::check_endpoint(cluster, &network, &name, &aliases)?;
    let address = match &request.ip {
        Some(text) => {
            let address = text.parse().map_err(|_| Refusal::invalid(format!("{text:?} is not an IP address")))?;
            if !network.contains(address) {
                let prefixes =
                    network.subnets.iter().map(|subnet| subnet.prefix.to_string()).collect::<Vec<_>>().join(", ");
                return Err(Refusal::invalid(format!(
                    "{address} does not lie in the network {} ({prefixes})",
                    network.name
                )));
            }
            Some(address)
        }
        None => None,
    };
    check_ifname(&request.ifname)?;
    let path = match &request.netns {
        NetnsTarget::Path(path) => path.clone(),
        NetnsTarget::Pid(pid) => format!("/proc/{pid}/ns/net"),
    };
    let netns = host.inspect_netns(&path).map_err(Refusal::invalid)?;
    Ok(Wish {
        netns,
        network,
        name,
        aliases,
        service,
        address,
        ifname: request.ifname.clone(),
        weight: request.weight.get(),
    })
}

/// As the kernel's `dev_valid_name` (net/core/dev.c). Besides, `%d` would be a pattern to it (`dev_alloc_name`), and under
/// net.ipv4.conf `all` and `default` are not devices (ip-sysctl.rst).
fn check_ifname(name: &str) -> Result<(), Refusal> {
    let wrong = name.is_empty()
        || name.len() > IFNAME_LEN_MAX
        || name == "."
        || name == ".."
        || name
            .bytes()
            .any(|byte| matches!(byte, b'/' | b':' | b'%') || byte.is_ascii_whitespace() || byte.is_ascii_control());
    if wrong || ["lo", "all", "default"].contains(&name) {
        return Err(Refusal::invalid(format!(
            "{name:?} cannot be a device's name: 1 to {IFNAME_LEN_MAX} bytes without white space and / : %, and not lo, all or default"
        )));
    }
    Ok(())
}

fn made_up_name(host: &dyn Host) -> Result<Name, Refusal> {
    let id = host.random().map_err(Refusal::internal)?;
    lookup::name(&format!("endpoint-{:08x}", id >> 32))
}

/// The endpoint that this very wish has made before; a conflict if its name or device stands for something else.
pub(super) fn existing<'a>(
    member: &Member,
    cluster: &'a Cluster,
    wish: &Wish,
) -> Result<Option<&'a Endpoint>, Refusal> {
    let same_name =
        cluster.endpoints.values().find(|endpoint| endpoint.network == wish.network.id && endpoint.name == wish.name);
    if let Some(endpoint) = same_name {
        let same = endpoint.node == member.me()
            && endpoint.netns == wish.netns
            && endpoint.ifname == wish.ifname
            && endpoint.aliases == wish.aliases
            && endpoint.weight == wish.weight
            && endpoint.service == wish.service.as_ref().map(|service| service.id)
            && wish.address.is_none_or(|address| endpoint.addresses.contains(&address));
        if same {
            return Ok(Some(endpoint));
        }
        return Err(Refusal::conflict(format!(
            "the network {} has an endpoint {} already, on {} with other words",
            wish.network.name,
            wish.name,
            views::node_name(cluster, endpoint.node)
        ))
        .with_hint(format!("choose another --name, or `weft detach {}` there first", wish.name)));
    }
    let same_device = cluster
        .endpoints_on(member.me())
        .find(|endpoint| endpoint.netns.inode == wish.netns.inode && endpoint.ifname == wish.ifname);
    match same_device {
        Some(endpoint) => Err(Refusal::conflict(format!(
            "the device {} of {} belongs to the endpoint {} already",
            wish.ifname, wish.netns.path, endpoint.name
        ))
        .with_hint("choose another --ifname")),
        None => Ok(None),
    }
}
