//! Lanes back to back in memory: two sites with sessions of the same keys, and a wire between them that the test
//! bends as it likes.

mod bad_input;
mod channel;
mod failing;
mod gateways;
mod narrow;
mod starving;
mod stealing;
mod traffic;
mod waiting;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use landbridge_aead::Key;
use landbridge_proto::session::SessionLimits;
use landbridge_proto::{AllowedIps, DropReason, PeerId, PeerShared, ReceiverIndex, Role, Session};
use landbridge_xsk::{Frame, Memory, MemoryConfig, Pool};

use super::lane::{Lane, Turn};
use super::memory::{MemoryLan, MemoryWan};
use super::report::{Command, Link, Report, Waker};
use super::side::Origin;
use super::tables::{Path, PeerEntry, Published, Tables};

/// The one peer that each site has.
pub(super) const PEER: PeerId = PeerId { slot: 3, generation: 9 };
pub(super) const MTU: u32 = 1420;
const FRAMES: u32 = 2048;
const LIMITS: SessionLimits =
    SessionLimits { reject_after: Duration::from_secs(180), reject_after_messages: u64::MAX - 8192 };

/// One side of a pair.
pub(super) struct Site {
    pub(super) lane: Lane<MemoryWan, MemoryLan>,
    pub(super) published: Published,
    pub(super) session: Arc<Session>,
    pub(super) shared: Arc<PeerShared>,
    /// Where the other one sees this site.
    pub(super) origin: Origin,
    pub(super) frames: (usize, usize),
    link: Link,
}

/// Two sites that hold one session, and the time they live in.
pub(super) struct Pair {
    pub(super) west: Site,
    pub(super) east: Site,
    pub(super) now: Instant,
}

pub(super) fn memory() -> Pool {
    let config = MemoryConfig { frames: FRAMES, frame_size: 2048, jumbo_frames: 8, huge_pages: false };
    Memory::new(config).expect("a few megabytes").1
}

pub(super) fn link() -> Link {
    Link {
        reports: Arc::new(ArrayQueue::new(1024)),
        commands: Arc::new(ArrayQueue::new(1024)),
        control: Waker::new().expect("an eventfd"),
        lane: Waker::new().expect("an eventfd"),
    }
}

/// Tables of a site: everything below 10.`net`.0.0/16 and fd00:`net`::/32 belongs to its one peer.
pub(super) fn tables(net: u8, session: &Arc<Session>, path: Option<Path>) -> Tables {
    let mut tables = Tables::new(MTU);
    let mut routes = AllowedIps::new();
    routes.insert(format!("10.{net}.0.0/16").parse().expect("a prefix"), PEER);
    routes.insert(format!("fd00:{net}::/32").parse().expect("a prefix"), PEER);
    tables.routes = Arc::new(routes);
    tables.listen_port = 51820;
    tables.sessions.set(session.local_index.slot(), Some(Arc::clone(session)));
    let entry = PeerEntry {
        session: Some(Arc::clone(session)),
        path: path.map(Arc::new),
        ..PeerEntry::new(PEER, Arc::clone(&session.shared))
    };
    tables.peers.set(PEER.slot as usize, Some(Arc::new(entry)));
    tables
}

/// Both ends of one session; the first is the initiator's.
pub(super) fn sessions(now: Instant) -> [Arc<Session>; 2] {
    let end = |role, local, remote, seal: u8, open: u8| {
        Arc::new(Session::new(
            PEER,
            Arc::new(PeerShared::new(now)),
            ReceiverIndex(local),
            ReceiverIndex(remote),
            role,
            now,
            Key::new(&[seal; 32]),
            Key::new(&[open; 32]),
            LIMITS,
        ))
    };
    [end(Role::Initiator, 0xaaa0_0001, 0xbbb0_0002, 1, 2), end(Role::Responder, 0xbbb0_0002, 0xaaa0_0001, 2, 1)]
}

pub(super) fn path_to(remote: SocketAddr) -> Path {
    Path::new(remote, None, None, None)
}

fn site(session: &Arc<Session>, peers_net: u8, address: &str, remote: &str) -> Site {
    let path = path_to(remote.parse().expect("an address"));
    let published: Published = Arc::new(ArcSwap::from_pointee(tables(peers_net, session, Some(path))));
    let mut pool = memory();
    let frames = pool.free();
    let link = link();
    let lane = Lane::alone(MemoryWan::default(), MemoryLan::default(), pool, Arc::clone(&published), link.clone());
    let origin = Origin { remote: address.parse().expect("an address"), local: None, slot: 0 };
    let shared = Arc::clone(&session.shared);
    Site { lane, published, session: Arc::clone(session), shared, origin, frames, link }
}

impl Pair {
    /// West has 10.1.0.0/16, east has 10.2.0.0/16.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        let [west, east] = sessions(now);
        let west = site(&west, 2, "192.0.2.1:51820", "198.51.100.2:51820");
        let east = site(&east, 1, "198.51.100.2:51820", "192.0.2.1:51820");
        Self { west, east, now }
    }

    /// West sends these inner packets; returns the datagrams.
    pub(super) fn west_seals(&mut self, packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
        self.west.send(packets, self.now)
    }

    /// East receives these datagrams as if west had sent them; returns the inner packets.
    pub(super) fn east_opens(&mut self, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let origin = self.west.origin;
        self.east.receive(datagrams, origin, self.now)
    }

    /// Neither side holds a frame any more.
    pub(super) fn assert_all_frames_are_home(self) {
        for site in [self.west, self.east] {
            let mut pool = site.lane.close(self.now);
            assert_eq!(pool.free(), site.frames);
        }
    }
}

impl Site {
    pub(super) fn frame(&mut self, bytes: &[u8]) -> Frame {
        let mut frame = self.lane.pool().take_for(bytes.len()).expect("a free frame");
        frame.append(bytes.len()).expect("room").copy_from_slice(bytes);
        frame
    }

    pub(super) fn run(&mut self, now: Instant) {
        while self.lane.poll_once(now) == Turn::Busy {}
    }

    pub(super) fn send(&mut self, packets: &[Vec<u8>], now: Instant) -> Vec<Vec<u8>> {
        for packet in packets {
            let frame = self.frame(packet);
            self.lane.lan().arrived.push_back(frame);
        }
        self.run(now);
        self.take_datagrams()
    }

    pub(super) fn take_datagrams(&mut self) -> Vec<Vec<u8>> {
        let sent: Vec<_> = self.lane.wan().sent.drain(..).map(|sent| sent.frame).collect();
        sent.into_iter().map(|frame| self.empty(frame)).collect()
    }

    pub(super) fn receive(&mut self, datagrams: &[Vec<u8>], origin: Origin, now: Instant) -> Vec<Vec<u8>> {
        for datagram in datagrams {
            let frame = self.frame(datagram);
            self.lane.wan().arrived.push_back((frame, origin));
        }
        self.run(now);
        let sent: Vec<_> = self.lane.lan().sent.drain(..).collect();
        sent.into_iter().map(|frame| self.empty(frame)).collect()
    }

    pub(super) fn empty(&mut self, frame: Frame) -> Vec<u8> {
        let bytes = frame.data().to_vec();
        self.lane.pool().put(frame);
        bytes
    }

    pub(super) fn dropped(&self, reason: DropReason) -> u64 {
        self.lane.stats().dropped(reason)
    }

    /// Every drop there was, by reason.
    pub(super) fn drops(&self) -> Vec<(DropReason, u64)> {
        let drops = DropReason::ALL.iter().map(|reason| (*reason, self.dropped(*reason)));
        drops.filter(|(_, packets)| *packets > 0).collect()
    }

    pub(super) fn reports(&self) -> Vec<Report> {
        std::iter::from_fn(|| self.link.reports.pop()).collect()
    }

    pub(super) fn command(&self, command: Command) {
        self.link.commands.push(command).expect("room for a command");
    }
}

/// A UDP packet over IPv4 whose payload begins with `number`.
pub(super) fn packet(source: [u8; 4], destination: [u8; 4], number: u32, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len.max(32)];
    let total = bytes.len() as u16;
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&total.to_be_bytes());
    bytes[8..10].copy_from_slice(&[64, 17]);
    bytes[12..16].copy_from_slice(&source);
    bytes[16..20].copy_from_slice(&destination);
    bytes[28..32].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// Packets from west's site to east's, numbered.
pub(super) fn eastward(numbers: std::ops::Range<u32>) -> Vec<Vec<u8>> {
    numbers.map(|number| packet([10, 1, 0, 1], [10, 2, 0, 1], number, 60 + number as usize % 1300)).collect()
}

/// A UDP packet over IPv6.
pub(super) fn packet_v6(source: IpAddr, destination: IpAddr, len: usize) -> Vec<u8> {
    let (IpAddr::V6(source), IpAddr::V6(destination)) = (source, destination) else { panic!("IPv6 addresses") };
    let mut bytes = vec![0; 40 + len];
    bytes[0] = 0x60;
    bytes[4..6].copy_from_slice(&(len as u16).to_be_bytes());
    bytes[6..8].copy_from_slice(&[17, 64]);
    bytes[8..24].copy_from_slice(&source.octets());
    bytes[24..40].copy_from_slice(&destination.octets());
    bytes
}
