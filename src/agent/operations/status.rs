use super::{Agent, Member, Standing, networks};
use crate::{
    agent::{follower::StoreHealth, views},
    api::wire::{DataPlaneView, Membership, PortKey, ReconcileView, StatusView, StoreState, StoreView, UnreadableView},
    mesh,
    model::{Bind, Cluster, Family, VTEP_LINK},
    overlay,
};

pub(super) async fn status(agent: &Agent) -> StatusView {
    let version = env!("CARGO_PKG_VERSION").to_owned();
    let without_member = |membership, warning: String| StatusView {
        version: version.clone(),
        membership,
        node: None,
        cluster: None,
        store: None,
        data_plane: None,
        reconcile: None,
        warnings: vec![warning],
        unreadable: vec![],
    };
    let member = match agent.standing().await {
        Standing::Running(member) => member,
        Standing::Stopped(why) => return without_member(Membership::Stopped, why),
        Standing::Outside => {
            let what = "this node is not part of a cluster: `weft init` begins one, `weft join` joins one";
            return without_member(Membership::Outside, what.to_owned());
        }
    };
    let cluster = member.cluster();
    let node = cluster
        .as_ref()
        .and_then(|cluster| cluster.nodes.get(&member.me()).map(|node| views::node(cluster, node, &member)));
    StatusView {
        version,
        membership: Membership::Running,
        node,
        cluster: cluster.as_deref().map(views::cluster),
        store: Some(store(&member, cluster.as_deref())),
        data_plane: cluster.as_deref().map(|cluster| data_plane(&member, cluster)),
        reconcile: reconcile(agent, &member),
        warnings: warnings(agent, &member, cluster.as_deref()).await,
        unreadable: cluster
            .iter()
            .flat_map(|cluster| &cluster.unreadable)
            .map(|record| UnreadableView { key: record.key.clone(), reason: record.reason.clone() })
            .collect(),
    }
}

fn store(member: &Member, cluster: Option<&Cluster>) -> StoreView {
    let (state, error) = match &*member.health.borrow() {
        StoreHealth::Connected => (StoreState::Connected, None),
        StoreHealth::Unusable(reason) => (StoreState::Connected, Some(reason.clone())),
        StoreHealth::Connecting => (StoreState::Away, Some("it has not answered yet".to_owned())),
        StoreHealth::Away(reason) => (StoreState::Away, Some(reason.clone())),
    };
    StoreView {
        url: member.identity.store.to_string(),
        state,
        revision: cluster.map(|cluster| cluster.revision).unwrap_or_default(),
        error,
    }
}

fn data_plane(member: &Member, cluster: &Cluster) -> DataPlaneView {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let peers = || overlay::peers(cluster, member.me());
    DataPlaneView {
        device: VTEP_LINK.to_owned(),
        address: member.identity.underlay.to_string(),
        mtu: member.reconciler.last_pass().and_then(|pass| pass.mtu).unwrap_or_default(),
        vxlan_port: cluster.settings.vxlan_port,
        peers_alive: count(peers().filter(|peer| mesh::is_alive(cluster, peer.id)).count()),
        peers_total: count(peers().count()),
    }
}

fn reconcile(agent: &Agent, member: &Member) -> Option<ReconcileView> {
    let pass = member.reconciler.last_pass()?;
    Some(ReconcileView {
        age_ms: u64::try_from(pass.ended.elapsed().as_millis()).unwrap_or(u64::MAX),
        duration_ms: pass.duration.as_secs_f64() * 1000.0,
        steps: u32::try_from(pass.steps).unwrap_or(u32::MAX),
        errors: pass.failures.iter().map(|failure| failure.message.clone()).collect(),
        drift: agent.metrics.drift_total(),
    })
}

async fn warnings(agent: &Agent, member: &Member, cluster: Option<&Cluster>) -> Vec<String> {
    let mut warnings = agent.config.not_applied(&member.identity);
    warnings.extend(member.naming.troubles());
    warnings.extend(agent.proxies.troubles());
    match &*member.health.borrow() {
        StoreHealth::Away(reason) => {
            warnings.push(format!("the store is away: what runs keeps running, changes are refused ({reason})"));
        }
        StoreHealth::Unusable(reason) => warnings.push(format!("{reason}; what runs keeps running")),
        StoreHealth::Connecting | StoreHealth::Connected => {}
    }
    let Some(cluster) = cluster else {
        warnings.push("nothing is known of the cluster yet".to_owned());
        return warnings;
    };
    if !cluster.nodes.contains_key(&member.me()) {
        warnings.push(format!("the store has no readable record of this node ({})", member.identity.name));
    }
    match member.host.local_prefixes().await {
        Ok(routed) => warnings.extend(networks::shadowed(cluster, &routed).map(|(name, prefix, route)| {
            format!("the network {name} ({prefix}) overlaps {route}, to which this host has a route: one of the two is not reached from here")
        })),
        Err(error) => warnings.push(error.to_string()),
    }
    let mtu = member.reconciler.last_pass().and_then(|pass| pass.mtu);
    if let Some(mtu) = mtu.filter(|mtu| !overlay::carries_ipv6(*mtu))
        && overlay::families(cluster).contains(&Family::V6)
    {
        warnings.push(format!("networks with IPv6 do not work on this node: {}", networks::small_tunnel(member, mtu)));
    }
    for node in cluster.nodes.values().filter(|node| !mesh::is_alive(cluster, node.id)) {
        warnings
            .push(format!("the node {} is silent: its replicas are out of balancing where others are left", node.name));
    }
    warnings.extend(member.findings.warnings(cluster));
    for service in cluster.services.values() {
        let verdicts = mesh::balancing(cluster, service.id, &member.judgement());
        if !verdicts.is_empty() && !verdicts.values().any(|verdict| verdict.takes_connections()) {
            warnings.push(format!("the service {} has replicas, but none takes connections", service.name));
        }
        for port in &service.ports {
            if let Bind::Address(address) = port.bind
                && mesh::is_nobodys(cluster, address)
            {
                let (name, key) = (&service.name, PortKey::from(port));
                warnings
                    .push(format!("the service {name} publishes {key}, but no live node has the address {address}"));
            }
        }
    }
    warnings
}

/// Brings the gauges up to date, just before somebody reads them.
pub(in crate::agent) async fn gather(agent: &Agent) {
    let member = agent.membership().await;
    let cluster = member.as_ref().and_then(|member| member.cluster());
    agent.metrics.proxied.show(&agent.proxies.counts(), |replica| {
        let replica = cluster.as_ref()?.endpoints.get(&replica)?;
        Some(replica.name.to_string())
    });
    let Some((member, cluster)) = member.zip(cluster) else { return };
    let metrics = &agent.metrics;
    metrics.count_connections(&*agent.kernel, &cluster).await;
    metrics.show_tally(&member.tally, &cluster);
    member.findings.gather(&cluster, metrics);
    let number = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
    metrics.endpoints.set(number(cluster.endpoints_on(member.me()).count()));
    metrics
        .nodes
        .with_label_values(&["ready"])
        .set(number(cluster.nodes.keys().filter(|id| mesh::is_alive(&cluster, **id)).count()));
    metrics
        .nodes
        .with_label_values(&["suspended"])
        .set(number(cluster.nodes.keys().filter(|id| !mesh::is_alive(&cluster, **id)).count()));
}
