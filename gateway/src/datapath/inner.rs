//! What a lane needs to know of an inner packet: whose it is and how long it is.
//!
//! Enters: bytes that begin with an IP header, from the lan side or out of a sealed packet, where padding
//! may follow. Leaves: source, destination and the packet's own length. Never does: look behind the IP
//! header, or verify a checksum; the host that receives the packet does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use landbridge_proto::DropReason;

/// Bytes of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Bytes of an IPv6 header without extensions.
pub const IPV6_LEN: usize = 40;

/// An inner packet's addresses and length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InnerPacket {
    /// Who sent it.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Its length by its own header: what follows is padding.
    pub len: usize,
}

/// Reads the IP header at the front of `bytes`.
///
/// # Errors
/// [`DropReason::BadInnerPacket`] when it is neither IPv4 nor IPv6, when a header is cut short, or when its length
/// fields claim less than the header or more than there is.
#[inline]
pub fn parse(bytes: &[u8]) -> Result<InnerPacket, DropReason> {
    match bytes.first().map(|first| first >> 4) {
        Some(4) => parse_v4(bytes),
        Some(6) => parse_v6(bytes),
        _ => None,
    }
    .ok_or(DropReason::BadInnerPacket)
}

#[inline]
fn parse_v4(bytes: &[u8]) -> Option<InnerPacket> {
    let header = bytes.first_chunk::<IPV4_LEN>()?;
    let header_len = usize::from(header[0] & 0xf) * 4;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if header_len < IPV4_LEN || len < header_len || len > bytes.len() {
        return None;
    }
    let [.., a, b, c, d, e, f, g, h] = *header;
    Some(InnerPacket {
        source: IpAddr::V4(Ipv4Addr::new(a, b, c, d)),
        destination: IpAddr::V4(Ipv4Addr::new(e, f, g, h)),
        len,
    })
}

#[inline]
fn parse_v6(bytes: &[u8]) -> Option<InnerPacket> {
    let header = bytes.first_chunk::<IPV6_LEN>()?;
    let len = IPV6_LEN + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if len > bytes.len() {
        return None;
    }
    let source = header[8..].first_chunk::<16>()?;
    let destination = header[24..].first_chunk::<16>()?;
    Some(InnerPacket {
        source: IpAddr::V6(Ipv6Addr::from(*source)),
        destination: IpAddr::V6(Ipv6Addr::from(*destination)),
        len,
    })
}

/// The two ECN bits of a packet that [`parse`] accepted.
#[inline]
#[must_use]
pub fn ecn(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & 3,
        [_, second, ..] => (second >> 4) & 3,
        _ => 0,
    }
}

/// ECN of the outer packet for an inner one (RFC 6040, section 4.1, compatible with what Linux sends: a mark that the
/// inner packet brought is not repeated outside, so that congestion on the way is told apart from it).
#[inline]
#[must_use]
pub const fn outer_ecn(inner: u8) -> u8 {
    match inner & 3 {
        CE => ECT_0,
        other => other,
    }
}

const ECT_0: u8 = 2;
const CE: u8 = 3;

/// Carries a congestion mark of the outer packet over to the inner one (RFC 6040, section 4.2).
///
/// # Errors
/// [`DropReason::CongestionMarked`] when the outer packet was marked and the inner transport does not know ECN: the
/// mark cannot be passed on, and dropping is how that transport learns of congestion.
#[inline]
pub fn take_outer_ecn(packet: &mut [u8], outer: u8) -> Result<(), DropReason> {
    if outer & 3 != CE {
        return Ok(());
    }
    match ecn(packet) {
        0 => Err(DropReason::CongestionMarked),
        CE => Ok(()),
        _ => {
            mark_congestion(packet);
            Ok(())
        }
    }
}

fn mark_congestion(packet: &mut [u8]) {
    if packet[0] >> 4 == 6 {
        packet[1] |= CE << 4;
        return;
    }
    change_v4_word(packet, 0, |[first, second]| [first, second | CE]);
}

/// Changes two bytes of an IPv4 header at an even place, and its checksum with them (RFC 1624, equation 3).
#[inline]
fn change_v4_word(packet: &mut [u8], at: usize, change: impl FnOnce([u8; 2]) -> [u8; 2]) {
    let before = [packet[at], packet[at + 1]];
    let after = change(before);
    packet[at..at + 2].copy_from_slice(&after);
    let check = u16::from_be_bytes([packet[10], packet[11]]);
    let sum = u32::from(!check) + u32::from(!u16::from_be_bytes(before)) + u32::from(u16::from_be_bytes(after));
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
}

/// What a router looks at besides the addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarded {
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// IPv4 options or IPv6 hop-by-hop options, which a router may have to act on.
    pub options: bool,
}

/// Reads that of a packet that [`parse`] accepted.
#[inline]
#[must_use]
pub fn forwarded(packet: &[u8]) -> Forwarded {
    const HOP_BY_HOP: u8 = 0;
    match packet[0] >> 4 {
        4 => Forwarded { hop_limit: packet[8], options: packet[0] & 0xf != 5 },
        _ => Forwarded { hop_limit: packet[7], options: packet[6] == HOP_BY_HOP },
    }
}

/// Takes one off the TTL or hop limit of a packet that [`parse`] accepted and whose limit is not zero.
#[inline]
pub fn take_hop(packet: &mut [u8]) {
    match packet[0] >> 4 {
        4 => change_v4_word(packet, 8, |[ttl, protocol]| [ttl.saturating_sub(1), protocol]),
        _ => packet[7] = packet[7].saturating_sub(1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::crafted::{Crafted, check_spec};

    #[test]
    fn addresses_and_length_are_read_and_padding_is_not_counted() {
        for (v6, source, destination) in [
            (false, "10.0.0.7", "10.0.1.7"),
            (true, "fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fdfd:fd07", "fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fcfc:fc07"),
        ] {
            let packet = Crafted { v6, ..Crafted::tcp(7, 1, 100) }.bytes();
            let padded = [packet.clone(), vec![0; 15]].concat();
            let inner = parse(&padded).expect("a sound packet");
            assert_eq!(inner.len, packet.len());
            assert_eq!(inner.source.to_string(), source);
            assert_eq!(inner.destination.to_string(), destination);
        }
    }

    #[test]
    fn headers_that_lie_are_refused() {
        let v4 = Crafted::udp(7, 1, 100).bytes();
        let v6 = Crafted { v6: true, ..Crafted::udp(7, 1, 100) }.bytes();
        for packet in [&v4, &v6] {
            for len in 0..packet.len() {
                assert_eq!(parse(&packet[..len]), Err(DropReason::BadInnerPacket), "{len} bytes");
            }
        }
        let table: [(&[u8], usize, u8); 6] =
            [(&v4, 0, 0x44), (&v4, 0, 0x35), (&v4, 0, 0x75), (&v4, 2, 1), (&v6, 4, 1), (&v6, 0, 0x4f)];
        for (packet, at, value) in table {
            let mut packet = packet.to_vec();
            packet[at] = value;
            assert_eq!(parse(&packet), Err(DropReason::BadInnerPacket), "byte {at} = {value:#x}");
        }
        let mut short = v4.clone();
        short[2..4].copy_from_slice(&19_u16.to_be_bytes());
        assert_eq!(parse(&short), Err(DropReason::BadInnerPacket), "length below the header");
    }

    #[test]
    fn congestion_marks_pass_from_outer_to_inner_as_rfc_6040_has_it() {
        for v6 in [false, true] {
            for inner in 0..4 {
                for outer in 0..4 {
                    let mut packet = Crafted { v6, tos: 0x28 | inner, ..Crafted::udp(7, 1, 9) }.bytes();
                    let result = take_outer_ecn(&mut packet, outer);
                    let expected = match (inner, outer) {
                        (0, 3) => Err(DropReason::CongestionMarked),
                        (_, 3) => Ok(3),
                        (inner, _) => Ok(inner),
                    };
                    assert_eq!(result.map(|()| ecn(&packet)), expected, "inner {inner}, outer {outer}");
                    assert_eq!(check_spec(&packet), Ok(()), "checksums after inner {inner}, outer {outer}");
                    assert_eq!(Crafted::read(&packet).tos & !3, 0x28);
                }
            }
        }
        assert_eq!([0, 1, 2, 3].map(outer_ecn), [0, 1, 2, 2]);
    }

    #[test]
    fn every_hop_takes_one_off_the_limit_and_leaves_the_checksums_right() {
        for v6 in [false, true] {
            let mut packet = Crafted { v6, ..Crafted::udp(7, 1, 9) }.bytes();
            for left in (1..forwarded(&packet).hop_limit).rev() {
                take_hop(&mut packet);
                assert_eq!(forwarded(&packet), Forwarded { hop_limit: left, options: false });
                assert_eq!(check_spec(&packet), Ok(()), "{left} hops left");
            }
        }
    }

    #[test]
    fn options_that_concern_routers_are_seen() {
        let mut v4 = Crafted::udp(7, 1, 9).bytes();
        v4[0] = 0x46;
        let mut v6 = Crafted { v6: true, ..Crafted::udp(7, 1, 9) }.bytes();
        v6[6] = 0;
        assert!(forwarded(&v4).options && forwarded(&v6).options);
    }
}
