//! Where packets out of the tunnel leave on the lan: what the kernel would decide, ready for the lanes.
//!
//! Enters: the control task's view of the kernel's routes and neighbours. Leaves: for a destination the next hop with its
//! Ethernet header, or why the kernel has to see the packet. Never does: resolve, or know more than the kernel: what
//! is not here goes to the kernel by the TUN.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arrayvec::ArrayVec;
use landbridge_proto::{Owner, Prefixes};

use super::inner::InnerPacket;
use super::tables::Table;

/// Bytes of an Ethernet header with as many VLAN tags as are understood.
const ETHERNET_MAX: usize = 22;

/// What a prefix leads to: a place among the hops. At a place without a hop the neighbour is not resolved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct HopId(pub u32);

impl HopId {
    /// The kernel decides: a route by another interface, an address of ours, a route that only the kernel understands.
    pub const KERNEL: Self = Self(0);
}

impl Owner for HopId {
    #[inline]
    fn slot(self) -> usize {
        self.0 as usize
    }
}

/// A neighbour that packets are sent to.
#[derive(Debug)]
pub struct NextHop {
    /// The interface (of those with lan rings) that it is reached by.
    pub if_index: u32,
    /// The Ethernet header up to the last VLAN tag: the EtherType, which follows, is that of each packet.
    pub ethernet: ArrayVec<u8, ETHERNET_MAX>,
    /// The largest IP packet of that way.
    pub mtu: u32,
    /// Set by lanes that use it, cleared by the control task, which keeps it fresh.
    pub used: AtomicBool,
}

impl NextHop {
    /// Notes that packets go there; cheap where that is noted already.
    #[inline]
    pub fn mark_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }
}

/// Why a packet out of the tunnel is the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToKernel {
    /// No route by a lan interface with rings.
    NoRoute,
    /// The next hop's Ethernet address is not known.
    Unresolved,
    /// Addresses that are not simply forwarded: ours, multicast, loopback, link-local.
    Special,
    /// Its hop limit ends here: the kernel tells the sender.
    HopLimit,
    /// Longer than the interface takes: the kernel fragments, or tells the sender.
    TooLong,
    /// IP options or hop-by-hop headers.
    Options,
    /// This lane has no ring on that interface.
    NoRing,
}

/// Routes, neighbours and hops. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct LanTable {
    /// Prefixes of the kernel's routes.
    pub routes: Arc<Prefixes<HopId>>,
    /// Single addresses: resolved neighbours, and our own.
    pub neighbours: Arc<Prefixes<HopId>>,
    /// Hops by number; a gateway that is not resolved has none.
    pub hops: Table<Arc<NextHop>>,
}

impl LanTable {
    /// The next hop between two addresses.
    ///
    /// # Errors
    /// Why the kernel decides.
    #[inline]
    pub fn next_hop(&self, packet: &InnerPacket) -> Result<&Arc<NextHop>, ToKernel> {
        if is_special(packet.source) || is_special(packet.destination) {
            return Err(ToKernel::Special);
        }
        // The kernel drops packets from elsewhere that claim to be ours; they are few, and it shall be the one to say so.
        if self.neighbours.lookup(packet.source) == Some(HopId::KERNEL) {
            return Err(ToKernel::Special);
        }
        let id = match self.neighbours.lookup(packet.destination) {
            Some(HopId::KERNEL) => return Err(ToKernel::Special),
            Some(id) => id,
            None => self.routes.lookup(packet.destination).ok_or(ToKernel::NoRoute)?,
        };
        match id {
            HopId::KERNEL => Err(ToKernel::NoRoute),
            HopId(number) => self.hops.at(number as usize).ok_or(ToKernel::Unresolved),
        }
    }
}

/// What no router forwards, or the kernel checks more closely than we do.
#[inline]
fn is_special(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_special_v4(address),
        IpAddr::V6(address) => is_special_v6(address),
    }
}

#[inline]
fn is_special_v4(address: Ipv4Addr) -> bool {
    let [first, second, ..] = address.octets();
    matches!(first, 0 | 127 | 224..) || (first, second) == (169, 254)
}

#[inline]
fn is_special_v6(address: Ipv6Addr) -> bool {
    let [first, ..] = address.segments();
    // Multicast, link-local, and all of ::/16: unspecified, loopback, mapped and compatible addresses.
    first == 0 || first & 0xff00 == 0xff00 || first & 0xffc0 == 0xfe80
}
