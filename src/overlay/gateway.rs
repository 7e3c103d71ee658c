use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::model::{Family, NodeId};

/// The address by which routes name a node's VTEP. It is link-local and follows from the node's number; on the other nodes a
/// permanent neighbour on the tunnel gives it the VTEP's MAC, and that is all it is for.
///
/// IPv4: 169.254.64.0/20 (RFC 3927), clear of the containers' gateway 169.254.1.1 and of the clouds' metadata service
/// 169.254.169.254. IPv6: `fe80::77:6566:0/112`.
pub fn gateway(family: Family, node: NodeId) -> IpAddr {
    let [high, low] = node.get().to_be_bytes();
    match family {
        Family::V4 => Ipv4Addr::new(169, 254, 64 + high, low).into(),
        Family::V6 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0x77, 0x6566, node.get()).into(),
    }
}

/// The IPv6 address that a node's own tunnel device has: unique local, in what no network may use (`Network::OWN_V6`), and
/// nobody else's, so that what it says to a container on another node is answered to it.
pub fn own_address(node: NodeId) -> Ipv6Addr {
    Ipv6Addr::new(0xfd77, 0x6566, 0, 0, 0, 0, 1, node.get())
}

/// The prefix of all gateway addresses, which IPv4 needs a route for: a node that is asked something from another's gateway
/// address (a probe through the tunnel) answers by its routing table, and a neighbour is no route. In IPv6 each device has its
/// own `fe80::/64`.
pub fn gateways() -> IpNet {
    IpNet::V4(Ipv4Net::new_assert(Ipv4Addr::new(169, 254, 64, 0), 20))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::Network;

    #[test]
    fn gateways_are_distinct_link_local_and_nobody_elses() {
        let v4: BTreeSet<IpAddr> = NodeId::all().map(|node| gateway(Family::V4, node)).collect();
        let v6: BTreeSet<IpAddr> = NodeId::all().map(|node| gateway(Family::V6, node)).collect();
        assert_eq!((v4.len(), v6.len()), (4095, 4095));
        assert!(v4.iter().all(|address| matches!(address, IpAddr::V4(v4) if v4.is_link_local())));
        assert!(!v4.contains(&Network::GATEWAY_V4.into()) && !v6.contains(&Network::GATEWAY_V6.into()));
        assert!(!v4.contains(&"169.254.169.254".parse().unwrap()));
        assert!(v4.iter().all(|address| gateways().contains(address)));
        assert!(!gateways().contains(&IpAddr::V4(Network::RESOLVER_V4)));
    }
}
