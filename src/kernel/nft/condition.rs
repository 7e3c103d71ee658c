//! The conditions of rules: each method writes the expressions that let a rule go on only for some packets.

use crate::model::{Family, L4, LinkName, SetName, VTEP_LINK};

use super::code::{Base, Code, Compare, Conntrack, Meta, REG_1, Side, nfproto};

/// `RTN_LOCAL` in `linux/rtnetlink.h`: the type of route that an address of this host has.
const RTN_LOCAL: u32 = 2;
/// `ARPHRD_ETHER` in `linux/if_arp.h`.
const ARPHRD_ETHER: u16 = 1;

/// Which links by name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Link {
    /// The tunnel device.
    Tunnel,
    /// All whose names begin as ours do.
    Ours,
}

impl Code<'_, '_> {
    pub(super) fn conntrack_state(&mut self, any_of: u32) {
        self.conntrack(Conntrack::State, None);
        self.mask(any_of);
        self.compare(Compare::NotEqual, &0_u32.to_ne_bytes());
    }

    pub(super) fn family(&mut self, family: Family) {
        self.meta(Meta::Family);
        self.compare(Compare::Equal, &[nfproto(family)]);
    }

    pub(super) fn protocol(&mut self, number: u8) {
        self.meta(Meta::Protocol);
        self.compare(Compare::Equal, &[number]);
    }

    pub(super) fn destination_port(&mut self, protocol: L4, port: u16) {
        self.protocol(protocol.number());
        self.payload(Base::Transport, 2, 2, REG_1);
        self.compare(Compare::Equal, &port.to_be_bytes());
    }

    pub(super) fn address_in(&mut self, family: Family, side: Side, set: SetName) {
        self.family(family);
        self.address(family, side, REG_1);
        self.look_up(set, None);
    }

    pub(super) fn link(&mut self, key: Meta, operation: Compare, link: Link) {
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

    pub(super) fn sender_is_ethernet(&mut self) {
        self.meta(Meta::InputType);
        self.compare(Compare::Equal, &ARPHRD_ETHER.to_ne_bytes());
    }

    pub(super) fn destination_is_local(&mut self) {
        // NFT_FIB_RESULT_ADDRTYPE of NFTA_FIB_F_DADDR.
        self.fib(3, 2);
        self.compare(Compare::Equal, &RTN_LOCAL.to_ne_bytes());
    }

    pub(super) fn no_route_back(&mut self) {
        // NFT_FIB_RESULT_OIF of NFTA_FIB_F_SADDR, _IIF and _PRESENT.
        self.fib(1, 1 | 8 | 32);
        self.compare(Compare::Equal, &0_u32.to_ne_bytes());
    }

    pub(super) fn has_flag_syn(&mut self) {
        // RFC 9293, 3.1: the flags are the 14th byte, SYN their second bit.
        self.payload(Base::Transport, 13, 1, REG_1);
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, REG_1);
            bitwise.number(2, REG_1);
            bitwise.number(3, 1);
            bitwise.number(6, 0);
            bitwise.data(4, &[2]);
            bitwise.data(5, &[0]);
        });
        self.compare(Compare::NotEqual, &[0]);
    }
}
