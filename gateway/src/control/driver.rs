//! Between the protocol and the world.
//!
//! 1. Something happens: a datagram, a report of a lane, a change of configuration, a time that has come.
//! 2. The endpoint decides. [`Driver::settle`] takes its events into the next snapshot, tells the steering program of
//!    sessions that begin, publishes once, tells it of sessions that ended, and only then sends what is to be sent.
//! 3. Paths that may have changed are found again, a bounded number at a time (`ways`).
//!
//! Enters: the endpoint's events and transmits, the kernel's routes. Leaves: snapshots, commands to lanes, datagrams.
//! Never does: wait.

mod settle;
mod ways;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use landbridge_proto::{DropReason, Endpoint, PathReason, PeerId, ReceiverIndex, SPRAY_SLOT, WallClock};

use super::paths::uplinks::Uplink;
use super::paths::{Ground, Network, Way};
use super::relay::table::Relays;
use super::sockets::{ControlSocket, Received};
use super::spray::Sprays;
use crate::datapath::lan_table::LanTable;
use crate::datapath::report::{Command, ControlDatagram, Link, Report};
use crate::datapath::tables::{PeerEntry, Published, Tables};
use crate::nat::kind::Observation;
use crate::nat::outlook::Outlook;
use crate::nat::stun;
use crate::nat::survey::TUNNEL;
use crate::settings::EndpointName;
use crate::steer::Steer;

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
    /// What STUN servers say of us.
    pub outlook: Outlook,
    /// Where peers saw us: each at the place where it is reached, and (`true`) at another one.
    pub(super) observations: BTreeMap<(PeerId, bool), Observation>,
    /// Some of that is news.
    pub(super) observed_more: bool,
    /// How many of those are configured; behind them are those that searches found.
    pub(super) configured_ports: usize,
    /// Grows when [`Driver::ports`] are others.
    pub(super) ports_generation: u64,
    /// Searches for NATs' ports.
    pub sprays: Sprays,
    /// The steering program, with XDP.
    pub steer: Option<Steer>,
    /// Forwarding between peers.
    pub relays: Option<Relays>,
    /// Packets that the control task dropped, by reason.
    pub drops: [u64; DropReason::COUNT],
    /// How often another path came into use, by reason.
    pub path_changes: BTreeMap<PathReason, u64>,
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
    /// Datagrams of the endpoint, one at a time.
    buffer: Box<[u8]>,
    /// The place that was tried last in this batch, and the uplink to it.
    tried: Option<Tried>,
}

impl<N: Network> Driver<N> {
    /// A driver that publishes into `published`; its lanes are added when they run.
    pub fn new(endpoint: Endpoint, network: N, ground: Ground, socket: ControlSocket, published: Published) -> Self {
        let mut tables = Tables::clone(&published.load());
        tables.listen_port = socket.port();
        let outlook = Outlook::new(socket.port());
        Self {
            endpoint,
            network,
            ground,
            socket,
            ports: Vec::new(),
            configured_ports: 0,
            ports_generation: 0,
            sprays: Sprays::default(),
            outlook,
            observations: BTreeMap::new(),
            observed_more: false,
            steer: None,
            relays: None,
            drops: [0; DropReason::COUNT],
            path_changes: PathReason::ALL.into_iter().map(|reason| (reason, 0)).collect(),
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
            buffer: vec![0; Endpoint::MAX_TRANSMIT].into(),
            tried: None,
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

    /// The next snapshot differs from the last.
    pub(super) fn set_dirty(&mut self) {
        self.dirty = true;
    }

    /// Another control socket, after the listen port changed.
    pub fn set_socket(&mut self, socket: ControlSocket) {
        self.tables.listen_port = socket.port();
        self.socket = socket;
        self.dirty = true;
    }

    /// Reads datagrams of the control task's socket, at most `limit` reads. True when more may wait.
    pub fn receive(&mut self, now: Instant, limit: usize) -> bool {
        self.receive_at(0, now, limit)
    }

    /// [`Driver::receive`] from the source port at a place.
    pub(super) fn receive_at(&mut self, slot: usize, now: Instant, limit: usize) -> bool {
        let Self { endpoint, outlook, socket, ports, lanes, drops, .. } = self;
        let Some(socket) = std::iter::once(socket).chain(ports).nth(slot) else { return false };
        let mut inbox = Inbox { endpoint, outlook, lanes, drops };
        (0..limit).all(|_| inbox.read(socket, slot as u16, now, |_| ()))
    }

    /// Reads once from a socket of a search. True when more may wait; `answered` gets where an authentic response to a
    /// handshake of ours came from.
    pub(super) fn receive_from(
        &mut self,
        socket: &mut ControlSocket,
        slot: u16,
        now: Instant,
        answered: &mut Vec<(SocketAddr, u16)>,
    ) -> bool {
        let Self { endpoint, outlook, lanes, drops, .. } = self;
        let mut inbox = Inbox { endpoint, outlook, lanes, drops };
        inbox.read(socket, slot, now, |remote| answered.push((remote, slot)))
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
                let ControlDatagram { remote, local, bytes, .. } = datagram;
                let outcome = if stun::is_stun(&bytes) {
                    self.outlook.client.handle_datagram(now, TUNNEL, remote, local, &bytes)
                } else {
                    self.endpoint.handle_datagram(now, wall, remote, local, &bytes)
                };
                if let Err(reason) = outcome {
                    self.drops[reason as usize] += 1;
                }
            }
            Report::Channel { peer, remote, local, slot, packet } => {
                self.sprays.note_heard(peer, remote, slot);
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

    /// Sends every lane a command.
    pub fn tell_lanes(&self, command: impl Fn() -> Command) {
        for lane in &self.lanes {
            if lane.commands.push(command()).is_ok() {
                lane.lane.wake();
            }
        }
    }
}

/// The type of the message that answers a handshake.
const RESPONSE: u8 = 2;

/// A host and an address of ours, and by which uplink they are reached, if at all.
type Tried = ((SocketAddr, Option<IpAddr>), Option<Uplink>);

/// Who takes what came to a socket.
struct Inbox<'d> {
    endpoint: &'d mut Endpoint,
    outlook: &'d mut Outlook,
    lanes: &'d [Link],
    drops: &'d mut [u64; DropReason::COUNT],
}

impl Inbox<'_> {
    /// Reads once. True when more may wait. `answered` is told from where a handshake of ours was answered.
    fn read(
        &mut self,
        socket: &mut ControlSocket,
        slot: u16,
        now: Instant,
        mut answered: impl FnMut(SocketAddr),
    ) -> bool {
        let wall = WallClock(SystemTime::now());
        let result = socket.receive(|received| {
            let Received { remote, local, bytes } = received;
            let outcome = if bytes.first() == Some(&TRANSPORT_DATA) {
                to_lane(self.lanes, received, slot)
            } else if stun::is_stun(bytes) && slot < SPRAY_SLOT {
                self.outlook.client.handle_datagram(now, slot as u8, remote, local, bytes)
            } else {
                let search = if slot >= SPRAY_SLOT { slot } else { 0 };
                let outcome = self.endpoint.handle_datagram_at(now, wall, (remote, local, search), bytes);
                if outcome.is_ok() && bytes.first() == Some(&RESPONSE) {
                    answered(remote);
                }
                outcome
            };
            if let Err(reason) = outcome {
                self.drops[reason as usize] += 1;
                tracing::trace!(%remote, reason = reason.label(), "dropped");
            }
        });
        result.unwrap_or_else(|error| {
            tracing::debug!(%error, "receiving on the control socket");
            false
        })
    }
}

/// Transport data that the kernel coalesced with other datagrams: any lane can open it; one flow stays with one lane.
fn to_lane(lanes: &[Link], received: Received<'_>, slot: u16) -> Result<(), DropReason> {
    let Received { remote, local, bytes } = received;
    if lanes.is_empty() {
        return Err(DropReason::ControlQueueFull);
    }
    let lane = &lanes[usize::from(remote.port()) % lanes.len()];
    let command = Command::Data { remote, local, slot, bytes: bytes.into() };
    lane.commands.push(command).map_err(|_| DropReason::ControlQueueFull)?;
    lane.lane.wake();
    Ok(())
}

impl<N> std::fmt::Debug for Driver<N> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Driver").field("ground", &self.ground).field("peers", &self.peers.len()).finish_non_exhaustive()
    }
}
