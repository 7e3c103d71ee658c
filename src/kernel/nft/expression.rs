//! Rules as the kernel's expressions, in the order in which a packet meets them.
//!
//! Each rule compiles to what nft 1.0.6 makes of the statement in the rule's documentation, so that `nft list` prints
//! that statement.

use std::net::{IpAddr, Ipv6Addr};

use crate::model::{ChainName, Family, L4, Rule, SetName};

use super::{
    code::{
        Base, Code, Compare, Conntrack, Meta, REG_1, REG_VERDICT, REG32_01, Reject, Side, register_behind,
        register_behind_second,
    },
    condition::Link,
    wire::{Attributes, VERDICT_DROP, VERDICT_GOTO},
};

/// Bits of `ct state` (`NF_CT_STATE_BIT` in `linux/netfilter/nf_conntrack_common.h`).
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATE_NEW: u32 = 8;
/// `IPS_DST_NAT` in `linux/netfilter/nf_conntrack_common.h`.
const STATUS_DNAT: u32 = 32;
/// `IP_CT_DIR_REPLY` in `linux/netfilter/nf_conntrack_tuple_common.h`.
const DIRECTION_REPLY: u8 = 1;
/// `IP_CT_DIR_ORIGINAL` in the same file.
const DIRECTION_ORIGINAL: u8 = 0;

/// Writes a rule's expressions into its list of expressions; nothing for a foreign rule, which has none of ours.
#[expect(clippy::too_many_lines, reason = "one arm a rule, each read beside its statement")]
pub(super) fn compile(rule: Rule, list: &mut Attributes<'_>) {
    let mut code = Code(list);
    match rule {
        Rule::EnterFromUnderlay(port) => {
            code.destination_port(L4::Udp, port);
            code.verdict(VERDICT_GOTO, Some(ChainName::FromUnderlay));
        }
        Rule::TunnelFromPeer(family) => {
            code.address_in(family, Side::Source, SetName::Peers(family));
            code.plain("notrack");
            code.accept();
        }
        Rule::TunnelFromStranger => {
            code.destination_is_local();
            code.verdict(VERDICT_DROP, None);
        }
        Rule::TunnelToPeer(family, port) => {
            code.destination_port(L4::Udp, port);
            code.address_in(family, Side::Destination, SetName::Peers(family));
            code.plain("notrack");
        }
        Rule::SeparateIngress => {
            code.link(Meta::InputName, Compare::Equal, Link::Tunnel);
            code.sender_is_ethernet();
            code.payload(Base::Link, 6, 6, REG_1);
            code.look_up(SetName::Zones, Some(REG_1));
            code.set_conntrack_zone(DIRECTION_ORIGINAL);
        }
        Rule::EnterFromTunnel => {
            code.link(Meta::InputName, Compare::Equal, Link::Tunnel);
            code.verdict(VERDICT_GOTO, Some(ChainName::FromTunnel));
        }
        Rule::EnterFromContainer => {
            code.link(Meta::InputName, Compare::Equal, Link::Ours);
            code.verdict(VERDICT_GOTO, Some(ChainName::FromContainer));
        }
        Rule::RememberIngress => {
            code.conntrack_state(STATE_NEW);
            code.sender_is_ethernet();
            code.payload(Base::Link, 6, 6, REG_1);
            code.look_up(SetName::Vteps, Some(REG_1));
            code.set_conntrack_mark();
        }
        Rule::DropSpoofed => {
            code.no_route_back();
            code.verdict(VERDICT_DROP, None);
        }
        Rule::ReturnToIngress(mask) => {
            code.conntrack(Conntrack::Direction, None);
            code.compare(Compare::Equal, &[DIRECTION_REPLY]);
            code.conntrack(Conntrack::Mark, None);
            code.mask(mask);
            code.compare(Compare::NotEqual, &0_u32.to_ne_bytes());
            code.conntrack(Conntrack::Mark, None);
            code.mask(mask);
            code.set_mark();
        }
        Rule::DispatchPublishedAtPeer(family) | Rule::DispatchPublishedAtPeerLocally(family) => {
            if matches!(rule, Rule::DispatchPublishedAtPeer(_)) {
                code.link(Meta::InputName, Compare::Equal, Link::Ours);
            }
            code.address_in(family, Side::Destination, SetName::Nodes(family));
            code.dispatch_port();
        }
        Rule::EnterUnusedVip(family) | Rule::EnterUnusedVipLocally(family) => {
            if matches!(rule, Rule::EnterUnusedVip(_)) {
                code.link(Meta::InputName, Compare::Equal, Link::Ours);
            }
            code.address_in(family, Side::Destination, SetName::VipRanges(family));
            code.verdict(VERDICT_GOTO, Some(ChainName::UnusedVip));
        }
        Rule::RefusePeerPort(port) => {
            code.link(Meta::InputName, Compare::Equal, Link::Ours);
            code.destination_port(L4::Tcp, port);
            code.reject(Reject::TcpReset);
        }
        Rule::DispatchVip(family) | Rule::DispatchVipLocally(family) => {
            if matches!(rule, Rule::DispatchVip(_)) {
                code.link(Meta::InputName, Compare::Equal, Link::Ours);
            }
            code.family(family);
            code.address(family, Side::Destination, REG_1);
            code.look_up(SetName::Vips(family), Some(REG_VERDICT));
        }
        Rule::DispatchBound(family) => {
            code.destination_is_local();
            code.dispatch_bound(family);
        }
        Rule::DispatchBoundInside(family) => {
            code.link(Meta::InputName, Compare::Equal, Link::Ours);
            code.dispatch_bound(family);
        }
        Rule::DispatchBoundLocally(family) => code.dispatch_bound(family),
        Rule::DispatchDevice => {
            code.destination_is_local();
            code.dispatch_device();
        }
        Rule::SpareResolver(address) => {
            let family = Family::of(address);
            code.family(family);
            code.address(family, Side::Destination, REG_1);
            match address {
                IpAddr::V4(address) => code.compare(Compare::Equal, &address.octets()),
                IpAddr::V6(address) => code.compare(Compare::Equal, &address.octets()),
            }
            // The destination's port, whichever of the transport protocols: all have it there.
            code.payload(Base::Transport, 2, 2, REG_1);
            code.compare(Compare::Equal, &53_u16.to_be_bytes());
            code.accept();
        }
        Rule::DispatchPublished => {
            code.destination_is_local();
            code.dispatch_port();
        }
        Rule::DispatchPublishedLocally(family) => {
            code.destination_is_local();
            code.family(family);
            match family {
                // 127.0.0.0/8 is the first byte.
                Family::V4 => {
                    code.payload(Base::Network, 16, 1, REG_1);
                    code.compare(Compare::NotEqual, &[127]);
                }
                Family::V6 => {
                    code.address(family, Side::Destination, REG_1);
                    code.compare(Compare::NotEqual, &Ipv6Addr::LOCALHOST.octets());
                }
            }
            code.dispatch_port();
        }
        Rule::RecallPort { family, protocol, target, memory } => {
            let port = register_behind_second(family);
            code.family(family);
            code.protocol(protocol.number());
            code.recall(family, memory);
            code.immediate(port, &target.to_be_bytes());
            code.plain("counter");
            code.translate_destination(family, REG32_01, Some(port));
        }
        Rule::RecallVip { family, memory } => {
            code.family(family);
            code.recall(family, memory);
            code.plain("counter");
            code.translate_destination(family, REG32_01, None);
        }
        Rule::RememberPort { family, protocol, shard, first, slots, pick, memory } => {
            code.family(family);
            code.protocol(protocol.number());
            code.pick_slot(family, first, slots, pick);
            code.look_up_and_remember(family, SetName::Targets(family, shard), memory);
            code.plain("counter");
            code.translate_destination(family, REG32_01, Some(register_behind_second(family)));
        }
        Rule::RememberVip { family, shard, first, slots, pick, memory } => {
            code.family(family);
            code.pick_slot(family, first, slots, pick);
            code.look_up_and_remember(family, SetName::Replicas(family, shard), memory);
            code.plain("counter");
            code.translate_destination(family, REG32_01, None);
        }
        Rule::BalancePort { family, protocol, shard, first, slots, pick } => {
            code.family(family);
            code.protocol(protocol.number());
            code.plain("counter");
            code.pick_slot(family, first, slots, pick);
            code.look_up(SetName::Targets(family, shard), Some(REG_1));
            code.translate_destination(family, REG_1, Some(register_behind(family)));
        }
        Rule::BalanceVip { family, shard, first, slots, pick } => {
            code.family(family);
            code.plain("counter");
            code.pick_slot(family, first, slots, pick);
            code.look_up(SetName::Replicas(family, shard), Some(REG_1));
            code.translate_destination(family, REG_1, None);
        }
        Rule::RefuseTcp => {
            code.protocol(L4::Tcp.number());
            code.plain("counter");
            code.reject(Reject::TcpReset);
        }
        Rule::RefuseOther => {
            code.plain("counter");
            code.reject(Reject::PortUnreachable);
        }
        Rule::AcceptEstablished => {
            code.conntrack_state(STATE_ESTABLISHED | STATE_RELATED);
            code.accept();
        }
        Rule::AcceptWithin(family) | Rule::KeepWithin(family) => {
            if matches!(rule, Rule::AcceptWithin(_)) {
                code.link(Meta::InputName, Compare::Equal, Link::Ours);
            }
            code.family(family);
            code.address(family, Side::Source, REG_1);
            code.address(family, Side::Destination, register_behind(family));
            code.look_up(SetName::Within(family), None);
            code.accept();
        }
        Rule::RefuseCrossing(family) => {
            code.link(Meta::InputName, Compare::Equal, Link::Ours);
            code.address_in(family, Side::Source, SetName::Networks(family));
            code.address(family, Side::Destination, REG_1);
            code.look_up(SetName::Networks(family), None);
            code.conntrack(
                match family {
                    Family::V4 => Conntrack::Destination4,
                    Family::V6 => Conntrack::Destination6,
                },
                Some(DIRECTION_ORIGINAL),
            );
            code.look_up(SetName::Networks(family), None);
            code.reject(Reject::AdminProhibited);
        }
        Rule::RefuseInternalOut(family) => {
            code.address_in(family, Side::Source, SetName::Internal(family));
            code.link(Meta::OutputName, Compare::NotEqual, Link::Ours);
            code.reject(Reject::AdminProhibited);
        }
        Rule::RefuseUnpublished(family) => {
            code.link(Meta::InputName, Compare::NotEqual, Link::Ours);
            code.address_in(family, Side::Destination, SetName::Networks(family));
            code.conntrack(Conntrack::Status, None);
            code.mask(STATUS_DNAT);
            code.compare(Compare::Equal, &0_u32.to_ne_bytes());
            code.reject(Reject::AdminProhibited);
        }
        Rule::EnterToTunnel => {
            code.link(Meta::OutputName, Compare::Equal, Link::Tunnel);
            code.verdict(VERDICT_GOTO, Some(ChainName::ToTunnel));
        }
        Rule::EnterClampMss => {
            code.has_flag_syn();
            code.verdict(VERDICT_GOTO, Some(ChainName::ClampMss));
        }
        Rule::ClampMss(family, mss) => {
            code.family(family);
            code.limit_segments(mss);
        }
        Rule::TranslateHairpin(address) => {
            let family = Family::of(address);
            code.family(family);
            code.address(family, Side::Source, REG_1);
            code.address(family, Side::Destination, register_behind(family));
            code.look_up(SetName::Hairpin(family), None);
            code.translate_source(address);
        }
        Rule::TranslatePeer(address) => {
            code.link(Meta::OutputName, Compare::Equal, Link::Tunnel);
            code.address_in(Family::of(address), Side::Source, SetName::Nodes(Family::of(address)));
            code.conntrack(Conntrack::Status, None);
            code.mask(STATUS_DNAT);
            code.compare(Compare::NotEqual, &0_u32.to_ne_bytes());
            code.translate_source(address);
        }
        Rule::ClearMark(mask) => {
            code.meta(Meta::Mark);
            code.mask(mask);
            code.compare(Compare::NotEqual, &0_u32.to_ne_bytes());
            code.meta(Meta::Mark);
            code.mask(!mask);
            code.set_mark();
        }
        Rule::Masquerade(family) => {
            code.address_in(family, Side::Source, SetName::Networks(family));
            code.plain("masq");
        }
        Rule::Foreign(_) => {}
    }
}
