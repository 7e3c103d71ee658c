//! Names of addresses: `7.0.42.10.in-addr.arpa` (RFC 1035, 3.5) and nibbles under `ip6.arpa` (RFC 3596, 2.5).

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// The addresses that a reverse name stands for: one, or for a shorter name all beneath it. Nothing if it is no such name.
pub(super) fn addresses_of(labels: &[&[u8]]) -> Option<IpNet> {
    match labels {
        [octets @ .., b"in-addr", b"arpa"] if octets.len() <= 4 => {
            let mut address = [0; 4];
            for (place, label) in address.iter_mut().zip(octets.iter().rev()) {
                *place = octet(label)?;
            }
            let len = u8::try_from(8 * octets.len()).ok()?;
            Ipv4Net::new(Ipv4Addr::from(address), len).ok().map(IpNet::V4)
        }
        [nibbles @ .., b"ip6", b"arpa"] if nibbles.len() <= 32 => {
            let mut address = 0_u128;
            for (index, label) in nibbles.iter().rev().enumerate() {
                address |= nibble(label)? << (124 - 4 * index);
            }
            let len = u8::try_from(4 * nibbles.len()).ok()?;
            Ipv6Net::new(Ipv6Addr::from(address), len).ok().map(IpNet::V6)
        }
        _ => None,
    }
}

/// How many labels the reverse name of a prefix has, `arpa` included. A prefix that ends within a label is named by what holds
/// it.
pub(super) fn labels_of(prefix: IpNet) -> usize {
    let bits_per_label = if matches!(prefix, IpNet::V4(_)) { 8 } else { 4 };
    2 + usize::from(prefix.prefix_len()) / bits_per_label
}

/// A number from 0 to 255 as people and programs write it, without leading zeros.
fn octet(label: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(label).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    let is_plain = text.len() == 1 || !text.starts_with('0');
    text.parse().ok().filter(|_| is_plain)
}

fn nibble(label: &[u8]) -> Option<u128> {
    match label {
        [digit] => char::from(*digit).to_digit(16).map(u128::from),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reverse_names_are_read() {
        for (name, meant) in [
            ("7.0.42.10.in-addr.arpa", Some("10.42.0.7/32")),
            ("42.10.in-addr.arpa", Some("10.42.0.0/16")),
            ("in-addr.arpa", Some("0.0.0.0/0")),
            ("256.0.42.10.in-addr.arpa", None),
            ("07.0.42.10.in-addr.arpa", None),
            ("+7.0.42.10.in-addr.arpa", None),
            ("0.42.10.x.in-addr.arpa", None),
            ("1.7.0.42.10.in-addr.arpa", None),
            ("2.4.0.0.d.f.ip6.arpa", Some("fd00:4200::/24")),
            (&format!("5.{}2.4.d.f.ip6.arpa", "0.".repeat(27)), Some("fd42::5/128")),
            (&format!("1.5.{}2.4.d.f.ip6.arpa", "0.".repeat(27)), None),
            ("g.ip6.arpa", None),
            ("10.ip6.arpa", None),
            ("arpa", None),
            ("web", None),
        ] {
            let labels: Vec<&[u8]> = name.split('.').map(str::as_bytes).collect();
            let found = addresses_of(&labels);
            assert_eq!(found, meant.map(|text| text.parse().unwrap()), "{name}");
            if let Some(net) = found {
                assert_eq!(labels_of(net), labels.len(), "{name}");
            }
        }
    }
}
