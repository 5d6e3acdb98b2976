//! Packets made and checked by hand for tests: slow, plain, and independent of the code they test.

use landbridge_xsk::{Burst, Frame, Memory, MemoryConfig, Pool};
use proptest::prelude::*;

use super::checksum::tests::naive;
use super::vnet::{GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};

/// A TCP or UDP packet, field by field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Crafted {
    pub(crate) v6: bool,
    pub(crate) tcp: bool,
    pub(crate) tos: u8,
    pub(crate) ttl: u8,
    pub(crate) id: u16,
    pub(crate) dont_fragment: bool,
    /// Last byte of both addresses and of both ports.
    pub(crate) flow: u8,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
    pub(crate) window: u16,
    /// TCP options, a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) const ACK: u8 = 0x10;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const CWR: u8 = 0x80;

impl Crafted {
    pub(crate) fn tcp(flow: u8, sequence: u32, payload: usize) -> Self {
        Self {
            v6: false,
            tcp: true,
            tos: 0,
            ttl: 64,
            id: 0,
            dont_fragment: true,
            flow,
            sequence,
            acknowledgement: 77,
            flags: ACK,
            window: 501,
            options: vec![1, 1, 8, 10, 0, 0, 0, 9, 0, 0, 0, 5],
            payload: (0..payload).map(|i| (i as u32).wrapping_add(sequence) as u8).collect(),
        }
    }

    pub(crate) fn udp(flow: u8, id: u16, payload: usize) -> Self {
        Self { tcp: false, id, options: vec![], sequence: 0, ..Self::tcp(flow, u32::from(id), payload) }
    }

    pub(crate) fn ip_len(&self) -> usize {
        if self.v6 { 40 } else { 20 }
    }

    pub(crate) fn header_len(&self) -> usize {
        self.ip_len() + if self.tcp { 20 + self.options.len() } else { 8 }
    }

    fn addresses(&self) -> Vec<u8> {
        match self.v6 {
            true => [vec![0xfd; 15], vec![self.flow], vec![0xfc; 15], vec![self.flow]].concat(),
            false => vec![10, 0, 0, self.flow, 10, 0, 1, self.flow],
        }
    }

    fn pseudo(&self, transport_len: usize) -> Vec<u8> {
        let protocol = if self.tcp { 6 } else { 17 };
        [self.addresses(), (transport_len as u32).to_be_bytes().to_vec(), vec![0, 0, 0, protocol]].concat()
    }

    fn transport(&self, checksum: [u8; 2]) -> Vec<u8> {
        let ports = [0x40, self.flow, 0x50, self.flow];
        if !self.tcp {
            let len = (8 + self.payload.len()) as u16;
            return [&ports[..], &len.to_be_bytes(), &checksum, &self.payload].concat();
        }
        let offset = ((20 + self.options.len()) / 4) as u8;
        [
            &ports[..],
            &self.sequence.to_be_bytes(),
            &self.acknowledgement.to_be_bytes(),
            &[offset << 4, self.flags],
            &self.window.to_be_bytes(),
            &checksum,
            &[0, 0],
            &self.options,
            &self.payload,
        ]
        .concat()
    }

    fn ip(&self, transport_len: usize) -> Vec<u8> {
        let protocol = if self.tcp { 6 } else { 17 };
        if self.v6 {
            let first = 0x6000_0000_u32 | (u32::from(self.tos) << 20) | 0x12345;
            let len = (transport_len as u16).to_be_bytes();
            return [&first.to_be_bytes()[..], &len, &[protocol, self.ttl], &self.addresses()].concat();
        }
        let len = ((20 + transport_len) as u16).to_be_bytes();
        let fragment = if self.dont_fragment { [0x40, 0] } else { [0, 0] };
        let mut header = [
            &[0x45, self.tos][..],
            &len,
            &self.id.to_be_bytes(),
            &fragment,
            &[self.ttl, protocol, 0, 0],
            &self.addresses(),
        ]
        .concat();
        let check = naive(&header).to_be_bytes();
        header[10..12].copy_from_slice(&check);
        header
    }

    /// The packet with all checksums complete.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let bare = self.transport([0, 0]);
        let mut check = naive(&[self.pseudo(bare.len()), bare.clone()].concat());
        if check == 0 && !self.tcp {
            check = 0xffff;
        }
        [self.ip(bare.len()), self.transport(check.to_be_bytes())].concat()
    }

    /// The packet with the pseudo header's sum for a checksum, and the header before it that says so.
    pub(crate) fn super_packet(&self, segment_len: u16) -> Vec<u8> {
        let len = self.transport([0, 0]).len();
        let partial = !naive(&self.pseudo(len));
        let kind = match (self.tcp, self.v6) {
            (true, false) => GSO_TCPV4,
            (true, true) => GSO_TCPV6,
            (false, _) => GSO_UDP_L4,
        };
        let offset = if self.tcp { 16 } else { 6 };
        let header = VnetHdr::super_packet(kind, self.header_len() as u16, segment_len, self.ip_len() as u16, offset);
        [header.bytes(), &self.ip(len), &self.transport(partial.to_be_bytes())].concat()
    }

    /// The packets that a segmenter cuts this into.
    pub(crate) fn cut(&self, segment_len: usize) -> Vec<Self> {
        let parts: Vec<&[u8]> = self.payload.chunks(segment_len).collect();
        let last = parts.len().saturating_sub(1);
        let cut = |(i, part): (usize, &&[u8])| {
            let mut flags = self.flags;
            if i > 0 {
                flags &= !CWR;
            }
            if i < last {
                flags &= !(FIN | PSH);
            }
            Self {
                id: self.id.wrapping_add(i as u16),
                sequence: self.sequence.wrapping_add((i * segment_len) as u32),
                flags,
                payload: part.to_vec(),
                ..self.clone()
            }
        };
        parts.iter().enumerate().map(cut).collect()
    }

    /// Reads a packet of the shape that [`Crafted::bytes`] makes.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let v6 = bytes[0] >> 4 == 6;
        let (ip, transport) = bytes.split_at(if v6 { 40 } else { 20 });
        let tcp = ip[if v6 { 6 } else { 9 }] == 6;
        let header_len = if tcp { usize::from(transport[12] >> 4) * 4 } else { 8 };
        let word = |at: usize| u32::from_be_bytes(transport[at..at + 4].try_into().expect("four bytes"));
        Self {
            v6,
            tcp,
            tos: if v6 { (u16::from_be_bytes([ip[0], ip[1]]) >> 4) as u8 } else { ip[1] },
            ttl: ip[if v6 { 7 } else { 8 }],
            id: if v6 { 0 } else { u16::from_be_bytes([ip[4], ip[5]]) },
            dont_fragment: v6 || ip[6] & 0x40 != 0,
            flow: transport[1],
            sequence: if tcp { word(4) } else { 0 },
            acknowledgement: if tcp { word(8) } else { 77 },
            flags: if tcp { transport[13] } else { ACK },
            window: if tcp { u16::from_be_bytes([transport[14], transport[15]]) } else { 501 },
            options: if tcp { transport[20..header_len].to_vec() } else { vec![] },
            payload: transport[header_len..].to_vec(),
        }
    }
}

/// What the kernel behind a TUN queue makes of one write: the packets, cut and with complete checksums.
pub(crate) fn received(write: &[u8]) -> Vec<Vec<u8>> {
    let (header, packet) = VnetHdr::parse(write).expect("a write begins with its header");
    if header.gso_type == GSO_NONE {
        return vec![packet.to_vec()];
    }
    let whole = Crafted::read(packet);
    let segment_len = header.segment_len();
    assert_eq!(whole.super_packet(segment_len), write, "a super-packet has the headers that its fields call for");
    assert!(whole.payload.len() > usize::from(segment_len), "a super-packet has several segments");
    whole.cut(usize::from(segment_len)).iter().map(Crafted::bytes).collect()
}

/// Checks lengths and checksums of a TCP or UDP packet that may have options and options headers.
pub(crate) fn check_spec(packet: &[u8]) -> Result<(), String> {
    let word = |at: usize| usize::from(u16::from_be_bytes([packet[at], packet[at + 1]]));
    let (transport, protocol, addresses) = if packet[0] >> 4 == 4 {
        let header_len = usize::from(packet[0] & 15) * 4;
        if word(2) != packet.len() || naive(&packet[..header_len]) != 0 {
            return Err(format!("IPv4 header of {} bytes: {:?}", packet.len(), &packet[..header_len]));
        }
        (header_len, packet[9], &packet[12..20])
    } else {
        if word(4) + 40 != packet.len() {
            return Err(format!("IPv6 length {} of {}", word(4), packet.len()));
        }
        let (mut next, mut at) = (packet[6], 40);
        while next == 0 || next == 60 {
            next = packet[at];
            at += (usize::from(packet[at + 1]) + 1) * 8;
        }
        (at, next, &packet[8..40])
    };
    let body = &packet[transport..];
    let pseudo = [addresses, &(body.len() as u32).to_be_bytes(), &[0, 0, 0, protocol]].concat();
    let sum = naive(&[&pseudo[..], body].concat());
    let length = protocol == 6 || usize::from(u16::from_be_bytes([body[4], body[5]])) == body.len();
    if sum != 0 || !length {
        return Err(format!("protocol {protocol}: checksum residue {sum:#x}, length agrees: {length}"));
    }
    Ok(())
}

/// Memory for a test.
pub(crate) fn pool(frames: u32, jumbo_frames: u32) -> Pool {
    let config = MemoryConfig { frames, frame_size: 2048, jumbo_frames, huge_pages: false };
    Memory::new(config).expect("memory for a test").1
}

/// A frame that holds these bytes.
pub(crate) fn frame(pool: &mut Pool, bytes: &[u8]) -> Frame {
    let mut frame = pool.take_for(bytes.len()).expect("a free frame");
    frame.append(bytes.len()).expect("room for a packet").copy_from_slice(bytes);
    frame
}

/// A burst of such frames.
pub(crate) fn burst(pool: &mut Pool, packets: &[Vec<u8>]) -> Burst {
    packets.iter().map(|bytes| frame(pool, bytes)).collect()
}

/// Any TCP or UDP packet with `payload` bytes.
pub(crate) fn any_packet(payload: std::ops::Range<usize>) -> impl Strategy<Value = Crafted> {
    let header = (any::<bool>(), any::<bool>(), any::<u8>(), 1..=255_u8, any::<u16>(), any::<bool>(), any::<u8>());
    let tcp = (any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), 0..=10_usize);
    (header, tcp, payload, any::<u32>()).prop_map(|(header, tcp, len, seed)| {
        let (v6, is_tcp, tos, ttl, id, dont_fragment, flow) = header;
        let (sequence, acknowledgement, flags, window, options) = tcp;
        let payload = (0..len as u32).map(|i| (i.wrapping_mul(seed | 1) >> 7) as u8).collect();
        let crafted = Crafted {
            v6,
            tcp: is_tcp,
            tos,
            ttl,
            id,
            dont_fragment,
            flow,
            sequence,
            acknowledgement,
            flags,
            window,
            options: vec![1; options * 4],
            payload,
        };
        Crafted::read(
            &match is_tcp {
                true => crafted,
                false => Crafted { options: vec![], ..crafted },
            }
            .bytes(),
        )
    })
}
