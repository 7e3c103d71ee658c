use std::{fmt, net::IpAddr, str::FromStr};

use super::NodeId;

/// An Ethernet (EUI-48) address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// The host's side of every container's veth pair. One address for all, so that a container's neighbour entry for
    /// its gateway never goes stale. Locally administered (IEEE 802-2014, 8.4), unicast; the bytes spell `weft`.
    pub const GATEWAY: Self = Self([0x0a, 0x77, 0x65, 0x66, 0x74, 0x00]);

    /// The VTEP's address on node `id`. It follows from the id alone, so that a peer is known without asking, and so
    /// that a sender's address on the tunnel names the ingress node.
    pub fn of_vtep(id: NodeId) -> Self {
        let [high, low] = id.get().to_be_bytes();
        Self([0x02, 0x77, 0x65, 0x66, high, low])
    }

    /// The container's side of a veth pair, from the address that it carries: an address that comes back on another
    /// host comes back with the same MAC.
    pub fn of_container(address: IpAddr) -> Self {
        let low = match address {
            IpAddr::V4(v4) => v4.octets(),
            // FNV-1a, 32 bits: any fixed function will do, the MAC is seen on one point-to-point link only.
            IpAddr::V6(v6) => v6
                .octets()
                .iter()
                .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
                .to_be_bytes(),
        };
        Self([0x0e, 0x77, low[0], low[1], low[2], low[3]])
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.map(|byte| format!("{byte:02x}")).join(":"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refuse = || format!("{text:?} is not a MAC address such as 02:77:65:66:00:01");
        let bytes: Vec<u8> =
            text.split(':').map(|part| u8::from_str_radix(part, 16)).collect::<Result<_, _>>().map_err(|_| refuse())?;
        Ok(Self(bytes.try_into().map_err(|_| refuse())?))
    }
}
