//! What one element is written as.

use std::net::IpAddr;

use super::{DEVICE_LEN, FLAG_INTERVAL_END};
use crate::{
    kernel::nft::wire::{Attributes, VERDICT_GOTO, nfta},
    model::{Family, L4, SetKey, SetName, SetSchema, SetValue},
};

/// How many bytes the kernel's form of one element of the set takes at most: attribute headers, keys, value.
pub(in crate::kernel::nft) fn size_max(set: SetName) -> usize {
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
pub(in crate::kernel::nft) fn write(
    set: SetName,
    key: SetKey,
    value: SetValue,
    list: &mut Attributes<'_>,
) -> Result<(), String> {
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

pub(super) fn address_bytes(address: IpAddr) -> Vec<u8> {
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

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use ipnet::IpNet;

    use super::*;
    use crate::{
        kernel::nft::{element::CHUNK_BYTES_MAX, wire},
        model::{Bind, DeviceName, Mac, ServiceId, Slot},
    };

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
