//! The whole table `inet weft` on one page, in the order in which a packet meets it.
//!
//! Everything that an established connection's packet walks is: two interface-name compares in `mangle_prerouting` (and from
//! a container its source check), one compare in `mangle_postrouting`, and the first rule of `forward`. NAT chains see
//! only a connection's first packet.
//!
//! What the limit on segment sizes adds, in expressions as `nft --debug=netlink` counts them: nothing to packets that have
//! nothing to do with the tunnel; 3 to one that came out of it (the flag SYN: load, mask, compare; 9 in that chain instead of 6)
//! and 4 to one that goes into it (the same and a `goto`: 9 instead of 5). In `forward`, where it is usually put, it would have to
//! stand ahead of the rule for established connections, since an answer to a SYN is established, and cost every forwarded packet at
//! least those 3. `tcp option maxseg size set rt mtu` would spare the agent the number, but there is no route yet where packets
//! come out of the tunnel, and all of the tunnel's routes have its device's MTU.

use std::{collections::BTreeMap, net::IpAddr};

use crate::{
    mesh,
    model::{
        Chain, ChainName, Cluster, Family, HostFacts, Judgement, Mac, Network, Node, PEER_PORT, Rule, Ruleset, SetKey,
        SetName, SetValue,
    },
    overlay,
};

/// The table of node `me`.
pub(super) fn ruleset(
    cluster: &Cluster,
    me: &Node,
    facts: &HostFacts,
    judgement: &Judgement,
    tunnel_mtu: u32,
) -> Ruleset {
    let mut ruleset = mesh::tables(cluster, judgement);
    let chains = chains(cluster, me, facts, tunnel_mtu, &ruleset);
    ruleset.sets.entry(SetName::Ports).or_default();
    for family in Family::BOTH {
        ruleset.sets.entry(SetName::Vips(family)).or_default();
    }
    ruleset.sets.extend(address_sets(cluster));
    ruleset.sets.extend(peer_sets(cluster, me, facts));
    ruleset.sets.extend(hairpin_sets(cluster, me));
    ruleset.chains.extend(chains.into_iter().map(|(name, rules)| (name, Chain { rules })));
    ruleset
}

/// The static part. What a cluster does not use (ports at one address or device) costs its connections nothing.
fn chains(
    cluster: &Cluster,
    me: &Node,
    facts: &HostFacts,
    tunnel_mtu: u32,
    mesh: &Ruleset,
) -> impl IntoIterator<Item = (ChainName, Vec<Rule>)> + use<> {
    let bound = |rule: fn(Family) -> Rule| {
        Family::BOTH.into_iter().filter(|family| mesh.sets.contains_key(&SetName::Bound(*family))).map(rule)
    };
    let by_device = mesh.sets.contains_key(&SetName::DevicePorts).then_some(Rule::DispatchDevice);
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
        (ChainName::FromTunnel, vec![Rule::RememberIngress, Rule::EnterClampMss]),
        (ChainName::FromContainer, vec![Rule::DropSpoofed, Rule::ReturnToIngress(mask)]),
        // The front door.
        (
            ChainName::NatPrerouting,
            [Network::RESOLVER_V4.into(), Network::RESOLVER_V6.into()]
                .map(Rule::SpareResolver)
                .into_iter()
                .chain([Rule::DispatchVip(v4), Rule::DispatchVip(v6)])
                .chain([Rule::EnterUnusedVip(v4), Rule::EnterUnusedVip(v6)])
                .chain(bound(Rule::DispatchBound))
                .chain(bound(Rule::DispatchBoundInside))
                .chain(by_device)
                .chain([Rule::DispatchPublished, Rule::DispatchPublishedAtPeer(v4), Rule::DispatchPublishedAtPeer(v6)])
                .collect(),
        ),
        (
            ChainName::NatOutput,
            [Rule::DispatchVipLocally(v4), Rule::DispatchVipLocally(v6)]
                .into_iter()
                .chain([Rule::EnterUnusedVipLocally(v4), Rule::EnterUnusedVipLocally(v6)])
                .chain(bound(Rule::DispatchBoundLocally))
                .chain([
                    Rule::DispatchPublishedLocally(v4),
                    Rule::DispatchPublishedLocally(v6),
                    Rule::DispatchPublishedAtPeerLocally(v4),
                    Rule::DispatchPublishedAtPeerLocally(v6),
                ])
                .collect(),
        ),
        (ChainName::UnusedVip, vec![Rule::RefuseTcp, Rule::RefuseOther]),
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
        (ChainName::ManglePostrouting, vec![Rule::EnterToTunnel]),
        (ChainName::ToTunnel, vec![Rule::ClearMark(mask), Rule::EnterClampMss]),
        (ChainName::ClampMss, Family::BOTH.map(|family| Rule::ClampMss(family, mss(family, tunnel_mtu))).into()),
        (
            ChainName::NatPostrouting,
            vec![
                Rule::TranslateHairpin(Network::GATEWAY_V4.into()),
                Rule::TranslateHairpin(overlay::own_address(me.id).into()),
                Rule::TranslatePeer(overlay::gateway(v4, me.id)),
                Rule::TranslatePeer(overlay::own_address(me.id).into()),
                Rule::KeepWithin(v4),
                Rule::KeepWithin(v6),
                Rule::Masquerade(v4),
                Rule::Masquerade(v6),
            ],
        ),
    ]
}

/// The largest segment that fits into the tunnel: without the headers of IP and TCP, options not counted (RFC 9293, 3.7.1).
/// A tunnel so narrow that it carries no IPv6 (less than 1,280 bytes) is not looked after.
fn mss(family: Family, tunnel_mtu: u32) -> u16 {
    let headers = match family {
        Family::V4 => 40,
        Family::V6 => 60,
    };
    u16::try_from(tunnel_mtu.saturating_sub(headers)).unwrap_or(u16::MAX)
}

/// Those that a connection may lead back to: this node's replicas. Their packets to themselves get the link's gateway for a
/// source, which each container answers on its own link.
fn hairpin_sets(cluster: &Cluster, me: &Node) -> BTreeMap<SetName, BTreeMap<SetKey, SetValue>> {
    let mut sets: BTreeMap<_, BTreeMap<_, _>> =
        Family::BOTH.into_iter().map(|family| (SetName::Hairpin(family), BTreeMap::new())).collect();
    let replicas = cluster.endpoints.values().filter(|endpoint| endpoint.node == me.id && endpoint.service.is_some());
    for address in replicas.flat_map(|replica| &replica.addresses) {
        let set = sets.entry(SetName::Hairpin(Family::of(*address))).or_default();
        set.insert(SetKey::AddressPair(*address, *address), SetValue::Nothing);
    }
    sets
}

/// The networks' prefixes in the forms that isolation, masquerade and the refusal of unused VIPs look them up in.
fn address_sets(cluster: &Cluster) -> BTreeMap<SetName, BTreeMap<SetKey, SetValue>> {
    let mut sets: BTreeMap<SetName, BTreeMap<SetKey, SetValue>> = Family::BOTH
        .into_iter()
        .flat_map(|family| {
            [SetName::Networks(family), SetName::VipRanges(family), SetName::Within(family), SetName::Internal(family)]
        })
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
            put(SetName::VipRanges(family), SetKey::Prefix(subnet.vip_range()));
            put(SetName::Within(family), SetKey::PrefixPair(prefix, prefix));
            if network.internal {
                put(SetName::Internal(family), SetKey::Prefix(prefix));
            }
        }
    }
    sets
}

/// The other nodes, by underlay address, by whichever address and by VTEP.
fn peer_sets(cluster: &Cluster, me: &Node, facts: &HostFacts) -> BTreeMap<SetName, BTreeMap<SetKey, SetValue>> {
    let peers_of = |family| {
        overlay::peers(cluster, me.id)
            .map(|peer| peer.underlay)
            .filter(move |underlay| Family::of(*underlay) == family)
            .map(|underlay| (SetKey::Address(underlay), SetValue::Nothing))
            .collect()
    };
    // What this host has is its own, whoever else says so.
    let nodes: Vec<IpAddr> = mesh::addresses_of_nodes(cluster)
        .into_iter()
        .filter(|(address, node)| *node != me.id && !facts.addresses.contains(address))
        .map(|(address, _)| address)
        .collect();
    let nodes_of = |family| {
        let of_family = nodes.iter().filter(|address| Family::of(**address) == family);
        of_family.map(|address| (SetKey::Address(*address), SetValue::Nothing)).collect()
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
        (SetName::Nodes(Family::V4), nodes_of(Family::V4)),
        (SetName::Nodes(Family::V6), nodes_of(Family::V6)),
        (SetName::Vteps, vteps),
        (SetName::Zones, zones),
    ])
}
