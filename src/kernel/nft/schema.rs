//! Sets as the kernel declares them: key, value and flags, and the notes in which nft looks up how to print them.

use crate::model::{Family, SetName, SetSchema};

use super::wire::{self, Attributes, nfta};

/// `NFT_SET_INTERVAL`.
const FLAG_INTERVAL: u32 = 0x4;
/// `NFT_SET_MAP`.
const FLAG_MAP: u32 = 0x8;
/// `NFT_SET_TIMEOUT`: elements have a time to live.
const FLAG_TIMEOUT: u32 = 0x10;
/// `NFT_SET_EVAL`: rules put elements into it.
const FLAG_EVAL: u32 = 0x20;
/// `NFT_SET_CONCAT`: intervals in more than one field.
const FLAG_CONCAT: u32 = 0x80;

/// `NFT_DATA_VERDICT`, the type of a value that is a verdict.
const DATA_VERDICT: u32 = 0xffff_ff00;

/// nft's numbers for its data types (`enum datatypes` in its datatype.h). The kernel stores and returns them.
const TYPE_INTEGER: u32 = 4;
const TYPE_IPV4: u32 = 7;
const TYPE_IPV6: u32 = 8;
const TYPE_ETHER: u32 = 9;
const TYPE_PROTOCOL: u32 = 12;
const TYPE_SERVICE: u32 = 13;
const TYPE_MARK: u32 = 19;
const TYPE_DEVICE: u32 = 41;
/// A concatenation's type is its fields' types, 6 bits each.
const TYPE_BITS: u32 = 6;

/// How many clients are remembered at once in a family: with some 150 bytes for each, they take 40 MB of the kernel's memory
/// at most, whoever knocks with whatever forged source. Later ones are balanced and not remembered.
pub(super) const CLIENTS_MAX: u32 = 1 << 18;

/// What the kernel is told of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Declaration {
    flags: u32,
    key: Field,
    /// For maps.
    value: Option<Field>,
    /// The lengths of the key's fields in bytes, where intervals have more than one.
    fields: Vec<u32>,
    /// The most elements, where the kernel shall watch it.
    size: Option<u32>,
    notes: Notes,
}

/// A type with its length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    kind: u32,
    /// In bytes.
    length: u32,
    order: Order,
}

/// Byte order, in nft's numbers (`enum byteorder` in its datatype.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    Mixed = 0,
    Host = 1,
    Network = 2,
}

/// How nft shall name the types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Notes {
    /// By the types' numbers.
    Types,
    /// By expressions: a slot is `numgen inc mod 65536`, for which there is no type's name.
    SlotTo(Family, Tail),
    /// By expressions: `ether saddr : ct zone`, the latter a number without a type's name.
    MacToZone,
}

/// What a slot leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tail {
    Address,
    AddressAndPort,
}

impl Declaration {
    /// The declaration of a set of ours.
    pub(super) fn of(set: SetName) -> Self {
        let set_of = |flags, key, fields| Self { flags, key, value: None, fields, size: None, notes: Notes::Types };
        let map = |key, value| Self { value: Some(value), ..set_of(FLAG_MAP, key, Vec::new()) };
        let verdict = Field { kind: DATA_VERDICT, length: 0, order: Order::Mixed };
        let slot = Field { kind: TYPE_INTEGER, length: 4, order: Order::Host };
        // A service's number: of the types with a name and 4 bytes, the one that nft prints as a plain number.
        let mark = Field { kind: TYPE_MARK, length: 4, order: Order::Host };
        match set.schema() {
            SetSchema::PortToChain => map(concat(&[PROTOCOL, PORT]), verdict),
            SetSchema::AddressToChain(family) => map(address(family), verdict),
            SetSchema::AddressPortToChain(family) => map(concat(&[address(family), PROTOCOL, PORT]), verdict),
            SetSchema::DevicePortToChain => map(concat(&[DEVICE, PROTOCOL, PORT]), verdict),
            SetSchema::ClientToAddress(family) => Self {
                flags: FLAG_MAP | FLAG_TIMEOUT | FLAG_EVAL,
                size: Some(CLIENTS_MAX),
                ..map(concat(&[mark, address(family)]), address(family))
            },
            SetSchema::AddressToService(family) => map(address(family), mark),
            SetSchema::AddressPairs(family) => set_of(0, concat(&[address(family); 2]), Vec::new()),
            SetSchema::SlotToTarget(family) => {
                let target = concat(&[address(family), PORT]);
                Self { notes: Notes::SlotTo(family, Tail::AddressAndPort), ..map(slot, target) }
            }
            SetSchema::SlotToAddress(family) => {
                Self { notes: Notes::SlotTo(family, Tail::Address), ..map(slot, address(family)) }
            }
            SetSchema::MacToMark => map(Field { kind: TYPE_ETHER, length: 6, order: Order::Network }, mark),
            SetSchema::MacToZone => Self {
                notes: Notes::MacToZone,
                ..map(
                    Field { kind: TYPE_ETHER, length: 6, order: Order::Network },
                    Field { kind: TYPE_INTEGER, length: 2, order: Order::Host },
                )
            },
            SetSchema::Addresses(family) => set_of(0, address(family), Vec::new()),
            SetSchema::Prefixes(family) => set_of(FLAG_INTERVAL, address(family), Vec::new()),
            SetSchema::PrefixPairs(family) => {
                let address = address(family);
                set_of(FLAG_INTERVAL | FLAG_CONCAT, concat(&[address; 2]), vec![address.length; 2])
            }
        }
    }

    /// Writes what `NFT_MSG_NEWSET` says behind table and name.
    pub(super) fn write(&self, set: &mut Attributes<'_>) {
        set.number(nfta::SET_FLAGS, self.flags);
        set.number(nfta::SET_KEY_TYPE, self.key.kind);
        set.number(nfta::SET_KEY_LEN, self.key.length);
        if let Some(value) = self.value {
            set.number(nfta::SET_DATA_TYPE, value.kind);
            set.number(nfta::SET_DATA_LEN, value.length);
        }
        if !self.fields.is_empty() || self.size.is_some() {
            set.nest(nfta::SET_DESC, |desc| {
                if let Some(size) = self.size {
                    desc.number(nfta::SET_DESC_SIZE, size);
                }
                if !self.fields.is_empty() {
                    desc.nest(nfta::SET_DESC_CONCAT, |concat| {
                        for length in &self.fields {
                            concat.nest(nfta::LIST_ELEM, |field| field.number(nfta::SET_FIELD_LEN, *length));
                        }
                    });
                }
            });
        }
        set.bytes(nfta::SET_USERDATA, &self.userdata());
    }

    /// Whether the kernel's description of a set says the same; otherwise what differs.
    pub(super) fn check(&self, described: &[u8]) -> Result<(), String> {
        let expected = [
            ("flags", nfta::SET_FLAGS, self.flags),
            ("key type", nfta::SET_KEY_TYPE, self.key.kind),
            ("key length", nfta::SET_KEY_LEN, self.key.length),
            ("value type", nfta::SET_DATA_TYPE, self.value.map_or(0, |value| value.kind)),
            // The kernel reports a verdict's length as it stores it, 16 bytes; its type says enough.
            ("value length", nfta::SET_DATA_LEN, self.value.map_or(0, |value| value.length)),
        ];
        for (what, attribute, wanted) in expected {
            let found = wire::number(described, attribute).unwrap_or(0);
            let is_verdict = self.value.is_some_and(|value| value.kind == DATA_VERDICT);
            if found != wanted && !(attribute == nfta::SET_DATA_LEN && is_verdict) {
                return Err(format!("its {what} is {found:#x} instead of {wanted:#x}"));
            }
        }
        Ok(())
    }

    /// nft's notes on a set (libnftnl's udata.h, `enum nftnl_udata_set_types`): the byte orders and, where a type has no
    /// name, the expressions that stand for it.
    fn userdata(&self) -> Vec<u8> {
        const KEY_ORDER: u8 = 0;
        const DATA_ORDER: u8 = 1;
        const KEY_TYPEOF: u8 = 3;
        const DATA_TYPEOF: u8 = 4;

        let mut notes = note(KEY_ORDER, &(self.key.order as u32).to_ne_bytes());
        if let Some(value) = self.value {
            notes.extend(note(DATA_ORDER, &(value.order as u32).to_ne_bytes()));
        }
        let types = match self.notes {
            Notes::Types => None,
            Notes::SlotTo(family, Tail::Address) => Some((numgen_note(), address_note(family))),
            Notes::SlotTo(family, Tail::AddressAndPort) => {
                Some((numgen_note(), concat_note(&[address_note(family), port_note()])))
            }
            Notes::MacToZone => Some((sender_note(), zone_note())),
        };
        if let Some((key, value)) = types {
            notes.extend(note(KEY_TYPEOF, &key));
            notes.extend(note(DATA_TYPEOF, &value));
        }
        notes
    }
}

const PROTOCOL: Field = Field { kind: TYPE_PROTOCOL, length: 1, order: Order::Mixed };
const PORT: Field = Field { kind: TYPE_SERVICE, length: 2, order: Order::Network };
/// `IFNAMSIZ` bytes.
const DEVICE: Field = Field { kind: TYPE_DEVICE, length: 16, order: Order::Host };

/// Fields one after the other, each filled up to a register of 4 bytes.
fn concat(fields: &[Field]) -> Field {
    Field {
        kind: fields.iter().fold(0, |kind, field| kind << TYPE_BITS | field.kind),
        length: fields.iter().map(|field| field.length.next_multiple_of(4)).sum(),
        order: Order::Mixed,
    }
}

fn address(family: Family) -> Field {
    match family {
        Family::V4 => Field { kind: TYPE_IPV4, length: 4, order: Order::Network },
        Family::V6 => Field { kind: TYPE_IPV6, length: 16, order: Order::Network },
    }
}

/// One note: type, length, value. All of ours are far shorter than 255 bytes.
fn note(kind: u8, value: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind, u8::try_from(value.len()).unwrap_or(u8::MAX)];
    bytes.extend_from_slice(value);
    bytes
}

/// nft's note on an expression: its kind (`enum expr_types` in nft's expression.h) and its own notes.
fn expression_note(kind: u32, content: &[u8]) -> Vec<u8> {
    [note(0, &kind.to_ne_bytes()), note(1, content)].concat()
}

/// `numgen inc mod 65536`: type, modulus, offset.
fn numgen_note() -> Vec<u8> {
    let fields = [0_u32, 65_536, 0];
    let content: Vec<u8> = (0_u8..).zip(fields).flat_map(|(index, value)| note(index, &value.to_ne_bytes())).collect();
    expression_note(23, &content)
}

/// A field of a header, by nft's numbers for the header (`enum proto_desc_id` in its proto.h) and the field in it.
fn payload_note(header: u32, field: u32) -> Vec<u8> {
    expression_note(7, &[note(0, &header.to_ne_bytes()), note(1, &field.to_ne_bytes())].concat())
}

/// `ip daddr` or `ip6 daddr`.
fn address_note(family: Family) -> Vec<u8> {
    match family {
        Family::V4 => payload_note(12, 12),
        Family::V6 => payload_note(13, 9),
    }
}

/// `ether saddr`.
fn sender_note() -> Vec<u8> {
    payload_note(17, 2)
}

/// `ct zone`: the key, and no direction.
fn zone_note() -> Vec<u8> {
    expression_note(12, &[note(0, &17_u32.to_ne_bytes()), note(1, &u32::MAX.to_ne_bytes())].concat())
}

/// `th dport`.
fn port_note() -> Vec<u8> {
    payload_note(11, 2)
}

fn concat_note(parts: &[Vec<u8>]) -> Vec<u8> {
    let content: Vec<u8> = (0_u8..).zip(parts).flat_map(|(index, part)| note(index, part)).collect();
    expression_note(13, &content)
}
