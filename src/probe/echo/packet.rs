//! The bytes of an echo and of its answer (RFC 792, page 14), and no more of ICMP than that.

const ECHO_REPLY: u8 = 0;
const ECHO: u8 = 8;

/// Type, code, checksum, identifier and sequence number, then our cookie and stamp.
const LENGTH: usize = 8 + 8 + 8;

/// The least header of an IPv4 packet, and the protocol number within it (RFC 791, 3.1).
const IPV4_HEADER: usize = 20;
const ICMP: u8 = 1;

/// An echo. Its identifier follows from the cookie, so that conntrack sees all echoes to a peer as one flow; the sequence
/// number stays 0, for the stamp says more.
pub(super) fn request(cookie: u64, stamp: u64) -> [u8; LENGTH] {
    let mut packet = [0; LENGTH];
    packet[0] = ECHO;
    packet[4..6].copy_from_slice(&identifier(cookie));
    packet[8..16].copy_from_slice(&cookie.to_be_bytes());
    packet[16..].copy_from_slice(&stamp.to_be_bytes());
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The stamp in an IPv4 packet that answers an echo with this cookie; nothing if it is anything else. The kernel has checked the
/// checksums.
pub(super) fn answered(packet: &[u8], cookie: u64) -> Option<u64> {
    let first = *packet.first()?;
    let header = usize::from(first & 0x0f) * 4;
    if first >> 4 != 4 || header < IPV4_HEADER || *packet.get(9)? != ICMP {
        return None;
    }
    let icmp: &[u8; LENGTH] = packet.get(header..)?.try_into().ok()?;
    let is_ours = icmp[0] == ECHO_REPLY
        && icmp[1] == 0
        && icmp[4..6] == identifier(cookie)
        && icmp[8..16] == cookie.to_be_bytes();
    is_ours.then(|| u64::from_be_bytes(*icmp.last_chunk().unwrap_or(&[0; 8])))
}

fn identifier(cookie: u64) -> [u8; 2] {
    let [first, second, ..] = cookie.to_be_bytes();
    [first, second]
}

/// The Internet checksum of a header whose own checksum field is zero (RFC 1071). The packet's length is even.
fn checksum(packet: &[u8]) -> u16 {
    let (pairs, _) = packet.as_chunks::<2>();
    let mut sum: u32 = pairs.iter().map(|pair| u32::from(u16::from_be_bytes(*pair))).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(u16::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The answer that a kernel gives, with its IPv4 header, options and all.
    fn answer_to(request: &[u8], options: usize) -> Vec<u8> {
        let mut packet = vec![0; IPV4_HEADER + options * 4];
        packet[0] = 0x40 | u8::try_from(5 + options).unwrap();
        packet[9] = ICMP;
        packet.extend_from_slice(request);
        packet[IPV4_HEADER + options * 4] = ECHO_REPLY;
        packet
    }

    #[test]
    fn an_answer_brings_its_stamp_back() {
        let echo = request(0x0123_4567_89ab_cdef, 42);
        // RFC 1071: the sum over a packet with its checksum in place is zero.
        assert_eq!(checksum(&echo), 0);
        for options in [0, 1, 10] {
            assert_eq!(answered(&answer_to(&echo, options), 0x0123_4567_89ab_cdef), Some(42));
        }
        // Others' answers, our own echo come back, and another protocol.
        assert_eq!(answered(&answer_to(&echo, 0), 0x0123_4567_89ab_cdee), None);
        let mut echoed = answer_to(&echo, 0);
        echoed[IPV4_HEADER] = ECHO;
        assert_eq!(answered(&echoed, 0x0123_4567_89ab_cdef), None);
        let mut udp = answer_to(&echo, 0);
        udp[9] = 17;
        assert_eq!(answered(&udp, 0x0123_4567_89ab_cdef), None);
    }

    proptest! {
        #[test]
        fn no_packet_does_harm(packet in prop::collection::vec(any::<u8>(), 0..300), cookie: u64) {
            prop_assert_eq!(answered(&packet, cookie), None);
        }

        #[test]
        fn a_cut_answer_is_none(cookie: u64, stamp: u64, keep in 0_usize..IPV4_HEADER + LENGTH) {
            prop_assert_eq!(answered(&answer_to(&request(cookie, stamp), 0)[..keep], cookie), None);
        }
    }
}
