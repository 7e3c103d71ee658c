//! How an endpoint comes to be.

use std::{collections::BTreeSet, net::IpAddr, sync::Arc};

use super::{
    Member,
    endpoints::failure_of,
    lookup,
    wish::{Wish, check, existing},
};
use crate::{
    agent::{
        addressing::Situation,
        configuration::{put, read, store_refusal},
        views,
    },
    api::{
        Refusal,
        wire::{AttachReply, AttachRequest},
    },
    model::{Endpoint, EndpointId, EndpointState, Service},
    store::{Compare, Outcome, Revision, Transaction, record},
};

/// Tries at an address that turns out to be somebody else's; each loses only to a borrower at the same moment.
const TRIES_MAX: usize = 16;

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
                member.naming.catch_up(revision).await;
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
        fault: None,
    };
    member.reconciler.start(endpoint.clone());
    // Where it is checked, it is balanced once that has succeeded.
    let is_checked = wish.service.as_ref().is_some_and(|service| service.health.is_some());
    let state = if is_checked { EndpointState::Starting } else { EndpointState::Ready };
    Ok((Endpoint { state, ..endpoint }, conditions))
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
