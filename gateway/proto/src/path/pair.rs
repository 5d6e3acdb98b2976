//! One pair of places: an address of ours (or whichever the kernel takes) and one of the peer's.
//!
//! Enters: probes sent and answered. Leaves: whether it is a path, and how good it is. Never does: decide which is taken.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use super::mtu::Mtu;
use super::view::{CandidateState, PathView, Tier};
use crate::candidate::{CandidateKind, is_private};

/// Gaps between the checks of a pair that nobody has answered: two soon, and then ever more seldom.
const GAPS_MS: [u64; 10] = [200, 1000, 5000, 10_000, 20_000, 40_000, 80_000, 160_000, 300_000, 300_000];
/// The longest gap of the pair in use, while it is the only hope.
const IN_USE_GAP: Duration = Duration::from_secs(2);
/// Checks that a pair gets whether it is needed or not.
pub(super) const FIRST_CHECKS: u32 = 3;
/// Gaps between the checks of a path that was left, by how often it has been left lately, at least.
const RETURN_MS: [u64; 8] = [1000, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000];
/// The same by how long ago it was left: each second at first, ...
const RETURN_SOON: Duration = Duration::from_secs(10);
/// ... then every other one, and after a minute in this part of the time that has passed.
const RETURN_LATER: Duration = Duration::from_secs(60);
const RETURN_PART: u32 = 6;
/// Between the first measurements of a path.
const MEASURE_EVERY: Duration = Duration::from_millis(200);
/// The same where packets of the peer came before the answer.
const MEASURE_LATER: Duration = Duration::from_secs(1);
/// Answers that make a round trip worth comparing, and those in a row that a path needs which was left lately.
pub(super) const ANSWERS: u32 = 3;
/// A path that has not been left for so long is as good as one that never was.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);
/// A doubt that was for nothing counts for so long; the next one comes so much later at least, doubled with each.
const DOUBT_FORGIVEN: Duration = Duration::from_secs(30);
const DOUBT_SPACING: Duration = Duration::from_secs(1);
const DOUBT_DOUBLINGS: u32 = 5;
/// Round trips that the shortest is looked for in.
const LATELY: usize = 6;
/// Probes that loss is told from.
const LOSS_OVER: u32 = 16;

/// What is known of a pair.
#[derive(Debug)]
pub(crate) struct Pair {
    pub(crate) remote: SocketAddr,
    /// `None`: the kernel chooses.
    pub(crate) local: Option<IpAddr>,
    /// The address of ours that the peer's answers come to.
    pub(crate) seen_local: Option<IpAddr>,
    pub(crate) kind: CandidateKind,
    pub(crate) tier: Tier,
    /// Whether somebody still vouches for the candidate: the peer, a relay, the configuration.
    pub(crate) told: bool,
    /// Since when it has been a path.
    pub(super) proven: Option<Instant>,
    /// The last answer to a probe.
    pub(super) answered: Option<Instant>,
    /// Answers in a row, and probes in a row without one.
    pub(super) answers: u32,
    pub(super) unanswered: u32,
    /// Checks since it was last begun with.
    pub(super) checks: u32,
    /// When it was last checked, and when the next probe is due.
    pub(super) checked: Option<Instant>,
    pub(super) due: Option<Instant>,
    /// When it was last asked, when the first of the probes without an answer left, and whether our own lateness has been allowed for.
    pub(super) asked: Option<Instant>,
    pub(super) missed: Option<Instant>,
    pub(super) excused: bool,
    /// Probes since it has been in doubt, if it is.
    pub(super) doubted: Option<u32>,
    /// How often that was for nothing of late, when it last was, and when it may be in doubt again.
    doubts: u32,
    relieved: Option<Instant>,
    pub(super) doubt_again: Option<Instant>,
    /// How often it was left as it did not answer, and when it last was.
    failures: u32,
    failed: Option<Instant>,
    /// When anything authentic last came by it.
    pub(super) heard: Option<Instant>,
    rtt: Option<Duration>,
    deviation: Duration,
    /// The last round trips: the shortest is the path's, the others are those of a busy machine or network.
    lately: [Duration; LATELY],
    measured: usize,
    /// The last probes, the newest in the lowest bit, set when lost; and how many there were.
    lost: u32,
    probes: u32,
    /// Measurements in a row by which it is faster than the path in use.
    pub(super) faster: u32,
    pub(super) mtu: Mtu,
    /// Lanes count what comes by it under this number, and this is what they had counted.
    pub(super) place: Option<u8>,
    pub(super) counted: u64,
}

impl Pair {
    pub(super) fn new(remote: SocketAddr, local: Option<IpAddr>, kind: CandidateKind) -> Self {
        Self {
            remote,
            local,
            seen_local: None,
            kind,
            tier: tier_of(kind, remote.ip()),
            told: true,
            proven: None,
            answered: None,
            answers: 0,
            unanswered: 0,
            checks: 0,
            checked: None,
            due: None,
            asked: None,
            missed: None,
            excused: false,
            doubted: None,
            doubts: 0,
            relieved: None,
            doubt_again: None,
            failures: 0,
            failed: None,
            heard: None,
            rtt: None,
            deviation: Duration::ZERO,
            lately: [Duration::MAX; LATELY],
            measured: 0,
            lost: 0,
            probes: 0,
            faster: 0,
            mtu: Mtu::default(),
            place: None,
            counted: 0,
        }
    }

    /// Whether something between these places goes by this pair.
    pub(crate) fn matches(&self, remote: SocketAddr, local: Option<IpAddr>) -> bool {
        self.remote == remote && (local.is_none() || self.local.is_none() || self.local == local)
    }

    /// Takes the better of two kinds of the same place.
    pub(super) fn is_also(&mut self, kind: CandidateKind) {
        // What arrives from a relay's port is a relay's.
        if kind == CandidateKind::PeerReflexive || self.kind == CandidateKind::Relayed {
            return;
        }
        let tier = tier_of(kind, self.remote.ip());
        if tier < self.tier || self.kind == CandidateKind::PeerReflexive || !self.told {
            (self.kind, self.tier) = (kind, tier);
        }
        self.told = true;
    }

    /// Is checked from the beginning.
    pub(super) fn begin(&mut self, now: Instant) {
        (self.checks, self.due) = (0, Some(now));
    }

    /// Is checked at once, without forgetting how often it was.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.due = Some(now);
    }

    /// A check leaves.
    pub(super) fn check_sent(&mut self, now: Instant, in_use: bool) {
        let gap = self.check_gap(now);
        let gap = if in_use { gap.min(IN_USE_GAP) } else { gap };
        self.checked = Some(now);
        self.checks = self.checks.saturating_add(1);
        if self.checks > 1 {
            self.answers = 0;
        }
        self.due = Some(now + gap);
    }

    /// Until the next check, if nobody answers this one.
    fn check_gap(&self, now: Instant) -> Duration {
        let Some(failed) = self.failed else {
            return Duration::from_millis(GAPS_MS[(self.checks as usize).min(GAPS_MS.len() - 1)]);
        };
        let gap = match now.saturating_duration_since(failed) {
            ago if ago < RETURN_SOON => Duration::from_secs(1),
            ago if ago < RETURN_LATER => Duration::from_secs(2),
            ago => (ago / RETURN_PART).min(Duration::from_millis(RETURN_MS[RETURN_MS.len() - 1])),
        };
        gap.max(self.return_gap())
    }

    fn return_gap(&self) -> Duration {
        let at = (self.failures.max(1) as usize - 1).min(RETURN_MS.len() - 1);
        Duration::from_millis(RETURN_MS[at])
    }

    /// A probe was answered after `rtt`. True when it has become a path by that.
    pub(super) fn answer(&mut self, now: Instant, rtt: Duration) -> bool {
        self.measure(rtt);
        (self.answered, self.heard) = (Some(now), Some(now));
        self.relieve(now);
        self.answers = self.answers.saturating_add(1);
        self.note_probe(false);
        if self.proven.is_some_and(|since| now.saturating_duration_since(since) >= FORGIVEN_AFTER) {
            self.failures = 0;
        }
        self.due = (self.answers < ANSWERS).then(|| now + MEASURE_EVERY);
        let wanted = if self.failures == 0 { 1 } else { ANSWERS };
        let is_news = self.proven.is_none() && self.answers >= wanted;
        if is_news {
            self.proven = Some(now);
            self.checks = 0;
        } else if self.proven.is_none() {
            // On its way back: not a first check, whose answers do not count together.
            self.checks = 0;
        }
        is_news
    }

    /// It leads to the peer: probes before this count no more, and a doubt was for nothing.
    pub(super) fn relieve(&mut self, now: Instant) {
        (self.unanswered, self.missed) = (0, None);
        if self.doubted.take().is_some() {
            self.doubts = self.doubts(now) + 1;
            self.relieved = Some(now);
            self.doubt_again = Some(now + DOUBT_SPACING * 2_u32.pow(self.doubts.min(DOUBT_DOUBLINGS)));
        }
    }

    /// No answer is waited for any more. Without enough of them it is asked again later, as nothing else would do it.
    pub(super) fn wait_for_more(&mut self, now: Instant) {
        self.due = (self.answers < ANSWERS).then(|| now + MEASURE_LATER);
    }

    /// How often it was doubted for nothing of late.
    pub(super) fn doubts(&self, now: Instant) -> u32 {
        let ago = self.relieved.map(|relieved| now.saturating_duration_since(relieved)).unwrap_or_default();
        self.doubts.saturating_sub((ago.as_secs() / DOUBT_FORGIVEN.as_secs()) as u32)
    }

    /// It answers no more.
    pub(super) fn fail(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        self.failed = Some(now);
        (self.proven, self.answers, self.unanswered, self.faster) = (None, 0, 0, 0);
        (self.missed, self.doubted) = (None, None);
        // Behind the first checks: only as long as it would be better than what is in use.
        self.checks = FIRST_CHECKS + self.failures.min(4) - 1;
        self.due = Some(now + self.return_gap());
        self.mtu = Mtu::default();
    }

    /// Notes what became of a probe.
    pub(super) fn note_probe(&mut self, lost: bool) {
        self.lost = self.lost << 1 | u32::from(lost);
        self.probes = (self.probes + 1).min(LOSS_OVER);
    }

    fn measure(&mut self, sample: Duration) {
        self.lately[self.measured % LATELY] = sample;
        self.measured += 1;
        match &mut self.rtt {
            None => (self.rtt, self.deviation) = (Some(sample), sample / 2),
            Some(rtt) => {
                // As TCP does, but faster: there are few samples (RFC 6298, section 2).
                self.deviation = (self.deviation * 3 + rtt.abs_diff(sample)) / 4;
                *rtt = (*rtt * 3 + sample) / 4;
            }
        }
    }

    /// The shortest round trip of late, once it is worth comparing.
    pub(super) fn settled_rtt(&self) -> Option<Duration> {
        self.lately.iter().min().copied().filter(|_| self.measured >= ANSWERS as usize)
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    /// How long an answer takes at most, when all is well.
    pub(super) fn patience(&self) -> Option<Duration> {
        self.rtt.map(|rtt| rtt + self.deviation * 4)
    }

    /// Whether anything came by it within this time.
    pub(super) fn is_fresh(&self, now: Instant, within: Duration) -> bool {
        self.heard.is_some_and(|heard| now.saturating_duration_since(heard) < within)
    }

    pub(super) fn state(&self) -> CandidateState {
        match (self.proven, self.due) {
            (Some(_), _) => CandidateState::Proven,
            (None, Some(_)) if self.checks < FIRST_CHECKS => CandidateState::Checking,
            (None, _) if self.checks == 0 => CandidateState::Known,
            (None, _) => CandidateState::Failed,
        }
    }

    pub(super) fn view(&self, in_use: bool) -> PathView {
        let lost = (self.lost & ((1 << self.probes) - 1)).count_ones();
        PathView {
            remote: self.remote,
            local: self.local.or(self.seen_local),
            kind: self.kind,
            tier: self.tier,
            proven: self.proven.is_some(),
            in_use,
            rtt: self.rtt,
            loss_permille: (lost * 1000 / self.probes.max(1)) as u16,
            mtu: self.mtu.known(),
            heard: self.heard,
        }
    }
}

/// How good a place of this kind is.
fn tier_of(kind: CandidateKind, ip: IpAddr) -> Tier {
    match kind {
        CandidateKind::Relayed => Tier::Relayed,
        CandidateKind::Mapped => Tier::Mapped,
        CandidateKind::Host | CandidateKind::Configured | CandidateKind::PeerReflexive if is_private(ip) => Tier::Local,
        _ => Tier::Direct,
    }
}
