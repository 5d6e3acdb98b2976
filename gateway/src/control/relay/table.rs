//! The relay's allocations: two ends each, each with a port, a number and, once it is bound, a place.
//!
//! Enters: who is to be relayed, where they are. Leaves: ports; commands to the thread, entries for the XDP program. Never
//! does: bind an end to one of our own addresses, or keep more allocations than there are ports and numbers for.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use landbridge_ebpf_common::RELAY_ENDS;
use landbridge_proto::DropReason;

use crate::relay::{Command, EndStats, NewEnd, Place, Relay, RelayRate, socket};
use crate::settings::RelaySettings;
use crate::steer::Steer;
use crate::steer::relay::{RelayKey, RelayOnward, RelayTally, SharedBucket};

/// A stock peer that was not heard for so long has to be found again: longer than its sessions last.
const LINK_LASTS: Duration = Duration::from_secs(190);
/// Ports that are tried for one end: others may have some of the range.
const TRIES: usize = 32;

/// Which allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Id {
    /// A configured link, by its place in the configuration.
    Link(usize),
    /// One that the endpoint has granted.
    Granted(u64),
}

/// One end.
#[derive(Debug)]
pub(super) struct End {
    /// The peer's public key.
    pub(super) key: [u8; 32],
    pub(super) port: u16,
    /// Its number with thread and program.
    pub(super) number: u32,
    pub(super) place: Option<Place>,
    /// When it was bound there.
    since: Option<Instant>,
    /// Its entry in the program.
    pub(super) in_program: Option<RelayKey>,
    pub(super) stats: Arc<EndStats>,
    /// A second handle, for the mark of what it sends.
    socket: UdpSocket,
    /// Where the peer's session comes from, for a stock peer.
    expected: Option<IpAddr>,
}

/// Two ends.
#[derive(Debug)]
pub(super) struct Allocation {
    pub(super) ends: [End; 2],
}

/// All allocations, and the thread that forwards for them.
#[derive(Debug)]
pub struct Relays {
    pub(super) settings: RelaySettings,
    /// Forwards what the XDP program does not.
    pub thread: Relay,
    rate: RelayRate,
    mark: Option<u32>,
    pub(super) allocations: BTreeMap<Id, Allocation>,
    /// Allocations by the numbers of their ends, halved.
    numbers: BTreeMap<u32, Id>,
    free_ports: BTreeSet<u16>,
    /// Our addresses.
    own: BTreeSet<IpAddr>,
    /// What ends have sent that are closed: by the program, by the thread.
    pub(super) past: [RelayTally; 2],
    pub(super) egress: super::egress::Egress,
}

impl Relays {
    /// No allocation.
    #[must_use]
    pub fn new(settings: &RelaySettings, thread: Relay, mark: Option<u32>, egress: super::egress::Egress) -> Self {
        let mut free_ports: BTreeSet<u16> = (settings.ports.first..=settings.ports.last).collect();
        for port in settings.links.iter().flat_map(|link| link.ports) {
            free_ports.remove(&port);
        }
        Self {
            settings: settings.clone(),
            thread,
            rate: RelayRate::of_mbps(settings.rate_mbps),
            mark,
            allocations: BTreeMap::new(),
            numbers: BTreeMap::new(),
            free_ports,
            own: BTreeSet::new(),
            past: [RelayTally::default(); 2],
            egress,
        }
    }

    /// Opens two ports for the owners of two keys, these or any two; `None` where there are none left.
    pub fn open(
        &mut self,
        steer: Option<&mut Steer>,
        id: Id,
        keys: [[u8; 32]; 2],
        ports: Option<[u16; 2]>,
    ) -> Option<[u16; 2]> {
        let number = (0..RELAY_ENDS / 2).find(|number| !self.numbers.contains_key(number))?;
        if self.allocations.contains_key(&id) {
            return None;
        }
        let (first, second) = match ports {
            Some([one, other]) => (self.bind_port(one)?, self.bind_port(other)?),
            None => {
                let first = self.any_port(0)?;
                let second = self.any_port(first.0)?;
                self.free_ports.remove(&first.0);
                self.free_ports.remove(&second.0);
                (first, second)
            }
        };
        let ports = [first.0, second.0];
        let ends = [(first, 0, keys[1]), (second, 1, keys[0])].map(|((port, socket), side, other)| {
            let number = number * 2 + side;
            let link = matches!(id, Id::Link(_)).then_some(other);
            let bucket = steer.as_ref().map(|steer| steer.relay_bucket(number));
            self.end(keys[side as usize], port, (number, bucket), socket, link)
        });
        let [Some(a), Some(b)] = ends else { return None };
        if let Some(steer) = steer {
            for end in [&a, &b] {
                if let Err(error) = steer.reset_relay(end.number) {
                    tracing::debug!(%error, "counters of the relay");
                }
            }
        }
        self.numbers.insert(number, id);
        self.allocations.insert(id, Allocation { ends: [a, b] });
        Some(ports)
    }

    fn end(
        &self,
        key: [u8; 32],
        port: u16,
        (number, bucket): (u32, Option<SharedBucket>),
        socket: UdpSocket,
        link: Option<[u8; 32]>,
    ) -> Option<End> {
        let stats = Arc::new(EndStats::default());
        let handle = socket.try_clone().ok()?;
        let new = NewEnd { end: number, socket, rate: self.rate, bucket, stats: Arc::clone(&stats), link };
        self.thread.tell(Command::Open(new));
        let end = End {
            key,
            port,
            number,
            place: None,
            since: None,
            in_program: None,
            stats,
            socket: handle,
            expected: None,
        };
        Some(end)
    }

    /// A free port above another one.
    fn any_port(&self, above: u16) -> Option<(u16, UdpSocket)> {
        self.free_ports.range(above.saturating_add(1)..).take(TRIES).find_map(|port| self.bind_port(*port))
    }

    fn bind_port(&self, port: u16) -> Option<(u16, UdpSocket)> {
        match socket::open(port, self.mark) {
            Ok(socket) => Some((port, socket)),
            Err(error) => {
                tracing::debug!(port, %error, "a port of the relay cannot be had");
                None
            }
        }
    }

    /// An end is at this place from here on, or nowhere.
    ///
    /// # Errors
    /// A place that is our own.
    pub fn bind(
        &mut self,
        steer: Option<&mut Steer>,
        id: Id,
        end: usize,
        place: Option<Place>,
    ) -> Result<(), DropReason> {
        let own = place.is_some_and(|place| self.is_own(place.remote.ip()));
        let Some(allocation) = self.allocations.get_mut(&id) else { return Ok(()) };
        let Some(end) = allocation.ends.get_mut(end) else { return Ok(()) };
        let place = place.filter(|_| !own);
        end.since = place.map(|_| Instant::now());
        end.place = place;
        self.thread.tell(Command::Bind(end.number, place));
        allocation.follow(steer, self.rate);
        if own { Err(DropReason::RelayLoop) } else { Ok(()) }
    }

    fn is_own(&self, address: IpAddr) -> bool {
        self.own.contains(&address) || address.is_loopback() || address.is_unspecified() || address.is_multicast()
    }

    /// Our addresses are these: an end that is bound to one of them is bound no more.
    pub fn set_own(&mut self, mut steer: Option<&mut Steer>, own: &BTreeSet<IpAddr>) {
        self.own.clone_from(own);
        let is_own = |end: &End| end.place.is_some_and(|place| own.contains(&place.remote.ip()));
        let ends = |(id, allocation): (&Id, &Allocation)| {
            let ends = allocation.ends.iter().enumerate().filter(|(_, end)| is_own(end));
            ends.map(|(at, _)| (*id, at)).collect::<Vec<_>>()
        };
        for (id, end) in self.allocations.iter().flat_map(ends).collect::<Vec<_>>() {
            let _unbound = self.bind(steer.as_deref_mut(), id, end, None);
        }
    }

    /// Closes the ports of an allocation.
    pub fn close(&mut self, mut steer: Option<&mut Steer>, id: Id) {
        let Some(mut allocation) = self.allocations.remove(&id) else { return };
        for end in &mut allocation.ends {
            end.place = None;
        }
        allocation.follow(steer.as_deref_mut(), self.rate);
        for end in allocation.ends {
            self.numbers.remove(&(end.number / 2));
            self.thread.tell(Command::Close(end.number));
            let [by_program, by_thread] = end.sent(steer.as_deref());
            add(&mut self.past[0], by_program);
            add(&mut self.past[1], by_thread);
            if self.settings.links.iter().all(|link| !link.ports.contains(&end.port)) {
                self.free_ports.insert(end.port);
            }
        }
    }

    /// The allocation that an end is of, by its number, and which end of it that is.
    #[must_use]
    pub fn of_number(&self, number: u32) -> Option<(Id, usize)> {
        Some((*self.numbers.get(&(number / 2))?, (number % 2) as usize))
    }

    /// The port of an end, by its number.
    #[must_use]
    pub fn port_of(&self, number: u32) -> Option<u16> {
        let (id, end) = self.of_number(number)?;
        Some(self.allocations.get(&id)?.ends[end].port)
    }

    /// Tells the thread where stock peers are to be expected. Until one is found it is bound where its session is: that is
    /// where it is, unless a NAT has another port of it for each place that it sends to.
    pub(super) fn expect(
        &mut self,
        mut steer: Option<&mut Steer>,
        session_of: impl Fn(&[u8; 32]) -> Option<(SocketAddr, Option<IpAddr>)>,
    ) {
        let mut bound = Vec::new();
        for (id, allocation) in self.allocations.iter_mut().filter(|(id, _)| matches!(id, Id::Link(_))) {
            for (at, end) in allocation.ends.iter_mut().enumerate() {
                let session = session_of(&end.key);
                let expected = session.map(|(remote, _)| remote.ip());
                if expected != end.expected {
                    end.expected = expected;
                    self.thread.tell(Command::Expect(end.number, expected));
                }
                // Where its session comes from elsewhere, so will what it has for the other one.
                if end.place.map(|place| place.remote.ip()) != expected || end.place.is_none() {
                    let there = session.and_then(|(remote, local)| Some(Place { remote, local: local? }));
                    if there != end.place {
                        bound.push((*id, at, there));
                    }
                }
            }
        }
        for (id, end, place) in bound {
            if self.bind(steer.as_deref_mut(), id, end, place).is_err() {
                tracing::debug!("a stock peer's session comes from an address of ours: it is not relayed");
            }
        }
    }

    /// Stock peers that were not heard for longer than a session lasts have to be found again.
    pub(super) fn forget_silent(&mut self, mut steer: Option<&mut Steer>, now: Instant) {
        let mut silent = Vec::new();
        for (id, allocation) in self.allocations.iter().filter(|(id, _)| matches!(id, Id::Link(_))) {
            for (at, end) in allocation.ends.iter().enumerate() {
                let Some(since) = end.since else { continue };
                let bound = now.saturating_duration_since(since);
                if end.silent(steer.as_deref(), now).unwrap_or(bound).min(bound) >= LINK_LASTS {
                    silent.push((*id, at));
                }
            }
        }
        for (id, end) in silent {
            let _unbound = self.bind(steer.as_deref_mut(), id, end, None);
        }
    }

    /// Marks what is sent from here on.
    ///
    /// # Errors
    /// What the kernel said.
    pub fn set_mark(&mut self, mark: Option<u32>) -> io::Result<()> {
        self.mark = mark;
        let mut ends = self.allocations.values().flat_map(|allocation| &allocation.ends);
        ends.try_for_each(|end| socket2::SockRef::from(&end.socket).set_mark(mark.unwrap_or(0)))
    }
}

impl Allocation {
    /// Brings the program's entries in step with the places of both ends.
    fn follow(&mut self, steer: Option<&mut Steer>, rate: RelayRate) {
        let Some(steer) = steer else { return };
        for end in &mut self.ends {
            if let Some(key) = end.in_program.take()
                && let Err(error) = steer.unbind_relay(&key)
            {
                tracing::warn!(%error, "an end stays with the XDP program that is bound no more");
            }
        }
        let [Some(a), Some(b)] = self.ends.each_ref().map(|end| end.place) else { return };
        let ports = self.ends.each_ref().map(|end| end.port);
        for (end, from, to, port) in [(0, a, b, ports[1]), (1, b, a, ports[0])] {
            let end = &mut self.ends[end];
            let key = RelayKey::new(from.remote, from.local, end.port);
            let onward = RelayOnward { remote: to.remote, local: to.local, port };
            match steer.bind_relay(key, onward, end.number, rate) {
                Ok(true) => end.in_program = Some(key),
                // Of two families: the thread forwards.
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "datagrams of an end are forwarded by the thread"),
            }
        }
    }
}

impl End {
    /// What it has sent by way of the program, and of the thread.
    pub(super) fn sent(&self, steer: Option<&Steer>) -> [RelayTally; 2] {
        let [packets, bytes, limited] = self.stats.counts();
        let by_thread = RelayTally { packets, bytes, limited, last_ns: 0 };
        let by_program = steer.and_then(|steer| steer.relay_tally(self.number).ok()).unwrap_or_default();
        [by_program, by_thread]
    }

    /// How long nothing has come from its place; `None`: nothing ever did.
    pub(super) fn silent(&self, steer: Option<&Steer>, now: Instant) -> Option<Duration> {
        let by_program = steer
            .and_then(|steer| steer.relay_tally(self.number).ok())
            .filter(|tally| tally.last_ns != 0)
            .map(|tally| crate::steer::relay::since(tally.last_ns));
        [by_program, self.stats.silent(now)].into_iter().flatten().min()
    }
}

/// Adds to a tally.
pub(super) fn add(sum: &mut RelayTally, more: RelayTally) {
    sum.packets += more.packets;
    sum.bytes += more.bytes;
    sum.limited += more.limited;
}
