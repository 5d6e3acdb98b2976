//! "Fragmentation needed" and "packet too big": what a router says of packets that do not fit the path to a peer.
//!
//! Enters: an inner packet and the largest one that fits. Leaves: an ICMP message to its sender. Never does: answer what must
//! not be answered (errors, later fragments, multicast: RFC 1812 section 4.3.2.7, RFC 4443 section 2.4), or answer without
//! limit.
//!
//! The message comes from the address that the packet was for, as if the far end had told it. An address of the gateway
//! would be a router's choice, but the kernel refuses packets from the tunnel that claim one of its own (as martian), and
//! checks of the reverse path refuse any address that is not routed into the tunnel; the packet's destination is. Whoever
//! receives the message goes by the packet that it quotes.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use landbridge_xsk::{Frame, Pool};

use super::checksum::Sum;
use super::inner::{IPV4_LEN, IPV6_LEN, InnerPacket};

/// The least MTU of an IPv6 link (RFC 8200, section 5): packets up to here are carried, in fragments where need be.
pub(crate) const IPV6_MTU_MIN: usize = 1280;

const PROTOCOL_ICMP: u8 = 1;
const PROTOCOL_ICMPV6: u8 = 58;
const ICMP_LEN: usize = 8;
/// IPv4 messages quote no more than gives packets of this size (RFC 1812, section 4.3.2.3).
const IPV4_MESSAGE_MAX: usize = 576;
const DESTINATION_UNREACHABLE: u8 = 3;
const FRAGMENTATION_NEEDED: u8 = 4;
const PACKET_TOO_BIG: u8 = 2;
/// Precedence of network control (RFC 1812, section 4.3.2.5).
const INTERNETWORK_CONTROL: u8 = 0xc0;
const HOP_LIMIT: u8 = 64;
/// ICMPv6 types below are errors.
const ICMPV6_QUERIES: u8 = 128;

/// Messages at once.
const BURST: u32 = 32;
/// Time in which another one becomes possible.
const INTERVAL: Duration = Duration::from_millis(10);

/// How many messages a lane may still send.
#[derive(Debug, Default)]
pub(crate) struct Allowance {
    used: u32,
    since: Option<Instant>,
}

impl Allowance {
    /// Takes one; false when there is none.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        let since = *self.since.get_or_insert(now);
        let regained = now.saturating_duration_since(since).as_nanos() / INTERVAL.as_nanos();
        if regained > 0 {
            self.used = self.used.saturating_sub(u32::try_from(regained).unwrap_or(u32::MAX));
            self.since = Some(now);
        }
        let free = self.used < BURST;
        self.used += u32::from(free);
        free
    }
}

/// Whether a packet that is too long must not be cut on its way.
#[inline]
pub(crate) fn is_whole(packet: &[u8]) -> bool {
    const DONT_FRAGMENT: u8 = 0x40;
    packet[0] >> 4 == 6 || packet[6] & DONT_FRAGMENT != 0
}

/// The message that tells the sender of `bytes` (which were parsed to `packet`) that packets of `fits` bytes pass; `None`
/// when it must not be told, or no frame is free.
pub(crate) fn message(bytes: &[u8], packet: &InnerPacket, fits: usize, pool: &mut Pool) -> Option<Frame> {
    match (packet.source, packet.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let odd = source.is_unspecified() || source.is_multicast() || source.is_broadcast() || source.is_loopback();
            let to_many = destination.is_multicast() || destination.is_broadcast();
            (!odd && !to_many && is_answered_v4(bytes)).then_some(())?;
            let quote = &bytes[..packet.len.min(IPV4_MESSAGE_MAX - IPV4_LEN - ICMP_LEN)];
            let mut frame = pool.take_for(IPV4_LEN + ICMP_LEN + quote.len())?;
            match frame.append(IPV4_LEN + ICMP_LEN + quote.len()) {
                Some(out) => write_v4(out, bytes, quote, fits),
                None => return discard(frame, pool),
            }
            Some(frame)
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let odd = source.is_unspecified() || source.is_multicast() || source.is_loopback();
            (!odd && !destination.is_multicast() && is_answered_v6(bytes)).then_some(())?;
            let quote = &bytes[..packet.len.min(IPV6_MTU_MIN - IPV6_LEN - ICMP_LEN)];
            let mut frame = pool.take_for(IPV6_LEN + ICMP_LEN + quote.len())?;
            match frame.append(IPV6_LEN + ICMP_LEN + quote.len()) {
                Some(out) => write_v6(out, bytes, quote, fits),
                None => return discard(frame, pool),
            }
            Some(frame)
        }
        _ => None,
    }
}

fn discard(frame: Frame, pool: &mut Pool) -> Option<Frame> {
    pool.put(frame);
    None
}

fn is_answered_v4(bytes: &[u8]) -> bool {
    const QUERIES: [u8; 4] = [0, 8, 13, 14];
    let header_len = usize::from(bytes[0] & 0xf) * 4;
    let is_later_fragment = u16::from_be_bytes([bytes[6], bytes[7]]) & 0x1fff != 0;
    let is_error = bytes[9] == PROTOCOL_ICMP && bytes.get(header_len).is_none_or(|kind| !QUERIES.contains(kind));
    !is_later_fragment && !is_error
}

fn is_answered_v6(bytes: &[u8]) -> bool {
    bytes[6] != PROTOCOL_ICMPV6 || bytes.get(IPV6_LEN).is_some_and(|kind| *kind >= ICMPV6_QUERIES)
}

fn write_v4(out: &mut [u8], packet: &[u8], quote: &[u8], fits: usize) {
    let total = out.len() as u16;
    let (ip, icmp) = out.split_at_mut(IPV4_LEN);
    ip.fill(0);
    ip[..2].copy_from_slice(&[0x45, INTERNETWORK_CONTROL]);
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[8..10].copy_from_slice(&[HOP_LIMIT, PROTOCOL_ICMP]);
    ip[12..16].copy_from_slice(&packet[16..20]);
    ip[16..20].copy_from_slice(&packet[12..16]);
    let check = Sum::of(ip).checksum();
    ip[10..12].copy_from_slice(&check);
    icmp[..ICMP_LEN].fill(0);
    icmp[..2].copy_from_slice(&[DESTINATION_UNREACHABLE, FRAGMENTATION_NEEDED]);
    icmp[6..8].copy_from_slice(&u16::try_from(fits).unwrap_or(u16::MAX).to_be_bytes());
    icmp[ICMP_LEN..].copy_from_slice(quote);
    let check = Sum::of(icmp).checksum();
    icmp[2..4].copy_from_slice(&check);
}

fn write_v6(out: &mut [u8], packet: &[u8], quote: &[u8], fits: usize) {
    let (ip, icmp) = out.split_at_mut(IPV6_LEN);
    let len = icmp.len() as u16;
    ip[..4].copy_from_slice(&[0x60, 0, 0, 0]);
    ip[4..6].copy_from_slice(&len.to_be_bytes());
    ip[6..8].copy_from_slice(&[PROTOCOL_ICMPV6, HOP_LIMIT]);
    ip[8..24].copy_from_slice(&packet[24..40]);
    ip[24..40].copy_from_slice(&packet[8..24]);
    icmp[..4].copy_from_slice(&[PACKET_TOO_BIG, 0, 0, 0]);
    icmp[4..8].copy_from_slice(&u32::try_from(fits).unwrap_or(u32::MAX).to_be_bytes());
    icmp[ICMP_LEN..].copy_from_slice(quote);
    let check = Sum::pseudo(&ip[8..40], PROTOCOL_ICMPV6).plus_u16(len).plus(Sum::of(icmp)).checksum();
    icmp[2..4].copy_from_slice(&check);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datapath::checksum::tests::naive;
    use crate::datapath::crafted::{Crafted, pool};
    use crate::datapath::inner;

    fn told(bytes: &[u8], fits: usize) -> Option<Vec<u8>> {
        let mut pool = pool(8, 1);
        let packet = inner::parse(bytes).expect("a sound packet");
        message(bytes, &packet, fits, &mut pool).map(|frame| frame.data().to_vec())
    }

    #[test]
    fn an_ipv4_sender_learns_the_size_and_sees_its_own_packet() {
        let packet = Crafted::udp(7, 1, 1300).bytes();
        let message = told(&packet, 1200).expect("a message");
        assert_eq!(message.len(), 576);
        assert_eq!((naive(&message[..20]), naive(&message[20..])), (0, 0), "both checksums");
        let parsed = inner::parse(&message).expect("a sound packet");
        let of = inner::parse(&packet).expect("a sound packet");
        assert_eq!((parsed.len, parsed.source, parsed.destination), (576, of.destination, of.source));
        assert_eq!(message[20..22], [3, 4]);
        assert_eq!(message[26..28], 1200_u16.to_be_bytes());
        assert_eq!(message[28..], packet[..548]);
    }

    #[test]
    fn an_ipv6_sender_learns_the_size_and_sees_its_own_packet() {
        let packet = Crafted { v6: true, ..Crafted::udp(7, 1, 1400) }.bytes();
        let message = told(&packet, 1280).expect("a message");
        assert_eq!(message.len(), 1280);
        let pseudo = [&message[8..40], &1240_u32.to_be_bytes(), &[0, 0, 0, 58]].concat();
        assert_eq!(naive(&[&pseudo, &message[40..]].concat()), 0);
        assert_eq!((&message[8..24], &message[24..40]), (&packet[24..40], &packet[8..24]));
        assert_eq!(message[40..42], [2, 0]);
        assert_eq!(message[44..48], 1280_u32.to_be_bytes());
        assert_eq!(message[48..], packet[..1232]);
    }

    #[test]
    fn what_must_not_be_answered_is_not() {
        let v4 = Crafted::udp(7, 1, 1300).bytes();
        let v6 = Crafted { v6: true, ..Crafted::udp(7, 1, 1400) }.bytes();
        let changed = |packet: &[u8], at: usize, bytes: &[u8]| {
            let mut packet = packet.to_vec();
            packet[at..at + bytes.len()].copy_from_slice(bytes);
            packet
        };
        for (what, packet) in [
            ("a later fragment", changed(&v4, 6, &[0x40, 9])),
            ("from nobody", changed(&v4, 12, &[0; 4])),
            ("from a group", changed(&v4, 12, &[239, 1, 1, 1])),
            ("from everybody", changed(&v4, 12, &[255; 4])),
            ("to a group", changed(&v4, 16, &[239, 1, 1, 1])),
            ("an ICMP error", changed(&changed(&v4, 9, &[1]), 20, &[11, 0])),
            ("from nobody, IPv6", changed(&v6, 8, &[0; 16])),
            ("from a group, IPv6", changed(&v6, 8, &[0xff, 2])),
            ("to a group, IPv6", changed(&v6, 24, &[0xff, 2])),
            ("an ICMPv6 error", changed(&changed(&v6, 6, &[58]), 40, &[1, 4])),
        ] {
            assert_eq!(told(&packet, 1280), None, "{what}");
        }
        assert!(told(&changed(&changed(&v4, 9, &[1]), 20, &[8, 0]), 1280).is_some(), "a ping is answered");
        assert!(told(&changed(&changed(&v6, 6, &[58]), 40, &[128, 0]), 1280).is_some(), "a ping is answered");
    }

    #[test]
    fn a_flood_is_answered_at_the_lanes_pace() {
        let (start, mut allowance) = (Instant::now(), Allowance::default());
        assert_eq!((0..1000).filter(|_| allowance.take(start)).count(), 32);
        let later = start + Duration::from_millis(55);
        assert_eq!((0..1000).filter(|_| allowance.take(later)).count(), 5);
        let much_later = start + Duration::from_secs(3600);
        assert_eq!((0..1000).filter(|_| allowance.take(much_later)).count(), 32);
    }
}
