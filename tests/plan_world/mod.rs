//! A `World` is a handful of choices out of small ranges, so that two worlds often share rows, differ in one value, or
//! want the same place; `World::state` makes a consistent host state of it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;
use proptest::{collection::vec, option::weighted, prelude::*};
use weft::model::{
    Attachment, Bind, Chain, ChainName, EndpointId, Family, HostState, L4, LinkName, Mac, MarkMask, Memory, NetnsRef,
    Network, NextHop, NodeId, Pick, PolicyAction, PolicyRule, Route, RouteTable, Rule, Ruleset, ServiceId, SetKey,
    SetName, SetValue, Slot, Sysctl, Vtep,
};

#[derive(Debug, Clone)]
pub(crate) struct World {
    vtep: Option<VtepChoice>,
    /// Whether each peer is there, and which of two underlay addresses it has.
    peers: Vec<Option<bool>>,
    networks: Vec<Option<NetworkChoice>>,
    endpoints: Vec<Option<EndpointChoice>>,
    services: Vec<Option<ServiceChoice>>,
    has_ruleset: bool,
    has_guard: bool,
    forwarding: bool,
}

#[derive(Debug, Clone)]
struct VtepChoice {
    is_moved: bool,
    mtu: u32,
}

#[derive(Debug, Clone)]
struct NetworkChoice {
    is_narrow: bool,
    is_internal: bool,
}

#[derive(Debug, Clone)]
struct EndpointChoice {
    /// Which of a few namespaces; one that is taken is not to be had.
    place: u64,
    /// Whether another path leads there.
    is_elsewhere: bool,
    mtu: u32,
}

#[derive(Debug, Clone)]
struct ServiceChoice {
    /// Which of the routed addresses are replicas, and with which the round begins.
    replicas: Vec<bool>,
    turn: usize,
    shard: u8,
    protocol: L4,
    pick: Pick,
    /// For how long clients are remembered, if they are.
    memory: Option<u64>,
    bind: Bind,
}

pub(crate) fn world() -> impl Strategy<Value = World> {
    let vtep = (proptest::bool::weighted(0.2), prop_oneof![Just(1450_u32), Just(8950)])
        .prop_map(|(is_moved, mtu)| VtepChoice { is_moved, mtu });
    let network = (proptest::bool::weighted(0.3), any::<bool>())
        .prop_map(|(is_narrow, is_internal)| NetworkChoice { is_narrow, is_internal });
    let endpoint = (0_u64..7, proptest::bool::weighted(0.2), prop_oneof![2 => Just(1450_u32), 1 => Just(1400)])
        .prop_map(|(place, is_elsewhere, mtu)| EndpointChoice { place, is_elsewhere, mtu });
    let protocol = prop_oneof![3 => Just(L4::Tcp), 1 => Just(L4::Udp), 1 => Just(L4::Sctp)];
    let pick = prop_oneof![3 => Just(Pick::Turn), 1 => Just(Pick::Chance), 1 => Just(Pick::Source)];
    let memory = weighted(0.3, prop_oneof![Just(1000_u64), Just(300_000)]);
    let bind = prop_oneof![
        3 => Just(Bind::Any),
        1 => Just(Bind::Address(Ipv4Addr::new(192, 0, 2, 77).into())),
        1 => Just(Bind::Address(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x77).into())),
        1 => Just(Bind::Device("eth7".parse().unwrap())),
    ];
    let service = (vec(any::<bool>(), 8), 0_usize..2, 0_u8..2, protocol, pick, memory, bind).prop_map(
        |(replicas, turn, shard, protocol, pick, memory, bind)| ServiceChoice {
            replicas,
            turn,
            shard,
            protocol,
            pick,
            memory,
            bind,
        },
    );
    (
        weighted(0.9, vtep),
        vec(weighted(0.7, proptest::bool::weighted(0.2)), 4),
        vec(weighted(0.8, network), 3),
        vec(weighted(0.7, endpoint), 5),
        vec(weighted(0.7, service), 4),
        proptest::bool::weighted(0.9),
        proptest::bool::weighted(0.9),
        any::<bool>(),
    )
        .prop_map(|(vtep, peers, networks, endpoints, services, has_ruleset, has_guard, forwarding)| World {
            vtep,
            peers,
            networks,
            endpoints,
            services,
            has_ruleset,
            has_guard,
            forwarding,
        })
}

/// An address of a network in either family: a node's block and a number in it.
pub(crate) fn address(family: Family, network: u8, node: u8, host: u8) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 10 + network, node, host).into(),
        Family::V6 => {
            Ipv6Addr::new(0xfd00, 10 + u16::from(network), 0, u16::from(node), 0, 0, 0, u16::from(host)).into()
        }
    }
}

fn prefix(address: IpAddr, len_v4: u8, len_v6: u8) -> IpNet {
    let len = if address.is_ipv4() { len_v4 } else { len_v6 };
    IpNet::new(address, len).unwrap().trunc()
}

fn small(index: usize) -> u8 {
    u8::try_from(index).unwrap()
}

impl World {
    pub(crate) fn state(&self) -> HostState {
        let mut state = HostState::default();
        let set =
            |state: &mut HostState, path: String, value: &str| state.sysctls.insert(Sysctl(path), value.to_owned());
        set(&mut state, "net/ipv4/ip_forward".into(), if self.forwarding { "1" } else { "0" });
        set(&mut state, "net/ipv4/conf/all/src_valid_mark".into(), "1");
        let mut routed: Vec<(u8, Family, IpAddr)> = Vec::new();
        let networks =
            || self.networks.iter().enumerate().filter_map(|(index, choice)| Some((small(index), choice.as_ref()?)));

        let mut peers = Vec::new();
        if let Some(choice) = &self.vtep {
            state.vtep = Some(Vtep {
                mac: Mac::of_vtep(NodeId::new(1).unwrap()),
                vni: 77,
                port: 7789,
                local: Ipv4Addr::new(192, 0, 2, if choice.is_moved { 101 } else { 1 }).into(),
                mtu: choice.mtu,
                address: Ipv4Addr::new(169, 254, 64, 1).into(),
                address6: (choice.mtu > 1400).then_some("fd77:6566::1:1".parse().unwrap()),
            });
            set(&mut state, "net/ipv4/conf/weft.vx/rp_filter".into(), "2");
            set(&mut state, "net/ipv6/conf/weft.vx/disable_ipv6".into(), "0");
            for (index, is_moved) in self.peers.iter().enumerate() {
                let Some(is_moved) = is_moved else { continue };
                let node = NodeId::new(u16::from(small(index)) + 2).unwrap();
                let underlay = Ipv4Addr::new(192, 0, 2, small(index) + if *is_moved { 102 } else { 2 });
                peers.push((node, IpAddr::from(underlay)));
                state.fdb.insert(Mac::of_vtep(node), underlay.into());
                for family in Family::BOTH {
                    for (network, _) in networks() {
                        let block = small(index) + 2;
                        let gateway = address(family, network, block, 1);
                        state.neighbours.insert(gateway, Mac::of_vtep(node));
                        let next_hop = NextHop::Tunnel(gateway);
                        state
                            .routes
                            .insert((RouteTable::MAIN, prefix(gateway, 24, 64)), Route { next_hop: next_hop.clone() });
                        let everything = prefix(gateway, 0, 0);
                        state.routes.insert((RouteTable::of_ingress(node), everything), Route { next_hop });
                        let mark = (MarkMask::DEFAULT.mark_of(node), MarkMask::DEFAULT.bits());
                        let action = PolicyAction::Lookup(RouteTable::of_ingress(node));
                        state.policy.insert(PolicyRule { priority: 100, ipv6: family == Family::V6, mark, action });
                        routed.push((network, family, address(family, network, block, 7)));
                    }
                }
            }
            for ipv6 in [false, true] {
                let unmarked = (0, MarkMask::DEFAULT.bits());
                state.policy.insert(PolicyRule { priority: 99, ipv6, mark: unmarked, action: PolicyAction::Goto(101) });
                state.policy.insert(PolicyRule { priority: 101, ipv6, mark: (0, 0), action: PolicyAction::Nop });
            }
        }

        for (network, _) in networks() {
            for family in Family::BOTH {
                let own = prefix(address(family, network, 1, 0), 24, 64);
                state.routes.insert((RouteTable::MAIN, own), Route { next_hop: NextHop::Unreachable });
            }
        }
        let mut places = BTreeSet::new();
        for (index, choice) in self.endpoints.iter().enumerate() {
            let Some(choice) = choice else { continue };
            let network = small(index) % 3;
            if self.networks[usize::from(network)].is_none() || !places.insert(choice.place) {
                continue;
            }
            let name = LinkName::of_endpoint(EndpointId(u64::from(small(index))));
            let addresses: Vec<IpAddr> =
                Family::BOTH.map(|family| address(family, network, 1, 10 + small(index))).into();
            for address in &addresses {
                let next_hop = NextHop::Link(name.clone());
                state.routes.insert((RouteTable::MAIN, prefix(*address, 32, 128)), Route { next_hop });
                routed.push((network, Family::of(*address), *address));
            }
            set(&mut state, format!("net/ipv4/conf/{name}/rp_filter"), "1");
            let folder = if choice.is_elsewhere { "/var/run/netns" } else { "/run/netns" };
            let netns = NetnsRef { path: format!("{folder}/c{}", choice.place), inode: 4_026_532_000 + choice.place };
            state.links.insert(name, Attachment { netns, ifname: "eth0".into(), addresses, mtu: choice.mtu });
        }

        state.ruleset = self.has_ruleset.then(|| self.ruleset(&peers, &routed));
        state
    }

    fn ruleset(&self, peers: &[(NodeId, IpAddr)], routed: &[(u8, Family, IpAddr)]) -> Ruleset {
        let mut ruleset = Ruleset::default();
        if self.has_guard {
            self.guard(&mut ruleset, peers, routed);
        }
        let mut mesh = vec![Rule::DispatchVip(Family::V4), Rule::DispatchVip(Family::V6), Rule::DispatchPublished];
        let Ruleset { sets, chains } = &mut ruleset;
        for name in [SetName::Ports, SetName::Vips(Family::V4), SetName::Vips(Family::V6)] {
            sets.insert(name, BTreeMap::new());
        }
        for (index, choice) in self.services.iter().enumerate() {
            let Some(ServiceChoice { replicas, turn, shard, protocol, pick, memory, bind }) = choice else { continue };
            let (shard, protocol, pick, bind) = (*shard, *protocol, *pick, *bind);
            let service = ServiceId::new(u16::from(small(index)) + 1).unwrap();
            let memory = memory.map(|timeout_ms| Memory { service, timeout_ms });
            let network = small(index) % 3;
            let port = 8000 + u16::from(small(index));
            let (vip_chain, port_chain) = (ChainName::Vip(service), ChainName::Port(protocol, port, bind));
            let (mut vip_rules, mut port_rules) = (Vec::new(), Vec::new());
            for family in Family::BOTH {
                let mut chosen: Vec<IpAddr> = routed
                    .iter()
                    .filter(|(on, of, _)| (*on, *of) == (network, family))
                    .zip(replicas.iter().cycle())
                    .filter_map(|((_, _, address), is_replica)| is_replica.then_some(*address))
                    .collect();
                if chosen.is_empty() {
                    continue;
                }
                let turn = turn % chosen.len();
                chosen.rotate_left(turn);
                let slots = u16::try_from(chosen.len()).unwrap();
                let first = Slot(u32::from(small(index)) << 16);
                if let Some(memory) = memory {
                    vip_rules.push(Rule::RecallVip { family, memory });
                    vip_rules.push(Rule::RememberVip { family, shard, first, slots, pick, memory });
                    port_rules.push(Rule::RecallPort { family, protocol, target: 80, memory });
                    port_rules.push(Rule::RememberPort { family, protocol, shard, first, slots, pick, memory });
                    sets.entry(SetName::Sticky(family)).or_default();
                    let takers = sets.entry(SetName::Takers(family)).or_default();
                    takers.extend(chosen.iter().map(|taker| (SetKey::Address(*taker), SetValue::Service(service))));
                }
                vip_rules.push(Rule::BalanceVip { family, shard, first, slots, pick });
                port_rules.push(Rule::BalancePort { family, protocol, shard, first, slots, pick });
                for (slot, address) in (first.0..).zip(chosen) {
                    let key = SetKey::Slot(Slot(slot));
                    let replicas = sets.entry(SetName::Replicas(family, shard)).or_default();
                    replicas.insert(key, SetValue::Address(address));
                    let targets = sets.entry(SetName::Targets(family, shard)).or_default();
                    targets.insert(key, SetValue::Target(SocketAddr::new(address, 80)));
                }
                let vips = sets.entry(SetName::Vips(family)).or_default();
                vips.insert(
                    SetKey::Address(address(family, network, 240, 1 + small(index))),
                    SetValue::Goto(vip_chain),
                );
            }
            for rules in [&mut vip_rules, &mut port_rules] {
                rules.extend([Rule::RefuseTcp, Rule::RefuseOther]);
            }
            chains.insert(vip_chain, Chain { rules: vip_rules });
            chains.insert(port_chain, Chain { rules: port_rules });
            let (map, key) = match bind {
                Bind::Any => (SetName::Ports, SetKey::Port(protocol, port)),
                Bind::Address(address) => {
                    (SetName::Bound(Family::of(address)), SetKey::AddressPort(address, protocol, port))
                }
                Bind::Device(device) => (SetName::DevicePorts, SetKey::DevicePort(device, protocol, port)),
            };
            sets.entry(map).or_default().insert(key, SetValue::Goto(port_chain));
        }
        for family in Family::BOTH {
            if sets.contains_key(&SetName::Bound(family)) {
                mesh.extend([Rule::DispatchBound(family), Rule::DispatchBoundInside(family)]);
            }
        }
        if sets.contains_key(&SetName::DevicePorts) {
            mesh.push(Rule::DispatchDevice);
        }
        chains.insert(ChainName::NatPrerouting, Chain { rules: mesh.clone() });
        chains.insert(ChainName::NatOutput, Chain { rules: mesh });
        ruleset
    }

    fn guard(&self, ruleset: &mut Ruleset, peers: &[(NodeId, IpAddr)], routed: &[(u8, Family, IpAddr)]) {
        let Ruleset { sets, chains } = ruleset;
        let mut forward = vec![Rule::AcceptEstablished];
        sets.insert(
            SetName::Peers(Family::V4),
            peers.iter().map(|(_, to)| (SetKey::Address(*to), SetValue::Nothing)).collect(),
        );
        let mark = |node: NodeId| SetValue::Mark(MarkMask::DEFAULT.mark_of(node));
        sets.insert(
            SetName::Vteps,
            peers.iter().map(|(node, _)| (SetKey::Mac(Mac::of_vtep(*node)), mark(*node))).collect(),
        );
        let zone = |node: NodeId| SetValue::Zone(node.get());
        sets.insert(
            SetName::Zones,
            peers.iter().map(|(node, _)| (SetKey::Mac(Mac::of_vtep(*node)), zone(*node))).collect(),
        );
        for family in Family::BOTH {
            let (mut all, mut within, mut internal) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
            for (index, choice) in self.networks.iter().enumerate() {
                let Some(NetworkChoice { is_narrow, is_internal }) = choice else { continue };
                let narrower = u8::from(*is_narrow);
                let prefix = prefix(address(family, small(index), 0, 0), 16 + narrower, 48 + narrower);
                all.insert(SetKey::Prefix(prefix), SetValue::Nothing);
                within.insert(SetKey::PrefixPair(prefix, prefix), SetValue::Nothing);
                if *is_internal {
                    internal.insert(SetKey::Prefix(prefix), SetValue::Nothing);
                }
            }
            forward.push(Rule::AcceptWithin(family));
            forward.push(Rule::RefuseCrossing(family));
            // A set and a rule that come and go.
            if !internal.is_empty() {
                forward.push(Rule::RefuseInternalOut(family));
                sets.insert(SetName::Internal(family), internal);
            }
            sets.insert(SetName::Networks(family), all);
            sets.insert(SetName::Within(family), within);
        }
        chains.insert(ChainName::Forward, Chain { rules: forward });
        let underlay = vec![Rule::TunnelFromPeer(Family::V4), Rule::TunnelFromStranger];
        chains.insert(ChainName::FromUnderlay, Chain { rules: underlay });
        let raw = vec![Rule::EnterFromUnderlay(7789), Rule::SeparateIngress];
        chains.insert(ChainName::RawPrerouting, Chain { rules: raw });
        let mangle = vec![Rule::EnterFromTunnel, Rule::EnterFromContainer];
        chains.insert(ChainName::ManglePrerouting, Chain { rules: mangle });
        chains.insert(ChainName::FromTunnel, Chain { rules: vec![Rule::RememberIngress, Rule::EnterClampMss] });
        chains.insert(ChainName::ManglePostrouting, Chain { rules: vec![Rule::EnterToTunnel] });
        let to_tunnel = vec![Rule::ClearMark(MarkMask::DEFAULT.bits()), Rule::EnterClampMss];
        chains.insert(ChainName::ToTunnel, Chain { rules: to_tunnel });
        let mss = self.vtep.as_ref().map_or(1410, |vtep| u16::try_from(vtep.mtu).unwrap() - 40);
        chains.insert(ChainName::ClampMss, Chain { rules: vec![Rule::ClampMss(Family::V4, mss)] });
        let gateways = [IpAddr::from(Network::GATEWAY_V4), IpAddr::from(Network::GATEWAY_V6)];
        chains.insert(
            ChainName::NatPostrouting,
            Chain { rules: [gateways.map(Rule::TranslateHairpin), gateways.map(Rule::TranslatePeer)].concat() },
        );
        for family in Family::BOTH {
            let local = routed.iter().filter(|(_, of, _)| *of == family).map(|(_, _, address)| *address);
            let pairs = local.map(|address| (SetKey::AddressPair(address, address), SetValue::Nothing));
            sets.insert(SetName::Hairpin(family), pairs.collect());
            sets.entry(SetName::Peers(family)).or_default();
            let nodes = peers.iter().map(|(_, address)| *address).filter(|address| Family::of(*address) == family);
            let nodes = nodes.map(|address| (SetKey::Address(address), SetValue::Nothing)).collect();
            sets.insert(SetName::Nodes(family), nodes);
        }
        let from_container = vec![Rule::DropSpoofed, Rule::ReturnToIngress(MarkMask::DEFAULT.bits())];
        chains.insert(ChainName::FromContainer, Chain { rules: from_container });
    }
}
