use std::sync::Arc;

use super::{
    Member,
    drain::{self, Patience},
    lookup,
};
use crate::{
    agent::{
        configuration::{read, store_refusal},
        reconciler::{Concern, Failure, Pass},
        views,
    },
    api::{
        Refusal,
        wire::{DetachRequest, DrainReply, EndpointView},
    },
    model::{Endpoint, EndpointId, LinkName},
    store::{Compare, Outcome, Revision, Transaction, Write, record},
};

/// Tries to delete a record that others change at the same moment.
const TRIES_MAX: usize = 16;

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
    let view = views::endpoint(&cluster, endpoint);
    Ok(EndpointView { fault: member.findings.fault_of(endpoint.id).or(view.fault.clone()), ..view })
}

/// Takes an endpoint of this node off its network: out of balancing first, and its connections given their time; then the
/// record, so that every node stops sending to it; then the link. Answered when the link is gone and the address is free.
pub(super) async fn detach(member: &Arc<Member>, text: &str, request: DetachRequest) -> Result<DrainReply, Refusal> {
    let patience = (!request.force).then_some(Patience::Connections(None));
    let (endpoint, reply) = drain_own(member, text, patience).await?;
    let Some(revision) = withdraw_own(member, &endpoint).await? else { return Ok(reply) };
    member.cluster_at(revision).await;
    let Some(pass) = member.reconciler.pass_with(revision.0).await else {
        return Err(Refusal::unavailable("the record is deleted, but the kernel was not brought up to date in time")
            .with_hint("the agent goes on trying; see `weft status`"));
    };
    match failure_of(&pass, endpoint.id) {
        Some(failure) => Err(Refusal::internal(failure)),
        None => Ok(reply),
    }
}

/// The same for an endpoint whose namespace is about to end. Removing a pair takes the kernel some 25 ms, for which nobody
/// who lets the namespace go has to wait.
pub(super) async fn release(member: &Arc<Member>, text: &str) -> Result<DrainReply, Refusal> {
    let cluster = lookup::cluster(member)?;
    if let Ok(endpoint) = lookup::endpoint(&cluster, text) {
        member.reconciler.let_go(endpoint.id);
    }
    let (endpoint, reply) = drain_own(member, text, Some(Patience::Nodes)).await?;
    // Said again, for draining takes longer than that lasts; and before the record goes, for the pass that follows may be faster
    // than this answer.
    member.reconciler.let_go(endpoint.id);
    withdraw_own(member, &endpoint).await?;
    Ok(reply)
}

/// Finds an endpoint of this node, and drains it unless nothing is to be waited for.
async fn drain_own(member: &Member, text: &str, patience: Option<Patience>) -> Result<(Endpoint, DrainReply), Refusal> {
    // Read anew: what was attached a moment ago by another client may not have come round yet.
    let fresh = read(&*member.store).await?;
    let endpoint = lookup::endpoint(&fresh.cluster, text)?.clone();
    if endpoint.node != member.me() {
        let node = views::node_name(&fresh.cluster, endpoint.node);
        return Err(Refusal::conflict(format!("the endpoint {} is on {node}", endpoint.name))
            .with_hint(format!("detach it there, or `weft node rm {node}` if that node is gone for good")));
    }
    let reply = match patience {
        Some(patience) if endpoint.service.is_some() => drain::leave(member, fresh, endpoint.id, patience).await?,
        Some(_) => DrainReply::default(),
        None => {
            drain::forced(member, &fresh.cluster, &endpoint);
            DrainReply::default()
        }
    };
    Ok((endpoint, reply))
}

/// Deletes the record of an endpoint of this node; no revision if it was gone already.
async fn withdraw_own(member: &Member, endpoint: &Endpoint) -> Result<Option<Revision>, Refusal> {
    let withdrawn = withdraw(member, endpoint).await?;
    member.reconciler.forget(endpoint.id);
    Ok(withdrawn)
}

/// Deletes an endpoint's record; nothing if it was gone already. Only the record of this very endpoint: its address
/// may have a new owner by now.
pub(super) async fn withdraw(member: &Member, endpoint: &Endpoint) -> Result<Option<Revision>, Refusal> {
    for _ in 0..TRIES_MAX {
        match try_withdraw(member, endpoint).await? {
            Withdrawal::Done(revision) => return Ok(Some(revision)),
            Withdrawal::Gone => return Ok(None),
            Withdrawal::Changed => {}
        }
    }
    Err(Refusal::unavailable(format!("the record of {} was changed {TRIES_MAX} times meanwhile", endpoint.name))
        .with_hint("try again"))
}

/// How a try to delete a record went.
enum Withdrawal {
    Done(Revision),
    /// There was none.
    Gone,
    /// It changed between the look and the deletion, such as by its health check.
    Changed,
}

async fn try_withdraw(member: &Member, endpoint: &Endpoint) -> Result<Withdrawal, Refusal> {
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
        return Ok(Withdrawal::Gone);
    }
    match member.store.commit(Transaction { compares, writes }).await.map_err(store_refusal)? {
        Outcome::Committed(revision) => Ok(Withdrawal::Done(revision)),
        Outcome::Conflict => Ok(Withdrawal::Changed),
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
