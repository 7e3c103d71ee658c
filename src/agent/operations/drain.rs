//! How a replica leaves balancing without anybody noticing: its record says so, every live node confirms that its kernel sends
//! no new connections there, and those that are open get time to finish.
//!
//! All that is known lies in the store: the wish in the endpoint's or node's record, confirmations and counts in the nodes' reports
//! ([`crate::agent::report`]). So any node can ask and wait, and whoever dies while waiting leaves a drain that can be asked for again.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::{Instant, timeout_at};
use tracing::{info, warn};

use super::{Member, lookup};
use crate::{
    agent::{
        configuration::{Fresh, put, read, store_refusal},
        views,
    },
    api::{
        Refusal,
        wire::{CONFIRM_WAIT, DrainReply, DrainRequest, DrainView, DrainingReplica, Span},
    },
    mesh,
    model::{Cluster, Draining, Endpoint, EndpointId, EndpointState, NodeId, Service},
    store::{Compare, Outcome, Transaction, record},
};

/// Tries against others who change the endpoint's record at the same moment, such as its health check.
const TRIES_MAX: usize = 16;

/// An endpoint that is on its way out.
struct Leaving {
    /// As its record says.
    endpoint: Endpoint,
    /// Its service, for whoever counts or asks how long it gives.
    service: Option<Service>,
    /// The revision from which it is out of balancing; nothing if it is in none.
    since: Option<u64>,
}

/// What is waited for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Patience {
    /// The other nodes alone: its connections end with it.
    Nodes,
    /// The other nodes, then its connections, for so long; without a time for as long as its service says.
    Connections(Option<Duration>),
}

/// Drains one endpoint of whichever node; it stays attached.
pub(super) async fn endpoint(member: &Member, text: &str, request: DrainRequest) -> Result<DrainReply, Refusal> {
    let time = request.timeout.map(Duration::from);
    if time.is_some_and(|time| time > DrainRequest::TIMEOUT_MAX) {
        return Err(Refusal::invalid(format!("cannot wait for longer than {}", Span::from(DrainRequest::TIMEOUT_MAX)))
            .with_hint("ask again after that"));
    }
    // Read anew: what was attached a moment ago by another client may not have come round yet.
    let fresh = read(&*member.store).await?;
    let id = lookup::endpoint(&fresh.cluster, text)?.id;
    leave(member, fresh, id, Patience::Connections(time)).await
}

/// Takes an endpoint out of balancing and waits until it can go; nothing to wait for if it has gone.
pub(super) async fn leave(
    member: &Member,
    fresh: Fresh,
    id: EndpointId,
    patience: Patience,
) -> Result<DrainReply, Refusal> {
    match begin(member, fresh, id).await? {
        Some(leaving) => Ok(wait(member, &leaving, patience).await),
        None => Ok(DrainReply::default()),
    }
}

/// Writes into an endpoint's record that it drains, unless it does already; nothing if there is no such endpoint any more.
async fn begin(member: &Member, mut fresh: Fresh, id: EndpointId) -> Result<Option<Leaving>, Refusal> {
    for _ in 0..TRIES_MAX {
        let Some(endpoint) = fresh.cluster.endpoints.remove(&id) else { return Ok(None) };
        let service = endpoint.service.and_then(|service| fresh.cluster.services.get(&service)).cloned();
        if endpoint.state == EndpointState::Draining {
            let since = mesh::drained_since(&fresh.cluster, &endpoint);
            return Ok(Some(Leaving { endpoint, service, since }));
        }
        let drained = Endpoint { state: EndpointState::Draining, ..endpoint };
        let value = record::encode_endpoint(&drained);
        let mut transaction = Transaction::default();
        for address in &drained.addresses {
            let version = fresh.records.version_of_endpoint(id, drained.network, *address);
            let key = record::key_of_endpoint(drained.network, *address);
            transaction.compares.extend(version.map(|version| Compare::Unchanged(key.clone(), version)));
            transaction.writes.push(put(key, value.clone()));
        }
        if let Outcome::Committed(revision) = member.store.commit(transaction).await.map_err(store_refusal)? {
            info!(endpoint = %drained.name, revision = revision.0, "draining");
            let since = drained.service.is_some().then_some(revision.0);
            return Ok(Some(Leaving { endpoint: drained, service, since }));
        }
        fresh = read(&*member.store).await?;
    }
    Err(Refusal::unavailable(format!("the record of {id:?} was changed by others {TRIES_MAX} times in a row"))
        .with_hint("try again"))
}

/// Waits until a replica can go, but not for ever.
async fn wait(member: &Member, leaving: &Leaving, patience: Patience) -> DrainReply {
    let Leaving { endpoint, service, since } = leaving;
    let mut reply = DrainReply::default();
    let Some(since) = *since else { return reply };
    let name = &endpoint.name;
    let silent = confirmed(member, since).await;
    if !silent.is_empty() {
        let has = if silent.len() == 1 { "has" } else { "have" };
        reply.warnings.push(format!(
            "{} {has} not confirmed to send no new connections to {name}: where an agent is down, its host may still do so",
            lookup::listed(silent)
        ));
    }
    if let Patience::Connections(time) = patience {
        let time = time.or_else(|| service.as_ref().map(|service| service.drain)).unwrap_or(Service::DRAIN_DEFAULT);
        reply.connections = finished(member, endpoint.id, time).await;
        match reply.connections {
            Some(0) => {}
            Some(1) => reply.warnings.push(format!("1 connection to {name} was still open after {}", Span::from(time))),
            Some(open) => {
                reply.warnings.push(format!("{open} connections to {name} were still open after {}", Span::from(time)));
            }
            None => reply.warnings.push(format!(
                "its node did not tell within {} whether connections to {name} are open",
                Span::from(time)
            )),
        }
    }
    let service = service.as_ref().map_or("", |service| service.name.as_str());
    let outcome = if reply.warnings.is_empty() { "done" } else { "cut_short" };
    member.metrics.drain_outcomes.with_label_values(&[service, outcome]).inc();
    for warning in &reply.warnings {
        warn!("{warning}");
    }
    reply
}

/// Counts an endpoint that leaves without any of this.
pub(super) fn forced(member: &Member, cluster: &Cluster, endpoint: &Endpoint) {
    if let Some(service) = endpoint.service.and_then(|service| cluster.services.get(&service)) {
        member.metrics.drain_outcomes.with_label_values(&[service.name.as_str(), "forced"]).inc();
    }
}

/// Waits until every live node has confirmed `since`; gives the names of those that were alive at any time meanwhile and have
/// not.
async fn confirmed(member: &Member, since: u64) -> BTreeSet<String> {
    let mut clusters = member.clusters.clone();
    let deadline = Instant::now() + CONFIRM_WAIT;
    let mut silent: BTreeMap<NodeId, String> = BTreeMap::new();
    loop {
        let cluster = clusters.borrow_and_update().clone();
        if let Some(cluster) = cluster.filter(|cluster| cluster.revision >= since) {
            let waiting = mesh::unconfirmed(&cluster, since);
            silent.extend(waiting.iter().map(|node| (*node, views::node_name(&cluster, *node))));
            silent.retain(|node, _| !mesh::has_confirmed(&cluster, *node, since));
            if waiting.is_empty() {
                break;
            }
        }
        if !matches!(timeout_at(deadline, clusters.changed()).await, Ok(Ok(()))) {
            break;
        }
    }
    silent.into_values().collect()
}

/// Waits until a draining replica has no open connections, or `time` has passed; gives how many there were at last, if that is known.
async fn finished(member: &Member, id: EndpointId, time: Duration) -> Option<u32> {
    let mut clusters = member.clusters.clone();
    let deadline = Instant::now() + time;
    loop {
        let cluster = clusters.borrow_and_update().clone();
        let open = match cluster.as_ref().and_then(|cluster| Some((cluster, cluster.endpoints.get(&id)?))) {
            Some((cluster, replica)) => mesh::open_connections(cluster, replica),
            // Somebody has taken it off meanwhile.
            None => Some(0),
        };
        if open == Some(0) || !matches!(timeout_at(deadline, clusters.changed()).await, Ok(Ok(()))) {
            return open;
        }
    }
}

pub(super) fn view_of_endpoint(member: &Member, text: &str) -> Result<DrainView, Refusal> {
    let cluster = lookup::cluster(member)?;
    let endpoint = lookup::endpoint(&cluster, text)?;
    let since = mesh::drained_since(&cluster, endpoint);
    Ok(view(&cluster, since, &[endpoint]))
}

pub(super) fn view_of_node(member: &Member, text: &str) -> Result<DrainView, Refusal> {
    let cluster = lookup::cluster(member)?;
    let node = lookup::node(&cluster, text)?;
    let since = cluster.drains.get(&Draining::Node(node.id)).copied();
    let replicas = cluster.endpoints_on(node.id).filter(|replica| replica.service.is_some());
    Ok(view(&cluster, since, &replicas.collect::<Vec<_>>()))
}

fn view(cluster: &Cluster, since: Option<u64>, replicas: &[&Endpoint]) -> DrainView {
    let waiting = since.map(|since| mesh::unconfirmed(cluster, since)).unwrap_or_default();
    let drain_of = |replica: &Endpoint| cluster.services.get(&replica.service?).map(|service| service.drain);
    let timeout = replicas.iter().filter_map(|replica| drain_of(replica)).max().unwrap_or_default();
    let mut replicas: Vec<DrainingReplica> = replicas
        .iter()
        .map(|replica| DrainingReplica {
            name: replica.name.to_string(),
            connections: mesh::open_connections(cluster, replica),
        })
        .collect();
    replicas.sort_by(|a, b| a.name.cmp(&b.name));
    DrainView {
        draining: since.is_some(),
        nodes: u32::try_from(cluster.alive.len()).unwrap_or(u32::MAX),
        done: since.is_some() && waiting.is_empty() && replicas.iter().all(|replica| replica.connections == Some(0)),
        waiting_for: waiting.into_iter().map(|node| views::node_name(cluster, node)).collect(),
        replicas,
        timeout: timeout.into(),
    }
}
