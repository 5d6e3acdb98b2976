//! Which source port a packet leaves by, where a peer's flows are spread over several.
//!
//! Enters: inner packets. Leaves: the hash of a packet's flow. Never does: tell packets of one flow apart, which would
//! let them overtake each other.

use super::inner::{IPV4_LEN, IPV6_LEN};
use super::segment::PROTOCOL_TCP;
use super::wire::PROTOCOL_UDP;

/// Bytes of both ports.
const PORTS_LEN: usize = 4;

/// The hash of a packet's flow: addresses and protocol, and the ports of TCP and UDP where every packet of the flow shows
/// them, which those with fragments, options or extension headers do not. `packet` has been parsed.
#[inline]
pub(super) fn flow_of(packet: &[u8]) -> u32 {
    let has_ports = |protocol: u8| matches!(protocol, PROTOCOL_TCP | PROTOCOL_UDP);
    let (addresses, protocol, transport) = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= IPV4_LEN => {
            let whole = packet[0] == 0x45 && u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff == 0;
            (&packet[12..IPV4_LEN], packet[9], whole.then_some(IPV4_LEN))
        }
        Some(6) if packet.len() >= IPV6_LEN => (&packet[8..IPV6_LEN], packet[6], Some(IPV6_LEN)),
        _ => return 0,
    };
    let ports = transport.filter(|_| has_ports(protocol)).and_then(|at| packet.get(at..at + PORTS_LEN));
    let words = addresses.chunks_exact(4).chain(ports);
    let mut hash = u32::from(protocol);
    for word in words {
        hash = (hash ^ u32::from_ne_bytes([word[0], word[1], word[2], word[3]])).wrapping_mul(0x9e37_79b1);
        hash ^= hash >> 15;
    }
    hash.wrapping_mul(0x85eb_ca6b)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::datapath::crafted::Crafted;

    fn udp(port: u16) -> Vec<u8> {
        let mut packet = Crafted::udp(1, 0, 20).bytes();
        packet[IPV4_LEN..IPV4_LEN + 2].copy_from_slice(&port.to_be_bytes());
        packet
    }

    #[test]
    fn packets_of_a_flow_hash_alike_and_flows_apart() {
        let hashes: BTreeSet<u32> = (1000..1064).map(|port| flow_of(&udp(port)) >> 24).collect();
        assert!(hashes.len() > 48, "64 flows have only {} hashes", hashes.len());
        let mut packet = udp(1000);
        let hash = flow_of(&packet);
        // Payload, id, TTL and checksum are no part of a flow.
        for at in [4, 5, 8, 10, 30] {
            packet[at] ^= 0xff;
        }
        assert_eq!(flow_of(&packet), hash);
    }

    #[test]
    fn all_fragments_of_a_host_pair_share_a_hash() {
        let fragment = |port: u16, field: u16| {
            let mut packet = udp(port);
            packet[6..8].copy_from_slice(&field.to_be_bytes());
            flow_of(&packet)
        };
        // The first fragment shows ports, the others do not.
        assert_eq!(fragment(1000, 0x2000), fragment(0, 0x00b9));
        assert_eq!(fragment(1000, 0x4000), fragment(1000, 0), "DF is no fragment");
        assert_ne!(fragment(1000, 0), fragment(1000, 0x2000));
    }
}
