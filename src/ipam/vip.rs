use std::{collections::BTreeSet, net::IpAddr};

use crate::model::Subnet;

use super::choose_address;

/// A free VIP of `subnet`, in order. Services are created one after the other (a compare-and-swap on the whole
/// configuration), so first-fit cannot collide.
pub fn choose_vip(subnet: &Subnet, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
    let range = subnet.vip_range();
    // The range's first address looks like a network's own to people; it is given out last.
    choose_address(subnet, range, taken, Some(range.network()))
}
