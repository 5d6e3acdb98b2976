//! The interfaces with rings, of both sides: given to the steering program at start, given up when they go, bound again when
//! they come back.
//!
//! 1. An interface that vanishes, or whose rings fail while it is up, loses them: the lanes close them, its packets take the
//!    kernel's socket or the TUN, and the log, status and metrics say so.
//! 2. One that is there still is looked at: see [`mod@super::watch`].
//! 3. Once an interface of that name is there, its queues are bound to the same lanes' memory, the lanes get the rings,
//!    and the program is attached; a failure is tried again, ever later.
//!
//! Enters: news of interfaces, failures of lanes. Leaves: commands to lanes, attachments. Never does: take the rings from an
//! interface that is merely down, as they work again when it is up.

use std::io;
use std::os::fd::AsFd as _;
use std::time::Instant;

use anyhow::Context as _;
use landbridge_xsk::{Bound, Memory, Xsk};

use super::lan::{self, LanChoice, Port};
use super::netlink::News;
use super::paths::Network as _;
use super::report::Ring;
use super::wan::{self, Choice};
use super::watch::{STEADY, Watched, retry_after};
use super::{Control, checksum_offload};
use crate::datapath::lan_xdp::LanXdp;
use crate::datapath::report::Command;
use crate::datapath::wan_xdp::{self, WanXdp};
use crate::settings;
use crate::sizes;
use crate::status::InterfaceStatus;
use crate::steer::{self, Interface, LanInterface};

/// The interfaces with rings.
#[derive(Debug)]
pub struct Rings {
    wan: Options,
    lan: Options,
    /// Of the lanes that serve queues.
    memories: Vec<Memory>,
    places: Vec<Place>,
    /// Why packets do not take several frames; none where they may.
    one_buffer: Option<String>,
}

/// How the rings of a side are bound.
#[derive(Debug)]
pub struct Options {
    /// Sizes and modes.
    pub rings: settings::Wan,
    /// Nobody asked for rings by name: an interface may do without.
    pub optional: bool,
    /// Why rings were chosen.
    pub reason: String,
}

/// One interface.
#[derive(Debug)]
struct Place {
    role: Role,
    interface: Interface,
    lost: Option<Lost>,
    /// Losses and failed attempts since it was steady.
    failures: u32,
    /// Since when it has its rings.
    since: Instant,
    watched: Watched,
}

/// Which side an interface is of.
#[derive(Debug)]
enum Role {
    Wan,
    Lan(Port),
}

#[derive(Debug)]
struct Lost {
    why: String,
    retry: Instant,
}

impl Rings {
    /// What the start has bound.
    #[must_use]
    pub fn new(
        wan: Options,
        choice: &Choice,
        lan: Options,
        lan_choice: &LanChoice,
        memories: Vec<Memory>,
        one_buffer: Option<String>,
    ) -> Self {
        let of_wan = choice.interfaces.iter().map(|interface| (Role::Wan, interface.clone()));
        let of_lan = lan_choice.ports.iter().map(|port| (Role::Lan(port.clone()), port.ringed.clone()));
        let since = Instant::now();
        let place =
            |(role, interface)| Place { role, interface, lost: None, failures: 0, since, watched: Watched::default() };
        Self { wan, lan, memories, places: of_wan.chain(of_lan).map(place).collect(), one_buffer }
    }

    /// The lan interfaces that have their rings.
    pub fn ports(&self) -> impl Iterator<Item = &Port> {
        self.places.iter().filter(|place| place.lost.is_none()).filter_map(|place| match &place.role {
            Role::Lan(port) => Some(port),
            Role::Wan => None,
        })
    }

    /// Bytes of the longest IP packet that every ring can receive: what is longer, the program leaves to the kernel. A ring
    /// of frames that hold all that its interface receives is no limit to those whose packets take several, as long as that
    /// is watched ([`Rings::outgrows`]).
    fn packet_len_max(&self, rings: &[Ring]) -> Option<usize> {
        let frame_size = self.memories.iter().map(Memory::frame_size).min()?;
        let one = wan_xdp::packet_len_max(frame_size);
        let is_limit = |ring: &Ring| {
            let place = self.places.iter().find(|place| place.interface.index == ring.if_index);
            !ring.bound.multi_buffer && place.is_none_or(|place| place.interface.mtu as usize > one)
        };
        let limited =
            self.one_buffer.is_some() || rings.iter().any(is_limit) || !rings.iter().any(|r| r.bound.multi_buffer);
        Some(if limited { one } else { wan_xdp::chain_packet_len_max(frame_size) })
    }

    /// Whether an interface whose packets fitted one frame each was given an MTU with which they do not.
    pub(super) fn outgrows(&self, at: usize, mtu: u32) -> bool {
        let before = self.places[at].interface.mtu;
        let one = self.memories.iter().map(|memory| wan_xdp::packet_len_max(memory.frame_size())).min();
        self.one_buffer.is_none() && one.is_some_and(|one| before as usize <= one && mtu as usize > one)
    }

    /// For people: why an interface's packets take several frames of its rings, or do not.
    fn why_buffers(&self, at: usize, multi_buffer: bool) -> String {
        let mtu = self.places[at].interface.mtu;
        match &self.one_buffer {
            _ if mtu <= sizes::ONE_BUFFER_MTU => format!("MTU {mtu} needs none"),
            _ if multi_buffer => format!("MTU {mtu}"),
            Some(why) => why.clone(),
            None => "the kernel or the driver has no such rings".to_owned(),
        }
    }

    /// An interface, as it was when its rings were bound.
    pub(super) fn interface(&self, at: usize) -> &Interface {
        &self.places[at].interface
    }

    /// What is remembered of an interface.
    pub(super) fn watched(&mut self, at: usize) -> &mut Watched {
        &mut self.places[at].watched
    }

    pub(super) fn options(&self, at: usize) -> &Options {
        match self.places[at].role {
            Role::Wan => &self.wan,
            Role::Lan(_) => &self.lan,
        }
    }

    /// For people: why a side has rings, and which are missing.
    pub(super) fn describe(&self, of_lan: bool) -> String {
        let reason = if of_lan { &self.lan.reason } else { &self.wan.reason };
        let lost = self.places.iter().filter_map(|place| Some((place, place.lost.as_ref()?)));
        lost.filter(|(place, _)| place.role.is_lan() == of_lan).fold(reason.clone(), |text, (place, lost)| {
            format!("{text}; {} has no rings at present: {}", place.interface.name, lost.why)
        })
    }
}

impl Role {
    fn is_lan(&self) -> bool {
        matches!(self, Self::Lan(_))
    }
}

impl Control {
    /// Tells the steering program port, addresses and sockets, and attaches it to all interfaces.
    ///
    /// # Errors
    /// What the kernel refused, with the way out. Where nobody asked for rings, an interface that refuses the program goes
    /// without them.
    pub fn begin_steering(&mut self) -> anyhow::Result<()> {
        self.steer_addresses();
        let port = self.driver.socket.port();
        let mtu = self.driver.mtu();
        if let Some(steer) = &mut self.driver.steer {
            if let Some(bytes) = self.rings.packet_len_max(&self.facts.rings) {
                steer.set_packet_len_max(bytes);
            }
            steer.set_tunnel_mtu(mtu)?;
            steer.set_port(port)?;
        }
        for at in 0..self.rings.places.len() {
            match self.steer_to(at) {
                Err(error) if self.rings.options(at).optional => {
                    self.lose_rings(at, format!("{error:#}"), Instant::now());
                }
                result => result?,
            }
        }
        self.following.doubt(News::ALL, Instant::now());
        self.follow_lan(Instant::now());
        Ok(())
    }

    /// Gives an interface's sockets to the steering program and attaches it.
    fn steer_to(&mut self, at: usize) -> anyhow::Result<()> {
        let Self { driver, facts, rings, .. } = self;
        let Some(steer) = &mut driver.steer else { return Ok(()) };
        let Place { interface, role, .. } = &rings.places[at];
        if let Role::Lan(port) = role {
            let mac = driver.network.link(port.link).and_then(|link| link.mac).context("the lan interface is gone")?;
            let lan = LanInterface { if_index: interface.index, mac, vlan: port.vlan, wan: false };
            steer.set_lan_interface(lan)?;
        }
        let sockets: Vec<&Ring> = facts.rings.iter().filter(|ring| ring.if_index == interface.index).collect();
        for ring in &sockets {
            steer.bind_socket(ring.if_index, ring.queue, ring.socket.as_fd())?;
        }
        let attached = steer.attach(interface.index, &interface.name, rings.options(at).rings.xdp_mode)?;
        if let Some(reason) = &attached.fallback_reason {
            tracing::warn!(interface = interface.name, reason, "XDP runs in generic mode");
        }
        let bound: Vec<Bound> = sockets.iter().map(|ring| ring.bound).collect();
        let zero_copy = !bound.is_empty() && bound.iter().all(|ring| ring.zero_copy);
        let multi_buffer = !bound.is_empty() && bound.iter().all(|ring| ring.multi_buffer);
        let of_wan = !role.is_lan();
        let checksums = of_wan.then(|| checksum_offload::describe(&rings.wan.rings, interface, &bound));
        let shown = if role.is_lan() { &mut facts.lan.interfaces } else { &mut facts.wan.interfaces };
        shown.push(InterfaceStatus {
            name: interface.name.clone(),
            driver: interface.driver.clone(),
            xdp_mode: attached.mode.label().to_owned(),
            copy_mode: if zero_copy { "zero-copy" } else { "copy" }.to_owned(),
            queues: u32::try_from(bound.len()).unwrap_or(u32::MAX),
            multi_buffer,
            multi_buffer_reason: rings.why_buffers(at, multi_buffer),
            checksums,
        });
        Ok(())
    }

    /// Gives up rings whose interface is gone, and binds those again whose interface is back.
    pub(super) fn look_at_rings(&mut self, now: Instant) {
        for at in 0..self.rings.places.len() {
            self.follow_name(at);
            let Place { interface, lost, .. } = &self.rings.places[at];
            match lost {
                None if self.driver.network.links().all(|link| link.index != interface.index) => {
                    self.lose_rings(at, "the interface is gone".to_owned(), now);
                }
                None => self.look_at_attachment(at, now),
                Some(lost) if lost.retry <= now => self.regain_rings(at, now),
                Some(_) => {}
            }
        }
    }

    /// An interface with rings may be given another name, by which it is shown and found again from then on.
    fn follow_name(&mut self, at: usize) {
        let Self { driver, facts, rings, .. } = self;
        let Place { interface, lost, role, .. } = &mut rings.places[at];
        if let Role::Lan(port) = role
            && let Some(link) = driver.network.links().find(|link| link.index == port.link && lost.is_none())
        {
            port.name.clone_from(&link.name);
        }
        let Some(link) = driver.network.links().find(|link| link.index == interface.index && lost.is_none()) else {
            return;
        };
        if link.name == interface.name {
            return;
        }
        let shown = if role.is_lan() { &mut facts.lan.interfaces } else { &mut facts.wan.interfaces };
        for shown in shown.iter_mut().filter(|shown| shown.name == interface.name) {
            shown.name.clone_from(&link.name);
        }
        for ring in facts.rings.iter_mut().filter(|ring| ring.if_index == interface.index) {
            ring.interface.clone_from(&link.name);
        }
        interface.name.clone_from(&link.name);
    }

    /// A lane could not send by its rings of a side.
    pub(super) fn doubt_rings(&mut self, of_lan: bool, error: &io::Error, now: Instant) {
        if let Err(error) = self.driver.network.read_links() {
            tracing::warn!(%error, "cannot read the interfaces of this host");
        }
        self.look_at_rings(now);
        for at in 0..self.rings.places.len() {
            let Place { interface, lost, role, .. } = &self.rings.places[at];
            let up = self.driver.network.links().any(|link| link.index == interface.index && link.up);
            if lost.is_none() && up && role.is_lan() == of_lan {
                self.lose_rings(at, error.to_string(), now);
            }
        }
    }

    pub(super) fn lose_rings(&mut self, at: usize, why: String, now: Instant) {
        let place = &mut self.rings.places[at];
        let (index, name) = (place.interface.index, &place.interface.name);
        let of_lan = place.role.is_lan();
        match of_lan {
            false => tracing::warn!(
                interface = name,
                why,
                "wan rings are lost: packets take the kernel's socket until they are back"
            ),
            true => {
                tracing::warn!(interface = name, why, "lan rings are lost: packets take the TUN until they are back");
            }
        }
        // An interface that is there needs a moment; one that is gone tells when it comes back.
        let there = self.driver.network.links().any(|link| link.index == index);
        if now.saturating_duration_since(place.since) >= STEADY {
            place.failures = 0;
        }
        place.lost = Some(Lost { why, retry: if there { now + retry_after(place.failures) } else { now } });
        place.failures = place.failures.saturating_add(1);
        match of_lan {
            false => self.facts.wan.rings_lost += 1,
            true => self.facts.lan.rings_lost += 1,
        }
        self.give_up(at);
    }

    /// Takes an interface's rings from the lanes, and the interface from the steering program.
    fn give_up(&mut self, at: usize) {
        let Self { driver, facts, rings, .. } = self;
        let if_index = rings.places[at].interface.index;
        driver.ground.ringed.retain(|ringed| *ringed != if_index);
        if let Some(steer) = &mut driver.steer {
            let mut done = steer.detach(if_index);
            for ring in facts.rings.iter().filter(|ring| ring.if_index == if_index) {
                done = done.and(steer.unbind_socket(if_index, ring.queue));
            }
            done = done.and(steer.remove_lan_interface(if_index));
            if let Err(error) = done {
                tracing::debug!(%error, "taking an interface from the steering program");
            }
        }
        facts.rings.retain(|ring| ring.if_index != if_index);
        let of_lan = rings.places[at].role.is_lan();
        let shown = if of_lan { &mut facts.lan.interfaces } else { &mut facts.wan.interfaces };
        shown.retain(|interface| interface.name != rings.places[at].interface.name);
        match of_lan {
            false => {
                facts.wan.reason = rings.describe(false);
                driver.tell_lanes(|| Command::WanRings { if_index, rings: Vec::new() });
                driver.doubt_paths();
            }
            true => {
                facts.lan.reason = rings.describe(true);
                driver.tell_lanes(|| Command::LanRings { if_index, rings: Vec::new() });
                self.following.doubt(News::ALL, Instant::now());
            }
        }
    }

    fn regain_rings(&mut self, at: usize, now: Instant) {
        let name = match &self.rings.places[at].role {
            Role::Wan => self.rings.places[at].interface.name.clone(),
            Role::Lan(port) => port.name.clone(),
        };
        // While nothing has come back, or it is down, news of it will say when that changes.
        if !self.driver.network.links().any(|link| link.name == name && link.up) {
            return;
        }
        match self.try_regain(at, &name) {
            Ok(()) => {
                tracing::info!(interface = name, "rings are back");
                self.rings.places[at].lost = None;
                self.rings.places[at].since = now;
                self.facts.wan.reason = self.rings.describe(false);
                self.facts.lan.reason = self.rings.describe(true);
                self.driver.doubt_paths();
                self.following.doubt(News::ALL, now);
            }
            Err(error) => {
                let why = format!("{error:#}");
                if self.rings.places[at].lost.as_ref().is_some_and(|lost| lost.why != why) {
                    tracing::warn!(interface = name, why, "rings cannot be bound again yet");
                }
                let place = &mut self.rings.places[at];
                place.lost = Some(Lost { why, retry: now + retry_after(place.failures) });
                place.failures = place.failures.saturating_add(1);
                self.give_up(at);
            }
        }
    }

    fn try_regain(&mut self, at: usize, name: &str) -> anyhow::Result<()> {
        let (interface, port) = match &self.rings.places[at].role {
            Role::Wan => (steer::interface_by_name(name).context("the interface cannot be looked at")?, None),
            Role::Lan(_) => {
                let port = lan::port(name, &mut self.driver.network.netlink)?;
                (port.ringed.clone(), Some(port))
            }
        };
        let if_index = interface.index;
        let mut sockets: Vec<Vec<Xsk>> = self.rings.memories.iter().map(|_| Vec::new()).collect();
        for (number, config) in wan::rings_of(&self.rings.options(at).rings, &interface).enumerate() {
            let lane = number % sockets.len().max(1);
            let Some(memory) = self.rings.memories.get(lane) else { break };
            let socket = Xsk::open(&config, memory)?;
            self.facts.rings.push(Ring {
                interface: interface.name.clone(),
                if_index,
                queue: config.queue,
                bound: socket.bound(),
                socket: socket.as_fd().try_clone_to_owned()?,
            });
            sockets[lane].push(socket);
        }
        let place = &mut self.rings.places[at];
        place.interface = interface;
        let of_lan = port.is_some();
        if let Some(port) = port {
            place.role = Role::Lan(port);
        }
        // The lanes serve the rings before anything is steered into them.
        for (link, sockets) in self.driver.lanes().iter().zip(sockets) {
            let sockets = sockets.into_iter();
            let command = match of_lan {
                false => Command::WanRings { if_index, rings: sockets.map(|s| WanXdp::new(if_index, s)).collect() },
                true => Command::LanRings { if_index, rings: sockets.map(|s| LanXdp::new(if_index, s)).collect() },
            };
            if link.commands.push(command).is_err() {
                anyhow::bail!("a lane does not take its rings");
            }
            link.lane.wake();
        }
        let port = self.driver.socket.port();
        if let (Some(steer), Some(bytes)) = (&mut self.driver.steer, self.rings.packet_len_max(&self.facts.rings)) {
            steer.set_packet_len_max(bytes);
            steer.set_port(port)?;
        }
        self.steer_to(at)?;
        if !of_lan {
            self.driver.ground.ringed.push(if_index);
        }
        Ok(())
    }
}
