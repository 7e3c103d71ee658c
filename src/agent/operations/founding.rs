use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
    time::SystemTime,
};

use ipnet::IpNet;
use tracing::warn;

use super::{
    Agent, Member, Standing, lookup,
    membership::{enter, internal, not_reached, remove_store, settled, unbindable},
    stopped, tokens,
};
use crate::{
    agent::{
        configuration::{put, store_refusal},
        identity::Identity,
        member::{OpenStore, open_door, store_dir},
        trust, views,
    },
    api::{
        Refusal,
        wire::{InitReply, InitRequest},
    },
    ipam,
    model::{Availability, ClusterId, ClusterSettings, DEFAULT_POOL, JoinToken, Node, NodeId},
    store::{Backend, Compare, Outcome, Revision, Store, StoreUrl, Transaction, Write, record},
    tls::{Authority, Credentials},
};

/// The tunnels' UDP port unless somebody names another: not 4789 or 8472, which hypervisors intercept.
const DEFAULT_VXLAN_PORT: u16 = 7789;
/// The tunnels' VNI. It has to be the same on all nodes and nothing else; this one is easy to tell in a capture.
const VNI: u32 = 7789;

pub(super) async fn init(agent: &Arc<Agent>, request: InitRequest) -> Result<InitReply, Refusal> {
    let _changing = agent.changing.lock().await;
    let url: StoreUrl = request.store.as_deref().unwrap_or("embedded").parse().map_err(Refusal::invalid)?;
    let id = ClusterId(random()?);
    let pools = pools(&request, id)?;
    let vxlan_port = request.vxlan_port.unwrap_or(DEFAULT_VXLAN_PORT);
    if vxlan_port == 0 {
        return Err(Refusal::invalid("the tunnels' port does not lie in 1 to 65535"));
    }
    match agent.standing().await {
        Standing::Running(member) => return already_first(&member, &request, &url, &pools, vxlan_port),
        Standing::Stopped(why) => return Err(stopped(why)),
        Standing::Outside => {}
    }
    refuse_overlap(agent, &pools).await?;
    let underlay = agent.host.advertised(agent.config.advertise).await.map_err(Refusal::conflict)?;
    let door = open_door(underlay).await.map_err(unbindable)?;
    let settings = ClusterSettings { id, vxlan_port, vni: VNI, pools };
    let mut me = Node {
        id: NodeId::new(1).ok_or_else(|| Refusal::internal("1 is a node number"))?,
        name: agent.config.node.clone(),
        underlay,
        labels: BTreeMap::new(),
        availability: Availability::Active,
        addresses: BTreeSet::new(),
        fingerprint: None,
    };
    let identity = Identity { cluster: settings.id, node: me.id, name: me.name.clone(), underlay, store: url };
    let authority = Authority::make(&settings.id.to_string()).map_err(Refusal::internal)?;
    let credentials = Credentials::make(authority, trust::names(&identity), SystemTime::now());
    let credentials = Arc::new(credentials.map_err(Refusal::internal)?);
    me.fingerprint = Some(credentials.fingerprint());
    let opened = found(agent, &identity, &credentials, &settings, &me).await?;
    let member = enter(agent, identity, credentials, opened, door).await;
    let cluster = settled(&member).await?;
    Ok(InitReply {
        created: true,
        cluster: cluster.settings.id.to_string(),
        node: views::node(&cluster, &me, &member),
        join: tokens::token(&member)?,
    })
}

/// The pools that are named, and no others; without any, one of each family.
fn pools(request: &InitRequest, id: ClusterId) -> Result<Vec<IpNet>, Refusal> {
    let texts = if request.pools.is_empty() {
        vec![DEFAULT_POOL.to_owned(), id.default_pool_v6().to_string()]
    } else {
        request.pools.clone()
    };
    let mut pools: Vec<IpNet> = Vec::new();
    for text in texts {
        let pool: IpNet = text
            .parse()
            .map_err(|_| Refusal::invalid(format!("the pool {text:?} is not a prefix such as {DEFAULT_POOL}")))?;
        ipam::subnet(pool).map_err(Refusal::invalid)?;
        if let Some(other) = pools.iter().find(|other| other.contains(&pool) || pool.contains(*other)) {
            return Err(Refusal::invalid(format!("the pools {other} and {pool} overlap")));
        }
        pools.push(pool);
    }
    Ok(pools)
}

async fn refuse_overlap(agent: &Agent, pools: &[IpNet]) -> Result<(), Refusal> {
    let routed = agent.host.local_prefixes().await.map_err(Refusal::internal)?;
    for pool in pools {
        if let Some(route) = routed.iter().find(|route| route.prefix.contains(pool) || pool.contains(&route.prefix)) {
            return Err(Refusal::conflict(format!("the pool {pool} overlaps {route}, to which this host has a route"))
                .with_hint("choose a prefix that none of your hosts routes: weft init --pool CIDR"));
        }
    }
    Ok(())
}

/// Opens the store and writes the cluster's first records and this node's identity: all of it, or nothing that stays.
async fn found(
    agent: &Agent,
    identity: &Identity,
    credentials: &Arc<Credentials>,
    settings: &ClusterSettings,
    me: &Node,
) -> Result<OpenStore, Refusal> {
    let dir = store_dir(&agent.config.data_dir);
    let is_ours_alone = identity.store.backend == Backend::Embedded && !dir.exists();
    let data_dir = &agent.config.data_dir;
    let token = tokens::new(credentials)?;
    let written = async {
        let opened = OpenStore::open(&identity.store, data_dir, credentials).await.map_err(internal)?;
        let saved = match begin(&*opened.store, settings, me, &token).await {
            Ok(revision) => match save(identity, credentials, data_dir) {
                Ok(()) => return Ok(opened),
                Err(refusal) => {
                    take_back_cluster(&*opened.store, me, revision).await;
                    refusal
                }
            },
            Err(refusal) => refusal,
        };
        if let Some(embedded) = opened.embedded {
            embedded.close().await;
        }
        Err(saved)
    }
    .await;
    if written.is_err() && is_ours_alone {
        remove_store(&dir);
    }
    written
}

/// Writes what a member keeps on disk: all of it, or nothing that counts.
pub(super) fn save(identity: &Identity, credentials: &Credentials, data_dir: &Path) -> Result<(), Refusal> {
    let saved = credentials.save(data_dir).map_err(Refusal::internal);
    saved.and_then(|()| identity.save(data_dir).map_err(internal)).inspect_err(|_| trust::forget(data_dir))
}

/// Undoes [`begin`], unless somebody has built on it.
async fn take_back_cluster(store: &dyn Store, me: &Node, revision: Revision) {
    let keys = [record::CLUSTER_KEY.to_owned(), record::TOKEN_KEY.to_owned(), record::key_of_node(me.id)];
    let compares = keys.iter().map(|key| Compare::Unchanged(key.clone(), revision)).collect();
    let writes = keys.into_iter().map(|key| Write::Delete { key }).collect();
    match store.commit(Transaction { compares, writes }).await {
        Ok(Outcome::Committed(_)) => {}
        Ok(Outcome::Conflict) => warn!("the records of the new cluster stay: somebody has changed them meanwhile"),
        Err(error) => warn!("the records of the new cluster cannot be taken back: {error}"),
    }
}

/// Writes the cluster's first records, unless the store holds a cluster; gives the revision that they have.
pub(super) async fn begin(
    store: &dyn Store,
    settings: &ClusterSettings,
    me: &Node,
    token: &JoinToken,
) -> Result<Revision, Refusal> {
    let key = record::CLUSTER_KEY.to_owned();
    let transaction = Transaction {
        compares: vec![Compare::Absent(key.clone()), Compare::Absent(record::key_of_node(me.id))],
        writes: vec![
            put(key, record::encode_cluster(settings)),
            put(record::TOKEN_KEY.to_owned(), record::encode_token(token)),
            put(record::key_of_node(me.id), record::encode_node(me)),
        ],
    };
    match store.commit(transaction).await.map_err(|error| not_reached(store_refusal(error)))? {
        Outcome::Committed(revision) => Ok(revision),
        Outcome::Conflict => Err(Refusal::conflict("the store holds a cluster already")
            .with_hint("join it from here with `weft join`, or give the new cluster another store or data directory")),
    }
}

fn already_first(
    member: &Member,
    request: &InitRequest,
    url: &StoreUrl,
    pools: &[IpNet],
    vxlan_port: u16,
) -> Result<InitReply, Refusal> {
    let cluster = lookup::cluster(member)?;
    let differs = |what: &str| {
        Err(Refusal::conflict(format!("this node belongs to the cluster {} already, with {what}", cluster.settings.id))
            .with_hint("`weft leave` takes it out"))
    };
    if member.identity.store != *url && request.store.is_some() {
        return differs("another store");
    }
    if cluster.settings.pools != pools && !request.pools.is_empty() {
        return differs("other pools");
    }
    if cluster.settings.vxlan_port != vxlan_port && request.vxlan_port.is_some() {
        return differs("another VXLAN port");
    }
    let me = lookup::node(&cluster, member.identity.name.as_str())?;
    Ok(InitReply {
        created: false,
        cluster: cluster.settings.id.to_string(),
        node: views::node(&cluster, me, member),
        join: tokens::token(member)?,
    })
}

pub(super) fn random_bytes<const N: usize>() -> Result<[u8; N], Refusal> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Refusal::internal(format!("no random numbers: {error}")))?;
    Ok(bytes)
}

fn random() -> Result<u128, Refusal> {
    Ok(u128::from_be_bytes(random_bytes()?))
}
