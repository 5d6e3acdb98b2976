//! The steering decision again, as plainly as it can be said: slices, no cleverness, no shared code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use landbridge::steer::Verdict;

/// What no frame of packet memory exceeds.
const PAGE_LESS_HEADROOM: usize = 3840;

/// What the program was told.
pub(crate) struct Model {
    pub(crate) port: u16,
    /// The longest IP packet.
    pub(crate) packet_len_max: usize,
    pub(crate) addresses: BTreeSet<IpAddr>,
    /// Receiver indices by slot.
    pub(crate) sessions: BTreeMap<u32, u32>,
}

fn be16(bytes: &[u8], at: usize) -> usize {
    usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1])
}

impl Model {
    /// The verdict on a frame of at least 14 bytes, on a queue that has a socket.
    pub(crate) fn verdict(&self, frame: &[u8]) -> Verdict {
        let mut at = 12;
        let mut tags = 0;
        while matches!(be16(frame, at), 0x8100 | 0x88a8) {
            tags += 1;
            if tags > 2 {
                return Verdict::TooManyTags;
            }
            at += 4;
            if frame.len() < at + 2 {
                return Verdict::Truncated;
            }
        }
        let packet = &frame[at + 2..];
        match be16(frame, at) {
            0x0800 => self.ipv4(packet),
            0x86dd => self.ipv6(packet),
            _ => Verdict::OtherEtherType,
        }
    }

    fn ipv4(&self, packet: &[u8]) -> Verdict {
        if packet.len() < 20 {
            return Verdict::Truncated;
        }
        let header_len = usize::from(packet[0] % 16) * 4;
        let total_len = be16(packet, 2);
        if packet[0] / 16 != 4 || header_len < 20 || header_len > total_len {
            return Verdict::Malformed;
        }
        if total_len > PAGE_LESS_HEADROOM {
            return Verdict::TooLong;
        }
        if total_len > packet.len() {
            return Verdict::Truncated;
        }
        let more_fragments = packet[6] & 0x20 != 0;
        let offset = be16(packet, 6) & 0x1fff;
        if more_fragments || offset != 0 {
            return Verdict::Fragment;
        }
        if packet[9] != 17 {
            return Verdict::OtherProtocol;
        }
        let destination = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
        self.udp(&packet[header_len..total_len], destination.into(), total_len)
    }

    fn ipv6(&self, packet: &[u8]) -> Verdict {
        if packet.len() < 40 {
            return Verdict::Truncated;
        }
        if packet[0] / 16 != 6 {
            return Verdict::Malformed;
        }
        let payload_len = be16(packet, 4);
        if 40 + payload_len > PAGE_LESS_HEADROOM {
            return Verdict::TooLong;
        }
        if 40 + payload_len > packet.len() {
            return Verdict::Truncated;
        }
        let destination = Ipv6Addr::from(<[u8; 16]>::try_from(&packet[24..40]).expect("16 bytes"));
        let mut body = &packet[40..40 + payload_len];
        let mut behind = packet.len() - 40;
        let mut next = packet[6];
        let mut walked = 0;
        loop {
            match next {
                17 => return self.udp(body, destination.to_canonical(), 40 + payload_len),
                44 => return Verdict::Fragment,
                0 if walked == 0 => {}
                43 | 60 if walked < 6 => {}
                43 | 60 => return Verdict::TooManyExtensions,
                _ => return Verdict::OtherProtocol,
            }
            // A header is looked at where the frame has eight bytes of it; then it has to fit the packet.
            if behind < 8 {
                return Verdict::Truncated;
            }
            let start = packet.len() - behind;
            let header_len = 8 * (usize::from(packet[start + 1]) + 1);
            if next == 43 && packet[start + 3] != 0 {
                return Verdict::OtherProtocol;
            }
            if header_len > body.len() {
                return Verdict::Malformed;
            }
            next = packet[start];
            body = &body[header_len..];
            behind -= header_len;
            walked += 1;
        }
    }

    fn udp(&self, datagram: &[u8], destination: IpAddr, packet_len: usize) -> Verdict {
        if datagram.len() < 8 {
            return Verdict::Malformed;
        }
        let len = be16(datagram, 4);
        if len < 8 || len > datagram.len() {
            return Verdict::Malformed;
        }
        if be16(datagram, 2) != usize::from(self.port) {
            return Verdict::OtherPort;
        }
        if packet_len > self.packet_len_max {
            return Verdict::TooLong;
        }
        if !self.addresses.contains(&destination) {
            return Verdict::OtherAddress;
        }
        let payload = &datagram[8..len];
        if payload.len() < 32 || payload[..4] != [4, 0, 0, 0] {
            return Verdict::Control;
        }
        let index = u32::from_le_bytes([payload[4], payload[5], payload[6], payload[7]]);
        match self.sessions.get(&(index % (1 << 20))) {
            Some(live) if *live == index => Verdict::Redirected,
            _ => Verdict::UnknownSession,
        }
    }
}
