use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use ipnet::IpNet;

use crate::model::Subnet;

/// The next free address of `block` after `last`, round the block: an address that was just given back is used again as
/// late as possible, so that nobody's stale connection or cache meets a new owner.
pub fn choose_address(subnet: &Subnet, block: IpNet, taken: &BTreeSet<IpAddr>, last: Option<IpAddr>) -> Option<IpAddr> {
    let start = last.filter(|last| block.contains(last)).and_then(successor).filter(|next| block.contains(next));
    let first = block.network();
    let start = start.unwrap_or(first);
    // One more than are taken must hit a free one; two more for the network's own first and last address.
    let limit = taken.len() + 3;
    walk(start, block)
        .chain(walk(first, block).take_while(move |address| *address != start))
        .filter(|address| subnet.is_assignable(*address))
        .take(limit)
        .find(|address| !taken.contains(address))
}

/// An address out of somebody else's blocks, when the node has none left and can claim none: the one-address way out.
pub fn choose_borrowed(
    subnet: &Subnet,
    blocks: impl IntoIterator<Item = IpNet>,
    taken: &BTreeSet<IpAddr>,
) -> Option<IpAddr> {
    blocks.into_iter().find_map(|block| choose_address(subnet, block, taken, None))
}

fn walk(from: IpAddr, block: IpNet) -> impl Iterator<Item = IpAddr> {
    std::iter::successors(Some(from), |address| successor(*address)).take_while(move |address| block.contains(address))
}

fn successor(address: IpAddr) -> Option<IpAddr> {
    match address {
        IpAddr::V4(v4) => u32::from(v4).checked_add(1).map(|next| IpAddr::V4(Ipv4Addr::from(next))),
        IpAddr::V6(v6) => u128::from(v6).checked_add(1).map(|next| IpAddr::V6(Ipv6Addr::from(next))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipam::{choose_block, subnet};
    use crate::model::NodeId;

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn addresses_go_round_the_block() {
        let subnet = subnet("10.9.0.0/24".parse().unwrap()).unwrap();
        let block: IpNet = "10.9.0.0/28".parse().unwrap();
        for (taken, last, expected) in [
            (&[][..], None, Some("10.9.0.1")),
            (&["10.9.0.1"][..], Some("10.9.0.1"), Some("10.9.0.2")),
            (&[][..], Some("10.9.0.14"), Some("10.9.0.15")),
            (&[][..], Some("10.9.0.15"), Some("10.9.0.1")),
            (&["10.9.0.3"][..], Some("10.9.0.2"), Some("10.9.0.4")),
            (&[][..], Some("10.9.77.1"), Some("10.9.0.1")),
        ] {
            let chosen = choose_address(&subnet, block, &addresses(taken), last.map(|last| last.parse().unwrap()));
            assert_eq!(chosen, expected.map(|text| text.parse().unwrap()), "taken {taken:?}, last {last:?}");
        }
    }

    proptest! {
        #[test]
        fn a_block_gives_out_every_address_once(prefix in prop_oneof![Just("10.9.0.0/24"), Just("10.9.0.0/26"), Just("fd00:9::/112")], node in 1_u16..20, start in 0_u8..64) {
            let subnet = subnet(prefix.parse().unwrap()).unwrap();
            let block = choose_block(&subnet, NodeId::new(node).unwrap(), &BTreeSet::new()).unwrap();
            let mut taken = BTreeSet::new();
            let mut last = walk(block.network(), block).nth(usize::from(start));
            while let Some(address) = choose_address(&subnet, block, &taken, last) {
                prop_assert!(block.contains(&address) && subnet.is_assignable(address));
                prop_assert!(taken.insert(address));
                last = Some(address);
            }
            let expected = walk(block.network(), block).filter(|address| subnet.is_assignable(*address)).count();
            prop_assert_eq!(taken.len(), expected);
        }
    }
}
