//! What is told of paths.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::PeerId;
use crate::candidate::{Candidate, CandidateKind, Nat, Refused};

/// How good a kind of path is; lower ones are taken first, whatever their round trips.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Tier {
    /// Within one private network.
    Local = 0,
    /// From one gateway to the other over the internet, through whichever NATs let it pass.
    Direct = 1,
    /// Over a port that a router forwards on request.
    Mapped = 2,
    /// Over a port of another gateway.
    Relayed = 3,
}

impl Tier {
    /// All tiers, the best one first.
    pub const ALL: [Self; 4] = [Self::Local, Self::Direct, Self::Mapped, Self::Relayed];

    /// For people and labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Direct => "direct",
            Self::Mapped => "mapped",
            Self::Relayed => "relayed",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

/// Why a path is the one in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathReason {
    /// It is where the configuration says.
    Configured,
    /// A handshake came by it.
    Handshake,
    /// The peer sends from there, and the path before was silent.
    Roamed,
    /// A probe proved it, and none was in use.
    Proven,
    /// A probe proved it, and its tier is better.
    BetterTier,
    /// Its round trip is shorter.
    Faster,
    /// It begins at the uplink that the routes prefer, and is as good.
    Preferred,
    /// The path before has not answered for a moment: it is taken again as soon as it does.
    OtherSilent,
    /// The path before does not answer any more.
    OtherDead,
    /// The path before may not be used any more: its address or its allocation is gone, or the configuration changed.
    OtherGone,
}

impl PathReason {
    /// All reasons.
    pub const ALL: [Self; 10] = [
        Self::Configured,
        Self::Handshake,
        Self::Roamed,
        Self::Proven,
        Self::BetterTier,
        Self::Faster,
        Self::Preferred,
        Self::OtherSilent,
        Self::OtherDead,
        Self::OtherGone,
    ];

    /// For people and labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Configured => "configured",
            Self::Handshake => "handshake",
            Self::Roamed => "roamed",
            Self::Proven => "proven",
            Self::BetterTier => "better_tier",
            Self::Faster => "faster",
            Self::Preferred => "preferred",
            Self::OtherSilent => "other_silent",
            Self::OtherDead => "other_dead",
            Self::OtherGone => "other_gone",
        }
    }
}

impl fmt::Display for PathReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configured => "as configured",
            Self::Handshake => "a handshake came by it",
            Self::Roamed => "the peer sends from there",
            Self::Proven => "proven by probe",
            Self::BetterTier => "a better tier, proven by probe",
            Self::Faster => "a shorter round trip",
            Self::Preferred => "the uplink that the routes prefer",
            Self::OtherSilent => "the path before is silent",
            Self::OtherDead => "the path before does not answer",
            Self::OtherGone => "the path before is gone",
        })
    }
}

/// A path, or the place in use while it is not proven to be one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PathView {
    /// The peer's end.
    pub remote: SocketAddr,
    /// Our end; `None` leaves it to the kernel.
    pub local: Option<IpAddr>,
    /// How the peer's end is known.
    pub kind: CandidateKind,
    /// How good it is.
    pub tier: Tier,
    /// Whether a probe has proven it and none has refuted it since.
    pub proven: bool,
    /// Whether it is the one in use.
    pub in_use: bool,
    /// Smoothed round trip.
    pub rtt: Option<Duration>,
    /// Probes that were not answered, of the last ones, per mille.
    pub loss_permille: u16,
    /// The largest outer IP packet that was seen to get through; `None` while unknown.
    pub mtu: Option<u16>,
    /// When it was last seen to deliver.
    pub heard: Option<Instant>,
}

/// What became of a candidate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CandidateState {
    /// It is not checked: it need not be, or may not.
    Known,
    /// It is being checked.
    Checking,
    /// A probe proved it.
    Proven,
    /// Nobody answered.
    Failed,
}

impl CandidateState {
    /// For people and labels.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Known => "known",
            Self::Checking => "checking",
            Self::Proven => "proven",
            Self::Failed => "failed",
        }
    }
}

/// A candidate of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CandidateView {
    /// The candidate.
    pub candidate: Candidate,
    /// What became of it, from whichever address of ours got furthest.
    pub state: CandidateState,
}

/// All that is known of the ways to a peer.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PathsView {
    /// The path in use.
    pub in_use: Option<PathView>,
    /// Since when, and why.
    pub since: Option<(Instant, PathReason)>,
    /// How often the path in use changed.
    pub changes: u64,
    /// All paths that were proven, the one in use among them.
    pub paths: Vec<PathView>,
    /// The peer's candidates.
    pub candidates: Vec<CandidateView>,
    /// What was said of the peer last that is never tried, and why.
    pub refused: Vec<(Candidate, Refused)>,
    /// The peer's NAT, as it says itself.
    pub nat: Nat,
    /// How often a keepalive keeps a NAT's binding; `None` where none is needed.
    pub keepalive: Option<Duration>,
    /// The gateways that introduce us to it.
    pub introducers: Vec<PeerId>,
    /// The gateway that relays between us.
    pub relay: Option<PeerId>,
}
