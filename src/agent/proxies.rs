//! Keeps the proxy's doors as the cluster and this node's judgement want them.
//!
//! One task for the life of a membership ([`follow`]): it looks whenever either changes, and every few seconds, because a port
//! may be freed and an address may come. The proxy itself lives as long as the process, so that listening sockets of a previous
//! process wait in it until there is a first snapshot; what is not wanted then is closed. A membership that ends closes
//! every door.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::timeout};
use tracing::{info, warn};

use crate::{
    mesh,
    model::{Bind, Cluster, EndpointId, Judgement, L4, Lb, PortMode, ProxyMode, PublishedPort, Service},
    proxy::{Applied, CountKey, Door, Known, Place, PortCount, Proxy, Spread, Table, Target, count_key},
};

/// How often a door that could not be opened is tried again, and an address that this host had not is looked for.
const RETRY: Duration = Duration::from_secs(2);

/// The proxy and what is wrong with it.
#[derive(Debug)]
pub(super) struct Proxies {
    proxy: Proxy,
    standing: Mutex<Standing>,
}

#[derive(Debug, Default)]
struct Standing {
    /// Whether there is a membership; a look that began before its end must not open anything after it.
    is_open: bool,
    troubles: BTreeMap<Place, String>,
}

impl Proxies {
    /// Around a proxy without doors.
    pub(super) fn new(proxy: Proxy) -> Arc<Self> {
        Arc::new(Self { proxy, standing: Mutex::default() })
    }

    /// The doors that do not open, a sentence each.
    pub(super) fn troubles(&self) -> Vec<String> {
        self.standing().troubles.values().cloned().collect()
    }

    /// What has gone through the doors, by service and port.
    pub(super) fn counts(&self) -> BTreeMap<CountKey, PortCount> {
        self.proxy.counts()
    }

    /// A membership begins: from here on doors may open.
    pub(super) fn open(&self) {
        self.standing().is_open = true;
    }

    /// Closes every door: this node belongs to no cluster any more.
    pub(super) fn close(&self) {
        let mut standing = self.standing();
        *standing = Standing::default();
        self.proxy.apply(&Table::default());
    }

    /// Whether another look is worth it although the table stays.
    fn apply(&self, table: &Table) -> bool {
        let mut standing = self.standing();
        if !standing.is_open {
            return false;
        }
        let Applied { troubles, is_settled } = self.proxy.apply(table);
        let found: BTreeMap<Place, String> =
            troubles.into_iter().map(|trouble| (trouble.place, trouble.message)).collect();
        for (place, message) in &found {
            if standing.troubles.get(place) != Some(message) {
                warn!("{message}");
            }
        }
        for place in standing.troubles.keys().filter(|place| !found.contains_key(place)) {
            info!("{place} is no trouble any more");
        }
        standing.troubles = found;
        !is_settled
    }

    fn standing(&self) -> std::sync::MutexGuard<'_, Standing> {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is told of a proxy that does not run: nothing goes through it, whatever the cluster says.
pub(super) const NO_PROXY: u64 = u64::MAX;

/// Follows the cluster for ever, and tells the store's revision by whose table the proxy works: no connection that begins after
/// that gets a replica which is out of balancing there. A door that does not open lets nobody in and holds nothing up.
pub(super) async fn follow(
    proxies: Arc<Proxies>,
    mut clusters: watch::Receiver<Option<Arc<Cluster>>>,
    mut judgements: watch::Receiver<Judgement>,
    applied: watch::Sender<u64>,
) {
    // Before the first look: while that cluster's doors open, a newer one may come.
    applied.send_replace(0);
    loop {
        let cluster = clusters.borrow_and_update().clone();
        let judgement = judgements.borrow_and_update().clone();
        // Nothing is closed before a whole snapshot was seen.
        let table = cluster.map(|cluster| (cluster.revision, Arc::new(table(&cluster, &judgement))));
        loop {
            let mut look_again = false;
            if let Some((revision, table)) = &table {
                let (table, proxies) = (Arc::clone(table), Arc::clone(&proxies));
                // Opening thousands of sockets takes a while; nobody else on this thread shall wait for it.
                let done = tokio::task::spawn_blocking(move || proxies.apply(&table)).await;
                if done.is_ok() {
                    applied.send_if_modified(|applied| std::mem::replace(applied, *revision) != *revision);
                }
                look_again = done.unwrap_or(true);
            }
            let changed = async {
                tokio::select! {
                    changed = clusters.changed() => changed,
                    changed = judgements.changed() => changed,
                }
            };
            let patience = if look_again { RETRY } else { Duration::MAX };
            match timeout(patience, changed).await {
                Ok(Ok(())) => break,
                Ok(Err(_)) => return,
                Err(_) => {}
            }
        }
    }
}

/// Every door that a node should have open.
fn table(cluster: &Cluster, judgement: &Judgement) -> Table {
    let services = cluster.services.values().filter(|service| !service.ports.is_empty());
    let count_keys = |service: &Service| {
        let keys = service.ports.iter().map(|port| count_key(service.name.as_str(), port.published, port.protocol));
        keys.collect::<Vec<_>>()
    };
    let replicas = cluster.endpoints.values().filter(|endpoint| endpoint.service.is_some());
    Table {
        known: Known {
            ports: services.clone().flat_map(count_keys).collect(),
            replicas: replicas.map(|replica| replica.id).collect(),
        },
        doors: services.flat_map(|service| doors(cluster, service, judgement)).collect(),
    }
}

fn doors(cluster: &Cluster, service: &Service, judgement: &Judgement) -> Vec<Door> {
    let verdicts = mesh::balancing(cluster, service.id, judgement);
    let takers: Vec<_> = cluster
        .replicas_of(service.id)
        .filter(|replica| verdicts.get(&replica.id).is_some_and(|verdict| verdict.takes_connections()))
        .collect();
    let spread = spread(service.lb, &takers.iter().map(|taker| (taker.id, taker.weight)).collect::<Vec<_>>());
    let door = |port: &PublishedPort, bind, headers| Door {
        place: Place { bind, port: port.published, protocol: port.protocol },
        service: service.name.to_string(),
        beside_kernel: port.mode == PortMode::Kernel && port.bind == Bind::Any,
        headers,
        targets: takers
            .iter()
            .map(|taker| Target {
                id: taker.id,
                addresses: taker.addresses.clone(),
                port: port.target,
                weight: taker.weight,
            })
            .collect(),
        spread: spread.clone(),
    };
    let mut doors = Vec::new();
    for port in &service.ports {
        match (&port.mode, port.protocol) {
            (PortMode::Proxy(headers), L4::Tcp) => doors.push(door(port, port.bind, headers.clone())),
            // A socket for datagrams that nobody answers is none: without one the kernel refuses at once.
            (PortMode::Kernel | PortMode::Proxy(_), L4::Udp) if takers.is_empty() => {}
            (PortMode::Kernel, L4::Tcp) | (PortMode::Kernel | PortMode::Proxy(_), L4::Udp) => {
                doors.extend(loopback(port.bind).map(|bind| door(port, bind, ProxyMode::default())));
            }
            (PortMode::Kernel | PortMode::Proxy(_), L4::Sctp) => {}
        }
    }
    doors
}

/// The host's own loopback addresses of a port that the kernel carries. The kernel path leaves them out on purpose: to send
/// what is addressed to 127.0.0.1 to a container, `route_localnet` would have to be set, and whoever is on the same link could
/// then reach what listens on the host's loopback (CVE-2020-8558); for `::1` there is not even such a setting.
fn loopback(bind: Bind) -> impl Iterator<Item = Bind> {
    let all = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
    all.into_iter()
        .filter(move |address| match bind {
            Bind::Any => true,
            Bind::Address(wanted) => wanted == *address,
            Bind::Device(device) => device.as_str() == "lo",
        })
        .map(Bind::Address)
}

fn spread(lb: Lb, takers: &[(EndpointId, u16)]) -> Spread {
    let narrow = |round: Vec<usize>| round.into_iter().filter_map(|index| u16::try_from(index).ok()).collect();
    let in_turn = || narrow(mesh::interleave(&takers.iter().map(|(_, weight)| *weight).collect::<Vec<_>>()));
    match lb {
        Lb::Rr => Spread::InTurn(in_turn()),
        Lb::Random => Spread::ByChance(in_turn()),
        Lb::LeastConn => Spread::FewestOpen,
        Lb::Source => Spread::BySource(narrow(mesh::share_out(takers))),
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::{
        model::{ClusterId, ClusterSettings, NetworkId, NodeId, Report, ServiceId},
        proxy::Handed,
    };

    /// A service whose port is proxied.
    fn cluster(revision: u64, port: u16) -> Cluster {
        let settings = ClusterSettings { id: ClusterId(1), vxlan_port: 7789, vni: 77, pools: vec![] };
        let mut cluster = Cluster { revision, ..Cluster::empty(settings) };
        let id = ServiceId::new(1).unwrap();
        let published = PublishedPort {
            bind: Bind::Address(Ipv4Addr::LOCALHOST.into()),
            published: port.try_into().unwrap(),
            target: port.try_into().unwrap(),
            protocol: L4::Tcp,
            mode: PortMode::Proxy(ProxyMode::default()),
        };
        let network = NetworkId::new(1).unwrap();
        cluster.services.insert(id, Service::new(id, "web".parse().unwrap(), network, vec![], vec![published]));
        cluster
    }

    /// The drains of a cluster wait for it: a door that does not open must not hold them up, nor a change that asks nothing of it.
    #[tokio::test]
    async fn it_tells_how_far_it_is_whatever_the_doors() {
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = taken.local_addr().unwrap().port();
        let proxies = Proxies::new(Proxy::start(Handed::default()).unwrap());
        proxies.open();
        let (clusters, judgements) = (watch::Sender::new(None), watch::Sender::<Judgement>::default());
        let applied = watch::Sender::new(NO_PROXY);
        let mut told = applied.subscribe();
        let following = follow(Arc::clone(&proxies), clusters.subscribe(), judgements.subscribe(), applied);
        let checks = async {
            told.wait_for(|told| *told == 0).await.unwrap();
            clusters.send_replace(Some(Arc::new(cluster(5, port))));
            told.wait_for(|told| *told == 5).await.unwrap();
            assert_eq!(proxies.troubles().len(), 1);
            let mut reported = cluster(6, port);
            reported.reports.insert(NodeId::new(1).unwrap(), Report { revision: 5, open: BTreeMap::new() });
            clusters.send_replace(Some(Arc::new(reported)));
            told.wait_for(|told| *told == 6).await.unwrap();
        };
        timeout(Duration::from_secs(10), async {
            tokio::select! {
                () = following => {}
                () = checks => {}
            }
        })
        .await
        .unwrap();
    }
}
