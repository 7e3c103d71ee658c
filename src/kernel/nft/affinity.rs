//! The instructions of session affinity: [`crate::model::Rule::RecallPort`] and those beside it.

use crate::model::{Family, Memory, ServiceId, SetName};

use super::code::{Base, Code, Compare, REG_1, REG32_01, REG32_05, Side};

/// The last of the registers of 4 bytes that an IPv6 address at [`REG32_01`] takes.
const REG32_04: u32 = 12;
/// Where the rules of affinity keep a replica's address: a register of 4 bytes with room for 16.
const COPY: u32 = 15;
/// Where they keep service and client: the last five registers of 4 bytes.
const CLIENT: u32 = 19;

/// `NFT_DYNSET_OP_UPDATE` and `NFT_DYNSET_OP_DELETE` in `linux/netfilter/nf_tables.h`.
const DYNSET_UPDATE: u32 = 1;
const DYNSET_DELETE: u32 = 2;

impl Code<'_, '_> {
    /// The replica that the client came to last, if it still takes connections for the service; its address goes to register 9.
    /// The client's time begins anew.
    pub(super) fn recall(&mut self, family: Family, memory: Memory) {
        self.immediate(REG_1, &service_bytes(memory.service));
        self.prepare_copy(family);
        self.client_key(family, memory.service);
        self.look_up_from(CLIENT, SetName::Sticky(family), Some(REG32_01));
        self.copy(family);
        self.look_up_from(COPY, SetName::Takers(family), Some(REG32_05));
        self.compare_from(REG32_05, Compare::Equal, &service_bytes(memory.service));
        self.memorise(DYNSET_UPDATE, family, memory);
    }

    /// Looks the slot in register 1 up and remembers that the client came to the replica there; its address goes to register 9.
    pub(super) fn look_up_and_remember(&mut self, family: Family, map: SetName, memory: Memory) {
        self.prepare_copy(family);
        self.look_up(map, Some(REG32_01));
        self.client_key(family, memory.service);
        self.copy(family);
        self.memorise(DYNSET_DELETE, family, memory);
        self.memorise(DYNSET_UPDATE, family, memory);
    }

    /// Service and client.
    fn client_key(&mut self, family: Family, service: ServiceId) {
        self.immediate(CLIENT, &service_bytes(service));
        self.address(family, Side::Source, CLIENT + 1);
    }

    /// What [`Self::copy`] wants to be there before the value that it copies.
    fn prepare_copy(&mut self, family: Family) {
        self.address(family, Side::Destination, COPY);
        if family == Family::V6 {
            self.payload(Base::Network, 24, 4, REG32_04);
        }
    }

    /// Copies the address at register 9, which was looked up, to [`COPY`].
    ///
    /// nft 1.0.6 does not know how long a value is that was looked up in a map, and aborts where it is looked up again or put into
    /// another map (`netlink_parse_concat_expr` in its `netlink_delinearize.c`). It keeps account of the first register of a value
    /// alone: so the copy begins one register ahead, and where the address comes to lie nft still sees what was there before,
    /// the packet's destination, and lists that. Only the first packets of connections walk this.
    fn copy(&mut self, family: Family) {
        match family {
            Family::V4 => self.copy_registers(REG_1, COPY - 1, 8),
            Family::V6 => {
                self.copy_registers(REG_1, COPY - 1, 16);
                self.copy_registers(REG32_04, COPY + 3, 4);
            }
        }
    }

    /// At most 16 bytes.
    fn copy_registers(&mut self, from: u32, to: u32, length: u32) {
        let length_bytes = usize::try_from(length).unwrap_or_default();
        self.expression("bitwise", |bitwise| {
            bitwise.number(1, from);
            bitwise.number(2, to);
            bitwise.number(3, length);
            bitwise.number(6, 0);
            bitwise.data(4, &[u8::MAX; 16][..length_bytes]);
            bitwise.data(5, &[0; 16][..length_bytes]);
        });
    }

    fn memorise(&mut self, operation: u32, family: Family, memory: Memory) {
        self.expression("dynset", |dynset| {
            dynset.text(1, &SetName::Sticky(family).to_string());
            dynset.number(3, operation);
            dynset.number(4, CLIENT);
            dynset.number(5, COPY);
            if operation == DYNSET_UPDATE {
                dynset.bytes(6, &memory.timeout_ms.to_be_bytes());
            }
        });
    }
}

/// A service's number as a field of a key: 4 bytes in the host's order.
fn service_bytes(service: ServiceId) -> [u8; 4] {
    u32::from(service.get()).to_ne_bytes()
}
