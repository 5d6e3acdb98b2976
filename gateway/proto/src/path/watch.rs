//! The path in use under traffic: whether it still leads to the peer, and the peer to us.
//!
//! 1. While data comes or goes, lanes' counts are looked at every 25 ms, more seldom where there are many such links.
//! 2. A stream leaves by the path and nothing comes by it: it is probed at once; where single packets leave, after half a
//!    second. Where packets flow both ways nothing is.
//! 3. Two probes without an answer put it in doubt: data takes the best other path at once, while this one is probed
//!    quickly. Its first answer ends the doubt, and it is taken again. A path that is doubted for nothing again and again
//!    is doubted more slowly.
//! 4. A second and a half without an answer: it is dead.
//! 5. Who only receives is the one to tell when its NAT gave it another place: data came steadily and stops, and a probe by
//!    the path in use is not answered. Then everybody who may be asked for us hears from us again ([`Paths::lost_touch`]).
//!
//! Enters: time, what lanes saw. Leaves: probes, doubts. Never does: take our own lateness for the network's silence, or
//! anything but an authentic answer for an end of doubts.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::pair::Pair;
use super::{FRESH, Paths, Probe, What};

/// Between two looks at what lanes counted, and silence before a probe; both where few links are watched.
const LOOK: Duration = Duration::from_millis(25);
const SILENCE: Duration = Duration::from_millis(25);
/// So many looks in a row that see data sent are a stream.
const STREAM_LOOKS: u32 = 4;
/// What each watched link adds to the time between two looks, and each one that is probed to that between two probes: a
/// thousand looks and 250 probes a second of all links together, ...
const LOOK_SHARE: Duration = Duration::from_millis(1);
const PROBE_SHARE: Duration = Duration::from_millis(4);
/// ... as long as a dead path is left in less than three seconds.
const LOOK_MAX: Duration = Duration::from_millis(500);
const PROBE_MAX: Duration = Duration::from_millis(750);
/// Looks at several links fall together: each is a wake of the control task.
const GRID_MS: u64 = 5;
/// A link that was probed as it was silent is one of those that are for so long.
const PROBED_LATELY: Duration = Duration::from_secs(2);
/// How long an answer may take at least: until it is asked for again, and until that is in vain as well; and where nothing
/// is known of the path.
const PATIENCE_FIRST: Duration = Duration::from_millis(15);
const PATIENCE_MIN: Duration = Duration::from_millis(25);
const PATIENCE_BLIND: Duration = Duration::from_millis(300);
/// A timer that fires so much too late is our own fault: what came meanwhile is looked at first.
const LATE: Duration = Duration::from_millis(5);
const GRACE: Duration = Duration::from_millis(20);
/// Probes without an answer that put a path in doubt, and how many more by how often that was for nothing.
const DOUBTED_AFTER: u32 = 2;
const SLOWER_BY_AT_MOST: u32 = 3;
/// Between two probes of a path in doubt: at first, and doubled up to this.
const DOUBT_GAP: Duration = Duration::from_millis(50);
const DOUBT_GAP_MAX: Duration = Duration::from_millis(200);
/// A path that has not answered for so long, and not so many probes, is dead.
const DEAD_AFTER: Duration = Duration::from_millis(1500);
const DEAD_PROBES: u32 = 3;
/// Data that came for so long at least is a stream, ...
const STEADY: Duration = Duration::from_millis(500);
/// ... of which so long a silence is looked into.
const STOPPED: Duration = Duration::from_millis(200);
/// Between two attempts to be found again.
const TOUCH_EVERY: Duration = Duration::from_secs(1);

/// How often this link may be looked at and probed, as there are others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Pace {
    look: Duration,
    probe: Duration,
    /// Where the grid of looks begins.
    epoch: Option<Instant>,
}

impl Pace {
    /// Where so many links are watched, and so many of them probed.
    pub(crate) fn of(epoch: Instant, watched: usize, probed: usize) -> Self {
        let share = |each: Duration, count: usize| each * u32::try_from(count).unwrap_or(u32::MAX).min(100_000);
        let look = share(LOOK_SHARE, watched).clamp(LOOK, LOOK_MAX);
        Self { look, probe: share(PROBE_SHARE, probed).clamp(SILENCE, PROBE_MAX), epoch: Some(epoch) }
    }

    fn next_look(&self, now: Instant) -> Instant {
        let due = now + self.look;
        let Some(epoch) = self.epoch else { return due };
        let ms = due.saturating_duration_since(epoch).as_millis() as u64;
        epoch + Duration::from_millis(ms.next_multiple_of(GRID_MS))
    }
}

impl Default for Pace {
    fn default() -> Self {
        Self { look: LOOK, probe: SILENCE, epoch: None }
    }
}

/// Of a pair.
type Place = (SocketAddr, Option<IpAddr>);

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Watch {
    pace: Pace,
    looked: Option<Instant>,
    look_due: Option<Instant>,
    /// When data was last sent and received, as of the last look.
    sent: Option<Instant>,
    heard: Option<Instant>,
    /// The path beside the one in use that data comes by, and since when.
    sent_by: Option<(Place, Instant)>,
    /// Looks in a row that saw data sent.
    streams: u32,
    /// When it was last probed as it was silent.
    probed: Option<Instant>,
    /// Since when packets have come again and again, and when the last ones did.
    steady: Option<(Instant, Instant)>,
    /// The stream that came has stopped, and the peer is asked by the path in use.
    asks: bool,
    lost_touch: bool,
    touched: Option<Instant>,
}

impl Watch {
    /// Notes when data was received last. True when that is later than it was.
    pub(super) fn hears(&mut self, heard: Option<Instant>) -> bool {
        std::mem::replace(&mut self.heard, heard) < heard
    }

    /// Data came: by another path than the one in use, when there is one that more came by.
    pub(super) fn notes_way(&mut self, now: Instant, place: Option<Place>) {
        let before = self.sent_by.take();
        self.sent_by = place.map(|place| before.filter(|before| before.0 == place).unwrap_or((place, now)));
    }

    /// The path that data comes by in place of the one in use, and since when.
    pub(super) const fn sent_by(&self) -> Option<(Place, Instant)> {
        self.sent_by
    }

    /// Data was sent after anything came: since when that is so at least.
    pub(super) fn silent_since(&self, sent: Option<Instant>, heard: Option<Instant>) -> Option<Instant> {
        let looked = self.looked.filter(|_| self.is_stream());
        looked.map_or(sent, |looked| Some(heard.map_or(looked, |heard| heard.max(looked))))
    }

    const fn is_stream(&self) -> bool {
        self.streams >= STREAM_LOOKS
    }

    /// Notes when data was sent last.
    pub(super) fn sends(&mut self, now: Instant, sent: Option<Instant>) {
        // Messages of the channel lead to looks beside those that are due.
        let is_look = self.look_due.is_none_or(|due| due <= now);
        if is_look {
            let more = sent > std::mem::replace(&mut self.sent, sent);
            self.streams = if more { self.streams.saturating_add(1) } else { 0 };
        }
    }
}

impl Paths {
    /// How often it may be looked at and probed.
    pub(crate) const fn set_pace(&mut self, pace: Pace) {
        self.watch.pace = pace;
    }

    /// When lanes' counts are to be looked at again: [`Paths::traffic`].
    pub(crate) const fn look_due(&self) -> Option<Instant> {
        self.watch.look_due
    }

    /// Whether it was probed of late, as nothing came by it. One that is not looked at rests: nobody would ask again.
    pub(crate) fn is_probed(&self, now: Instant) -> bool {
        self.look_due().is_some()
            && self.watch.probed.is_some_and(|probed| now.saturating_duration_since(probed) < PROBED_LATELY)
    }

    /// Whether the peer may have lost us, or we the peer: whoever leads to us is to hear of us at once.
    pub(crate) fn lost_touch(&mut self, now: Instant) -> bool {
        let lost = std::mem::take(&mut self.watch.lost_touch);
        let may = self.watch.touched.is_none_or(|touched| now.saturating_duration_since(touched) >= TOUCH_EVERY);
        if lost && may {
            self.watch.touched = Some(now);
        }
        lost && may
    }

    /// A look was taken: `came` when anything had come by any path since the last one.
    pub(super) fn looked(&mut self, now: Instant, came: bool) {
        let watch = &mut self.watch;
        let stopped = STOPPED.max(watch.pace.look * 4);
        let lasts = |last: Instant| now.saturating_duration_since(last) < stopped;
        let mut asks = false;
        watch.steady = match (watch.steady, came) {
            (Some((since, last)), true) if lasts(last) => Some((since, now)),
            (_, true) => Some((now, now)),
            (Some((since, last)), false) if !lasts(last) => {
                asks = last.saturating_duration_since(since) >= STEADY;
                None
            }
            (steady, false) => steady,
        };
        let is_look = watch.look_due.is_none_or(|due| due <= now);
        watch.looked = Some(now);
        let busy =
            self.active.is_some_and(|active| now.saturating_duration_since(active) < stopped + watch.pace.look * 2);
        if is_look {
            watch.look_due = busy.then(|| watch.pace.next_look(now));
        }
        if asks
            && let Some(current) = self.current()
            && self.pairs[current].proven.is_some()
            && self.pairs[current].unanswered == 0
        {
            self.watch.asks = true;
            self.pairs[current].hurry(now);
        }
    }

    /// When the path in use is to be probed.
    pub(super) fn watch_due(&self, pair: &Pair, measured: Option<Instant>) -> Option<Instant> {
        let silence = match pair.rtt() {
            Some(rtt) if self.watch.is_stream() => SILENCE.max(rtt / 2).max(self.watch.pace.probe),
            _ => FRESH.max(self.watch.pace.probe),
        };
        let silent = self.unheard.map(|since| since + silence);
        [pair.due, measured, silent].into_iter().flatten().min()
    }

    /// How long an answer of a path may take.
    fn patience_of(&self, pair: &Pair) -> Duration {
        let least = if pair.unanswered == 0 { PATIENCE_FIRST } else { PATIENCE_MIN };
        let patience = pair.patience().map_or(PATIENCE_BLIND, |patience| patience.clamp(least, DEAD_AFTER));
        if self.watch.pace.probe > SILENCE { patience.max(self.watch.pace.probe) } else { patience }
    }

    /// How many probes the path in use may leave unanswered before it is in doubt.
    fn doubted_after(&self, now: Instant, current: usize) -> u32 {
        let used = &self.pairs[current];
        let heard_elsewhere = self.pairs.iter().enumerate().any(|(at, pair)| {
            at != current && pair.proven.is_some() && pair.is_fresh(now, FRESH) && pair.heard > used.heard
        });
        // The peer itself has left it.
        let slower = if heard_elsewhere { 0 } else { used.doubts(now).min(SLOWER_BY_AT_MOST) };
        DOUBTED_AFTER + slower
    }

    pub(super) fn run_watch(&mut self, now: Instant, draw: &mut impl FnMut() -> u32, probes: &mut Vec<Probe>) {
        let Some(current) = self.current() else { return };
        if self.pairs[current].proven.is_none() || !self.is_due(now, current) {
            return;
        }
        let doubted_after = self.doubted_after(now, current);
        let pair = &mut self.pairs[current];
        if pair.unanswered > 0 {
            if pair.is_excused(now) {
                return;
            }
            if std::mem::take(&mut self.watch.asks) {
                self.lose_touch(now, current);
            }
            let pair = &mut self.pairs[current];
            if pair.unanswered >= doubted_after && pair.doubt(now) {
                self.lose_touch(now, current);
            }
        }
        if self.is_dead(now, current) {
            self.pairs[current].fail(now);
            self.places_changed = true;
            self.try_all(now);
            return;
        }
        self.watch.probed = Some(now);
        self.ask(now, current, draw(), probes);
    }

    /// Asks a path that is to answer soon.
    pub(super) fn ask(&mut self, now: Instant, at: usize, request: u32, probes: &mut Vec<Probe>) {
        let patience = self.patience_of(&self.pairs[at]);
        let pair = &mut self.pairs[at];
        let gap = match pair.doubted {
            Some(asked) => patience.max((DOUBT_GAP * 2_u32.pow(asked.min(4))).min(DOUBT_GAP_MAX)),
            None => patience,
        };
        pair.ask(now, gap);
        self.probe(now, at, What::Watch, request, probes);
    }

    /// Whether a path that leaves probes unanswered is dead.
    pub(super) fn is_dead(&self, now: Instant, at: usize) -> bool {
        let pair = &self.pairs[at];
        let after = DEAD_AFTER.max(self.patience_of(pair) * DEAD_PROBES);
        let missed = pair.missed.is_some_and(|missed| now.saturating_duration_since(missed) >= after);
        pair.unanswered >= DEAD_PROBES && missed
    }

    /// The peer may be unable to reach us: other paths are asked as well.
    fn lose_touch(&mut self, now: Instant, current: usize) {
        self.watch.lost_touch = true;
        for (_, pair) in self.pairs.iter_mut().enumerate().filter(|(at, _)| *at != current) {
            if pair.proven.is_some() && pair.unanswered == 0 {
                pair.hurry(now);
            }
        }
    }
}

impl Pair {
    /// A probe leaves, and is to be answered within `gap`.
    fn ask(&mut self, now: Instant, gap: Duration) {
        self.asked = Some(now);
        if self.unanswered == 0 {
            self.missed = Some(now);
        }
        self.unanswered += 1;
        self.doubted = self.doubted.map(|asked| asked + 1);
        (self.excused, self.due) = (false, Some(now + gap));
    }

    /// Whether it is our own lateness that no answer is there: then it has a moment more, once.
    pub(super) fn is_excused(&mut self, now: Instant) -> bool {
        let late = self.due.is_some_and(|due| now.saturating_duration_since(due) >= LATE);
        if !late || self.excused {
            return false;
        }
        (self.excused, self.due) = (true, Some(now + GRACE));
        true
    }

    /// It is in doubt from here on, unless that was for nothing just now.
    fn doubt(&mut self, now: Instant) -> bool {
        let may = self.doubted.is_none() && self.doubt_again.is_none_or(|again| again <= now);
        if may {
            self.doubted = Some(0);
        }
        may
    }
}
