use std::collections::BTreeMap;

use super::{Member, lookup};
use crate::{
    agent::{
        configuration::{Decision, Fresh, configure, put, read, store_refusal},
        views,
    },
    api::{
        Refusal,
        wire::{Availability, NodeLabelRequest, NodeView},
    },
    mesh,
    model::{Cluster, Node, NodeId},
    store::{Compare, Outcome, Store, Transaction, Write, limits::OPERATIONS_MAX, record},
};

/// A label's key and value are words on a screen, not documents.
const LABEL_LEN_MAX: usize = 128;
/// Labels of one node.
const LABELS_MAX: usize = 64;
/// Deletions in one transaction: what a store takes, less the two writes that may come with them.
pub(super) const DELETIONS_MAX: usize = OPERATIONS_MAX - 2;

pub(super) fn list(member: &Member) -> Result<Vec<NodeView>, Refusal> {
    let cluster = lookup::cluster(member)?;
    let mut nodes: Vec<&Node> = cluster.nodes.values().collect();
    nodes.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(nodes.into_iter().map(|node| views::node(&cluster, node, member)).collect())
}

pub(super) fn inspect(member: &Member, node: &str) -> Result<NodeView, Refusal> {
    let cluster = lookup::cluster(member)?;
    Ok(views::node(&cluster, lookup::node(&cluster, node)?, member))
}

pub(super) async fn set_availability(member: &Member, node: &str, wanted: Availability) -> Result<NodeView, Refusal> {
    change(member, node, |node| Ok(Node { availability: wanted.into(), ..node })).await
}

pub(super) async fn label(member: &Member, node: &str, request: &NodeLabelRequest) -> Result<NodeView, Refusal> {
    for (key, value) in &request.labels {
        let too_long = key.len() > LABEL_LEN_MAX || value.as_ref().is_some_and(|value| value.len() > LABEL_LEN_MAX);
        if key.is_empty() || too_long || key.chars().any(|c| c.is_whitespace() || c.is_control() || c == '=') {
            return Err(Refusal::invalid(format!(
                "the label {key:?} is wrong: a key has no white space and no `=`, and neither part more than {LABEL_LEN_MAX} bytes"
            )));
        }
    }
    change(member, node, |node| {
        let mut labels: BTreeMap<String, String> = node.labels.clone();
        for (key, value) in &request.labels {
            match value {
                Some(value) => labels.insert(key.clone(), value.clone()),
                None => labels.remove(key),
            };
        }
        if labels.len() > LABELS_MAX {
            return Err(Refusal::invalid(format!(
                "{} would have {} labels; {LABELS_MAX} is the most",
                node.name,
                labels.len()
            )));
        }
        Ok(Node { labels, ..node })
    })
    .await
}

async fn change(
    member: &Member,
    text: &str,
    changed: impl Fn(Node) -> Result<Node, Refusal>,
) -> Result<NodeView, Refusal> {
    let (id, revision) = configure(&*member.store, |fresh| {
        let before = lookup::node(&fresh.cluster, text)?;
        let after = changed(before.clone())?;
        if after == *before {
            return Ok(Decision::Already(after.id));
        }
        Ok(Decision::Write(vec![put(record::key_of_node(after.id), record::encode_node(&after))], after.id))
    })
    .await?;
    let cluster = member.cluster_at(revision).await.map_or_else(|| lookup::cluster(member), Ok)?;
    inspect_id(member, &cluster, id)
}

fn inspect_id(member: &Member, cluster: &crate::model::Cluster, id: NodeId) -> Result<NodeView, Refusal> {
    let node = cluster.nodes.get(&id).ok_or_else(|| Refusal::not_found("the node has just been removed"))?;
    Ok(views::node(cluster, node, member))
}

pub(super) async fn remove(member: &Member, text: &str) -> Result<(), Refusal> {
    let fresh = read(&*member.store).await?;
    let node = lookup::node(&fresh.cluster, text)?;
    if node.id == member.me() {
        return Err(Refusal::conflict(format!("{} is this node", node.name))
            .with_hint("`weft leave` takes it out of the cluster"));
    }
    if mesh::is_alive(&fresh.cluster, node.id) {
        return Err(Refusal::conflict(format!("{} is alive", node.name))
            .with_hint(format!("run `weft leave` on {}, or stop its agent first", node.name)));
    }
    forget(&*member.store, &fresh, node.id).await?;
    Ok(())
}

/// Deletes everything that belongs to a node, the node itself last, so that a deletion that is cut off can be done again.
pub(super) async fn forget(store: &dyn Store, fresh: &Fresh, id: NodeId) -> Result<(), Refusal> {
    let endpoints = fresh.cluster.endpoints_on(id).flat_map(|endpoint| {
        endpoint.addresses.iter().map(|address| record::key_of_endpoint(endpoint.network, *address))
    });
    let blocks = fresh
        .cluster
        .blocks
        .values()
        .filter(|block| block.owner == id)
        .map(|block| record::key_of_block(block.network, block.prefix));
    let keys: Vec<String> = endpoints.chain(blocks).collect();
    delete_unchanged(store, fresh, &keys).await?;
    let who = |cluster: &Cluster| cluster.nodes.get(&id).map(|node| (node.name.clone(), node.underlay));
    configure(store, |now| {
        // Removed by somebody else meanwhile, and its number given to a newcomer.
        if who(&now.cluster) != who(&fresh.cluster) {
            return Ok(Decision::Already(()));
        }
        let writes = [record::key_of_node(id), record::key_of_alive(id), record::key_of_report(id)]
            .map(|key| Write::Delete { key });
        Ok(Decision::Write(writes.to_vec(), ()))
    })
    .await?;
    Ok(())
}

/// Deletes keys that are still as they were seen; those that have changed are somebody else's by now, and stay.
async fn delete_unchanged(store: &dyn Store, seen: &Fresh, keys: &[String]) -> Result<(), Refusal> {
    let delete = async |keys: &[String]| {
        let version = |key: &String| Some(Compare::Unchanged(key.clone(), seen.records.version_of(key)?));
        let compares = keys.iter().filter_map(version).collect();
        let writes = keys.iter().map(|key| Write::Delete { key: key.clone() }).collect();
        store.commit(Transaction { compares, writes }).await.map_err(store_refusal)
    };
    for some in keys.chunks(DELETIONS_MAX) {
        if delete(some).await? == Outcome::Conflict {
            for one in some.chunks(1) {
                delete(one).await?;
            }
        }
    }
    Ok(())
}

/// Deletes keys as long as a condition holds, as many in a transaction as a store takes.
pub(super) async fn delete_while(store: &dyn Store, condition: &Compare, keys: &[String]) -> Result<(), Refusal> {
    for some in keys.chunks(DELETIONS_MAX) {
        let writes = some.iter().map(|key| Write::Delete { key: key.clone() }).collect();
        let transaction = Transaction { compares: vec![condition.clone()], writes };
        match store.commit(transaction).await.map_err(store_refusal)? {
            Outcome::Committed(_) => {}
            Outcome::Conflict => return Ok(()),
        }
    }
    Ok(())
}
