//! What an attach asks for, checked against what is known.

use std::{collections::BTreeSet, net::IpAddr};

use super::{Member, lookup, names};
use crate::{
    agent::{host::Host, views},
    api::{
        Refusal,
        wire::{AttachRequest, NetnsTarget},
    },
    model::{Cluster, Endpoint, Name, NetnsRef, Network, NodeId, Service, ServiceId},
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
        let node = views::node_name(cluster, endpoint.node);
        let differences = differences(cluster, member.me(), endpoint, wish);
        if differences.is_empty() {
            return Ok(Some(endpoint));
        }
        return Err(Refusal::conflict(format!(
            "the network {} has an endpoint {} already, on {node}, {}",
            wish.network.name,
            wish.name,
            differences.join("; ")
        ))
        .with_hint(format!("choose another --name, or `weft detach {}` on {node} first", wish.name)));
    }
    let same_device = cluster
        .endpoints_on(member.me())
        .find(|endpoint| endpoint.netns.inode == wish.netns.inode && endpoint.ifname == wish.ifname);
    match same_device {
        Some(endpoint) => Err(Refusal::conflict(format!(
            "the device {} of {} belongs to the endpoint {} already",
            wish.ifname, wish.netns.path, endpoint.name
        ))
        .with_hint(format!("choose another --ifname, or `weft detach {}` first", endpoint.name))),
        None => Ok(None),
    }
}

/// In what an endpoint is not as wished: each with how it is and what was asked for.
fn differences(cluster: &Cluster, me: NodeId, endpoint: &Endpoint, wish: &Wish) -> Vec<String> {
    let differs = |what: &str, has: &str, asked: &str| {
        (has != asked).then(|| format!("with another {what}: it has {has}, asked for was {asked}"))
    };
    // Of another host's namespaces and devices there is nothing to compare.
    if endpoint.node != me {
        let [has, asked] = [endpoint.node, me].map(|id| views::node_name(cluster, id));
        return vec![format!("with another node: it has {has}, asked for was {asked}")];
    }
    let netns = |netns: &NetnsRef| format!("{} (inode {})", netns.path, netns.inode);
    let service = |id: Option<ServiceId>| id.map_or("none".to_owned(), |id| views::service_name(cluster, id));
    let aliases = |aliases: &[Name]| {
        let aliases: BTreeSet<&str> = aliases.iter().map(Name::as_str).collect();
        if aliases.is_empty() { "none".to_owned() } else { aliases.into_iter().collect::<Vec<_>>().join(",") }
    };
    let list = |addresses: &[IpAddr]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let address = wish.address.filter(|address| !endpoint.addresses.contains(address));
    [
        differs("namespace", &netns(&endpoint.netns), &netns(&wish.netns)),
        differs("device", &endpoint.ifname, &wish.ifname),
        address.and_then(|address| differs("address", &list(&endpoint.addresses), &address.to_string())),
        differs("service", &service(endpoint.service), &service(wish.service.as_ref().map(|service| service.id))),
        differs("set of aliases", &aliases(&endpoint.aliases), &aliases(&wish.aliases)),
        differs("weight", &endpoint.weight.to_string(), &wish.weight.to_string()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ClusterId, ClusterSettings, EndpointId, EndpointState, NetworkId};

    #[test]
    fn every_difference_is_named() {
        let cluster =
            Cluster::empty(ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: Vec::new() });
        let me = NodeId::new(1).unwrap();
        let network = Network {
            id: NetworkId::new(1).unwrap(),
            name: "blue".parse().unwrap(),
            subnets: Vec::new(),
            internal: false,
            mtu: None,
        };
        let service = |id| {
            let id = ServiceId::new(id).unwrap();
            Service::new(id, format!("s{id}").parse().unwrap(), network.id, Vec::new(), Vec::new())
        };
        let names = |words: &str| words.split_whitespace().map(|word| word.parse().unwrap()).collect::<Vec<Name>>();
        let endpoint = Endpoint {
            id: EndpointId(1),
            network: network.id,
            addresses: vec!["10.9.0.1".parse().unwrap(), "fd00::1".parse().unwrap()],
            name: "web-1".parse().unwrap(),
            aliases: names("www web"),
            node: me,
            service: ServiceId::new(1),
            state: EndpointState::Ready,
            weight: 1,
            netns: NetnsRef { path: "/run/netns/a".into(), inode: 7 },
            ifname: "eth0".into(),
            fault: None,
        };
        let wish = || Wish {
            netns: endpoint.netns.clone(),
            network: network.clone(),
            name: endpoint.name.clone(),
            aliases: names("web www"),
            service: Some(service(1)),
            address: None,
            ifname: "eth0".into(),
            weight: 1,
        };
        let netns = |path: &str, inode| NetnsRef { path: path.into(), inode };
        for (asked, said) in [
            (wish(), ""),
            (Wish { address: Some(endpoint.addresses[1]), ..wish() }, ""),
            (
                Wish { address: Some("10.9.0.2".parse().unwrap()), ..wish() },
                "with another address: it has 10.9.0.1,fd00::1, asked for was 10.9.0.2",
            ),
            (
                Wish { netns: netns("/run/netns/a", 8), ..wish() },
                "with another namespace: it has /run/netns/a (inode 7), asked for was /run/netns/a (inode 8)",
            ),
            (
                Wish { netns: netns("/proc/9/ns/net", 7), ..wish() },
                "with another namespace: it has /run/netns/a (inode 7), asked for was /proc/9/ns/net (inode 7)",
            ),
            (Wish { ifname: "eth1".into(), ..wish() }, "with another device: it has eth0, asked for was eth1"),
            (Wish { service: None, ..wish() }, "with another service: it has service 1, asked for was none"),
            (Wish { aliases: Vec::new(), ..wish() }, "with another set of aliases: it has web,www, asked for was none"),
            (
                Wish { weight: 5, service: Some(service(2)), ..wish() },
                "with another service: it has service 1, asked for was service 2; \
                 with another weight: it has 1, asked for was 5",
            ),
        ] {
            assert_eq!(differences(&cluster, me, &endpoint, &asked).join("; "), said);
        }
        assert_eq!(
            differences(&cluster, NodeId::new(2).unwrap(), &endpoint, &Wish { weight: 5, ..wish() }),
            ["with another node: it has node 1, asked for was node 2"]
        );
    }
}
