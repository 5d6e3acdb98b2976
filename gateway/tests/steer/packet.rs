//! Frames, put together layer by layer, innermost first.

use std::net::{Ipv4Addr, Ipv6Addr};

pub(crate) const VLAN: u16 = 0x8100;
pub(crate) const PROVIDER_VLAN: u16 = 0x88a8;
pub(crate) const IPV4: u16 = 0x0800;
pub(crate) const IPV6: u16 = 0x86dd;
pub(crate) const UDP: u8 = 17;

/// Transport data of `len` bytes (at least 8) for a receiver index.
pub(crate) fn transport_data(index: u32, len: usize) -> Vec<u8> {
    let mut data = vec![4, 0, 0, 0];
    data.extend(index.to_le_bytes());
    data.resize(len, 0xa5);
    data
}

/// A UDP datagram.
pub(crate) fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(40_000u16.to_be_bytes());
    datagram.extend(port.to_be_bytes());
    datagram.extend(u16::try_from(8 + payload.len()).expect("a datagram's length").to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(payload);
    datagram
}

/// An IPv4 packet with options (a multiple of four bytes) and a fragment field.
pub(crate) fn ipv4(destination: Ipv4Addr, protocol: u8, options: &[u8], fragment: u16, body: &[u8]) -> Vec<u8> {
    let header_len = 20 + options.len();
    let mut packet = vec![0x40 | u8::try_from(header_len / 4).expect("a header's length"), 0];
    packet.extend(u16::try_from(header_len + body.len()).expect("a packet's length").to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0, 198, 51, 100, 7]);
    packet.extend(destination.octets());
    packet.extend(options);
    packet.extend(body);
    packet
}

/// An IPv6 packet.
pub(crate) fn ipv6(destination: Ipv6Addr, next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend(u16::try_from(body.len()).expect("a payload's length").to_be_bytes());
    packet.extend([next, 64]);
    packet.extend("2001:db8:7::7".parse::<Ipv6Addr>().expect("an address").octets());
    packet.extend(destination.octets());
    packet.extend(body);
    packet
}

/// An IPv6 extension header of `8 * (len + 1)` bytes whose fourth byte (segments left, of a routing header) is given.
pub(crate) fn extension(next: u8, len: u8, fourth: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![next, len, 0, fourth];
    packet.resize(8 * (usize::from(len) + 1), 0);
    packet.extend(body);
    packet
}

/// The hardware address that frames are for.
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];

/// A frame with VLAN tags of number 100, outermost first.
pub(crate) fn ethernet(tags: &[u16], kind: u16, body: &[u8]) -> Vec<u8> {
    tagged(&tags.iter().map(|tag| (*tag, 100)).collect::<Vec<_>>(), kind, body)
}

/// A frame with VLAN tags, outermost first: EtherType and number each.
pub(crate) fn tagged(tags: &[(u16, u16)], kind: u16, body: &[u8]) -> Vec<u8> {
    let mut frame = [MAC, [2, 0, 0, 0, 0, 2]].concat();
    for (tag, number) in tags {
        frame.extend(tag.to_be_bytes());
        frame.extend(number.to_be_bytes());
    }
    frame.extend(kind.to_be_bytes());
    frame.extend(body);
    frame
}
