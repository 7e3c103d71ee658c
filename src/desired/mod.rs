//! What the kernel of one node should hold, as a function of what the store says: the one place where features meet.

mod packet_walk;

use std::collections::BTreeMap;

use crate::{
    model::{Cluster, Family, HostFacts, HostState, Judgement, NextHop, NodeId, Sysctl, VTEP_LINK},
    overlay,
};

/// The desired state of node `me`. A node that the cluster does not know (removed, or its record unreadable) gets
/// nothing to say: the caller must not plan from it, lest a damaged record empty a host.
pub fn desired(cluster: &Cluster, me: NodeId, facts: &HostFacts, judgement: &Judgement) -> Option<HostState> {
    let me = cluster.nodes.get(&me)?;
    let vtep = overlay::vtep(cluster, me, facts);
    let mut neighbours = overlay::neighbours(cluster, me);
    let mut routes = overlay::routes(cluster, me);
    if !overlay::carries_ipv6(vtep.mtu) {
        // The kernel would refuse each of these rows; `weft status` says why they are missing.
        neighbours.retain(|gateway, _| gateway.is_ipv4());
        routes.retain(|(_, prefix), route| {
            prefix.addr().is_ipv4() || !matches!(route.next_hop, NextHop::Tunnel(_) | NextHop::TunnelLink)
        });
    }
    Some(HostState {
        vtep: Some(vtep),
        fdb: overlay::fdb(cluster, me),
        neighbours,
        routes,
        policy: overlay::policy(cluster, me.id, facts),
        links: overlay::attachments(cluster, me.id, vtep.mtu),
        sysctls: sysctls(cluster, facts),
        ruleset: Some(packet_walk::ruleset(cluster, me, facts, judgement, vtep.mtu)),
    })
}

/// Forwarding on, and on the tunnel no strict reverse-path filter: packets arrive there from clients whose way back is
/// the ingress node, not the routing table. The kernel takes the greater of the device's value and `all`'s
/// (Documentation/networking/ip-sysctl.rst, `rp_filter`), so a strict `all` is answered by a loose device.
fn sysctls(cluster: &Cluster, facts: &HostFacts) -> BTreeMap<Sysctl, String> {
    let rp_filter = if facts.rp_filter_all == 0 { "0" } else { "2" };
    let mut sysctls = BTreeMap::from([
        (Sysctl("net/ipv4/ip_forward".to_owned()), "1".to_owned()),
        (Sysctl(format!("net/ipv4/conf/{VTEP_LINK}/rp_filter")), rp_filter.to_owned()),
    ]);
    if overlay::families(cluster).contains(&Family::V6) {
        sysctls.extend(ipv6_sysctls(facts));
    }
    sysctls
}

/// IPv6 forwarding. A host that forwards ignores router advertisements on devices whose `accept_ra` is 1, and forgets the default
/// routes that it has learned from them (`rt6_purge_dflt_routers`); 2 means to heed them all the same (ip-sysctl.rst). So each
/// device that heeds them now gets 2, before forwarding goes on: see `plan`.
fn ipv6_sysctls(facts: &HostFacts) -> impl Iterator<Item = (Sysctl, String)> {
    let advertised = facts.advertised_to.iter().map(|device| (Sysctl::accept_ra(device), "2".to_owned()));
    advertised.chain([(Sysctl(Sysctl::FORWARDING_V6.to_owned()), "1".to_owned())])
}
