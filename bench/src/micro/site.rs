//! A site for the benches of the hot path: a real lane between sides that only move frames.
//!
//! Site 1 has 10.0.0.0/9 in slices, one for each of its peer's peers, site 2 has 10.128.0.0/9 likewise: peer `n` of one
//! site is peer `n` of the other, so that what one seals to any of its peers, the other opens from the same.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use arc_swap::ArcSwap;
use crossbeam::queue::ArrayQueue;
use ipnet::{IpNet, Ipv4Net};
use landbridge::datapath::lane::Lane;
use landbridge::datapath::memory::MemoryLan;
use landbridge::datapath::report::{Link, Waker};
use landbridge::datapath::side::{Datagrams, Origin, Outgoing, PollSet, Wan};
use landbridge::datapath::stats::LaneStats;
use landbridge::datapath::tables::{Path, PeerEntry, Tables, Wire};
use landbridge::datapath::wire;
use landbridge_aead::Key;
use landbridge_proto::session::SessionLimits;
use landbridge_proto::{AllowedIps, DropReason, PeerId, PeerShared, ReceiverIndex, Role, Session};
use landbridge_xsk::{Burst, Frame, Memory, MemoryConfig, Pool};

use super::aead::TURN;

const MTU: u32 = 1420;
const PORT: u16 = 51_820;
/// What the case that offers most has under way, twice.
const FRAMES: u32 = 8 * TURN as u32;

/// One gateway's lane.
pub(crate) struct Site {
    pub(crate) lane: Lane<MemoryRing, MemoryLan>,
    /// Packets that were offered; each has its number behind its IP header.
    offered: u32,
}

impl Site {
    /// Site 1 or 2 with so many peers.
    pub(crate) fn new(number: u8, peers: u32) -> anyhow::Result<Self> {
        let published = Arc::new(ArcSwap::from_pointee(tables(number, peers)));
        let (wan, lan, pool, link) = member(peers)?;
        Ok(Self { lane: Lane::alone(wan, lan, pool, published, link), offered: 0 })
    }

    /// Site 1 with one peer, to whom these routes lead.
    pub(crate) fn with_routes(routes: AllowedIps) -> anyhow::Result<Self> {
        let tables = Tables { routes: Arc::new(routes), ..tables(1, 1) };
        let (wan, lan, pool, link) = member(1)?;
        let published = Arc::new(ArcSwap::from_pointee(tables));
        Ok(Self { lane: Lane::alone(wan, lan, pool, published, link), offered: 0 })
    }

    /// Site 1 with one peer, of whom this is said beside what is said of every peer.
    pub(crate) fn dressed(dress: &dyn Fn(&mut PeerEntry)) -> anyhow::Result<Self> {
        let mut tables = tables(1, 1);
        let mut entry = PeerEntry::clone(tables.peers.at(0).context("there is a peer")?);
        dress(&mut entry);
        tables.peers.set(0, Some(Arc::new(entry)));
        let (wan, lan, pool, link) = member(1)?;
        let published = Arc::new(ArcSwap::from_pointee(tables));
        Ok(Self { lane: Lane::alone(wan, lan, pool, published, link), offered: 0 })
    }

    /// Site 1 or 2 with one peer, and lanes that may help it.
    pub(crate) fn in_crew(number: u8, lanes: u32) -> anyhow::Result<(Self, Vec<Neighbour>)> {
        let published = Arc::new(ArcSwap::from_pointee(tables(number, 1)));
        let members = (0..lanes.max(1)).map(|_| member(1)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut crew = Lane::crew(members, &published);
        let neighbours = crew.split_off(1);
        Ok((Self { lane: crew.pop().context("a crew has a lane")?, offered: 0 }, neighbours))
    }

    /// Packets of `len` bytes to these peers arrive on the lan side.
    pub(crate) fn offer(&mut self, len: usize, peers: impl Iterator<Item = u32>) {
        self.offer_between(len, peers.map(|peer| (host(1, peer, 5), host(2, peer, 9))));
    }

    /// Packets of `len` bytes to these addresses arrive on the lan side.
    pub(crate) fn offer_to(&mut self, len: usize, destinations: impl Iterator<Item = Ipv4Addr>) {
        self.offer_between(len, destinations.map(|destination| (host(1, 0, 5), destination)));
    }

    /// Packets of `len` bytes of these flows to the first peer arrive on the lan side.
    pub(crate) fn offer_flows(&mut self, len: usize, flows: impl Iterator<Item = u32>) {
        for flow in flows {
            // Behind the IP header a flow has its ports, and every other packet its number.
            self.offered = flow;
            self.offer(len, std::iter::once(0));
        }
    }

    fn offer_between(&mut self, len: usize, ways: impl Iterator<Item = (Ipv4Addr, Ipv4Addr)>) {
        let mut packet = vec![0x5a; len];
        packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        for (source, destination) in ways {
            packet[12..16].copy_from_slice(&source.octets());
            packet[16..20].copy_from_slice(&destination.octets());
            packet[20..24].copy_from_slice(&self.offered.to_be_bytes());
            self.offered = self.offered.wrapping_add(1);
            let frame = filled(self.lane.pool(), &packet);
            self.lane.lan().arrived.push_back(frame);
        }
    }

    /// What this site sealed arrives at the other one.
    pub(crate) fn deliver_to(&mut self, other: &mut Self) {
        for sealed in &self.lane.wan().sent {
            let frame = filled(other.lane.pool(), sealed.data());
            other.lane.wan().arrived.push_back(frame);
        }
        self.forget_sent();
    }

    /// Empties both sides.
    pub(crate) fn forget_sent(&mut self) {
        while let Some(frame) = self.lane.wan().sent.pop_front() {
            self.lane.pool().put(frame);
        }
        while let Some(frame) = self.lane.lan().sent.pop_front() {
            self.lane.pool().put(frame);
        }
    }
}

/// The number that a packet was offered with.
pub(crate) fn sequence_of(packet: &[u8]) -> u32 {
    u32::from_be_bytes(*packet[20..].first_chunk().expect("a packet is longer than its number"))
}

/// A lane that may help a site's.
pub(crate) type Neighbour = Lane<MemoryRing, MemoryLan>;

/// Sides, memory and queues of a lane.
fn member(peers: u32) -> anyhow::Result<(MemoryRing, MemoryLan, Pool, Link)> {
    let config = MemoryConfig { frames: FRAMES, frame_size: 2048, jumbo_frames: 0, huge_pages: true };
    let (_, pool) = Memory::new(config).context("packet memory")?;
    let link = Link {
        // Each peer reports once that it is active.
        reports: Arc::new(ArrayQueue::new(2 * peers as usize + 1024)),
        commands: Arc::new(ArrayQueue::new(16)),
        control: Waker::new()?,
        lane: Waker::new()?,
    };
    Ok((MemoryRing::default(), MemoryLan::default(), pool, link))
}

fn filled(pool: &mut Pool, bytes: &[u8]) -> Frame {
    let mut frame = pool.take().expect("memory holds what is offered");
    frame.append(bytes.len()).expect("a frame holds a packet").copy_from_slice(bytes);
    frame
}

/// An inner address of a site, in the slice that belongs to one peer.
fn host(site: u8, peer: u32, last: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0a00_0000 | u32::from(site - 1) << 23 | peer << 8 | last)
}

/// The outer address of a site towards one peer.
fn outer(site: u8, peer: u32) -> IpAddr {
    Ipv4Addr::from(0xc612_0000 | u32::from(site - 1) << 16 | peer).into()
}

fn tables(own: u8, peers: u32) -> Tables {
    assert!(peers < 1 << 15, "a slice for each peer");
    let other = 3 - own;
    let mut tables = Tables::new(MTU);
    tables.listen_port = PORT;
    let now = Instant::now();
    for peer in 0..peers {
        let id = PeerId { slot: peer, generation: 0 };
        let shared = Arc::new(PeerShared::new(now));
        let session = Arc::new(session(own, id, &shared, now));
        let ethernet = [2, 0, 0, 0, 0, other, 2, 0, 0, 0, 0, own, 8, 0].into_iter().collect();
        let wire = Wire { if_index: 1, source: outer(own, peer), ethernet, mtu: 1500 };
        let (remote, local) = (SocketAddr::new(outer(other, peer), PORT), outer(own, peer));
        let path = Path::new(remote, Some(local), None, Some(wire));
        tables.sessions.set(session.local_index.slot(), Some(Arc::clone(&session)));
        let entry = PeerEntry { session: Some(session), path: Some(Arc::new(path)), ..PeerEntry::new(id, shared) };
        tables.peers.set(peer as usize, Some(Arc::new(entry)));
        let net = Ipv4Net::new(host(other, peer, 0), 24).expect("a prefix length");
        Arc::make_mut(&mut tables.routes).insert(IpNet::V4(net), id);
    }
    tables
}

/// A peer's session; the same keys on both sides.
fn session(own: u8, peer: PeerId, shared: &Arc<PeerShared>, now: Instant) -> Session {
    let other = 3 - own;
    let index = |site: u8| ReceiverIndex(peer.slot << 2 | u32::from(site));
    let key = |site: u8| {
        let mut bytes = [site; 32];
        bytes[..4].copy_from_slice(&peer.slot.to_le_bytes());
        Key::new(&bytes)
    };
    // What is measured must not grow old meanwhile.
    let limits = SessionLimits { reject_after: Duration::from_secs(1 << 30), reject_after_messages: 1 << 60 };
    let (indices, keys) = ((index(own), index(other)), (key(own), key(other)));
    Session::new(peer, Arc::clone(shared), indices.0, indices.1, Role::Initiator, now, keys.0, keys.1, limits)
}

/// A wan side that does to frames what the one on AF_XDP rings does, and then only keeps them.
#[derive(Default)]
pub(crate) struct MemoryRing {
    pub(crate) arrived: VecDeque<Frame>,
    pub(crate) sent: VecDeque<Frame>,
}

impl Wan for MemoryRing {
    fn receive(&mut self, _pool: &mut Pool, into: &mut Datagrams, _stats: &LaneStats) -> io::Result<()> {
        let room = into.frames.remaining_capacity().min(self.arrived.len());
        for mut frame in self.arrived.drain(..room) {
            let datagram = wire::parse(frame.data()).expect("the other lane writes sound frames");
            frame.truncate(datagram.payload.end);
            frame.advance(datagram.payload.start);
            into.push(frame, Origin { remote: datagram.remote, local: Some(datagram.local), slot: 0 }, datagram.ecn);
        }
        Ok(())
    }

    fn transmit(&mut self, pool: &mut Pool, frames: &mut Burst, to: Outgoing<'_>, stats: &LaneStats) {
        let headers = to.path.headers().expect("the path leads past the kernel");
        for mut frame in frames.drain(..) {
            match headers.write_with_ecn(&mut frame, to.source_port, to.ecn) {
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
