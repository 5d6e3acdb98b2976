//! Outer headers: read from Ethernet on when a packet comes from a ring, written when one goes to a ring.
//!
//! Enters: frames as the XDP program passed them; UDP payloads to send. Leaves: the datagram's addresses and
//! the place of its payload; whole Ethernet frames. Never does: reassemble, resolve, or route.
//!
//! On the way in, the IPv4 header checksum is verified: nothing before us did, and it guards the address that a
//! peer may be followed to. The UDP checksum is not: the AEAD tag covers the payload better, and local senders
//! (veth, virtio) leave it unfinished.
//!
//! On the way out we do as the kernel's WireGuard does: DF clear with an id that differs, so that a
//! smaller link on the way fragments instead of dropping; no UDP checksum over IPv4, a computed one over IPv6.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use arrayvec::ArrayVec;
use landbridge_proto::DropReason;
use landbridge_xsk::{Frame, tx_metadata};

use super::checksum::Sum;
use super::inner::{IPV4_LEN, IPV6_LEN};
use super::tables::Wire;

/// Bytes of a UDP header.
pub const UDP_LEN: usize = 8;
/// Bytes of an Ethernet header without VLAN tags.
pub const ETHERNET_LEN: usize = 14;

const MACS_LEN: usize = 12;
const VLAN_TAG_LEN: usize = 4;
const VLAN_TAGS_MAX: usize = 2;
/// Bytes of an Ethernet header with as many VLAN tags as are understood.
pub(super) const ETHERNET_MAX: usize = ETHERNET_LEN + VLAN_TAGS_MAX * VLAN_TAG_LEN;
pub(super) const ETHERTYPE_IPV4: u16 = 0x0800;
pub(super) const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPES_VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];

/// Where the checksum stands in a UDP header.
const UDP_CHECKSUM_AT: u16 = 6;

/// IP protocol number of UDP.
pub const PROTOCOL_UDP: u8 = 17;
const HOP_BY_HOP: u8 = 0;
const ROUTING: u8 = 43;
const DESTINATION_OPTIONS: u8 = 60;
/// More extension headers than this are not a packet that anybody needs.
const EXTENSIONS_MAX: usize = 8;

/// The kernel's default for both families.
const HOP_LIMIT: u8 = 64;

/// A UDP datagram found in a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireDatagram {
    /// Where it came from.
    pub remote: SocketAddr,
    /// The address of ours it came to.
    pub local: IpAddr,
    /// The port of ours it came to.
    pub local_port: u16,
    /// ECN bits of the outer IP header.
    pub ecn: u8,
    /// Bytes of the whole outer IP packet.
    pub ip_len: usize,
    /// Where its payload stands in the frame.
    pub payload: Range<usize>,
}

/// Finds the datagram in a frame that begins with an Ethernet header.
///
/// # Errors
/// [`DropReason::Truncated`] when a length field claims more than there is, [`DropReason::Malformed`] for all that
/// is not one whole UDP datagram over IPv4 or IPv6: the steer program passes nothing else to a ring.
#[inline]
pub fn parse(frame: &[u8]) -> Result<WireDatagram, DropReason> {
    let (ethertype, at) = ethernet(frame)?;
    match ethertype {
        ETHERTYPE_IPV4 => ipv4(frame, at),
        ETHERTYPE_IPV6 => ipv6(frame, at),
        _ => Err(DropReason::Malformed),
    }
}

/// Where the IP packet in a frame begins.
///
/// # Errors
/// [`DropReason::Truncated`] when the frame ends before, [`DropReason::Malformed`] when there is none.
#[inline]
pub(super) fn ip_at(frame: &[u8]) -> Result<usize, DropReason> {
    match ethernet(frame)? {
        (ETHERTYPE_IPV4 | ETHERTYPE_IPV6, at) => Ok(at),
        _ => Err(DropReason::Malformed),
    }
}

/// The EtherType behind all VLAN tags, and where what it names begins.
#[inline]
fn ethernet(frame: &[u8]) -> Result<(u16, usize), DropReason> {
    let mut at = MACS_LEN;
    for _ in 0..=VLAN_TAGS_MAX {
        let ethertype = u16_at(frame, at)?;
        if !ETHERTYPES_VLAN.contains(&ethertype) {
            return Ok((ethertype, at + 2));
        }
        at += VLAN_TAG_LEN;
    }
    Err(DropReason::Malformed)
}

#[inline]
fn ipv4(frame: &[u8], at: usize) -> Result<WireDatagram, DropReason> {
    let packet = &frame[at..];
    let header = packet.first_chunk::<IPV4_LEN>().ok_or(DropReason::Truncated)?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header[0] >> 4 != 4 || header_len < IPV4_LEN || len < header_len {
        return Err(DropReason::Malformed);
    }
    if len > packet.len() {
        return Err(DropReason::Truncated);
    }
    let is_fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    if is_fragment || header[9] != PROTOCOL_UDP || !Sum::of(&packet[..header_len]).is_intact() {
        return Err(DropReason::Malformed);
    }
    let [.., a, b, c, d, e, f, g, h] = *header;
    let addresses = (IpAddr::V4(Ipv4Addr::new(a, b, c, d)), IpAddr::V4(Ipv4Addr::new(e, f, g, h)));
    udp(frame, at + header_len..at + len, addresses, header[1] & 3, len)
}

#[inline]
fn ipv6(frame: &[u8], at: usize) -> Result<WireDatagram, DropReason> {
    let packet = &frame[at..];
    let header = packet.first_chunk::<IPV6_LEN>().ok_or(DropReason::Truncated)?;
    let len = IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if header[0] >> 4 != 6 {
        return Err(DropReason::Malformed);
    }
    let packet = packet.get(..len).ok_or(DropReason::Truncated)?;
    let udp_at = at + skip_extensions(packet, header[6])?;
    let source = header[8..].first_chunk::<16>().ok_or(DropReason::Truncated)?;
    let destination = header[24..].first_chunk::<16>().ok_or(DropReason::Truncated)?;
    let addresses = (IpAddr::V6(Ipv6Addr::from(*source)), IpAddr::V6(Ipv6Addr::from(*destination)));
    udp(frame, udp_at..at + len, addresses, (header[1] >> 4) & 3, len)
}

/// Where the UDP header begins in an IPv6 packet.
fn skip_extensions(packet: &[u8], mut next: u8) -> Result<usize, DropReason> {
    let mut at = IPV6_LEN;
    for _ in 0..=EXTENSIONS_MAX {
        match next {
            PROTOCOL_UDP => return Ok(at),
            HOP_BY_HOP | ROUTING | DESTINATION_OPTIONS => {}
            _ => return Err(DropReason::Malformed),
        }
        let extension = packet.get(at..at + 4).ok_or(DropReason::Truncated)?;
        if next == ROUTING && extension[3] != 0 {
            // Segments left: we are not where it ends.
            return Err(DropReason::Malformed);
        }
        next = extension[0];
        at += (usize::from(extension[1]) + 1) * 8;
        if at > packet.len() {
            return Err(DropReason::Truncated);
        }
    }
    Err(DropReason::Malformed)
}

#[inline]
fn udp(
    frame: &[u8],
    at: Range<usize>,
    (source, destination): (IpAddr, IpAddr),
    ecn: u8,
    ip_len: usize,
) -> Result<WireDatagram, DropReason> {
    let datagram = &frame[at.clone()];
    let header = datagram.first_chunk::<UDP_LEN>().ok_or(DropReason::Truncated)?;
    let len = usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len < UDP_LEN {
        return Err(DropReason::Malformed);
    }
    if len > datagram.len() {
        return Err(DropReason::Truncated);
    }
    Ok(WireDatagram {
        remote: SocketAddr::new(source, u16::from_be_bytes([header[0], header[1]])),
        local: destination,
        local_port: u16::from_be_bytes([header[2], header[3]]),
        ecn,
        ip_len,
        payload: at.start + UDP_LEN..at.start + len,
    })
}

#[inline]
fn u16_at(bytes: &[u8], at: usize) -> Result<u16, DropReason> {
    match bytes.get(at..at + 2) {
        Some(&[high, low]) => Ok(u16::from_be_bytes([high, low])),
        _ => Err(DropReason::Truncated),
    }
}

/// Who computes the UDP checksum over IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SummedBy {
    /// It is there when the headers are written.
    Us,
    /// The device that sends the frame, which is asked for it.
    Device,
}

/// Most bytes that a template holds: Ethernet with two VLAN tags, IPv6, UDP.
const TEMPLATE_MAX: usize = ETHERNET_MAX + IPV6_LEN + UDP_LEN;

/// The outer headers of one path with all that does not differ from packet to packet, made once per path.
///
/// Over IPv4 without VLAN all that is read of it is one cache line.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C)]
pub struct HeaderTemplate {
    /// IPv4: the IP header with length, id and ECN zero. IPv6: pseudo header and the remote's UDP port.
    sum: Sum,
    payload_max: u16,
    if_index: u32,
    is_v4: bool,
    /// Bytes of Ethernet in front.
    ethernet_len: u8,
    len: u8,
    bytes: [u8; TEMPLATE_MAX],
}

impl HeaderTemplate {
    /// Headers from `wire.source` to `remote`, their source port zero; `None` when they differ in family.
    #[must_use]
    pub fn new(wire: &Wire, remote: SocketAddr) -> Option<Self> {
        let mut bytes = ArrayVec::<u8, TEMPLATE_MAX>::new();
        bytes.try_extend_from_slice(&wire.ethernet).ok()?;
        let ip_len = match (wire.source, remote.ip().to_canonical()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                let mut header = [0; IPV4_LEN];
                header[0] = 0x45;
                header[8] = HOP_LIMIT;
                header[9] = PROTOCOL_UDP;
                header[12..16].copy_from_slice(&source.octets());
                header[16..].copy_from_slice(&destination.octets());
                bytes.try_extend_from_slice(&header).ok()?;
                IPV4_LEN
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                let mut header = [0; IPV6_LEN];
                header[0] = 0x60;
                header[6] = PROTOCOL_UDP;
                header[7] = HOP_LIMIT;
                header[8..24].copy_from_slice(&source.octets());
                header[24..].copy_from_slice(&destination.octets());
                bytes.try_extend_from_slice(&header).ok()?;
                IPV6_LEN
            }
            _ => return None,
        };
        let ethernet_len = wire.ethernet.len();
        let is_v4 = ip_len == IPV4_LEN;
        let sum = match is_v4 {
            true => Sum::of(&bytes[ethernet_len..]),
            false => Sum::pseudo(&bytes[ethernet_len + 8..], PROTOCOL_UDP).plus_u16(remote.port()),
        };
        bytes.try_extend_from_slice(&[0; 2]).ok()?;
        bytes.try_extend_from_slice(&remote.port().to_be_bytes()).ok()?;
        bytes.try_extend_from_slice(&[0; 4]).ok()?;
        let ip_max = (wire.mtu as usize).min(usize::from(u16::MAX));
        let payload_max = ip_max.saturating_sub(ip_len + UDP_LEN) as u16;
        // All lengths are below TEMPLATE_MAX.
        let (ethernet_len, len) = (ethernet_len as u8, bytes.len() as u8);
        let mut all = [0; TEMPLATE_MAX];
        all[..bytes.len()].copy_from_slice(&bytes);
        Some(Self { sum, payload_max, if_index: wire.if_index, is_v4, ethernet_len, len, bytes: all })
    }

    /// The largest UDP payload that fits the path's MTU: larger ones take the kernel's socket, which fragments.
    #[inline]
    #[must_use]
    pub const fn payload_max(&self) -> usize {
        self.payload_max as usize
    }

    /// The interface that they leave by.
    #[inline]
    #[must_use]
    pub const fn if_index(&self) -> u32 {
        self.if_index
    }

    /// Bytes of the Ethernet header in front.
    #[inline]
    #[must_use]
    pub const fn ethernet_len(&self) -> usize {
        self.ethernet_len as usize
    }

    /// The UDP port that it leads to.
    #[inline]
    fn remote_port(&self) -> u16 {
        let at = usize::from(self.len) - UDP_LEN + 2;
        u16::from_be_bytes([self.bytes[at], self.bytes[at + 1]])
    }

    /// Puts the outer headers before the UDP payload in `frame`, from a port of ours and with the ECN bits of [`super::inner::outer_ecn`].
    ///
    /// # Errors
    /// [`DropReason::Oversized`] when the payload exceeds [`HeaderTemplate::payload_max`] or the frame's headroom
    /// is too small; the frame is then as it was.
    #[inline]
    pub fn write_with_ecn(&self, frame: &mut Frame, source_port: u16, ecn: u8) -> Result<(), DropReason> {
        self.write_summed_by(SummedBy::Us, frame, source_port, ecn)
    }

    /// As [`HeaderTemplate::write_with_ecn`]. A checksum that the device is to compute it is asked for; one that it cannot
    /// be asked for (for want of headroom, or as the packet goes in parts) is there all the same.
    ///
    /// # Errors
    /// See there.
    #[inline]
    pub fn write_summed_by(
        &self,
        by: SummedBy,
        frame: &mut Frame,
        source_port: u16,
        ecn: u8,
    ) -> Result<(), DropReason> {
        let payload_len = frame.len();
        if payload_len > self.payload_max() {
            return Err(DropReason::Oversized);
        }
        let id = datagram_id(frame.data());
        // The length of a datagram that fits an MTU of at most 65,535.
        let udp_len = (payload_len + UDP_LEN) as u16;
        let headers_len = usize::from(self.len);
        let can_ask = !frame.is_jumbo() && frame.headroom() >= headers_len + tx_metadata::LEN;
        let asks = !self.is_v4 && by == SummedBy::Device && can_ask;
        let udp_check = match (self.is_v4, asks) {
            (true, _) => [0; 2],
            // What stands in the field is part of the sum: the pseudo header alone, so the port is taken out again.
            (false, true) => self.sum.plus_u16(!self.remote_port()).plus_u16(udp_len).partial(),
            // Once in the pseudo header, once in the UDP header.
            (false, false) => {
                let ports = self.sum.plus_u16(source_port);
                ports.plus_u16(udp_len).plus_u16(udp_len).plus(Sum::of(frame.data())).checksum_nonzero()
            }
        };
        let bytes = &self.bytes[..headers_len];
        let out = frame.prepend(bytes.len()).ok_or(DropReason::Oversized)?;
        out.copy_from_slice(bytes);
        let (ip, udp) = out[self.ethernet_len()..].split_at_mut(if self.is_v4 { IPV4_LEN } else { IPV6_LEN });
        udp[..2].copy_from_slice(&source_port.to_be_bytes());
        udp[4..6].copy_from_slice(&udp_len.to_be_bytes());
        udp[6..].copy_from_slice(&udp_check);
        let ecn = ecn & 3;
        if self.is_v4 {
            let ip_len = udp_len + IPV4_LEN as u16;
            let check = self.sum.plus_u16(ip_len).plus_u16(id).plus_u16(u16::from(ecn)).checksum();
            ip[1] = ecn;
            ip[2..4].copy_from_slice(&ip_len.to_be_bytes());
            ip[4..6].copy_from_slice(&id.to_be_bytes());
            ip[10..12].copy_from_slice(&check);
        } else {
            ip[1] = ecn << 4;
            ip[4..6].copy_from_slice(&udp_len.to_be_bytes());
        }
        if asks {
            let asked = frame.ask_checksum((headers_len - UDP_LEN) as u16, UDP_CHECKSUM_AT);
            debug_assert!(asked, "there is room for the request");
        }
        Ok(())
    }

    /// [`HeaderTemplate::write_with_ecn`] for packets that know no ECN.
    ///
    /// # Errors
    /// See there.
    #[inline]
    pub fn write(&self, frame: &mut Frame, source_port: u16) -> Result<(), DropReason> {
        self.write_with_ecn(frame, source_port, 0)
    }
}

/// The IPv4 id: low bits of the counter of transport data. Packets of one path then have different ids, as
/// fragments need them to, without any state, and an observer learns nothing that the payload does not show.
#[inline]
fn datagram_id(payload: &[u8]) -> u16 {
    match payload.get(8..10) {
        Some(&[low, high]) => u16::from_le_bytes([low, high]),
        _ => 0,
    }
}

#[cfg(test)]
mod tests;
