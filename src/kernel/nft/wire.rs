//! Netlink messages as bytes: headers, attributes and the numbers of `linux/netfilter/nf_tables.h`.
//!
//! The crate's nftables types know neither numgen, nat, fib nor reject, and hold each element in several vectors; a set
//! of 20,000 elements is written here into one buffer instead.

use netlink_packet_core::{Emitable, NLA_F_NESTED, NetlinkHeader, NlasIterator};
use netlink_packet_netfilter::{NetfilterHeader, NetfilterProtoFamily};

/// The bytes of a netlink header.
pub(in crate::kernel) const HEADER_LEN: usize = 16;
/// The bytes of the netfilter header behind it.
pub(in crate::kernel) const NETFILTER_HEADER_LEN: usize = 4;
/// The subsystem's number, the high byte of every message type.
const NFNL_SUBSYS_NFTABLES: u16 = 10;

/// The messages that we send and get, with their numbers in `linux/netfilter/nf_tables.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    BatchBegin,
    BatchEnd,
    NewTable,
    GetTable,
    DelTable,
    NewChain,
    GetChain,
    DelChain,
    NewRule,
    GetRule,
    DelRule,
    NewSet,
    GetSet,
    DelSet,
    NewElements,
    GetElements,
    DelElements,
    GetGeneration,
}

impl Kind {
    /// The number in the netlink header.
    fn number(self) -> u16 {
        let nftables = |number| (NFNL_SUBSYS_NFTABLES << 8) | number;
        match self {
            Self::BatchBegin => 0x10,
            Self::BatchEnd => 0x11,
            Self::NewTable => nftables(0),
            Self::GetTable => nftables(1),
            Self::DelTable => nftables(2),
            Self::NewChain => nftables(3),
            Self::GetChain => nftables(4),
            Self::DelChain => nftables(5),
            Self::NewRule => nftables(6),
            Self::GetRule => nftables(7),
            Self::DelRule => nftables(8),
            Self::NewSet => nftables(9),
            Self::GetSet => nftables(10),
            Self::DelSet => nftables(11),
            Self::NewElements => nftables(12),
            Self::GetElements => nftables(13),
            Self::DelElements => nftables(14),
            Self::GetGeneration => nftables(16),
        }
    }

    /// The netfilter header: the batch's brackets name the subsystem, all else the table's family.
    fn netfilter_header(self) -> NetfilterHeader {
        match self {
            Self::BatchBegin | Self::BatchEnd => {
                NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, NFNL_SUBSYS_NFTABLES)
            }
            Self::GetGeneration => NetfilterHeader::new(NetfilterProtoFamily::Unspec, 0, 0),
            _ => NetfilterHeader::new(NetfilterProtoFamily::Inet, 0, 0),
        }
    }
}

/// The type of the message that says that the generation changed; it comes to every listener after each commit.
pub(super) const NEW_GENERATION: u16 = (NFNL_SUBSYS_NFTABLES << 8) | 15;

/// The kernel's numbers, by the names they have in `linux/netfilter/nf_tables.h` without the prefix.
pub(super) mod nfta {
    pub(in super::super) const BATCH_GENID: u16 = 1;
    pub(in super::super) const GEN_ID: u16 = 1;
    pub(in super::super) const LIST_ELEM: u16 = 1;

    pub(in super::super) const TABLE_NAME: u16 = 1;
    pub(in super::super) const TABLE_FLAGS: u16 = 2;

    pub(in super::super) const CHAIN_TABLE: u16 = 1;
    pub(in super::super) const CHAIN_NAME: u16 = 3;
    pub(in super::super) const CHAIN_HOOK: u16 = 4;
    pub(in super::super) const CHAIN_POLICY: u16 = 5;
    pub(in super::super) const CHAIN_TYPE: u16 = 7;
    pub(in super::super) const HOOK_HOOKNUM: u16 = 1;
    pub(in super::super) const HOOK_PRIORITY: u16 = 2;

    pub(in super::super) const RULE_TABLE: u16 = 1;
    pub(in super::super) const RULE_CHAIN: u16 = 2;
    pub(in super::super) const RULE_HANDLE: u16 = 3;
    pub(in super::super) const RULE_EXPRESSIONS: u16 = 4;
    pub(in super::super) const RULE_USERDATA: u16 = 7;

    pub(in super::super) const SET_TABLE: u16 = 1;
    pub(in super::super) const SET_NAME: u16 = 2;
    pub(in super::super) const SET_FLAGS: u16 = 3;
    pub(in super::super) const SET_KEY_TYPE: u16 = 4;
    pub(in super::super) const SET_KEY_LEN: u16 = 5;
    pub(in super::super) const SET_DATA_TYPE: u16 = 6;
    pub(in super::super) const SET_DATA_LEN: u16 = 7;
    pub(in super::super) const SET_DESC: u16 = 9;
    pub(in super::super) const SET_ID: u16 = 10;
    pub(in super::super) const SET_USERDATA: u16 = 13;
    pub(in super::super) const SET_DESC_SIZE: u16 = 1;
    pub(in super::super) const SET_DESC_CONCAT: u16 = 2;
    pub(in super::super) const SET_FIELD_LEN: u16 = 1;

    pub(in super::super) const SET_ELEM_LIST_TABLE: u16 = 1;
    pub(in super::super) const SET_ELEM_LIST_SET: u16 = 2;
    pub(in super::super) const SET_ELEM_LIST_ELEMENTS: u16 = 3;
    pub(in super::super) const SET_ELEM_KEY: u16 = 1;
    pub(in super::super) const SET_ELEM_DATA: u16 = 2;
    pub(in super::super) const SET_ELEM_FLAGS: u16 = 3;
    pub(in super::super) const SET_ELEM_KEY_END: u16 = 10;

    pub(in super::super) const DATA_VALUE: u16 = 1;
    pub(in super::super) const DATA_VERDICT: u16 = 2;
    pub(in super::super) const VERDICT_CODE: u16 = 1;
    pub(in super::super) const VERDICT_CHAIN: u16 = 2;

    pub(in super::super) const EXPR_NAME: u16 = 1;
    pub(in super::super) const EXPR_DATA: u16 = 2;
    pub(in super::super) const COUNTER_PACKETS: u16 = 2;
}

/// The verdict `goto`, `NFT_GOTO` in `linux/netfilter/nf_tables.h`.
pub(super) const VERDICT_GOTO: i32 = -4;
/// The verdict `drop`, `NF_DROP` in `linux/netfilter.h`.
pub(super) const VERDICT_DROP: i32 = 0;
/// The verdict `accept`, `NF_ACCEPT` in `linux/netfilter.h`.
pub(super) const VERDICT_ACCEPT: i32 = 1;

/// Writes one message at the end of `bytes`.
pub(super) fn write_message(
    bytes: &mut Vec<u8>,
    kind: Kind,
    flags: u16,
    sequence: u32,
    body: impl FnOnce(&mut Attributes<'_>),
) {
    let start = bytes.len();
    bytes.resize(start + HEADER_LEN + NETFILTER_HEADER_LEN, 0);
    kind.netfilter_header().emit(&mut bytes[start + HEADER_LEN..]);
    body(&mut Attributes(bytes));
    let mut header = NetlinkHeader::default();
    // A message holds one bounded nest of elements or one rule, so it never comes near 4 GiB.
    header.length = u32::try_from(bytes.len() - start).unwrap_or(u32::MAX);
    header.message_type = kind.number();
    header.flags = flags;
    header.sequence_number = sequence;
    header.emit(&mut bytes[start..start + HEADER_LEN]);
}

/// Attributes being written at the end of a buffer.
pub(super) struct Attributes<'a>(&'a mut Vec<u8>);

impl Attributes<'_> {
    /// An attribute of these bytes.
    pub(super) fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.write(kind, |buffer| buffer.extend_from_slice(value));
    }

    /// A name, ended by a NUL.
    pub(super) fn text(&mut self, kind: u16, value: &str) {
        self.write(kind, |buffer| {
            buffer.extend_from_slice(value.as_bytes());
            buffer.push(0);
        });
    }

    /// A number in network byte order, as nearly all of the subsystem's own fields are.
    pub(super) fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute made of attributes.
    pub(super) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Attributes<'_>)) {
        self.write(kind | NLA_F_NESTED, |buffer| body(&mut Attributes(buffer)));
    }

    /// A value in the form of `struct nft_data`.
    pub(super) fn data(&mut self, kind: u16, value: &[u8]) {
        self.nest(kind, |data| data.bytes(nfta::DATA_VALUE, value));
    }

    /// A verdict in the form of `struct nft_data`.
    pub(super) fn verdict(&mut self, kind: u16, code: i32, chain: Option<&str>) {
        self.nest(kind, |data| {
            data.nest(nfta::DATA_VERDICT, |verdict| {
                verdict.bytes(nfta::VERDICT_CODE, &code.to_be_bytes());
                if let Some(chain) = chain {
                    verdict.text(nfta::VERDICT_CHAIN, chain);
                }
            });
        });
    }

    fn write(&mut self, kind: u16, value: impl FnOnce(&mut Vec<u8>)) {
        let start = self.0.len();
        self.0.extend_from_slice(&[0; 4]);
        value(self.0);
        // The one attribute that grows with its content, a list of elements, is cut by `element::CHUNK_BYTES_MAX`.
        let length = u16::try_from(self.0.len() - start).unwrap_or(u16::MAX);
        self.0[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.0[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
        self.0.resize(self.0.len().next_multiple_of(4), 0);
    }
}

/// The attributes in `bytes`: kind without its flags, and value. Ends at the first that is cut short.
pub(in crate::kernel) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    NlasIterator::new(bytes).map_while(|attribute| {
        let attribute = attribute.ok()?;
        let (kind, length) = (attribute.kind(), attribute.value_length());
        let start = attribute.into_inner().get(4..4 + length)?;
        Some((kind, start))
    })
}

/// The first attribute of a kind.
pub(in crate::kernel) fn attribute(bytes: &[u8], kind: u16) -> Option<&[u8]> {
    attributes(bytes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// The text of an attribute, without its NUL.
pub(super) fn text(bytes: &[u8], kind: u16) -> Option<&str> {
    let value = attribute(bytes, kind)?;
    std::str::from_utf8(value.strip_suffix(&[0]).unwrap_or(value)).ok()
}

/// The number in an attribute, in network byte order.
pub(in crate::kernel) fn number(bytes: &[u8], kind: u16) -> Option<u32> {
    attribute(bytes, kind)?.try_into().ok().map(u32::from_be_bytes)
}

/// The 64-bit number in an attribute, in network byte order.
pub(in crate::kernel) fn number64(bytes: &[u8], kind: u16) -> Option<u64> {
    attribute(bytes, kind)?.try_into().ok().map(u64::from_be_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        let mut bytes = Vec::new();
        write_message(&mut bytes, Kind::NewRule, 1, 7, |rule| {
            rule.text(1, "weft");
            rule.nest(4, |nest| nest.number(2, 0x0102_0304));
            rule.bytes(5, &[9; 5]);
        });
        assert_eq!(bytes.len() % 4, 0);
        assert_eq!(u32::from_ne_bytes(bytes[..4].try_into().unwrap()) as usize, bytes.len());
        let body = &bytes[HEADER_LEN + NETFILTER_HEADER_LEN..];
        assert_eq!(text(body, 1), Some("weft"));
        assert_eq!(number(attribute(body, 4).unwrap(), 2), Some(0x0102_0304));
        assert_eq!(attribute(body, 5), Some(&[9; 5][..]));
        assert_eq!(attribute(body, 6), None);
        assert_eq!(attributes(&body[..6]).count(), 0, "an attribute cut short is none");
    }
}
