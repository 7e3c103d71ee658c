//! Ruleset values that the goldens and the kernel tests share.

use std::collections::BTreeMap;

use weft::model::{
    Bind, Chain, ChainName, Family, L4, Mac, Memory, Pick, Rule, Ruleset, ServiceId, SetKey, SetName, SetValue, Slot,
};

/// The tunnel's port.
pub(crate) const PORT: u16 = 7789;
/// The mark's bits.
pub(crate) const MASK: u32 = 0x0fff_0000;

/// Every kind of rule and set that nft has words for, both families.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(crate) fn everything() -> Ruleset {
    let service = ServiceId::new(7).unwrap();
    let first = Slot(7 << 16);
    let mut ruleset = Ruleset::default();

    let mut set = |name: SetName, elements: Vec<(SetKey, SetValue)>| {
        ruleset.sets.insert(name, elements.into_iter().collect::<BTreeMap<_, _>>());
    };
    let goto_port = |protocol, port| SetValue::Goto(ChainName::Port(protocol, port, Bind::Any));
    set(
        SetName::Ports,
        vec![
            (SetKey::Port(L4::Tcp, 80), goto_port(L4::Tcp, 80)),
            (SetKey::Port(L4::Udp, 53), goto_port(L4::Udp, 53)),
            (SetKey::Port(L4::Sctp, 36412), goto_port(L4::Sctp, 36412)),
            (SetKey::Port(L4::Tcp, 65535), goto_port(L4::Tcp, 65535)),
        ],
    );
    let device = Bind::Device("enp0s31f6.1000".parse().unwrap());
    let Bind::Device(name) = device else { unreachable!() };
    set(
        SetName::DevicePorts,
        vec![(SetKey::DevicePort(name, L4::Tcp, 80), SetValue::Goto(ChainName::Port(L4::Tcp, 80, device)))],
    );
    let at = |family: Family| {
        Bind::Address(["192.0.2.11", "2001:db8::11"][usize::from(family == Family::V6)].parse().unwrap())
    };
    set(
        SetName::Vteps,
        (1_u16..4)
            .map(|node| {
                let mac = Mac([2, 0x77, 0x65, 0x66, 0, u8::try_from(node).unwrap()]);
                (SetKey::Mac(mac), SetValue::Mark(u32::from(node) << 16))
            })
            .collect(),
    );
    set(
        SetName::Zones,
        (1_u16..4)
            .map(|node| {
                let mac = Mac([2, 0x77, 0x65, 0x66, 0, u8::try_from(node).unwrap()]);
                (SetKey::Mac(mac), SetValue::Zone(node))
            })
            .collect(),
    );
    for (family, [vip, vips, replica, other, peer], prefixes) in [
        (
            Family::V4,
            ["10.9.240.1", "10.9.240.0/20", "10.9.0.2", "10.9.1.2", "192.0.2.7"],
            // Side by side, up to the last address, and a single one.
            ["10.9.0.0/24", "10.9.1.0/24", "255.255.0.0/16", "10.77.0.1/32"],
        ),
        (
            Family::V6,
            ["fd00:9::f000:1", "fd00:9::f000:0/112", "fd00:9::2", "fd00:9:0:1::2", "2001:db8::7"],
            ["fd00:9::/64", "fd00:9:0:1::/64", "ff00::/8", "fd77::1/128"],
        ),
    ] {
        let address = |text: &str| text.parse().unwrap();
        let prefix = |text: &str| SetKey::Prefix(text.parse().unwrap());
        set(SetName::Vips(family), vec![(SetKey::Address(address(vip)), SetValue::Goto(ChainName::Vip(service)))]);
        set(
            SetName::Targets(family, 7),
            [replica, other]
                .iter()
                .zip(0..)
                .map(|(replica, turn)| {
                    (SetKey::Slot(Slot(first.0 + turn)), SetValue::Target((address(replica), 8080).into()))
                })
                .collect(),
        );
        set(SetName::Replicas(family, 255), vec![(SetKey::Slot(Slot(u32::MAX)), SetValue::Address(address(replica)))]);
        let Bind::Address(bound) = at(family) else { unreachable!() };
        set(
            SetName::Bound(family),
            vec![(SetKey::AddressPort(bound, L4::Tcp, 80), SetValue::Goto(ChainName::Port(L4::Tcp, 80, at(family))))],
        );
        set(SetName::Sticky(family), vec![]);
        set(SetName::Takers(family), vec![(SetKey::Address(address(replica)), SetValue::Service(service))]);
        let itself = SetKey::AddressPair(address(replica), address(replica));
        set(SetName::Hairpin(family), vec![(itself, SetValue::Nothing)]);
        set(SetName::Peers(family), vec![(SetKey::Address(address(peer)), SetValue::Nothing)]);
        set(SetName::Nodes(family), vec![(SetKey::Address(address(peer)), SetValue::Nothing)]);
        set(SetName::VipRanges(family), vec![(prefix(vips), SetValue::Nothing)]);
        set(SetName::Networks(family), prefixes.iter().map(|text| (prefix(text), SetValue::Nothing)).collect());
        set(SetName::Internal(family), vec![(prefix(prefixes[1]), SetValue::Nothing)]);
        let pair = |text: &str| SetKey::PrefixPair(text.parse().unwrap(), text.parse().unwrap());
        set(SetName::Within(family), prefixes.iter().map(|text| (pair(text), SetValue::Nothing)).collect());
    }

    let both = |rule: fn(Family) -> Rule| Family::BOTH.map(rule).to_vec();
    let balance = |families: &[Family], protocol, pick| -> Vec<Rule> {
        let rule = |family: &Family| Rule::BalancePort { family: *family, protocol, shard: 7, first, slots: 2, pick };
        families.iter().map(rule).collect()
    };
    let balance_port = |protocol| balance(&Family::BOTH, protocol, Pick::Turn);
    let refuse = || vec![Rule::RefuseTcp, Rule::RefuseOther];
    for (name, rules) in [
        (ChainName::RawPrerouting, vec![Rule::EnterFromUnderlay(PORT), Rule::SeparateIngress]),
        (ChainName::FromUnderlay, [both(Rule::TunnelFromPeer), vec![Rule::TunnelFromStranger]].concat()),
        (ChainName::RawOutput, both(|family| Rule::TunnelToPeer(family, PORT))),
        (ChainName::ManglePrerouting, vec![Rule::EnterFromTunnel, Rule::EnterFromContainer]),
        (ChainName::FromTunnel, vec![Rule::RememberIngress, Rule::EnterClampMss]),
        (ChainName::Input, vec![Rule::RefusePeerPort(7780)]),
        (ChainName::FromContainer, vec![Rule::DropSpoofed, Rule::ReturnToIngress(MASK)]),
        (
            ChainName::NatPrerouting,
            [
                ["169.254.1.1", "fd77:6566::1"].map(|resolver| Rule::SpareResolver(resolver.parse().unwrap())).to_vec(),
                both(Rule::DispatchVip),
                both(Rule::EnterUnusedVip),
                both(Rule::DispatchBound),
                both(Rule::DispatchBoundInside),
                vec![Rule::DispatchDevice, Rule::DispatchPublished],
                both(Rule::DispatchPublishedAtPeer),
            ]
            .concat(),
        ),
        (
            ChainName::NatOutput,
            [
                both(Rule::DispatchVipLocally),
                both(Rule::EnterUnusedVipLocally),
                both(Rule::DispatchBoundLocally),
                both(Rule::DispatchPublishedLocally),
                both(Rule::DispatchPublishedAtPeerLocally),
            ]
            .concat(),
        ),
        (ChainName::UnusedVip, refuse()),
        (
            ChainName::Forward,
            [
                vec![Rule::AcceptEstablished],
                both(Rule::AcceptWithin),
                both(Rule::RefuseCrossing),
                both(Rule::RefuseInternalOut),
                both(Rule::RefuseUnpublished),
            ]
            .concat(),
        ),
        (ChainName::ManglePostrouting, vec![Rule::EnterToTunnel]),
        (ChainName::ToTunnel, vec![Rule::ClearMark(MASK), Rule::EnterClampMss]),
        (ChainName::ClampMss, vec![Rule::ClampMss(Family::V4, 1410), Rule::ClampMss(Family::V6, 1390)]),
        (
            ChainName::NatPostrouting,
            [
                ["169.254.1.1", "fd77:6566::1:1"]
                    .map(|own| own.parse().unwrap())
                    .into_iter()
                    .flat_map(|own| [Rule::TranslateHairpin(own), Rule::TranslatePeer(own)])
                    .collect(),
                both(Rule::KeepWithin),
                both(Rule::Masquerade),
            ]
            .concat(),
        ),
        (
            ChainName::Vip(service),
            [
                Family::BOTH
                    .map(|family| Rule::BalanceVip {
                        family,
                        shard: 255,
                        first: Slot(u32::MAX),
                        slots: 1,
                        pick: Pick::Turn,
                    })
                    .to_vec(),
                refuse(),
            ]
            .concat(),
        ),
        (ChainName::Port(L4::Tcp, 80, Bind::Any), [balance_port(L4::Tcp), refuse()].concat()),
        (ChainName::Port(L4::Udp, 53, Bind::Any), [balance_port(L4::Udp), refuse()].concat()),
        (ChainName::Port(L4::Sctp, 36412, Bind::Any), [balance_port(L4::Sctp), refuse()].concat()),
        (ChainName::Port(L4::Tcp, 65535, Bind::Any), refuse()),
        (
            ChainName::Port(L4::Tcp, 80, at(Family::V4)),
            [balance(&[Family::V4], L4::Tcp, Pick::Chance), refuse()].concat(),
        ),
        (
            ChainName::Port(L4::Tcp, 80, at(Family::V6)),
            [balance(&[Family::V6], L4::Tcp, Pick::Chance), refuse()].concat(),
        ),
        (ChainName::Port(L4::Tcp, 80, device), [balance(&Family::BOTH, L4::Tcp, Pick::Source), refuse()].concat()),
    ] {
        ruleset.chains.insert(name, Chain { rules });
    }
    ruleset
}

/// Everything, and clients keep their replicas, for which nft has no words of its own.
pub(crate) fn sticky(timeout_ms: u64) -> Ruleset {
    remembering(everything(), timeout_ms)
}

/// The same rules, and clients keep their replicas.
pub(crate) fn remembering(mut ruleset: Ruleset, timeout_ms: u64) -> Ruleset {
    for chain in ruleset.chains.values_mut() {
        let memory = Memory { service: ServiceId::new(7).unwrap(), timeout_ms };
        let rules = std::mem::take(&mut chain.rules).into_iter().flat_map(|rule| match rule {
            Rule::BalancePort { family, protocol, shard, first, slots, pick } => vec![
                Rule::RecallPort { family, protocol, target: 8080, memory },
                Rule::RememberPort { family, protocol, shard, first, slots, pick, memory },
                rule,
            ],
            Rule::BalanceVip { family, shard, first, slots, pick } => vec![
                Rule::RecallVip { family, memory },
                Rule::RememberVip { family, shard, first, slots, pick, memory },
                rule,
            ],
            other => vec![other],
        });
        chain.rules = rules.collect();
    }
    ruleset
}

/// The least: base chains alone, no sets' elements.
pub(crate) fn bare() -> Ruleset {
    let mut ruleset = Ruleset::default();
    ruleset.sets.insert(SetName::Ports, BTreeMap::new());
    ruleset.sets.insert(SetName::Within(Family::V6), BTreeMap::new());
    ruleset.chains.insert(ChainName::NatPrerouting, Chain { rules: vec![Rule::DispatchPublished] });
    ruleset.chains.insert(ChainName::Forward, Chain::default());
    ruleset
}
