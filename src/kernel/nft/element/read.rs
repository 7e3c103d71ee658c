//! What the kernel's elements say.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use super::{DEVICE_LEN, FLAG_INTERVAL_END};
use crate::{
    kernel::nft::wire::{self, VERDICT_GOTO, nfta},
    model::{DeviceName, Family, L4, Mac, ServiceId, SetKey, SetName, SetSchema, SetValue, Slot},
};

/// Reads a set's elements from the kernel's, which come in any order.
pub(in crate::kernel::nft) fn read(set: SetName, raw: &[RawElement]) -> Result<Vec<(SetKey, SetValue)>, String> {
    match set.schema() {
        SetSchema::Prefixes(family) => read_prefixes(family, raw),
        SetSchema::ClientToAddress(_) => Ok(Vec::new()),
        schema => raw
            .iter()
            .map(|element| {
                read_one(schema, element)
                    .ok_or_else(|| format!("it has an element that is not weft's: {:02x?}", element.key))
            })
            .collect(),
    }
}

/// An element as the kernel tells it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(in crate::kernel::nft) struct RawElement {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    value: Vec<u8>,
    chain: Option<String>,
    flags: u32,
}

impl RawElement {
    /// An element from its attributes.
    pub(in crate::kernel::nft) fn parse(element: &[u8]) -> Self {
        let data = |kind| {
            wire::attribute(element, kind).and_then(|data| wire::attribute(data, nfta::DATA_VALUE)).map(<[u8]>::to_vec)
        };
        let verdict =
            wire::attribute(element, nfta::SET_ELEM_DATA).and_then(|data| wire::attribute(data, nfta::DATA_VERDICT));
        let goto =
            verdict.filter(|verdict| wire::number(verdict, nfta::VERDICT_CODE) == Some(VERDICT_GOTO.cast_unsigned()));
        Self {
            key: data(nfta::SET_ELEM_KEY).unwrap_or_default(),
            key_end: data(nfta::SET_ELEM_KEY_END),
            value: data(nfta::SET_ELEM_DATA).unwrap_or_default(),
            chain: goto.and_then(|verdict| wire::text(verdict, nfta::VERDICT_CHAIN)).map(str::to_owned),
            flags: wire::number(element, nfta::SET_ELEM_FLAGS).unwrap_or(0),
        }
    }
}

fn read_one(schema: SetSchema, element: &RawElement) -> Option<(SetKey, SetValue)> {
    let goto = || Some(SetValue::Goto(element.chain.as_ref()?.parse().ok()?));
    let slot = || Some(SetKey::Slot(Slot(u32::from_ne_bytes(element.key.as_slice().try_into().ok()?))));
    if element.flags != 0 {
        return None;
    }
    Some(match schema {
        SetSchema::PortToChain => {
            let (protocol, port) = read_service(&element.key)?;
            (SetKey::Port(protocol, port), goto()?)
        }
        SetSchema::AddressPortToChain(family) => {
            let (address, service) = element.key.split_at_checked(address_len(family))?;
            let (protocol, port) = read_service(service)?;
            (SetKey::AddressPort(read_address(family, address)?, protocol, port), goto()?)
        }
        SetSchema::DevicePortToChain => {
            let (device, service) = element.key.split_at_checked(DEVICE_LEN)?;
            let device = device.split(|byte| *byte == 0).next()?;
            let device: DeviceName = std::str::from_utf8(device).ok()?.parse().ok()?;
            let (protocol, port) = read_service(service)?;
            (SetKey::DevicePort(device, protocol, port), goto()?)
        }
        SetSchema::AddressToService(family) => {
            let service = u16::try_from(u32::from_ne_bytes(element.value.as_slice().try_into().ok()?)).ok()?;
            (SetKey::Address(read_address(family, &element.key)?), SetValue::Service(ServiceId::new(service)?))
        }
        SetSchema::AddressPairs(family) => {
            let (source, destination) = element.key.split_at_checked(address_len(family))?;
            let pair = SetKey::AddressPair(read_address(family, source)?, read_address(family, destination)?);
            (pair, SetValue::Nothing)
        }
        SetSchema::AddressToChain(family) => (SetKey::Address(read_address(family, &element.key)?), goto()?),
        SetSchema::SlotToTarget(family) => {
            let (address, port) = element.value.split_at_checked(address_len(family))?;
            let [high, low, _, _] = *port else { return None };
            let target = SocketAddr::new(read_address(family, address)?, u16::from_be_bytes([high, low]));
            (slot()?, SetValue::Target(target))
        }
        SetSchema::SlotToAddress(family) => (slot()?, SetValue::Address(read_address(family, &element.value)?)),
        SetSchema::MacToMark => (
            SetKey::Mac(Mac(element.key.as_slice().try_into().ok()?)),
            SetValue::Mark(u32::from_ne_bytes(element.value.as_slice().try_into().ok()?)),
        ),
        SetSchema::MacToZone => (
            SetKey::Mac(Mac(element.key.as_slice().try_into().ok()?)),
            SetValue::Zone(u16::from_ne_bytes(element.value.as_slice().try_into().ok()?)),
        ),
        SetSchema::Addresses(family) => (SetKey::Address(read_address(family, &element.key)?), SetValue::Nothing),
        // A prefix is not told by one element alone: `read_prefixes`. What the kernel remembers is not ours.
        SetSchema::Prefixes(_) | SetSchema::ClientToAddress(_) => return None,
        SetSchema::PrefixPairs(family) => {
            let length = address_len(family);
            let (source, destination) = element.key.split_at_checked(length)?;
            let (source_end, destination_end) =
                element.key_end.as_ref().unwrap_or(&element.key).split_at_checked(length)?;
            let prefix = |first, last| prefix_of(family, read_number(family, first)?, read_number(family, last)?);
            (SetKey::PrefixPair(prefix(source, source_end)?, prefix(destination, destination_end)?), SetValue::Nothing)
        }
    })
}

/// Puts starts and ends together. Where keys are equal the end comes first: it belongs to the prefix before. An end
/// without a start says nothing (nft adds one at the very first address), and a start that meets no end before the next start
/// ends there (nft leaves such ends out).
fn read_prefixes(family: Family, raw: &[RawElement]) -> Result<Vec<(SetKey, SetValue)>, String> {
    let foreign = |first: u128| format!("it has an interval from {first:#x} that is not one prefix");
    let mut marks = raw
        .iter()
        .map(|element| Some((read_number(family, &element.key)?, element.flags & FLAG_INTERVAL_END == 0)))
        .collect::<Option<Vec<_>>>()
        .ok_or("it has an element that is not an address")?;
    marks.sort_unstable();
    let mut prefixes = Vec::new();
    let mut open = None;
    let last = u128::MAX >> (128 - 8 * address_len(family));
    let ends = marks.into_iter().map(|(key, is_start)| (Some(key), is_start)).chain([(None, false)]);
    for (key, is_start) in ends {
        if let Some(first) = open.take() {
            let end = key.map_or(Some(last), |key| key.checked_sub(1));
            let prefix = end.and_then(|end| prefix_of(family, first, end)).ok_or_else(|| foreign(first))?;
            prefixes.push((SetKey::Prefix(prefix), SetValue::Nothing));
        }
        if is_start {
            open = key;
        }
    }
    Ok(prefixes)
}

fn read_service(bytes: &[u8]) -> Option<(L4, u16)> {
    let [protocol, _, _, _, high, low, _, _] = *bytes else { return None };
    let protocol = [L4::Tcp, L4::Udp, L4::Sctp].into_iter().find(|known| known.number() == protocol)?;
    Some((protocol, u16::from_be_bytes([high, low])))
}

fn address_len(family: Family) -> usize {
    match family {
        Family::V4 => 4,
        Family::V6 => 16,
    }
}

fn read_address(family: Family, bytes: &[u8]) -> Option<IpAddr> {
    Some(match family {
        Family::V4 => IpAddr::from(<[u8; 4]>::try_from(bytes).ok()?),
        Family::V6 => IpAddr::from(<[u8; 16]>::try_from(bytes).ok()?),
    })
}

fn read_number(family: Family, bytes: &[u8]) -> Option<u128> {
    Some(match read_address(family, bytes)? {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    })
}

/// The prefix from `first` to `last`, if that is what they span.
fn prefix_of(family: Family, first: u128, last: u128) -> Option<IpNet> {
    let host = first ^ last;
    let host_bits = host.trailing_ones();
    if host.count_ones() != host_bits || first & host != 0 {
        return None;
    }
    let (address, bits) = match family {
        Family::V4 => (IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(first).ok()?)), 32),
        Family::V6 => (IpAddr::V6(Ipv6Addr::from_bits(first)), 128),
    };
    IpNet::new(address, u8::try_from(bits - host_bits).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::{super::write::address_bytes, *};

    const START: bool = true;
    const END: bool = false;

    fn read_v4(marks: &[(&str, bool)]) -> Result<Vec<String>, String> {
        let raw: Vec<_> = marks
            .iter()
            .map(|(address, is_start)| RawElement {
                key: address_bytes(address.parse().unwrap()),
                flags: if *is_start { 0 } else { FLAG_INTERVAL_END },
                ..RawElement::default()
            })
            .collect();
        let elements = read(SetName::Networks(Family::V4), &raw)?;
        Ok(elements
            .into_iter()
            .map(|(key, _)| match key {
                SetKey::Prefix(prefix) => prefix.to_string(),
                other => panic!("{other:?}"),
            })
            .collect())
    }

    #[test]
    fn starts_and_ends_make_prefixes() {
        for (marks, prefixes) in [
            (&[][..], &[][..]),
            (&[("10.0.1.0", END), ("10.0.0.0", START)], &["10.0.0.0/24"]),
            // Side by side, with both ends and with nft's omission of the inner one.
            (
                &[("10.0.1.0", START), ("10.0.2.0", END), ("10.0.1.0", END), ("10.0.0.0", START)],
                &["10.0.0.0/24", "10.0.1.0/24"],
            ),
            (&[("10.0.0.0", START), ("10.0.1.0", START), ("10.0.2.0", END)], &["10.0.0.0/24", "10.0.1.0/24"]),
            // nft's end at the very first address says nothing; nor does any other end alone.
            (&[("0.0.0.0", END), ("9.0.0.0", END), ("10.0.0.0", START), ("11.0.0.0", END)], &["10.0.0.0/8"]),
            (&[("255.255.255.255", START)], &["255.255.255.255/32"]),
            (&[("0.0.0.0", START)], &["0.0.0.0/0"]),
            (&[("128.0.0.0", START), ("128.0.0.0", END), ("0.0.0.0", START)], &["0.0.0.0/1", "128.0.0.0/1"]),
        ] {
            let prefixes: Vec<_> = prefixes.iter().map(ToString::to_string).collect();
            assert_eq!(read_v4(marks), Ok(prefixes), "{marks:?}");
        }
        for marks in [
            &[("10.0.0.1", START), ("10.0.0.7", END)][..],
            &[("10.0.1.0", START), ("10.0.3.0", END)],
            &[("10.0.0.0", START), ("10.0.0.0", START)],
        ] {
            assert!(read_v4(marks).is_err(), "{marks:?}");
        }
    }
}
