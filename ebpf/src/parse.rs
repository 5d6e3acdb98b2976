//! From the first byte of a frame to the UDP datagram in it.
//!
//! Enters: the bounds of the frame. Leaves: where the datagram goes and how long it is, or the verdict that
//! ends the matter. Never does: believe a length that leads beyond the frame, or look at a checksum (the
//! AEAD answers for the content).
//!
//! Two bounds are kept side by side: the frame's end, by pointer, which is what the verifier wants to see
//! before every read; and what remains of the IP packet, by number, because a frame may carry padding
//! behind it. Offsets that depend on the packet make the verifier ask for CAP_PERFMON beside CAP_BPF.

use landbridge_ebpf_common::{AddressKey, PACKET_LEN_MAX, Verdict};

const ETHERTYPE_IPV4: [u8; 2] = [0x08, 0x00];
const ETHERTYPE_IPV6: [u8; 2] = [0x86, 0xdd];
/// IEEE 802.1Q and 802.1ad.
const ETHERTYPE_TAGS: [[u8; 2]; 2] = [[0x81, 0x00], [0x88, 0xa8]];
const TAGS_MAX: usize = 2;

const IPV4_LEN_MIN: u32 = 20;
const IPV6_LEN: u32 = 40;
const UDP_LEN: u32 = 8;

// IANA protocol numbers.
const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// IPv6 extension headers that are walked: more than RFC 8200 (section 4.1) has an order for.
const EXTENSIONS_MAX: usize = 6;

/// First four bytes of transport data: type 4 and three reserved zeros (paper, section 5.4.6).
pub(crate) const TRANSPORT_DATA: [u8; 4] = [4, 0, 0, 0];
/// Bytes of the shortest transport data: header of 16, tag of 16 (a keepalive).
pub(crate) const TRANSPORT_DATA_LEN_MIN: u32 = 32;

/// A whole UDP datagram to some address.
pub(crate) struct Datagram {
    /// Its destination.
    pub(crate) destination: AddressKey,
    /// Its destination port, in network order.
    pub(crate) port: [u8; 2],
    /// Bytes of the IP packet.
    pub(crate) packet_len: u32,
    /// Bytes behind the UDP header.
    pub(crate) payload_len: u32,
    payload: Cursor,
}

/// The first eight bytes of a payload, read as transport data.
pub(crate) struct Head {
    pub(crate) message_type: [u8; 4],
    pub(crate) receiver_index: u32,
}

impl Datagram {
    /// Reads the payload's head. A payload too short for one is control: it is ours, and no transport data.
    #[inline(always)]
    pub(crate) fn payload(&self) -> Result<Head, Verdict> {
        if self.payload_len < 8 {
            return Err(Verdict::Control);
        }
        let head = self.payload.peek::<8>()?;
        let [a, b, c, d, e, f, g, h] = *head;
        Ok(Head { message_type: [a, b, c, d], receiver_index: u32::from_le_bytes([e, f, g, h]) })
    }
}

/// Finds the datagram of a frame.
#[inline(always)]
pub(crate) fn datagram(data: usize, data_end: usize) -> Result<Datagram, Verdict> {
    let mut cursor = Cursor { at: data, end: data_end };
    match ethertype(&mut cursor)? {
        ETHERTYPE_IPV4 => ipv4(cursor),
        ETHERTYPE_IPV6 => ipv6(cursor),
        tag if ETHERTYPE_TAGS.contains(&tag) => Err(Verdict::TooManyTags),
        _ => Err(Verdict::OtherEtherType),
    }
}

/// The type of what is inside the tags.
#[inline(always)]
fn ethertype(cursor: &mut Cursor) -> Result<[u8; 2], Verdict> {
    let [.., high, low] = *cursor.take::<14>()?;
    let mut kind = [high, low];
    for _ in 0..TAGS_MAX {
        if !ETHERTYPE_TAGS.contains(&kind) {
            break;
        }
        let [_, _, high, low] = *cursor.take::<4>()?;
        kind = [high, low];
    }
    Ok(kind)
}

#[inline(always)]
fn ipv4(mut cursor: Cursor) -> Result<Datagram, Verdict> {
    let header = cursor.peek::<20>()?;
    let [version_and_length, _, len_high, len_low, _, _, fragment_high, fragment_low, ..] = *header;
    let [.., a, b, c, d] = *header;
    let protocol = header[9];
    let header_len = u32::from(version_and_length & 0x0f) * 4;
    let total_len = u32::from(u16::from_be_bytes([len_high, len_low]));
    if version_and_length >> 4 != 4 || header_len < IPV4_LEN_MIN || total_len < header_len {
        return Err(Verdict::Malformed);
    }
    if total_len > u32::from(PACKET_LEN_MAX) {
        return Err(Verdict::TooLong);
    }
    cursor.holds(total_len)?;
    // More fragments follow, or this one is not the first.
    if fragment_high & 0x3f != 0 || fragment_low != 0 {
        return Err(Verdict::Fragment);
    }
    if protocol != UDP {
        return Err(Verdict::OtherProtocol);
    }
    cursor.skip(header_len);
    udp(cursor, AddressKey::v4([a, b, c, d]), total_len, total_len - header_len)
}

#[inline(always)]
fn ipv6(mut cursor: Cursor) -> Result<Datagram, Verdict> {
    let header = cursor.peek::<40>()?;
    let [version, _, _, _, len_high, len_low, mut next, ..] = *header;
    let mut remaining = u32::from(u16::from_be_bytes([len_high, len_low]));
    if version >> 4 != 6 {
        return Err(Verdict::Malformed);
    }
    let destination = cursor.peek_at::<24, 16>()?;
    if remaining > u32::from(PACKET_LEN_MAX) - IPV6_LEN {
        return Err(Verdict::TooLong);
    }
    let packet_len = IPV6_LEN + remaining;
    cursor.holds(packet_len)?;
    cursor.skip(IPV6_LEN);
    for position in 0..EXTENSIONS_MAX {
        // Hop-by-hop options stand first or not at all (RFC 8200, section 4.1).
        let walked = next == ROUTING || next == DESTINATION_OPTIONS || (next == HOP_BY_HOP && position == 0);
        if !walked {
            break;
        }
        let [after, len, _, segments_left, ..] = *cursor.peek::<8>()?;
        if next == ROUTING && segments_left != 0 {
            // Its way does not end here.
            return Err(Verdict::OtherProtocol);
        }
        let header_len = (u32::from(len) + 1) * 8;
        if remaining < header_len {
            return Err(Verdict::Malformed);
        }
        remaining -= header_len;
        cursor.skip(header_len);
        next = after;
    }
    match next {
        UDP => udp(cursor, AddressKey::v6(*destination), packet_len, remaining),
        FRAGMENT => Err(Verdict::Fragment),
        ROUTING | DESTINATION_OPTIONS => Err(Verdict::TooManyExtensions),
        _ => Err(Verdict::OtherProtocol),
    }
}

/// `remaining`: bytes of the IP packet from the UDP header on.
#[inline(always)]
fn udp(mut cursor: Cursor, destination: AddressKey, packet_len: u32, remaining: u32) -> Result<Datagram, Verdict> {
    if remaining < UDP_LEN {
        return Err(Verdict::Malformed);
    }
    let [_, _, port_high, port_low, len_high, len_low, _, _] = *cursor.take::<8>()?;
    let len = u32::from(u16::from_be_bytes([len_high, len_low]));
    if len < UDP_LEN || len > remaining {
        return Err(Verdict::Malformed);
    }
    let port = [port_high, port_low];
    Ok(Datagram { destination, port, packet_len, payload_len: len - UDP_LEN, payload: cursor })
}

/// A place in the frame, and the frame's end.
#[derive(Clone, Copy)]
struct Cursor {
    at: usize,
    end: usize,
}

impl Cursor {
    /// The next `N` bytes.
    #[inline(always)]
    fn peek<const N: usize>(&self) -> Result<&'static [u8; N], Verdict> {
        self.peek_at::<0, N>()
    }

    /// `N` bytes from `OFFSET` on.
    #[inline(always)]
    fn peek_at<const OFFSET: usize, const N: usize>(&self) -> Result<&'static [u8; N], Verdict> {
        if self.at + OFFSET + N > self.end {
            return Err(Verdict::Truncated);
        }
        // SAFETY: the bytes lie within the frame, as was compared; a frame lives until the program returns, which is as
        // long as anything of it lives; bytes have no alignment and no invalid values.
        Ok(unsafe { &*((self.at + OFFSET) as *const [u8; N]) })
    }

    /// The next `N` bytes, and moves behind them.
    #[inline(always)]
    fn take<const N: usize>(&mut self) -> Result<&'static [u8; N], Verdict> {
        let bytes = self.peek::<N>()?;
        self.at += N;
        Ok(bytes)
    }

    /// Moves on. Reads behind it are compared with the frame's end as all are.
    #[inline(always)]
    fn skip(&mut self, n: u32) {
        self.at += n as usize;
    }

    /// That the frame has `n` more bytes.
    #[inline(always)]
    fn holds(&self, n: u32) -> Result<(), Verdict> {
        if self.at + n as usize > self.end { Err(Verdict::Truncated) } else { Ok(()) }
    }
}
