//! What a relay can tell of a sealed message: its type, whether its length is that of the type, and for whom it is.

use landbridge_proto::ReceiverIndex;

/// A message of WireGuard (paper, section 5.4), as far as a relay sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sealed {
    /// An initiation or a response: it says by its mac1 for whom it is.
    Handshake,
    /// A cookie reply.
    Cookie,
    /// Transport data for a receiver index.
    Data(ReceiverIndex),
}

/// Tells messages from everything else.
#[must_use]
pub fn parse(bytes: &[u8]) -> Option<Sealed> {
    match (bytes.first_chunk()?, bytes.len()) {
        ([1, 0, 0, 0], 148) | ([2, 0, 0, 0], 92) => Some(Sealed::Handshake),
        ([3, 0, 0, 0], 64) => Some(Sealed::Cookie),
        ([4, 0, 0, 0], 32..) => {
            let index = bytes.get(4..8)?.first_chunk()?;
            Some(Sealed::Data(ReceiverIndex(u32::from_le_bytes(*index))))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_messages_of_their_types_lengths_are_messages() {
        let message = |kind: u8, len: usize| {
            let mut bytes = vec![0; len];
            bytes[..len.min(4)].copy_from_slice(&[kind, 0, 0, 0][..len.min(4)]);
            parse(&bytes)
        };
        assert_eq!(message(1, 148), Some(Sealed::Handshake));
        assert_eq!(message(2, 92), Some(Sealed::Handshake));
        assert_eq!(message(3, 64), Some(Sealed::Cookie));
        assert_eq!(message(4, 32), Some(Sealed::Data(ReceiverIndex(0))));
        assert_eq!(message(4, 65_000), Some(Sealed::Data(ReceiverIndex(0))));
        for (kind, len) in [(0, 148), (1, 147), (1, 149), (2, 148), (3, 63), (4, 31), (5, 148), (4, 3), (4, 0)] {
            assert_eq!(message(kind, len), None, "type {kind}, {len} bytes");
        }
        assert_eq!(parse(&[4, 0, 0, 1, 0, 0, 0, 0].repeat(8)), None, "reserved bytes are zero");
        let data = [4, 0, 0, 0, 0x78, 0x56, 0x34, 0x12].repeat(4);
        assert_eq!(parse(&data), Some(Sealed::Data(ReceiverIndex(0x1234_5678))));
    }
}
