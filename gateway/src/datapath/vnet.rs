//! `virtio_net_hdr`: what a TUN queue says before each packet about its checksum and its segments.
//!
//! Enters: the first ten bytes of what a queue returned. Leaves: the header, or the same ten bytes. Never
//! does: believe a field; who uses one checks it against the packet.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use landbridge_xsk::tun::VNET_HDR_LEN;

/// The header, in the machine's byte order (IFF_VNET_HDR without TUNSETVNETLE; include/uapi/linux/virtio_net.h).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct VnetHdr {
    /// [`NEEDS_CSUM`], [`DATA_VALID`].
    pub flags: u8,
    /// [`GSO_NONE`] or another of the `GSO_` constants, perhaps with [`GSO_ECN`].
    pub gso_type: u8,
    hdr_len: [u8; 2],
    gso_size: [u8; 2],
    csum_start: [u8; 2],
    csum_offset: [u8; 2],
}

const _: () = assert!(size_of::<VnetHdr>() == VNET_HDR_LEN, "the layout is the kernel's");

/// The checksum field holds the pseudo header's sum; the rest, from `csum_start` on, is to be added.
pub const NEEDS_CSUM: u8 = 1;
/// The checksum was verified.
pub const DATA_VALID: u8 = 2;
/// One packet.
pub const GSO_NONE: u8 = 0;
/// TCP segments over IPv4.
pub const GSO_TCPV4: u8 = 1;
/// IPv4 fragments of one UDP datagram; never asked for, so never accepted.
pub const GSO_UDP: u8 = 3;
/// TCP segments over IPv6.
pub const GSO_TCPV6: u8 = 4;
/// UDP datagrams over either.
pub const GSO_UDP_L4: u8 = 5;
/// Flag beside the type: the first TCP segment has CWR set.
pub const GSO_ECN: u8 = 0x80;

impl VnetHdr {
    /// A packet whose checksums are complete and unverified.
    pub const PLAIN: Self = Self {
        flags: 0,
        gso_type: GSO_NONE,
        hdr_len: [0; 2],
        gso_size: [0; 2],
        csum_start: [0; 2],
        csum_offset: [0; 2],
    };

    /// A super-packet: `header_len` bytes of headers, then segments of `segment_len` bytes, the last one perhaps
    /// shorter; the checksum at `csum_start + csum_offset` holds the pseudo header's sum.
    #[must_use]
    pub fn super_packet(gso_type: u8, header_len: u16, segment_len: u16, csum_start: u16, csum_offset: u16) -> Self {
        Self {
            flags: NEEDS_CSUM,
            gso_type,
            hdr_len: header_len.to_ne_bytes(),
            gso_size: segment_len.to_ne_bytes(),
            csum_start: csum_start.to_ne_bytes(),
            csum_offset: csum_offset.to_ne_bytes(),
        }
    }

    /// One packet whose checksum is left to its receiver.
    #[must_use]
    pub fn unfinished(csum_start: u16, csum_offset: u16) -> Self {
        Self {
            flags: NEEDS_CSUM,
            csum_start: csum_start.to_ne_bytes(),
            csum_offset: csum_offset.to_ne_bytes(),
            ..Self::PLAIN
        }
    }

    /// Takes the header off the front; `None` when there are fewer than ten bytes.
    #[inline]
    #[must_use]
    pub fn parse(read: &[u8]) -> Option<(Self, &[u8])> {
        Self::read_from_prefix(read).ok()
    }

    /// The header's bytes.
    #[inline]
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        self.as_bytes()
    }

    /// The kind of segments, without [`GSO_ECN`].
    #[inline]
    #[must_use]
    pub const fn kind(&self) -> u8 {
        self.gso_type & !GSO_ECN
    }

    /// Bytes of all headers, as the writer counted them.
    #[inline]
    #[must_use]
    pub const fn header_len(&self) -> u16 {
        u16::from_ne_bytes(self.hdr_len)
    }

    /// Bytes of payload in each segment but the last.
    #[inline]
    #[must_use]
    pub const fn segment_len(&self) -> u16 {
        u16::from_ne_bytes(self.gso_size)
    }

    /// Where the checksummed bytes begin.
    #[inline]
    #[must_use]
    pub const fn csum_start(&self) -> u16 {
        u16::from_ne_bytes(self.csum_start)
    }

    /// Where, behind that, the checksum stands.
    #[inline]
    #[must_use]
    pub const fn csum_offset(&self) -> u16 {
        u16::from_ne_bytes(self.csum_offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_bytes() {
        let header = VnetHdr::super_packet(GSO_TCPV6 | GSO_ECN, 72, 1388, 40, 16);
        let bytes = [header.bytes(), b"rest"].concat();
        let (parsed, rest) = VnetHdr::parse(&bytes).expect("ten bytes and more");
        assert_eq!(parsed, header);
        assert_eq!(rest, b"rest");
        assert_eq!((parsed.kind(), parsed.flags), (GSO_TCPV6, NEEDS_CSUM));
        assert_eq!((parsed.header_len(), parsed.segment_len()), (72, 1388));
        assert_eq!((parsed.csum_start(), parsed.csum_offset()), (40, 16));
    }

    #[test]
    fn fewer_than_ten_bytes_are_no_header() {
        assert!(VnetHdr::parse(&[0; 9]).is_none());
        assert!(VnetHdr::parse(&[0; 10]).is_some());
    }
}
