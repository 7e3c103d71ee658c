use std::{collections::BTreeSet, net::IpAddr};

use ipnet::IpNet;

use crate::model::{NodeId, Subnet};

/// A free block of `subnet` for `node`, or nothing if all are taken.
///
/// The first choice follows from the node's number, so that nodes which claim at the same moment want different blocks
/// and a node that comes back wants the same one; after that a fixed scatter, then whatever is free.
pub fn choose_block(subnet: &Subnet, node: NodeId, taken: &BTreeSet<IpNet>) -> Option<IpNet> {
    let count = block_count(subnet);
    let preferred = u128::from(node.get() - 1) % count;
    let scatter = u128::from(u64::from(node.get()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 16) % count;
    // Among one more candidates than blocks are taken, one is free; no need to look at all of a /64.
    let probes = count.min(taken.len() as u128 + 1);
    std::iter::once(preferred)
        .chain((0..probes).map(|probe| (scatter + probe) % count))
        .filter_map(|index| block_at(subnet, index))
        .find(|block| !taken.contains(block))
}

/// How many blocks the prefix is cut into, the VIPs' sixteenth left out.
fn block_count(subnet: &Subnet) -> u128 {
    let all = 1_u128 << (subnet.block_len - subnet.prefix.prefix_len());
    all - all / 16
}

fn block_at(subnet: &Subnet, index: u128) -> Option<IpNet> {
    let address = match subnet.prefix.network() {
        IpAddr::V4(base) => {
            let offset = u32::try_from(index << (32 - u32::from(subnet.block_len))).ok()?;
            IpAddr::V4((u32::from(base).checked_add(offset)?).into())
        }
        IpAddr::V6(base) => {
            IpAddr::V6((u128::from(base).checked_add(index << (128 - u32::from(subnet.block_len)))?).into())
        }
    };
    IpNet::new(address, subnet.block_len).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ipam::subnet;

    #[test]
    fn nodes_of_a_new_network_never_want_the_same_block() {
        let subnet = subnet("10.42.0.0/16".parse().unwrap()).unwrap();
        let wanted: BTreeSet<IpNet> =
            (1..=900).map(|id| choose_block(&subnet, NodeId::new(id).unwrap(), &BTreeSet::new()).unwrap()).collect();
        assert_eq!(wanted.len(), 900);
    }

    proptest! {
        #[test]
        fn every_block_can_be_claimed_and_none_touches_the_vips(len in 18_u8..=26, node in 1_u16..=4095) {
            let subnet = subnet(format!("10.64.0.0/{len}").parse().unwrap()).unwrap();
            let mut taken = BTreeSet::new();
            while let Some(block) = choose_block(&subnet, NodeId::new(node).unwrap(), &taken) {
                prop_assert!(subnet.prefix.contains(&block));
                prop_assert!(!subnet.vip_range().contains(&block.network()));
                prop_assert!(taken.insert(block));
            }
            prop_assert_eq!(taken.len() as u128, block_count(&subnet));
        }
    }
}
