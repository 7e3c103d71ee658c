//! Elements of sets as the kernel holds them.
//!
//! A prefix in a set of intervals is two elements: its first address, and the first address behind it with the mark
//! "end". Of two prefixes side by side, the first one's end and the second one's start have the same key; each keeps its own,
//! so either can be added or removed alone. A pair of prefixes is one element with a first and a last key.

mod read;
mod write;

pub(super) use self::{
    read::{RawElement, read},
    write::{size_max, write},
};

/// How many bytes of elements go into one message. The list is one attribute, whose length has 16 bits; the largest
/// element (a port that answers at an IPv6 address, which its chain's name repeats) takes some 130 bytes.
pub(super) const CHUNK_BYTES_MAX: usize = 60_000;

/// `IFNAMSIZ`: a device's name in a key, filled up with zeros.
const DEVICE_LEN: usize = 16;

/// `NFT_SET_ELEM_INTERVAL_END`.
const FLAG_INTERVAL_END: u32 = 1;
