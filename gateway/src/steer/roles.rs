//! What interfaces are to us, and their sockets.
//!
//! An interface is a wan interface unless it is set as one of a lan, and is both where that is said.

use std::collections::BTreeSet;
use std::os::fd::BorrowedFd;

use landbridge_ebpf_common::{self as common, Interface, QUEUES_PER_INTERFACE, ROLE_LAN, ROLE_WAN};

use super::{Steer, SteerError, absent_is_fine, error};

/// The numbers of VLANs (IEEE 802.1Q: 0 and 4095 are reserved).
const VLANS: std::ops::RangeInclusive<u16> = 1..=4094;

/// An interface in the role of a lan.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LanInterface {
    /// Its index: of the interface below, where the lan is a VLAN.
    pub if_index: u32,
    /// The hardware address of the lan, which is a VLAN interface's own where it has one.
    pub mac: [u8; 6],
    /// The VLAN whose frames are looked at; left out: frames without a tag. XDP sees a tag only where the driver
    /// leaves it in the frame (`ethtool -K X rxvlan off`; of a veth, `txvlan off` at its peer): where it is stripped,
    /// frames of all VLANs look as if they had none.
    pub vlan: Option<u16>,
    /// Whether it is a wan interface as well. Then one socket per queue gets the packets of both roles: those for an
    /// address of ours are transport data, all others are the lan's, so that the destination tells them apart.
    pub wan: bool,
}

/// An interface in the maps.
#[derive(Debug)]
pub(super) struct Place {
    number: u32,
    lan: Option<LanInterface>,
    /// Queues that have a socket.
    queues: BTreeSet<u32>,
}

impl Place {
    pub(super) const fn is_lan(&self) -> bool {
        self.lan.is_some()
    }

    fn entry(&self) -> Interface {
        let (number, wan) = (self.number, Interface { number: self.number, roles: ROLE_WAN, ..Interface::default() });
        self.lan.map_or(wan, |lan| {
            let roles = ROLE_LAN | if lan.wan { ROLE_WAN } else { 0 };
            Interface { number, roles, vlan: lan.vlan.unwrap_or(0), mac: lan.mac }
        })
    }
}

impl Steer {
    /// From here on looks at what an interface receives as packets of a lan, and as nothing else unless
    /// [`LanInterface::wan`]. Nothing is taken before [`Steer::set_port`], and on no queue without a socket.
    ///
    /// # Errors
    /// A number that no VLAN has, more interfaces than the maps hold, or what the kernel said.
    pub fn set_lan_interface(&mut self, lan: LanInterface) -> Result<(), SteerError> {
        if let Some(vlan) = lan.vlan.filter(|vlan| !VLANS.contains(vlan)) {
            return Err(SteerError::NoVlan { vlan });
        }
        let before = self.place(lan.if_index)?.lan.replace(lan);
        if before == Some(lan) {
            return Ok(());
        }
        self.publish(lan.if_index)?;
        self.configure()
    }

    /// Looks at nothing of an interface as packets of a lan: it is a wan interface, where it has sockets.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_lan_interface(&mut self, if_index: u32) -> Result<(), SteerError> {
        let Some(place) = self.places.get_mut(&if_index) else { return Ok(()) };
        if place.lan.take().is_none() {
            return Ok(());
        }
        self.publish(if_index)?;
        self.configure()
    }

    /// Gives what arrives on this queue to this AF_XDP socket, in place of one bound before. The socket has to be
    /// bound to that queue with its rings mapped (Linux 5.10 crashes at the first packet for one that is not); the
    /// kernel forgets it when it is closed.
    ///
    /// # Errors A queue or an interface beyond what the maps hold, a descriptor that is no AF_XDP socket, or what the
    /// kernel said.
    pub fn bind_socket(&mut self, if_index: u32, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SteerError> {
        if queue >= QUEUES_PER_INTERFACE {
            return Err(SteerError::TooManyQueues { queue, limit: QUEUES_PER_INTERFACE });
        }
        let fresh = !self.places.contains_key(&if_index);
        let number = self.place(if_index)?.number;
        let bound = self.sockets.set(slot(number, queue), socket, 0).map_err(error::map("an AF_XDP socket"));
        if let (Ok(()), Some(place)) = (&bound, self.places.get_mut(&if_index)) {
            place.queues.insert(queue);
        }
        if fresh { bound.and(self.publish(if_index)) } else { bound }
    }

    /// Leaves what arrives on this queue to the kernel.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn unbind_socket(&mut self, if_index: u32, queue: u32) -> Result<(), SteerError> {
        let Some(place) = self.places.get_mut(&if_index) else { return Ok(()) };
        if place.queues.remove(&queue) {
            absent_is_fine(self.sockets.unset(slot(place.number, queue))).map_err(error::map("an AF_XDP socket"))?;
        }
        if place.queues.is_empty() && place.lan.is_none() { self.publish(if_index) } else { Ok(()) }
    }

    /// An interface's place in the maps; one with the lowest free number where it has none.
    fn place(&mut self, if_index: u32) -> Result<&mut Place, SteerError> {
        let free = (0..common::INTERFACES).find(|number| self.places.values().all(|place| place.number != *number));
        if !self.places.contains_key(&if_index) && free.is_none() {
            return Err(SteerError::TooManyInterfaces { limit: common::INTERFACES });
        }
        let number = free.unwrap_or(0);
        Ok(self.places.entry(if_index).or_insert(Place { number, lan: None, queues: BTreeSet::new() }))
    }

    /// Writes an interface's place into the map, or takes it out where it has become nothing to us.
    fn publish(&mut self, if_index: u32) -> Result<(), SteerError> {
        let Some(place) = self.places.get(&if_index) else { return Ok(()) };
        if place.queues.is_empty() && place.lan.is_none() {
            self.places.remove(&if_index);
            return absent_is_fine(self.interfaces.remove(&if_index)).map_err(error::map("an interface"));
        }
        self.interfaces.insert(if_index, place.entry(), 0).map_err(error::map("an interface"))
    }
}

/// The place of a queue's socket.
const fn slot(number: u32, queue: u32) -> u32 {
    number * QUEUES_PER_INTERFACE + queue
}
