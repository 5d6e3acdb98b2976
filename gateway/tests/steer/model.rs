//! The steering decision again, as plainly as it can be said: slices, no cleverness, no shared code.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
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
    /// The interface is one of a lan.
    pub(crate) lan: Option<Lan>,
}

/// The role of a lan.
pub(crate) struct Lan {
    pub(crate) mac: [u8; 6],
    pub(crate) vlan: Option<u16>,
    /// It is a wan interface as well.
    pub(crate) wan: bool,
    pub(crate) tunnel_mtu: usize,
    /// Networks that peers have.
    pub(crate) peers: BTreeSet<IpNet>,
    /// Networks that the kernel has.
    pub(crate) kernel: BTreeSet<IpNet>,
}

impl Lan {
    /// Whether the longest network with an address is a peer's and not the kernel's: all are looked at.
    fn leads_to_peer(&self, address: IpAddr) -> bool {
        let longest = |nets: &BTreeSet<IpNet>| {
            nets.iter().filter(|net| net.contains(&address)).map(|net| i16::from(net.prefix_len())).max().unwrap_or(-1)
        };
        longest(&self.peers) > longest(&self.kernel)
    }
}

/// What the lan role asks about.
struct Forwarded {
    source: IpAddr,
    destination: IpAddr,
    hops: u8,
    len: usize,
    options: bool,
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
            0x0800 => self.ipv4(frame, packet),
            0x86dd => self.ipv6(frame, packet),
            _ => Verdict::OtherEtherType,
        }
    }

    /// The verdict of the lan role, where it is to be asked.
    fn forwarded(&self, frame: &[u8], packet: &Forwarded) -> Option<Verdict> {
        let lan = self.lan.as_ref()?;
        let local = self.addresses.contains(&packet.destination);
        if local && lan.wan {
            return None;
        }
        let vlan = match be16(frame, 12) {
            0x8100 if matches!(be16(frame, 16), 0x8100 | 0x88a8) => Err(()),
            0x8100 if be16(frame, 14) & 0xfff == 0 => Err(()),
            0x8100 => Ok(Some(be16(frame, 14) % 4096)),
            0x88a8 => Err(()),
            _ => Ok(None),
        };
        Some(if frame[..6] != lan.mac {
            Verdict::OtherMac
        } else if vlan != Ok(lan.vlan.map(usize::from)) {
            Verdict::OtherVlan
        } else if stays(packet.destination) || stays(packet.source) {
            Verdict::Scope
        } else if packet.options {
            Verdict::Options
        } else if packet.hops < 2 {
            Verdict::HopLimit
        } else if packet.len > lan.tunnel_mtu {
            Verdict::TunnelMtu
        } else if packet.len > self.packet_len_max {
            Verdict::TooLong
        } else if local {
            Verdict::LocalAddress
        } else if lan.leads_to_peer(packet.destination) {
            Verdict::LanRedirected
        } else {
            Verdict::NoRoute
        })
    }

    fn ipv4(&self, frame: &[u8], packet: &[u8]) -> Verdict {
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
        let destination = Ipv4Addr::new(packet[16], packet[17], packet[18], packet[19]);
        let source = Ipv4Addr::new(packet[12], packet[13], packet[14], packet[15]);
        let forwarded = Forwarded {
            source: source.into(),
            destination: destination.into(),
            hops: packet[8],
            len: total_len,
            options: header_len > 20,
        };
        if let Some(verdict) = self.forwarded(frame, &forwarded) {
            return verdict;
        }
        let more_fragments = packet[6] & 0x20 != 0;
        let offset = be16(packet, 6) & 0x1fff;
        if more_fragments || offset != 0 {
            return Verdict::Fragment;
        }
        if packet[9] != 17 {
            return Verdict::OtherProtocol;
        }
        self.udp(&packet[header_len..total_len], destination.into(), total_len)
    }

    fn ipv6(&self, frame: &[u8], packet: &[u8]) -> Verdict {
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
        let address = |at: usize| Ipv6Addr::from(<[u8; 16]>::try_from(&packet[at..at + 16]).expect("16 bytes"));
        let destination = address(24);
        let forwarded = Forwarded {
            source: address(8).into(),
            destination: destination.into(),
            hops: packet[7],
            len: 40 + payload_len,
            options: packet[6] == 0,
        };
        if let Some(verdict) = self.forwarded(frame, &forwarded) {
            return verdict;
        }
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

/// Whether routers leave an address alone.
fn stays(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            let reserved = v4.octets()[0] >= 240;
            v4.octets()[0] == 0 || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || reserved
        }
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_multicast() || v6.to_ipv4().is_some(),
    }
}
