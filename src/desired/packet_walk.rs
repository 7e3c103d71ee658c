//! The whole table `inet weft` on one page, in the order in which a packet meets it.
//!
//! Everything that an established connection's packet walks is: two interface-name compares in `mangle_prerouting` (and from
//! a container its source check), one compare in `mangle_postrouting`, and the first rule of `forward`. NAT chains see
//! only a connection's first packet.

use std::collections::BTreeMap;

use crate::{
    mesh,
    model::{
        Chain, ChainName, Cluster, Family, HostFacts, Judgement, Mac, Node, PEER_PORT, Rule, Ruleset, SetKey, SetName,
        SetValue,
    },
    overlay,
};

/// The table of node `me`.
pub(super) fn ruleset(cluster: &Cluster, me: &Node, facts: &HostFacts, judgement: &Judgement) -> Ruleset {
    let mut ruleset = mesh::tables(cluster, judgement);
    ruleset.sets.entry(SetName::Ports).or_default();
    for family in Family::BOTH {
        ruleset.sets.entry(SetName::Vips(family)).or_default();
    }
    ruleset.sets.extend(address_sets(cluster));
    ruleset.sets.extend(peer_sets(cluster, me, facts));
    ruleset.chains.extend(chains(cluster, facts).map(|(name, rules)| (name, Chain { rules })));
    ruleset
}

fn chains(cluster: &Cluster, facts: &HostFacts) -> impl Iterator<Item = (ChainName, Vec<Rule>)> {
    let port = cluster.settings.vxlan_port;
    let mask = facts.mark_mask.bits();
    let [v4, v6] = Family::BOTH;
    [
        // The tunnel's own packets: known peers only, and no conntrack entry for them. Then, for what came out of the tunnel,
        // the zone, which conntrack must know before it looks.
        (ChainName::RawPrerouting, vec![Rule::EnterFromUnderlay(port), Rule::SeparateIngress]),
        (ChainName::FromUnderlay, vec![Rule::TunnelFromPeer(v4), Rule::TunnelFromPeer(v6), Rule::TunnelFromStranger]),
        (ChainName::RawOutput, vec![Rule::TunnelToPeer(v4, port), Rule::TunnelToPeer(v6, port)]),
        // Which way a packet came decides what it may say and which way its answer takes.
        (ChainName::ManglePrerouting, vec![Rule::EnterFromTunnel, Rule::EnterFromContainer]),
        (ChainName::FromTunnel, vec![Rule::RememberIngress]),
        (ChainName::FromContainer, vec![Rule::DropSpoofed, Rule::ReturnToIngress(mask)]),
        // The front door.
        (
            ChainName::NatPrerouting,
            vec![
                Rule::DispatchVip(v4),
                Rule::DispatchVip(v6),
                Rule::DispatchPublished,
                Rule::DispatchPublishedAtPeer(v4),
                Rule::DispatchPublishedAtPeer(v6),
            ],
        ),
        (
            ChainName::NatOutput,
            vec![
                Rule::DispatchVipLocally(v4),
                Rule::DispatchVipLocally(v6),
                Rule::DispatchPublishedLocally(v4),
                Rule::DispatchPublishedLocally(v6),
                Rule::DispatchPublishedAtPeerLocally(v4),
                Rule::DispatchPublishedAtPeerLocally(v6),
            ],
        ),
        // Isolation.
        (ChainName::Input, vec![Rule::RefusePeerPort(PEER_PORT)]),
        (
            ChainName::Forward,
            vec![
                Rule::AcceptEstablished,
                Rule::AcceptWithin(v4),
                Rule::AcceptWithin(v6),
                Rule::RefuseCrossing(v4),
                Rule::RefuseCrossing(v6),
                Rule::RefuseInternalOut(v4),
                Rule::RefuseInternalOut(v6),
                Rule::RefuseUnpublished(v4),
                Rule::RefuseUnpublished(v6),
            ],
        ),
        // On the way out.
        (ChainName::ManglePostrouting, vec![Rule::ClearMark(mask)]),
        (
            ChainName::NatPostrouting,
            vec![Rule::KeepWithin(v4), Rule::KeepWithin(v6), Rule::Masquerade(v4), Rule::Masquerade(v6)],
        ),
    ]
    .into_iter()
}

/// The networks' prefixes in the three forms that isolation and masquerade look them up in.
fn address_sets(cluster: &Cluster) -> BTreeMap<SetName, BTreeMap<SetKey, SetValue>> {
    let mut sets: BTreeMap<SetName, BTreeMap<SetKey, SetValue>> = Family::BOTH
        .into_iter()
        .flat_map(|family| [SetName::Networks(family), SetName::Within(family), SetName::Internal(family)])
        .map(|name| (name, BTreeMap::new()))
        .collect();
    let mut put = |name: SetName, key| {
        sets.entry(name).or_default().insert(key, SetValue::Nothing);
    };
    for network in cluster.networks.values() {
        for subnet in &network.subnets {
            let prefix = subnet.prefix;
            let family = Family::of(prefix.addr());
            put(SetName::Networks(family), SetKey::Prefix(prefix));
            put(SetName::Within(family), SetKey::PrefixPair(prefix, prefix));
            if network.internal {
                put(SetName::Internal(family), SetKey::Prefix(prefix));
            }
        }
    }
    sets
}

/// The other nodes, by underlay address and by VTEP.
fn peer_sets(cluster: &Cluster, me: &Node, facts: &HostFacts) -> BTreeMap<SetName, BTreeMap<SetKey, SetValue>> {
    let peers_of = |family| {
        overlay::peers(cluster, me.id)
            .map(|peer| peer.underlay)
            .filter(move |underlay| Family::of(*underlay) == family)
            .map(|underlay| (SetKey::Address(underlay), SetValue::Nothing))
            .collect()
    };
    let vteps = overlay::peers(cluster, me.id)
        .map(|peer| (SetKey::Mac(Mac::of_vtep(peer.id)), SetValue::Mark(facts.mark_mask.mark_of(peer.id))))
        .collect();
    // The node's number is its zone: it is never 0, which is everybody's.
    let zones = overlay::peers(cluster, me.id)
        .map(|peer| (SetKey::Mac(Mac::of_vtep(peer.id)), SetValue::Zone(peer.id.get())))
        .collect();
    BTreeMap::from([
        (SetName::Peers(Family::V4), peers_of(Family::V4)),
        (SetName::Peers(Family::V6), peers_of(Family::V6)),
        (SetName::Vteps, vteps),
        (SetName::Zones, zones),
    ])
}
