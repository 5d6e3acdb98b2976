//! The wan interfaces with rings: given to the steering program at start, given up when they go, bound again when they
//! come back.
//!
//! 1. An interface that vanishes, or whose rings fail while it is up, loses them: the lanes close them, paths by it take the
//!    kernel's socket, and the log, status and metrics say so.
//! 2. Once an interface of that name is there, its queues are bound to the same lanes' memory, the lanes get the rings,
//!    and the program is attached; a failure is tried again later.
//!
//! Enters: news of interfaces, failures of lanes. Leaves: commands to lanes, attachments. Never does: take the rings from an
//! interface that is merely down, as they work again when it is up.

use std::io;
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use landbridge_xsk::{Memory, Xsk};

use super::Control;
use super::report::Ring;
use super::wan::{self, Choice};
use crate::datapath::report::Command;
use crate::datapath::wan_xdp::{self, WanXdp};
use crate::settings::{self, WanBackend};
use crate::status::WanInterfaceStatus;
use crate::steer::{self, Interface};

/// How long after a loss or a failed attempt rings are bound again.
const RETRY: Duration = Duration::from_secs(5);

/// The wan interfaces with rings.
#[derive(Debug)]
pub struct Rings {
    wan: settings::Wan,
    /// Why rings were chosen.
    reason: String,
    /// Of the lanes that serve queues.
    memories: Vec<Memory>,
    places: Vec<Place>,
}

/// One interface.
#[derive(Debug)]
struct Place {
    interface: Interface,
    lost: Option<Lost>,
}

#[derive(Debug)]
struct Lost {
    why: String,
    retry: Instant,
}

impl Rings {
    /// What the start has bound.
    #[must_use]
    pub fn new(wan: settings::Wan, choice: &Choice, memories: Vec<Memory>) -> Self {
        let places = choice.interfaces.iter().map(|interface| Place { interface: interface.clone(), lost: None });
        Self { wan, reason: choice.reason.clone(), memories, places: places.collect() }
    }

    /// Bytes of the longest IP packet that every ring can receive: what is longer, the program leaves to the kernel.
    fn packet_len_max(&self) -> Option<usize> {
        self.memories.iter().map(|memory| wan_xdp::packet_len_max(memory.frame_size())).min()
    }

    /// For people: why there are rings, and which are missing.
    fn describe(&self) -> String {
        let lost = self.places.iter().filter_map(|place| Some((place, place.lost.as_ref()?)));
        lost.fold(self.reason.clone(), |text, (place, lost)| {
            format!("{text}; {} has no rings at present: {}", place.interface.name, lost.why)
        })
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
        if let Some(steer) = &mut self.driver.steer {
            if let Some(bytes) = self.rings.packet_len_max() {
                steer.set_packet_len_max(bytes);
            }
            steer.set_port(port)?;
        }
        for at in 0..self.rings.places.len() {
            match self.steer_to(at) {
                Err(error) if self.rings.wan.backend == WanBackend::Auto => {
                    self.lose_rings(at, format!("{error:#}"), Instant::now());
                }
                result => result?,
            }
        }
        Ok(())
    }

    /// Gives an interface's sockets to the steering program and attaches it.
    fn steer_to(&mut self, at: usize) -> anyhow::Result<()> {
        let Self { driver, facts, rings, .. } = self;
        let Some(steer) = &mut driver.steer else { return Ok(()) };
        let interface = &rings.places[at].interface;
        let sockets: Vec<&Ring> = facts.rings.iter().filter(|ring| ring.if_index == interface.index).collect();
        for ring in &sockets {
            steer.bind_socket(ring.if_index, ring.queue, ring.socket.as_fd())?;
        }
        let attached = steer.attach(interface.index, &interface.name, rings.wan.xdp_mode)?;
        if let Some(reason) = &attached.fallback_reason {
            tracing::warn!(interface = interface.name, reason, "XDP runs in generic mode");
        }
        let zero_copy = !sockets.is_empty() && sockets.iter().all(|ring| ring.zero_copy);
        facts.wan.interfaces.push(WanInterfaceStatus {
            name: interface.name.clone(),
            driver: interface.driver.clone(),
            xdp_mode: attached.mode.label().to_owned(),
            copy_mode: if zero_copy { "zero-copy" } else { "copy" }.to_owned(),
            queues: u32::try_from(sockets.len()).unwrap_or(u32::MAX),
        });
        Ok(())
    }

    /// Gives up rings whose interface is gone, and binds those again whose interface is back.
    pub(super) fn look_at_rings(&mut self, now: Instant) {
        for at in 0..self.rings.places.len() {
            self.follow_name(at);
            let Place { interface, lost } = &self.rings.places[at];
            match lost {
                None if self.driver.network.links().all(|link| link.index != interface.index) => {
                    self.lose_rings(at, "the interface is gone".to_owned(), now);
                }
                Some(lost) if lost.retry <= now => self.regain_rings(at, now),
                _ => {}
            }
        }
    }

    /// An interface with rings may be given another name, by which it is shown and found again from then on.
    fn follow_name(&mut self, at: usize) {
        let Self { driver, facts, rings, .. } = self;
        let Place { interface, lost } = &mut rings.places[at];
        let Some(link) = driver.network.links().find(|link| link.index == interface.index && lost.is_none()) else {
            return;
        };
        if link.name == interface.name {
            return;
        }
        for shown in facts.wan.interfaces.iter_mut().filter(|shown| shown.name == interface.name) {
            shown.name.clone_from(&link.name);
        }
        for ring in facts.rings.iter_mut().filter(|ring| ring.if_index == interface.index) {
            ring.interface.clone_from(&link.name);
        }
        interface.name.clone_from(&link.name);
    }

    /// A lane could not send by its rings.
    pub(super) fn doubt_rings(&mut self, error: &io::Error, now: Instant) {
        if let Err(error) = self.driver.network.read_links() {
            tracing::warn!(%error, "cannot read the interfaces of this host");
        }
        self.look_at_rings(now);
        for at in 0..self.rings.places.len() {
            let Place { interface, lost } = &self.rings.places[at];
            let up = self.driver.network.links().any(|link| link.index == interface.index && link.up);
            if lost.is_none() && up {
                self.lose_rings(at, error.to_string(), now);
            }
        }
    }

    fn lose_rings(&mut self, at: usize, why: String, now: Instant) {
        let place = &mut self.rings.places[at];
        let (index, name) = (place.interface.index, &place.interface.name);
        tracing::warn!(
            interface = name,
            why,
            "wan rings are lost: packets take the kernel's socket until they are back"
        );
        // An interface that is there needs a moment; one that is gone tells when it comes back.
        let there = self.driver.network.links().any(|link| link.index == index);
        place.lost = Some(Lost { why, retry: if there { now + RETRY } else { now } });
        self.facts.wan.rings_lost += 1;
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
            if let Err(error) = done {
                tracing::debug!(%error, "taking an interface from the steering program");
            }
        }
        facts.rings.retain(|ring| ring.if_index != if_index);
        facts.wan.interfaces.retain(|interface| interface.name != rings.places[at].interface.name);
        facts.wan.reason = rings.describe();
        driver.tell_lanes(|| Command::WanRings { if_index, rings: Vec::new() });
        driver.doubt_paths();
    }

    fn regain_rings(&mut self, at: usize, now: Instant) {
        let name = self.rings.places[at].interface.name.clone();
        // While nothing has come back, or it is down, news of it will say when that changes.
        if !self.driver.network.links().any(|link| link.name == name && link.up) {
            return;
        }
        match self.try_regain(at, &name) {
            Ok(()) => {
                tracing::info!(interface = name, "wan rings are back");
                self.rings.places[at].lost = None;
                self.facts.wan.reason = self.rings.describe();
                self.driver.doubt_paths();
            }
            Err(error) => {
                let why = format!("{error:#}");
                if self.rings.places[at].lost.as_ref().is_some_and(|lost| lost.why != why) {
                    tracing::warn!(interface = name, why, "wan rings cannot be bound again yet");
                }
                self.rings.places[at].lost = Some(Lost { why, retry: now + RETRY });
                self.give_up(at);
            }
        }
    }

    fn try_regain(&mut self, at: usize, name: &str) -> anyhow::Result<()> {
        let interface = steer::interface_by_name(name).context("the interface cannot be looked at")?;
        let if_index = interface.index;
        let Self { driver, facts, rings, .. } = self;
        let mut lanes: Vec<Vec<WanXdp>> = rings.memories.iter().map(|_| Vec::new()).collect();
        for (number, config) in wan::rings_of(&rings.wan, &interface).enumerate() {
            let lane = number % lanes.len().max(1);
            let Some(memory) = rings.memories.get(lane) else { break };
            let socket = Xsk::open(&config, memory)?;
            facts.rings.push(Ring {
                interface: name.to_owned(),
                if_index,
                queue: config.queue,
                zero_copy: socket.bound().zero_copy,
                socket: socket.as_fd().try_clone_to_owned()?,
            });
            lanes[lane].push(WanXdp::new(if_index, socket));
        }
        rings.places[at].interface = interface;
        // The lanes serve the rings before anything is steered into them.
        for (link, rings) in driver.lanes().iter().zip(lanes) {
            if link.commands.push(Command::WanRings { if_index, rings }).is_err() {
                anyhow::bail!("a lane does not take its rings");
            }
            link.lane.wake();
        }
        self.steer_to(at)?;
        self.driver.ground.ringed.push(if_index);
        Ok(())
    }
}
