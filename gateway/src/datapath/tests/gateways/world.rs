//! Two gateways without I/O: real lanes, real endpoints, and a driver that does what the control task's does.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use landbridge_proto::{DropReason, Endpoint, Event, PeerConfig, PeerId, WallClock};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::super::{Lane, MTU, MemoryLan, MemoryWan, link, memory, packet, path_to};
use crate::datapath::lane::Turn;
use crate::datapath::report::{Command, Link, Report};
use crate::datapath::side::Origin;
use crate::datapath::tables::{PeerEntry, Published, Tables};

/// Transport data: the first byte of the message.
const TRANSPORT_DATA: u8 = 4;
const DELAY: Duration = Duration::from_millis(10);

/// What the network does to datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weather {
    pub(super) loss_percent: u32,
    pub(super) duplicate_percent: u32,
    /// Beyond 10 ms, drawn for each datagram: so they overtake each other.
    pub(super) jitter_ms_max: u64,
}

/// A datagram under way: from where, to where, what.
type Datagram = (SocketAddr, SocketAddr, Vec<u8>);

/// One gateway with one peer.
pub(super) struct Gateway {
    pub(super) endpoint: Endpoint,
    pub(super) lane: Lane<MemoryWan, MemoryLan>,
    pub(super) address: SocketAddr,
    pub(super) peer: PeerId,
    /// Numbers of the inner packets that arrived.
    pub(super) arrived: Vec<u32>,
    /// When sessions began.
    pub(super) sessions: Vec<Instant>,
    /// Initiations that it sent.
    pub(super) initiations: usize,
    /// Datagrams that the endpoint refused.
    pub(super) refused: Vec<DropReason>,
    site: u8,
    tables: Tables,
    published: Published,
    link: Link,
    frames: (usize, usize),
    outbox: Vec<Datagram>,
}

fn private_key(site: u8) -> [u8; 32] {
    [site + 1; 32]
}

fn public_key(site: u8) -> [u8; 32] {
    let mut endpoint = Endpoint::new(Instant::now(), [0; 32]);
    endpoint.set_private_key(Some(private_key(site)), Instant::now());
    endpoint.public_key().expect("a key was set")
}

fn address(site: u8) -> SocketAddr {
    SocketAddr::new([192, 0, 2, site].into(), 51820)
}

impl Gateway {
    /// Site `site` has 10.`site`.0.0/16.
    fn new(start: Instant, site: u8, other: u8) -> Self {
        let mut endpoint = Endpoint::new(start, [site; 32]);
        endpoint.set_private_key(Some(private_key(site)), start);
        let config = PeerConfig {
            endpoint: Some(address(other)),
            allowed_ips: vec![format!("10.{other}.0.0/16").parse().expect("a prefix")],
            ..PeerConfig::default()
        };
        let peer = endpoint.add_peer(public_key(other), config, start).expect("room");
        let mut tables = Tables::new(MTU);
        tables.routes = Arc::new(endpoint.allowed_ips().clone());
        let view = endpoint.peer(peer).expect("it was added");
        let channel_address = view.channel.map(|channel| channel.address);
        let entry = PeerEntry { channel_address, ..PeerEntry::new(peer, Arc::clone(view.shared)) };
        tables.channel_address = endpoint.channel_address();
        tables.peers.set(peer.slot as usize, Some(Arc::new(entry)));
        let published: Published = Arc::new(ArcSwap::from_pointee(tables.clone()));
        let (mut pool, link) = (memory(), link());
        let frames = pool.free();
        let lane = Lane::alone(MemoryWan::default(), MemoryLan::default(), pool, Arc::clone(&published), link.clone());
        Self {
            endpoint,
            lane,
            address: address(site),
            peer,
            arrived: Vec::new(),
            sessions: Vec::new(),
            initiations: 0,
            refused: Vec::new(),
            site,
            tables,
            published,
            link,
            frames,
            outbox: Vec::new(),
        }
    }

    fn frame(&mut self, bytes: &[u8]) -> landbridge_xsk::Frame {
        let mut frame = self.lane.pool().take_for(bytes.len()).expect("a free frame");
        frame.append(bytes.len()).expect("room").copy_from_slice(bytes);
        frame
    }

    /// A datagram comes by the lane's socket or by the control task's, each of which passes on what is the other's.
    fn receive(&mut self, now: Instant, wall: WallClock, from: SocketAddr, by_lane: bool, bytes: &[u8]) {
        if by_lane {
            let frame = self.frame(bytes);
            self.lane.wan().arrived.push_back((frame, Origin { remote: from, local: None, slot: 0 }));
        } else if bytes[0] == TRANSPORT_DATA {
            let command = Command::Data { remote: from, local: None, slot: 0, bytes: bytes.into() };
            self.link.commands.push(command).expect("room for a command");
        } else if let Err(reason) = self.endpoint.handle_datagram(now, wall, from, None, bytes) {
            self.refused.push(reason);
        }
    }

    /// Goes on until nothing is left to do at this time.
    fn run(&mut self, now: Instant, wall: WallClock) {
        let mut rounds = 0;
        loop {
            while self.lane.poll_once(now) == Turn::Busy {}
            self.collect();
            let heard = self.hear(now, wall);
            if !self.settle(now, wall) && !heard && self.link.commands.is_empty() {
                return;
            }
            rounds += 1;
            assert!(rounds < 20, "lane and endpoint come to rest");
        }
    }

    fn collect(&mut self) {
        while let Some(sent) = self.lane.wan().sent.pop_front() {
            self.outbox.push((self.address, sent.remote, sent.frame.data().to_vec()));
            self.lane.pool().put(sent.frame);
        }
        while let Some(frame) = self.lane.lan().sent.pop_front() {
            let bytes = frame.data();
            assert_eq!((bytes[13], bytes[17]), (3 - self.site, self.site), "from the other site to this one");
            self.arrived.push(u32::from_be_bytes(*bytes[28..].first_chunk().expect("a number")));
            self.lane.pool().put(frame);
        }
    }

    fn hear(&mut self, now: Instant, wall: WallClock) -> bool {
        let mut heard = false;
        while let Some(report) = self.link.reports.pop() {
            heard = true;
            match report {
                Report::SessionWanted(peer) => self.endpoint.handle_session_wanted(now, peer),
                Report::Confirmed(index) => self.endpoint.handle_confirmed(now, index),
                Report::Roamed { peer, remote, local } => self.endpoint.handle_roamed(now, peer, remote, local),
                Report::Active(peer) => self.endpoint.handle_active(now, peer),
                Report::Datagram(datagram) => {
                    let (remote, local) = (datagram.remote, datagram.local);
                    if let Err(reason) = self.endpoint.handle_datagram(now, wall, remote, local, &datagram.bytes) {
                        self.refused.push(reason);
                    }
                }
                Report::Channel { peer, remote, local, packet, .. } => {
                    if let Err(reason) = self.endpoint.handle_channel(now, peer, remote, local, &packet) {
                        self.refused.push(reason);
                    }
                }
                other => panic!("{other:?}"),
            }
        }
        heard
    }

    /// Events into a snapshot, the snapshot to the lane, and only then what there is to send.
    fn settle(&mut self, now: Instant, wall: WallClock) -> bool {
        let mut changed = false;
        while let Some(event) = self.endpoint.poll_event() {
            changed = true;
            self.take(now, event);
        }
        if changed {
            self.published.store(Arc::new(self.tables.clone()));
        }
        let mut buffer = [0; Endpoint::MAX_TRANSMIT];
        while let Some(transmit) = self.endpoint.poll_transmit(now, wall, &mut buffer) {
            changed = true;
            self.initiations += usize::from(buffer[0] == 1);
            self.outbox.push((self.address, transmit.remote, buffer[..transmit.len].to_vec()));
        }
        changed
    }

    fn take(&mut self, now: Instant, event: Event) {
        match event {
            Event::SessionStarted { session, current } => {
                self.sessions.push(now);
                self.tables.sessions.set(session.local_index.slot(), Some(Arc::clone(&session)));
                if current {
                    self.change_entry(|entry| entry.session = Some(session));
                }
            }
            Event::SessionCurrent { session } => self.change_entry(|entry| entry.session = Some(session)),
            Event::SessionEnded { index, was_current, .. } => {
                if self.tables.session(index).is_some() {
                    self.tables.sessions.set(index.slot(), None);
                }
                if was_current {
                    self.change_entry(|entry| entry.session = None);
                }
            }
            Event::EndpointChanged { remote, .. } => {
                self.change_entry(|entry| entry.path = Some(Arc::new(path_to(remote))));
            }
            Event::SpreadChanged { spread, .. } => self.change_entry(|entry| entry.spread = spread),
            Event::AlternatesChanged { alternates, .. } => {
                self.change_entry(|entry| entry.alternates = alternates);
            }
            Event::HandshakeGivenUp { peer } | Event::PeerRemoved { peer } => {
                self.link.commands.push(Command::Abandon(peer)).expect("room for a command");
            }
            _ => {}
        }
    }

    fn change_entry(&mut self, change: impl FnOnce(&mut PeerEntry)) {
        let mut entry = PeerEntry::clone(self.tables.peer(self.peer).expect("its one peer"));
        change(&mut entry);
        self.tables.peers.set(self.peer.slot as usize, Some(Arc::new(entry)));
    }

    /// Every drop of the lane, by reason.
    pub(super) fn drops(&self) -> Vec<(DropReason, u64)> {
        let drops = DropReason::ALL.iter().map(|reason| (*reason, self.lane.stats().dropped(*reason)));
        drops.filter(|(_, packets)| *packets > 0).collect()
    }
}

/// West (site 1), east (site 2), and the network between them.
pub(super) struct World {
    pub(super) start: Instant,
    pub(super) now: Instant,
    pub(super) sites: [Gateway; 2],
    pub(super) weather: Weather,
    /// Nothing arrives anywhere.
    pub(super) is_cut: bool,
    under_way: BTreeMap<(Instant, u64), Datagram>,
    count: u64,
    rng: StdRng,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let start = Instant::now();
        let mut world = Self {
            start,
            now: start,
            sites: [Gateway::new(start, 1, 2), Gateway::new(start, 2, 1)],
            weather: Weather::default(),
            is_cut: false,
            under_way: BTreeMap::new(),
            count: 0,
            rng: StdRng::seed_from_u64(seed),
        };
        world.run_sites();
        world
    }

    fn wall(&self) -> WallClock {
        WallClock(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000) + (self.now - self.start))
    }

    /// Packets with these numbers enter a site's lan.
    pub(super) fn send(&mut self, from: usize, numbers: std::ops::Range<u32>) {
        for number in numbers {
            let [source, destination] = [from as u8 + 1, 2 - from as u8];
            let len = 60 + number as usize * 37 % 1300;
            let bytes = packet([10, source, 0, 1], [10, destination, 0, 1], number, len);
            let frame = self.sites[from].frame(&bytes);
            self.sites[from].lane.lan().arrived.push_back(frame);
        }
        self.run_sites();
    }

    pub(super) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let timeouts = self.sites.iter().filter_map(|site| site.endpoint.poll_timeout()).min();
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let next = timeouts.into_iter().chain(arrival).min().filter(|next| *next <= until);
            self.now = next.unwrap_or(until).max(self.now);
            let (now, wall) = (self.now, self.wall());
            for site in &mut self.sites {
                site.endpoint.handle_timeout(now, wall);
            }
            while let Some(entry) = self.under_way.first_entry()
                && entry.key().0 <= now
            {
                let ((_, number), (from, to, bytes)) = entry.remove_entry();
                // Data by way of the control task may be overtaken: in good weather it does not go there.
                let keeps_order = bytes[0] == TRANSPORT_DATA && self.weather.jitter_ms_max == 0;
                if let Some(site) = self.sites.iter_mut().find(|site| site.address == to && !self.is_cut) {
                    site.receive(now, wall, from, keeps_order || number % 3 != 0, &bytes);
                }
            }
            self.run_sites();
            if next.is_none() {
                return;
            }
        }
    }

    fn run_sites(&mut self) {
        let (now, wall) = (self.now, self.wall());
        for at in 0..self.sites.len() {
            self.sites[at].run(now, wall);
            for datagram in std::mem::take(&mut self.sites[at].outbox) {
                self.post(datagram);
            }
        }
    }

    fn post(&mut self, datagram: Datagram) {
        let copies = 1 + u32::from(self.rng.random_range(0..100) < self.weather.duplicate_percent);
        for _ in 0..copies {
            let delay = DELAY + Duration::from_millis(self.rng.random_range(0..=self.weather.jitter_ms_max));
            if self.rng.random_range(0..100) >= self.weather.loss_percent {
                self.count += 1;
                self.under_way.insert((self.now + delay, self.count), datagram.clone());
            }
        }
    }

    /// Neither lane holds a frame any more.
    pub(super) fn assert_all_frames_are_home(self) {
        for site in self.sites {
            let mut pool = site.lane.close(self.now);
            assert_eq!(pool.free(), site.frames);
        }
    }
}
