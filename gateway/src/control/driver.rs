//! Between the protocol and the world.
//!
//! 1. Something happens: a datagram, a report of a lane, a change of configuration, a time that has come.
//! 2. The endpoint decides. [`Driver::settle`] takes its events into the next snapshot, tells the steering program of
//!    sessions that begin, publishes once, tells it of sessions that ended, and only then sends what is to be sent.
//! 3. Paths that may have changed are found again, a bounded number at a time.
//!
//! Enters: the endpoint's events and transmits, the kernel's routes. Leaves: snapshots, commands to lanes, datagrams.
//! Never does: wait.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use landbridge_proto::{DropReason, Endpoint, Event, PeerId, ReceiverIndex, Transmit, WallClock};

use super::paths::{self, Ground, Network, Way};
use super::sockets::{ControlSocket, Received};
use crate::datapath::lan_table::LanTable;
use crate::datapath::report::{Command, Link, Report};
use crate::datapath::tables::{PeerEntry, Published, Tables};
use crate::settings::EndpointName;
use crate::steer::Steer;

/// Paths found again at once, so that handshakes do not wait for 65,536 of them.
const PATHS_AT_ONCE: usize = 256;
/// Reports taken from one lane at once.
const REPORTS_AT_ONCE: usize = 512;
/// Transport data: the first byte of the message.
const TRANSPORT_DATA: u8 = 4;

/// Why a gateway ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// It was asked to.
    Asked(&'static str),
    /// Something that it cannot do without failed.
    Failed(String),
}

/// What the control task keeps of a peer beside the protocol.
#[derive(Debug, Clone)]
pub struct PeerState {
    /// Its name in the configuration.
    pub name: Option<String>,
    /// Its endpoint as written, when that is a host name.
    pub host: Option<EndpointName>,
    /// Where it is, and the address of ours it uses.
    pub endpoint: Option<(SocketAddr, Option<IpAddr>)>,
    /// How packets get there.
    pub way: Option<Way>,
}

/// Between the protocol and the world.
pub struct Driver<N> {
    /// The protocol.
    pub endpoint: Endpoint,
    /// The kernel's routes and neighbours.
    pub network: N,
    /// What all paths stand on.
    pub ground: Ground,
    /// The control task's socket.
    pub socket: ControlSocket,
    /// The sockets of further source ports, in their order.
    pub ports: Vec<ControlSocket>,
    /// The steering program, with XDP.
    pub steer: Option<Steer>,
    /// Packets that the control task dropped, by reason.
    pub drops: [u64; DropReason::COUNT],
    /// What a lane said of rings that fail, until somebody looks.
    pub wan_failed: Option<std::io::Error>,
    /// The same of the lan side.
    pub lan_failed: Option<std::io::Error>,
    /// Peers whose names are to be resolved (again).
    pub unresolved: BTreeSet<PeerId>,
    lanes: Vec<Link>,
    pub(super) tables: Tables,
    published: Published,
    dirty: bool,
    routes_version: Option<u64>,
    peers: BTreeMap<PeerId, PeerState>,
    stale: BTreeSet<PeerId>,
    ended: Vec<ReceiverIndex>,
}

impl<N: Network> Driver<N> {
    /// A driver that publishes into `published`; its lanes are added when they run.
    pub fn new(endpoint: Endpoint, network: N, ground: Ground, socket: ControlSocket, published: Published) -> Self {
        let mut tables = Tables::clone(&published.load());
        tables.listen_port = socket.port();
        Self {
            endpoint,
            network,
            ground,
            socket,
            ports: Vec::new(),
            steer: None,
            drops: [0; DropReason::COUNT],
            wan_failed: None,
            lan_failed: None,
            unresolved: BTreeSet::new(),
            lanes: Vec::new(),
            tables,
            published,
            dirty: true,
            routes_version: None,
            peers: BTreeMap::new(),
            stale: BTreeSet::new(),
            ended: Vec::new(),
        }
    }

    /// The lanes that are to be heard and told.
    pub fn set_lanes(&mut self, lanes: Vec<Link>) {
        self.lanes = lanes;
    }

    /// The lanes.
    #[must_use]
    pub fn lanes(&self) -> &[Link] {
        &self.lanes
    }

    /// What is kept of a peer.
    #[must_use]
    pub fn peer(&self, peer: PeerId) -> Option<&PeerState> {
        self.peers.get(&peer)
    }

    /// Notes a peer's name and host name.
    pub fn describe(&mut self, peer: PeerId, name: Option<String>, host: Option<EndpointName>) {
        let state = self.adopt(peer);
        state.name = name;
        state.host = host;
    }

    /// The state of a peer, made when it is not there yet; a snapshot has it from the next publication on.
    pub fn adopt(&mut self, peer: PeerId) -> &mut PeerState {
        if !self.peers.contains_key(&peer)
            && let Some(view) = self.endpoint.peer(peer)
        {
            let entry = PeerEntry {
                session: view.session.cloned(),
                channel_address: view.channel.map(|channel| channel.address),
                ..PeerEntry::new(peer, Arc::clone(view.shared))
            };
            self.tables.peers.set(peer.slot as usize, Some(Arc::new(entry)));
            self.dirty = true;
        }
        self.peers.entry(peer).or_insert(PeerState { name: None, host: None, endpoint: None, way: None })
    }

    /// The MTU in force.
    #[must_use]
    pub fn mtu(&self) -> u32 {
        self.tables.mtu
    }

    /// The tunnel interface's MTU changed.
    pub fn set_mtu(&mut self, mtu: u32) {
        if self.tables.mtu != mtu {
            self.tables.mtu = mtu;
            self.dirty = true;
            if let Some(steer) = &mut self.steer
                && let Err(error) = steer.set_tunnel_mtu(mtu)
            {
                tracing::warn!("packets of the lan may be too long for the tunnel: {error:#}");
            }
        }
    }

    /// Packets out of the tunnel leave on the lan by this table.
    pub fn set_lan(&mut self, table: LanTable) {
        self.tables.lan = table;
        self.dirty = true;
    }

    /// Another control socket, after the listen port changed.
    pub fn set_socket(&mut self, socket: ControlSocket) {
        self.tables.listen_port = socket.port();
        self.socket = socket;
        self.dirty = true;
    }

    /// Every path may have changed.
    pub fn doubt_paths(&mut self) {
        self.stale.extend(self.peers.iter().filter(|(_, state)| state.endpoint.is_some()).map(|(id, _)| *id));
    }

    /// Neighbours may have changed: only paths whose next hop has another Ethernet address than they use are doubted, as
    /// the kernel tells of every state that any neighbour passes through.
    pub fn doubt_next_hops(&mut self) {
        let mut resolved = BTreeMap::new();
        let Self { peers, network, stale, .. } = self;
        for (id, state) in peers.iter() {
            let Some(way) = &state.way else { continue };
            let Some(hop) = way.next_hop else { continue };
            let mac = *resolved.entry(hop).or_insert_with(|| network.neighbour(hop.0, hop.1));
            let wire = way.path.as_ref().and_then(|path| path.wire.as_ref());
            if mac.as_ref().map(|mac| &mac[..]) != wire.and_then(|wire| wire.ethernet.get(..6)) {
                stale.insert(*id);
            }
        }
    }

    /// Whether paths wait to be found again.
    #[must_use]
    pub fn has_doubts(&self) -> bool {
        !self.stale.is_empty()
    }

    /// A peer is here: its path is found at once.
    pub fn locate(&mut self, peer: PeerId, remote: SocketAddr, local: Option<IpAddr>) {
        self.adopt(peer).endpoint = Some((remote, local));
        self.find_path(peer);
    }

    /// Reads datagrams of the control task's socket, at most `limit` reads. True when more may wait.
    pub fn receive(&mut self, now: Instant, limit: usize) -> bool {
        self.receive_at(0, now, limit)
    }

    /// [`Driver::receive`] from the source port at a place.
    pub(super) fn receive_at(&mut self, slot: usize, now: Instant, limit: usize) -> bool {
        let Self { endpoint, socket, ports, lanes, drops, .. } = self;
        let Some(socket) = std::iter::once(socket).chain(ports).nth(slot) else { return false };
        for _ in 0..limit {
            let wall = WallClock(SystemTime::now());
            let result = socket.receive(|Received { remote, local, bytes }| {
                let outcome = if bytes.first() == Some(&TRANSPORT_DATA) {
                    to_lane(lanes, remote, local, bytes)
                } else {
                    endpoint.handle_datagram(now, wall, remote, local, bytes)
                };
                if let Err(reason) = outcome {
                    drops[reason as usize] += 1;
                    tracing::trace!(%remote, reason = reason.label(), "dropped");
                }
            });
            match result {
                Ok(true) => {}
                Ok(false) => return false,
                Err(error) => {
                    tracing::debug!(%error, "receiving on the control socket");
                    return false;
                }
            }
        }
        true
    }

    /// Takes reports of the lanes. Returns whether more may wait, whether any peer was active, and why to end.
    pub fn hear_lanes(&mut self, now: Instant) -> (bool, bool, Option<End>) {
        let (mut more, mut active, mut end) = (false, false, None);
        for lane in 0..self.lanes.len() {
            let reports = Arc::clone(&self.lanes[lane].reports);
            let mut taken = 0;
            while taken < REPORTS_AT_ONCE
                && let Some(report) = reports.pop()
            {
                taken += 1;
                active |= matches!(report, Report::Active(_));
                end = end.or(self.hear(now, report));
            }
            more |= taken == REPORTS_AT_ONCE;
        }
        (more, active, end)
    }

    fn hear(&mut self, now: Instant, report: Report) -> Option<End> {
        match report {
            Report::SessionWanted(peer) => self.endpoint.handle_session_wanted(now, peer),
            Report::Confirmed(index) => self.endpoint.handle_confirmed(now, index),
            Report::Roamed { peer, remote, local } => self.endpoint.handle_roamed(now, peer, remote, local),
            Report::Active(peer) => self.endpoint.handle_active(now, peer),
            Report::Datagram(datagram) => {
                let wall = WallClock(SystemTime::now());
                let outcome =
                    self.endpoint.handle_datagram(now, wall, datagram.remote, datagram.local, &datagram.bytes);
                if let Err(reason) = outcome {
                    self.drops[reason as usize] += 1;
                }
            }
            Report::Channel { peer, remote, local, packet } => {
                if let Err(reason) = self.endpoint.handle_channel(now, peer, remote, local, &packet) {
                    self.drops[reason as usize] += 1;
                    tracing::trace!(peer = peer.slot, reason = reason.label(), "dropped on the control channel");
                }
            }
            Report::LanGone => return Some(End::Asked("the tunnel interface is gone")),
            Report::WanFailed(error) => self.wan_failed = Some(error),
            Report::LanFailed(error) => self.lan_failed = Some(error),
            Report::LaneFailed(what) => return Some(End::Failed(what)),
        }
        None
    }

    /// Takes what the endpoint decided into the world. Called after every batch of inputs.
    pub fn settle(&mut self, now: Instant) {
        let mut buffer = [0; Endpoint::MAX_TRANSMIT];
        loop {
            while let Some(event) = self.endpoint.poll_event() {
                self.take(event);
            }
            self.publish();
            let wall = WallClock(SystemTime::now());
            let mut sent = false;
            while let Some(transmit) = self.endpoint.poll_transmit(now, wall, &mut buffer) {
                sent = true;
                self.send(&transmit, &buffer[..transmit.len]);
            }
            if !sent {
                return;
            }
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::SessionStarted { session, current } => {
                // Packets that reach the rings before the snapshot would be dropped there, so the program is told in the
                // same batch, before the peer can have heard of the session.
                if let Some(steer) = &mut self.steer
                    && let Err(error) = steer.insert_session(session.local_index)
                {
                    tracing::warn!(%error, "packets of a session will come by the kernel's socket");
                }
                self.tables.sessions.set(session.local_index.slot(), Some(Arc::clone(&session)));
                self.dirty = true;
                if current {
                    self.change_entry(session.peer, |entry| entry.session = Some(session));
                }
            }
            Event::SessionCurrent { session } => {
                self.change_entry(session.peer, |entry| entry.session = Some(session));
            }
            Event::SessionEnded { peer, index, was_current } => {
                if self.tables.session(index).is_some() {
                    self.tables.sessions.set(index.slot(), None);
                    self.dirty = true;
                }
                self.ended.push(index);
                if was_current {
                    self.change_entry(peer, |entry| entry.session = None);
                }
            }
            Event::EndpointChanged { peer, remote, local } => {
                self.locate(peer, remote, local);
            }
            Event::SpreadChanged { peer, spread } => {
                let ports = spread.as_ref().map_or(1, |spread| spread.slots().len());
                tracing::debug!(peer = peer.slot, ports, "source ports in use");
                self.change_entry(peer, |entry| entry.spread = spread);
            }
            Event::AlternatesChanged { peer, alternates } => {
                self.change_entry(peer, |entry| entry.alternates = alternates);
            }
            Event::HandshakeGivenUp { peer } => {
                tracing::debug!(peer = peer.slot, "handshake given up");
                self.tell_lanes(|| Command::Abandon(peer));
                self.want_name(peer);
            }
            Event::HandshakeRetried { peer, .. } => self.want_name(peer),
            Event::PeerRemoved { peer } => {
                self.peers.remove(&peer);
                self.stale.remove(&peer);
                self.unresolved.remove(&peer);
                if self.tables.peer(peer).is_some() {
                    self.tables.peers.set(peer.slot as usize, None);
                    self.dirty = true;
                }
                self.tell_lanes(|| Command::Abandon(peer));
            }
        }
    }

    fn want_name(&mut self, peer: PeerId) {
        if self.peers.get(&peer).is_some_and(|state| state.host.is_some()) {
            self.unresolved.insert(peer);
        }
    }

    fn change_entry(&mut self, peer: PeerId, change: impl FnOnce(&mut PeerEntry)) {
        self.adopt(peer);
        if let Some(entry) = self.tables.peer(peer) {
            let mut entry = PeerEntry::clone(entry);
            change(&mut entry);
            self.tables.peers.set(peer.slot as usize, Some(Arc::new(entry)));
            self.dirty = true;
        }
    }

    fn publish(&mut self) {
        let version = self.endpoint.allowed_ips_version();
        if self.routes_version != Some(version) {
            self.tables.routes = Arc::new(self.endpoint.allowed_ips().clone());
            self.routes_version = Some(version);
            self.dirty = true;
        }
        let channel_address = self.endpoint.channel_address();
        if self.tables.channel_address != channel_address {
            self.tables.channel_address = channel_address;
            self.dirty = true;
        }
        if self.dirty {
            self.published.store(Arc::new(self.tables.clone()));
            self.dirty = false;
        }
        let ended = std::mem::take(&mut self.ended);
        if let Some(steer) = &mut self.steer {
            for index in ended {
                // The slot may belong to another session by this time: the program compares whole indices.
                if let Err(error) = steer.remove_session(index) {
                    tracing::debug!(%error, "an ended session stays with the steering program");
                }
            }
        }
    }

    fn send(&mut self, transmit: &Transmit, bytes: &[u8]) {
        let Transmit { peer, remote, local, slot, .. } = *transmit;
        let way = peer.and_then(|peer| self.peers.get(&peer)?.way.as_ref());
        if way.is_some_and(|way| way.path.is_none()) {
            self.drops[DropReason::NoEndpoint as usize] += 1;
            return;
        }
        // The path knows whether the address of ours is still one.
        let local = way.map_or(local, |way| way.path.as_ref().and_then(|path| path.local));
        let socket = match slot {
            0 => Some(&self.socket),
            beside => self.ports.get(usize::from(beside) - 1),
        };
        if let Some(Err(error)) = socket.map(|socket| socket.send(remote, local, bytes)) {
            self.drops[DropReason::WanError as usize] += 1;
            tracing::debug!(%remote, %error, "sending a message of the protocol");
        }
    }

    /// Finds paths again that may have changed, a bounded number.
    pub fn find_paths(&mut self) {
        for _ in 0..PATHS_AT_ONCE {
            let Some(peer) = self.stale.pop_first() else { break };
            self.find_path(peer);
        }
    }

    fn find_path(&mut self, peer: PeerId) {
        self.stale.remove(&peer);
        let Some(state) = self.peers.get_mut(&peer) else { return };
        let Some((remote, local)) = state.endpoint else { return };
        let way = paths::find(&mut self.network, &self.ground, remote, local);
        if state.way.as_ref() == Some(&way) {
            return;
        }
        if way.path.is_none() {
            tracing::warn!(peer = state.name.as_deref().unwrap_or("unnamed"), "{}", way.text);
        } else {
            tracing::debug!(peer = peer.slot, %remote, path = way.text, "path");
        }
        let path = way.path.clone().map(Arc::new);
        state.way = Some(way);
        self.change_entry(peer, |entry| entry.path = path);
    }

    /// Keeps the next hops of paths in use resolved: rings do not tell the kernel that a neighbour is used.
    pub fn refresh_neighbours(&mut self) {
        let hops: BTreeSet<_> = self.peers.values().filter_map(|state| state.way.as_ref()?.next_hop).collect();
        for (if_index, address) in hops.into_iter().take(PATHS_AT_ONCE) {
            self.network.use_neighbour(if_index, address);
        }
    }

    /// The smallest MTU among the ways to the peers.
    #[must_use]
    pub fn path_mtu(&self) -> Option<u32> {
        self.peers.values().filter_map(|state| state.way.as_ref().map(|way| way.mtu)).filter(|mtu| *mtu > 0).min()
    }

    /// Sends every lane a command.
    pub fn tell_lanes(&self, command: impl Fn() -> Command) {
        for lane in &self.lanes {
            if lane.commands.push(command()).is_ok() {
                lane.lane.wake();
            }
        }
    }
}

/// Transport data that the kernel coalesced with other datagrams: any lane can open it; one flow stays with one lane.
fn to_lane(lanes: &[Link], remote: SocketAddr, local: Option<IpAddr>, bytes: &[u8]) -> Result<(), DropReason> {
    if lanes.is_empty() {
        return Err(DropReason::ControlQueueFull);
    }
    let lane = &lanes[usize::from(remote.port()) % lanes.len()];
    let command = Command::Data { remote, local, bytes: bytes.into() };
    lane.commands.push(command).map_err(|_| DropReason::ControlQueueFull)?;
    lane.lane.wake();
    Ok(())
}

impl<N> std::fmt::Debug for Driver<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("ground", &self.ground).field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}
