//! What [`super::join`] needs to know of a packet: its flow, its place in it, and whether it may be joined.
//!
//! Enters: an inner packet. Leaves: its class and the fields that decide. Never does: keep anything, or
//! change a byte.

use super::checksum::Sum;
use super::inner::{self, IPV4_LEN, IPV6_LEN};
use super::join::Offloads;
use super::segment::{PROTOCOL_TCP, TCP_CHECK, TCP_LEN, UDP_CHECK};
use super::wire::{PROTOCOL_UDP, UDP_LEN};

const TCP_FIN: u8 = 0x01;
const TCP_SYN: u8 = 0x02;
const TCP_RST: u8 = 0x04;
/// Ends a group: the sender wants its data delivered.
pub(super) const TCP_PSH: u8 = 0x08;
const TCP_ACK: u8 = 0x10;
const TCP_URG: u8 = 0x20;
const TCP_CWR: u8 = 0x80;

/// How a packet relates to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Class {
    /// Belongs to no flow that anything is joined in.
    Other,
    /// May belong to any flow, as its ports are unknown (a fragment, an IPv6 packet with extension headers, what
    /// does not parse): nothing that follows may be written before it.
    Unordered,
    /// TCP or UDP.
    Flow {
        /// A segment of data like those that segmentation makes.
        joinable: bool,
    },
}

/// A packet's fields.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet {
    pub(super) class: Class,
    pub(super) is_v4: bool,
    pub(super) is_tcp: bool,
    pub(super) dont_fragment: bool,
    /// TCP with PSH: the last of its group.
    pub(super) ends: bool,
    /// IPv4's id.
    pub(super) id: u16,
    /// Tells flows apart at a glance; equal ones are compared in full.
    pub(super) flow: u32,
    /// TCP's sequence number; zero for UDP.
    pub(super) sequence: u32,
    /// Where the transport header begins.
    pub(super) transport: usize,
    /// Where the payload begins.
    pub(super) payload: usize,
    /// Where the packet ends; padding may follow.
    pub(super) len: usize,
}

/// Reads a packet.
#[inline]
pub(super) fn classify(bytes: &[u8], offloads: Offloads) -> Packet {
    let mut packet = Packet {
        class: Class::Unordered,
        is_v4: false,
        is_tcp: false,
        dont_fragment: false,
        ends: false,
        id: 0,
        flow: 0,
        sequence: 0,
        transport: 0,
        payload: 0,
        len: bytes.len(),
    };
    // The lane refuses such packets before; one that comes all the same is written as it is.
    let Ok(inner) = inner::parse(bytes) else { return packet };
    packet.len = inner.len;
    let bytes = &bytes[..inner.len];
    packet.class = match bytes[0] >> 4 {
        4 => packet.read_v4(bytes, offloads),
        _ => packet.read_v6(bytes, offloads),
    };
    packet
}

impl Packet {
    fn read_v4(&mut self, bytes: &[u8], offloads: Offloads) -> Class {
        self.is_v4 = true;
        self.transport = IPV4_LEN;
        self.id = u16::from_be_bytes([bytes[4], bytes[5]]);
        let fragment = u16::from_be_bytes([bytes[6], bytes[7]]);
        self.dont_fragment = fragment & 0x4000 != 0;
        if bytes[0] != 0x45 || fragment & 0x3fff != 0 {
            // Options, as fragments, are rare enough not to look further.
            return Class::Unordered;
        }
        let joinable = fragment & 0x8000 == 0 && Sum::of(&bytes[..IPV4_LEN]).is_intact();
        self.read_transport(bytes, bytes[9], joinable, offloads)
    }

    fn read_v6(&mut self, bytes: &[u8], offloads: Offloads) -> Class {
        const ICMPV6: u8 = 58;
        self.transport = IPV6_LEN;
        match bytes[6] {
            protocol @ (PROTOCOL_TCP | PROTOCOL_UDP) => self.read_transport(bytes, protocol, true, offloads),
            ICMPV6 => Class::Other,
            _ => Class::Unordered,
        }
    }

    #[inline]
    fn read_transport(&mut self, bytes: &[u8], protocol: u8, ip_joinable: bool, offloads: Offloads) -> Class {
        let transport = &bytes[self.transport..];
        let joinable = match protocol {
            PROTOCOL_TCP if transport.len() >= TCP_LEN => {
                self.is_tcp = true;
                offloads.tso && self.read_tcp(transport)
            }
            PROTOCOL_UDP if transport.len() >= UDP_LEN => {
                self.payload = self.transport + UDP_LEN;
                offloads.uso
                    && usize::from(u16::from_be_bytes([transport[4], transport[5]])) == transport.len()
                    && transport[UDP_CHECK..UDP_LEN] != [0, 0]
            }
            PROTOCOL_TCP | PROTOCOL_UDP => return Class::Unordered,
            _ => return Class::Other,
        };
        self.flow = flow_hash(bytes, self.transport);
        Class::Flow { joinable: ip_joinable && joinable && self.payload_len() > 0 }
    }

    #[inline]
    fn read_tcp(&mut self, tcp: &[u8]) -> bool {
        const NEVER: u8 = TCP_FIN | TCP_SYN | TCP_RST | TCP_URG | TCP_CWR;
        let header_len = usize::from(tcp[12] >> 4) * 4;
        self.payload = (self.transport + header_len).min(self.len);
        self.sequence = u32::from_be_bytes([tcp[4], tcp[5], tcp[6], tcp[7]]);
        self.ends = tcp[13] & TCP_PSH != 0;
        header_len >= TCP_LEN && header_len <= tcp.len() && tcp[13] & (NEVER | TCP_ACK) == TCP_ACK
    }

    #[inline]
    pub(super) const fn payload_len(&self) -> usize {
        self.len - self.payload
    }

    /// The sequence number that follows this packet.
    #[inline]
    pub(super) const fn next_sequence(&self) -> u32 {
        if self.is_tcp { self.sequence.wrapping_add(self.payload_len() as u32) } else { 0 }
    }

    /// Addresses, protocol and ports are equal; both are flows' packets.
    #[inline]
    pub(super) fn same_flow(&self, mine: &[u8], other: &[u8]) -> bool {
        if mine[0] >> 4 != other[0] >> 4 {
            return false;
        }
        match self.is_v4 {
            true => mine[9] == other[9] && mine[12..24] == other[12..24],
            false => mine[6] == other[6] && mine[8..44] == other[8..44],
        }
    }

    /// All else that a segmenter repeats is equal: TOS, TTL, flow label, DF; TCP's acknowledgement, window, urgent
    /// pointer, options (timestamps included) and flags but PSH. Both are joinable and of one flow.
    #[inline]
    pub(super) fn same_headers(&self, mine: &[u8], other: &Self, theirs: &[u8]) -> bool {
        let ip = match self.is_v4 {
            true => mine[1] == theirs[1] && mine[8] == theirs[8] && self.dont_fragment == other.dont_fragment,
            false => mine[..4] == theirs[..4] && mine[7] == theirs[7],
        };
        if !ip || self.payload != other.payload {
            return false;
        }
        if !self.is_tcp {
            return true;
        }
        let (mine, theirs) = (&mine[self.transport..self.payload], &theirs[self.transport..self.payload]);
        mine[8..13] == theirs[8..13]
            && mine[13] | TCP_PSH == theirs[13] | TCP_PSH
            && mine[14..TCP_CHECK] == theirs[14..TCP_CHECK]
            && mine[18..] == theirs[18..]
    }

    /// The pseudo header's sum without its length.
    #[inline]
    pub(super) fn pseudo(&self, ip: &[u8]) -> Sum {
        let addresses = if self.is_v4 { &ip[12..IPV4_LEN] } else { &ip[8..IPV6_LEN] };
        Sum::pseudo(addresses, if self.is_tcp { PROTOCOL_TCP } else { PROTOCOL_UDP })
    }

    /// Whether the transport checksum is right.
    #[inline]
    pub(super) fn is_intact(&self, bytes: &[u8]) -> bool {
        let transport = &bytes[self.transport..self.len];
        self.pseudo(bytes).plus_u16(transport.len() as u16).plus(Sum::of(transport)).is_intact()
    }
}

/// Mixes addresses and ports.
#[inline]
fn flow_hash(bytes: &[u8], transport: usize) -> u32 {
    let from = if transport == IPV4_LEN { 12 } else { 8 };
    let mut hash = 0_u32;
    for word in bytes[from..transport + 4].as_chunks::<4>().0 {
        hash = (hash ^ u32::from_ne_bytes(*word)).wrapping_mul(0x9e37_79b1).rotate_left(13);
    }
    hash
}
