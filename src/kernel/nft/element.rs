//! Elements of sets as the kernel holds them.
//!
//! A prefix in a set of intervals is two elements: its first address, and the first address behind it with the mark
//! "end". Of two prefixes side by side, the first one's end and the second one's start have the same key; each keeps its own,
//! so either can be added or removed alone. A pair of prefixes is one element with a first and a last key.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use ipnet::IpNet;

use crate::model::{DeviceName, Family, L4, Mac, ServiceId, SetKey, SetName, SetSchema, SetValue, Slot};

use super::wire::{self, Attributes, VERDICT_GOTO, nfta};

/// How many bytes of elements go into one message. The list is one attribute, whose length has 16 bits; the largest
/// element (a port that answers at an IPv6 address, which its chain's name repeats) takes some 130 bytes.
pub(super) const CHUNK_BYTES_MAX: usize = 60_000;

/// `IFNAMSIZ`: a device's name in a key, filled up with zeros.
const DEVICE_LEN: usize = 16;

/// `NFT_SET_ELEM_INTERVAL_END`.
const FLAG_INTERVAL_END: u32 = 1;

/// How many bytes the kernel's form of one element of the set takes at most: attribute headers, keys, value.
pub(super) fn size_max(set: SetName) -> usize {
    match set.schema() {
        SetSchema::SlotToTarget(_)
        | SetSchema::SlotToAddress(_)
        | SetSchema::MacToMark
        | SetSchema::MacToZone
        | SetSchema::AddressToService(_)
        | SetSchema::AddressPairs(_)
        | SetSchema::Addresses(_) => 64,
        SetSchema::PortToChain
        | SetSchema::AddressToChain(_)
        | SetSchema::ClientToAddress(_)
        | SetSchema::Prefixes(_)
        | SetSchema::PrefixPairs(_) => 96,
        SetSchema::AddressPortToChain(_) | SetSchema::DevicePortToChain => 144,
    }
}

/// Writes an element into the message's list; an error names a key or value that does not belong in the set.
pub(super) fn write(set: SetName, key: SetKey, value: SetValue, list: &mut Attributes<'_>) -> Result<(), String> {
    let misfit = || format!("{key:?} to {value:?} does not belong in the set {set}");
    match (set.schema(), key, value) {
        (SetSchema::PortToChain, SetKey::Port(protocol, port), SetValue::Goto(chain)) => {
            write_goto(list, &service_bytes(protocol, port), &chain.to_string());
        }
        (
            SetSchema::AddressPortToChain(family),
            SetKey::AddressPort(address, protocol, port),
            SetValue::Goto(chain),
        ) if Family::of(address) == family => {
            let key = [address_bytes(address).as_slice(), &service_bytes(protocol, port)].concat();
            write_goto(list, &key, &chain.to_string());
        }
        (SetSchema::DevicePortToChain, SetKey::DevicePort(device, protocol, port), SetValue::Goto(chain)) => {
            let mut key = device.as_str().as_bytes().to_vec();
            key.resize(DEVICE_LEN, 0);
            key.extend(service_bytes(protocol, port));
            write_goto(list, &key, &chain.to_string());
        }
        (SetSchema::AddressToService(family), SetKey::Address(address), SetValue::Service(service))
            if Family::of(address) == family =>
        {
            write_pair(list, &address_bytes(address), &u32::from(service.get()).to_ne_bytes());
        }
        (SetSchema::AddressPairs(family), SetKey::AddressPair(source, destination), SetValue::Nothing)
            if Family::of(source) == family && Family::of(destination) == family =>
        {
            let key = [address_bytes(source), address_bytes(destination)].concat();
            list.nest(nfta::LIST_ELEM, |element| element.data(nfta::SET_ELEM_KEY, &key));
        }
        (SetSchema::AddressToChain(family), SetKey::Address(address), SetValue::Goto(chain))
            if Family::of(address) == family =>
        {
            write_goto(list, &address_bytes(address), &chain.to_string());
        }
        (SetSchema::SlotToTarget(family), SetKey::Slot(slot), SetValue::Target(target))
            if Family::of(target.ip()) == family =>
        {
            let mut bytes = address_bytes(target.ip());
            bytes.extend_from_slice(&target.port().to_be_bytes());
            bytes.extend_from_slice(&[0; 2]);
            write_pair(list, &slot.0.to_ne_bytes(), &bytes);
        }
        (SetSchema::SlotToAddress(family), SetKey::Slot(slot), SetValue::Address(address))
            if Family::of(address) == family =>
        {
            write_pair(list, &slot.0.to_ne_bytes(), &address_bytes(address));
        }
        (SetSchema::MacToMark, SetKey::Mac(mac), SetValue::Mark(mark)) => write_pair(list, &mac.0, &mark.to_ne_bytes()),
        (SetSchema::MacToZone, SetKey::Mac(mac), SetValue::Zone(zone)) => write_pair(list, &mac.0, &zone.to_ne_bytes()),
        (SetSchema::Addresses(family), SetKey::Address(address), SetValue::Nothing)
            if Family::of(address) == family =>
        {
            list.nest(nfta::LIST_ELEM, |element| element.data(nfta::SET_ELEM_KEY, &address_bytes(address)));
        }
        (SetSchema::Prefixes(family), SetKey::Prefix(prefix), SetValue::Nothing)
            if Family::of(prefix.network()) == family =>
        {
            let first = address_bytes(prefix.network());
            list.nest(nfta::LIST_ELEM, |element| element.data(nfta::SET_ELEM_KEY, &first));
            // A prefix that reaches the last address has no end.
            if let Some(behind) = behind(prefix.broadcast()) {
                list.nest(nfta::LIST_ELEM, |element| {
                    element.number(nfta::SET_ELEM_FLAGS, FLAG_INTERVAL_END);
                    element.data(nfta::SET_ELEM_KEY, &behind);
                });
            }
        }
        (SetSchema::PrefixPairs(family), SetKey::PrefixPair(source, destination), SetValue::Nothing)
            if Family::of(source.network()) == family && Family::of(destination.network()) == family =>
        {
            let key = [address_bytes(source.network()), address_bytes(destination.network())].concat();
            let key_end = [address_bytes(source.broadcast()), address_bytes(destination.broadcast())].concat();
            list.nest(nfta::LIST_ELEM, |element| {
                element.data(nfta::SET_ELEM_KEY, &key);
                element.data(nfta::SET_ELEM_KEY_END, &key_end);
            });
        }
        _ => return Err(misfit()),
    }
    Ok(())
}

/// Reads a set's elements from the kernel's, which come in any order.
pub(super) fn read(set: SetName, raw: &[RawElement]) -> Result<Vec<(SetKey, SetValue)>, String> {
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
pub(super) struct RawElement {
    key: Vec<u8>,
    key_end: Option<Vec<u8>>,
    value: Vec<u8>,
    chain: Option<String>,
    flags: u32,
}

impl RawElement {
    /// An element from its attributes.
    pub(super) fn parse(element: &[u8]) -> Self {
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

fn write_goto(list: &mut Attributes<'_>, key: &[u8], chain: &str) {
    list.nest(nfta::LIST_ELEM, |element| {
        element.data(nfta::SET_ELEM_KEY, key);
        element.verdict(nfta::SET_ELEM_DATA, VERDICT_GOTO, Some(chain));
    });
}

fn write_pair(list: &mut Attributes<'_>, key: &[u8], value: &[u8]) {
    list.nest(nfta::LIST_ELEM, |element| {
        element.data(nfta::SET_ELEM_KEY, key);
        element.data(nfta::SET_ELEM_DATA, value);
    });
}

/// Protocol and port as two fields of a concatenation.
fn service_bytes(protocol: L4, port: u16) -> [u8; 8] {
    let [high, low] = port.to_be_bytes();
    [protocol.number(), 0, 0, 0, high, low, 0, 0]
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

fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// The address behind `last`, unless it is the very last one.
fn behind(last: IpAddr) -> Option<Vec<u8>> {
    Some(match last {
        IpAddr::V4(last) => last.to_bits().checked_add(1)?.to_be_bytes().to_vec(),
        IpAddr::V6(last) => last.to_bits().checked_add(1)?.to_be_bytes().to_vec(),
    })
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
    use super::*;
    use crate::model::Bind;

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

    #[test]
    fn a_full_chunk_fits_into_one_attribute() {
        let net: IpNet = "fd00::/64".parse().unwrap();
        let v6 = IpAddr::V6(Ipv6Addr::from([0xffff; 8]));
        let device: DeviceName = "enp0s31f6.1000x".parse().unwrap();
        let port = |bind| SetValue::Goto(crate::model::ChainName::Port(L4::Sctp, u16::MAX, bind));
        let chain = crate::model::ChainName::Port(L4::Udp, u16::MAX, Bind::Any);
        let service = ServiceId::new(u16::MAX).unwrap();
        for (set, key, value) in [
            (SetName::Ports, SetKey::Port(L4::Udp, 1), SetValue::Goto(chain)),
            (SetName::Bound(Family::V6), SetKey::AddressPort(v6, L4::Sctp, u16::MAX), port(Bind::Address(v6))),
            (SetName::DevicePorts, SetKey::DevicePort(device, L4::Sctp, u16::MAX), port(Bind::Device(device))),
            (SetName::Takers(Family::V6), SetKey::Address(v6), SetValue::Service(service)),
            (SetName::Hairpin(Family::V6), SetKey::AddressPair(v6, v6), SetValue::Nothing),
            (SetName::Vips(Family::V6), SetKey::Address(v6), SetValue::Goto(chain)),
            (SetName::Targets(Family::V6, 0), SetKey::Slot(Slot(1)), SetValue::Target((v6, 1).into())),
            (SetName::Replicas(Family::V6, 0), SetKey::Slot(Slot(1)), SetValue::Address(v6)),
            (SetName::Vteps, SetKey::Mac(Mac::GATEWAY), SetValue::Mark(1)),
            (SetName::Peers(Family::V6), SetKey::Address(v6), SetValue::Nothing),
            (SetName::Networks(Family::V6), SetKey::Prefix(net), SetValue::Nothing),
            (SetName::Within(Family::V6), SetKey::PrefixPair(net, net), SetValue::Nothing),
        ] {
            let mut bytes = Vec::new();
            let header = wire::HEADER_LEN + wire::NETFILTER_HEADER_LEN;
            wire::write_message(&mut bytes, wire::Kind::NewElements, 0, 1, |list| {
                write(set, key, value, list).unwrap();
            });
            assert!(bytes.len() - header <= size_max(set), "{set}: {}", bytes.len() - header);
        }
        const { assert!(CHUNK_BYTES_MAX + 4 <= u16::MAX as usize) };
    }
}
