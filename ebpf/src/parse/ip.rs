//! The base header of an IP packet.
//!
//! Enters: the place where the packet begins. Leaves: its header, whose lengths agree with each other and with the
//! frame. Never does: look at what is behind the header, or at a checksum.

use landbridge_ebpf_common::{AddressKey, PACKET_LEN_MAX, Verdict};

use super::cursor::Cursor;

const V4_LEN_MIN: u32 = 20;
const V6_LEN: u32 = 40;

/// An IPv4 header.
pub(crate) struct V4 {
    pub(crate) source: &'static [u8; 4],
    pub(crate) destination: &'static [u8; 4],
    /// Bytes of the packet.
    pub(crate) len: u32,
    /// Bytes of the header.
    pub(crate) header_len: u32,
    pub(crate) ttl: u8,
    pub(crate) protocol: u8,
    /// More fragments follow, or this one is not the first.
    pub(crate) fragment: bool,
    /// Behind the header, options included.
    pub(crate) body: Cursor,
}

/// An IPv6 header.
pub(crate) struct V6 {
    pub(crate) source: &'static [u8; 16],
    pub(crate) destination: &'static [u8; 16],
    /// Bytes of the packet.
    pub(crate) len: u32,
    pub(crate) hop_limit: u8,
    /// What the next header is.
    pub(crate) next: u8,
    /// Behind the header.
    pub(crate) body: Cursor,
}

impl V4 {
    #[inline(always)]
    pub(crate) fn parse(mut cursor: Cursor) -> Result<Self, Verdict> {
        let header = cursor.peek::<20>()?;
        let [version_and_length, _, len_high, len_low, _, _, fragment_high, fragment_low, ttl, protocol, ..] = *header;
        let header_len = u32::from(version_and_length & 0x0f) * 4;
        let len = u32::from(u16::from_be_bytes([len_high, len_low]));
        if version_and_length >> 4 != 4 || header_len < V4_LEN_MIN || len < header_len {
            return Err(Verdict::Malformed);
        }
        if len > u32::from(PACKET_LEN_MAX) {
            return Err(Verdict::TooLong);
        }
        cursor.holds(len)?;
        let fragment = fragment_high & 0x3f != 0 || fragment_low != 0;
        let source = cursor.peek_at::<12, 4>()?;
        let destination = cursor.peek_at::<16, 4>()?;
        cursor.skip(header_len);
        Ok(Self { source, destination, len, header_len, ttl, protocol, fragment, body: cursor })
    }

    /// The destination, as the map of local addresses has it.
    #[inline(always)]
    pub(crate) fn destination_key(&self) -> AddressKey {
        AddressKey::v4(*self.destination)
    }

    /// Whether there are options.
    #[inline(always)]
    pub(crate) fn has_options(&self) -> bool {
        self.header_len != V4_LEN_MIN
    }
}

impl V6 {
    #[inline(always)]
    pub(crate) fn parse(mut cursor: Cursor) -> Result<Self, Verdict> {
        let [version, _, _, _, len_high, len_low, next, hop_limit, ..] = *cursor.peek::<40>()?;
        let payload_len = u32::from(u16::from_be_bytes([len_high, len_low]));
        if version >> 4 != 6 {
            return Err(Verdict::Malformed);
        }
        let source = cursor.peek_at::<8, 16>()?;
        let destination = cursor.peek_at::<24, 16>()?;
        if payload_len > u32::from(PACKET_LEN_MAX) - V6_LEN {
            return Err(Verdict::TooLong);
        }
        let len = V6_LEN + payload_len;
        cursor.holds(len)?;
        cursor.skip(V6_LEN);
        Ok(Self { source, destination, len, hop_limit, next, body: cursor })
    }

    /// The destination, as the map of local addresses has it.
    #[inline(always)]
    pub(crate) fn destination_key(&self) -> AddressKey {
        AddressKey::v6(*self.destination)
    }

    /// Bytes behind the header.
    #[inline(always)]
    pub(crate) fn payload_len(&self) -> u32 {
        self.len - V6_LEN
    }
}
