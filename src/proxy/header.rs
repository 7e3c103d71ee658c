//! The PROXY protocol (haproxy.org, proxy-protocol.txt, versions 1 and 2): who the client of a connection is, said in its
//! first bytes by whoever passes it on.

use std::net::{IpAddr, SocketAddr};

use ppp::{v1, v2};

use crate::model::ProxyProtocol;

/// The longest header that is read, in bytes. Version 1 has 107 at most (section 2.1). Version 2 could have 64 KiB: 216 are the
/// longest addresses, the rest is room for extensions such as the name in a client's certificate.
pub const HEADER_BYTES_MAX: usize = 4096;

const V1_BYTES_MAX: usize = 107;
const V1_START: &[u8] = b"PROXY ";
const V2_FIXED_BYTES: usize = 16;

/// What a header says of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Told {
    /// It comes from `client` and went to `server`.
    Addresses {
        /// The client.
        client: SocketAddr,
        /// What the client connected to.
        server: SocketAddr,
    },
    /// Nothing: the peer's own connection (LOCAL), or one without such addresses (UNKNOWN, unspecified, unix).
    Nothing,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// The beginning of a header.
    Incomplete,
    /// A header of this length, in bytes.
    Whole(Told, usize),
    /// Not a header, whatever follows.
    Malformed,
}

/// Reads a header of either version from the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Parsed {
    let signature = v2::PROTOCOL_PREFIX;
    let shared = bytes.len().min(signature.len());
    if bytes[..shared] == signature[..shared] {
        return parse_v2(bytes);
    }
    let shared = bytes.len().min(V1_START.len());
    if bytes[..shared] == V1_START[..shared] {
        return parse_v1(bytes);
    }
    Parsed::Malformed
}

fn parse_v1(bytes: &[u8]) -> Parsed {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Parsed::Incomplete } else { Parsed::Malformed };
    };
    let line = &window[..end + 2];
    // "The receiver must ignore anything presented before the CRLF" of UNKNOWN.
    let rest = line.strip_prefix(b"PROXY UNKNOWN");
    if rest.is_some_and(|rest| rest.starts_with(b"\r\n") || rest.starts_with(b" ")) {
        return Parsed::Whole(Told::Nothing, line.len());
    }
    // A port is digits; the parser would take a sign too. And it panics on a letter of several bytes behind `UNKNOWN` (found by
    // fuzzing); the header is ASCII (section 2.1).
    let header = std::str::from_utf8(line).ok().filter(|text| text.is_ascii() && !text.contains('+'));
    let Some(Ok(header)) = header.map(v1::Header::try_from) else { return Parsed::Malformed };
    let (client, server): (SocketAddr, SocketAddr) = match header.addresses {
        v1::Addresses::Tcp4(ends) => {
            ((ends.source_address, ends.source_port).into(), (ends.destination_address, ends.destination_port).into())
        }
        v1::Addresses::Tcp6(ends) => {
            ((ends.source_address, ends.source_port).into(), (ends.destination_address, ends.destination_port).into())
        }
        v1::Addresses::Unknown => return Parsed::Whole(Told::Nothing, line.len()),
    };
    let told = Told::Addresses { client, server };
    Parsed::Whole(told, line.len())
}

fn parse_v2(bytes: &[u8]) -> Parsed {
    let Some(fixed) = bytes.get(..V2_FIXED_BYTES) else { return Parsed::Incomplete };
    let len = V2_FIXED_BYTES + usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if len > HEADER_BYTES_MAX {
        return Parsed::Malformed;
    }
    let header = match v2::Header::try_from(bytes) {
        Ok(header) => header,
        Err(v2::ParseError::Incomplete(_) | v2::ParseError::Partial(..)) => return Parsed::Incomplete,
        Err(_) => return Parsed::Malformed,
    };
    let stream = header.protocol == v2::Protocol::Stream;
    let told = match (header.command, header.addresses) {
        // Whatever addresses a LOCAL header carries are to be skipped.
        (v2::Command::Local, _) | (v2::Command::Proxy, v2::Addresses::Unspecified | v2::Addresses::Unix(_)) => {
            Told::Nothing
        }
        (v2::Command::Proxy, v2::Addresses::IPv4(ends)) if stream => Told::Addresses {
            client: (ends.source_address, ends.source_port).into(),
            server: (ends.destination_address, ends.destination_port).into(),
        },
        (v2::Command::Proxy, v2::Addresses::IPv6(ends)) if stream => Told::Addresses {
            client: (ends.source_address, ends.source_port).into(),
            server: (ends.destination_address, ends.destination_port).into(),
        },
        // Datagrams on a stream.
        (v2::Command::Proxy, _) => return Parsed::Malformed,
    };
    Parsed::Whole(told, len)
}

/// A header as bytes. Addresses of different families are told as version 6's (an IPv4 one mapped), since a header has one
/// family.
pub fn write(version: ProxyProtocol, told: Told) -> Vec<u8> {
    let ends = match told {
        Told::Addresses { client, server } => Some(one_family(client, server)),
        Told::Nothing => None,
    };
    match (version, ends) {
        (ProxyProtocol::V1, Some((client, server))) => {
            let family = if client.is_ipv4() { "TCP4" } else { "TCP6" };
            let (from, to) = (client.port(), server.port());
            format!("PROXY {family} {} {} {from} {to}\r\n", client.ip(), server.ip()).into_bytes()
        }
        (ProxyProtocol::V1, None) => b"PROXY UNKNOWN\r\n".to_vec(),
        (ProxyProtocol::V2, ends) => {
            let mut bytes = v2::PROTOCOL_PREFIX.to_vec();
            match ends {
                Some((SocketAddr::V4(client), SocketAddr::V4(server))) => {
                    bytes.extend([0x21, 0x11, 0, 12]);
                    bytes.extend(client.ip().octets());
                    bytes.extend(server.ip().octets());
                }
                Some((SocketAddr::V6(client), SocketAddr::V6(server))) => {
                    bytes.extend([0x21, 0x21, 0, 36]);
                    bytes.extend(client.ip().octets());
                    bytes.extend(server.ip().octets());
                }
                // `one_family` leaves no other pair; LOCAL with nothing behind it.
                Some(_) | None => bytes.extend([0x20, 0x00, 0, 0]),
            }
            if let Some((client, server)) = ends {
                bytes.extend(client.port().to_be_bytes());
                bytes.extend(server.port().to_be_bytes());
            }
            bytes
        }
    }
}

fn one_family(client: SocketAddr, server: SocketAddr) -> (SocketAddr, SocketAddr) {
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    if client.is_ipv4() == server.is_ipv4() { (client, server) } else { (mapped(client), mapped(server)) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn told(client: &str, server: &str) -> Told {
        Told::Addresses { client: client.parse().unwrap(), server: server.parse().unwrap() }
    }

    const V4: &[u8] = b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 80\r\n";
    const V6: &[u8] = b"PROXY TCP6 2001:db8::1 2001:db8::2 4711 80\r\n";

    #[test]
    fn version_1() {
        assert_eq!(parse(V4), Parsed::Whole(told("192.0.2.1:4711", "198.51.100.2:80"), V4.len()));
        assert_eq!(parse(V6), Parsed::Whole(told("[2001:db8::1]:4711", "[2001:db8::2]:80"), V6.len()));
        for (bytes, parsed) in [
            (&b"PROXY UNKNOWN\r\n"[..], Parsed::Whole(Told::Nothing, 15)),
            (b"PROXY UNKNOWN a b c d e f g\r\nGET", Parsed::Whole(Told::Nothing, 29)),
            (b"", Parsed::Incomplete),
            (b"P", Parsed::Incomplete),
            (b"PROXY TCP4 192.0.2.1", Parsed::Incomplete),
            (b"PROXY UNKNOWNX\r\n", Parsed::Malformed),
            (b"GET / HTTP/1.1\r\n", Parsed::Malformed),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n", Parsed::Malformed),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 65536\r\n", Parsed::Malformed),
            (b"PROXY TCP4 192.0.2.1 198.51.100.2 +711 80\r\n", Parsed::Malformed),
            (b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 80\r\n", Parsed::Malformed),
            (b"PROXY TCP6 192.0.2.1 198.51.100.2 4711 80\r\n", Parsed::Malformed),
            (b"PROXY UDP4 192.0.2.1 198.51.100.2 4711 80\r\n", Parsed::Malformed),
        ] {
            assert_eq!(parse(bytes), parsed, "{}", String::from_utf8_lossy(bytes));
        }
        let mut endless = b"PROXY UNKNOWN ".to_vec();
        endless.resize(V1_BYTES_MAX, b'a');
        assert_eq!(parse(&endless), Parsed::Malformed);
    }

    #[test]
    fn version_2() {
        let local = write(ProxyProtocol::V2, Told::Nothing);
        assert_eq!(local, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0");
        assert_eq!(parse(&local), Parsed::Whole(Told::Nothing, 16));
        let v4 = write(ProxyProtocol::V2, told("192.0.2.1:4711", "198.51.100.2:80"));
        assert_eq!(v4, b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x02\x12\x67\0\x50");
        // A LOCAL header with addresses, an extension behind addresses, a header that claims to be too long, a wrong version,
        // datagrams, and addresses that do not fit their length.
        let with = |at: usize, value: u8| {
            let mut bytes = v4.clone();
            bytes[at] = value;
            bytes
        };
        assert_eq!(parse(&with(12, 0x20)), Parsed::Whole(Told::Nothing, 28));
        let mut longer = with(15, 16);
        longer.extend([4, 0, 1, 0, b'G']);
        assert_eq!(parse(&longer), Parsed::Whole(told("192.0.2.1:4711", "198.51.100.2:80"), 32));
        assert_eq!(parse(&with(14, 0xff)), Parsed::Malformed);
        assert_eq!(parse(&with(12, 0x11)), Parsed::Malformed);
        assert_eq!(parse(&with(13, 0x12)), Parsed::Malformed);
        assert_eq!(parse(&with(15, 11)), Parsed::Malformed);
    }

    #[test]
    fn a_header_has_one_family() {
        let mixed = told("192.0.2.1:4711", "[2001:db8::2]:80");
        assert_eq!(write(ProxyProtocol::V1, mixed), b"PROXY TCP6 ::ffff:192.0.2.1 2001:db8::2 4711 80\r\n");
    }

    fn address() -> impl Strategy<Value = SocketAddr> {
        (any::<IpAddr>(), any::<u16>()).prop_map(SocketAddr::from)
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(client in address(), server in address(), v1 in any::<bool>()) {
            let version = if v1 { ProxyProtocol::V1 } else { ProxyProtocol::V2 };
            let (client, server) = one_family(client, server);
            let bytes = write(version, Told::Addresses { client, server });
            prop_assert_eq!(parse(&bytes), Parsed::Whole(Told::Addresses { client, server }, bytes.len()));
            for cut in 0..bytes.len() {
                prop_assert_eq!(parse(&bytes[..cut]), Parsed::Incomplete, "cut at {}", cut);
            }
        }

        #[test]
        fn no_bytes_are_too_strange(mut bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..3) {
            match start {
                0 => drop(bytes.splice(..0, v2::PROTOCOL_PREFIX.iter().copied())),
                1 => drop(bytes.splice(..0, V1_START.iter().copied())),
                _ => {}
            }
            if let Parsed::Whole(_, len) = parse(&bytes) {
                prop_assert!(len <= bytes.len() && len <= HEADER_BYTES_MAX);
                // What follows a header does not change it.
                prop_assert_eq!(parse(&bytes), parse(&bytes[..len]));
            }
        }
    }
}
