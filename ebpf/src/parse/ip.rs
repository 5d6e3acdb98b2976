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

/// That the frame has `len` bytes from the packet on: `whole`, in several buffers, or what this one has.
#[inline(always)]
fn holds(cursor: &Cursor, len: u32, whole: Option<u32>) -> Result<(), Verdict> {
    match whole {
        Some(bytes) if len > bytes => Err(Verdict::Truncated),
        Some(_) => Ok(()),
        // What is longer than a buffer is not here, and the verifier wants to see that the place is near.
        None if len > u32::from(PACKET_LEN_MAX) => Err(Verdict::TooLong),
        None => cursor.holds(len),
    }
}

impl V4 {
    /// `whole`: bytes of the frame from the packet on, where it may have several buffers.
    #[inline(always)]
    pub(crate) fn parse(mut cursor: Cursor, whole: Option<u32>) -> Result<Self, Verdict> {
        let header = cursor.peek::<20>()?;
        let [version_and_length, _, len_high, len_low, _, _, fragment_high, fragment_low, ttl, protocol, ..] = *header;
        let header_len = u32::from(version_and_length & 0x0f) * 4;
        let len = u32::from(u16::from_be_bytes([len_high, len_low]));
        if version_and_length >> 4 != 4 || header_len < V4_LEN_MIN || len < header_len {
            return Err(Verdict::Malformed);
        }
        holds(&cursor, len, whole)?;
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
    /// `whole`: as for [`V4::parse`].
    #[inline(always)]
    pub(crate) fn parse(mut cursor: Cursor, whole: Option<u32>) -> Result<Self, Verdict> {
        let [version, _, _, _, len_high, len_low, next, hop_limit, ..] = *cursor.peek::<40>()?;
        let payload_len = u32::from(u16::from_be_bytes([len_high, len_low]));
        if version >> 4 != 6 {
            return Err(Verdict::Malformed);
        }
        let source = cursor.peek_at::<8, 16>()?;
        let destination = cursor.peek_at::<24, 16>()?;
        let len = V6_LEN + payload_len;
        holds(&cursor, len, whole)?;
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
