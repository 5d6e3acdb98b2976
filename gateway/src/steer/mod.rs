//! The XDP program and its maps, seen from the user side.
//!
//! Enters: interfaces, our port and addresses, live sessions, routes to peers, AF_XDP sockets. Leaves: the program in
//! the kernel, steering transport data of those sessions and a lan's packets for those routes into those sockets, and
//! its counters; for a relay also forwarding what its bound peers send. Never does: replace a program that is not ours, or
//! leave one behind: each attachment is a bpf_link that this process holds, so the kernel detaches it however the process
//! ends.
//!
//! Order of a start:
//! 1. [`Steer::load`], then [`Steer::set_packet_len_max`], [`Steer::set_addresses`] and [`Steer::set_port`]; for a lan
//!    [`Steer::set_tunnel_mtu`], [`Steer::set_kernel_routes`], [`Steer::set_routes`] and [`Steer::set_lan_interface`];
//! 2. [`Steer::bind_socket`] for each socket, once its rings are served;
//! 3. [`Steer::attach`] each interface, last: until then nothing is taken from the kernel.
//!
//! All calls are system calls that do not wait, made by the control task. Interface indices are those of
//! the network namespace of the calling thread.

mod attach;
mod channels;
mod counters;
mod error;
mod features;
mod interface;
mod link;
pub mod relay;
mod roles;
mod routes;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::{Arc, Mutex};

use aya::maps::lpm_trie::LpmTrie;
use aya::maps::{Array, DevMapHash, HashMap, MapData, MapError, PerCpuArray, XskMap};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{ProgramError, Xdp};
use aya::{Ebpf, EbpfLoader, Pod};
use ipnet::IpNet;
use landbridge_ebpf_common::{self as common, AddressKey, Config, RelayKey, RelayTally, RelayTarget, map};
use landbridge_proto::ReceiverIndex;

pub use attach::{Attached, Hold, Mode};
pub use counters::Counters;
pub use error::SteerError;
pub use features::{finishes_checksums, sends_frames};
pub use interface::{Interface, interface, interface_by_name};
pub use landbridge_ebpf_common::Verdict;
pub use roles::LanInterface;

use roles::Place;
use routes::{Owner, Routes, Tries};

/// The committed object; `ebpf/build.sh` makes it.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/../ebpf/prebuilt/landbridge_steer.o"));

/// The program's name in the object and in the kernel.
pub const PROGRAM: &str = "landbridge_steer";
/// Its other form, for frames in several buffers (`xdp.frags`, Linux 5.18).
pub const PROGRAM_LONG: &str = "landbridge_steer_long";

// Both sides of the session map mean the same slots.
const _: () = assert!(ReceiverIndex::SLOTS == common::SESSION_SLOTS as usize);

/// The loaded program. Dropping it detaches and unloads.
pub struct Steer {
    ebpf: Ebpf,
    /// Which form of the program is loaded.
    program: &'static str,
    /// The kernel's number of the program.
    program_id: u32,
    config: Array<MapData, Config>,
    /// Bytes of the longest IP packet that is taken.
    packet_len_max: u16,
    /// Bytes of the longest IP packet that the tunnel carries.
    tunnel_mtu: u32,
    /// The port, while packets are taken.
    port: Option<u16>,
    addresses: HashMap<MapData, AddressKey, u8>,
    sessions: Array<MapData, u32>,
    interfaces: HashMap<MapData, u32, common::Interface>,
    routes: Routes<Tries>,
    sockets: XskMap<MapData>,
    verdicts: PerCpuArray<MapData, u64>,
    relay_ends: HashMap<MapData, RelayKey, RelayTarget>,
    relay_tallies: PerCpuArray<MapData, RelayTally>,
    relay_buckets: relay::Buckets,
    relay_egress: DevMapHash<MapData>,
    relay: relay::RelayPlan,
    /// What the map of addresses holds: this process alone writes it.
    present: BTreeSet<AddressKey>,
    /// Interfaces with sockets or a role, by index.
    places: BTreeMap<u32, Place>,
    /// Attachments by interface index.
    links: BTreeMap<u32, (XdpLinkId, Attached)>,
}

impl fmt::Debug for Steer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Steer")
            .field("addresses", &self.present.len())
            .field("routes", &self.routes.len())
            .field("places", &self.places)
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
        Self::load_object(OBJECT, PROGRAM)
    }

    /// Loads the form of the program that may be attached to interfaces whose frames lie in several buffers: those of a
    /// large MTU. It takes Linux 5.18.
    ///
    /// # Errors
    /// As [`Steer::load`].
    pub fn load_long() -> Result<Self, SteerError> {
        Self::load_object(OBJECT, PROGRAM_LONG)
    }

    /// [`Steer::load`] with another build of the object, and the form that is named.
    ///
    /// # Errors
    /// As [`Steer::load`], and an object without this program.
    pub fn load_object(object: &[u8], name: &'static str) -> Result<Self, SteerError> {
        // The program relocates against no kernel type; parsing the kernel's BTF would only leave 25 MB behind.
        let mut ebpf = EbpfLoader::new().btf(None).load(object).map_err(error::load)?;
        let program = program(&mut ebpf, name)?;
        program.load().map_err(error::program)?;
        let program_id = program.info().map_err(error::program)?.id();
        error::warn_without_jit();
        Ok(Self {
            config: array(&mut ebpf, map::CONFIG)?,
            packet_len_max: common::PACKET_LEN_MAX,
            tunnel_mtu: 0,
            port: None,
            addresses: hash(&mut ebpf, map::ADDRESSES)?,
            sessions: array(&mut ebpf, map::SESSIONS)?,
            interfaces: hash(&mut ebpf, map::INTERFACES)?,
            routes: Routes::new(Tries { v4: lpm(&mut ebpf, map::ROUTES_V4)?, v6: lpm(&mut ebpf, map::ROUTES_V6)? }),
            sockets: take(&mut ebpf, map::SOCKETS).and_then(|m| m.try_into().map_err(error::object))?,
            verdicts: take(&mut ebpf, map::VERDICTS).and_then(|m| m.try_into().map_err(error::object))?,
            relay_ends: hash(&mut ebpf, map::RELAY)?,
            relay_tallies: take(&mut ebpf, map::RELAY_TALLIES).and_then(|m| m.try_into().map_err(error::object))?,
            relay_buckets: Arc::new(Mutex::new(array(&mut ebpf, map::RELAY_BUCKETS)?)),
            relay_egress: take(&mut ebpf, map::RELAY_EGRESS).and_then(|m| m.try_into().map_err(error::object))?,
            relay: relay::RelayPlan::default(),
            ebpf,
            program: name,
            program_id,
            present: BTreeSet::new(),
            places: BTreeMap::new(),
            links: BTreeMap::new(),
        })
    }

    /// Whether this is the form for frames in several buffers.
    #[must_use]
    pub fn is_long(&self) -> bool {
        self.program == PROGRAM_LONG
    }

    /// Leaves IP packets longer than this to the kernel, from the next [`Steer::set_port`] on: the sockets' frames
    /// hold no more, and what is redirected and does not fit is lost. Beyond a page less headroom, which is also what
    /// holds before, nothing is taken anyway, unless the form for several buffers is loaded.
    pub fn set_packet_len_max(&mut self, bytes: usize) {
        let most = if self.is_long() { u16::MAX } else { common::PACKET_LEN_MAX };
        self.packet_len_max = u16::try_from(bytes).unwrap_or(u16::MAX).min(most);
    }

    /// Leaves packets of a lan that are longer than the tunnel's MTU to the kernel, which fragments them or answers
    /// that they are too big. Before the first call nothing of a lan is taken.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_tunnel_mtu(&mut self, bytes: u32) -> Result<(), SteerError> {
        self.tunnel_mtu = bytes;
        self.configure()
    }

    /// Takes packets from here on; transport data, where it comes to this port.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_port(&mut self, port: u16) -> Result<(), SteerError> {
        self.port = Some(port);
        self.configure()
    }

    /// Passes everything to the kernel until [`Steer::set_port`] is called again.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn disable(&mut self) -> Result<(), SteerError> {
        self.port = None;
        self.configure()
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

    /// Makes these the networks that peers have, the allowed IPs: packets of a lan for them are taken. Applied as a
    /// difference, what is added before what is removed.
    ///
    /// # Errors [`SteerError::TooManyRoutes`] beyond 131,072 networks of a family (those of
    /// [`Steer::set_kernel_routes`] count too): packets for those left out go by the kernel, unless a wider network
    /// has them. Or what the kernel said of one; the others are set.
    pub fn set_routes(&mut self, nets: &BTreeSet<IpNet>) -> Result<(), SteerError> {
        self.routes.set(Owner::Peer, nets)
    }

    /// Adds one network that a peer has: what [`Steer::set_routes`] does, without looking at all others.
    ///
    /// # Errors
    /// As [`Steer::set_routes`].
    pub fn insert_route(&mut self, net: IpNet) -> Result<(), SteerError> {
        self.routes.insert(Owner::Peer, net)
    }

    /// Removes one network that a peer had.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn remove_route(&mut self, net: IpNet) -> Result<(), SteerError> {
        self.routes.remove(Owner::Peer, net)
    }

    /// Makes these the networks that the kernel routes elsewhere than into the tunnel: connected networks, more special
    /// static routes, a peer's endpoint beside a default route into the tunnel. The longest network decides; where a
    /// peer has the very same one, the kernel has it. Only networks inside one of a peer's make a difference.
    ///
    /// # Errors
    /// As [`Steer::set_routes`]. Until a later call succeeds nothing of a lan is taken: what is left out would go to a peer
    /// that has a wider network.
    pub fn set_kernel_routes(&mut self, nets: &BTreeSet<IpNet>) -> Result<(), SteerError> {
        let before = self.routes.is_complete();
        let outcome = self.routes.set(Owner::Kernel, nets);
        if self.routes.is_complete() == before { outcome } else { outcome.and(self.configure()) }
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

    /// Tells the program what to do at all.
    fn configure(&mut self) -> Result<(), SteerError> {
        let lans = self.places.values().filter(|place| place.is_lan()).count();
        let config = self.port.map_or(Config::default(), |port| Config {
            // No packet is short enough for a tunnel whose routes are not all known.
            tunnel_mtu: if self.routes.is_complete() { self.tunnel_mtu } else { 0 },
            lans: u32::from(lans != 0),
            relay_first: self.relay.first,
            relay_count: self.relay.count,
            relay_flags: self.relay.flags(),
            ..Config::listen(port, self.packet_len_max)
        });
        self.config.set(0, config, 0).map_err(error::map("the configuration"))
    }

    /// The loaded program, to be run on packets without a wire.
    ///
    /// # Errors
    /// An object without it.
    pub fn program(&mut self) -> Result<&mut Xdp, SteerError> {
        program(&mut self.ebpf, self.program)
    }
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut Xdp, SteerError> {
    let program = ebpf.program_mut(name).ok_or(SteerError::Object { missing: name })?;
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

fn lpm<K: Pod>(ebpf: &mut Ebpf, name: &'static str) -> Result<LpmTrie<MapData, K, u32>, SteerError> {
    take(ebpf, name)?.try_into().map_err(error::object)
}

/// The slot of an index: below 2^20, so it fits.
fn slot(index: ReceiverIndex) -> u32 {
    index.0 & common::SESSION_SLOT_MASK
}

/// Removing what is not there has reached its aim: closing a socket takes it out of the map by itself.
fn absent_is_fine(result: Result<(), MapError>) -> Result<(), MapError> {
    match result {
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
