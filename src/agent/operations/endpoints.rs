use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{Member, lookup};
use crate::{
    agent::{
        addressing::Situation,
        configuration::{put, read, store_refusal},
        host::Host,
        reconciler::{Concern, Failure, Pass},
        views,
    },
    api::{
        Refusal,
        wire::{AttachReply, AttachRequest, EndpointView, NetnsTarget},
    },
    model::{Cluster, Endpoint, EndpointId, EndpointState, LinkName, Name, NetnsRef, Network, Service},
    store::{Compare, Outcome, Revision, Transaction, Write, record},
};

/// Tries at an address that turns out to be somebody else's; each loses only to a borrower at the same moment.
const TRIES_MAX: usize = 16;
/// Aliases of one endpoint.
const ALIASES_MAX: usize = 32;
/// The longest device name, in bytes (`IFNAMSIZ` less the final NUL, linux/if.h).
const IFNAME_LEN_MAX: usize = 15;

pub(super) fn list(member: &Member) -> Result<Vec<EndpointView>, Refusal> {
    let cluster = lookup::cluster(member)?;
    let mut views: Vec<EndpointView> =
        cluster.endpoints.values().map(|endpoint| views::endpoint(&cluster, endpoint)).collect();
    views.sort_by(|a, b| (&a.network, &a.name, &a.id).cmp(&(&b.network, &b.name, &b.id)));
    Ok(views)
}

pub(super) fn inspect(member: &Member, text: &str) -> Result<EndpointView, Refusal> {
    let cluster = lookup::cluster(member)?;
    Ok(views::endpoint(&cluster, lookup::endpoint(&cluster, text)?))
}

/// A request, checked against what was known when it came.
struct Wish {
    netns: NetnsRef,
    network: Network,
    name: Name,
    aliases: Vec<Name>,
    service: Option<Service>,
    address: Option<IpAddr>,
    ifname: String,
    weight: u16,
}

/// Attaches a namespace: an address is assigned, the pair is linked, and only then is the record published, so that nobody
/// is sent to a replica that is not there yet. An agent that dies in between leaves a link without a record, which the next
/// pass removes.
pub(super) async fn attach(member: &Arc<Member>, request: AttachRequest) -> Result<AttachReply, Refusal> {
    catch_up(member).await?;
    let cluster = lookup::cluster(member)?;
    let wish = check(&*member.host, &cluster, &request)?;
    if let Some(endpoint) = existing(member, &cluster, &wish)? {
        confirm(member, endpoint).await?;
        link(member, endpoint).await?;
        return Ok(AttachReply { created: false, endpoint: views::endpoint(&cluster, endpoint) });
    }
    if request.loopback_up {
        member.host.set_loopback_up(&wish.netns).await.map_err(Refusal::internal)?;
    }
    for _ in 0..TRIES_MAX {
        let (endpoint, conditions) = start(member, &wish).await?;
        let linked = link(member, &endpoint).await;
        let published = match linked {
            Ok(()) => publish(member, &endpoint, &conditions).await,
            Err(refusal) => Err(refusal),
        };
        match published {
            Ok(Some(revision)) => {
                // Until it has come round it counts as starting, lest the next pass remove its link; a cluster that has it
                // ends that.
                let Some(cluster) = member.cluster_at(revision).await else {
                    let cluster = lookup::cluster(member)?;
                    return Ok(AttachReply { created: true, endpoint: views::endpoint(&cluster, &endpoint) });
                };
                member.reconciler.forget(endpoint.id);
                if !cluster.endpoints.contains_key(&endpoint.id) {
                    return Err(Refusal::conflict(format!(
                        "{} is not there any more: it, or its network, has just been removed by others",
                        endpoint.name
                    )));
                }
                return Ok(AttachReply { created: true, endpoint: views::endpoint(&cluster, &endpoint) });
            }
            Ok(None) => unlink(member, endpoint.id).await,
            Err(refusal) => {
                unlink(member, endpoint.id).await;
                return Err(refusal);
            }
        }
        if wish.address.is_some() {
            return Err(Refusal::conflict(
                "cannot give out the address: another node was faster, or the service has just been changed",
            )
            .with_hint("try again"));
        }
    }
    Err(Refusal::unavailable(format!("{TRIES_MAX} addresses in a row were taken by other nodes"))
        .with_hint("try again"))
}

/// After a publication whose answer was lost there may be a record that this node has not seen come round yet. Until then
/// nothing is attached, lest one device become two endpoints.
async fn catch_up(member: &Member) -> Result<(), Refusal> {
    let mut addressing = member.addressing.lock().await;
    if !addressing.is_doubtful() {
        return Ok(());
    }
    let snapshot = member.store.snapshot(record::PREFIX).await.map_err(store_refusal)?;
    let newest = snapshot.entries.iter().map(|entry| entry.version).max().unwrap_or_default();
    if member.cluster_at(newest).await.is_none() {
        return Err(Refusal::unavailable("this node has not caught up with the store").with_hint("try again"));
    }
    addressing.end_doubt();
    Ok(())
}

fn check(host: &dyn Host, cluster: &Cluster, request: &AttachRequest) -> Result<Wish, Refusal> {
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
fn existing<'a>(member: &Member, cluster: &'a Cluster, wish: &Wish) -> Result<Option<&'a Endpoint>, Refusal> {
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

/// Asks the store itself: with the store away this node may know of an endpoint that has been detached since.
async fn confirm(member: &Member, endpoint: &Endpoint) -> Result<(), Refusal> {
    for address in &endpoint.addresses {
        let key = record::key_of_endpoint(endpoint.network, *address);
        let snapshot = member.store.snapshot(&key).await.map_err(store_refusal)?;
        let records = record::State::from_snapshot(&snapshot);
        if records.version_of_endpoint(endpoint.id, endpoint.network, *address).is_none() {
            return Err(Refusal::unavailable(format!("the endpoint {} has just been detached", endpoint.name))
                .with_hint("try again"));
        }
    }
    Ok(())
}

/// Assigns addresses and lets the pair be linked; gives what must hold when it is published. The lock is held until the
/// addresses count as taken.
async fn start(member: &Member, wish: &Wish) -> Result<(Endpoint, Vec<Compare>), Refusal> {
    let mut addressing = member.addressing.lock().await;
    let cluster = lookup::cluster(member)?;
    let starting = member.reconciler.starting();
    if let Some(other) = starting.iter().find(|other| other.network == wish.network.id && other.name == wish.name) {
        return Err(Refusal::conflict(format!("an endpoint {} is just being attached", other.name)));
    }
    let taken: BTreeSet<IpAddr> = cluster
        .endpoints
        .values()
        .chain(&starting)
        .filter(|endpoint| endpoint.network == wish.network.id)
        .flat_map(|endpoint| endpoint.addresses.iter().copied())
        .collect();
    let situation = Situation { me: member.me(), cluster: &cluster, network: &wish.network, taken: &taken };
    let assigned = addressing.assign(&*member.store, &situation, wish.address).await?;
    let mut conditions: Vec<Compare> = assigned.iter().map(|assigned| assigned.condition.clone()).collect();
    if let Some(service) = &wish.service {
        conditions.push(service_unchanged(member, service).await?);
    }
    let endpoint = Endpoint {
        id: EndpointId(member.host.random().map_err(Refusal::internal)?),
        network: wish.network.id,
        addresses: assigned.iter().map(|assigned| assigned.address).collect(),
        name: wish.name.clone(),
        aliases: wish.aliases.clone(),
        node: member.me(),
        service: wish.service.as_ref().map(|service| service.id),
        state: EndpointState::Starting,
        weight: wish.weight,
        netns: wish.netns.clone(),
        ifname: wish.ifname.clone(),
    };
    member.reconciler.start(endpoint.clone());
    Ok((Endpoint { state: EndpointState::Ready, ..endpoint }, conditions))
}

/// The condition that a service is still as it is now, so that it cannot be removed before its replica is there.
async fn service_unchanged(member: &Member, service: &Service) -> Result<Compare, Refusal> {
    let key = record::key_of_service(service.id);
    let snapshot = member.store.snapshot(&key).await.map_err(store_refusal)?;
    match snapshot.entries.into_iter().find(|entry| entry.key == key) {
        // Under its number may be another one by now.
        Some(entry) if record::encode_service(service) == entry.value || is_named(member, service).await? => {
            Ok(Compare::Unchanged(key, entry.version))
        }
        Some(_) | None => Err(Refusal::not_found(format!("the service {} has just been removed", service.name))),
    }
}

async fn is_named(member: &Member, service: &Service) -> Result<bool, Refusal> {
    let fresh = read(&*member.store).await?;
    Ok(fresh.cluster.services.get(&service.id).is_some_and(|now| now.name == service.name))
}

async fn link(member: &Member, endpoint: &Endpoint) -> Result<(), Refusal> {
    let Some(pass) = member.reconciler.pass_with(0).await else {
        return Err(
            Refusal::unavailable("the kernel was not brought up to date in time").with_hint("see `weft status`")
        );
    };
    if pass.bereft.contains(&endpoint.id) {
        return Err(Refusal::conflict(format!("the namespace {} is gone", endpoint.netns.path)));
    }
    match failure_of(&pass, endpoint.id) {
        Some(failure) => Err(Refusal::internal(failure)),
        None => Ok(()),
    }
}

fn failure_of(pass: &Pass, id: EndpointId) -> Option<String> {
    let link = LinkName::of_endpoint(id);
    let concerned = |failure: &&Failure| match &failure.concerns {
        Concern::Everything => true,
        Concern::Link(name) => *name == link,
        Concern::Other => false,
    };
    pass.failures.iter().find(concerned).map(|failure| failure.message.clone())
}

/// Publishes the record; nothing if an address or its block turned out to be somebody else's.
async fn publish(member: &Member, endpoint: &Endpoint, conditions: &[Compare]) -> Result<Option<Revision>, Refusal> {
    let keys = record::keys_of_endpoint(endpoint);
    let value = record::encode_endpoint(endpoint);
    let mut compares: Vec<Compare> = keys.iter().cloned().map(Compare::Absent).collect();
    compares.extend_from_slice(conditions);
    let writes = keys.into_iter().map(|key| put(key, value.clone())).collect();
    match member.store.commit(Transaction { compares, writes }).await {
        Ok(Outcome::Committed(revision)) => Ok(Some(revision)),
        Ok(Outcome::Conflict) => {
            member.addressing.lock().await.forget();
            Ok(None)
        }
        Err(error) => {
            member.addressing.lock().await.doubt();
            Err(store_refusal(error))
        }
    }
}

async fn unlink(member: &Member, id: EndpointId) {
    member.reconciler.forget(id);
    member.reconciler.pass_with(0).await;
}

/// Takes an endpoint of this node off its network: the record first, so that every node stops sending to it, then the
/// link. Answered when the link is gone and the address is free.
pub(super) async fn detach(member: &Arc<Member>, text: &str) -> Result<(), Refusal> {
    let Some((id, revision)) = withdraw_own(member, text).await? else { return Ok(()) };
    member.cluster_at(revision).await;
    let Some(pass) = member.reconciler.pass_with(revision.0).await else {
        return Err(Refusal::unavailable("the record is deleted, but the kernel was not brought up to date in time")
            .with_hint("the agent goes on trying; see `weft status`"));
    };
    match failure_of(&pass, id) {
        Some(failure) => Err(Refusal::internal(failure)),
        None => Ok(()),
    }
}

/// The same for an endpoint whose namespace is about to end. Removing a pair takes the kernel some 25 ms, for which nobody
/// who lets the namespace go has to wait.
pub(super) async fn release(member: &Arc<Member>, text: &str) -> Result<(), Refusal> {
    // Said before the record goes, for the pass that follows may be faster than this answer.
    let cluster = lookup::cluster(member)?;
    if let Ok(endpoint) = lookup::endpoint(&cluster, text) {
        member.reconciler.let_go(endpoint.id);
    }
    withdraw_own(member, text).await.map(|_| ())
}

/// Deletes the record of an endpoint of this node; nothing if it was gone already.
async fn withdraw_own(member: &Member, text: &str) -> Result<Option<(EndpointId, Revision)>, Refusal> {
    // Read anew: what was attached a moment ago by another client may not have come round yet.
    let fresh = read(&*member.store).await?;
    let endpoint = lookup::endpoint(&fresh.cluster, text)?;
    if endpoint.node != member.me() {
        let node = views::node_name(&fresh.cluster, endpoint.node);
        return Err(Refusal::conflict(format!("the endpoint {} is on {node}", endpoint.name))
            .with_hint(format!("detach it there, or `weft node rm {node}` if that node is gone for good")));
    }
    let withdrawn = withdraw(member, endpoint).await?;
    member.reconciler.forget(endpoint.id);
    Ok(withdrawn.map(|revision| (endpoint.id, revision)))
}

/// Deletes an endpoint's record; nothing if it was gone already. Only the record of this very endpoint: its address
/// may have a new owner by now.
pub(super) async fn withdraw(member: &Member, endpoint: &Endpoint) -> Result<Option<Revision>, Refusal> {
    let mut compares = Vec::new();
    let mut writes = Vec::new();
    for address in &endpoint.addresses {
        let key = record::key_of_endpoint(endpoint.network, *address);
        let snapshot = member.store.snapshot(&key).await.map_err(store_refusal)?;
        let records = record::State::from_snapshot(&snapshot);
        if let Some(version) = records.version_of_endpoint(endpoint.id, endpoint.network, *address) {
            compares.push(Compare::Unchanged(key.clone(), version));
            writes.push(Write::Delete { key });
        }
    }
    if writes.is_empty() {
        return Ok(None);
    }
    match member.store.commit(Transaction { compares, writes }).await.map_err(store_refusal)? {
        Outcome::Committed(revision) => Ok(Some(revision)),
        Outcome::Conflict => {
            Err(Refusal::unavailable(format!("the record of {} changed meanwhile", endpoint.name))
                .with_hint("try again"))
        }
    }
}
