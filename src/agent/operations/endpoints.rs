use std::sync::Arc;

use super::{Member, lookup};
use crate::{
    agent::{
        configuration::{read, store_refusal},
        reconciler::{Concern, Failure, Pass},
        views,
    },
    api::{Refusal, wire::EndpointView},
    model::{Endpoint, EndpointId, LinkName},
    store::{Compare, Outcome, Revision, Transaction, Write, record},
};

pub(super) fn list(member: &Member) -> Result<Vec<EndpointView>, Refusal> {
    let cluster = lookup::cluster(member)?;
    let mut views: Vec<EndpointView> =
        cluster.endpoints.values().map(|endpoint| views::endpoint(&cluster, endpoint)).collect();
    views.sort_by(|a, b| (&a.network, &a.name, &a.id).cmp(&(&b.network, &b.name, &b.id)));
    Ok(views)
}

pub(super) fn inspect(member: &Member, text: &str) -> Result<EndpointView, Refusal> {
    let cluster = lookup::cluster(member)?;
    let endpoint = lookup::endpoint(&cluster, text)?;
    Ok(EndpointView { fault: member.findings.fault_of(endpoint.id), ..views::endpoint(&cluster, endpoint) })
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

pub(super) fn failure_of(pass: &Pass, id: EndpointId) -> Option<String> {
    let link = LinkName::of_endpoint(id);
    let concerned = |failure: &&Failure| match &failure.concerns {
        Concern::Everything => true,
        Concern::Link(name) => *name == link,
        Concern::Other => false,
    };
    pass.failures.iter().find(concerned).map(|failure| failure.message.clone())
}
