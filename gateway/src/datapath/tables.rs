//! What lanes look up: an immutable snapshot that the control task publishes whole.
//!
//! A snapshot is cheap to derive from the last one: tables are two levels of shared chunks, of which a
//! change copies one chunk and the root.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use arc_swap::ArcSwap;
use arrayvec::ArrayVec;
use landbridge_aead::prefetch;
use landbridge_proto::{AllowedIps, Alternates, PeerId, PeerShared, ReceiverIndex, Session, Spread};

use super::lan_table::LanTable;
use super::wire::HeaderTemplate;

/// The place where the control task publishes and every lane reads.
pub type Published = Arc<ArcSwap<Tables>>;

/// One snapshot.
#[derive(Debug, Clone)]
pub struct Tables {
    /// Sessions by the slot of their local index.
    pub sessions: Table<Arc<Session>>,
    /// Peers by slot.
    pub peers: Table<Arc<PeerEntry>>,
    /// Inner addresses to peers.
    pub routes: Arc<AllowedIps>,
    /// Where packets leave on the lan, for lanes with rings there.
    pub lan: LanTable,
    /// MTU of the tunnel interface: padding stops there.
    pub mtu: u32,
    /// The UDP port that outer packets come from.
    pub listen_port: u16,
    /// Source ports beside it, by their places from 1 on.
    pub source_ports: Arc<[u16]>,
    /// Our address on the control channel.
    pub channel_address: Option<Ipv6Addr>,
}

impl Tables {
    /// No session, no peer.
    #[must_use]
    pub fn new(mtu: u32) -> Self {
        Self {
            sessions: Table::new(),
            peers: Table::new(),
            routes: Arc::new(AllowedIps::new()),
            lan: LanTable::default(),
            mtu,
            listen_port: 0,
            source_ports: Arc::from([]),
            channel_address: None,
        }
    }

    /// The session that opens packets with this index.
    #[inline]
    #[must_use]
    pub fn session(&self, index: ReceiverIndex) -> Option<&Arc<Session>> {
        self.sessions.at(index.slot()).filter(|session| session.local_index == index)
    }

    /// The source port at a place.
    #[inline]
    #[must_use]
    pub fn source_port(&self, slot: u8) -> u16 {
        match slot {
            0 => self.listen_port,
            beside => self.source_ports.get(usize::from(beside) - 1).copied().unwrap_or(self.listen_port),
        }
    }

    /// A peer.
    #[inline]
    #[must_use]
    pub fn peer(&self, id: PeerId) -> Option<&Arc<PeerEntry>> {
        self.peers.at(id.slot as usize).filter(|entry| entry.id == id)
    }
}

/// What a lane needs to send to a peer. What every packet takes is one cache line.
#[derive(Debug, Clone)]
#[repr(C, align(64))]
pub struct PeerEntry {
    /// The peer.
    pub id: PeerId,
    /// The session to seal with.
    pub session: Option<Arc<Session>>,
    /// The path in use.
    pub path: Option<Arc<Path>>,
    /// The source ports that its flows are spread over; `None` for the main one alone.
    pub spread: Option<Arc<Spread>>,
    /// The source ports that it sends from beside its endpoint's.
    pub alternates: Option<Arc<Alternates>>,
    /// What lanes report of it.
    pub shared: Arc<PeerShared>,
    /// The largest inner packet that its path carries, sealed, in one piece; [`MTU_UNKNOWN`] where nothing is known to be
    /// narrower than the tunnel.
    pub mtu: u32,
    /// Its address on the control channel; `None` when that is switched off.
    pub channel_address: Option<Ipv6Addr>,
}

/// No limit of a path's own.
pub const MTU_UNKNOWN: u32 = u32::MAX;

impl PeerEntry {
    /// A peer that nothing else is known of.
    #[must_use]
    pub const fn new(id: PeerId, shared: Arc<PeerShared>) -> Self {
        Self {
            id,
            session: None,
            path: None,
            spread: None,
            alternates: None,
            shared,
            mtu: MTU_UNKNOWN,
            channel_address: None,
        }
    }
}

impl PeerEntry {
    /// Asks for what every packet takes of the entry itself: see [`landbridge_aead::prefetch()`].
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.id);
    }

    /// Asks for what sealing takes beside the entry, which should be there by then.
    #[inline]
    pub fn prefetch_to_seal(&self) {
        if let Some(session) = &self.session {
            session.prefetch_to_seal();
        }
        if let Some(path) = &self.path {
            path.prefetch();
        }
        self.shared.prefetch();
    }
}

/// One way to reach a peer, as [`Path::new`] makes it. What packets take is in the first two cache lines.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C, align(64))]
pub struct Path {
    headers: Option<HeaderTemplate>,
    /// Where the peer is.
    pub remote: SocketAddr,
    /// The address of ours to send from; `None` lets the kernel choose.
    pub local: Option<IpAddr>,
    /// The interface to leave by although the routes prefer another: that of our address. `None` leaves it to the routes.
    pub if_index: Option<u32>,
    /// The place of the source port that it has to be sent from where nothing is said of source ports: 0, or one that a search
    /// for a NAT's port found.
    pub slot: u8,
    /// How to reach it past the kernel; `None` while the neighbour is unresolved or the route leads elsewhere: then the
    /// kernel's socket is used.
    pub wire: Option<Wire>,
}

impl Path {
    /// A path of these parts, and the headers that follow from them.
    #[must_use]
    pub fn new(remote: SocketAddr, local: Option<IpAddr>, if_index: Option<u32>, wire: Option<Wire>) -> Self {
        let headers = wire.as_ref().and_then(|wire| HeaderTemplate::new(wire, remote));
        Self { headers, remote, local, if_index, slot: 0, wire }
    }

    /// What stands before packets that go past the kernel.
    #[inline]
    #[must_use]
    pub const fn headers(&self) -> Option<&HeaderTemplate> {
        self.headers.as_ref()
    }

    /// Asks for what sending takes: see [`landbridge_aead::prefetch()`].
    #[inline]
    pub fn prefetch(&self) {
        prefetch(&self.headers);
        prefetch(&self.remote);
    }

    /// [`Path::prefetch`] for who only asks whether the peer is there.
    #[inline]
    pub fn prefetch_remote(&self) {
        prefetch(&self.remote);
        prefetch(&self.local);
    }
}

/// What stands before the IP header on the wire, and where to put it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wire {
    /// The wan interface (of those the gateway has bound) whose ring is used.
    pub if_index: u32,
    /// The address of ours to send from; same family as the path's remote.
    pub source: IpAddr,
    /// Ethernet header with up to two VLAN tags, EtherType included.
    pub ethernet: ArrayVec<u8, 22>,
    /// MTU of that way: larger outer IP packets take the kernel's socket, which fragments.
    pub mtu: u32,
}

const CHUNK: usize = 1 << 10;

/// A sparse array in two levels; clones share everything.
#[derive(Debug, Clone)]
pub struct Table<T> {
    chunks: Arc<[Option<Chunk<T>>]>,
}

type Chunk<T> = Arc<[Option<T>]>;

impl<T: Clone> Table<T> {
    /// Nothing anywhere.
    #[must_use]
    pub fn new() -> Self {
        Self { chunks: Arc::from([]) }
    }

    /// The entry at an index.
    #[inline]
    #[must_use]
    pub fn at(&self, index: usize) -> Option<&T> {
        self.chunks.get(index / CHUNK)?.as_ref()?[index % CHUNK].as_ref()
    }

    /// Puts or (with `None`) removes the entry at an index.
    pub fn set(&mut self, index: usize, entry: Option<T>) {
        let place = index / CHUNK;
        if place >= self.chunks.len() {
            if entry.is_none() {
                return;
            }
            let mut longer = self.chunks.to_vec();
            longer.resize(place + 1, None);
            self.chunks = longer.into();
        }
        let chunk = &mut Arc::make_mut(&mut self.chunks)[place];
        let entries = chunk.get_or_insert_with(|| vec![None; CHUNK].into());
        Arc::make_mut(entries)[index % CHUNK] = entry;
    }

    /// Every entry with its index.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &T)> + '_ {
        self.chunks.iter().enumerate().flat_map(|(place, chunk)| {
            chunk.iter().flat_map(move |entries| {
                entries.iter().enumerate().filter_map(move |(i, entry)| Some((place * CHUNK + i, entry.as_ref()?)))
            })
        })
    }
}

impl<T: Clone> Default for Table<T> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_keeps_what_it_had_when_its_successor_changes() {
        let mut table = Table::new();
        for index in [0, 1023, 1024, 1_048_575] {
            table.set(index, Some(index));
        }
        let before = table.clone();
        table.set(1024, None);
        table.set(5, Some(5));
        assert_eq!(before.at(1024), Some(&1024));
        assert_eq!(before.at(5), None);
        assert_eq!(table.at(1024), None);
        assert_eq!(table.iter().map(|(i, _)| i).collect::<Vec<_>>(), [0, 5, 1023, 1_048_575]);
        assert_eq!(table.at(usize::MAX), None);
    }
}
