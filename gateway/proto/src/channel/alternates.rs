//! As a receiver: the source ports of a peer beside the one that it is reached at.
//!
//! Enters: probes with the places that they came from, and times. Leaves: answers, and what lanes compare origins with, so
//! that packets from these ports are no roaming. Never does: accept another address than the peer's own, or keep a port
//! that is not probed any more.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::{SOURCE_PORTS_MAX, SPREAD_SLOTS};
use crate::path::PLACES;

/// A port that was not probed for so long is forgotten: its sender probes it every two seconds while it is in use.
pub(crate) const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);
/// Between two questions to a peer about a port that it did not announce.
const ASK_INTERVAL: Duration = Duration::from_secs(1);

/// Packets by the place that they came from: the peer's source ports (place 0 is the endpoint), and paths beside the one in
/// use.
type PlaceCounts = Arc<[AtomicU64; SPREAD_SLOTS + PLACES]>;

/// The ports, as lanes look them up, and the places of the paths beside the one in use. Packets are counted by port, which
/// the peer learns by its next probe, and by path, from which it is known which of them deliver.
#[derive(Debug)]
pub struct Alternates {
    places: Vec<(SocketAddr, Option<IpAddr>, u8)>,
    received: PlaceCounts,
}

impl Alternates {
    /// These ports, with counts of their own: for tests and benches of lanes.
    #[must_use]
    pub fn at(places: Vec<(SocketAddr, u8)>) -> Self {
        let places = places.into_iter().map(|(remote, slot)| (remote, None, slot)).collect();
        Self { places, received: counts() }
    }

    /// Packets that came from the port at a place.
    #[must_use]
    pub fn received(&self, slot: u8) -> u64 {
        self.received.get(usize::from(slot)).map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// The place of a port, when it is one of the peer's. `local`: the address of ours that it sent to.
    #[inline]
    #[must_use]
    pub fn slot_of(&self, remote: SocketAddr, local: Option<IpAddr>) -> Option<u8> {
        let is_it = |(place, ours, _): &&(SocketAddr, Option<IpAddr>, u8)| {
            *place == remote && (ours.is_none() || local.is_none() || *ours == local)
        };
        self.places.iter().find(is_it).map(|(.., slot)| *slot)
    }

    /// Notes packets that came from a port; place 0 is the endpoint itself.
    #[inline]
    pub fn note_received(&self, slot: u8, packets: u64) {
        if let Some(count) = self.received.get(usize::from(slot)) {
            count.fetch_add(packets, Ordering::Relaxed);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.places.len()
    }
}

/// What a probe means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Probed {
    /// It is answered; so many packets came from that port.
    Answer { packets: u64, changed: bool },
    /// The peer's main port is another one than it was.
    Moved,
    /// It says nothing that may be followed.
    Refused,
}

#[derive(Debug)]
struct Place {
    slot: u8,
    remote: SocketAddr,
    forgotten: Instant,
}

/// The ports of one peer.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    places: Vec<Place>,
    /// Paths beside the one in use; `None` for a peer that takes no part in proving them.
    paths: Option<Vec<(SocketAddr, Option<IpAddr>, u8)>>,
    /// Counts, from the first probe on.
    received: Option<PlaceCounts>,
    asked: Option<Instant>,
}

impl Heard {
    /// A probe of the port at `slot` came from `remote`; `endpoint` is where the peer is reached.
    pub(crate) fn probe(&mut self, now: Instant, slot: u8, remote: SocketAddr, endpoint: SocketAddr) -> Probed {
        if remote.ip() != endpoint.ip() {
            return Probed::Refused;
        }
        let packets = match self
            .received
            .get_or_insert_with(counts)
            .get(..SPREAD_SLOTS)
            .and_then(|counts| counts.get(usize::from(slot)))
        {
            Some(count) => count.load(Ordering::Relaxed),
            None => return Probed::Refused,
        };
        if slot == 0 {
            return if remote == endpoint { Probed::Answer { packets, changed: false } } else { Probed::Moved };
        }
        if remote == endpoint || usize::from(slot) > SOURCE_PORTS_MAX {
            return Probed::Refused;
        }
        let forgotten = now + FORGOTTEN_AFTER;
        let known = self.places.iter_mut().find(|place| place.slot == slot && place.remote == remote);
        let changed = known.is_none();
        match known {
            Some(place) => place.forgotten = forgotten,
            None => {
                // A port that is seen from another place now, or a place that another port had.
                self.places.retain(|place| place.slot != slot && place.remote != remote);
                self.places.push(Place { slot, remote, forgotten });
            }
        }
        Probed::Answer { packets, changed }
    }

    /// Forgets ports that are not probed any more; true when there were some.
    pub(crate) fn forget(&mut self, now: Instant) -> bool {
        let before = self.places.len();
        self.places.retain(|place| place.forgotten > now);
        self.places.len() != before
    }

    /// Forgets all; true when there were some.
    pub(crate) fn clear(&mut self) -> bool {
        !std::mem::take(&mut self.places).is_empty()
    }

    /// When the next port is to be forgotten.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.places.iter().map(|place| place.forgotten).min()
    }

    /// Packets came from a place that is not the endpoint. `None`: the peer roams. `Some`: it sends from several ports, one
    /// of which shows up differently; true when the peer is to be asked about it.
    pub(crate) fn explains(&mut self, now: Instant, remote: SocketAddr, endpoint: SocketAddr) -> Option<bool> {
        if remote.ip() != endpoint.ip() || !self.places.iter().any(|place| place.forgotten > now) {
            return None;
        }
        if self.places.iter().any(|place| place.remote == remote) {
            // The lane had not seen the port announced yet.
            return Some(false);
        }
        let ask = self.asked.is_none_or(|asked| now.saturating_duration_since(asked) >= ASK_INTERVAL);
        if ask {
            self.asked = Some(now);
        }
        Some(ask)
    }

    /// How many there are.
    pub(crate) fn count(&self) -> usize {
        self.places.len()
    }

    /// Packets from these places are no roaming either, and counted.
    pub(crate) fn set_paths(&mut self, paths: Option<Vec<(SocketAddr, Option<IpAddr>, u8)>>) {
        if paths.is_some() {
            self.received.get_or_insert_with(counts);
        }
        self.paths = paths;
    }

    /// Packets that came from a place.
    pub(crate) fn received(&self, place: usize) -> u64 {
        let count = self.received.as_ref().and_then(|counts| counts.get(place));
        count.map_or(0, |count| count.load(Ordering::Relaxed))
    }

    /// For the lanes. There is something to count wherever there are paths, even if there is only one.
    pub(crate) fn shared(&self) -> Option<Arc<Alternates>> {
        let received = Arc::clone(self.received.as_ref()?);
        let ports = self.places.iter().map(|place| (place.remote, None, place.slot));
        let places: Vec<_> = ports.chain(self.paths.iter().flatten().copied()).collect();
        (!places.is_empty() || self.paths.is_some()).then(|| Arc::new(Alternates { places, received }))
    }
}

fn counts() -> PlaceCounts {
    Arc::new([const { AtomicU64::new(0) }; SPREAD_SLOTS + PLACES])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    #[test]
    fn a_port_lives_as_long_as_it_is_probed() {
        let (mut heard, start) = (Heard::default(), Instant::now());
        assert_eq!(heard.probe(start, 1, at(5), at(1)), Probed::Answer { packets: 0, changed: true });
        let alternates = heard.shared().expect("one");
        alternates.note_received(1, 7);
        assert_eq!((alternates.slot_of(at(5), None), alternates.slot_of(at(1), None)), (Some(1), None));
        let later = start + FORGOTTEN_AFTER / 2;
        assert_eq!(heard.probe(later, 1, at(5), at(1)), Probed::Answer { packets: 7, changed: false });
        assert!(!heard.forget(start + FORGOTTEN_AFTER));
        assert!(heard.forget(later + FORGOTTEN_AFTER) && heard.shared().is_none() && heard.due().is_none());
    }

    #[test]
    fn a_port_seen_elsewhere_replaces_its_place_and_another_address_is_refused() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        heard.probe(now, 1, at(5), at(1));
        heard.probe(now, 2, at(6), at(1));
        assert_eq!(heard.probe(now, 1, at(6), at(1)), Probed::Answer { packets: 0, changed: true });
        assert_eq!(heard.shared().map(|all| (all.count(), all.slot_of(at(6), None))), Some((1, Some(1))));
        let elsewhere = SocketAddr::from(([192, 0, 2, 9], 7));
        assert_eq!(heard.probe(now, 3, elsewhere, at(1)), Probed::Refused);
        assert_eq!(heard.probe(now, 3, at(1), at(1)), Probed::Refused);
        assert_eq!(heard.probe(now, 0, at(9), at(1)), Probed::Moved);
        assert_eq!(heard.probe(now, 0, at(1), at(1)), Probed::Answer { packets: 0, changed: false });
    }

    #[test]
    fn an_unknown_port_is_roaming_unless_the_peer_sends_from_several() {
        let (mut heard, now) = (Heard::default(), Instant::now());
        assert_eq!(heard.explains(now, at(9), at(1)), None);
        heard.probe(now, 1, at(5), at(1));
        assert_eq!(heard.explains(now, at(5), at(1)), Some(false));
        assert_eq!(heard.explains(now, at(9), at(1)), Some(true));
        assert_eq!(heard.explains(now, at(9), at(1)), Some(false), "asked once a second");
        assert_eq!(heard.explains(now + ASK_INTERVAL, at(9), at(1)), Some(true));
        assert_eq!(heard.explains(now, SocketAddr::from(([192, 0, 2, 9], 9)), at(1)), None);
        assert_eq!(heard.explains(now + FORGOTTEN_AFTER, at(9), at(1)), None);
    }
}
