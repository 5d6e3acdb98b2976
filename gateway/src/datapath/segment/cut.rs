//! Cutting a TCP segment that is too long for its path, as a segmenter would have cut it.
//!
//! Enters: an inner packet and the bytes that fit. Leaves: packets that carry the same bytes of the stream. Never does: cut
//! what opens or ends a connection by force, or a packet whose checksum is wrong: the pieces get checksums of their own,
//! which would hide the damage.

use landbridge_xsk::{Frame, Pool};

use super::{Headers, Layout, PROTOCOL_TCP, TCP_LEN, transport_of};
use crate::datapath::checksum::Sum;
use crate::datapath::inner::{IPV4_LEN, IPV6_LEN};

const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
const TCP_URG: u8 = 0x20;

/// A segment that is about to be cut.
pub(crate) struct Cut<'a> {
    layout: Layout,
    headers: Headers<'a>,
    payload: &'a [u8],
}

impl<'a> Cut<'a> {
    /// Into packets of `fits` bytes at most; `None` when this one cannot be cut so.
    pub(crate) fn of(packet: &'a [u8], fits: usize) -> Option<Self> {
        let is_v4 = *packet.first()? >> 4 == 4;
        let (protocol, transport, end) = transport_of(packet)?;
        let tcp = packet.get(transport..end)?;
        if protocol != PROTOCOL_TCP || tcp.len() < TCP_LEN || tcp[13] & (TCP_SYN | TCP_RST | TCP_URG) != 0 {
            return None;
        }
        let header_len = usize::from(tcp[12] >> 4) * 4;
        let payload = transport + header_len;
        let segment_len = fits.checked_sub(payload).filter(|len| *len > 0)?;
        let addresses = if is_v4 { &packet[12..IPV4_LEN] } else { &packet[8..IPV6_LEN] };
        let sum = Sum::pseudo(addresses, PROTOCOL_TCP).plus_u16(tcp.len() as u16).plus(Sum::of(tcp));
        if header_len < TCP_LEN || payload >= end || !sum.is_intact() {
            return None;
        }
        let layout = Layout { is_v4, is_tcp: true, transport, payload, end, segment_len };
        let headers = Headers::of(&layout, &packet[..payload]);
        Some(Self { payload: &packet[payload..end], layout, headers })
    }

    /// How many there will be.
    pub(crate) fn pieces(&self) -> usize {
        self.payload.len().div_ceil(self.layout.segment_len)
    }

    /// One of them; `None` without a free frame.
    pub(crate) fn piece(&self, i: usize, pool: &mut Pool) -> Option<Frame> {
        let mut parts = self.payload.chunks(self.layout.segment_len);
        let part = parts.nth(i)?;
        self.layout.segment(&self.headers, i, parts.len() == 0, part, pool)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datapath::crafted::{ACK, Crafted, FIN, PSH, any_packet, pool};

    fn pieces(packet: &[u8], fits: usize, pool: &mut Pool) -> Option<Vec<Vec<u8>>> {
        let cut = Cut::of(packet, fits)?;
        let mut pieces = Vec::new();
        for i in 0..cut.pieces() {
            let frame = cut.piece(i, pool).expect("a free frame");
            pieces.push(frame.data().to_vec());
            pool.put(frame);
        }
        Some(pieces)
    }

    #[test]
    fn pieces_are_what_a_segmenter_makes_of_the_same_segment() {
        let mut pool = pool(16, 1);
        for v6 in [false, true] {
            let whole = Crafted { v6, flags: ACK | PSH | FIN, ..Crafted::tcp(7, u32::MAX - 50, 1368) };
            let segment_len = 1220 - whole.header_len();
            let expected: Vec<_> = whole.cut(segment_len).iter().map(Crafted::bytes).collect();
            assert_eq!(expected.len(), 2);
            assert_eq!(pieces(&whole.bytes(), 1220, &mut pool), Some(expected), "v6 {v6}");
        }
    }

    #[test]
    fn what_cannot_be_cut_is_left_whole() {
        let mut pool = pool(16, 1);
        let whole = Crafted::tcp(7, 1, 1368);
        let mut damaged = whole.bytes();
        damaged[700] ^= 1;
        for (what, packet) in [
            ("UDP", Crafted::udp(7, 1, 1400).bytes()),
            ("a SYN with data", Crafted { flags: 0x02, ..whole.clone() }.bytes()),
            ("a reset", Crafted { flags: 0x04, ..whole.clone() }.bytes()),
            ("urgent data", Crafted { flags: ACK | 0x20, ..whole.clone() }.bytes()),
            ("no data", Crafted { payload: Vec::new(), ..whole.clone() }.bytes()),
            ("a damaged one", damaged),
        ] {
            assert_eq!(pieces(&packet, 1220, &mut pool), None, "{what}");
        }
        assert_eq!(pieces(&whole.bytes(), whole.header_len(), &mut pool), None, "headers alone fill the path");
    }

    proptest! {
        #[test]
        fn any_segment_comes_out_in_pieces_that_fit(crafted in any_packet(0..1500), fits in 0..1500_usize) {
            let packet = crafted.bytes();
            let mut pool = pool(2048, 1);
            let Some(pieces) = pieces(&packet, fits, &mut pool) else { return Ok(()) };
            let expected: Vec<_> = crafted.cut(fits - crafted.header_len()).iter().map(Crafted::bytes).collect();
            prop_assert!(pieces.iter().all(|piece| piece.len() <= fits));
            prop_assert_eq!(pieces, expected);
        }

        #[test]
        fn any_bytes_are_no_reason_to_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), fits in 0..300_usize) {
            let _ = pieces(&bytes, fits, &mut pool(256, 1));
        }
    }
}
