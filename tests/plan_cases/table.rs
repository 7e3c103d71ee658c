//! The table of nftables.

use weft::model::{Bind, Chain, ChainName, Family, L4, Rule, SetKey, SetName, SetValue, Slot};

use super::{
    AS_IS, Case,
    base::{NETWORKS, REPLICAS, attachment, balance, elements, ip, link, net, service, table},
};

pub(super) fn table_cases() -> Vec<Case> {
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
