//! PROXY headers: whatever a named peer sends first.

use std::net::SocketAddr;

use weft::{
    model::ProxyProtocol,
    proxy::{HEADER_BYTES_MAX, Parsed, Told, parse_header, write_header},
};

/// Headers of both versions, families and kinds, with data and extensions behind them.
pub(crate) fn header_seeds() -> Vec<Vec<u8>> {
    let ends = |client: &str, server: &str| Told::Addresses {
        client: client.parse::<SocketAddr>().unwrap(),
        server: server.parse::<SocketAddr>().unwrap(),
    };
    let told =
        [ends("192.0.2.1:4711", "198.51.100.2:80"), ends("[2001:db8::1]:65535", "[2001:db8::2]:1"), Told::Nothing];
    let versions = [ProxyProtocol::V1, ProxyProtocol::V2];
    let mut seeds: Vec<Vec<u8>> =
        versions.iter().flat_map(|version| told.iter().map(|told| write_header(*version, *told))).collect();
    seeds.extend(seeds.clone().into_iter().map(|mut seed| {
        seed.extend(b"GET / HTTP/1.1\r\n\r\n");
        seed
    }));
    let mut extended = write_header(ProxyProtocol::V2, told[0]);
    // A longer length, and a no-op extension of one byte (type 4, section 2.2.4).
    extended[15] += 4;
    extended.extend([4, 0, 1, 0]);
    // Unix addresses.
    let mut unix = b"\r\n\r\n\0\r\nQUIT\n\x21\x31\0\xd8".to_vec();
    unix.resize(16 + 216, b'/');
    seeds.extend([extended, unix, b"PROXY UNKNOWN 1 2 3 4\r\n".to_vec()]);
    seeds
}

/// Nothing makes it panic; a header lies within the input, what follows does not change it, no beginning of it is
/// another header, and what it tells is told alike when it is passed on.
pub(crate) fn header_runner() -> super::Runner {
    Box::new(|input| match parse_header(input) {
        Parsed::Incomplete => "incomplete".to_owned(),
        Parsed::Malformed => "malformed".to_owned(),
        Parsed::Whole(told, len) => {
            assert!(len <= input.len() && len <= HEADER_BYTES_MAX);
            assert_eq!(parse_header(&input[..len]), Parsed::Whole(told, len));
            for cut in 0..len {
                assert_eq!(parse_header(&input[..cut]), Parsed::Incomplete, "cut at {cut}");
            }
            for version in [ProxyProtocol::V1, ProxyProtocol::V2] {
                let passed = write_header(version, told);
                assert_eq!(parse_header(&passed), Parsed::Whole(told, passed.len()));
            }
            let kind = match told {
                Told::Addresses { client, server: _ } => {
                    if client.is_ipv4() {
                        "IPv4"
                    } else {
                        "IPv6"
                    }
                }
                Told::Nothing => "nothing",
            };
            format!("{kind}, {len} bytes")
        }
    })
}
