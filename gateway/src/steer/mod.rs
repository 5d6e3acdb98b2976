//! The XDP program and its maps, seen from the user side.
//!
//! Enters: interfaces, our port and addresses, live sessions, AF_XDP sockets. Leaves: the program in the
//! kernel, steering transport data of those sessions into those sockets, and its counters. Never does:
//! replace a program that is not ours, or leave one behind: each attachment is a bpf_link that this
//! process holds, so the kernel detaches it however the process ends.
//!
//! Order of a start:
//! 1. [`Steer::load`], then [`Steer::set_packet_len_max`], [`Steer::set_port`] and [`Steer::set_addresses`];
//! 2. [`Steer::bind_socket`] for each socket, once its rings are served;
//! 3. [`Steer::attach`] each interface, last: until then nothing is taken from the kernel.
//!
//! All calls are system calls that do not wait, made by the control task. Interface indices are those of
//! the network namespace of the calling thread.

mod attach;
mod counters;
mod error;
mod interface;
mod link;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;

use aya::maps::{Array, HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use landbridge_ebpf_common::{self as common, AddressKey, Config, QUEUES_PER_INTERFACE, map};
use landbridge_proto::ReceiverIndex;

pub use attach::{Attached, Mode};
pub use counters::Counters;
pub use error::SteerError;
pub use interface::{Interface, interface, interface_by_name};
pub use landbridge_ebpf_common::Verdict;

/// The committed object; `ebpf/build.sh` makes it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/prebuilt/landbridge_steer.o"));

/// The program's name in the object and in the kernel.
pub const PROGRAM: &str = "landbridge_steer";

// Both sides of the session map mean the same slots.
const _: () = assert!(ReceiverIndex::SLOTS == common::SESSION_SLOTS as usize);

/// The loaded program. Dropping it detaches and unloads.
pub struct Steer {
    ebpf: Ebpf,
    config: Array<MapData, Config>,
    /// Bytes of the longest IP packet that is taken.
    packet_len_max: u16,
    addresses: HashMap<MapData, AddressKey, u8>,
    sessions: Array<MapData, u32>,
    interfaces: HashMap<MapData, u32, u32>,
    sockets: XskMap<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    /// What the map of addresses holds: this process alone writes it.
    present: BTreeSet<AddressKey>,
    /// Interfaces with sockets: their number in the maps and their bound queues.
    bound: BTreeMap<u32, Numbered>,
    /// Attachments by interface index.
    links: BTreeMap<u32, (XdpLinkId, Attached)>,
}

/// An interface's number in the maps, and its queues that have a socket.
#[derive(Debug)]
struct Numbered {
    number: u32,
    queues: BTreeSet<u32>,
}

impl fmt::Debug for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steer")
            .field("addresses", &self.present.len())
            .field("bound", &self.bound)
            .field("attached", &self.links.keys())
            .finish_non_exhaustive()
    }
}

impl Steer {
    /// Loads the program. It is attached nowhere and, until [`Steer::set_port`], passes everything.
    ///
    /// # Errors
    /// A missing capability or kernel option, or what the verifier said.
    pub fn load() -> Result<Self, SteerError> {
        Self::load_object(OBJECT)
    }

    /// [`Steer::load`] with another build of the object.
    ///
    /// # Errors
    /// As [`Steer::load`], and an object that is not this program.
    pub fn load_object(object: &[u8]) -> Result<Self, SteerError> {
        // The program relocates against no kernel type; parsing the kernel's BTF would only leave 25 MB behind.
        let mut ebpf = EbpfLoader::new().btf(None).load(object).map_err(error::load)?;
        program(&mut ebpf)?.load().map_err(error::program)?;
        error::warn_without_jit();
        Ok(Self {
            config: array(&mut ebpf, map::CONFIG)?,
            packet_len_max: common::PACKET_LEN_MAX,
            addresses: hash(&mut ebpf, map::ADDRESSES)?,
            sessions: array(&mut ebpf, map::SESSIONS)?,
            interfaces: hash(&mut ebpf, map::INTERFACES)?,
            sockets: take(&mut ebpf, map::SOCKETS).and_then(|m| m.try_into().map_err(error::object))?,
            verdicts: take(&mut ebpf, map::VERDICTS).and_then(|m| m.try_into().map_err(error::object))?,
            ebpf,
            present: BTreeSet::new(),
            bound: BTreeMap::new(),
            links: BTreeMap::new(),
        })
    }

    /// Leaves IP packets longer than this to the kernel, from the next [`Steer::set_port`] on: the sockets' frames hold no
    /// more, and what is redirected and does not fit is lost. Beyond a page less headroom, which is also what holds
    /// before, nothing is taken anyway.
    pub fn set_packet_len_max(&mut self, bytes: usize) {
        self.packet_len_max = u16::try_from(bytes).unwrap_or(u16::MAX).min(common::PACKET_LEN_MAX);
    }

    /// Steers UDP to this port from here on.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_port(&mut self, port: u16) -> Result<(), SteerError> {
        self.config.set(0, Config::listen(port, self.packet_len_max), 0).map_err(error::map("the listen port"))
    }

    /// Passes everything to the kernel until [`Steer::set_port`] is called again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn disable(&mut self) -> Result<(), SteerError> {
        self.config.set(0, Config::default(), 0).map_err(error::map("the switch"))
    }

    /// Makes these the local addresses: adds what is missing, removes what is not among them.
    ///
    /// # Errors
    /// More addresses than the map holds, or what the kernel said; addresses set until then stay.
    pub fn set_addresses(&mut self, addresses: &[IpAddr]) -> Result<(), SteerError> {
        let wanted: BTreeSet<AddressKey> = addresses.iter().copied().map(AddressKey::from).collect();
        if wanted.len() > common::ADDRESSES as usize {
            return Err(SteerError::TooManyAddresses { count: wanted.len(), limit: common::ADDRESSES });
        }
        for gone in self.present.difference(&wanted).copied().collect::<Vec<_>>() {
            absent_is_fine(self.addresses.remove(&gone)).map_err(error::map("a local address"))?;
            self.present.remove(&gone);
        }
        for missing in wanted.difference(&self.present).copied().collect::<Vec<_>>() {
            self.addresses.insert(missing, 1, 0).map_err(error::map("a local address"))?;
            self.present.insert(missing);
        }
        Ok(())
    }

    /// Steers transport data for this receiver index from here on, in place of what its slot held.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn insert_session(&mut self, index: ReceiverIndex) -> Result<(), SteerError> {
        self.sessions.set(slot(index), index.0, 0).map_err(error::map("a session"))
    }

    /// Leaves transport data for this receiver index to the kernel. A slot that holds another index keeps it.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_session(&mut self, index: ReceiverIndex) -> Result<(), SteerError> {
        let slot = slot(index);
        if self.sessions.get(&slot, 0).map_err(error::map("a session"))? == index.0 {
            self.sessions.set(slot, 0, 0).map_err(error::map("a session"))?;
        }
        Ok(())
    }

    /// Gives what arrives on this queue to this AF_XDP socket, in place of one bound before. The socket has to be bound to
    /// that queue with its rings mapped (Linux 5.10 crashes at the first packet for one that is not); the kernel forgets
    /// it when it is closed.
    ///
    /// # Errors
    /// A queue or an interface beyond what the maps hold, a descriptor that is no AF_XDP socket, or what the kernel said.
    pub fn bind_socket(&mut self, if_index: u32, queue: u32, socket: BorrowedFd<'_>) -> Result<(), SteerError> {
        if queue >= QUEUES_PER_INTERFACE {
            return Err(SteerError::TooManyQueues { queue, limit: QUEUES_PER_INTERFACE });
        }
        let number = self.number(if_index)?;
        self.sockets.set(place(number, queue), socket, 0).map_err(error::map("an AF_XDP socket"))?;
        self.bound.entry(if_index).or_insert(Numbered { number, queues: BTreeSet::new() }).queues.insert(queue);
        Ok(())
    }

    /// Leaves what arrives on this queue to the kernel.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn unbind_socket(&mut self, if_index: u32, queue: u32) -> Result<(), SteerError> {
        let Some(numbered) = self.bound.get_mut(&if_index) else { return Ok(()) };
        if numbered.queues.remove(&queue) {
            absent_is_fine(self.sockets.unset(place(numbered.number, queue)))
                .map_err(error::map("an AF_XDP socket"))?;
        }
        if numbered.queues.is_empty() {
            self.bound.remove(&if_index);
            absent_is_fine(self.interfaces.remove(&if_index)).map_err(error::map("an interface"))?;
        }
        Ok(())
    }

    /// Packets per verdict since the program was loaded, of all interfaces and CPUs.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn counters(&self) -> Result<Counters, SteerError> {
        let mut counters = Counters::default();
        for verdict in Verdict::ALL {
            let per_cpu = self.verdicts.get(&verdict.index(), 0).map_err(error::map("the counters"))?;
            counters.set(verdict, per_cpu.iter().copied().fold(0, u64::wrapping_add));
        }
        Ok(counters)
    }

    /// The loaded program, to be run on packets without a wire.
    ///
    /// # Errors
    /// An object without it.
    pub fn program(&mut self) -> Result<&mut Xdp, SteerError> {
        program(&mut self.ebpf)
    }

    /// The number of an interface in the maps; the lowest free one where it has none.
    fn number(&mut self, if_index: u32) -> Result<u32, SteerError> {
        if let Some(numbered) = self.bound.get(&if_index) {
            return Ok(numbered.number);
        }
        let number = (0..common::INTERFACES)
            .find(|number| self.bound.values().all(|numbered| numbered.number != *number))
            .ok_or(SteerError::TooManyInterfaces { limit: common::INTERFACES })?;
        self.interfaces.insert(if_index, number, 0).map_err(error::map("an interface"))?;
        Ok(number)
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, SteerError> {
    let program = ebpf.program_mut(PROGRAM).ok_or(SteerError::Object { missing: PROGRAM })?;
    program.try_into().map_err(|error: ProgramError| error::program(error))
}

fn take(ebpf: &mut Ebpf, name: &'static str) -> Result<aya::maps::Map, SteerError> {
    ebpf.take_map(name).ok_or(SteerError::Object { missing: name })
}

fn array<V: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<Array<MapData, V>, SteerError> {
    take(ebpf, name)?.try_into().map_err(error::object)
}

fn hash<K: Pod, V: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<HashMap<MapData, K, V>, SteerError> {
    take(ebpf, name)?.try_into().map_err(error::object)
}

/// The slot of an index: below 2^20, so it fits.
fn slot(index: ReceiverIndex) -> u32 {
    index.0 & common::SESSION_SLOT_MASK
}

fn place(number: u32, queue: u32) -> u32 {
    number * QUEUES_PER_INTERFACE + queue
}

/// Removing what is not there has reached its aim: closing a socket takes it out of the map by itself.
fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
