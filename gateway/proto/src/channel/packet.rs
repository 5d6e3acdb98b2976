//! The inner packet around a message: IPv6 and UDP, as if two hosts on one link talked.
//!
//! Enters: messages, and inner packets between the two addresses of a session. Leaves: packets, and the messages in them.
//! Never does: look into a message.

use std::net::Ipv6Addr;

use super::MESSAGE_MAX;
use crate::DropReason;

/// The UDP port of both ends.
pub const CHANNEL_PORT: u16 = 51_821;
/// Bytes before the message.
pub(crate) const HEADERS_LEN: usize = IPV6_LEN + UDP_LEN;

const IPV6_LEN: usize = 40;
const UDP_LEN: usize = 8;
const UDP: u8 = 17;
/// Of a packet that no router has touched.
const HOP_LIMIT: u8 = 255;
const LINK_LOCAL: [u8; 8] = [0xfe, 0x80, 0, 0, 0, 0, 0, 0];

/// Whether an inner packet comes from or goes to a link-local address, as the channel's do: a look at 8 bytes, before
/// whole addresses are compared.
#[inline]
#[must_use]
pub fn is_link_local(packet: &[u8]) -> bool {
    packet.len() >= IPV6_LEN && packet[0] >> 4 == 6 && (packet[8..16] == LINK_LOCAL || packet[24..32] == LINK_LOCAL)
}

/// Whether an inner packet claims to be of the channel between these two: source and destination are exactly theirs.
#[inline]
#[must_use]
pub(crate) fn is_between(packet: &[u8], source: Ipv6Addr, destination: Ipv6Addr) -> bool {
    packet.len() >= IPV6_LEN
        && packet[0] >> 4 == 6
        && packet[8..24] == source.octets()
        && packet[24..40] == destination.octets()
}

/// Puts headers before the `len` bytes of message that stand behind [`HEADERS_LEN`] in `out`; returns the packet's length.
pub(crate) fn wrap(out: &mut [u8], len: usize, source: Ipv6Addr, destination: Ipv6Addr) -> usize {
    let udp_len = ((UDP_LEN + len) as u16).to_be_bytes();
    let (ip, udp) = out[..HEADERS_LEN + len].split_at_mut(IPV6_LEN);
    ip.fill(0);
    ip[0] = 0x60;
    ip[4..6].copy_from_slice(&udp_len);
    ip[6] = UDP;
    ip[7] = HOP_LIMIT;
    ip[8..24].copy_from_slice(&source.octets());
    ip[24..].copy_from_slice(&destination.octets());
    udp[..2].copy_from_slice(&CHANNEL_PORT.to_be_bytes());
    udp[2..4].copy_from_slice(&CHANNEL_PORT.to_be_bytes());
    udp[4..6].copy_from_slice(&udp_len);
    udp[6..8].fill(0);
    let check = match !sum(ip, udp) {
        0 => u16::MAX,
        check => check,
    };
    udp[6..8].copy_from_slice(&check.to_be_bytes());
    HEADERS_LEN + len
}

/// The message in a packet of the channel. Padding may follow the packet.
pub(crate) fn unwrap(packet: &[u8]) -> Result<&[u8], DropReason> {
    let (ip, rest) = packet.split_at_checked(IPV6_LEN).ok_or(DropReason::ChannelMalformed)?;
    let len = usize::from(u16::from_be_bytes([ip[4], ip[5]]));
    let udp = rest.get(..len).filter(|udp| udp.len() >= UDP_LEN).ok_or(DropReason::ChannelMalformed)?;
    let port = CHANNEL_PORT.to_be_bytes();
    let is_whole = ip[6] == UDP
        && ip[7] == HOP_LIMIT
        && udp[..2] == port
        && udp[2..4] == port
        && udp[4..6] == ip[4..6]
        && udp[6..8] != [0, 0]
        && len <= UDP_LEN + MESSAGE_MAX
        && sum(ip, udp) == u16::MAX;
    if is_whole { Ok(&udp[UDP_LEN..]) } else { Err(DropReason::ChannelMalformed) }
}

/// The sum over UDP and its pseudo header (RFC 8200, section 8.1).
fn sum(ip: &[u8], udp: &[u8]) -> u16 {
    let words = |bytes: &[u8]| {
        let pairs = bytes.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0)));
        pairs.sum::<u32>()
    };
    let mut sum = words(&ip[8..IPV6_LEN]) + u32::from(UDP) + udp.len() as u32 + words(udp);
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::super::address_of;
    use super::*;

    fn packet(message: &[u8]) -> Vec<u8> {
        let mut out = vec![0; HEADERS_LEN + message.len()];
        out[HEADERS_LEN..].copy_from_slice(message);
        wrap(&mut out, message.len(), address_of(&[1; 32]), address_of(&[2; 32]));
        out
    }

    #[test]
    fn a_message_comes_out_of_its_packet_with_and_without_padding() {
        for len in [0, 1, 2, 7, 8, MESSAGE_MAX] {
            let message: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut packet = packet(&message);
            assert!(is_link_local(&packet) && is_between(&packet, address_of(&[1; 32]), address_of(&[2; 32])));
            assert!(!is_between(&packet, address_of(&[2; 32]), address_of(&[1; 32])));
            assert_eq!(unwrap(&packet), Ok(&message[..]));
            packet.resize(packet.len().next_multiple_of(16), 0);
            assert_eq!(unwrap(&packet), Ok(&message[..]));
        }
    }

    #[test]
    fn a_packet_with_any_byte_changed_is_no_message() {
        let whole = packet(b"landbridge");
        for at in (4..whole.len()).chain([0]) {
            let mut changed = whole.clone();
            changed[at] ^= 0x10;
            let refused = unwrap(&changed) == Err(DropReason::ChannelMalformed);
            // The first nibble is the lanes' to look at.
            assert!(refused || at == 0 && !is_link_local(&changed), "byte {at}");
        }
        for len in 0..whole.len() {
            assert!(unwrap(&whole[..len]).is_err(), "{len} bytes");
        }
    }
}
