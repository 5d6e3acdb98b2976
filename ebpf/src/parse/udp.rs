//! From an IP header to the UDP datagram behind it.
//!
//! Enters: an IP packet. Leaves: where the datagram goes and how long it is, or the verdict that ends the matter. Never
//! does: look at a checksum (the AEAD answers for the content).

use landbridge_ebpf_common::{AddressKey, PACKET_LEN_MAX, Verdict};

use super::cursor::Cursor;
use super::ip::{V4, V6};

const UDP_LEN: u32 = 8;

// IANA protocol numbers.
const HOP_BY_HOP: u8 = 0;
const UDP: u8 = 17;
const ROUTING: u8 = 43;
const FRAGMENT: u8 = 44;
const DESTINATION_OPTIONS: u8 = 60;
/// IPv6 extension headers that are walked: more than RFC 8200 (section 4.1) has an order for.
const EXTENSIONS_MAX: usize = 6;

/// A whole UDP datagram to some address.
pub(crate) struct Datagram {
    /// Its destination.
    pub(crate) destination: AddressKey,
    /// Its destination port, in network order.
    pub(crate) port: [u8; 2],
    /// Its source port, in network order.
    pub(crate) source_port: [u8; 2],
    /// Bytes of the IP packet.
    pub(crate) packet_len: u32,
    /// Bytes behind the UDP header.
    pub(crate) payload_len: u32,
    pub(crate) payload: Cursor,
}

impl Datagram {
    /// Whether its last byte lies in the buffer of its first.
    #[inline(always)]
    pub(crate) fn is_in_one_buffer(&self) -> bool {
        self.payload_len <= u32::from(PACKET_LEN_MAX) && self.payload.holds(self.payload_len).is_ok()
    }
}

/// The datagram in an IPv4 packet.
#[inline(always)]
pub(crate) fn v4(packet: &V4) -> Result<Datagram, Verdict> {
    if packet.fragment {
        return Err(Verdict::Fragment);
    }
    if packet.protocol != UDP {
        return Err(Verdict::OtherProtocol);
    }
    let remaining = packet.len - packet.header_len;
    udp(packet.body, packet.destination_key(), packet.len, remaining)
}

/// The datagram in an IPv6 packet, behind the extension headers that end here.
#[inline(always)]
pub(crate) fn v6(packet: &V6) -> Result<Datagram, Verdict> {
    let mut cursor = packet.body;
    let mut next = packet.next;
    let mut remaining = packet.payload_len();
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
        UDP => udp(cursor, packet.destination_key(), packet.len, remaining),
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
    let [source_high, source_low, port_high, port_low, len_high, len_low, _, _] = *cursor.take::<8>()?;
    let len = u32::from(u16::from_be_bytes([len_high, len_low]));
    if len < UDP_LEN || len > remaining {
        return Err(Verdict::Malformed);
    }
    let (port, source_port) = ([port_high, port_low], [source_high, source_low]);
    Ok(Datagram { destination, port, source_port, packet_len, payload_len: len - UDP_LEN, payload: cursor })
}
