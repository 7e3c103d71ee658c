//! What the cases share: the state that they differ from, and words for its rows.
//!
//! The base has one row of each kind: node 1 with a tunnel to node 2, one container and one service with two replicas.

use std::net::IpAddr;

use ipnet::IpNet;
use weft::model::{
    Attachment, Chain, ChainName, EndpointId, Family, HostState, LinkName, Mac, NetnsRef, NextHop, NodeId, Pick,
    PolicyAction, PolicyRule, Route, RouteTable, Rule, Ruleset, ServiceId, SetKey, SetName, SetValue, Slot, Sysctl,
    Vtep,
};

pub(super) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(super) fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

pub(super) fn peer(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

pub(super) fn link(id: u64) -> LinkName {
    LinkName::of_endpoint(EndpointId(id))
}

pub(super) fn attachment(inode: u64, address: &str) -> Attachment {
    let netns = NetnsRef { path: format!("/run/netns/c{inode}"), inode };
    Attachment { netns, ifname: "eth0".into(), addresses: vec![ip(address)], mtu: 1450 }
}

pub(super) fn main_route(prefix: &str) -> (RouteTable, IpNet) {
    (RouteTable::MAIN, net(prefix))
}

pub(super) fn to(next_hop: NextHop) -> Route {
    Route { next_hop }
}

pub(super) fn lookup(id: u16) -> PolicyRule {
    let action = PolicyAction::Lookup(RouteTable::of_ingress(peer(id)));
    PolicyRule { priority: 100, ipv6: false, mark: (u32::from(id) << 16, 0x0fff_0000), action }
}

pub(super) fn set(state: &mut HostState, path: &str, value: &str) {
    state.sysctls.insert(Sysctl(path.into()), value.into());
}

pub(super) fn table(state: &mut HostState) -> &mut Ruleset {
    state.ruleset.as_mut().unwrap()
}

pub(super) fn elements(state: &mut HostState, set: SetName) -> &mut std::collections::BTreeMap<SetKey, SetValue> {
    table(state).sets.get_mut(&set).unwrap()
}

pub(super) const REPLICAS: SetName = SetName::Replicas(Family::V4, 17);
pub(super) const NETWORKS: SetName = SetName::Networks(Family::V4);

pub(super) fn service(id: u16) -> ChainName {
    ChainName::Vip(ServiceId::new(id).unwrap())
}

pub(super) fn balance(slots: u16) -> Rule {
    Rule::BalanceVip { family: Family::V4, shard: 17, first: Slot(0x10000), slots, pick: Pick::Turn }
}

pub(super) fn base() -> HostState {
    let mut state = HostState::default();
    set(&mut state, "net/ipv4/ip_forward", "1");
    set(&mut state, "net/ipv4/conf/weft.vx/rp_filter", "2");
    state.vtep = Some(Vtep {
        mac: Mac::of_vtep(peer(1)),
        vni: 77,
        port: 7789,
        local: ip("192.0.2.1"),
        mtu: 1450,
        address: ip("169.254.64.1"),
        address6: None,
    });
    state.fdb.insert(Mac::of_vtep(peer(2)), ip("192.0.2.2"));
    state.neighbours.insert(ip("10.9.2.1"), Mac::of_vtep(peer(2)));
    state.routes.insert(main_route("10.9.2.0/24"), to(NextHop::Tunnel(ip("10.9.2.1"))));
    state.routes.insert((RouteTable::of_ingress(peer(2)), net("0.0.0.0/0")), to(NextHop::Tunnel(ip("10.9.2.1"))));
    state.routes.insert(main_route("10.9.240.0/20"), to(NextHop::TunnelLink));
    state.routes.insert(main_route("10.9.1.0/24"), to(NextHop::Unreachable));
    state.routes.insert(main_route("10.9.1.5/32"), to(NextHop::Link(link(0xa))));
    state.policy.insert(lookup(2));
    state.links.insert(link(0xa), attachment(1, "10.9.1.5"));
    let mut ruleset = Ruleset::default();
    ruleset.sets.insert(NETWORKS, [(SetKey::Prefix(net("10.9.0.0/16")), SetValue::Nothing)].into());
    ruleset
        .sets
        .insert(SetName::Vips(Family::V4), [(SetKey::Address(ip("10.9.240.1")), SetValue::Goto(service(1)))].into());
    let slot = |slot: u32, address| (SetKey::Slot(Slot(0x10000 + slot)), SetValue::Address(ip(address)));
    ruleset.sets.insert(REPLICAS, [slot(0, "10.9.1.5"), slot(1, "10.9.2.7")].into());
    let chain = |rules: &[Rule]| Chain { rules: rules.to_vec() };
    ruleset.chains.insert(ChainName::Forward, chain(&[Rule::AcceptEstablished, Rule::RefuseCrossing(Family::V4)]));
    ruleset.chains.insert(ChainName::NatPrerouting, chain(&[Rule::DispatchVip(Family::V4)]));
    ruleset.chains.insert(service(1), chain(&[balance(2)]));
    state.ruleset = Some(ruleset);
    state
}
