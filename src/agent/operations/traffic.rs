//! What has entered a service at this node, for whoever asks: what was counted of connections that are over, a look at those
//! under way, and what the proxy has carried.

use std::collections::BTreeMap;

use tracing::warn;

use crate::{
    agent::{member::Member, proxies::Proxies},
    api::wire::{EntranceTraffic, ReplicaTraffic, ReplicaView, ServiceTraffic, ServiceView},
    mesh::{Roster, Via},
    model::{EndpointId, ServiceId},
    proxy::PortCount,
};

type Counted = BTreeMap<(Via, Option<EndpointId>), (u64, u64)>;

/// Adds to a service what has entered it here.
pub(super) async fn with_service(member: &Member, proxies: &Proxies, mut view: ServiceView) -> ServiceView {
    let Some(id) = ServiceId::new(view.id) else { return view };
    let mut entrances: BTreeMap<Via, (u64, u64)> = BTreeMap::new();
    for ((via, _), (connections, bytes)) in counted(member, id).await {
        let entrance = entrances.entry(via).or_default();
        *entrance = (entrance.0 + connections, entrance.1 + bytes);
    }
    let by_kernel = entrances.into_iter().map(|(via, (connections, bytes))| EntranceTraffic {
        via: via.to_string(),
        connections,
        bytes,
    });
    let by_proxy = proxied(proxies, &view.name).into_iter().filter(|(_, count)| count.accepted > 0);
    let by_proxy = by_proxy.map(|(port, count)| EntranceTraffic {
        via: format!("{port} (proxy)"),
        connections: count.accepted,
        bytes: count.bytes_from_clients + count.bytes_to_clients,
    });
    let ejections = member.tally.ejections();
    view.traffic = Some(ServiceTraffic {
        node: member.identity.name.to_string(),
        entrances: by_kernel.chain(by_proxy).collect(),
        ejections: ejections.iter().filter(|((service, _), _)| *service == id).map(|(_, count)| count).sum(),
        drains: member.tally.drains().get(&id).copied().unwrap_or_default(),
    });
    view
}

/// Adds to each replica of a service what it got from here.
pub(super) async fn with_replicas(member: &Member, proxies: &Proxies, mut views: Vec<ReplicaView>) -> Vec<ReplicaView> {
    let ids: Vec<Option<EndpointId>> = views.iter().map(|view| view.id.parse().ok()).collect();
    let service = member.cluster().and_then(|cluster| {
        let id = ids.iter().flatten().find_map(|id| cluster.endpoints.get(id).and_then(|endpoint| endpoint.service));
        Some((id?, cluster.services.get(&id?)?.name.to_string()))
    });
    let Some((service, name)) = service else { return views };
    let counted = counted(member, service).await;
    let by_port = proxied(proxies, &name);
    let ejections = member.tally.ejections();
    for (view, id) in views.iter_mut().zip(ids) {
        let Some(id) = id else { continue };
        let rows = counted.iter().filter(|((_, replica), _)| *replica == Some(id));
        let by_kernel = rows.map(|(_, row)| *row);
        let by_proxy = by_port.iter().filter_map(|(_, count)| count.replicas.get(&id));
        let rows = by_kernel.chain(by_proxy.map(|count| (count.connections, count.bytes)));
        let (connections, bytes) = rows.fold((0, 0), |sum, row| (sum.0 + row.0, sum.1 + row.1));
        let ejections = ejections.get(&(service, id)).copied().unwrap_or_default();
        view.traffic = Some(ReplicaTraffic { connections, bytes, ejections });
    }
    views
}

/// What the proxy has carried of a service, by port.
fn proxied(proxies: &Proxies, service: &str) -> Vec<(String, PortCount)> {
    let counts = proxies.counts().into_iter().filter(|((name, _), _)| name == service);
    counts.map(|((_, port), count)| (port, count)).collect()
}

/// Connections and bytes of a service by entrance and replica, as the kernel has them.
async fn counted(member: &Member, service: ServiceId) -> Counted {
    let rows = member.tally.rows().into_iter().filter(|((id, ..), _)| *id == service);
    let mut counted: Counted =
        rows.map(|((_, via, replica), counts)| ((via, replica), (counts.connections, counts.bytes))).collect();
    for (row, bytes) in live_bytes(member, service).await {
        counted.entry(row).or_default().1 += bytes;
    }
    counted
}

async fn live_bytes(member: &Member, service: ServiceId) -> BTreeMap<(Via, Option<EndpointId>), u64> {
    let Some((conntrack, cluster)) = member.host.conntrack().zip(member.cluster()) else { return BTreeMap::new() };
    let roster = Roster::of(&cluster);
    let key = move |flow: &_| {
        roster.spread(flow).filter(|spread| spread.service == service).map(|spread| (spread.via, Some(spread.replica)))
    };
    conntrack.live_bytes(key).await.unwrap_or_else(|error| {
        warn!("{error}; bytes of connections under way are left out");
        BTreeMap::new()
    })
}
