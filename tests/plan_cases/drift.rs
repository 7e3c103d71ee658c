//! What somebody else has changed.

use weft::{
    kernel::FakeKernel,
    model::{HostState, Mac},
    plan::Step,
};

use super::{
    AS_IS, Case,
    base::{ip, link},
};

/// Scenario 13, and its neighbours.
pub(super) fn drift_cases() -> Vec<Case> {
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
