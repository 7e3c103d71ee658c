//! Makes the kernel forget connections that lead nowhere.
//!
//! One task for the life of a membership, woken by the passes of the reconcile loop: only once the rules lead elsewhere may a
//! connection begin anew, or it would begin where it was. It reconciles, and hears of no events: what is stale is decided from the
//! cluster as it is, so an agent that was away, or a look that failed, loses nothing. A look reads the whole table (some 1 us an
//! entry), so one is taken only when there may be something to find, and rarely besides. It takes a while, and the store goes on
//! meanwhile: so whatever is found is judged again by the newest cluster ([`Judge`]).

use std::{
    collections::BTreeSet,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tracing::{debug, info, warn};

use crate::{
    agent::{member::Member, reconciler::Pass},
    mesh::StaleFlows,
    model::{Cluster, Flow},
};

/// Looks without a cause: against what nobody thought of.
const PERIOD: Duration = Duration::from_mins(5);

/// After a look that failed.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until the membership is gone.
pub(in crate::agent) async fn forget_stale(member: Weak<Member>, mut passes: watch::Receiver<Option<Arc<Pass>>>) {
    let mut seen = StaleFlows::default();
    let mut revision = None;
    let mut next = Instant::now();
    loop {
        tokio::select! {
            biased;
            changed = passes.changed() => if changed.is_err() { return },
            () = sleep_until(next) => {}
        }
        let Some(member) = member.upgrade() else { return };
        let Some((pass, cluster)) = passes.borrow_and_update().clone().zip(member.cluster()) else {
            next = Instant::now() + RETRY;
            continue;
        };
        if pass.revision < cluster.revision {
            // Another pass is on its way.
            next = next.max(Instant::now() + RETRY);
            continue;
        }
        let is_due = Instant::now() >= next;
        if revision == Some(cluster.revision) && !is_due {
            continue;
        }
        let stale = StaleFlows::of(&cluster);
        if stale.may_have_more_than(&seen) || is_due {
            next = Instant::now() + if look(&member, &cluster, &stale).await { PERIOD } else { RETRY };
        }
        // What failed may be that the rules still lead to where they did.
        if pass.failures.is_empty() {
            seen = stale;
            revision = Some(cluster.revision);
        }
    }
}

/// Whether the look could be taken.
async fn look(member: &Member, cluster: &Arc<Cluster>, stale: &StaleFlows) -> bool {
    let forgotten = async {
        let local = member.host.local_addresses().await?;
        let judge = Judge::new(cluster, stale, local, member.clusters.clone());
        member.host.kernel().forget_flows(Arc::new(move |flow: &Flow| judge.is_stale(flow))).await
    };
    match forgotten.await {
        Ok(0) => debug!("no connection leads nowhere"),
        Ok(count) => info!(count, "forgot connections that led nowhere"),
        Err(error) => {
            warn!("{error}; trying again");
            return false;
        }
    }
    true
}

/// Says which connections lead nowhere, both by the cluster that the kernel's rules follow and by the newest one.
///
/// A connection to a replica that was published since the first is a good one: whoever sent it there had heard of it, so the
/// newest cluster knows the replica. The first is asked as well, for what has become stale since may begin anew only once the
/// rules lead elsewhere; the next pass brings another look.
struct Judge {
    stale: StaleFlows,
    local: BTreeSet<IpAddr>,
    clusters: watch::Receiver<Option<Arc<Cluster>>>,
    /// The newest cluster that was asked, and what is stale by it.
    newest: Mutex<(Arc<Cluster>, StaleFlows)>,
}

impl Judge {
    fn new(
        cluster: &Arc<Cluster>,
        stale: &StaleFlows,
        local: BTreeSet<IpAddr>,
        clusters: watch::Receiver<Option<Arc<Cluster>>>,
    ) -> Self {
        Self { stale: stale.clone(), local, clusters, newest: Mutex::new((Arc::clone(cluster), stale.clone())) }
    }

    fn is_stale(&self, flow: &Flow) -> bool {
        self.stale.contains(flow, &self.local) && self.is_stale_by_now(flow)
    }

    fn is_stale_by_now(&self, flow: &Flow) -> bool {
        let Some(cluster) = self.clusters.borrow().clone() else { return false };
        // Both are set together, by what does not panic between.
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&newest.0, &cluster) {
            let stale = StaleFlows::of(&cluster);
            *newest = (cluster, stale);
        }
        newest.1.contains(flow, &self.local)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{
        ClusterId, ClusterSettings, Endpoint, EndpointId, EndpointState, FlowStage, L4, NetnsRef, Network, NetworkId,
        NodeId, Service, ServiceId, Subnet,
    };

    /// Network 10.9.0.0/16; the services 1 and 2 with the VIPs 10.9.240.1 and 10.9.240.2; replicas by address and service.
    fn cluster(replicas: &[(u64, u16)]) -> Arc<Cluster> {
        let settings = ClusterSettings { id: ClusterId(7), vxlan_port: 7789, vni: 7789, pools: vec![] };
        let mut cluster = Cluster::empty(settings);
        let network = NetworkId::new(1).unwrap();
        let subnets = vec![Subnet { prefix: "10.9.0.0/16".parse().unwrap(), block_len: 26 }];
        let blue = Network { id: network, name: "blue".parse().unwrap(), subnets, internal: false, mtu: None };
        cluster.networks.insert(network, blue);
        for number in [1, 2] {
            let id = ServiceId::new(number).unwrap();
            let vips = vec![format!("10.9.240.{number}").parse().unwrap()];
            let name = format!("service-{number}").parse().unwrap();
            cluster.services.insert(id, Service::new(id, name, network, vips, vec![]));
        }
        for (number, service) in replicas {
            let endpoint = Endpoint {
                id: EndpointId(*number),
                network,
                addresses: vec![format!("10.9.0.{number}").parse().unwrap()],
                name: format!("web-{number}").parse().unwrap(),
                aliases: vec![],
                node: NodeId::new(1).unwrap(),
                service: ServiceId::new(*service),
                state: EndpointState::Ready,
                weight: 1,
                netns: NetnsRef { path: "/run/netns/x".into(), inode: *number },
                ifname: "eth0".into(),
                fault: None,
            };
            cluster.endpoints.insert(endpoint.id, endpoint);
        }
        Arc::new(cluster)
    }

    #[test]
    fn what_is_well_by_the_newest_cluster_is_kept() {
        let old = cluster(&[(2, 1), (5, 1)]);
        let (sender, clusters) = watch::channel(Some(Arc::clone(&old)));
        let judge = Judge::new(&old, &StaleFlows::of(&old), BTreeSet::new(), clusters);
        let is_stale = |vip: u16, replica: u64| {
            judge.is_stale(&Flow {
                protocol: L4::Udp,
                client: "10.9.0.9:1".parse().unwrap(),
                asked: format!("10.9.240.{vip}:53").parse().unwrap(),
                replica: format!("10.9.0.{replica}:53").parse().unwrap(),
                is_answered: true,
                stage: FlowStage::Open,
                bytes: None,
                left_s: None,
            })
        };
        // Service and replica, by the old cluster and once the new one is heard of.
        let cases = [
            ("published meanwhile", 1, 3, true, false),
            ("the address was given to another service", 2, 2, true, false),
            ("gone in both", 1, 4, true, true),
            ("gone meanwhile: the rules still lead there", 1, 5, false, false),
        ];
        for (what, vip, replica, before, _) in cases {
            assert_eq!(is_stale(vip, replica), before, "{what}");
        }
        sender.send_replace(Some(cluster(&[(2, 2), (3, 1)])));
        for (what, vip, replica, _, after) in cases {
            assert_eq!(is_stale(vip, replica), after, "{what}");
        }
    }
}
