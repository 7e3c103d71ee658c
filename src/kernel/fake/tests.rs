//! The refusals that the tests of others rely on.

use std::collections::{BTreeMap, BTreeSet};

use super::{FakeKernel, Faults};
use crate::{
    model::{
        Attachment, Chain, ChainName, EndpointId, Family, HostState, LinkName, Mac, NetnsRef, NextHop, NodeId, Pick,
        Route, RouteTable, Rule, Ruleset, ServiceId, SetKey, SetName, SetValue, Slot, Sysctl, Vtep,
    },
    plan::{NftChange, Step},
};

const VIPS: SetName = SetName::Vips(Family::V4);
const REPLICAS: SetName = SetName::Replicas(Family::V4, 0);
const NETWORKS: SetName = SetName::Networks(Family::V4);

fn chain() -> ChainName {
    ChainName::Vip(ServiceId::new(1).unwrap())
}

fn balance() -> Chain {
    Chain { rules: vec![Rule::BalanceVip { family: Family::V4, shard: 0, first: Slot(0), slots: 1, pick: Pick::Turn }] }
}

fn vip() -> (SetKey, SetValue) {
    (SetKey::Address("10.9.240.1".parse().unwrap()), SetValue::Goto(chain()))
}

fn network(prefix: &str) -> (SetKey, SetValue) {
    (SetKey::Prefix(prefix.parse().unwrap()), SetValue::Nothing)
}

fn link(id: u64) -> LinkName {
    LinkName::of_endpoint(EndpointId(id))
}

fn attachment(inode: u64) -> Attachment {
    let netns = NetnsRef { path: "/run/netns/c".into(), inode };
    Attachment { netns, ifname: "eth0".into(), addresses: vec!["10.9.1.5".parse().unwrap()], mtu: 1450 }
}

fn narrow_ipv6() -> Attachment {
    Attachment { ifname: "eth1".into(), addresses: vec!["fd00::5".parse().unwrap()], mtu: 1279, ..attachment(1) }
}

fn kernel() -> FakeKernel {
    let mut state = HostState::default();
    let mac = Mac::of_vtep(NodeId::new(1).unwrap());
    state.vtep = Some(Vtep {
        mac,
        vni: 1,
        port: 7789,
        local: "192.0.2.1".parse().unwrap(),
        mtu: 1450,
        address: "169.254.64.1".parse().unwrap(),
        address6: None,
    });
    state.fdb.insert(mac, "192.0.2.2".parse().unwrap());
    state.neighbours.insert("10.9.2.1".parse().unwrap(), mac);
    state.links.insert(link(1), attachment(1));
    let mut route =
        |prefix: &str, next_hop| state.routes.insert((RouteTable::MAIN, prefix.parse().unwrap()), Route { next_hop });
    route("10.9.2.0/24", NextHop::Tunnel("10.9.2.1".parse().unwrap()));
    route("10.9.1.5/32", NextHop::Link(link(1)));
    route("10.9.1.0/24", NextHop::Unreachable);
    state.sysctls.insert(Sysctl("net/ipv4/conf/weft.vx/rp_filter".into()), "2".into());
    state.ruleset = Some(Ruleset {
        sets: BTreeMap::from([
            (VIPS, [vip()].into()),
            (REPLICAS, [(SetKey::Slot(Slot(0)), SetValue::Address("10.9.1.5".parse().unwrap()))].into()),
            (NETWORKS, [network("10.9.0.0/16")].into()),
        ]),
        chains: BTreeMap::from([(chain(), balance())]),
    });
    FakeKernel::new(state)
}

#[test]
fn what_a_kernel_refuses_changes_nothing() {
    let other = ChainName::Vip(ServiceId::new(2).unwrap());
    let prefix = "10.9.3.0/24".parse().unwrap();
    let route = |next_hop| Step::PutRoute(RouteTable::MAIN, prefix, Route { next_hop });
    let change = |changes: &[NftChange]| Step::ChangeRuleset(changes.to_vec());
    for (step, reason) in [
        (route(NextHop::Link(link(2))), "there is no device weft.0000000002"),
        (route(NextHop::Tunnel("10.9.3.1".parse().unwrap())), "nobody resolves the gateway 10.9.3.1"),
        (Step::CreateLink(link(1), attachment(2)), "there is a device weft.0000000001 already"),
        (Step::CreateLink(link(2), attachment(1)), "/run/netns/c has a device eth0 already"),
        (Step::CreateLink(link(2), attachment(9)), "the namespace /run/netns/c is gone"),
        (Step::UpdateLink(link(1), attachment(2)), "the device weft.0000000001 is another pair"),
        (Step::UpdateLink(link(2), attachment(1)), "there is no device weft.0000000002"),
        (Step::UpdateLink(link(2), attachment(9)), "the namespace /run/netns/c is gone"),
        (Step::CreateLink(link(2), narrow_ipv6()), "IPv6 needs an MTU of 1280 bytes, not 1279"),
        (Step::PutSysctl(Sysctl("net/ipv4/conf/weft.0000000002/forwarding".into()), "1".into()), "does not exist"),
        (
            change(&[NftChange::AddChain(other), NftChange::SetRules(ChainName::Forward, Chain::default())]),
            "no chain forward",
        ),
        (change(&[NftChange::SetRules(chain(), Chain { rules: vec![Rule::RememberIngress] })]), "looks up in vteps"),
        (change(&[NftChange::SetRules(chain(), Chain { rules: vec![Rule::EnterFromTunnel] })]), "goes to from_tunnel"),
        (
            change(&[NftChange::AddElements(VIPS, vec![(vip().0, SetValue::Goto(other))])]),
            "goes to vip_2, which does not exist",
        ),
        (
            change(&[NftChange::AddChain(other), NftChange::AddElements(VIPS, vec![(vip().0, SetValue::Goto(other))])]),
            "with the other value",
        ),
        (change(&[NftChange::AddElements(VIPS, vec![network("10.9.0.0/16")])]), "is not made of elements such as"),
        (change(&[NftChange::AddElements(NETWORKS, vec![network("10.9.4.0/24")])]), "overlaps with another interval"),
        (change(&[NftChange::DeleteElements(NETWORKS, vec![network("10.10.0.0/16")])]), "networks4 has no element"),
        (change(&[NftChange::DeleteChain(chain())]), "the chain vip_1 is in use"),
        (
            change(&[NftChange::DeleteElements(VIPS, vec![vip()]), NftChange::DeleteChain(chain())]),
            "the chain vip_1 is in use",
        ),
        (change(&[NftChange::DeleteSet(REPLICAS)]), "the set replica4_0 is in use"),
        (
            change(&[NftChange::SetRules(chain(), Chain::default()), NftChange::DeleteSet(REPLICAS)]),
            "the set replica4_0 is in use",
        ),
        (change(&[NftChange::DeleteSet(SetName::Ports)]), "there is no set ports"),
    ] {
        let kernel = kernel();
        kernel.set_live_namespaces(BTreeSet::from([1, 2]));
        let before = kernel.state();
        let error = kernel.apply_now(&step).unwrap_err();
        assert!(error.reason.contains(reason), "{step}: {error}");
        assert_eq!(kernel.state(), before, "{step}");
    }
}

#[test]
fn what_hangs_on_a_device_goes_with_it() {
    let kernel = kernel();
    kernel.apply_now(&Step::DeleteVtep).unwrap();
    let state = kernel.state();
    assert_eq!((state.fdb.len(), state.neighbours.len(), state.sysctls.len(), state.routes.len()), (0, 0, 0, 2));
    kernel.apply_now(&Step::PutFdb(Mac::GATEWAY, "192.0.2.2".parse().unwrap())).unwrap_err();
    kernel.set_live_namespaces(BTreeSet::new());
    assert_eq!((kernel.state().links.len(), kernel.state().routes.len()), (0, 1));
}

#[test]
fn it_fails_when_it_is_told_to_and_remembers() {
    let kernel = kernel();
    let step = Step::SetVtepMtu(1400);
    kernel.set_faults(Faults::After(1));
    assert_eq!([(); 3].map(|()| kernel.apply_now(&step).is_ok()), [true, false, true]);
    assert_eq!(
        kernel.take_attempts().iter().map(|attempt| attempt.refusal.is_none()).collect::<Vec<_>>(),
        [true, false, true]
    );
    assert_eq!(kernel.take_attempts(), []);
    kernel.fail_observations(1);
    assert_eq!([(); 2].map(|()| kernel.observe_now().is_ok()), [false, true]);
}
