//! What a stream between two sites goes through while the network below it changes.
//!
//! Enters: a scene whose link is up, a fault, and what ends it. Leaves: losses, gaps, and the tiers before and after.
//! Never does: wait without an end.

use std::time::{Duration, Instant};

use super::coming_up::{is_direct, tier};
use super::scene::{Member, Scene};
use crate::lab::stop::Stop;
use crate::lab::stream::{Record, Stream};
use crate::status::PeerStatus;

/// How long the stream runs before the first change and after the last one.
const CALM: Duration = Duration::from_secs(2);
const ASK_EVERY: Duration = Duration::from_millis(10);

/// One change and what it did to the stream.
#[derive(Debug, Clone)]
pub struct Change {
    /// Datagrams sent from the change until the calm after it.
    pub sent: u64,
    /// Those that did not arrive.
    pub lost: u64,
    /// The longest time without an arrival.
    pub longest_gap: Duration,
    /// Until both gateways said what was waited for; `None` for not in time.
    pub settled: Option<Duration>,
    /// The tier at the end of the calm.
    pub tier: Option<String>,
}

/// All of a stream.
#[derive(Debug, Clone)]
pub struct Changes {
    /// Every change, in order.
    pub changes: Vec<Change>,
    /// Datagrams sent in all.
    pub sent: u64,
    /// Those that did not arrive.
    pub lost: u64,
    /// How long it ran.
    pub seconds: f64,
    /// Packets that the gateways dropped as seen before or behind the replay window.
    pub outside_window: u64,
    /// Datagrams that arrived behind one that was sent later.
    pub overtaken: u64,
}

/// Something that happens to the network, and what is waited for then.
pub struct Event<'e> {
    /// What happens.
    pub happens: &'e mut dyn FnMut(&mut Scene) -> anyhow::Result<()>,
    /// What both gateways should say of each other afterwards.
    pub until: &'e dyn Fn(&PeerStatus) -> bool,
    /// How long that may take.
    pub patience: Duration,
}

/// Sends a stream through all of it.
///
/// # Errors
/// A fault that cannot be made, a gateway that ended, or [`crate::lab::stop::Interrupted`].
pub fn go_through(
    scene: &mut Scene,
    per_second: u32,
    events: &mut [Event<'_>],
    stop: &Stop,
) -> anyhow::Result<Changes> {
    let before = replayed(scene)?;
    let stream = Stream::start(scene.path(), per_second)?;
    let done = (|| {
        stop.sleep(CALM)?;
        events.iter_mut().map(|event| one(scene, event, stop)).collect::<anyhow::Result<Vec<_>>>()
    })();
    let record = stream.finish()?;
    let changes = done?.into_iter().map(|seen| seen.change(&record)).collect();
    let (sent, lost) = record.lost(record.began, record.end() + ASK_EVERY);
    Ok(Changes {
        changes,
        sent,
        lost,
        seconds: record.end().duration_since(record.began).as_secs_f64(),
        outside_window: replayed(scene)?.saturating_sub(before),
        overtaken: record.overtaken,
    })
}

/// A direct path that dies while both sites still reach the relay, and comes back.
///
/// # Errors
/// As of [`go_through`].
pub fn leave_and_return(scene: &mut Scene, per_second: u32, stop: &Stop) -> anyhow::Result<Changes> {
    let mut part = |scene: &mut Scene| scene.internet.part(&scene.sites[0].uplinks[0], &scene.sites[1].uplinks[0]);
    let mut join = |scene: &mut Scene| scene.internet.join();
    let mut events = [
        Event { happens: &mut part, until: &|peer| tier(peer) == Some("relayed"), patience: Duration::from_secs(10) },
        Event { happens: &mut join, until: &is_direct, patience: Duration::from_secs(45) },
    ];
    go_through(scene, per_second, &mut events, stop)
}

struct Seen {
    began: Instant,
    ended: Instant,
    settled: Option<Duration>,
    tier: Option<String>,
}

impl Seen {
    fn change(self, record: &Record) -> Change {
        let (sent, lost) = record.lost(self.began, self.ended);
        let longest_gap = record.longest_gap(self.began, self.ended);
        Change { sent, lost, longest_gap, settled: self.settled, tier: self.tier }
    }
}

fn one(scene: &mut Scene, event: &mut Event<'_>, stop: &Stop) -> anyhow::Result<Seen> {
    let began = Instant::now();
    (event.happens)(scene)?;
    let mut settled = None;
    while settled.is_none() && began.elapsed() < event.patience {
        stop.sleep(ASK_EVERY)?;
        if both(scene)?.iter().all(event.until) {
            settled = Some(began.elapsed());
        }
    }
    stop.sleep(CALM)?;
    for site in [Member::Site(0), Member::Site(1)] {
        scene.gateway_mut(site)?.check()?;
    }
    let peers = both(scene)?;
    let tiers = peers.each_ref().map(tier);
    let worse = if tiers.contains(&Some("relayed")) { Some("relayed") } else { tiers[0] };
    Ok(Seen { began, ended: Instant::now(), settled, tier: worse.map(str::to_owned) })
}

fn both(scene: &Scene) -> anyhow::Result<[PeerStatus; 2]> {
    let [a, b] = [Member::Site(0), Member::Site(1)];
    Ok([scene.peer(a, b)?, scene.peer(b, a)?])
}

fn replayed(scene: &Scene) -> anyhow::Result<u64> {
    [Member::Site(0), Member::Site(1)].into_iter().try_fold(0, |sum, site| {
        let status = scene.gateway(site)?.status()?;
        Ok(sum + status.drops.get("replayed").copied().unwrap_or(0))
    })
}
