//! The search for a port that a NAT has drawn: many guesses at many ports meet, as birthdays do.
//!
//! One side is behind a NAT that draws another port for every remote place, the other behind one that keeps its port but lets
//! nobody in to whom nothing was sent. The first opens many sockets and sends from each of them to the other's one place:
//! so its NAT has as many ports open for that place. The other guesses: it sends to random ports of the first's address,
//! and one that is open lets it in. With 256 sockets and 2,048 guesses that fails three times in ten thousand.
//!
//! With a session by a relay, what is sent are probes sealed in it. Without one it is one initiation, the same bytes to every
//! place: only an introducer says then that somebody is there, so fewer guesses are made, and only few such searches by all
//! peers together.
//!
//! Enters: the behaviour of both NATs, time. Leaves: who does what, and which ports are guessed. Never does: send.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::candidate::{Behaviour, Nat};

/// Sockets that one side opens.
pub(crate) const SOCKETS: u16 = 256;
/// Guesses of the other side, in a session.
const GUESSES: u32 = 2048;
/// The same without a session: they fail twice in a hundred times.
const GUESSES_BLIND: u32 = 1024;
/// Probes from sockets, and guesses, at a time.
const BATCH: u32 = 32;
/// Between two batches.
pub(crate) const PACE: Duration = Duration::from_millis(10);
/// How long the sockets are kept for nothing.
pub(crate) const OPEN_FOR: Duration = Duration::from_secs(3);
/// The mean time between two searches for one peer, and how many there may be at first.
const AGAIN_EVERY: Duration = Duration::from_secs(1800);
const AGAIN_BURST: u32 = 3;
/// The mean time between two searches on the word of introducers, whoever is sought, and how many there may be at once: what
/// is sent to strangers by their lies is about a hundred datagrams a second at most in the long run.
pub(crate) const BLIND_EVERY: Duration = Duration::from_secs(10);
pub(crate) const BLIND_BURST: u32 = 3;
/// Ports that NATs draw from.
const PORTS: std::ops::RangeInclusive<u16> = 1024..=u16::MAX;
/// Has no factor in common with the number of ports: multiples of it are different ports.
const STRIDE: u32 = 30_011;

/// Who does what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// Opens the sockets, and begins.
    Opens,
    /// Guesses.
    Guesses,
}

/// Our part in a search; `None` where it is of no use: other NATs let the ordinary checks through, or none at all.
pub(crate) fn role(ours: Nat, theirs: Nat) -> Option<Role> {
    let draws = |nat: Nat| nat.mapping.is_dependent();
    let keeps = |nat: Nat| {
        let filters = matches!(nat.filtering, Behaviour::AddressAndPortDependent | Behaviour::Unknown);
        // One that was seen at one address alone is not known; a search in vain costs little.
        matches!(nat.mapping, Behaviour::EndpointIndependent | Behaviour::Unknown) && filters
    };
    match (draws(ours) && keeps(theirs), keeps(ours) && draws(theirs)) {
        (true, _) => Some(Role::Opens),
        (_, true) => Some(Role::Guesses),
        _ => None,
    }
}

/// Whether the behaviour that a search is for is known of both, so that nothing else need be tried first.
pub(crate) fn are_known(ours: Nat, theirs: Nat) -> bool {
    let is_known = |nat: Nat| nat.mapping.is_dependent() || nat.filtering != Behaviour::Unknown;
    [ours, theirs].into_iter().all(|nat| nat.mapping != Behaviour::Unknown && is_known(nat))
}

/// What a search sends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Means {
    /// Probes, sealed in a session that a relay carries.
    Probes,
    /// The initiation of a session that there is not yet.
    Initiations,
}

/// A search under way.
#[derive(Debug)]
pub(crate) enum Spray {
    /// From sockets of ours, of which so many have sent, to the other's place.
    Opens { remote: SocketAddr, sent: u16, begun: Instant },
    /// To ports of the other's address.
    Guesses { ip: IpAddr, first: u16, sent: u32, of: u32 },
}

impl Spray {
    pub(crate) const fn opens(now: Instant, remote: SocketAddr) -> Self {
        Self::Opens { remote, sent: 0, begun: now }
    }

    /// `first` is drawn.
    pub(crate) const fn guesses(ip: IpAddr, first: u16, means: Means) -> Self {
        let of = match means {
            Means::Probes => GUESSES,
            Means::Initiations => GUESSES_BLIND,
        };
        Self::Guesses { ip, first, sent: 0, of }
    }

    /// Whether all is sent.
    pub(crate) fn is_said(&self) -> bool {
        match self {
            Self::Opens { sent, .. } => *sent >= SOCKETS,
            Self::Guesses { sent, of, .. } => sent >= of,
        }
    }

    /// Whether it has come to its end without a success.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        match self {
            Self::Opens { begun, .. } => now.saturating_duration_since(*begun) >= OPEN_FOR,
            Self::Guesses { .. } => self.is_said(),
        }
    }

    /// The probes of the next batch: the number of the socket that each leaves from, if it is one of the search's, and where
    /// it goes.
    pub(crate) fn batch(&mut self) -> Vec<(Option<u16>, SocketAddr)> {
        match self {
            Self::Opens { remote, sent, .. } => {
                let sockets = *sent..SOCKETS.min(*sent + BATCH as u16);
                *sent = sockets.end;
                sockets.map(|socket| (Some(socket), *remote)).collect()
            }
            Self::Guesses { ip, first, sent, of } => {
                let guesses = *sent..(*of).min(*sent + BATCH);
                *sent = guesses.end;
                guesses.map(|guess| (None, SocketAddr::new(*ip, port(*first, guess)))).collect()
            }
        }
    }
}

/// The port of a guess: each of them another one.
fn port(first: u16, guess: u32) -> u16 {
    let count = u32::from(*PORTS.end()) - u32::from(*PORTS.start()) + 1;
    PORTS.start() + ((u32::from(first) + guess * STRIDE) % count) as u16
}

/// Until when searches for a peer have used up its share; `None` when one more is too many.
pub(crate) fn admit(now: Instant, used_until: Option<Instant>) -> Option<Instant> {
    let used = used_until.map_or(now, |until| until.max(now)) + AGAIN_EVERY;
    (used.saturating_duration_since(now) <= AGAIN_EVERY * AGAIN_BURST).then_some(used)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    const SYMMETRIC: Nat =
        Nat { mapping: Behaviour::AddressAndPortDependent, filtering: Behaviour::AddressAndPortDependent };
    const PORT_RESTRICTED: Nat =
        Nat { mapping: Behaviour::EndpointIndependent, filtering: Behaviour::AddressAndPortDependent };

    #[test]
    fn only_a_nat_that_draws_ports_and_one_that_keeps_them_are_searched() {
        assert_eq!(role(SYMMETRIC, PORT_RESTRICTED), Some(Role::Opens));
        assert_eq!(role(PORT_RESTRICTED, SYMMETRIC), Some(Role::Guesses));
        assert_eq!(role(SYMMETRIC, Nat::default()), Some(Role::Opens));
        let cone = Nat { mapping: Behaviour::EndpointIndependent, filtering: Behaviour::EndpointIndependent };
        let none = Nat { mapping: Behaviour::None, filtering: Behaviour::None };
        for (ours, theirs) in [
            (SYMMETRIC, SYMMETRIC),
            (PORT_RESTRICTED, PORT_RESTRICTED),
            (SYMMETRIC, cone),
            (SYMMETRIC, none),
            (Nat::default(), Nat::default()),
            (Nat::default(), PORT_RESTRICTED),
        ] {
            assert_eq!((role(ours, theirs), role(theirs, ours)), (None, None), "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn every_socket_sends_once_and_every_guess_is_another_port() {
        let now = Instant::now();
        let place = "192.0.2.1:5000".parse().expect("a place");
        let mut opens = Spray::opens(now, place);
        let sent: Vec<_> = std::iter::repeat_with(|| opens.batch()).take(20).flatten().collect();
        assert_eq!(sent, (0..SOCKETS).map(|socket| (Some(socket), place)).collect::<Vec<_>>());
        assert!(!opens.is_over(now) && opens.is_over(now + OPEN_FOR));
        for first in [0, 1, 30_000, u16::MAX] {
            let mut guesses = Spray::guesses(place.ip(), first, Means::Probes);
            let mut ports = BTreeSet::new();
            while !guesses.is_over(now) {
                ports.extend(guesses.batch().iter().map(|(_, place)| place.port()));
            }
            assert_eq!(ports.len(), GUESSES as usize);
            assert!(ports.iter().all(|port| *port >= 1024));
            let mut blind = Spray::guesses(place.ip(), first, Means::Initiations);
            let sent: usize = std::iter::repeat_with(|| blind.batch().len()).take(1000).sum();
            assert_eq!((sent, blind.is_said()), (GUESSES_BLIND as usize, true));
        }
    }

    #[test]
    fn searches_are_few() {
        let start = Instant::now();
        let mut used = None;
        let admitted = (0..86_400).filter(|second| {
            let next = admit(start + Duration::from_secs(*second), used);
            used = next.or(used);
            next.is_some()
        });
        assert_eq!(admitted.count() as u32, 86_400 / 1800 + AGAIN_BURST - 1);
    }
}
