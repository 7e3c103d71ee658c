//! What is planned, row by row: each case edits what is wanted, what is there, or both, and lists the steps.
//!
//! The base has one row of each kind: node 1 with a tunnel to node 2, one container and one service with two replicas.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

use std::net::IpAddr;

use ipnet::IpNet;
use weft::{
    kernel::FakeKernel,
    model::{
        Attachment, Bind, Chain, ChainName, EndpointId, Family, HostState, L4, LinkName, Mac, NetnsRef, NextHop,
        NodeId, Pick, PolicyAction, PolicyRule, Route, RouteTable, Rule, Ruleset, ServiceId, SetKey, SetName, SetValue,
        Slot, Sysctl, Vtep,
    },
    plan::{NftChange, Step, plan},
};

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn net(text: &str) -> IpNet {
    text.parse().unwrap()
}

fn peer(id: u16) -> NodeId {
    NodeId::new(id).unwrap()
}

fn link(id: u64) -> LinkName {
    LinkName::of_endpoint(EndpointId(id))
}

fn attachment(inode: u64, address: &str) -> Attachment {
    let netns = NetnsRef { path: format!("/run/netns/c{inode}"), inode };
    Attachment { netns, ifname: "eth0".into(), addresses: vec![ip(address)], mtu: 1450 }
}

fn main_route(prefix: &str) -> (RouteTable, IpNet) {
    (RouteTable::MAIN, net(prefix))
}

fn to(next_hop: NextHop) -> Route {
    Route { next_hop }
}

fn lookup(id: u16) -> PolicyRule {
    let action = PolicyAction::Lookup(RouteTable::of_ingress(peer(id)));
    PolicyRule { priority: 100, ipv6: false, mark: (u32::from(id) << 16, 0x0fff_0000), action }
}

fn set(state: &mut HostState, path: &str, value: &str) {
    state.sysctls.insert(Sysctl(path.into()), value.into());
}

fn table(state: &mut HostState) -> &mut Ruleset {
    state.ruleset.as_mut().unwrap()
}

fn elements(state: &mut HostState, set: SetName) -> &mut std::collections::BTreeMap<SetKey, SetValue> {
    table(state).sets.get_mut(&set).unwrap()
}

const REPLICAS: SetName = SetName::Replicas(Family::V4, 17);
const NETWORKS: SetName = SetName::Networks(Family::V4);

fn service(id: u16) -> ChainName {
    ChainName::Vip(ServiceId::new(id).unwrap())
}

fn balance(slots: u16) -> Rule {
    Rule::BalanceVip { family: Family::V4, shard: 17, first: Slot(0x10000), slots, pick: Pick::Turn }
}

fn base() -> HostState {
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

type Edit = fn(&mut HostState);

/// What is tried, how the wanted and the observed state differ from the base, and the steps that are planned.
struct Case(&'static str, Edit, Edit, &'static [&'static str]);

const AS_IS: Edit = |_| {};

fn cases() -> Vec<Case> {
    [
        device_cases(),
        row_cases(),
        policy_cases(),
        peer_cases(),
        link_cases(),
        living_link_cases(),
        table_cases(),
        drift_cases(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn device_cases() -> Vec<Case> {
    vec![
        Case("nothing differs", AS_IS, AS_IS, &[]),
        Case(
            "a setting is missing",
            AS_IS,
            |o| _ = o.sysctls.remove(&Sysctl("net/ipv4/ip_forward".into())),
            &["sysctl -w net/ipv4/ip_forward=1"],
        ),
        Case("a setting differs", AS_IS, |o| set(o, "net/ipv4/ip_forward", "0"), &["sysctl -w net/ipv4/ip_forward=1"]),
        Case(
            "a device's setting differs",
            AS_IS,
            |o| set(o, "net/ipv4/conf/weft.vx/rp_filter", "1"),
            &["sysctl -w net/ipv4/conf/weft.vx/rp_filter=2"],
        ),
        Case(
            "IPv6 forwarding goes on when default routes are safe",
            |d| {
                set(d, "net/ipv6/conf/all/forwarding", "1");
                set(d, "net/ipv6/conf/eth0/accept_ra", "2");
                set(d, "net/ipv6/conf/wlan0/accept_ra", "2");
            },
            |o| {
                set(o, "net/ipv6/conf/all/forwarding", "0");
                set(o, "net/ipv6/conf/eth0/accept_ra", "1");
            },
            &[
                "sysctl -w net/ipv6/conf/eth0/accept_ra=2",
                "sysctl -w net/ipv6/conf/wlan0/accept_ra=2",
                "sysctl -w net/ipv6/conf/all/forwarding=1",
            ],
        ),
        Case("a setting is not wanted", |d| _ = d.sysctls.remove(&Sysctl("net/ipv4/ip_forward".into())), AS_IS, &[]),
        Case(
            "the tunnel's MTU differs",
            |d| d.vtep.as_mut().unwrap().mtu = 8950,
            AS_IS,
            &["ip link set weft.vx mtu 8950"],
        ),
        Case(
            "the tunnel gets an IPv6 address of its own",
            |d| d.vtep.as_mut().unwrap().address6 = Some("fd77:6566::1:1".parse().unwrap()),
            AS_IS,
            &[
                "ip link add weft.vx address 02:77:65:66:00:01 mtu 1450 up type vxlan id 77 local 192.0.2.1 dstport 7789 nolearning; ip addr add 169.254.64.1 dev weft.vx scope link; ip addr add fd77:6566::1:1 dev weft.vx nodad",
            ],
        ),
        Case(
            "the tunnel's local address differs",
            |d| d.vtep.as_mut().unwrap().local = ip("192.0.2.9"),
            AS_IS,
            &[
                "ip link add weft.vx address 02:77:65:66:00:01 mtu 1450 up type vxlan id 77 local 192.0.2.9 dstport 7789 nolearning; ip addr add 169.254.64.1 dev weft.vx scope link",
                "sysctl -w net/ipv4/conf/weft.vx/rp_filter=2",
                "bridge fdb replace 02:77:65:66:00:02 dev weft.vx dst 192.0.2.2",
                "ip neigh replace 10.9.2.1 lladdr 02:77:65:66:00:02 dev weft.vx nud permanent",
                "ip route replace 0.0.0.0/0 via 10.9.2.1 dev weft.vx onlink table 77002",
                "ip route replace 10.9.240.0/20 dev weft.vx scope link",
                "ip route replace 10.9.2.0/24 via 10.9.2.1 dev weft.vx onlink",
            ],
        ),
        Case(
            "another tunnel, and a peer that went with the old one",
            |d| d.vtep.as_mut().unwrap().vni = 78,
            |o| {
                o.fdb.insert(Mac::of_vtep(peer(3)), ip("192.0.2.3"));
                o.neighbours.insert(ip("10.9.3.1"), Mac::of_vtep(peer(3)));
                o.routes.insert(main_route("10.9.3.0/24"), to(NextHop::Tunnel(ip("10.9.3.1"))));
            },
            &[
                "ip link add weft.vx address 02:77:65:66:00:01 mtu 1450 up type vxlan id 78 local 192.0.2.1 dstport 7789 nolearning; ip addr add 169.254.64.1 dev weft.vx scope link",
                "sysctl -w net/ipv4/conf/weft.vx/rp_filter=2",
                "bridge fdb replace 02:77:65:66:00:02 dev weft.vx dst 192.0.2.2",
                "ip neigh replace 10.9.2.1 lladdr 02:77:65:66:00:02 dev weft.vx nud permanent",
                "ip route replace 0.0.0.0/0 via 10.9.2.1 dev weft.vx onlink table 77002",
                "ip route replace 10.9.240.0/20 dev weft.vx scope link",
                "ip route replace 10.9.2.0/24 via 10.9.2.1 dev weft.vx onlink",
            ],
        ),
    ]
}

fn row_cases() -> Vec<Case> {
    vec![
        Case(
            "a VTEP is missing",
            AS_IS,
            |o| o.fdb.clear(),
            &["bridge fdb replace 02:77:65:66:00:02 dev weft.vx dst 192.0.2.2"],
        ),
        Case(
            "a VTEP has moved",
            |d| _ = d.fdb.insert(Mac::of_vtep(peer(2)), ip("2001:db8::2")),
            AS_IS,
            &["bridge fdb replace 02:77:65:66:00:02 dev weft.vx dst 2001:db8::2"],
        ),
        Case(
            "a neighbour is missing",
            AS_IS,
            |o| o.neighbours.clear(),
            &["ip neigh replace 10.9.2.1 lladdr 02:77:65:66:00:02 dev weft.vx nud permanent"],
        ),
        Case(
            "a neighbour differs",
            AS_IS,
            |o| _ = o.neighbours.insert(ip("10.9.2.1"), Mac([2, 0, 0, 0, 0, 1])),
            &["ip neigh replace 10.9.2.1 lladdr 02:77:65:66:00:02 dev weft.vx nud permanent"],
        ),
        Case(
            "a neighbour is not wanted",
            AS_IS,
            |o| _ = o.neighbours.insert(ip("fd00:9::1"), Mac::of_vtep(peer(2))),
            &["ip neigh del fd00:9::1 dev weft.vx"],
        ),
        Case(
            "a route is missing",
            AS_IS,
            |o| _ = o.routes.remove(&main_route("10.9.1.0/24")),
            &["ip route replace unreachable 10.9.1.0/24"],
        ),
        Case(
            "a route leads elsewhere",
            AS_IS,
            |o| _ = o.routes.insert(main_route("10.9.2.0/24"), to(NextHop::Unreachable)),
            &["ip route replace 10.9.2.0/24 via 10.9.2.1 dev weft.vx onlink"],
        ),
        Case(
            "a route is not wanted",
            AS_IS,
            |o| _ = o.routes.insert(main_route("fd00:9::/64"), to(NextHop::Unreachable)),
            &["ip route del fd00:9::/64"],
        ),
        Case(
            "routes of several lengths come wide first",
            |d| {
                d.routes.insert(main_route("10.9.7.0/26"), to(NextHop::Unreachable));
                d.routes.insert(main_route("10.9.7.9/32"), to(NextHop::Tunnel(ip("10.9.2.1"))));
                d.routes.insert(main_route("10.9.0.0/16"), to(NextHop::Unreachable));
            },
            AS_IS,
            &[
                "ip route replace unreachable 10.9.0.0/16",
                "ip route replace unreachable 10.9.7.0/26",
                "ip route replace 10.9.7.9/32 via 10.9.2.1 dev weft.vx onlink",
            ],
        ),
        Case(
            "routes of several lengths go narrow first",
            AS_IS,
            |o| {
                o.routes.insert(main_route("10.9.7.0/26"), to(NextHop::Unreachable));
                o.routes.insert(main_route("10.9.7.9/32"), to(NextHop::Tunnel(ip("10.9.2.1"))));
            },
            &["ip route del 10.9.7.9/32", "ip route del 10.9.7.0/26"],
        ),
    ]
}

fn policy_cases() -> Vec<Case> {
    vec![
        Case(
            "a policy rule is missing",
            AS_IS,
            |o| o.policy.clear(),
            &["ip rule add priority 100 fwmark 0x20000/0xfff0000 lookup 77002"],
        ),
        Case(
            "a policy rule is not wanted",
            |d| d.policy.clear(),
            AS_IS,
            &["ip rule del priority 100 fwmark 0x20000/0xfff0000 lookup 77002"],
        ),
        Case(
            "a policy rule differs",
            AS_IS,
            |o| {
                o.policy.clear();
                o.policy.insert(lookup(3));
            },
            &[
                "ip rule add priority 100 fwmark 0x20000/0xfff0000 lookup 77002",
                "ip rule del priority 100 fwmark 0x30000/0xfff0000 lookup 77003",
            ],
        ),
        Case(
            "a goto comes after its target",
            |d| {
                d.policy.insert(PolicyRule {
                    priority: 99,
                    ipv6: true,
                    mark: (0, 0x0fff_0000),
                    action: PolicyAction::Goto(101),
                });
                d.policy.insert(PolicyRule { priority: 101, ipv6: true, mark: (0, 0), action: PolicyAction::Nop });
            },
            AS_IS,
            &["ip -6 rule add priority 101 nop", "ip -6 rule add priority 99 fwmark 0x0/0xfff0000 goto 101"],
        ),
    ]
}

fn peer_cases() -> Vec<Case> {
    vec![
        Case(
            "a peer joins",
            |d| {
                d.fdb.insert(Mac::of_vtep(peer(3)), ip("192.0.2.3"));
                d.neighbours.insert(ip("10.9.3.1"), Mac::of_vtep(peer(3)));
                d.routes.insert(main_route("10.9.3.0/24"), to(NextHop::Tunnel(ip("10.9.3.1"))));
                d.policy.insert(lookup(3));
                elements(d, REPLICAS).insert(SetKey::Slot(Slot(0x10001)), SetValue::Address(ip("10.9.3.7")));
            },
            AS_IS,
            &[
                "bridge fdb replace 02:77:65:66:00:03 dev weft.vx dst 192.0.2.3",
                "ip neigh replace 10.9.3.1 lladdr 02:77:65:66:00:03 dev weft.vx nud permanent",
                "ip route replace 10.9.3.0/24 via 10.9.3.1 dev weft.vx onlink",
                "ip rule add priority 100 fwmark 0x30000/0xfff0000 lookup 77003",
                "nft delete element replica4_17 { 65537 : 10.9.2.7 }; add element replica4_17 { 65537 : 10.9.3.7 }",
            ],
        ),
        Case(
            "a peer leaves",
            |d| {
                d.fdb.clear();
                d.neighbours.clear();
                d.routes.remove(&main_route("10.9.2.0/24"));
                d.routes.remove(&(RouteTable::of_ingress(peer(2)), net("0.0.0.0/0")));
                d.policy.clear();
                elements(d, REPLICAS).remove(&SetKey::Slot(Slot(0x10001)));
                table(d).chains.insert(service(1), Chain { rules: vec![balance(1)] });
            },
            AS_IS,
            &[
                "nft set chain vip_1 { balance-vip 4 17 65536 1 turn }; delete element replica4_17 { 65537 : 10.9.2.7 }",
                "ip rule del priority 100 fwmark 0x20000/0xfff0000 lookup 77002",
                "ip route del 10.9.2.0/24",
                "ip route del 0.0.0.0/0 table 77002",
                "ip neigh del 10.9.2.1 dev weft.vx",
                "bridge fdb del 02:77:65:66:00:02 dev weft.vx",
            ],
        ),
    ]
}

/// A pair that lives on, with another MTU or another path to its namespace.
fn living_link_cases() -> Vec<Case> {
    vec![
        Case(
            "the way between the nodes carries less: the tunnel first, which then says so to whoever sends too much",
            |d| {
                d.vtep.as_mut().unwrap().mtu = 1400;
                d.links.get_mut(&link(0xa)).unwrap().mtu = 1400;
            },
            AS_IS,
            &[
                "ip link set weft.vx mtu 1400",
                "ip link set weft.000000000a mtu 1400 alias \"weft 10.9.1.5 eth0 1400 1 /run/netns/c1\"",
            ],
        ),
        Case(
            "the way between the nodes carries more: no container may send more than the tunnel takes",
            |d| {
                d.vtep.as_mut().unwrap().mtu = 8950;
                d.links.get_mut(&link(0xa)).unwrap().mtu = 8950;
            },
            AS_IS,
            &[
                "ip link set weft.vx mtu 8950",
                "ip link set weft.000000000a mtu 8950 alias \"weft 10.9.1.5 eth0 8950 1 /run/netns/c1\"",
            ],
        ),
        Case(
            "a link's MTU is not certain",
            AS_IS,
            |o| o.links.get_mut(&link(0xa)).unwrap().mtu = 0,
            &["ip link set weft.000000000a mtu 1450 alias \"weft 10.9.1.5 eth0 1450 1 /run/netns/c1\""],
        ),
        Case(
            "another path leads to a container's namespace",
            |d| d.links.get_mut(&link(0xa)).unwrap().netns.path = "/proc/4711/ns/net".into(),
            AS_IS,
            &["ip link set weft.000000000a mtu 1450 alias \"weft 10.9.1.5 eth0 1450 1 /proc/4711/ns/net\""],
        ),
        Case(
            "the same path leads to another namespace, and a living pair has another MTU",
            |d| {
                d.links.get_mut(&link(0xa)).unwrap().netns.inode = 3;
                d.links.insert(link(0xb), Attachment { mtu: 1400, ..attachment(2, "10.9.1.6") });
            },
            |o| _ = o.links.insert(link(0xb), attachment(2, "10.9.1.6")),
            &[
                "ip link set weft.000000000b mtu 1400 alias \"weft 10.9.1.6 eth0 1400 2 /run/netns/c2\"",
                "ip link del weft.000000000a",
                "ip link add weft.000000000a mtu 1450 type veth peer name eth0 netns /run/netns/c1 address 10.9.1.5",
                "ip route replace 10.9.1.5/32 dev weft.000000000a scope link",
            ],
        ),
    ]
}

fn link_cases() -> Vec<Case> {
    vec![
        Case(
            "a container is attached",
            |d| {
                d.links.insert(link(0xb), attachment(2, "10.9.1.6"));
                d.routes.insert(main_route("10.9.1.6/32"), to(NextHop::Link(link(0xb))));
                set(d, "net/ipv4/conf/weft.000000000b/rp_filter", "1");
            },
            AS_IS,
            &[
                "ip link add weft.000000000b mtu 1450 type veth peer name eth0 netns /run/netns/c2 address 10.9.1.6",
                "sysctl -w net/ipv4/conf/weft.000000000b/rp_filter=1",
                "ip route replace 10.9.1.6/32 dev weft.000000000b scope link",
            ],
        ),
        Case(
            "a container is detached: its route goes with its link",
            |d| {
                d.links.clear();
                d.routes.remove(&main_route("10.9.1.5/32"));
                elements(d, REPLICAS).remove(&SetKey::Slot(Slot(0x10000)));
            },
            AS_IS,
            &["nft delete element replica4_17 { 65536 : 10.9.1.5 }", "ip link del weft.000000000a"],
        ),
        Case(
            "a link is another one",
            |d| d.links.get_mut(&link(0xa)).unwrap().ifname = "eth1".into(),
            AS_IS,
            &[
                "ip link del weft.000000000a",
                "ip link add weft.000000000a mtu 1450 type veth peer name eth1 netns /run/netns/c1 address 10.9.1.5",
                "ip route replace 10.9.1.5/32 dev weft.000000000a scope link",
            ],
        ),
        Case(
            "a container is attached again under another id, in the same place",
            |d| {
                d.links.clear();
                d.links.insert(link(0xb), attachment(1, "10.9.1.5"));
                d.routes.insert(main_route("10.9.1.5/32"), to(NextHop::Link(link(0xb))));
            },
            AS_IS,
            &[
                "ip link del weft.000000000a",
                "ip link add weft.000000000b mtu 1450 type veth peer name eth0 netns /run/netns/c1 address 10.9.1.5",
                "ip route replace 10.9.1.5/32 dev weft.000000000b scope link",
            ],
        ),
        Case(
            "an address moves to another container here",
            |d| {
                d.links.clear();
                d.links.insert(link(0xb), attachment(2, "10.9.1.5"));
                d.routes.insert(main_route("10.9.1.5/32"), to(NextHop::Link(link(0xb))));
            },
            AS_IS,
            &[
                "ip link add weft.000000000b mtu 1450 type veth peer name eth0 netns /run/netns/c2 address 10.9.1.5",
                "ip route replace 10.9.1.5/32 dev weft.000000000b scope link",
                "ip link del weft.000000000a",
            ],
        ),
    ]
}

fn table_cases() -> Vec<Case> {
    vec![
        Case(
            "a slot is missing",
            AS_IS,
            |o| _ = elements(o, REPLICAS).remove(&SetKey::Slot(Slot(0x10000))),
            &["nft add element replica4_17 { 65536 : 10.9.1.5 }"],
        ),
        Case(
            "a slot is not wanted",
            AS_IS,
            |o| {
                elements(o, REPLICAS).insert(SetKey::Slot(Slot(0x10002)), SetValue::Address(ip("10.9.1.5")));
            },
            &["nft delete element replica4_17 { 65538 : 10.9.1.5 }"],
        ),
        Case(
            "a rule differs",
            AS_IS,
            |o| _ = table(o).chains.insert(service(1), Chain { rules: vec![balance(1)] }),
            &["nft set chain vip_1 { balance-vip 4 17 65536 2 turn }"],
        ),
        Case(
            "a chain has lost its rules",
            AS_IS,
            |o| _ = table(o).chains.insert(ChainName::Forward, Chain::default()),
            &["nft set chain forward { accept-established; refuse-crossing 4 }"],
        ),
        Case(
            "a service comes",
            |d| {
                table(d).sets.insert(
                    SetName::Ports,
                    [(SetKey::Port(L4::Udp, 53), SetValue::Goto(ChainName::Port(L4::Udp, 53, Bind::Any)))].into(),
                );
                table(d)
                    .chains
                    .insert(ChainName::Port(L4::Udp, 53, Bind::Any), Chain { rules: vec![Rule::RefuseOther] });
            },
            AS_IS,
            &["nft add set ports; add chain port_udp_53; set chain port_udp_53 { refuse-other }; and 1 more change"],
        ),
        Case(
            "a service goes, with its chain and its shard in a transaction of their own",
            |d| {
                elements(d, SetName::Vips(Family::V4)).clear();
                table(d).sets.remove(&REPLICAS);
                table(d).chains.remove(&service(1));
            },
            AS_IS,
            &[
                "nft delete element vips4 { 10.9.240.1 : goto vip_1 }; \
                 delete element replica4_17 { 65536 : 10.9.1.5, 65537 : 10.9.2.7 }; set chain vip_1 {  }",
                "nft delete chain vip_1; delete set replica4_17",
            ],
        ),
        Case(
            "a network comes with its first container",
            |d| {
                elements(d, NETWORKS).insert(SetKey::Prefix(net("10.10.0.0/16")), SetValue::Nothing);
                d.links.insert(link(0xb), attachment(2, "10.10.1.5"));
            },
            AS_IS,
            &[
                "nft add element networks4 { 10.10.0.0/16 }",
                "ip link add weft.000000000b mtu 1450 type veth peer name eth0 netns /run/netns/c2 address 10.10.1.5",
            ],
        ),
        Case(
            "a network goes with its last container",
            AS_IS,
            |o| {
                elements(o, NETWORKS).insert(SetKey::Prefix(net("10.10.0.0/16")), SetValue::Nothing);
                o.links.insert(link(0xb), attachment(2, "10.10.1.5"));
            },
            &["ip link del weft.000000000b", "nft delete element networks4 { 10.10.0.0/16 }"],
        ),
        Case(
            "a network takes over a part of another's prefix",
            AS_IS,
            |o| {
                elements(o, NETWORKS).clear();
                elements(o, NETWORKS).insert(SetKey::Prefix(net("10.0.0.0/8")), SetValue::Nothing);
                o.links.insert(link(0xb), attachment(2, "10.10.1.5"));
            },
            &[
                "nft delete element networks4 { 10.0.0.0/8 }; add element networks4 { 10.9.0.0/16 }",
                "ip link del weft.000000000b",
            ],
        ),
        Case("the table is not wanted", |d| d.ruleset = None, AS_IS, &["nft delete table inet weft"]),
    ]
}

/// Scenario 13, and its neighbours.
fn drift_cases() -> Vec<Case> {
    vec![
        Case(
            "nft flush ruleset",
            AS_IS,
            |o| o.ruleset = None,
            &["nft add table inet weft; add set networks4; add chain forward; and 10 more changes"],
        ),
        Case(
            "ip link del weft.vx",
            AS_IS,
            |o| FakeState::of(o).apply(&Step::DeleteVtep),
            &[
                "ip link add weft.vx address 02:77:65:66:00:01 mtu 1450 up type vxlan id 77 local 192.0.2.1 dstport 7789 nolearning; ip addr add 169.254.64.1 dev weft.vx scope link",
                "sysctl -w net/ipv4/conf/weft.vx/rp_filter=2",
                "bridge fdb replace 02:77:65:66:00:02 dev weft.vx dst 192.0.2.2",
                "ip neigh replace 10.9.2.1 lladdr 02:77:65:66:00:02 dev weft.vx nud permanent",
                "ip route replace 0.0.0.0/0 via 10.9.2.1 dev weft.vx onlink table 77002",
                "ip route replace 10.9.240.0/20 dev weft.vx scope link",
                "ip route replace 10.9.2.0/24 via 10.9.2.1 dev weft.vx onlink",
            ],
        ),
        Case(
            "ip route flush proto weft",
            AS_IS,
            |o| o.routes.clear(),
            &[
                "ip route replace 0.0.0.0/0 via 10.9.2.1 dev weft.vx onlink table 77002",
                "ip route replace 10.9.240.0/20 dev weft.vx scope link",
                "ip route replace unreachable 10.9.1.0/24",
                "ip route replace 10.9.2.0/24 via 10.9.2.1 dev weft.vx onlink",
                "ip route replace 10.9.1.5/32 dev weft.000000000a scope link",
            ],
        ),
        Case(
            "a foreign FDB entry",
            AS_IS,
            |o| _ = o.fdb.insert(Mac([2, 0, 0, 0, 0, 9]), ip("192.0.2.9")),
            &["bridge fdb del 02:00:00:00:00:09 dev weft.vx"],
        ),
        Case(
            "a container's veth has gone",
            AS_IS,
            |o| FakeState::of(o).apply(&Step::DeleteLink(link(0xa))),
            &[
                "ip link add weft.000000000a mtu 1450 type veth peer name eth0 netns /run/netns/c1 address 10.9.1.5",
                "ip route replace 10.9.1.5/32 dev weft.000000000a scope link",
            ],
        ),
        Case(
            "weft down",
            |d| *d = HostState::default(),
            AS_IS,
            &[
                "nft set chain nat_prerouting {  }",
                "ip rule del priority 100 fwmark 0x20000/0xfff0000 lookup 77002",
                "ip route del 10.9.1.0/24",
                "ip link del weft.000000000a",
                "ip link del weft.vx",
                "nft delete table inet weft",
            ],
        ),
        Case(
            "a first start",
            AS_IS,
            |o| *o = HostState::default(),
            &[
                "sysctl -w net/ipv4/ip_forward=1",
                "nft add table inet weft; add set networks4; add chain forward; and 2 more changes",
                "ip link add weft.vx address 02:77:65:66:00:01 mtu 1450 up type vxlan id 77 local 192.0.2.1 dstport 7789 nolearning; ip addr add 169.254.64.1 dev weft.vx scope link",
                "sysctl -w net/ipv4/conf/weft.vx/rp_filter=2",
                "bridge fdb replace 02:77:65:66:00:02 dev weft.vx dst 192.0.2.2",
                "ip neigh replace 10.9.2.1 lladdr 02:77:65:66:00:02 dev weft.vx nud permanent",
                "ip link add weft.000000000a mtu 1450 type veth peer name eth0 netns /run/netns/c1 address 10.9.1.5",
                "ip route replace 0.0.0.0/0 via 10.9.2.1 dev weft.vx onlink table 77002",
                "ip route replace 10.9.240.0/20 dev weft.vx scope link",
                "ip route replace unreachable 10.9.1.0/24",
                "ip route replace 10.9.2.0/24 via 10.9.2.1 dev weft.vx onlink",
                "ip route replace 10.9.1.5/32 dev weft.000000000a scope link",
                "ip rule add priority 100 fwmark 0x20000/0xfff0000 lookup 77002",
                "nft add set vips4; add set replica4_17; add chain nat_prerouting; and 5 more changes",
            ],
        ),
    ]
}

/// A state that something is done to as a kernel would, cascades and all.
struct FakeState<'a>(&'a mut HostState);

impl<'a> FakeState<'a> {
    fn of(state: &'a mut HostState) -> Self {
        Self(state)
    }

    fn apply(self, step: &Step) {
        let kernel = FakeKernel::new(self.0.clone());
        kernel.apply_now(step).unwrap();
        *self.0 = kernel.state();
    }
}

#[test]
fn each_difference_has_its_steps() {
    for Case(name, edit_desired, edit_observed, expected) in cases() {
        let (mut desired, mut observed) = (base(), base());
        edit_desired(&mut desired);
        edit_observed(&mut observed);
        let steps = plan(&desired, &observed);
        let lines: Vec<String> = steps.iter().map(Step::to_string).collect();
        assert_eq!(lines, expected, "{name}");
    }
}

#[test]
fn each_plan_can_be_carried_out() {
    for Case(name, edit_desired, edit_observed, _) in cases() {
        let (mut desired, mut observed) = (base(), base());
        edit_desired(&mut desired);
        edit_observed(&mut observed);
        let kernel = FakeKernel::new(observed.clone());
        for step in plan(&desired, &observed) {
            kernel.apply_now(&step).unwrap_or_else(|error| panic!("{name}: {error}"));
        }
        assert_eq!(plan(&desired, &kernel.observe_now().unwrap()), [], "{name}");
    }
}

#[test]
fn long_lists_stay_one_change_and_one_short_line() {
    let mut desired = base();
    for slot in 0..20_000 {
        elements(&mut desired, REPLICAS).insert(SetKey::Slot(Slot(0x20000 + slot)), SetValue::Address(ip("10.9.1.5")));
    }
    let steps = plan(&desired, &base());
    let [Step::ChangeRuleset(changes)] = steps.as_slice() else { panic!("{steps:?}") };
    assert!(matches!(changes.as_slice(), [NftChange::AddElements(REPLICAS, elements)] if elements.len() == 20_000));
    assert_eq!(
        steps[0].to_string(),
        "nft add element replica4_17 { 131072 : 10.9.1.5, 131073 : 10.9.1.5, 131074 : 10.9.1.5, and 19997 more }"
    );
}

#[test]
fn every_kind_of_step_has_its_label() {
    let labels = |steps: Vec<Step>| steps.iter().map(Step::kind).collect::<std::collections::BTreeSet<_>>();
    let all = ["fdb", "link", "neighbour", "policy", "route", "ruleset", "sysctl", "vtep"];
    assert_eq!(labels(plan(&base(), &HostState::default())), all.into());
    assert_eq!(labels(plan(&HostState::default(), &base())), ["link", "policy", "route", "ruleset", "vtep"].into());
}
