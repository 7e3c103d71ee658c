use std::collections::BTreeSet;

use ipnet::IpNet;

use super::{
    Member, lookup,
    nodes::{DELETIONS_MAX, delete_while},
};
use crate::{
    agent::{
        configuration::{Decision, Fresh, configure, put, store_refusal},
        views,
    },
    api::{
        Refusal,
        wire::{NetworkCreateReply, NetworkCreateRequest, NetworkView},
    },
    ipam,
    kernel::LocalPrefix,
    model::{Cluster, Family, IPV6_MTU_MIN, Name, Network, NetworkId, Subnet},
    overlay,
    store::{Compare, Write, record},
};

pub(super) fn list(member: &Member) -> Result<Vec<NetworkView>, Refusal> {
    let cluster = lookup::cluster(member)?;
    let mut networks: Vec<&Network> = cluster.networks.values().collect();
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(networks.into_iter().map(|network| views::network(&cluster, network)).collect())
}

pub(super) fn inspect(member: &Member, name: &str) -> Result<NetworkView, Refusal> {
    let cluster = lookup::cluster(member)?;
    Ok(views::network(&cluster, lookup::network(&cluster, name)?))
}

/// The cluster's prefixes that a host reaches by other means than weft, with the way by which it does. What runs there
/// cannot be told from containers.
pub(super) fn shadowed<'a>(
    cluster: &'a Cluster,
    routed: &'a [LocalPrefix],
) -> impl Iterator<Item = (&'a Name, IpNet, &'a LocalPrefix)> {
    prefixes(cluster).filter_map(|(name, prefix)| {
        let route = routed.iter().find(|route| route.prefix.contains(&prefix) || prefix.contains(&route.prefix))?;
        Some((name, prefix, route))
    })
}

pub(super) async fn create(member: &Member, request: &NetworkCreateRequest) -> Result<NetworkCreateReply, Refusal> {
    let name = lookup::name(&request.name)?;
    let wanted = Wanted::from_request(&name, request)?;
    let (least, most) = (NetworkCreateRequest::MTU_MIN, NetworkCreateRequest::MTU_MAX);
    if let Some(mtu) = request.mtu.filter(|mtu| !(least..=most).contains(mtu)) {
        return Err(Refusal::invalid(format!("the MTU {mtu} does not lie in {least} to {most} bytes")));
    }
    if wanted.families.contains(&Family::V6) {
        refuse_small_tunnel(member, &name)?;
    }
    let routed = member.host.local_prefixes().await.map_err(Refusal::internal)?;
    let ((id, created), revision) = configure(&*member.store, |fresh| {
        let cluster = &fresh.cluster;
        if let Some(existing) = cluster.network_named(&name) {
            compare(existing, &wanted, request)?;
            return Ok(Decision::Already((existing.id, false)));
        }
        let taken: Vec<IpNet> =
            prefixes(cluster).map(|(_, prefix)| prefix).chain(routed.iter().map(|route| route.prefix)).collect();
        let subnets = wanted.complete(cluster, &taken)?;
        for subnet in &subnets {
            refuse_overlap(cluster, &routed, subnet.prefix)?;
        }
        let id = free_id(fresh)?;
        let network = Network { id, name: name.clone(), subnets, internal: request.internal, mtu: request.mtu };
        Ok(Decision::Write(vec![put(record::key_of_network(id), record::encode_network(&network))], (id, true)))
    })
    .await?;
    let cluster = member.cluster_at(revision).await.map_or_else(|| lookup::cluster(member), Ok)?;
    // Answered when this node's kernel knows the network too.
    member.reconciler.pass_with(revision.0).await;
    let network = cluster.networks.get(&id).ok_or_else(|| Refusal::not_found("the network has just been removed"))?;
    Ok(NetworkCreateReply { created, network: views::network(&cluster, network) })
}

fn subnet(text: &str) -> Result<Subnet, Refusal> {
    let prefix: IpNet = text
        .parse()
        .map_err(|_| Refusal::invalid(format!("the subnet {text:?} is not a prefix such as 10.42.0.0/16")))?;
    ipam::subnet(prefix).map_err(Refusal::invalid)
}

/// The address space that a request asks for.
struct Wanted {
    /// The subnets that it names, IPv4 first.
    subnets: Vec<Subnet>,
    /// The families that the network is to have; those without a named subnet get one from the pools.
    families: BTreeSet<Family>,
}

impl Wanted {
    /// IPv4 from the pools unless a subnet is named; IPv6 where it is asked for, by name or by `ipv6`.
    fn from_request(name: &Name, request: &NetworkCreateRequest) -> Result<Self, Refusal> {
        let mut subnets: Vec<Subnet> = request.subnets.iter().map(|text| subnet(text)).collect::<Result<_, _>>()?;
        subnets.sort_by_key(|subnet| Family::of(subnet.prefix.addr()));
        let mut families: BTreeSet<Family> = subnets.iter().map(|subnet| Family::of(subnet.prefix.addr())).collect();
        if families.len() < subnets.len() {
            return Err(Refusal::invalid(format!("{name} can have one subnet of each family, not {}", subnets.len())));
        }
        if families.is_empty() {
            families.insert(Family::V4);
        }
        if request.ipv6 {
            families.insert(Family::V6);
        }
        Ok(Self { subnets, families })
    }

    /// One subnet for each family.
    fn complete(&self, cluster: &Cluster, taken: &[IpNet]) -> Result<Vec<Subnet>, Refusal> {
        let choose = |family: &Family| {
            let named = self.subnets.iter().find(|subnet| Family::of(subnet.prefix.addr()) == *family).copied();
            named
                .or_else(|| ipam::choose_subnet(&cluster.settings.pools, *family, taken))
                .ok_or_else(|| no_room(cluster, *family))
        };
        self.families.iter().map(choose).collect()
    }
}

/// IPv6 needs more than some tunnels carry. Each node is held to that when something is attached there; here the one that is
/// asked speaks for all.
fn refuse_small_tunnel(member: &Member, name: &Name) -> Result<(), Refusal> {
    let mtu = member.reconciler.last_pass().and_then(|pass| pass.mtu);
    match mtu.filter(|mtu| !overlay::carries_ipv6(*mtu)) {
        None => Ok(()),
        Some(mtu) => Err(Refusal::conflict(format!("{name} cannot have IPv6: {}", small_tunnel(member, mtu)))
            .with_hint("give the way between the nodes a larger MTU, or leave IPv6 out")),
    }
}

/// Why there is no IPv6 on this node.
pub(super) fn small_tunnel(member: &Member, mtu: u32) -> String {
    let needed = IPV6_MTU_MIN + overlay::overhead(Family::of(member.identity.underlay));
    format!(
        "the tunnel carries {mtu} bytes here and IPv6 needs {IPV6_MTU_MIN} (RFC 8200, 5), so the way to the other nodes has to carry {needed}"
    )
}

/// A network that exists is fine if it was wished for in the same words; otherwise the difference is named.
fn compare(existing: &Network, wanted: &Wanted, request: &NetworkCreateRequest) -> Result<(), Refusal> {
    let Network { id: _, name, subnets, internal, mtu } = existing;
    let differs = |what: &str, has: &dyn std::fmt::Display, asked: &dyn std::fmt::Display| {
        Err(Refusal::conflict(format!(
            "the network {name} exists with another {what}: it has {has}, asked for was {asked}"
        ))
        .with_hint(format!("a network stays as it was made: choose another name, or `weft network rm {name}` first")))
    };
    let list =
        |subnets: &[Subnet]| subnets.iter().map(|subnet| subnet.prefix.to_string()).collect::<Vec<_>>().join(", ");
    if !wanted.subnets.iter().all(|subnet| subnets.contains(subnet)) {
        return differs("subnet", &list(subnets), &list(&wanted.subnets));
    }
    let families: BTreeSet<Family> = subnets.iter().map(|subnet| Family::of(subnet.prefix.addr())).collect();
    if families != wanted.families {
        let words = |families: &BTreeSet<Family>| {
            families.iter().map(|family| family_name(*family)).collect::<Vec<_>>().join(" and ")
        };
        return differs("address space", &words(&families), &words(&wanted.families));
    }
    if *internal != request.internal {
        let word = |internal| if internal { "internal" } else { "not internal" };
        return differs("reach", &word(*internal), &word(request.internal));
    }
    if *mtu != request.mtu {
        let word = |mtu: Option<u32>| mtu.map_or("the tunnel's".to_owned(), |mtu| mtu.to_string());
        return differs("MTU", &word(*mtu), &word(request.mtu));
    }
    Ok(())
}

fn prefixes(cluster: &Cluster) -> impl Iterator<Item = (&Name, IpNet)> {
    cluster
        .networks
        .values()
        .flat_map(|network| network.subnets.iter().map(move |subnet| (&network.name, subnet.prefix)))
}

fn refuse_overlap(cluster: &Cluster, routed: &[LocalPrefix], prefix: IpNet) -> Result<(), Refusal> {
    let overlaps = |other: IpNet| other.contains(&prefix) || prefix.contains(&other);
    if let Some((other, theirs)) = prefixes(cluster).find(|(_, theirs)| overlaps(*theirs)) {
        return Err(Refusal::conflict(format!("the subnet {prefix} overlaps {theirs} of the network {other}")));
    }
    if let Some(route) = routed.iter().find(|route| overlaps(route.prefix)) {
        return Err(Refusal::conflict(format!("the subnet {prefix} overlaps {route}, to which this host has a route"))
            .with_hint("choose a prefix that none of your hosts routes (`ip route`)"));
    }
    Ok(())
}

fn no_room(cluster: &Cluster, family: Family) -> Refusal {
    let pools = cluster.settings.pools.iter().filter(|pool| Family::of(pool.addr()) == family);
    let pools = pools.map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let name = family_name(family);
    Refusal::conflict(match pools.as_str() {
        "" => format!("the cluster has no pool of {name} prefixes"),
        pools => format!("the cluster's {name} pools ({pools}) have no room for one more network"),
    })
    .with_hint("name a prefix with --subnet")
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    }
}

/// A number that no record has, be it readable or not.
fn free_id(fresh: &Fresh) -> Result<NetworkId, Refusal> {
    // A number whose blocks are not swept yet is not free: they would be taken for the new network's, and its for them.
    let has_leftovers = |id: NetworkId| {
        let prefixes = [record::prefix_of_blocks(id), record::prefix_of_endpoints(id)];
        fresh.cluster.unreadable.iter().any(|left| prefixes.iter().any(|prefix| left.key.starts_with(prefix)))
    };
    let is_free = |id: NetworkId| fresh.records.version_of(&record::key_of_network(id)).is_none();
    let mut free = (1..=u16::MAX).filter_map(NetworkId::new).filter(|id| is_free(*id) && !has_leftovers(*id));
    free.next().ok_or_else(|| Refusal::conflict("the cluster has as many networks as it can number"))
}

pub(super) async fn remove(member: &Member, text: &str) -> Result<(), Refusal> {
    let (network, _) = configure(&*member.store, |fresh| {
        let cluster = &fresh.cluster;
        let network = lookup::network(cluster, text)?;
        let endpoints = cluster.endpoints.values().filter(|endpoint| endpoint.network == network.id);
        let services = cluster.services.values().filter(|service| service.network == network.id);
        let endpoints = lookup::listed(endpoints.map(|endpoint| &endpoint.name));
        let services = lookup::listed(services.map(|service| &service.name));
        let users = record::prefix_of_endpoints(network.id);
        if let Some(unreadable) = cluster.unreadable.iter().find(|record| record.key.starts_with(&users)) {
            return Err(Refusal::conflict(format!(
                "the network {} is in use by the unreadable record {}",
                network.name, unreadable.key
            ))
            .with_hint("see `weft status`; mend or delete that record first"));
        }
        let in_use = |what: &str, names: &str| {
            Err(Refusal::conflict(format!("the network {} is in use by {what} {names}", network.name)))
        };
        match (endpoints.as_str(), services.as_str()) {
            ("", "") => {
                // With its blocks, as many as a transaction takes: an agent that dies now leaves little behind.
                let blocks = fresh.records.blocks_of(network.id).take(DELETIONS_MAX);
                let blocks = blocks.map(|(block, _)| record::key_of_block(network.id, block.prefix));
                let keys = blocks.chain([record::key_of_network(network.id)]);
                Ok(Decision::Write(keys.map(|key| Write::Delete { key }).collect(), network.clone()))
            }
            ("", services) => in_use("service", services),
            (endpoints, _) => in_use("endpoint", endpoints),
        }
    })
    .await?;
    // Nobody claims from a network that is gone (a claim asserts its key), so the rest of its blocks can be swept;
    // and nobody publishes from a block that is gone, so that whoever slipped in before is seen after that.
    let keys = left_under(member, &record::prefix_of_blocks(network.id)).await?;
    delete_while(&*member.store, &Compare::Absent(record::key_of_network(network.id)), &keys).await?;
    if left_under(member, &record::prefix_of_endpoints(network.id)).await?.is_empty() {
        return Ok(());
    }
    put_back(member, &network).await?;
    Err(Refusal::conflict(format!("the network {} is in use by an endpoint that has just come", network.name)))
}

async fn left_under(member: &Member, prefix: &str) -> Result<Vec<String>, Refusal> {
    let left = member.store.snapshot(prefix).await.map_err(store_refusal)?;
    Ok(left.entries.into_iter().map(|entry| entry.key).collect())
}

/// Undoes a removal that an attach has crossed. Its number cannot have been given away, for it has leftovers.
async fn put_back(member: &Member, network: &Network) -> Result<(), Refusal> {
    configure(&*member.store, |fresh| {
        let cluster = &fresh.cluster;
        if cluster.networks.contains_key(&network.id) {
            return Ok(Decision::Already(()));
        }
        if cluster.network_named(&network.name).is_some() {
            return Err(Refusal::conflict(format!("another network {} was created meanwhile", network.name)));
        }
        for subnet in &network.subnets {
            refuse_overlap(cluster, &[], subnet.prefix)?;
        }
        Ok(Decision::Write(vec![put(record::key_of_network(network.id), record::encode_network(network))], ()))
    })
    .await?;
    Ok(())
}
