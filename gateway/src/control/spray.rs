//! The sockets of a search for a NAT's port: many for a moment, and the one that was heard for as long as its path lives.
//!
//! 1. The endpoint wants sockets ([`landbridge_proto::Event::SprayWanted`]); as many are opened as descriptors allow.
//! 2. It sends a probe from each ([`landbridge_proto::SPRAY_SLOT`] and after); what comes to them is read as what comes to the
//!    listen port.
//! 3. The first that an authentic message of the peer came to answers: what the endpoint sends to that place leaves from it.
//!    Searches for several peers at the same time share the sockets: a NAT has another port for each of their places.
//! 4. At the end the others are closed, and that one becomes a source port beside the configured ones: lanes send from it
//!    whatever goes by that path.
//!
//! Enters: wishes, datagrams. Leaves: sockets for the lanes, datagrams. Never does: hold more than [`SOCKETS_MAX`] sockets for
//! longer than [`LASTS`], or believe a datagram that no session vouches for.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::time::{Duration, Instant};

use landbridge_proto::{PeerId, SPRAY_SLOT};
use rustix::event::epoll;
use rustix::process::{Resource, getrlimit};

use super::driver::Driver;
use super::paths::Network;
use super::sockets::ControlSocket;
use super::{Control, source_ports, watch};
use crate::datapath::report::Command;

/// Sockets of one search.
pub const SOCKETS_MAX: u16 = 256;
/// Peers that are searched for by the same sockets.
const PARTIES_MAX: usize = 8;
/// A search that nobody ends is over by then.
const LASTS: Duration = Duration::from_secs(5);
/// Source ports that searches found, at the same time.
const KEPT_MAX: usize = 64;
/// Descriptors that are left for everything else.
const DESCRIPTORS_SPARED: u64 = 64;
/// Sockets read in one round, and reads of each.
const SOCKETS_AT_ONCE: usize = 32;
const READS: usize = 4;

/// The searches under way, and what earlier ones found.
#[derive(Debug, Default)]
pub struct Sprays {
    running: Option<Search>,
    kept: Vec<Kept>,
    /// Grows with every search that begins or ends.
    generation: u64,
}

#[derive(Debug)]
struct Search {
    sockets: Vec<ControlSocket>,
    /// Readable when any of them is.
    ready: OwnedFd,
    until: Instant,
    parties: Vec<Party>,
}

/// A peer that is searched for.
#[derive(Debug)]
struct Party {
    peer: PeerId,
    remote: SocketAddr,
    /// The one that the peer was heard at.
    heard: Option<u16>,
}

/// A source port that a search found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Kept {
    peer: PeerId,
    remote: SocketAddr,
    /// Its place among the source ports, from 1 on.
    slot: u8,
}

impl Sprays {
    /// When the search under way has to end.
    #[must_use]
    pub fn due(&self) -> Option<Instant> {
        self.running.as_ref().map(|search| search.until)
    }

    /// What is readable when something came to a search's sockets, and the number of that search.
    #[must_use]
    pub fn ready(&self) -> (u64, Option<&OwnedFd>) {
        (self.generation, self.running.as_ref().map(|search| &search.ready))
    }

    /// The source port that a peer is reached from at a place, where a search found one.
    #[must_use]
    pub fn slot_of(&self, peer: PeerId, remote: SocketAddr) -> u8 {
        self.kept.iter().find(|kept| kept.peer == peer && kept.remote == remote).map_or(0, |kept| kept.slot)
    }

    /// The socket of a place that [`landbridge_proto::Transmit`] names, or that a peer was heard at.
    pub(super) fn socket(&self, peer: Option<PeerId>, remote: SocketAddr, slot: u16) -> Option<&ControlSocket> {
        let search = self.running.as_ref()?;
        let place = match slot {
            0 => search.parties.iter().find(|party| Some(party.peer) == peer && party.remote == remote)?.heard?,
            SPRAY_SLOT.. => slot - SPRAY_SLOT,
            _ => return None,
        };
        search.sockets.get(usize::from(place))
    }

    /// A session vouches for what came to a socket.
    pub(super) fn note_heard(&mut self, peer: PeerId, remote: SocketAddr, slot: u16) {
        self.note(remote, slot, |party| party.peer == peer);
    }

    /// The response to a handshake of ours came to a socket.
    fn note_answered(&mut self, remote: SocketAddr, slot: u16) {
        self.note(remote, slot, |_| true);
    }

    fn note(&mut self, remote: SocketAddr, slot: u16, is_it: impl Fn(&Party) -> bool) {
        let (Some(search), Some(place)) = (&mut self.running, slot.checked_sub(SPRAY_SLOT)) else { return };
        let mut parties = search.parties.iter_mut();
        if let Some(party) = parties.find(|party| party.remote == remote && is_it(party)) {
            party.heard.get_or_insert(place);
        }
    }
}

/// How many sockets may be opened: within the limit of descriptors, less what is in use and spared.
fn affordable(wanted: u16) -> u16 {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let used = std::fs::read_dir("/proc/self/fd").map_or(0, |entries| entries.count() as u64);
    let free = limit.saturating_sub(used).saturating_sub(DESCRIPTORS_SPARED);
    wanted.min(SOCKETS_MAX).min(u16::try_from(free).unwrap_or(u16::MAX))
}

fn open(count: u16, mark: Option<u32>) -> anyhow::Result<(Vec<ControlSocket>, OwnedFd)> {
    let ready = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let mut sockets = Vec::with_capacity(usize::from(count));
    for place in 0..u64::from(count) {
        let socket = ControlSocket::on_free_port(mark)?;
        epoll::add(&ready, socket.as_fd(), epoll::EventData::new_u64(place), epoll::EventFlags::IN)?;
        sockets.push(socket);
    }
    Ok((sockets, ready))
}

impl<N: Network> Driver<N> {
    /// Opens the sockets of a search, unless there are some. Beyond so many peers at a time there are none: what the endpoint
    /// sends goes nowhere, and it searches again another time.
    pub(super) fn begin_spray(&mut self, peer: PeerId, remote: SocketAddr, wanted: u16, now: Instant) {
        let (party, until) = (Party { peer, remote, heard: None }, now + LASTS);
        if let Some(search) = &mut self.sprays.running {
            search.parties.retain(|party| party.peer != peer);
            if search.parties.len() < PARTIES_MAX {
                (search.until, _) = (until, search.parties.push(party));
            } else {
                tracing::debug!(peer = peer.slot, "searches for the ports of many other peers are under way");
            }
            return;
        }
        match open(affordable(wanted), self.ground.mark) {
            Ok((sockets, ready)) if !sockets.is_empty() => {
                tracing::debug!(peer = peer.slot, sockets = sockets.len(), "searching for the port of a NAT");
                self.sprays.running = Some(Search { sockets, ready, until, parties: vec![party] });
                self.sprays.generation += 1;
            }
            Ok(_) => tracing::warn!("no descriptors are left to search for the port of a NAT (LimitNOFILE)"),
            Err(error) => tracing::warn!("no sockets to search for the port of a NAT: {error:#}"),
        }
    }

    /// Ends the search for a peer: `keep`, or the socket that the peer was heard at, stays. With the last peer the others are
    /// closed.
    pub(super) fn end_spray(&mut self, peer: PeerId, keep: Option<u16>) {
        let Some(search) = &mut self.sprays.running else { return };
        let Some(at) = search.parties.iter().position(|party| party.peer == peer) else { return };
        let Party { remote, heard, .. } = search.parties.swap_remove(at);
        // What a session vouches for goes before where its handshake came.
        let place = heard.or(keep.and_then(|slot| slot.checked_sub(SPRAY_SLOT))).map(usize::from);
        let socket = place.and_then(|place| search.sockets.get(place)?.again().ok());
        if search.parties.is_empty() {
            self.sprays.running = None;
            self.sprays.generation += 1;
        }
        let Some(socket) = socket else { return };
        self.forget_sprays(|kept| kept.peer == peer);
        if self.sprays.kept.len() >= KEPT_MAX {
            self.forget_sprays_left();
        }
        let Some(slot) = self.keep(socket) else { return };
        self.sprays.kept.push(Kept { peer, remote, slot });
        tracing::debug!(peer = peer.slot, slot, "a port that a search found is kept");
        if self.peer(peer).and_then(|state| state.endpoint).is_some_and(|(endpoint, _)| endpoint == remote) {
            // What is sent there leaves from that port at once.
            self.doubt_path(peer);
            self.find_paths();
        }
    }

    /// A search that nobody ended, and what was kept for peers that are gone.
    pub(super) fn run_sprays(&mut self, now: Instant) {
        if let Some(search) = &self.sprays.running
            && search.until <= now
        {
            let peers: Vec<_> = search.parties.iter().map(|party| party.peer).collect();
            for peer in peers {
                self.end_spray(peer, None);
            }
        }
    }

    /// Gives up what was kept; the sockets stay at their places until others need them.
    fn forget_sprays(&mut self, which: impl Fn(&Kept) -> bool) {
        self.sprays.kept.retain(|kept| !which(kept));
    }

    /// There is no room for more: those go whose peers are reached elsewhere.
    fn forget_sprays_left(&mut self) {
        let kept = std::mem::take(&mut self.sprays.kept);
        let is_used = |kept: &Kept| {
            let endpoint = self.peer(kept.peer).and_then(|state| state.endpoint);
            endpoint.is_some_and(|(endpoint, _)| endpoint == kept.remote)
        };
        self.sprays.kept = kept.into_iter().filter(is_used).collect();
    }

    /// The peer is gone.
    pub(super) fn forget_sprays_of(&mut self, peer: PeerId) {
        self.end_spray(peer, None);
        self.forget_sprays(|kept| kept.peer == peer);
    }

    /// Makes a socket a source port of lanes and control task: at a place that nobody needs any more, or behind the last.
    fn keep(&mut self, socket: ControlSocket) -> Option<u8> {
        let first = self.configured_ports;
        let in_use = |place: &usize| self.sprays.kept.iter().any(|kept| usize::from(kept.slot) == place + 1);
        let place = (first..self.ports.len()).find(|place| !in_use(place)).unwrap_or(self.ports.len());
        let slot = u8::try_from(place + 1).ok().filter(|_| place < first + KEPT_MAX)?;
        for lane in self.lanes() {
            let Ok(handle) = socket.for_lane() else { return None };
            if lane.commands.push(Command::Port { slot, socket: handle }).is_ok() {
                lane.lane.wake();
            }
        }
        let mut ports = self.tables.source_ports.to_vec();
        match self.ports.get_mut(place) {
            Some(old) => {
                ports[place] = socket.port();
                *old = socket;
            }
            None => {
                ports.push(socket.port());
                self.ports.push(socket);
            }
        }
        self.tables.source_ports = ports.into();
        self.note_ports();
        Some(slot)
    }

    /// Reads what came to the sockets of a search.
    pub(super) fn receive_spray(&mut self, now: Instant) {
        let Some(mut search) = self.sprays.running.take() else { return };
        let mut answered = Vec::new();
        let mut events =
            [epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) }; SOCKETS_AT_ONCE];
        let count = epoll::wait(&search.ready, &mut events, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 }));
        for event in &events[..count.unwrap_or(0)] {
            let place = event.data.u64() as u16;
            if let Some(socket) = search.sockets.get_mut(usize::from(place)) {
                for _ in 0..READS {
                    if !self.receive_from(socket, SPRAY_SLOT + place, now, &mut answered) {
                        break;
                    }
                }
            }
        }
        self.sprays.running = Some(search);
        for (remote, slot) in answered {
            self.sprays.note_answered(remote, slot);
        }
    }
}

impl Control {
    /// Watches the sockets of the search under way, and source ports that searches found.
    pub(super) fn watch_sprays(&mut self) {
        let (number, ready) = self.driver.sprays.ready();
        if self.spray.0 != number {
            let watched = ready.and_then(|ready| watch(ready.try_clone().ok()?).ok());
            self.spray = (number, watched);
        }
        if self.ports_watched != self.driver.ports_generation {
            self.ports_watched = self.driver.ports_generation;
            let all = source_ports::watch(&self.driver.ports).ok().flatten();
            self.source_ports = all.and_then(|all| watch(all).ok());
        }
    }
}

#[cfg(test)]
mod tests;
