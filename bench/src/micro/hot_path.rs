//! The hot path: all that a lane does per burst but I/O, against ring's seal of the same packets.
//!
//! Seal: inner packet in a frame, look-up, session, counters, padding, AEAD, account, outer Ethernet, IPv4 and
//! UDP headers. Open: a whole frame from the wire, its parsing, session, replay window, AEAD, commit, account,
//! allowed IPs of the inner source. Both are turns of a real lane between sides that only move frames.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use landbridge::datapath::lane::Lane;
use landbridge::datapath::memory::MemoryLan;
use landbridge::datapath::report::{Link, Waker};
use landbridge::datapath::side::{Datagrams, Origin, Outgoing, PollSet, Wan};
use landbridge::datapath::stats::LaneStats;
use landbridge::datapath::tables::{Path, PeerEntry, Tables, Wire};
use landbridge::datapath::wire::{self, HeaderTemplate};
use landbridge_aead::{Engine, Key};
use landbridge_proto::session::SessionLimits;
use landbridge_proto::{DropReason, PeerId, PeerShared, ReceiverIndex, Role, Session};
use landbridge_xsk::{Burst, Frame, Memory, MemoryConfig, Pool};

use super::aead::{TURN, engines, ring_seal, turns};
use crate::measure::{Case, Sample};

const SIZES: [(usize, f64); 2] = [(64, 2.0), (1420, 1.25)];
const MTU: u32 = 1420;
const PORT: u16 = 51_820;
const PEER: PeerId = PeerId { slot: 0, generation: 0 };

/// All cases of this file.
pub(super) fn cases() -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    for (len, target) in SIZES {
        for engine in engines() {
            for (name, sample) in [("seal", sealing(engine, len, None)?), ("open", opening(engine, len)?)] {
                let name = format!("{name} path {len} B, engine {}", engine.name());
                let case = Case::new("hot path in memory, one core", name, sample);
                cases.push(case.bytes(len).against(ring_seal(len)).target(target).without_allocations());
            }
        }
    }
    cases.extend(staged()?);
    Ok(cases)
}

/// What measuring the stages costs the seal path, off and on; off is to be nothing.
fn staged() -> anyhow::Result<Vec<Case>> {
    let engine = engines().last().context("there is always an engine")?;
    let name = |what: &str| format!("seal path 64 B, engine {}, stages {what}", engine.name());
    let case = |what: &str, every: Option<NonZeroU32>| -> anyhow::Result<Case> {
        Ok(Case::new("hot path in memory, one core", name(what), sealing(engine, 64, every)?).without_allocations())
    };
    Ok(vec![
        case("off", None)?,
        case("in one turn of 61", NonZeroU32::new(61))?.against(name("off")),
        case("in every turn", NonZeroU32::new(1))?.against(name("off")),
    ])
}

type SampleFn = Box<dyn FnMut() -> Sample>;

fn sealing(engine: Engine, len: usize, stages: Option<NonZeroU32>) -> anyhow::Result<SampleFn> {
    let (mut site, now) = (Site::new(1)?, Instant::now());
    if let Some(every) = stages {
        site.lane.sample_stages(every);
    }
    let packet = inner_packet(len);
    Ok(Box::new(move || {
        use_engine(engine);
        let mut sample = Sample::default();
        for _ in 0..turns(len) {
            site.offer(&packet);
            sample.time(TURN, || site.lane.poll_once(now));
            assert_eq!(site.lane.wan().sent.len(), TURN, "a turn seals all that was offered");
            site.forget_sent();
        }
        sample
    }))
}

fn opening(engine: Engine, len: usize) -> anyhow::Result<SampleFn> {
    let (mut from, mut to, now) = (Site::new(1)?, Site::new(2)?, Instant::now());
    let packet = inner_packet(len);
    Ok(Box::new(move || {
        use_engine(engine);
        let mut sample = Sample::default();
        for _ in 0..turns(len) {
            from.offer(&packet);
            from.lane.poll_once(now);
            for sealed in &from.lane.wan().sent {
                let frame = filled(to.lane.pool(), sealed.data());
                to.lane.wan().arrived.push_back(frame);
            }
            from.forget_sent();
            sample.time(TURN, || to.lane.poll_once(now));
            assert_eq!(to.lane.lan().sent.len(), TURN, "a turn opens all that came");
            to.forget_sent();
        }
        sample
    }))
}

fn use_engine(engine: Engine) {
    assert!(landbridge_aead::select(engine).is_ok(), "an engine that was checked before works");
}

/// One gateway's lane. Site 1 has 10.0.1.0/24, site 2 has 10.0.2.0/24.
struct Site {
    lane: Lane<MemoryRing, MemoryLan>,
}

impl Site {
    fn new(number: u8) -> anyhow::Result<Self> {
        let other = 3 - number;
        let config = MemoryConfig { frames: 2 * TURN as u32, frame_size: 2048, jumbo_frames: 0, huge_pages: true };
        let (_, pool) = Memory::new(config).context("packet memory")?;
        let published = Arc::new(ArcSwap::from_pointee(tables(number, other)));
        let link = Link {
            reports: Arc::new(ArrayQueue::new(1024)),
            commands: Arc::new(ArrayQueue::new(16)),
            control: Waker::new()?,
            lane: Waker::new()?,
        };
        let lane = Lane::alone(MemoryRing::default(), MemoryLan::default(), pool, published, link);
        Ok(Self { lane })
    }

    /// One turn's worth of packets arrives on the lan side.
    fn offer(&mut self, packet: &[u8]) {
        for _ in 0..TURN {
            let frame = filled(self.lane.pool(), packet);
            self.lane.lan().arrived.push_back(frame);
        }
    }

    fn forget_sent(&mut self) {
        while let Some(frame) = self.lane.wan().sent.pop_front() {
            self.lane.pool().put(frame);
        }
        while let Some(frame) = self.lane.lan().sent.pop_front() {
            self.lane.pool().put(frame);
        }
    }
}

fn filled(pool: &mut Pool, bytes: &[u8]) -> Frame {
    let mut frame = pool.take().expect("memory holds two turns");
    frame.append(bytes.len()).expect("a frame holds a packet").copy_from_slice(bytes);
    frame
}

fn address(site: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 0, 2, site)
}

fn tables(own: u8, other: u8) -> Tables {
    let index = |site: u8| ReceiverIndex(u32::from(site));
    let key = |site: u8| Key::new(&[site; 32]);
    // What is measured must not grow old meanwhile.
    let limits = SessionLimits { reject_after: Duration::from_secs(1 << 30), reject_after_messages: 1 << 60 };
    let now = Instant::now();
    let shared = Arc::new(PeerShared::new(now));
    let session = Session::new(
        PEER,
        Arc::clone(&shared),
        index(own),
        index(other),
        Role::Initiator,
        now,
        key(own),
        key(other),
        limits,
    );
    let session = Arc::new(session);
    let ethernet = [2, 0, 0, 0, 0, other, 2, 0, 0, 0, 0, own, 8, 0].into_iter().collect();
    let wire = Wire { if_index: 1, source: address(own).into(), ethernet, mtu: 1500 };
    let path = Path {
        remote: SocketAddr::new(address(other).into(), PORT),
        local: Some(address(own).into()),
        wire: Some(wire),
    };
    let mut tables = Tables::new(MTU);
    tables.listen_port = PORT;
    tables.sessions.set(index(own).slot(), Some(Arc::clone(&session)));
    let entry = PeerEntry { session: Some(session), path: Some(Arc::new(path)), ..PeerEntry::new(PEER, shared) };
    tables.peers.set(PEER.slot as usize, Some(Arc::new(entry)));
    let net = format!("10.0.{other}.0/24").parse().expect("a prefix");
    Arc::make_mut(&mut tables.routes).insert(net, PEER);
    tables
}

/// A UDP packet from site 1 to site 2.
fn inner_packet(len: usize) -> Vec<u8> {
    let mut packet = vec![0x5a; len];
    packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 0, 1, 5, 10, 0, 2, 9]);
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    packet
}

/// A wan side that does to frames what the one on AF_XDP rings does, and then only keeps them.
#[derive(Default)]
struct MemoryRing {
    arrived: VecDeque<Frame>,
    sent: VecDeque<Frame>,
    headers: Option<(Arc<Path>, HeaderTemplate)>,
}

impl Wan for MemoryRing {
    fn receive(&mut self, _pool: &mut Pool, into: &mut Datagrams, _stats: &LaneStats) -> io::Result<()> {
        let room = into.frames.remaining_capacity().min(self.arrived.len());
        for mut frame in self.arrived.drain(..room) {
            let datagram = wire::parse(frame.data()).expect("the other lane writes sound frames");
            frame.truncate(datagram.payload.end);
            frame.advance(datagram.payload.start);
            into.push(frame, Origin { remote: datagram.remote, local: Some(datagram.local) }, datagram.ecn);
        }
        Ok(())
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Burst, to: Outgoing<'_>, stats: &LaneStats) {
        if !self.headers.as_ref().is_some_and(|(path, _)| Arc::ptr_eq(path, to.path)) {
            let wire = to.path.wire.as_ref().expect("the path leads past the kernel");
            let template = HeaderTemplate::new(wire, to.path.remote, to.listen_port).expect("one family");
            self.headers = Some((Arc::clone(to.path), template));
        }
        let Some((_, headers)) = &self.headers else { return };
        for mut frame in frames.drain(..) {
            match headers.write_with_ecn(&mut frame, to.ecn) {
                Ok(()) => self.sent.push_back(frame),
                Err(_) => {
                    stats.drop_packets(DropReason::Oversized, 1);
                    pool.put(frame);
                }
            }
        }
    }

    fn flush(&mut self, _pool: &mut Pool, _stats: &LaneStats) -> io::Result<()> {
        Ok(())
    }

    fn poll_set<'a>(&'a self, _into: &mut PollSet<'a>) {}

    fn replace_socket(&mut self, _socket: UdpSocket) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, pool: &mut Pool) {
        self.arrived.drain(..).chain(self.sent.drain(..)).for_each(|frame| pool.put(frame));
    }
}
