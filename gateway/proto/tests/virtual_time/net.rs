//! An internet in virtual time: realms of addresses with NAT boxes between them, and gateways in the realms.
//!
//! A datagram goes up through boxes until it finds its destination's address in a realm, travels there, and goes down
//! through boxes to whoever is meant. Nothing is left to chance but by a seed.

pub(crate) mod gateway;
pub(crate) mod nat;
pub(crate) mod relay;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use landbridge_proto::WallClock;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

use crate::world::TICK;
use gateway::{Gateway, Sent};
use nat::{Behaviour, Nat};

/// A realm: 0 is the internet, others are behind the box of that number less one.
pub(crate) type Realm = usize;
pub(crate) const INTERNET: Realm = 0;

/// A box, and the realm that it leads to.
pub(crate) struct Uplink {
    pub(crate) nat: Nat,
    pub(crate) outside: Realm,
}

/// Where a gateway is.
pub(crate) struct Site {
    pub(crate) realm: Realm,
    pub(crate) address: SocketAddr,
    /// Of every datagram that it sends or receives.
    pub(crate) delay: Duration,
    /// Nothing comes or goes.
    pub(crate) cut: bool,
    /// Further addresses in the same realm, as of other uplinks.
    pub(crate) uplinks: Vec<IpAddr>,
}

impl Site {
    fn has(&self, ip: IpAddr) -> bool {
        self.address.ip() == ip || self.uplinks.contains(&ip)
    }
}

struct UnderWay {
    from: SocketAddr,
    to: SocketAddr,
    bytes: Vec<u8>,
    at: Where,
}

/// How far a datagram has come.
#[derive(Clone, Copy)]
enum Where {
    /// In the realm where its destination's address is.
    Realm(Realm),
    /// On the last stretch, to this gateway.
    Site(usize),
}

pub(crate) struct Net {
    pub(crate) start: Instant,
    pub(crate) now: Instant,
    pub(crate) boxes: Vec<Uplink>,
    pub(crate) sites: Vec<Site>,
    pub(crate) gateways: Vec<Gateway>,
    pub(crate) loss_percent: u32,
    /// Of every way.
    pub(crate) mtu: usize,
    /// Places between which nothing passes, whoever sends.
    pub(crate) blocked: Vec<(IpAddr, IpAddr)>,
    /// What somebody on the way has copied of late, with its places, while anybody does.
    pub(crate) copied: Option<Vec<(SocketAddr, SocketAddr, Vec<u8>)>>,
    under_way: BTreeMap<(Instant, u64), UnderWay>,
    count: u64,
    /// Datagrams that reached nobody.
    pub(crate) lost: u64,
    rng: ChaCha20Rng,
    next_tick: Instant,
}

impl Net {
    pub(crate) fn new(seed: u8) -> Self {
        let start = Instant::now();
        Self {
            start,
            now: start,
            boxes: Vec::new(),
            sites: Vec::new(),
            gateways: Vec::new(),
            loss_percent: 0,
            mtu: 1500,
            blocked: Vec::new(),
            copied: None,
            under_way: BTreeMap::new(),
            count: 0,
            lost: 0,
            rng: ChaCha20Rng::from_seed([seed; 32]),
            next_tick: start + TICK,
        }
    }

    /// A box with this address in a realm; returns the realm behind it.
    pub(crate) fn add_box(&mut self, outside: Realm, address: [u8; 4], behaviour: Behaviour) -> Realm {
        let nat = Nat::new(address.into(), behaviour, self.boxes.len() as u8);
        self.boxes.push(Uplink { nat, outside });
        self.boxes.len()
    }

    /// A gateway with this address in a realm.
    pub(crate) fn add_gateway(&mut self, realm: Realm, address: [u8; 4]) -> usize {
        let at = self.gateways.len();
        let address = SocketAddr::new(address.into(), 51820);
        self.sites.push(Site { realm, address, delay: Duration::from_millis(5), cut: false, uplinks: vec![] });
        self.gateways.push(Gateway::new(self.start, at as u8 + 1));
        at
    }

    pub(crate) fn wall(&self) -> WallClock {
        crate::world::wall(self.start, self.now)
    }

    /// Runs for this long.
    pub(crate) fn run_for(&mut self, time: Duration) {
        let until = self.now + time;
        self.pump();
        loop {
            let timeouts = self.gateways.iter().filter_map(Gateway::due).min();
            let arrival = self.under_way.keys().next().map(|(at, _)| *at);
            let next = [timeouts, arrival, Some(self.next_tick)].into_iter().flatten().min().expect("a tick");
            if next > until {
                self.now = until;
                return;
            }
            self.now = self.now.max(next);
            let (now, wall) = (self.now, self.wall());
            let tick = self.next_tick <= now;
            if tick {
                self.next_tick += TICK;
            }
            for gateway in &mut self.gateways {
                if tick || gateway.due().is_some_and(|due| due <= now) {
                    gateway.run(now, wall, tick);
                }
            }
            self.pump();
            while let Some(entry) = self.under_way.first_entry() {
                if entry.key().0 > self.now {
                    break;
                }
                let datagram = entry.remove();
                self.arrive(datagram);
            }
        }
    }

    /// Runs until something holds, for this long at most; how long it took.
    pub(crate) fn run_until(&mut self, at_most: Duration, holds: impl Fn(&Self) -> bool) -> Option<Duration> {
        let begun = self.now;
        while self.now - begun < at_most {
            if holds(self) {
                return Some(self.now - begun);
            }
            self.run_for(Duration::from_millis(1));
        }
        holds(self).then_some(at_most)
    }

    /// Sends what gateways have to send.
    pub(crate) fn pump(&mut self) {
        let wall = self.wall();
        for at in 0..self.gateways.len() {
            let sent = self.gateways[at].take_sent(self.now, wall);
            for Sent { port, local, to, bytes, dont_fragment } in sent {
                let site = &self.sites[at];
                let ip = local.filter(|local| site.has(*local)).unwrap_or(site.address.ip());
                // Fragments of the others would arrive all the same.
                if !dont_fragment || bytes.len() + 28 <= self.mtu {
                    self.post(at, SocketAddr::new(ip, port), to, bytes);
                }
            }
        }
    }

    fn post(&mut self, at: usize, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        if self.sites[at].cut || self.rng.random_range(0..100) < self.loss_percent {
            return;
        }
        let Some((realm, from)) = self.go_up(self.sites[at].realm, from, to) else {
            self.lost += 1;
            return;
        };
        if self.blocked.iter().any(|(a, b)| (from.ip(), to.ip()) == (*a, *b) || (from.ip(), to.ip()) == (*b, *a)) {
            return;
        }
        if let Some(copied) = &mut self.copied {
            copied.push((from, to, bytes.clone()));
        }
        self.queue(at, UnderWay { from, to, bytes, at: Where::Realm(realm) });
    }

    /// A site's delay passes.
    fn queue(&mut self, site: usize, datagram: UnderWay) {
        self.count += 1;
        let key = (self.now + self.sites[site].delay, self.count);
        self.under_way.insert(key, datagram);
    }

    /// Through boxes to the realm where the destination's address is.
    fn go_up(&mut self, mut realm: Realm, mut from: SocketAddr, to: SocketAddr) -> Option<(Realm, SocketAddr)> {
        loop {
            let here = self.sites.iter().any(|site| site.realm == realm && site.has(to.ip()))
                || self.boxes.iter().any(|uplink| uplink.outside == realm && uplink.nat.address == to.ip());
            if here {
                return Some((realm, from));
            }
            let uplink = self.boxes.get_mut(realm.checked_sub(1)?)?;
            let hairpin = uplink.nat.address == to.ip();
            if hairpin && !uplink.nat.behaviour.hairpin {
                return None;
            }
            from = uplink.nat.outbound(self.now, from, to);
            realm = uplink.outside;
        }
    }

    /// Down through boxes to a gateway, and into it.
    fn arrive(&mut self, datagram: UnderWay) {
        let UnderWay { from, mut to, bytes, at } = datagram;
        let mut realm = match at {
            Where::Realm(realm) => realm,
            Where::Site(at) => {
                let (now, wall) = (self.now, self.wall());
                self.gateways[at].receive(now, wall, from, to, &bytes);
                return self.pump();
            }
        };
        loop {
            let site = self.sites.iter().position(|site| site.realm == realm && site.has(to.ip()));
            if let Some(at) = site {
                if !self.sites[at].cut {
                    self.queue(at, UnderWay { from, to, bytes, at: Where::Site(at) });
                }
                return;
            }
            let below = self.boxes.iter().position(|uplink| uplink.outside == realm && uplink.nat.address == to.ip());
            let inside = below.and_then(|at| self.boxes[at].nat.inbound(self.now, to.port(), from));
            let (Some(below), Some(inside)) = (below, inside) else {
                self.lost += 1;
                return;
            };
            (realm, to) = (below + 1, inside);
        }
    }
}
