//! Body of the fuzz target `steer`: the XDP program's own parser, compiled for this machine, beside the lane's.

use landbridge::datapath::wire;
use landbridge_ebpf_common::{AddressKey, Verdict};

#[path = "../../../ebpf/src/parse/mod.rs"]
#[expect(dead_code, reason = "what only the rest of the program uses")]
#[expect(unused_imports, reason = "as above")]
mod parse;

/// What the program does with a frame of a wan interface before it asks its maps; of its two forms the one for frames in
/// several buffers, of which it sees the first, if `first` is less than all.
fn datagram(frame: &[u8], first: Option<usize>) -> Result<parse::Datagram, Verdict> {
    let (start, len) = (frame.as_ptr() as usize, frame.len());
    let seen = first.unwrap_or(len).min(len);
    let frame = parse::frame(parse::Cursor::new(start, start + seen))?;
    let whole = first.map(|_| len as u32 - frame.header_len);
    match frame.kind {
        parse::IPV4 => parse::udp::v4(&parse::V4::parse(frame.body, whole)?),
        parse::IPV6 => parse::udp::v6(&parse::V6::parse(frame.body, whole)?),
        _ => Err(Verdict::OtherEtherType),
    }
}

/// Any bytes as a frame. What the program would give to a ring, the lane that reads the ring finds, and finds the same;
/// what the program leaves to the kernel it leaves for a known reason.
pub(crate) fn steer(frame: &[u8]) {
    for first in [None, Some(frame.len()), Some(128)] {
        agree(frame, first);
    }
}

fn agree(frame: &[u8], first: Option<usize>) {
    match (datagram(frame, first), wire::parse(frame)) {
        (Ok(steered), Ok(found)) => {
            assert_eq!(steered.packet_len as usize, found.ip_len);
            assert_eq!(steered.payload_len as usize, found.payload.len());
            assert_eq!(u16::from_be_bytes(steered.port), found.local_port);
            assert!(steered.destination == AddressKey::from(found.local));
            let payload = &frame[found.payload.clone()];
            let seen = first.is_none_or(|first| found.payload.start + 8 <= first);
            assert!(payload.len() < 8 || !seen || steered.payload.peek::<8>().is_ok_and(|head| payload[..8] == *head));
        }
        // The program leaves the checksum of the IPv4 header to the lane.
        (Ok(steered), Err(_)) => assert!(steered.destination.address().is_ipv4(), "IPv6 has no header checksum"),
        (Err(verdict), Ok(_)) => {
            let stricter =
                [Verdict::TooLong, Verdict::TooManyExtensions, Verdict::OtherProtocol, Verdict::OtherEtherType];
            // Headers that reach into the second buffer.
            let cut = verdict == Verdict::Truncated && first.is_some_and(|first| first < frame.len());
            assert!(cut || stricter.contains(&verdict), "{verdict:?}");
        }
        (Err(_), Err(_)) => {}
    }
}
