//! Rules as the kernel's expressions: small instructions on registers, in the order in which a packet meets them.
//!
//! Each rule compiles to what nft 1.0.6 makes of the statement in the rule's documentation, so that `nft list` prints
//! that statement. Registers: 1 is 16 bytes wide and also the 4-byte registers 8 to 11; 2 likewise 12 to 15. The fields of a
//! concatenation follow each other in 4-byte steps, so the second field behind 4 bytes in register 1 is register 9, and
//! behind 16 bytes it is register 2.

use crate::model::{ChainName, Family, L4, LinkName, Rule, SetName, Slot, VTEP_LINK};

use super::wire::{Attributes, VERDICT_ACCEPT, VERDICT_DROP, VERDICT_GOTO, nfta};

/// The kernel reads and writes registers by these numbers (`enum nft_registers`).
const REG_VERDICT: u32 = 0;
const REG_1: u32 = 1;
const REG_2: u32 = 2;
const REG32_01: u32 = 9;

/// `RTN_LOCAL` in linux/rtnetlink.h: the type of route that an address of this host has.
const RTN_LOCAL: u32 = 2;
/// `ARPHRD_ETHER` in linux/if_arp.h.
const ARPHRD_ETHER: u16 = 1;

/// Bits of `ct state` (`NF_CT_STATE_BIT` in linux/netfilter/nf_conntrack_common.h).
const STATE_ESTABLISHED: u32 = 2;
const STATE_RELATED: u32 = 4;
const STATE_NEW: u32 = 8;
/// `IPS_DST_NAT` in linux/netfilter/nf_conntrack_common.h.
const STATUS_DNAT: u32 = 32;
/// `IP_CT_DIR_REPLY` in linux/netfilter/nf_conntrack_tuple_common.h.
const DIRECTION_REPLY: u8 = 1;
/// `IP_CT_DIR_ORIGINAL` in the same file.
const DIRECTION_ORIGINAL: u8 = 0;

/// Writes a rule's expressions into its list of expressions; nothing for a foreign rule, which has none of ours.
pub(super) fn compile(rule: Rule, list: &mut Attributes<'_>) {
    let mut code = Code(list);
    match rule {
        Rule::TunnelFromPeer(family, port) => {
            code.address_in(family, Side::Source, SetName::Peers(family));
            code.udp_destination(port);
            code.plain("notrack");
            code.accept();
        }
        Rule::TunnelFromStranger(port) => {
            code.destination_is_local();
            code.udp_destination(port);
            code.verdict(VERDICT_DROP, None);
        }
        Rule::TunnelToPeer(family, port) => {
            code.address_in(family, Side::Destination, SetName::Peers(family));
            code.udp_destination(port);
            code.plain("notrack");
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
        Rule::DispatchVip(family) => {
            code.family(family);
            code.address(family, Side::Destination, REG_1);
            code.look_up(SetName::Vips(family), Some(REG_VERDICT));
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
                    code.compare(Compare::NotEqual, &std::net::Ipv6Addr::LOCALHOST.octets());
                }
            }
            code.dispatch_port();
        }
        Rule::BalancePort { family, protocol, shard, first, slots } => {
            code.family(family);
            code.protocol(protocol.number());
            code.next_slot(first, slots);
            code.look_up(SetName::Targets(family, shard), Some(REG_1));
            let port = match family {
                Family::V4 => REG32_01,
                Family::V6 => REG_2,
            };
            code.translate_destination(family, Some(port));
        }
        Rule::BalanceVip { family, shard, first, slots } => {
            code.family(family);
            code.next_slot(first, slots);
            code.look_up(SetName::Replicas(family, shard), Some(REG_1));
            code.translate_destination(family, None);
        }
        Rule::RefuseTcp => {
            code.protocol(L4::Tcp.number());
            code.reject(Reject::TcpReset);
        }
        Rule::RefuseOther => code.reject(Reject::PortUnreachable),
        Rule::AcceptEstablished => {
            code.conntrack_state(STATE_ESTABLISHED | STATE_RELATED);
            code.accept();
        }
        Rule::AcceptWithin(family) | Rule::KeepWithin(family) => {
            code.family(family);
            code.address(family, Side::Source, REG_1);
            let second = match family {
                Family::V4 => REG32_01,
                Family::V6 => REG_2,
            };
            code.address(family, Side::Destination, second);
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
        Rule::ClearMark(mask) => {
            code.link(Meta::OutputName, Compare::Equal, Link::Tunnel);
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

/// Which end of a packet.
#[derive(Debug, Clone, Copy)]
enum Side {
    Source,
    Destination,
}

/// Which links by name.
#[derive(Debug, Clone, Copy)]
enum Link {
    /// The tunnel device.
    Tunnel,
    /// All whose names begin as ours do.
    Ours,
}

/// `enum nft_payload_bases`.
#[derive(Debug, Clone, Copy)]
enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// `enum nft_cmp_ops`.
#[derive(Debug, Clone, Copy)]
enum Compare {
    Equal = 0,
    NotEqual = 1,
}

/// `enum nft_meta_keys`.
#[derive(Debug, Clone, Copy)]
enum Meta {
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    InputType = 8,
    Family = 15,
    Protocol = 16,
}

/// `enum nft_ct_keys`.
#[derive(Debug, Clone, Copy)]
enum Conntrack {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
    Destination4 = 20,
    Destination6 = 22,
}

/// What a refused packet's sender is told.
#[derive(Debug, Clone, Copy)]
enum Reject {
    TcpReset,
    PortUnreachable,
    AdminProhibited,
}

/// A rule's expressions being written.
struct Code<'a, 'b>(&'a mut Attributes<'b>);

impl Code<'_, '_> {
    fn expression(&mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
        self.0.nest(nfta::LIST_ELEM, |expression| {
            expression.text(nfta::EXPR_NAME, name);
            expression.nest(nfta::EXPR_DATA, data);
        });
    }

    /// An expression without parameters.
    fn plain(&mut self, name: &str) {
        self.expression(name, |_| {});
    }

    fn meta(&mut self, key: Meta) {
        self.expression("meta", |meta| {
            meta.number(2, key as u32);
            meta.number(1, REG_1);
        });
    }

    fn set_mark(&mut self) {
        self.expression("meta", |meta| {
            meta.number(2, Meta::Mark as u32);
            meta.number(3, REG_1);
        });
    }

    fn compare(&mut self, operation: Compare, with: &[u8]) {
        self.expression("cmp", |cmp| {
            cmp.number(1, REG_1);
            cmp.number(2, operation as u32);
            cmp.data(3, with);
        });
    }

    /// Clears the bits outside `mask` of the host-endian number in register 1.
    fn mask(&mut self, mask: u32) {
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, REG_1);
            bitwise.number(2, REG_1);
            bitwise.number(3, 4);
            bitwise.number(6, 0);
            bitwise.data(4, &mask.to_ne_bytes());
            bitwise.data(5, &0_u32.to_ne_bytes());
        });
    }

    fn payload(&mut self, base: Base, offset: u32, length: u32, register: u32) {
        self.expression("payload", |payload| {
            payload.number(1, register);
            payload.number(2, base as u32);
            payload.number(3, offset);
            payload.number(4, length);
        });
    }

    /// Looks register 1 up; a map's value goes to `result`.
    fn look_up(&mut self, set: SetName, result: Option<u32>) {
        self.expression("lookup", |lookup| {
            lookup.number(2, REG_1);
            if let Some(register) = result {
                lookup.number(3, register);
            }
            lookup.text(1, &set.to_string());
        });
    }

    fn conntrack(&mut self, key: Conntrack, direction: Option<u8>) {
        self.expression("ct", |ct| {
            ct.number(2, key as u32);
            ct.number(1, REG_1);
            if let Some(direction) = direction {
                ct.bytes(3, &[direction]);
            }
        });
    }

    fn set_conntrack_mark(&mut self) {
        self.expression("ct", |ct| {
            ct.number(2, Conntrack::Mark as u32);
            ct.number(4, REG_1);
        });
    }

    fn conntrack_state(&mut self, any_of: u32) {
        self.conntrack(Conntrack::State, None);
        self.mask(any_of);
        self.compare(Compare::NotEqual, &0_u32.to_ne_bytes());
    }

    fn verdict(&mut self, verdict: i32, chain: Option<ChainName>) {
        let chain = chain.map(|chain| chain.to_string());
        self.expression("immediate", |immediate| {
            immediate.number(1, REG_VERDICT);
            immediate.verdict(2, verdict, chain.as_deref());
        });
    }

    fn accept(&mut self) {
        self.verdict(VERDICT_ACCEPT, None);
    }

    fn family(&mut self, family: Family) {
        self.meta(Meta::Family);
        self.compare(Compare::Equal, &[nfproto(family)]);
    }

    fn protocol(&mut self, number: u8) {
        self.meta(Meta::Protocol);
        self.compare(Compare::Equal, &[number]);
    }

    fn udp_destination(&mut self, port: u16) {
        self.protocol(L4::Udp.number());
        self.payload(Base::Transport, 2, 2, REG_1);
        self.compare(Compare::Equal, &port.to_be_bytes());
    }

    /// Loads an address of the packet; its family must have been compared before.
    fn address(&mut self, family: Family, side: Side, register: u32) {
        // RFC 791, 3.1 and RFC 8200, 3.
        let (offset, length) = match (family, side) {
            (Family::V4, Side::Source) => (12, 4),
            (Family::V4, Side::Destination) => (16, 4),
            (Family::V6, Side::Source) => (8, 16),
            (Family::V6, Side::Destination) => (24, 16),
        };
        self.payload(Base::Network, offset, length, register);
    }

    fn address_in(&mut self, family: Family, side: Side, set: SetName) {
        self.family(family);
        self.address(family, side, REG_1);
        self.look_up(set, None);
    }

    fn link(&mut self, key: Meta, operation: Compare, link: Link) {
        self.meta(key);
        match link {
            Link::Tunnel => {
                // The whole field, so that a longer name does not match (IFNAMSIZ is 16).
                let mut name = [0; 16];
                name[..VTEP_LINK.len()].copy_from_slice(VTEP_LINK.as_bytes());
                self.compare(operation, &name);
            }
            Link::Ours => self.compare(operation, LinkName::PREFIX.as_bytes()),
        }
    }

    fn sender_is_ethernet(&mut self) {
        self.meta(Meta::InputType);
        self.compare(Compare::Equal, &ARPHRD_ETHER.to_ne_bytes());
    }

    fn fib(&mut self, result: u32, flags: u32) {
        self.expression("fib", |fib| {
            fib.number(3, flags);
            fib.number(2, result);
            fib.number(1, REG_1);
        });
    }

    fn destination_is_local(&mut self) {
        // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
        self.fib(3, 2);
        self.compare(Compare::Equal, &RTN_LOCAL.to_ne_bytes());
    }

    fn no_route_back(&mut self) {
        // NFT_FIB_RESULT_OIF of NFTA_FIB_F_SADDR, _IIF and _PRESENT.
        self.fib(1, 1 | 8 | 32);
        self.compare(Compare::Equal, &0_u32.to_ne_bytes());
    }

    fn dispatch_port(&mut self) {
        self.meta(Meta::Protocol);
        self.payload(Base::Transport, 2, 2, REG32_01);
        self.look_up(SetName::Ports, Some(REG_VERDICT));
    }

    fn next_slot(&mut self, first: Slot, slots: u16) {
        self.expression("numgen", |numgen| {
            numgen.number(1, REG_1);
            numgen.number(2, u32::from(slots));
            // NFT_NG_INCREMENTAL: one after the other.
            numgen.number(3, 0);
            numgen.number(4, first.0);
        });
    }

    /// To the address in register 1 and the port in `port`.
    fn translate_destination(&mut self, family: Family, port: Option<u32>) {
        self.expression("nat", |nat| {
            // NFT_NAT_DNAT.
            nat.number(1, 1);
            nat.number(2, u32::from(nfproto(family)));
            nat.number(3, REG_1);
            if let Some(port) = port {
                nat.number(5, port);
            }
        });
    }

    fn reject(&mut self, how: Reject) {
        // `enum nft_reject_types` and `enum nft_reject_inet_code`.
        let (kind, code) = match how {
            Reject::TcpReset => (1, 0),
            Reject::PortUnreachable => (2, 1),
            Reject::AdminProhibited => (2, 3),
        };
        self.expression("reject", |reject| {
            reject.number(1, kind);
            reject.bytes(2, &[code]);
        });
    }
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` in linux/netfilter.h.
fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
