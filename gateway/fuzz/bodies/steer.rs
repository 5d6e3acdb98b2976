//! Body of the fuzz target `steer`: the XDP program's own parser, compiled for this machine, beside the lane's.

use landbridge::datapath::wire;
use landbridge_ebpf_common::{AddressKey, Verdict};

#[path = "../../../ebpf/src/parse.rs"]
#[expect(dead_code, reason = "constants that only the rest of the program uses")]
mod parse;

/// Any bytes as a frame. What the program would give to a ring, the lane that reads the ring finds, and finds the same;
/// what the program leaves to the kernel it leaves for a known reason.
pub(crate) fn steer(frame: &[u8]) {
    let start = frame.as_ptr() as usize;
    let steered = parse::datagram(start, start + frame.len());
    match (steered, wire::parse(frame)) {
        (Ok(steered), Ok(found)) => {
            assert_eq!(steered.packet_len as usize, found.ip_len);
            assert_eq!(steered.payload_len as usize, found.payload.len());
            assert_eq!(u16::from_be_bytes(steered.port), found.local_port);
            assert!(steered.destination == AddressKey::from(found.local));
            let payload = &frame[found.payload];
            match steered.payload() {
                Ok(head) => {
                    assert_eq!(payload[..4], head.message_type);
                    assert_eq!(payload[4..8], head.receiver_index.to_le_bytes());
                }
                Err(verdict) => assert_eq!((verdict, payload.len() < 8), (Verdict::Control, true)),
            }
        }
        // The program leaves the checksum of the IPv4 header to the lane.
        (Ok(steered), Err(_)) => assert!(steered.destination.address().is_ipv4(), "IPv6 has no header checksum"),
        (Err(verdict), Ok(_)) => {
            let stricter =
                [Verdict::TooLong, Verdict::TooManyExtensions, Verdict::OtherProtocol, Verdict::OtherEtherType];
            assert!(stricter.contains(&verdict), "{verdict:?}");
        }
        (Err(_), Err(_)) => {}
    }
}
