//! Joining opened packets into super-packets for a TUN queue: the reverse of [`super::segment`].
//!
//! Enters: a burst of inner packets, in order of arrival. Leaves: slices that point into those frames,
//! `virtio_net_hdr` first, for one write each. Never does: copy a payload, allocate, change the order of a
//! flow's packets, or join a packet whose checksum it has not verified (the super-packet gets a fresh
//! checksum, which would hide the damage).
//!
//! 1. Each packet is sorted into a group: the open group of its flow when it continues that, else one of its own.
//! 2. Groups are written in the order of their first packets; one of several packets becomes a super-packet by
//!    a change of the first packet's headers.
//!
//! Which packets continue a group is decided as the kernel's GRO does, and a little more strictly: what the
//! receiver cuts out of the super-packet is byte for byte what arrived (but for the IPv4 id of packets that have
//! DF set and the same id throughout, where RFC 6864 gives the id no meaning).

use std::io::IoSlice;

use arrayvec::ArrayVec;
use landbridge_xsk::{BURST, Frame};

use super::checksum::Sum;
use super::flow::{Class, Packet, classify};
use super::inner::IPV4_LEN;
use super::segment::{TCP_CHECK, UDP_CHECK};
use super::vnet::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHdr};

/// Which segmentation the lan side's device does.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Offloads {
    /// TCP over IPv4 and IPv6.
    pub tso: bool,
    /// UDP over IPv4 and IPv6.
    pub uso: bool,
}

/// What became of one write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteOutcome {
    /// The device has it.
    Written,
    /// The device's queue is full: nothing more of this burst is tried.
    Full,
    /// The device refused this one.
    Failed,
}

/// What became of a burst. Every packet is in one of `packets`, `full` and `failed`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Joined {
    /// Packets written, those of super-packets included.
    pub packets: usize,
    /// Their bytes.
    pub bytes: usize,
    /// Writes that held several packets.
    pub super_packets: usize,
    /// Packets for which the device had no room: [`landbridge_proto::DropReason::LanFull`].
    pub full: usize,
    /// Packets that the device refused: [`landbridge_proto::DropReason::LanError`].
    pub failed: usize,
}

/// The largest IP packet.
const PACKET_MAX: usize = 65_535;
/// Packets that are joined together at most: two bursts, as a super-packet of 64 KiB often begins in the middle of one.
pub(super) const PACKETS: usize = 2 * BURST;
/// Slices of one write: the device's header and each packet.
const SLICES_MAX: usize = PACKETS + 1;
/// Groups among which a packet's own is looked for, from the last one on. With more flows at once joining gains little,
/// and looking costs more.
const GROUPS_SEEN: usize = 16;
const NONE: u8 = u8::MAX;
const _: () = assert!(PACKETS < NONE as usize, "indices of frames fit a byte");

/// Packets that are written together.
#[derive(Debug, Clone, Copy)]
struct Group {
    first: u8,
    last: u8,
    count: u8,
    /// Takes no more packets.
    closed: bool,
    /// The first packet's checksum was verified.
    verified: bool,
    /// All ids are equal (else each is one more than the last); known from the second packet on.
    same_id: bool,
    /// Bytes of the whole super-packet.
    len: usize,
}

/// Joins bursts; keeps its scratch between them.
#[derive(Debug)]
pub struct Joiner {
    packets: ArrayVec<Packet, PACKETS>,
    /// The packet after this one in its group.
    next: [u8; PACKETS],
    groups: ArrayVec<Group, PACKETS>,
    /// So many of the first packets were found to be one group before.
    known: usize,
    /// Which packets are left for the next time.
    left: [bool; PACKETS],
}

impl Default for Joiner {
    fn default() -> Self {
        Self::new()
    }
}

impl Joiner {
    /// A joiner with empty scratch.
    #[must_use]
    pub fn new() -> Self {
        Self {
            packets: ArrayVec::new(),
            next: [NONE; PACKETS],
            groups: ArrayVec::new(),
            known: 0,
            left: [false; PACKETS],
        }
    }

    /// Writes every packet (at most two bursts of them), joined where `offloads` allow. `write` gets the slices of one write
    /// and the number of packets in them. The frames stay, for the caller to put back into its pool; their content is spent.
    ///
    /// # Panics
    /// When there are more packets.
    pub fn join(
        &mut self,
        packets: &mut [Frame],
        offloads: Offloads,
        write: &mut impl FnMut(&[IoSlice<'_>], usize) -> WriteOutcome,
    ) -> Joined {
        self.join_rest(packets, 0, offloads, write)
    }

    /// As [`Joiner::join`], but the last group stays unwritten if more packets may continue it and other groups are written:
    /// [`Joiner::leaves`] tells which packets are in it. The first `known` packets are those that it left the last time.
    pub(super) fn join_complete(
        &mut self,
        packets: &mut [Frame],
        known: usize,
        offloads: Offloads,
        write: &mut impl FnMut(&[IoSlice<'_>], usize) -> WriteOutcome,
    ) -> Joined {
        self.sort_all(packets, known, offloads);
        let is_open = self.groups.len() > 1 && self.groups.last().is_some_and(|last| !last.closed);
        let complete = self.groups.len() - usize::from(is_open);
        let joined = self.write_groups(complete, packets, write);
        if let Some(group) = self.groups.get(complete).copied() {
            let mut i = group.first;
            while i != NONE {
                self.left[usize::from(i)] = true;
                i = self.next[usize::from(i)];
            }
        }
        joined
    }

    /// As [`Joiner::join`], when the first `known` packets are those that [`Joiner::join_complete`] left.
    pub(super) fn join_rest(
        &mut self,
        packets: &mut [Frame],
        known: usize,
        offloads: Offloads,
        write: &mut impl FnMut(&[IoSlice<'_>], usize) -> WriteOutcome,
    ) -> Joined {
        self.sort_all(packets, known, offloads);
        self.write_groups(self.groups.len(), packets, write)
    }

    /// Whether a packet was left by the last [`Joiner::join_complete`].
    pub(super) fn leaves(&self, packet: usize) -> bool {
        self.left[packet]
    }

    fn sort_all(&mut self, packets: &[Frame], known: usize, offloads: Offloads) {
        self.known = known;
        self.packets.clear();
        self.groups.clear();
        self.left.fill(false);
        for (i, frame) in packets.iter().enumerate() {
            let packet = classify(frame.data(), offloads);
            self.packets.push(packet);
            self.next[i] = NONE;
            self.sort(packets, i);
        }
    }

    /// Writes the first of the groups.
    fn write_groups(
        &self,
        count: usize,
        packets: &mut [Frame],
        write: &mut impl FnMut(&[IoSlice<'_>], usize) -> WriteOutcome,
    ) -> Joined {
        let mut joined = Joined::default();
        for g in 0..count {
            let group = self.groups[g];
            match self.write(group, packets, write) {
                WriteOutcome::Written => {
                    joined.packets += usize::from(group.count);
                    joined.bytes += self.bytes(group);
                    joined.super_packets += usize::from(group.count > 1);
                }
                WriteOutcome::Failed => joined.failed += usize::from(group.count),
                WriteOutcome::Full => {
                    joined.full = self.groups[g..count].iter().map(|group| usize::from(group.count)).sum();
                    break;
                }
            }
        }
        joined
    }

    /// Puts packet `i` into the open group of its flow or into one of its own.
    fn sort(&mut self, burst: &[Frame], i: usize) {
        let packet = self.packets[i];
        let mut opens = false;
        match packet.class {
            Class::Other => {}
            Class::Unordered => self.groups.iter_mut().for_each(|group| group.closed = true),
            Class::Flow { joinable } => {
                opens = joinable && !packet.ends;
                // A group that is not looked at stays behind the one that is opened in its place.
                let seen = self.groups.len().saturating_sub(GROUPS_SEEN);
                let open = self.groups[seen..].iter().rposition(|group| self.is_open_for(group, burst, i));
                if let Some(g) = open.map(|g| seen + g) {
                    if joinable && self.continues(g, burst, i) {
                        self.append(g, i);
                        return;
                    }
                    self.groups[g].closed = true;
                }
            }
        }
        let i = i as u8;
        let len = packet.len;
        self.groups.push(Group { first: i, last: i, count: 1, closed: !opens, verified: false, same_id: false, len });
    }

    fn is_open_for(&self, group: &Group, burst: &[Frame], i: usize) -> bool {
        let first = &self.packets[usize::from(group.first)];
        !group.closed
            && first.flow == self.packets[i].flow
            && first.same_flow(burst[usize::from(group.first)].data(), burst[i].data())
    }

    /// Whether packet `i`, of the group's flow, is what a segmenter would cut next.
    fn continues(&mut self, g: usize, burst: &[Frame], i: usize) -> bool {
        let group = self.groups[g];
        let first = self.packets[usize::from(group.first)];
        let last = self.packets[usize::from(group.last)];
        let packet = self.packets[i];
        let (first_bytes, bytes) = (burst[usize::from(group.first)].data(), burst[i].data());
        let fits = packet.payload_len() <= first.payload_len() && group.len + packet.payload_len() <= PACKET_MAX;
        if !fits || packet.sequence != last.next_sequence() || !first.same_headers(first_bytes, &packet, bytes) {
            return false;
        }
        if first.is_v4 {
            let same = packet.id == last.id && packet.dont_fragment && (group.count == 1 || group.same_id);
            let counts = packet.id == last.id.wrapping_add(1) && (group.count == 1 || !group.same_id);
            if !same && !counts {
                return false;
            }
            self.groups[g].same_id = same;
        }
        if !group.verified && usize::from(group.first) >= self.known && !first.is_intact(first_bytes) {
            return false;
        }
        self.groups[g].verified = true;
        i < self.known || packet.is_intact(bytes)
    }

    fn append(&mut self, g: usize, i: usize) {
        let packet = self.packets[i];
        let group = &mut self.groups[g];
        self.next[usize::from(group.last)] = i as u8;
        group.last = i as u8;
        group.count += 1;
        group.len += packet.payload_len();
        let is_short = packet.payload_len() < self.packets[usize::from(group.first)].payload_len();
        group.closed = is_short || packet.ends;
    }

    fn bytes(&self, group: Group) -> usize {
        let mut sum = 0;
        let mut i = group.first;
        while i != NONE {
            sum += self.packets[usize::from(i)].len;
            i = self.next[usize::from(i)];
        }
        sum
    }

    fn write(
        &self,
        group: Group,
        burst: &mut [Frame],
        write: &mut impl FnMut(&[IoSlice<'_>], usize) -> WriteOutcome,
    ) -> WriteOutcome {
        let first = self.packets[usize::from(group.first)];
        let mut header = VnetHdr::PLAIN;
        if group.count > 1 {
            let ends = self.packets[usize::from(group.last)].ends;
            header = unite(&first, burst[usize::from(group.first)].data_mut(), group.len, ends);
        }
        let mut slices = ArrayVec::<IoSlice<'_>, SLICES_MAX>::new();
        slices.push(IoSlice::new(header.bytes()));
        slices.push(IoSlice::new(&burst[usize::from(group.first)].data()[..first.len]));
        let mut i = self.next[usize::from(group.first)];
        while i != NONE {
            let packet = &self.packets[usize::from(i)];
            slices.push(IoSlice::new(&burst[usize::from(i)].data()[packet.payload..packet.len]));
            i = self.next[usize::from(i)];
        }
        write(&slices, usize::from(group.count))
    }
}

/// Turns the headers of a group's first packet into those of the super-packet of `len` bytes.
fn unite(first: &Packet, bytes: &mut [u8], len: usize, ends: bool) -> VnetHdr {
    let (ip, transport) = bytes.split_at_mut(first.transport);
    let transport_len = len - first.transport;
    if first.is_v4 {
        ip[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        ip[10..12].fill(0);
        let check = Sum::of(&ip[..IPV4_LEN]).checksum();
        ip[10..12].copy_from_slice(&check);
    } else {
        ip[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
    }
    let partial = first.pseudo(ip).plus_u16(transport_len as u16).partial();
    let (kind, check_at) = match (first.is_tcp, first.is_v4) {
        (true, true) => (GSO_TCPV4, TCP_CHECK),
        (true, false) => (GSO_TCPV6, TCP_CHECK),
        (false, _) => (GSO_UDP_L4, UDP_CHECK),
    };
    if first.is_tcp && ends {
        transport[13] |= super::flow::TCP_PSH;
    } else if !first.is_tcp {
        transport[4..6].copy_from_slice(&(transport_len as u16).to_be_bytes());
    }
    transport[check_at..check_at + 2].copy_from_slice(&partial);
    VnetHdr::super_packet(
        kind,
        first.payload as u16,
        first.payload_len() as u16,
        first.transport as u16,
        check_at as u16,
    )
}

#[cfg(test)]
mod tests;
