use std::{
    collections::{HashMap, hash_map::Entry},
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The part of all places that is kept for others than a client that has [`MUCH`] of them.
const LAST: usize = 8;

/// The part of all places that is much for one client. A load balancer in front may be the only one, so that it gets more than this
/// while there is plenty.
const MUCH: usize = 2;

/// How many connections each client has, so that none takes all places.
#[derive(Debug)]
pub(super) struct Shares {
    places: usize,
    open: Mutex<HashMap<IpAddr, usize>>,
}

impl Shares {
    /// Of so many places.
    pub(super) fn of(places: usize) -> Arc<Self> {
        Arc::new(Self { places, open: Mutex::default() })
    }

    /// Counts a client's connection for as long as what is returned lives; nothing if it has much and few places are free.
    pub(super) fn take(self: &Arc<Self>, client: IpAddr, free: usize) -> Option<Share> {
        let client = holder(client);
        let mut clients = self.open();
        let open = clients.entry(client).or_default();
        if *open > 0 && *open >= self.places / MUCH && free <= self.places / LAST {
            return None;
        }
        *open += 1;
        Some(Share { client, shares: Arc::clone(self) })
    }

    fn open(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection of a client.
#[derive(Debug)]
pub(super) struct Share {
    client: IpAddr,
    shares: Arc<Shares>,
}

impl Drop for Share {
    fn drop(&mut self) {
        if let Entry::Occupied(mut open) = self.shares.open().entry(self.client) {
            *open.get_mut() -= 1;
            if *open.get() == 0 {
                open.remove();
            }
        }
    }
}

/// Whose share it is: in IPv6 one host has a whole /64 to choose its addresses from (RFC 7421).
fn holder(client: IpAddr) -> IpAddr {
    match client.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_places_are_for_those_that_have_few() {
        let shares = Shares::of(16);
        let [one, other] = ["192.0.2.1", "192.0.2.2"].map(|client| client.parse::<IpAddr>().unwrap());
        // While there is plenty it may have all that is not kept.
        let mut held: Vec<Share> = (0..14).map(|taken| shares.take(one, 16 - taken).unwrap()).collect();
        assert!(shares.take(one, 2).is_none());
        held.extend([2, 1].map(|free| shares.take(other, free).unwrap()));
        held.drain(..7);
        // It has less than much.
        assert!(shares.take(one, 1).is_some());
        drop(held);
        assert!(shares.open().is_empty());
    }

    #[test]
    fn one_host_is_one_client() {
        for (one, other, is_same) in [
            ("192.0.2.1", "::ffff:192.0.2.1", true),
            ("192.0.2.1", "192.0.2.2", false),
            ("2001:db8::1", "2001:db8::ffff:ffff:ffff:ffff", true),
            ("2001:db8::1", "2001:db8:0:1::1", false),
        ] {
            assert_eq!(holder(one.parse().unwrap()) == holder(other.parse().unwrap()), is_same, "{one} {other}");
        }
    }
}
