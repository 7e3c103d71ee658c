//! SCTP through a published port.

use std::io::Read;

use socket2::{Domain, Protocol, Socket, Type};

use super::world::{CLIENT, NODE, PATIENCE, REPLICAS, World, at, ruleset};

/// The checksum of SCTP: `CRC32c` (RFC 9260, appendix A), bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let step = |crc: u32| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(u32::MAX, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), |crc, _| step(crc)))
}

/// A packet with one chunk, INIT (1) or INIT ACK (2) (RFC 9260, 3.3.2 and 3.3.3; the latter without its cookie).
fn sctp(from: u16, to: u16, tag: u32, kind: u8) -> Vec<u8> {
    let mut packet = [from.to_be_bytes(), to.to_be_bytes()].concat();
    packet.extend(tag.to_be_bytes());
    packet.extend([0; 4]);
    packet.extend([kind, 0, 0, 20]);
    // Initiate tag, window, streams out and in, first number.
    packet.extend([0, 0, 0, 7, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
    let sum = crc32c(&packet).to_le_bytes();
    packet[8..12].copy_from_slice(&sum);
    packet
}

/// The SCTP packet in what a raw socket of the family receives: in IPv4 with its header.
fn without_header(family: usize, bytes: &[u8]) -> &[u8] {
    if family == 0 { &bytes[usize::from(bytes[0] & 0xf) * 4..] } else { bytes }
}

fn raw_sctp(address: &str) -> Socket {
    let address = at(address, 0);
    let socket = Socket::new(Domain::for_address(address), Type::RAW, Some(Protocol::from(132))).unwrap();
    socket.bind(&address.into()).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// This kernel has no SCTP sockets, so both ends are raw ones; its conntrack and NAT know the protocol.
#[test]
fn sctp_is_translated_there_and_back() {
    const PORT: u16 = 36412;
    let world = World::new(&ruleset());
    for family in [0, 1] {
        for turn in 0..3_u16 {
            let replica = REPLICAS[family][usize::from(turn)];
            let at_replica = world.containers.run(move || raw_sctp(replica));
            let at_client = world.client.run(move || raw_sctp(CLIENT[family]));
            let client_port = 40_000 + turn;
            at_client.send_to(&sctp(client_port, PORT, 0, 1), &at(NODE[family], 0).into()).unwrap();
            let mut stream = &at_replica;
            let mut buffer = [0; 256];
            let length = stream.read(&mut buffer).unwrap_or_else(|error| panic!("{replica}: {error}"));
            let seen = without_header(family, &buffer[..length]);
            assert_eq!(seen, sctp(client_port, 8080, 0, 1), "at {replica}: port, checksum and all");
            at_replica.send_to(&sctp(8080, client_port, 7, 2), &at(CLIENT[family], 0).into()).unwrap();
            let mut stream = &at_client;
            let length = stream.read(&mut buffer).unwrap();
            let seen = without_header(family, &buffer[..length]);
            assert_eq!(seen, sctp(PORT, client_port, 7, 2), "at the client");
        }
    }
}
