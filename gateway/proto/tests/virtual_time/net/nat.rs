//! NAT boxes in the terms of RFC 4787: how they choose a port, whom they let in, how long they remember.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha20Rng;

/// What a mapping or a filter depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    Nothing,
    Address,
    AddressAndPort,
}

/// What of a remote place counts: its address, its port.
type Whom = (Option<IpAddr>, Option<u16>);

impl By {
    /// What of a remote place counts.
    fn of(self, remote: SocketAddr) -> Whom {
        match self {
            Self::Nothing => (None, None),
            Self::Address => (Some(remote.ip()), None),
            Self::AddressAndPort => (Some(remote.ip()), Some(remote.port())),
        }
    }
}

/// How a box behaves.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Behaviour {
    pub(crate) mapping: By,
    pub(crate) filtering: By,
    pub(crate) hairpin: bool,
    pub(crate) lifetime: Duration,
}

pub(crate) const LIFETIME: Duration = Duration::from_secs(60);
pub(crate) const FULL_CONE: Behaviour = behaviour(By::Nothing, By::Nothing);
pub(crate) const RESTRICTED: Behaviour = behaviour(By::Nothing, By::Address);
pub(crate) const PORT_RESTRICTED: Behaviour = behaviour(By::Nothing, By::AddressAndPort);
pub(crate) const SYMMETRIC: Behaviour = behaviour(By::AddressAndPort, By::AddressAndPort);

const fn behaviour(mapping: By, filtering: By) -> Behaviour {
    Behaviour { mapping, filtering, hairpin: false, lifetime: LIFETIME }
}

#[derive(Debug)]
struct Binding {
    port: u16,
    used: Instant,
    /// Where packets went, and when.
    contacted: BTreeMap<Whom, Instant>,
}

/// A box.
#[derive(Debug)]
pub(crate) struct Nat {
    pub(crate) address: IpAddr,
    pub(crate) behaviour: Behaviour,
    /// Ports that a router forwards on request.
    pub(crate) forwarded: BTreeMap<u16, SocketAddr>,
    bindings: BTreeMap<(SocketAddr, Whom), Binding>,
    rng: ChaCha20Rng,
}

impl Nat {
    pub(crate) fn new(address: IpAddr, behaviour: Behaviour, seed: u8) -> Self {
        let rng = ChaCha20Rng::from_seed([seed; 32]);
        Self { address, behaviour, forwarded: BTreeMap::new(), bindings: BTreeMap::new(), rng }
    }

    /// A packet goes out: how it looks outside.
    pub(crate) fn outbound(&mut self, now: Instant, inside: SocketAddr, remote: SocketAddr) -> SocketAddr {
        self.forget(now);
        let place = (inside, self.behaviour.mapping.of(remote));
        let port = match self.bindings.get(&place) {
            Some(binding) => binding.port,
            None => self.choose(inside.port()),
        };
        let binding =
            self.bindings.entry(place).or_insert_with(|| Binding { port, used: now, contacted: BTreeMap::new() });
        binding.used = now;
        binding.contacted.insert(self.behaviour.filtering.of(remote), now);
        SocketAddr::new(self.address, port)
    }

    /// A packet comes in to a port: for whom it is, if anybody may have it.
    pub(crate) fn inbound(&mut self, now: Instant, port: u16, from: SocketAddr) -> Option<SocketAddr> {
        self.forget(now);
        if let Some(inside) = self.forwarded.get(&port) {
            return Some(*inside);
        }
        let (filtering, lifetime) = (self.behaviour.filtering, self.behaviour.lifetime);
        let (place, binding) = self.bindings.iter().find(|(_, binding)| binding.port == port)?;
        let contacted = binding.contacted.get(&filtering.of(from))?;
        (now.saturating_duration_since(*contacted) < lifetime).then_some(place.0)
    }

    /// How many bindings there are.
    pub(crate) fn len(&self) -> usize {
        self.bindings.len()
    }

    /// Boxes that map independently keep the port where they can, the others draw one.
    fn choose(&mut self, wished: u16) -> u16 {
        let taken = |port: u16| self.bindings.values().any(|binding| binding.port == port);
        if self.behaviour.mapping == By::Nothing && !taken(wished) {
            return wished;
        }
        loop {
            let port = self.rng.random_range(1024..=u16::MAX);
            if !self.bindings.values().any(|binding| binding.port == port) {
                return port;
            }
        }
    }

    /// It restarts.
    pub(crate) fn forget_all(&mut self) {
        self.bindings.clear();
    }

    fn forget(&mut self, now: Instant) {
        let lifetime = self.behaviour.lifetime;
        self.bindings.retain(|_, binding| now.saturating_duration_since(binding.used) < lifetime);
    }
}

#[test]
fn each_kind_of_box_maps_and_filters_as_it_is_called() {
    let now = Instant::now();
    let at = |text: &str| text.parse::<SocketAddr>().expect("a place");
    let inside = at("10.0.0.2:51820");
    let (first, other_port, other) = (at("192.0.2.1:1"), at("192.0.2.1:2"), at("192.0.2.9:1"));
    let lets_in = |behaviour: Behaviour| {
        let mut nat = Nat::new([198, 51, 100, 1].into(), behaviour, 1);
        let seen = nat.outbound(now, inside, first);
        let same = nat.outbound(now, inside, other).port() == seen.port();
        let mut nat = Nat::new([198, 51, 100, 1].into(), behaviour, 1);
        let port = nat.outbound(now, inside, first).port();
        (same, [first, other_port, other].map(|from| nat.inbound(now, port, from).is_some()))
    };
    assert_eq!(lets_in(FULL_CONE), (true, [true, true, true]));
    assert_eq!(lets_in(RESTRICTED), (true, [true, true, false]));
    assert_eq!(lets_in(PORT_RESTRICTED), (true, [true, false, false]));
    assert_eq!(lets_in(SYMMETRIC), (false, [true, false, false]));
    let mut nat = Nat::new([198, 51, 100, 1].into(), FULL_CONE, 1);
    let port = nat.outbound(now, inside, first).port();
    assert_eq!((nat.inbound(now + LIFETIME, port, first), nat.len()), (None, 0), "bindings end");
}
