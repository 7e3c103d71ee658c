//! Pairs of links.

use weft::model::{Attachment, NextHop, SetKey, Slot};

use super::{
    AS_IS, Case,
    base::{REPLICAS, attachment, elements, link, main_route, set, to},
};

/// A pair that lives on, with another MTU or another path to its namespace.
pub(super) fn living_link_cases() -> Vec<Case> {
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

pub(super) fn link_cases() -> Vec<Case> {
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
