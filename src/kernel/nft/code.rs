//! The instructions that rules are made of: each method writes one expression, or the few that always go together.
//!
//! Registers: 1 is 16 bytes wide and also the 4-byte registers 8 to 11; 2 likewise 12 to 15; the last one is 23. The fields of a concatenation
//! follow each other in 4-byte steps, so the second field behind 4 bytes in register 1 is register 9, and behind 16 bytes it
//! is register 2.

use std::net::IpAddr;

use crate::model::{ChainName, Family, Pick, SOURCE_SEED, SetName, Slot};

use super::wire::{Attributes, VERDICT_ACCEPT, nfta};

/// The kernel reads and writes registers by these numbers (`enum nft_registers`).
pub(super) const REG_VERDICT: u32 = 0;
/// The first register.
pub(super) const REG_1: u32 = 1;
/// The second register of 16 bytes.
pub(super) const REG_2: u32 = 2;
/// The second register of 4 bytes, a part of the first of 16.
pub(super) const REG32_01: u32 = 9;

/// The register behind an IPv6 address at [`REG32_01`].
pub(super) const REG32_05: u32 = 13;

/// The register behind an address at [`REG32_01`].
pub(super) fn register_behind_second(family: Family) -> u32 {
    match family {
        Family::V4 => 10,
        Family::V6 => REG32_05,
    }
}

/// The register behind an address at the start of register 1.
pub(super) fn register_behind(family: Family) -> u32 {
    match family {
        Family::V4 => REG32_01,
        Family::V6 => REG_2,
    }
}

/// Which end of a packet.
#[derive(Debug, Clone, Copy)]
pub(super) enum Side {
    Source,
    Destination,
}

/// `enum nft_payload_bases`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Base {
    Link = 0,
    Network = 1,
    Transport = 2,
}

/// `enum nft_cmp_ops`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Compare {
    Equal = 0,
    NotEqual = 1,
}

/// `enum nft_meta_keys`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Meta {
    Mark = 3,
    InputName = 6,
    OutputName = 7,
    InputType = 8,
    Family = 15,
    Protocol = 16,
}

/// `enum nft_ct_keys`.
#[derive(Debug, Clone, Copy)]
pub(super) enum Conntrack {
    State = 0,
    Direction = 1,
    Status = 2,
    Mark = 3,
    Zone = 17,
    Destination4 = 20,
    Destination6 = 22,
}

/// What a refused packet's sender is told.
#[derive(Debug, Clone, Copy)]
pub(super) enum Reject {
    TcpReset,
    PortUnreachable,
    AdminProhibited,
}

/// A rule's expressions being written.
pub(super) struct Code<'a, 'b>(pub(super) &'a mut Attributes<'b>);

impl Code<'_, '_> {
    pub(super) fn expression(&mut self, name: &str, data: impl FnOnce(&mut Attributes<'_>)) {
        self.0.nest(nfta::LIST_ELEM, |expression| {
            expression.text(nfta::EXPR_NAME, name);
            expression.nest(nfta::EXPR_DATA, data);
        });
    }

    /// An expression without parameters.
    pub(super) fn plain(&mut self, name: &str) {
        self.expression(name, |_| {});
    }

    pub(super) fn meta(&mut self, key: Meta) {
        self.meta_to(key, REG_1);
    }

    fn meta_to(&mut self, key: Meta, register: u32) {
        self.expression("meta", |meta| {
            meta.number(2, key as u32);
            meta.number(1, register);
        });
    }

    pub(super) fn set_mark(&mut self) {
        self.expression("meta", |meta| {
            meta.number(2, Meta::Mark as u32);
            meta.number(3, REG_1);
        });
    }

    pub(super) fn compare(&mut self, operation: Compare, with: &[u8]) {
        self.compare_from(REG_1, operation, with);
    }

    pub(super) fn compare_from(&mut self, register: u32, operation: Compare, with: &[u8]) {
        self.expression("cmp", |cmp| {
            cmp.number(1, register);
            cmp.number(2, operation as u32);
            cmp.data(3, with);
        });
    }

    /// Clears the bits outside `mask` of the host-endian number in register 1.
    pub(super) fn mask(&mut self, mask: u32) {
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, REG_1);
            bitwise.number(2, REG_1);
            bitwise.number(3, 4);
            bitwise.number(6, 0);
            bitwise.data(4, &mask.to_ne_bytes());
            bitwise.data(5, &0_u32.to_ne_bytes());
        });
    }

    pub(super) fn payload(&mut self, base: Base, offset: u32, length: u32, register: u32) {
        self.expression("payload", |payload| {
            payload.number(1, register);
            payload.number(2, base as u32);
            payload.number(3, offset);
            payload.number(4, length);
        });
    }

    /// A value known beforehand.
    pub(super) fn immediate(&mut self, register: u32, value: &[u8]) {
        self.expression("immediate", |immediate| {
            immediate.number(1, register);
            immediate.data(2, value);
        });
    }

    /// Looks register 1 up; a map's value goes to `result`.
    pub(super) fn look_up(&mut self, set: SetName, result: Option<u32>) {
        self.look_up_from(REG_1, set, result);
    }

    pub(super) fn look_up_from(&mut self, key: u32, set: SetName, result: Option<u32>) {
        self.expression("lookup", |lookup| {
            lookup.number(2, key);
            if let Some(register) = result {
                lookup.number(3, register);
            }
            lookup.text(1, &set.to_string());
        });
    }

    pub(super) fn conntrack(&mut self, key: Conntrack, direction: Option<u8>) {
        self.expression("ct", |ct| {
            ct.number(2, key as u32);
            ct.number(1, REG_1);
            if let Some(direction) = direction {
                ct.bytes(3, &[direction]);
            }
        });
    }

    pub(super) fn set_conntrack_mark(&mut self) {
        self.expression("ct", |ct| {
            ct.number(2, Conntrack::Mark as u32);
            ct.number(4, REG_1);
        });
    }

    /// The zone in the low 16 bits of register 1, for one direction alone. Only ahead of conntrack.
    pub(super) fn set_conntrack_zone(&mut self, direction: u8) {
        self.expression("ct", |ct| {
            ct.number(2, Conntrack::Zone as u32);
            ct.bytes(3, &[direction]);
            ct.number(4, REG_1);
        });
    }

    pub(super) fn verdict(&mut self, verdict: i32, chain: Option<ChainName>) {
        let chain = chain.map(|chain| chain.to_string());
        self.expression("immediate", |immediate| {
            immediate.number(1, REG_VERDICT);
            immediate.verdict(2, verdict, chain.as_deref());
        });
    }

    pub(super) fn accept(&mut self) {
        self.verdict(VERDICT_ACCEPT, None);
    }

    /// Loads an address of the packet; its family must have been compared before.
    pub(super) fn address(&mut self, family: Family, side: Side, register: u32) {
        // RFC 791, 3.1 and RFC 8200, 3.
        let offset = match (family, side) {
            (Family::V4, Side::Source) => 12,
            (Family::V4, Side::Destination) => 16,
            (Family::V6, Side::Source) => 8,
            (Family::V6, Side::Destination) => 24,
        };
        self.payload(Base::Network, offset, address_len(family), register);
    }

    pub(super) fn fib(&mut self, result: u32, flags: u32) {
        self.expression("fib", |fib| {
            fib.number(3, flags);
            fib.number(2, result);
            fib.number(1, REG_1);
        });
    }

    pub(super) fn dispatch_port(&mut self) {
        self.meta(Meta::Protocol);
        self.payload(Base::Transport, 2, 2, REG32_01);
        self.look_up(SetName::Ports, Some(REG_VERDICT));
    }

    pub(super) fn dispatch_bound(&mut self, family: Family) {
        self.family(family);
        self.address(family, Side::Destination, REG_1);
        let protocol = register_behind(family);
        self.meta_to(Meta::Protocol, protocol);
        self.payload(Base::Transport, 2, 2, next_register(protocol));
        self.look_up(SetName::Bound(family), Some(REG_VERDICT));
    }

    pub(super) fn dispatch_device(&mut self) {
        self.meta(Meta::InputName);
        self.meta_to(Meta::Protocol, REG_2);
        self.payload(Base::Transport, 2, 2, next_register(REG_2));
        self.look_up(SetName::DevicePorts, Some(REG_VERDICT));
    }

    /// The slot of a new connection to register 1.
    pub(super) fn pick_slot(&mut self, family: Family, first: Slot, slots: u16, pick: Pick) {
        let numgen_kind = match pick {
            // NFT_NG_INCREMENTAL and NFT_NG_RANDOM.
            Pick::Turn => 0,
            Pick::Chance => 1,
            Pick::Source => {
                self.address(family, Side::Source, REG_2);
                return self.expression("hash", |hash| {
                    hash.number(1, REG_2);
                    hash.number(2, REG_1);
                    hash.number(3, address_len(family));
                    hash.number(4, u32::from(slots));
                    hash.number(5, SOURCE_SEED);
                    hash.number(6, first.0);
                    // NFT_HASH_JENKINS.
                    hash.number(7, 0);
                });
            }
        };
        self.expression("numgen", |numgen| {
            numgen.number(1, REG_1);
            numgen.number(2, u32::from(slots));
            numgen.number(3, numgen_kind);
            numgen.number(4, first.0);
        });
    }

    /// Makes the segment size that a TCP packet announces (RFC 9293, 3.7.1) no larger than this, in bytes.
    pub(super) fn limit_segments(&mut self, mss: u16) {
        self.immediate(REG_1, &mss.to_be_bytes());
        self.expression("exthdr", |option| {
            // TCPOPT_MSS, 2 bytes behind its kind and length; NFT_EXTHDR_OP_TCPOPT.
            option.bytes(2, &[2]);
            option.number(3, 2);
            option.number(4, 2);
            option.number(6, 1);
            option.number(7, REG_1);
        });
    }

    pub(super) fn translate_source(&mut self, to: IpAddr) {
        match to {
            IpAddr::V4(address) => self.immediate(REG_1, &address.octets()),
            IpAddr::V6(address) => self.immediate(REG_1, &address.octets()),
        }
        self.nat(0, Family::of(to), REG_1, None);
    }

    /// To the address and the port in these registers.
    pub(super) fn translate_destination(&mut self, family: Family, address: u32, port: Option<u32>) {
        self.nat(1, family, address, port);
    }

    /// `enum nft_nat_types`: 0 is `NFT_NAT_SNAT`, 1 is `NFT_NAT_DNAT`.
    fn nat(&mut self, kind: u32, family: Family, address: u32, port: Option<u32>) {
        self.expression("nat", |nat| {
            nat.number(1, kind);
            nat.number(2, u32::from(nfproto(family)));
            nat.number(3, address);
            if let Some(port) = port {
                nat.number(5, port);
            }
        });
    }

    pub(super) fn reject(&mut self, how: Reject) {
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

/// In bytes.
fn address_len(family: Family) -> u32 {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

/// The register of 4 bytes behind the 4 bytes at this one.
fn next_register(register: u32) -> u32 {
    match register {
        REG_1 => REG32_01,
        REG_2 => 13,
        narrow => narrow + 1,
    }
}

/// `NFPROTO_IPV4` and `NFPROTO_IPV6` in `linux/netfilter.h`.
pub(super) fn nfproto(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}
