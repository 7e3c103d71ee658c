use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use tokio::net::TcpListener;
use tracing::{info, warn};

use super::{Agent, Member, Standing, founding, lookup, networks, nodes, stopped};
use crate::{
    agent::{
        configuration::{Decision, configure, put, read},
        down::empty,
        identity::Identity,
        member::{OpenStore, PEER_PORT, open_door, store_dir},
        trust, views,
    },
    api::{
        Refusal, RefusalKind,
        wire::{DownReply, JoinReply, JoinRequest, LeaveRequest},
    },
    mesh,
    model::{Availability, Cluster, Name, Node, NodeId},
    peer::{self, Admission, JoinError, Token},
    store::{Backend, Revision, Store, StoreUrl, Write, record},
    tls::{Authority, Credentials, KeyPair, NodeNames},
};

pub(super) async fn join(agent: &Arc<Agent>, request: JoinRequest) -> Result<JoinReply, Refusal> {
    let _changing = agent.changing.lock().await;
    peer::check_address(&request.address).map_err(join_refusal)?;
    let token: Result<Token, _> = request.token.parse();
    if let Some(member) = agent.membership().await {
        if !token.is_ok_and(|token| token.names(member.credentials.authority().certificate())) {
            return Err(Refusal::conflict(format!(
                "this node belongs to the cluster {}, and the token is not that cluster's",
                member.identity.cluster
            ))
            .with_hint("`weft leave` takes it out"));
        }
        let cluster = lookup::cluster(&member)?;
        let me = lookup::node(&cluster, member.identity.name.as_str())?;
        let node = views::node(&cluster, me, &member);
        return Ok(JoinReply { created: false, cluster: cluster.settings.id.to_string(), node });
    }
    if let Standing::Stopped(why) = agent.standing().await {
        return Err(stopped(why));
    }
    let token = token.map_err(Refusal::invalid)?;
    let underlay = agent.host.advertised(agent.config.advertise).await.map_err(Refusal::conflict)?;
    let key = KeyPair::make().map_err(Refusal::internal)?;
    let name = &agent.config.node;
    let admission = peer::join(&request.address, &token, key.fingerprint(), name).await.map_err(join_refusal)?;
    let door = open_door(underlay).await.map_err(unbindable)?;
    let entered = register(agent, underlay, admission, key).await;
    let (identity, credentials, opened) = entered.inspect_err(|_| trust::forget(&agent.config.data_dir))?;
    let member = enter(agent, identity, credentials, opened, door).await;
    let cluster = settled(&member).await?;
    let me = lookup::node(&cluster, member.identity.name.as_str())?;
    let node = views::node(&cluster, me, &member);
    Ok(JoinReply { created: true, cluster: cluster.settings.id.to_string(), node })
}

/// Writes this node into the store of the cluster that has let it in, and that down on this host: both, or neither.
async fn register(
    agent: &Agent,
    underlay: IpAddr,
    admission: Admission,
    key: KeyPair,
) -> Result<(Identity, Arc<Credentials>, OpenStore), Refusal> {
    let Admission { cluster, certificate, key: authority_key, store_url, files } = admission;
    let (name, data_dir) = (agent.config.node.clone(), &agent.config.data_dir);
    let authority = Authority::from_der(certificate, &authority_key).map_err(Refusal::internal)?;
    let names = NodeNames { cluster, node: name.to_string(), underlay };
    let credentials = Credentials::of(authority, names, key, SystemTime::now()).map_err(Refusal::internal)?;
    let credentials = Arc::new(credentials);
    let store: StoreUrl = store_url.parse().map_err(Refusal::internal)?;
    let store = trust::keep_contents(store, &files, data_dir).map_err(internal)?;
    let opened = OpenStore::open(&store, data_dir, &credentials).await.map_err(internal)?;
    let routed = agent.host.local_prefixes().await.map_err(Refusal::internal)?;
    read(&*opened.store).await.map_err(not_reached)?;
    let ((cluster, node), _) = configure(&*opened.store, |fresh| {
        if let Some((network, prefix, route)) = networks::shadowed(&fresh.cluster, &routed).next() {
            return Err(Refusal::conflict(format!(
                "the cluster's network {network} ({prefix}) overlaps {route}, to which this host has a route"
            ))
            .with_hint("take that route away from this host (`ip route`), or give the network another prefix"));
        }
        let fingerprint = credentials.fingerprint();
        let node = Node { fingerprint: Some(fingerprint), ..newcomer(&fresh.cluster, &name, underlay)? };
        // The admission ends with the record that takes its place, or it would outlive a node that is removed at once.
        let admitted = Write::Delete { key: record::key_of_admitted(fingerprint) };
        let writes = vec![put(record::key_of_node(node.id), record::encode_node(&node)), admitted];
        Ok(Decision::Write(writes, (fresh.cluster.settings.id, node)))
    })
    .await?;
    let identity = Identity { cluster, node: node.id, name: node.name.clone(), underlay, store };
    if let Err(refusal) = founding::save(&identity, &credentials, data_dir) {
        take_back_node(&*opened.store, &node).await;
        return Err(refusal);
    }
    Ok((identity, credentials, opened))
}

/// Takes this node's record back out of a cluster that it could not enter after all, so that it can be tried again.
async fn take_back_node(store: &dyn Store, node: &Node) {
    let taken_back = async { nodes::forget(store, &read(store).await?, node.id).await }.await;
    if let Err(refusal) = taken_back {
        warn!("the record of {} stays in the store, remove it with `weft node rm` on a member: {refusal}", node.name);
    }
}

/// A new node's record: a free number, and neither a name nor an address that another node has.
pub(super) fn newcomer(cluster: &Cluster, name: &Name, underlay: std::net::IpAddr) -> Result<Node, Refusal> {
    if let Some(other) = cluster.node_named(name) {
        let hint = if mesh::is_alive(cluster, other.id) {
            format!("that node is alive at {}; start this agent with another --node NAME", other.underlay)
        } else {
            format!("that node is silent; if it is this host, run `weft node rm {name}` on a member first")
        };
        return Err(Refusal::conflict(format!("the cluster has a node {name} already")).with_hint(hint));
    }
    if let Some(other) = cluster.nodes.values().find(|node| node.underlay == underlay) {
        return Err(Refusal::conflict(format!("the node {} advertises {underlay} already", other.name))
            .with_hint("start this agent with another --advertise ADDR, or remove that node"));
    }
    let is_unreadable = |id| cluster.unreadable.iter().any(|record| record.key == record::key_of_node(id));
    let id = NodeId::all().find(|id| !cluster.nodes.contains_key(id) && !is_unreadable(*id));
    let id = id
        .ok_or_else(|| Refusal::conflict(format!("the cluster has {} nodes, as many as it can number", NodeId::MAX)))?;
    Ok(Node {
        id,
        name: name.clone(),
        underlay,
        labels: BTreeMap::new(),
        availability: Availability::Active,
        addresses: BTreeSet::new(),
        fingerprint: None,
    })
}

fn join_refusal(error: JoinError) -> Refusal {
    match error {
        JoinError::Unreachable { .. } | JoinError::NotWeft { .. } => Refusal::unavailable(&error)
            .with_hint(format!("is the agent there running and in a cluster, and port {PEER_PORT}/tcp open?")),
        JoinError::NoAddress { .. } => Refusal::invalid(&error),
        JoinError::OtherCluster { .. } | JoinError::WrongSecret { .. } => {
            Refusal::invalid(&error).with_hint("`weft token` on a member prints the right one")
        }
        JoinError::Refused { .. } | JoinError::BadCertificate { .. } => Refusal::conflict(&error),
    }
}

/// From what is written, here and in the store, to a running membership. Nothing can fail any more.
pub(super) async fn enter(
    agent: &Agent,
    identity: Identity,
    credentials: Arc<Credentials>,
    opened: OpenStore,
    door: TcpListener,
) -> Arc<Member> {
    let member = Member::start(identity, credentials, opened, door, Arc::clone(&agent.host), &agent.metrics);
    agent.set_membership(Some(Arc::clone(&member))).await;
    member
}

/// Waits until this node's kernel is programmed for the first time.
pub(super) async fn settled(member: &Member) -> Result<Arc<Cluster>, Refusal> {
    let cluster = member.cluster_at(Revision(1)).await.map_or_else(|| lookup::cluster(member), Ok)?;
    member.reconciler.pass_with(cluster.revision).await;
    lookup::cluster(member)
}

pub(super) async fn leave(agent: &Arc<Agent>, request: LeaveRequest) -> Result<(), Refusal> {
    let _changing = agent.changing.lock().await;
    let member = agent.member().await?;
    if request.force {
        if let Err(refusal) = withdraw(&member).await {
            warn!("leaving although the store could not be told: {refusal}");
        }
    } else {
        refuse_while_needed(&member)?;
        withdraw(&member).await?;
    }
    agent.set_membership(None).await;
    member.stop().await;
    empty(&*agent.kernel).await?;
    Identity::remove(&agent.config.data_dir).map_err(internal)?;
    trust::forget(&agent.config.data_dir);
    if member.identity.store.backend == Backend::Embedded {
        // Nobody is left to read it, and a new cluster must not find it.
        remove_store(&store_dir(&agent.config.data_dir));
    }
    info!("left the cluster {}", member.identity.cluster);
    Ok(())
}

/// Removes an embedded store that nobody uses any more.
pub(super) fn remove_store(dir: &Path) {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            warn!("cannot remove the store in {}: {error}", dir.display());
        }
        Ok(()) | Err(_) => {}
    }
}

fn refuse_while_needed(member: &Member) -> Result<(), Refusal> {
    let cluster = lookup::cluster(member)?;
    let endpoints = lookup::listed(cluster.endpoints_on(member.me()).map(|endpoint| &endpoint.name));
    let others = lookup::listed(cluster.nodes.values().filter(|node| node.id != member.me()).map(|node| &node.name));
    let holds_store = member.identity.store.backend == Backend::Embedded && !others.is_empty();
    // The store first: --force is said against all reasons at once, and this one cannot be undone.
    match (holds_store, endpoints.is_empty()) {
        (true, is_empty) => {
            let besides = if is_empty { String::new() } else { format!("; it has endpoints, too: {endpoints}") };
            Err(Refusal::conflict(format!(
                "this node holds the only store of the cluster, which {others} need{besides}"
            ))
            .with_hint(
                "let the other nodes leave first; --force deletes the store, and they cannot be changed ever after",
            ))
        }
        (false, false) => Err(Refusal::conflict(format!("this node has endpoints: {endpoints}"))
            .with_hint("detach them first, or say --force")),
        (false, true) => Ok(()),
    }
}

async fn withdraw(member: &Member) -> Result<(), Refusal> {
    let fresh = read(&*member.store).await?;
    nodes::forget(&*member.store, &fresh, member.me()).await?;
    member.forget_lease();
    Ok(())
}

/// Stops the membership until the agent is started again, and empties the kernel of everything that is ours.
pub(super) async fn down(agent: &Arc<Agent>) -> Result<DownReply, Refusal> {
    let _changing = agent.changing.lock().await;
    if let Some(member) = agent.membership().await {
        agent.set_membership(None).await;
        agent.set_trouble("the data plane was removed by `weft down`; start the agent again to bring it back").await;
        member.stop().await;
    }
    empty(&*agent.kernel).await
}

/// The store's failure for a node that is in no cluster yet: there is nothing that could keep running.
pub(super) fn not_reached(refusal: Refusal) -> Refusal {
    match refusal.kind {
        RefusalKind::Unavailable => refusal.with_hint("does the store run there, and does this host reach its port?"),
        RefusalKind::Invalid | RefusalKind::NotFound | RefusalKind::Conflict | RefusalKind::Internal => refusal,
    }
}

/// The port for other nodes cannot be had.
pub(super) fn unbindable(error: anyhow::Error) -> Refusal {
    Refusal::conflict(format!("{error:#}")).with_hint("nothing has been changed: free the port and try again")
}

/// What failed within the agent or its host.
pub(super) fn internal(error: anyhow::Error) -> Refusal {
    Refusal::internal(format!("{error:#}"))
}
