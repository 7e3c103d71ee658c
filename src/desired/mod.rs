//! What the kernel of one node should hold, as a function of what the store says: the one place where features meet.

mod packet_walk;

use std::collections::BTreeMap;

use crate::{
    model::{Cluster, HostFacts, HostState, Judgement, NodeId, Sysctl, VTEP_LINK},
    overlay,
};

/// The desired state of node `me`. A node that the cluster does not know (removed, or its record unreadable) gets
/// nothing to say: the caller must not plan from it, lest a damaged record empty a host.
pub fn desired(cluster: &Cluster, me: NodeId, facts: &HostFacts, judgement: &Judgement) -> Option<HostState> {
    let me = cluster.nodes.get(&me)?;
    let vtep = overlay::vtep(cluster, me, facts);
    Some(HostState {
        vtep: Some(vtep),
        fdb: overlay::fdb(cluster, me),
        neighbours: overlay::neighbours(cluster, me),
        routes: overlay::routes(cluster, me),
        policy: overlay::policy(cluster, me.id, facts),
        links: overlay::attachments(cluster, me.id, vtep.mtu),
        sysctls: sysctls(facts),
        ruleset: Some(packet_walk::ruleset(cluster, me, facts, judgement, vtep.mtu)),
    })
}

/// Forwarding on, and on the tunnel no strict reverse-path filter: packets arrive there from clients whose way back is
/// the ingress node, not the routing table. The kernel takes the greater of the device's value and `all`'s
/// (Documentation/networking/ip-sysctl.rst, `rp_filter`), so a strict `all` is answered by a loose device.
fn sysctls(facts: &HostFacts) -> BTreeMap<Sysctl, String> {
    let rp_filter = if facts.rp_filter_all == 0 { "0" } else { "2" };
    BTreeMap::from([
        (Sysctl("net/ipv4/ip_forward".to_owned()), "1".to_owned()),
        (Sysctl(format!("net/ipv4/conf/{VTEP_LINK}/rp_filter")), rp_filter.to_owned()),
    ])
}
