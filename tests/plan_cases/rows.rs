//! Devices, rows and peers.

use weft::model::{Chain, Mac, NextHop, PolicyAction, PolicyRule, RouteTable, SetKey, SetValue, Slot, Sysctl};

use super::{
    AS_IS, Case,
    base::{REPLICAS, balance, elements, ip, lookup, main_route, net, peer, service, set, table, to},
};

pub(super) fn device_cases() -> Vec<Case> {
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

pub(super) fn row_cases() -> Vec<Case> {
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

pub(super) fn policy_cases() -> Vec<Case> {
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

pub(super) fn peer_cases() -> Vec<Case> {
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
