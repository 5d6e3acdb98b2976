//! The header of transport data (paper, section 5.4.6) and the padding of what it carries.
//!
//! Enters: UDP payloads, or counters to send with. Leaves: receiver index and counter, or 16 bytes before
//! the ciphertext. Never does: open, seal, or decide whether a counter is acceptable.

use landbridge_aead::TAG_LEN;
use landbridge_proto::{DropReason, ReceiverIndex};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// Message type of transport data; the first of four bytes, the others are zero.
pub const TRANSPORT_DATA: u8 = 4;

/// Plaintext is padded to multiples of this.
pub const PADDING: usize = 16;

#[derive(FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Raw {
    kind: U32,
    receiver: U32,
    counter: U64,
}

/// The header before the ciphertext.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TransportHeader {
    /// The index by which the receiver finds the session.
    pub receiver: ReceiverIndex,
    /// The nonce's counter.
    pub counter: u64,
}

impl TransportHeader {
    /// Bytes of the header.
    pub const LEN: usize = size_of::<Raw>();
    /// Bytes of the smallest message: a keepalive.
    pub const MESSAGE_MIN: usize = Self::LEN + TAG_LEN;

    /// Reads the header at the front of a UDP payload.
    ///
    /// # Errors
    /// [`DropReason::UnknownType`] when it is another message, [`DropReason::Malformed`] when a reserved byte is
    /// not zero, [`DropReason::Truncated`] when not even a tag follows.
    #[inline]
    pub fn parse(payload: &[u8]) -> Result<Self, DropReason> {
        let Ok((raw, rest)) = Raw::ref_from_prefix(payload) else { return Err(DropReason::Truncated) };
        if raw.kind.get() != u32::from(TRANSPORT_DATA) {
            let known = payload[0] == TRANSPORT_DATA;
            return Err(if known { DropReason::Malformed } else { DropReason::UnknownType });
        }
        if rest.len() < TAG_LEN {
            return Err(DropReason::Truncated);
        }
        Ok(Self { receiver: ReceiverIndex(raw.receiver.get()), counter: raw.counter.get() })
    }

    /// The header's bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> [u8; Self::LEN] {
        zerocopy::transmute!(Raw {
            kind: U32::new(u32::from(TRANSPORT_DATA)),
            receiver: U32::new(self.receiver.0),
            counter: U64::new(self.counter),
        })
    }

    /// Writes the header over the front of `out`.
    ///
    /// # Panics
    /// When `out` is shorter than [`TransportHeader::LEN`].
    #[inline]
    pub fn write(&self, out: &mut [u8]) {
        out[..Self::LEN].copy_from_slice(&self.bytes());
    }
}

/// The length of a plaintext of `len` bytes after padding: a multiple of 16, but never past the tunnel's MTU, as
/// the sealed packet must fit wherever an unpadded one of full size does. A packet larger than the MTU (it was
/// lowered while the packet waited) is padded as if it were cut into pieces of the MTU.
#[inline]
#[must_use]
pub const fn padded_len(len: usize, mtu: usize) -> usize {
    if mtu == 0 {
        return len.next_multiple_of(PADDING);
    }
    let last = if len > mtu { len % mtu } else { len };
    let padded = last.next_multiple_of(PADDING);
    len - last + if padded < mtu { padded } else { mtu }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_the_papers_sixteen_bytes_and_back() {
        let header = TransportHeader { receiver: ReceiverIndex(0x0403_0201), counter: 0x0c0b_0a09_0807_0605 };
        let mut message = [0; 32];
        header.write(&mut message);
        assert_eq!(message[..16], [4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        assert_eq!(TransportHeader::parse(&message), Ok(header));
    }

    #[test]
    fn what_is_no_transport_data_has_its_own_reason() {
        let message = TransportHeader { receiver: ReceiverIndex(1), counter: 2 }.bytes();
        let message = [message.as_slice(), &[0; 16]].concat();
        for len in 0..32 {
            assert_eq!(TransportHeader::parse(&message[..len]), Err(DropReason::Truncated), "{len} bytes");
        }
        for (kind, reason) in [(1, DropReason::UnknownType), (0, DropReason::UnknownType), (5, DropReason::UnknownType)]
        {
            let mut other = message.clone();
            other[0] = kind;
            assert_eq!(TransportHeader::parse(&other), Err(reason), "type {kind}");
        }
        for reserved in 1..4 {
            let mut other = message.clone();
            other[reserved] = 1;
            assert_eq!(TransportHeader::parse(&other), Err(DropReason::Malformed), "byte {reserved}");
        }
    }

    #[test]
    fn padding_stops_at_the_mtu() {
        let table = [
            // (length, mtu, padded)
            (0, 1420, 0),
            (1, 1420, 16),
            (16, 1420, 16),
            (17, 1420, 32),
            (1408, 1420, 1408),
            (1409, 1420, 1420),
            (1420, 1420, 1420),
            (1421, 1420, 1436),
            (2840, 1420, 2840),
            (1280, 1280, 1280),
            (100, 0, 112),
            (5, 9, 9),
        ];
        for (len, mtu, padded) in table {
            assert_eq!(padded_len(len, mtu), padded, "{len} bytes, MTU {mtu}");
        }
    }
}
