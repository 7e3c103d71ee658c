use ipnet::IpNet;

use crate::model::{Family, Network, Subnet};

/// The longest IPv4 prefix of a network: sixteen blocks of four addresses.
const V4_LEN_MAX: u8 = 26;
/// The longest IPv6 prefix of a network.
const V6_LEN_MAX: u8 = 122;
/// The shortest prefix of a network, both families: anything wider is a slip of the pen.
const LEN_MIN: u8 = 8;
/// A block's usual size: 64 addresses, so that a host with up to 60 containers has one route.
const V4_BLOCK_LEN: u8 = 26;
const V6_BLOCK_LEN: u8 = 122;
/// The prefix length that a pool is cut into for networks that name no subnet.
const V4_NETWORK_LEN: u8 = 24;
const V6_NETWORK_LEN: u8 = 64;

/// Why a prefix cannot be a network's.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Bits are set behind the prefix.
    #[error("{0} has bits set behind its prefix length; did you mean {1}?")]
    HostBits(IpNet, IpNet),
    /// Too few addresses to be cut into blocks, or too many to be meant.
    #[error("{0} cannot be a network's prefix: its length must lie between /{1} and /{2}")]
    Length(IpNet, u8, u8),
    /// Multicast, loopback, link-local or unspecified.
    #[error("{0} is not for hosts ({1})")]
    Special(IpNet, &'static str),
}

/// `prefix` as a network's subnet, with the block size that follows from it: a sixteenth of the prefix, but no more than
/// the usual 64 addresses. A /24 is cut into sixteen /28s, a /16 into /26s.
pub fn subnet(prefix: IpNet) -> Result<Subnet, SubnetError> {
    let (len_max, usual) = match prefix {
        IpNet::V4(_) => (V4_LEN_MAX, V4_BLOCK_LEN),
        IpNet::V6(_) => (V6_LEN_MAX, V6_BLOCK_LEN),
    };
    let len = prefix.prefix_len();
    if !(LEN_MIN..=len_max).contains(&len) {
        return Err(SubnetError::Length(prefix, LEN_MIN, len_max));
    }
    for (special, what) in SPECIAL {
        if special.parse::<IpNet>().is_ok_and(|special| overlaps(&special, &prefix)) {
            return Err(SubnetError::Special(prefix, what));
        }
    }
    // Last, so that what is proposed would be taken.
    if prefix != prefix.trunc() {
        return Err(SubnetError::HostBits(prefix, prefix.trunc()));
    }
    Ok(Subnet { prefix, block_len: usual.max(len + 4) })
}

/// Ranges that never belong to containers (IANA special-purpose address registries).
const SPECIAL: [(&str, &str); 9] = [
    ("0.0.0.0/8", "this network"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/8", "loopback and unspecified"),
    ("fe80::/10", "link-local"),
    ("ff00::/8", "multicast"),
    (Network::OWN_V6, "weft's own addresses"),
];

/// Whether two prefixes share an address.
fn overlaps(a: &IpNet, b: &IpNet) -> bool {
    a.contains(b) || b.contains(a)
}

/// The first subnet of usual size in the pools of a family that overlaps none of `taken`.
pub fn choose_subnet(pools: &[IpNet], family: Family, taken: &[IpNet]) -> Option<Subnet> {
    pools.iter().filter(|pool| Family::of(pool.addr()) == family).find_map(|pool| {
        let usual = match pool {
            IpNet::V4(_) => V4_NETWORK_LEN,
            IpNet::V6(_) => V6_NETWORK_LEN,
        };
        let len = usual.max(pool.prefix_len());
        // At most one candidate per taken prefix can be spoilt by it, or many by a wide one; the pool ends the search.
        pool.subnets(len)
            .ok()?
            .find(|candidate| !taken.iter().any(|other| overlaps(other, candidate)))
            .and_then(|free| subnet(free).ok())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_block_size_follows_from_the_prefix() {
        for (prefix, block_len) in [
            ("10.9.0.0/24", 28),
            ("10.0.0.0/16", 26),
            ("10.0.0.0/20", 26),
            ("10.0.0.0/23", 27),
            ("10.0.0.0/26", 30),
            ("fd00:1::/64", 122),
            ("fd00:1::/120", 124),
        ] {
            assert_eq!(subnet(net(prefix)).map(|subnet| subnet.block_len), Ok(block_len), "{prefix}");
        }
    }

    #[test]
    fn prefixes_that_cannot_be_are_refused() {
        for prefix in [
            "10.9.0.1/24",
            "10.9.0.0/27",
            "0.0.0.0/0",
            "127.0.0.0/16",
            "224.1.0.0/16",
            "169.254.0.0/20",
            "fe80::/64",
            "fd77:6566::/48",
            "::/64",
        ] {
            assert!(subnet(net(prefix)).is_err(), "{prefix}");
        }
    }

    #[test]
    fn what_is_proposed_would_be_taken() {
        for (prefix, proposed) in [("10.9.0.1/24", Some("10.9.0.0/24")), ("10.1.0.0/7", None), ("127.0.0.1/8", None)] {
            match subnet(net(prefix)).unwrap_err() {
                SubnetError::HostBits(_, other) => {
                    assert_eq!(Some(other), proposed.map(net));
                    assert!(subnet(other).is_ok(), "{other}");
                }
                SubnetError::Length(..) | SubnetError::Special(..) => assert_eq!(proposed, None, "{prefix}"),
            }
        }
    }

    #[test]
    fn subnets_are_cut_from_the_pools_in_order() {
        let pools = [net("10.1.0.0/23"), net("fd01:2345:6789::/48"), net("10.5.0.0/16")];
        let mut taken = vec![net("10.1.1.0/26")];
        for (family, expected) in [
            (Family::V4, "10.1.0.0/24"),
            (Family::V4, "10.5.0.0/24"),
            (Family::V6, "fd01:2345:6789::/64"),
            (Family::V4, "10.5.1.0/24"),
            (Family::V6, "fd01:2345:6789:1::/64"),
        ] {
            let chosen = choose_subnet(&pools, family, &taken).unwrap();
            assert_eq!(chosen.prefix, net(expected));
            taken.push(chosen.prefix);
        }
        assert_eq!(choose_subnet(&[net("10.1.0.0/24")], Family::V4, &[net("10.0.0.0/8")]), None);
        assert_eq!(choose_subnet(&[net("10.1.0.0/24")], Family::V6, &[]), None);
    }
}
