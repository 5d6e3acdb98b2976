//! The largest segment that a TCP connection announces, lowered to what the path to a peer carries.
//!
//! Enters: an inner packet and the largest packet of the path. Leaves: the same packet; of a SYN, perhaps with a smaller
//! maximum segment size (RFC 9293, section 3.7.1) and the checksum that goes with it. Never does: add an option (without one
//! a sender assumes 536 or 1220 bytes, which fit), raise a value, or mend a checksum that was wrong.

use super::inner::{IPV4_LEN, IPV6_LEN};
use super::segment::{PROTOCOL_TCP, TCP_CHECK, TCP_LEN, transport_of};

const TCP_SYN: u8 = 0x02;
const END_OF_OPTIONS: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
/// Of that option: kind, length and the size itself.
const OPTION_LEN: usize = 4;

/// Lowers the maximum segment size of a SYN so that segments fit into packets of `mtu` bytes; true when it was larger.
pub(crate) fn clamp(packet: &mut [u8], mtu: usize) -> bool {
    let Some((transport, headers)) = syn(packet) else { return false };
    let Ok(fits) = u16::try_from(mtu.saturating_sub(headers)) else { return false };
    let tcp = &mut packet[transport..];
    let header_len = usize::from(tcp[12] >> 4) * 4;
    let Some(at) = option_at(&tcp[..header_len.min(tcp.len())]) else { return false };
    let announced = u16::from_be_bytes([tcp[at], tcp[at + 1]]);
    if announced <= fits {
        return false;
    }
    tcp[at..at + 2].copy_from_slice(&fits.to_be_bytes());
    // Options may lie at odd places: the bytes then belong to two words, each to the other half (RFC 1071, section 2, B).
    let word = |value: u16| if at % 2 == 0 { value } else { value.swap_bytes() };
    let check = u16::from_be_bytes([tcp[TCP_CHECK], tcp[TCP_CHECK + 1]]);
    let check = changed_checksum(check, word(announced), word(fits));
    tcp[TCP_CHECK..TCP_CHECK + 2].copy_from_slice(&check.to_be_bytes());
    true
}

/// Where the TCP header of a SYN begins, and the bytes of both headers without options.
#[inline]
fn syn(packet: &[u8]) -> Option<(usize, usize)> {
    let (protocol, transport, end) = transport_of(packet)?;
    let tcp = packet.get(transport..end)?;
    let is_syn = protocol == PROTOCOL_TCP && tcp.len() >= TCP_LEN && tcp[13] & TCP_SYN != 0;
    let ip_len = if packet[0] >> 4 == 4 { IPV4_LEN } else { IPV6_LEN };
    is_syn.then_some((transport, ip_len + TCP_LEN))
}

/// Where in a TCP header the value of the option stands.
fn option_at(header: &[u8]) -> Option<usize> {
    let mut at = TCP_LEN;
    loop {
        match *header.get(at)? {
            END_OF_OPTIONS => return None,
            NO_OPERATION => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if kind == MAXIMUM_SEGMENT_SIZE && len == OPTION_LEN {
                    return (at + OPTION_LEN <= header.len()).then_some(at + 2);
                }
                // Shorter than its own two bytes, an option would have the walk go round for ever.
                at += if len >= 2 { len } else { return None };
            }
        }
    }
}

/// A checksum after a word of what it covers was changed (RFC 1624, equation 3).
fn changed_checksum(check: u16, before: u16, after: u16) -> u16 {
    let sum = u32::from(!check) + u32::from(!before) + u32::from(after);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datapath::crafted::{ACK, Crafted, any_packet, check_spec};

    const SYN: u8 = 0x02;

    fn syn_with(v6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        Crafted { v6, flags, options: options.to_vec(), ..Crafted::tcp(7, 1, 0) }.bytes()
    }

    fn option(size: u16) -> [u8; 4] {
        let [high, low] = size.to_be_bytes();
        [2, 4, high, low]
    }

    #[test]
    fn a_syn_and_its_answer_announce_no_more_than_the_path_carries() {
        for (v6, headers) in [(false, 40), (true, 60)] {
            for flags in [SYN, SYN | ACK] {
                for (announced, expected) in [(1460, 1220 - headers), (1220 - headers, 1220 - headers), (536, 536)] {
                    let mut packet = syn_with(v6, flags, &option(announced));
                    assert_eq!(clamp(&mut packet, 1220), announced > expected);
                    assert_eq!(packet, syn_with(v6, flags, &option(expected)), "{announced} of v6 {v6}");
                    assert_eq!(check_spec(&packet), Ok(()));
                }
            }
        }
    }

    #[test]
    fn the_option_is_found_behind_others_and_at_odd_places() {
        for before in [&[1_u8, 1, 1, 1][..], &[1, 3, 3, 7], &[3, 3, 7, 1], &[8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1]] {
            let with = |size: u16| [before, &option(size)].concat();
            let mut packet = syn_with(false, SYN, &with(1460));
            assert!(clamp(&mut packet, 1300));
            assert_eq!(packet, syn_with(false, SYN, &with(1260)));
            let odd = |size: u16| [&[1][..], &option(size), &[1, 1, 1]].concat();
            let mut packet = syn_with(true, SYN, &odd(1440));
            assert!(clamp(&mut packet, 1300));
            assert_eq!(packet, syn_with(true, SYN, &odd(1240)));
            assert_eq!(check_spec(&packet), Ok(()));
        }
    }

    #[test]
    fn what_is_no_syn_or_has_no_such_option_stays_as_it_is() {
        let endless = [2, 0, 5, 0xb4];
        let cut_short = [1, 1, 2, 4];
        let wrong_length = [2, 3, 5, 0xb4];
        let ended = [0, 2, 4, 0xff];
        for packet in [
            syn_with(false, ACK, &option(1460)),
            syn_with(false, SYN, &[]),
            syn_with(false, SYN, &endless),
            syn_with(true, SYN, &cut_short),
            syn_with(false, SYN, &wrong_length),
            syn_with(false, SYN, &ended),
            Crafted::udp(7, 1, 200).bytes(),
            vec![0x45; 12],
            Vec::new(),
        ] {
            let mut same = packet.clone();
            assert!(!clamp(&mut same, 600));
            assert_eq!(same, packet);
        }
    }

    proptest! {
        #[test]
        fn any_packet_keeps_its_sums_whatever_its_options_are(
            crafted in any_packet(0..64), options in proptest::collection::vec(any::<u8>(), 0..40), mtu in 0..2000_usize,
        ) {
            let words = options.len() / 4 * 4;
            let options = if crafted.tcp { options[..words].to_vec() } else { Vec::new() };
            let mut packet = Crafted { options, ..crafted }.bytes();
            clamp(&mut packet, mtu);
            prop_assert_eq!(check_spec(&packet), Ok(()));
        }

        #[test]
        fn any_bytes_are_no_reason_to_panic(mut bytes in proptest::collection::vec(any::<u8>(), 0..120), mtu in 0..9000_usize) {
            clamp(&mut bytes, mtu);
        }
    }
}
