//! Splitting what a TUN queue returned into packets of the tunnel's size.
//!
//! Enters: a `virtio_net_hdr` and a packet of up to 64 KiB behind it. Leaves: frames, each a complete packet
//! with headroom to seal and send it in place. Never does: emit part of a packet that turns out malformed.
//!
//! 1. The header is checked against the packet: kinds, header lengths, checksum place.
//! 2. Without segments, the packet is copied into one frame and its checksum finished.
//! 3. With segments, all that they share is summed once; each segment then costs one pass over its
//!    payload (copied and summed together) and a patch of its headers.

mod cut;

use landbridge_aead::TAG_LEN;
use landbridge_proto::DropReason;
use landbridge_xsk::{Frame, Pool};

pub(crate) use cut::Cut;

use super::checksum::Sum;
use super::inner::{IPV4_LEN, IPV6_LEN};
use super::transport::PADDING;
use super::vnet::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM, VnetHdr};
use super::wire::{PROTOCOL_UDP, UDP_LEN};

/// IP protocol number of TCP.
pub const PROTOCOL_TCP: u8 = 6;
/// Bytes of a TCP header without options.
pub const TCP_LEN: usize = 20;
/// Where the checksum stands in a TCP header.
pub const TCP_CHECK: usize = 16;
/// Where the checksum stands in a UDP header.
pub const UDP_CHECK: usize = 6;

const TCP_FIN: u8 = 0x01;
const TCP_PSH: u8 = 0x08;
const TCP_CWR: u8 = 0x80;

// What `take_for` leaves free behind a packet is what sealing needs.
const _: () = assert!(Frame::TAILROOM >= PADDING - 1 + TAG_LEN);

/// What became of one read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segments {
    /// Frames handed to `emit`.
    pub emitted: usize,
    /// Segments that found no frame: count them as [`DropReason::NoFrame`].
    pub without_frame: usize,
}

/// Cuts one read of a TUN queue into frames, in order.
///
/// # Errors
/// [`DropReason::Truncated`] when the read is shorter than its header, [`DropReason::Malformed`] when header and
/// packet do not agree; nothing is emitted then.
#[inline]
pub fn split(read: &[u8], pool: &mut Pool, emit: &mut impl FnMut(Frame)) -> Result<Segments, DropReason> {
    let (header, packet) = VnetHdr::parse(read).ok_or(DropReason::Truncated)?;
    if header.gso_type == GSO_NONE {
        return one(&header, packet, pool, emit);
    }
    let layout = Layout::of(&header, packet).ok_or(DropReason::Malformed)?;
    Ok(layout.split(packet, pool, emit))
}

fn one(header: &VnetHdr, packet: &[u8], pool: &mut Pool, emit: &mut impl FnMut(Frame)) -> Result<Segments, DropReason> {
    let start = usize::from(header.csum_start());
    let field = start + usize::from(header.csum_offset());
    let finish = header.flags & NEEDS_CSUM != 0;
    if packet.is_empty() || (finish && field + 2 > packet.len()) {
        return Err(DropReason::Malformed);
    }
    let Some(mut frame) = pool.take_for(packet.len()) else {
        return Ok(Segments { emitted: 0, without_frame: 1 });
    };
    let Some(out) = frame.append(packet.len()) else {
        pool.put(frame);
        return Err(DropReason::Oversized);
    };
    if finish {
        out[..start].copy_from_slice(&packet[..start]);
        let check = Sum::of_copy(&mut out[start..], &packet[start..]).checksum_nonzero();
        out[field..field + 2].copy_from_slice(&check);
    } else {
        out.copy_from_slice(packet);
    }
    emit(frame);
    Ok(Segments { emitted: 1, without_frame: 0 })
}

/// A super-packet whose headers were checked.
struct Layout {
    is_v4: bool,
    is_tcp: bool,
    /// Where the transport header begins.
    transport: usize,
    /// Where the payload begins.
    payload: usize,
    /// Where the packet ends.
    end: usize,
    segment_len: usize,
}

impl Layout {
    fn of(header: &VnetHdr, packet: &[u8]) -> Option<Self> {
        let segment_len = usize::from(header.segment_len());
        let is_v4 = *packet.first()? >> 4 == 4;
        let (protocol, transport, end) = transport_of(packet)?;
        let is_tcp = match (header.kind(), is_v4) {
            (GSO_TCPV4, true) | (GSO_TCPV6, false) => true,
            (GSO_UDP_L4, _) => false,
            _ => return None,
        };
        let expected = if is_tcp { PROTOCOL_TCP } else { PROTOCOL_UDP };
        let body = packet.get(transport..end)?;
        let header_len = match is_tcp {
            true => usize::from(body.get(12)? >> 4) * 4,
            false => UDP_LEN,
        };
        let least = if is_tcp { TCP_LEN } else { UDP_LEN };
        let check_at = if is_tcp { TCP_CHECK } else { UDP_CHECK };
        let checksum_agrees = header.flags & NEEDS_CSUM == 0
            || (usize::from(header.csum_start()) == transport && usize::from(header.csum_offset()) == check_at);
        let sound = protocol == expected
            && segment_len > 0
            && header_len >= least
            && header_len <= body.len()
            && checksum_agrees;
        sound.then_some(Self { is_v4, is_tcp, transport, payload: transport + header_len, end, segment_len })
    }

    fn split(&self, packet: &[u8], pool: &mut Pool, emit: &mut impl FnMut(Frame)) -> Segments {
        let headers = Headers::of(self, &packet[..self.payload]);
        let payload = &packet[self.payload..self.end];
        let count = payload.len().div_ceil(self.segment_len).max(1);
        let mut segments = Segments { emitted: 0, without_frame: 0 };
        for i in 0..count {
            let from = i * self.segment_len;
            let part = &payload[from..payload.len().min(from + self.segment_len)];
            match self.segment(&headers, i, i + 1 == count, part, pool) {
                Some(frame) => {
                    segments.emitted += 1;
                    emit(frame);
                }
                None => segments.without_frame += 1,
            }
        }
        segments
    }

    #[inline]
    fn segment(&self, headers: &Headers<'_>, i: usize, last: bool, part: &[u8], pool: &mut Pool) -> Option<Frame> {
        let len = self.payload + part.len();
        let mut frame = pool.take_for(len)?;
        let Some(out) = frame.append(len) else {
            pool.put(frame);
            return None;
        };
        let (head, body) = out.split_at_mut(self.payload);
        head.copy_from_slice(headers.bytes);
        let payload_sum = Sum::of_copy(body, part);
        let (ip, transport) = head.split_at_mut(self.transport);
        // A packet of 65,535 bytes at most has lengths of 16 bits, and at most so many segments.
        headers.patch_ip(ip, len as u16, i as u16);
        let transport_len = (len - self.transport) as u16;
        let sum = headers.transport_sum.plus(payload_sum).plus_u16(transport_len);
        if self.is_tcp {
            headers.patch_tcp(transport, (i * self.segment_len) as u32, i == 0, last, sum);
        } else {
            transport[4..6].copy_from_slice(&transport_len.to_be_bytes());
            transport[UDP_CHECK..UDP_LEN].copy_from_slice(&sum.plus_u16(transport_len).checksum_nonzero());
        }
        Some(frame)
    }
}

/// Protocol, start of the transport header and end of a packet; `None` for fragments and for packets that lie.
#[inline]
pub(crate) fn transport_of(packet: &[u8]) -> Option<(u8, usize, usize)> {
    match packet.first()? >> 4 {
        4 => ipv4(packet),
        _ => ipv6(packet),
    }
}

fn ipv4(packet: &[u8]) -> Option<(u8, usize, usize)> {
    let header = packet.first_chunk::<IPV4_LEN>()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    let sound = header_len >= IPV4_LEN && header_len <= len && len <= packet.len() && !is_fragment;
    sound.then_some((header[9], header_len, len))
}

/// As [`ipv4`]; options headers, which every segment repeats unchanged, are allowed.
fn ipv6(packet: &[u8]) -> Option<(u8, usize, usize)> {
    const REPEATABLE: [u8; 2] = [0, 60];
    let header = packet.first_chunk::<IPV6_LEN>()?;
    let len = IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 || len > packet.len() {
        return None;
    }
    let (mut next, mut at) = (header[6], IPV6_LEN);
    while REPEATABLE.contains(&next) {
        next = *packet[..len].get(at)?;
        at += (usize::from(*packet[..len].get(at + 1)?) + 1) * 8;
    }
    (at <= len).then_some((next, at, len))
}

/// What all segments share, and its sums.
struct Headers<'a> {
    bytes: &'a [u8],
    is_v4: bool,
    /// The IPv4 header with length, id and checksum zero.
    ip_sum: Sum,
    id: u16,
    /// Pseudo header without length; transport header with length, sequence, flags and checksum zero.
    transport_sum: Sum,
    sequence: u32,
    /// Data offset and flags of TCP, as one word.
    offset_flags: u16,
}

impl<'a> Headers<'a> {
    fn of(layout: &Layout, bytes: &'a [u8]) -> Self {
        let (ip, transport) = bytes.split_at(layout.transport);
        let (ip_sum, id, addresses) = match layout.is_v4 {
            true => {
                let sum = Sum::of(&ip[..2]).plus(Sum::of(&ip[6..10])).plus(Sum::of(&ip[12..]));
                (sum, u16::from_be_bytes([ip[4], ip[5]]), &ip[12..IPV4_LEN])
            }
            false => (Sum::ZERO, 0, &ip[8..IPV6_LEN]),
        };
        if !layout.is_tcp {
            let transport_sum = Sum::pseudo(addresses, PROTOCOL_UDP).plus(Sum::of(&transport[..4]));
            return Self { bytes, is_v4: layout.is_v4, ip_sum, id, transport_sum, sequence: 0, offset_flags: 0 };
        }
        let transport_sum = Sum::pseudo(addresses, PROTOCOL_TCP)
            .plus(Sum::of(&transport[..4]))
            .plus(Sum::of(&transport[8..12]))
            .plus(Sum::of(&transport[14..TCP_CHECK]))
            .plus(Sum::of(&transport[18..]));
        let sequence = u32::from_be_bytes([transport[4], transport[5], transport[6], transport[7]]);
        let offset_flags = u16::from_be_bytes([transport[12], transport[13]]);
        Self { bytes, is_v4: layout.is_v4, ip_sum, id, transport_sum, sequence, offset_flags }
    }

    #[inline]
    fn patch_ip(&self, ip: &mut [u8], len: u16, i: u16) {
        if self.is_v4 {
            let id = self.id.wrapping_add(i);
            ip[2..4].copy_from_slice(&len.to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[10..12].copy_from_slice(&self.ip_sum.plus_u16(len).plus_u16(id).checksum());
        } else {
            ip[4..6].copy_from_slice(&(len - IPV6_LEN as u16).to_be_bytes());
        }
    }

    /// FIN and PSH belong to the last segment, CWR to the first (as the kernel's own segmentation has it).
    #[inline]
    fn patch_tcp(&self, tcp: &mut [u8], offset: u32, first: bool, last: bool, sum: Sum) {
        let mut word = self.offset_flags;
        if !first {
            word &= !u16::from(TCP_CWR);
        }
        if !last {
            word &= !u16::from(TCP_FIN | TCP_PSH);
        }
        let sequence = self.sequence.wrapping_add(offset);
        tcp[4..8].copy_from_slice(&sequence.to_be_bytes());
        tcp[12..14].copy_from_slice(&word.to_be_bytes());
        tcp[TCP_CHECK..TCP_CHECK + 2].copy_from_slice(&sum.plus_u32(sequence).plus_u16(word).checksum());
    }
}

#[cfg(test)]
mod tests;
