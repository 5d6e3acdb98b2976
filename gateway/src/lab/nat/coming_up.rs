//! How a link between two sites comes up: from the moment that both are linked to an introducer.
//!
//! 1. The introducers run, and the first site is linked to one of them.
//! 2. The host behind it sends a steady stream to the host behind the other site; nothing arrives yet.
//! 3. The second site's gateway starts; once it is linked too, the clock starts.
//! 4. The first datagram that arrives, the first path that both gateways use, and the first direct one stop it.
//!
//! Enters: a scene. Leaves: [`ComingUp`], and each step to whoever listens. Never does: wait without an end. A
//! gateway is asked every few milliseconds, and the clock starts at the last answer that says "not linked": times are
//! upper bounds.

use std::time::{Duration, Instant};

use super::scene::{Member, Scene};
use crate::lab::stop::Stop;
use crate::lab::stream::{Record, Stream};
use crate::status::PeerStatus;
use crate::status::paths::PathStatus;

/// How long a gateway may take to be linked to an introducer, with all retries of a handshake.
const LINK_PATIENCE: Duration = Duration::from_secs(20);
/// Between two questions to a gateway.
const ASK_EVERY: Duration = Duration::from_millis(4);
/// How long the stream goes on over the path that was found.
const AFTER: Duration = Duration::from_millis(500);

/// What was seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A site is linked to an introducer.
    Linked(Member),
    /// The first datagram arrived, so long after both sites were linked.
    FirstPacket(Duration),
    /// Both gateways use a relay.
    Relayed(Duration),
    /// Both gateways use a path without a relay.
    Direct(Duration),
}

/// How it came up.
#[derive(Debug, Clone)]
pub struct ComingUp {
    /// To the first datagram that arrived.
    pub first_packet: Option<Duration>,
    /// To the first moment at which both gateways used a relay.
    pub relayed: Option<Duration>,
    /// To the first moment at which both gateways used another path.
    pub direct: Option<Duration>,
    /// What each gateway says of the other at the end.
    pub peers: [PeerStatus; 2],
    /// Datagrams sent and lost from the first that arrived to the end.
    pub sent: u64,
    /// Those lost.
    pub lost: u64,
    /// The longest time without an arrival meanwhile.
    pub longest_gap: Duration,
}

/// How long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// To go direct, before it counts as relayed.
    pub direct: Duration,
    /// Datagrams a second.
    pub per_second: u32,
}

impl ComingUp {
    /// The tier that both ends use: the worse of the two.
    #[must_use]
    pub fn tier(&self) -> Option<&str> {
        let tiers = self.peers.each_ref().map(tier);
        if tiers.contains(&Some("relayed")) { Some("relayed") } else { tiers[0].and(tiers[1]) }
    }
}

/// The tier of the path to a peer.
#[must_use]
pub fn tier(peer: &PeerStatus) -> Option<&str> {
    peer.paths.in_use.as_ref().and_then(|path| path.tier.as_deref())
}

/// Whether a peer is reached without a relay, by a path that was proven.
#[must_use]
pub fn is_direct(peer: &PeerStatus) -> bool {
    let proven = |path: &PathStatus| path.proven && path.tier.as_deref().is_some_and(|tier| tier != "relayed");
    peer.paths.in_use.as_ref().is_some_and(proven)
}

/// Has it come up.
///
/// # Errors
/// A gateway that does not start, a site that cannot be linked to an introducer, or [`crate::lab::stop::Interrupted`].
pub fn come_up(
    scene: &mut Scene,
    patience: Patience,
    stop: &Stop,
    mut tell: impl FnMut(Step),
) -> anyhow::Result<ComingUp> {
    for number in 0..scene.introducers.len() {
        scene.start(Member::Introducer(number))?;
        scene.gateway_mut(Member::Introducer(number))?.wait_until_ready(stop)?;
    }
    scene.start(Member::Site(0))?;
    scene.gateway_mut(Member::Site(0))?.wait_until_ready(stop)?;
    until_linked(scene, Member::Site(0), stop)?;
    tell(Step::Linked(Member::Site(0)));
    let stream = Stream::start(scene.path(), patience.per_second)?;
    let watched = (|| {
        scene.start(Member::Site(1))?;
        let zero = until_linked(scene, Member::Site(1), stop)?;
        tell(Step::Linked(Member::Site(1)));
        let seen = watch(scene, &stream, zero, patience.direct, stop, &mut tell)?;
        stop.sleep(AFTER)?;
        Ok::<_, anyhow::Error>(seen)
    })();
    let record = stream.finish()?;
    let seen = watched?;
    let peers = [scene.peer(Member::Site(0), Member::Site(1))?, scene.peer(Member::Site(1), Member::Site(0))?];
    Ok(report(&seen, &record, peers))
}

/// What [`watch`] saw.
struct Seen {
    first: Option<Instant>,
    zero: Instant,
    relayed: Option<Duration>,
    direct: Option<Duration>,
}

fn report(seen: &Seen, record: &Record, peers: [PeerStatus; 2]) -> ComingUp {
    let end = Instant::now();
    let since = seen.first.unwrap_or(end);
    let (sent, lost) = record.lost(since, end);
    ComingUp {
        first_packet: seen.first.map(|first| first.saturating_duration_since(seen.zero)),
        relayed: seen.relayed,
        direct: seen.direct,
        peers,
        sent,
        lost,
        longest_gap: record.longest_gap(since, record.end()),
    }
}

/// The last moment at which a site was not linked to any introducer.
fn until_linked(scene: &mut Scene, site: Member, stop: &Stop) -> anyhow::Result<Instant> {
    let end = Instant::now() + LINK_PATIENCE;
    loop {
        let asked = Instant::now();
        let linked = (0..scene.introducers.len()).any(|number| {
            let peer = scene.peer(site, Member::Introducer(number));
            peer.is_ok_and(|peer| peer.last_handshake_seconds_ago.is_some())
        });
        if linked {
            return Ok(asked);
        }
        scene.gateway_mut(site)?.check()?;
        let name = site.name();
        anyhow::ensure!(asked < end, "{name} is not linked to an introducer in {LINK_PATIENCE:?}\n{}", scene.logs());
        stop.sleep(ASK_EVERY)?;
    }
}

fn watch(
    scene: &mut Scene,
    stream: &Stream,
    zero: Instant,
    patience: Duration,
    stop: &Stop,
    tell: &mut impl FnMut(Step),
) -> anyhow::Result<Seen> {
    let mut seen = Seen { first: None, zero, relayed: None, direct: None };
    while zero.elapsed() < patience && !(seen.direct.is_some() && seen.first.is_some()) {
        stop.sleep(ASK_EVERY)?;
        if seen.first.is_none()
            && let Some(first) = stream.first()
        {
            seen.first = Some(first);
            tell(Step::FirstPacket(first.saturating_duration_since(zero)));
        }
        let peers = [scene.peer(Member::Site(0), Member::Site(1))?, scene.peer(Member::Site(1), Member::Site(0))?];
        let since = peers.iter().filter_map(|peer| peer.paths.since_seconds).fold(f64::INFINITY, f64::min);
        let at = (zero.elapsed()).saturating_sub(Duration::from_secs_f64(since.clamp(0.0, 1e6)));
        if seen.direct.is_none() && peers.iter().all(is_direct) {
            seen.direct = Some(at);
            tell(Step::Direct(at));
        } else if seen.relayed.is_none() && peers.iter().all(|peer| tier(peer) == Some("relayed")) {
            seen.relayed = Some(at);
            tell(Step::Relayed(at));
        }
    }
    for site in [Member::Site(0), Member::Site(1)] {
        scene.gateway_mut(site)?.check()?;
    }
    Ok(seen)
}
