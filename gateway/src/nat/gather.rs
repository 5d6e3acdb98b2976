//! One list of candidates from all that is known.
//!
//! Enters: addresses of interfaces, what servers and peers saw, what routers granted. Leaves: at most [`CANDIDATES_MAX`]
//! candidates. Never does: name a place twice.

use std::net::{IpAddr, SocketAddr};

use landbridge_proto::candidate::{CANDIDATES_MAX, Candidate, CandidateKind};

/// What is known.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sources<'s> {
    /// Addresses of interfaces, the best first.
    pub hosts: &'s [IpAddr],
    /// The port that all sockets of the tunnel have.
    pub port: u16,
    /// Ports that routers forward to us.
    pub mapped: &'s [SocketAddr],
    /// Where servers saw us.
    pub stun: &'s [SocketAddr],
    /// Where peers saw us.
    pub observed: &'s [SocketAddr],
}

/// The candidates. A place that is known in several ways is listed by the first of: our own address, mapped, STUN, observed;
/// where there are too many, our own addresses beyond the first few go first.
#[must_use]
pub fn gather(sources: Sources<'_>) -> Vec<Candidate> {
    let of = |kind, addresses: &[SocketAddr]| {
        addresses.iter().map(|address| Candidate { kind, address: *address }).collect::<Vec<_>>()
    };
    let hosts: Vec<_> = sources.hosts.iter().map(|address| SocketAddr::new(*address, sources.port)).collect();
    let mut candidates = Vec::new();
    let all = [
        of(CandidateKind::Host, &hosts),
        of(CandidateKind::Mapped, sources.mapped),
        of(CandidateKind::Stun, sources.stun),
        of(CandidateKind::Observed, sources.observed),
    ];
    for candidate in all.into_iter().flatten() {
        if !candidates.iter().any(|known: &Candidate| known.address == candidate.address) {
            candidates.push(candidate);
        }
    }
    while candidates.len() > CANDIDATES_MAX {
        let least = candidates.iter().rposition(|candidate| candidate.kind == CandidateKind::Host);
        let hosts = candidates.iter().filter(|candidate| candidate.kind == CandidateKind::Host).count();
        candidates.remove(least.filter(|_| hosts > 2).unwrap_or(candidates.len() - 1));
    }
    candidates
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_named_once_and_what_others_see_outlasts_our_own_addresses() {
        let hosts: Vec<IpAddr> = (1..=8).map(|host| IpAddr::from([10, 0, 0, host])).collect();
        let outside = |port| SocketAddr::from(([198, 51, 100, 1], port));
        let sources = Sources {
            hosts: &hosts,
            port: 51820,
            mapped: &[outside(51820)],
            stun: &[outside(51820), outside(2), SocketAddr::new(hosts[0], 51820)],
            observed: &[outside(2), outside(3), outside(4), outside(5), outside(6)],
        };
        let found = gather(sources);
        let count = |kind| found.iter().filter(|candidate| candidate.kind == kind).count();
        assert_eq!(found.len(), CANDIDATES_MAX);
        use CandidateKind::{Host, Mapped, Observed, Stun};
        assert_eq!([Host, Mapped, Stun, Observed].map(count), [6, 1, 1, 4]);
        let many: Vec<_> = (1..100).map(outside).collect();
        let found = gather(Sources { hosts: &hosts, port: 51820, observed: &many, ..Sources::default() });
        assert_eq!((found.len(), found[1].kind, found[2].kind), (CANDIDATES_MAX, Host, Observed));
        assert!(gather(Sources::default()).is_empty());
    }
}
