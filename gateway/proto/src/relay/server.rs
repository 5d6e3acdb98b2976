//! As a relay: allocations, their ports and their ends.
//!
//! Enters: requests of peers that wish for each other, ports that the forwarder granted, binds, time. Leaves: what to ask
//! the forwarder for, where ends are. Never does: grant more than a peer's share, or bind an end for somebody else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::{ALLOCATIONS_MAX, ALLOCATIONS_PER_PEER, LIFETIME};
use crate::PeerId;
use crate::introduce::MeetingId;

/// One of the two ends of an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct End {
    peer: PeerId,
    /// A request that waits for the ports.
    request: Option<u32>,
    /// Where it is bound.
    place: Option<(SocketAddr, Option<IpAddr>)>,
    /// When it was last bound; at first when the ports were granted.
    bound: Instant,
}

#[derive(Debug)]
struct Allocation {
    meeting: MeetingId,
    ends: [End; 2],
    ports: Option<[u16; 2]>,
    expires: Instant,
}

/// What follows from a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    /// The allocation exists: this is the port for whoever asked.
    Granted { allocation: u64, port: u16 },
    /// Ports are to be asked for; the answer has to wait for them.
    Allocate { allocation: u64 },
    /// They have been asked for.
    Waits,
    /// No room.
    Full,
}

/// What is told to one end when the ports are there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct News {
    pub(crate) peer: PeerId,
    /// With whom, as both have asked for it.
    pub(crate) meeting: MeetingId,
    pub(crate) port: u16,
    /// The request that this answers; without one it is an offer.
    pub(crate) request: Option<u32>,
}

/// All allocations.
#[derive(Debug, Default)]
pub(crate) struct Server {
    allocations: BTreeMap<u64, Allocation>,
    by_meeting: BTreeMap<MeetingId, u64>,
    expiries: BTreeSet<(Instant, u64)>,
    shares: BTreeMap<PeerId, usize>,
}

impl Server {
    /// A peer asks for another one, which asks for it as well. `draw` makes the number of an allocation.
    pub(crate) fn ask(
        &mut self,
        now: Instant,
        meeting: MeetingId,
        [by, of]: [PeerId; 2],
        request: u32,
        mut draw: impl FnMut() -> u64,
    ) -> Asked {
        if let Some(&number) = self.by_meeting.get(&meeting)
            && let Some(allocation) = self.allocations.get_mut(&number)
        {
            let Some(end) = allocation.ends.iter().position(|end| end.peer == by) else { return Asked::Full };
            return match allocation.ports {
                Some(ports) => Asked::Granted { allocation: number, port: ports[end] },
                None => {
                    allocation.ends[end].request = Some(request);
                    Asked::Waits
                }
            };
        }
        let has_room = |peer| self.shares.get(&peer).is_none_or(|share| *share < ALLOCATIONS_PER_PEER);
        if self.allocations.len() >= ALLOCATIONS_MAX || by == of || !has_room(by) || !has_room(of) {
            return Asked::Full;
        }
        let number = loop {
            let number = draw();
            if !self.allocations.contains_key(&number) {
                break number;
            }
        };
        let end = |peer, request| End { peer, request, place: None, bound: now };
        let expires = now + LIFETIME;
        self.allocations.insert(
            number,
            Allocation { meeting, ends: [end(by, Some(request)), end(of, None)], ports: None, expires },
        );
        self.expiries.insert((expires, number));
        self.by_meeting.insert(meeting, number);
        for peer in [by, of] {
            *self.shares.entry(peer).or_default() += 1;
        }
        Asked::Allocate { allocation: number }
    }

    /// The other end of the allocation of a meeting, which both have asked for once; `None` also where the peer is no end.
    pub(crate) fn other(&self, by: PeerId, meeting: MeetingId) -> Option<PeerId> {
        let [a, b] = &self.allocations.get(self.by_meeting.get(&meeting)?)?.ends;
        match by {
            by if by == a.peer => Some(b.peer),
            by if by == b.peer => Some(a.peer),
            _ => None,
        }
    }

    /// The forwarder has ports for both ends: what each is told.
    pub(crate) fn granted(&mut self, now: Instant, number: u64, ports: [u16; 2]) -> Option<[News; 2]> {
        let allocation = self.allocations.get_mut(&number).filter(|allocation| allocation.ports.is_none())?;
        allocation.ports = Some(ports);
        for end in &mut allocation.ends {
            end.bound = now;
        }
        let (meeting, [a, b]) = (allocation.meeting, &mut allocation.ends);
        let news = |end: &mut End, port| News { peer: end.peer, meeting, port, request: end.request.take() };
        let news = [news(a, ports[0]), news(b, ports[1])];
        self.renew(number);
        Some(news)
    }

    /// The forwarder has none: the requests to refuse.
    pub(crate) fn refused(&mut self, number: u64) -> Vec<(PeerId, u32)> {
        let Some(allocation) = self.remove(number) else { return Vec::new() };
        allocation.ends.iter().filter_map(|end| Some((end.peer, end.request?))).collect()
    }

    /// A peer binds its end: which of the two it is, and whether the place is another one than before. `None`: it has no
    /// such end, or the port is the other end's.
    pub(crate) fn bind(
        &mut self,
        now: Instant,
        peer: PeerId,
        number: u64,
        port: u16,
        place: (SocketAddr, Option<IpAddr>),
    ) -> Option<(usize, bool)> {
        let allocation = self.allocations.get_mut(&number)?;
        let ports = allocation.ports?;
        let at = allocation.ends.iter().position(|end| end.peer == peer).filter(|at| ports[*at] == port)?;
        let end = &mut allocation.ends[at];
        end.bound = now;
        let moved = end.place.replace(place) != Some(place);
        self.renew(number);
        Some((at, moved))
    }

    /// A peer gives an allocation back. False when it has no such allocation.
    pub(crate) fn release(&mut self, peer: PeerId, number: u64) -> bool {
        let is_end = |allocation: &Allocation| allocation.ends.iter().any(|end| end.peer == peer);
        self.allocations.get(&number).is_some_and(is_end) && self.remove(number).is_some()
    }

    /// Ends all allocations of a peer, and says which they were.
    pub(crate) fn forget(&mut self, peer: PeerId) -> Vec<u64> {
        let is_end = |allocation: &Allocation| allocation.ends.iter().any(|end| end.peer == peer);
        let numbers: Vec<_> = match self.shares.contains_key(&peer) {
            true => self.allocations.iter().filter(|(_, it)| is_end(it)).map(|(number, _)| *number).collect(),
            false => Vec::new(),
        };
        for number in &numbers {
            self.remove(*number);
        }
        numbers
    }

    /// Drops allocations that were not bound again, and says which they were.
    pub(crate) fn expire(&mut self, now: Instant) -> Vec<u64> {
        let mut ended = Vec::new();
        while let Some(&(at, number)) = self.expiries.first()
            && at <= now
        {
            self.remove(number);
            ended.push(number);
        }
        ended
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.expiries.first().map(|(at, _)| *at)
    }

    pub(crate) fn len(&self) -> usize {
        self.allocations.len()
    }

    /// An allocation lives as long as both of its ends do.
    fn renew(&mut self, number: u64) {
        let Some(allocation) = self.allocations.get_mut(&number) else { return };
        let expires = allocation.ends[0].bound.min(allocation.ends[1].bound) + LIFETIME;
        self.expiries.remove(&(allocation.expires, number));
        allocation.expires = expires;
        self.expiries.insert((expires, number));
    }

    fn remove(&mut self, number: u64) -> Option<Allocation> {
        let allocation = self.allocations.remove(&number)?;
        let [a, b] = &allocation.ends;
        self.by_meeting.remove(&allocation.meeting);
        self.expiries.remove(&(allocation.expires, number));
        for peer in [a.peer, b.peer] {
            if let Some(share) = self.shares.get_mut(&peer) {
                *share -= 1;
                if *share == 0 {
                    self.shares.remove(&peer);
                }
            }
        }
        Some(allocation)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(slot: u32) -> PeerId {
        PeerId { slot, generation: 1 }
    }

    /// What two call their meeting.
    fn meeting(one: u32, other: u32) -> MeetingId {
        let mut name = MeetingId::MIN;
        name.0[..4].copy_from_slice(&one.min(other).to_be_bytes());
        name.0[4..8].copy_from_slice(&one.max(other).to_be_bytes());
        name
    }

    fn place(port: u16) -> (SocketAddr, Option<IpAddr>) {
        (SocketAddr::new([192, 0, 2, 1].into(), port), None)
    }

    #[test]
    fn both_ends_get_a_port_each_and_are_bound_by_themselves_alone() {
        let (mut server, now) = (Server::default(), Instant::now());
        assert_eq!(server.ask(now, meeting(1, 2), [peer(1), peer(2)], 11, || 7), Asked::Allocate { allocation: 7 });
        assert_eq!(server.ask(now, meeting(1, 2), [peer(1), peer(2)], 11, || 8), Asked::Waits, "it was asked again");
        assert_eq!(server.bind(now, peer(1), 7, 5000, place(1)), None, "there are no ports");
        let news = server.granted(now, 7, [5000, 5001]).expect("an allocation");
        assert_eq!(news[0], News { peer: peer(1), meeting: meeting(1, 2), port: 5000, request: Some(11) });
        assert_eq!(news[1], News { peer: peer(2), meeting: meeting(1, 2), port: 5001, request: None });
        assert_eq!(server.granted(now, 7, [5002, 5003]), None, "once");
        assert_eq!(
            server.ask(now, meeting(2, 1), [peer(2), peer(1)], 12, || 9),
            Asked::Granted { allocation: 7, port: 5001 }
        );
        assert_eq!(server.bind(now, peer(1), 7, 5000, place(1)), Some((0, true)));
        assert_eq!(server.bind(now, peer(1), 7, 5000, place(1)), Some((0, false)));
        assert_eq!(server.bind(now, peer(2), 7, 5001, place(2)), Some((1, true)));
        assert_eq!(server.bind(now, peer(2), 7, 5000, place(3)), None, "the other's port");
        assert_eq!(server.bind(now, peer(3), 7, 5000, place(3)), None, "nobody's");
        assert!(!server.release(peer(3), 7) && server.release(peer(2), 7) && !server.release(peer(1), 7));
        assert_eq!((server.len(), server.due()), (0, None));
    }

    #[test]
    fn an_allocation_ends_when_either_end_is_gone() {
        let (mut server, start) = (Server::default(), Instant::now());
        let at = |s| start + Duration::from_secs(s);
        server.ask(start, meeting(1, 2), [peer(1), peer(2)], 1, || 7);
        server.granted(start, 7, [5000, 5001]);
        for second in [20, 40] {
            server.bind(at(second), peer(1), 7, 5000, place(1));
            server.bind(at(second), peer(2), 7, 5001, place(2));
        }
        server.bind(at(60), peer(1), 7, 5000, place(1));
        assert_eq!(server.due(), Some(at(100)));
        assert_eq!(server.expire(at(99)), []);
        assert_eq!(server.expire(at(100)), [7]);
        assert!(server.by_meeting.is_empty() && server.shares.is_empty() && server.expiries.is_empty());
    }

    #[test]
    fn shares_and_the_whole_are_bounded() {
        let (mut server, now) = (Server::default(), Instant::now());
        let mut number = 0;
        let mut ask = |server: &mut Server, by: u32, of: u32| {
            number += 1;
            server.ask(now, meeting(by, of), [peer(by), peer(of)], 1, || number) != Asked::Full
        };
        assert_eq!((0..100).filter(|of| ask(&mut server, 1, 100 + of)).count(), ALLOCATIONS_PER_PEER);
        assert!(!ask(&mut server, 50, 1), "also as the other end");
        assert!(!ask(&mut server, 50, 50));
        let all = (0..5000).filter(|by| ask(&mut server, 1000 + 2 * by, 1001 + 2 * by)).count();
        assert_eq!(all + ALLOCATIONS_PER_PEER, ALLOCATIONS_MAX);
        assert_eq!(server.forget(peer(1)).len(), ALLOCATIONS_PER_PEER);
        assert_eq!(server.refused(u64::MAX), []);
        assert!(ask(&mut server, 50, 1));
    }
}
