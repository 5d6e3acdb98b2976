//! What lanes and the control task share of a peer: its session and its activity.
//!
//! Enters: counters, times and byte counts, once per burst. Leaves: counters to seal with, verdicts on
//! replays, and coarse times from which [`crate::Endpoint`] derives the protocol's timers. Never does:
//! wait; all but the replay window is a relaxed atomic, and the window's lock is taken once per burst.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use landbridge_aead::{Key, prefetch};

use crate::ReplayWindow;
use crate::tuning::{CHANNEL_BURST, CHANNEL_INTERVAL_MS};

/// A peer's place in the tables. The generation tells a peer from an earlier one in the same slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerId {
    /// Dense index, below the endpoint's limit of peers.
    pub slot: u32,
    /// Differs each time the slot is given to another peer.
    pub generation: u32,
}

/// The index by which the receiver of a message finds the session or handshake it belongs to
/// (paper, section 5.4). Its low [`ReceiverIndex::SLOT_BITS`] bits are a slot that no two live
/// indices share, so tables need no hashing; the rest is random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReceiverIndex(pub u32);

impl ReceiverIndex {
    /// Bits of an index that name its slot.
    pub const SLOT_BITS: u32 = 20;
    /// How many slots there are.
    pub const SLOTS: usize = 1 << Self::SLOT_BITS;

    /// The slot, below [`ReceiverIndex::SLOTS`].
    #[inline]
    #[must_use]
    pub const fn slot(self) -> usize {
        (self.0 & ((1 << Self::SLOT_BITS) - 1)) as usize
    }
}

/// Which side began the handshake of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// We sent the initiation.
    Initiator,
    /// We answered it.
    Responder,
}

/// One pair of transport keys.
///
/// A gateway of many peers finds each session outside of its caches, so the fields lie by use: what both directions read
/// fills one cache line; what sealing takes beside it is another, what opening takes two.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Session {
    /// When the keys were derived.
    pub created: Instant,
    /// Until when and up to which counter the keys may be used.
    pub limits: SessionLimits,
    /// The index that the peer writes into what it sends us.
    pub local_index: ReceiverIndex,
    /// The index that we write into what we send.
    pub remote_index: ReceiverIndex,
    /// The peer at the other end.
    pub peer: PeerId,
    /// What the lanes report of that peer.
    pub shared: Arc<PeerShared>,
    sealing: Sealing,
    opening: Opening,
}

/// What sealing uses.
#[derive(Debug)]
#[repr(C, align(64))]
struct Sealing {
    counter: AtomicU64,
    role: Role,
    key: Key,
}

/// What opening uses.
#[derive(Debug)]
#[repr(C, align(64))]
struct Opening {
    replay: Mutex<ReplayWindow>,
    confirmed: AtomicBool,
    key: Key,
}

/// Until when and up to which counter a session may be used (paper, section 6.1).
#[derive(Debug, Clone, Copy)]
pub struct SessionLimits {
    /// REJECT-AFTER-TIME.
    pub reject_after: Duration,
    /// REJECT-AFTER-MESSAGES: the first counter that must not be used.
    pub reject_after_messages: u64,
}

impl Session {
    /// A session at its start. A responder's session is unconfirmed until the initiator has used it.
    #[must_use]
    #[expect(clippy::too_many_arguments, reason = "the one place where a handshake's results meet")]
    pub fn new(
        peer: PeerId,
        shared: Arc<PeerShared>,
        local_index: ReceiverIndex,
        remote_index: ReceiverIndex,
        role: Role,
        created: Instant,
        seal_key: Key,
        open_key: Key,
        limits: SessionLimits,
    ) -> Self {
        Self {
            created,
            limits,
            local_index,
            remote_index,
            peer,
            shared,
            sealing: Sealing { counter: AtomicU64::new(0), role, key: seal_key },
            opening: Opening {
                replay: Mutex::new(ReplayWindow::new()),
                confirmed: AtomicBool::new(role == Role::Initiator),
                key: open_key,
            },
        }
    }

    /// Which side began.
    #[must_use]
    pub const fn role(&self) -> Role {
        self.sealing.role
    }

    /// Seals what we send.
    #[inline]
    #[must_use]
    pub const fn seal_key(&self) -> &Key {
        &self.sealing.key
    }

    /// Opens what we receive.
    #[inline]
    #[must_use]
    pub const fn open_key(&self) -> &Key {
        &self.opening.key
    }

    /// Asks for what sealing will read. It waits for nothing: see [`landbridge_aead::prefetch()`].
    #[inline]
    pub fn prefetch_to_seal(&self) {
        prefetch(&self.created);
        prefetch(&self.sealing.counter);
        self.sealing.key.prefetch();
    }

    /// [`Session::prefetch_to_seal`] for opening.
    #[inline]
    pub fn prefetch_to_open(&self) {
        prefetch(&self.created);
        prefetch(&self.opening.replay);
        self.opening.key.prefetch();
    }

    /// Takes `n` consecutive counters for a burst and returns the first, or `None` when not all of them
    /// lie below REJECT-AFTER-MESSAGES.
    #[inline]
    #[must_use]
    pub fn take_counters(&self, n: u64) -> Option<u64> {
        let within = |first: u64| first.checked_add(n).is_some_and(|end| end <= self.limits.reject_after_messages);
        // Looked at before anything is taken: an attempt that would go beyond the limit must change nothing. To take and
        // give back would let others, between the two, take counters that are then handed out again.
        self.sealing
            .counter
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |first| within(first).then(|| first + n))
            .ok()
    }

    /// How many counters were handed out.
    #[must_use]
    pub fn sent_messages(&self) -> u64 {
        self.sealing.counter.load(Ordering::Relaxed)
    }

    /// Sets the counter, for tests of the limits by count.
    #[doc(hidden)]
    pub fn set_sent_messages(&self, n: u64) {
        self.sealing.counter.store(n, Ordering::Relaxed);
    }

    /// Whether REJECT-AFTER-TIME has passed: then it neither seals nor opens.
    #[inline]
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.created) >= self.limits.reject_after
    }

    /// Whether the peer has proved that it holds the keys.
    #[inline]
    #[must_use]
    pub fn is_confirmed(&self) -> bool {
        self.opening.confirmed.load(Ordering::Relaxed)
    }

    /// Notes that the peer used the session; true for the first caller, who tells the control task.
    #[inline]
    pub fn confirm(&self) -> bool {
        !self.opening.confirmed.load(Ordering::Relaxed) && !self.opening.confirmed.swap(true, Ordering::AcqRel)
    }

    /// Lets packets come far later than others, as they do by several source ports.
    pub(crate) fn deepen_replay(&self) {
        self.replay().deepen();
    }

    /// The replay window, to be locked once per burst.
    #[inline]
    pub fn replay(&self) -> MutexGuard<'_, ReplayWindow> {
        // A window is valid between any two of its operations, so a poisoned lock is no reason to stop.
        self.opening.replay.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What lanes report of a peer. Written at most once per burst, read by the control task on its tick.
///
/// All that sending writes lies in the first cache line; receiving writes the second and marks activity in the first.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct PeerShared {
    epoch: Instant,
    active: AtomicBool,
    wants_session: AtomicBool,
    /// Milliseconds after the epoch, plus one; zero is never.
    data_sent_ms: AtomicU64,
    any_sent_ms: AtomicU64,
    tx_bytes: AtomicU64,
    tx_packets: AtomicU64,
    data_received_ms: AtomicU64,
    any_received_ms: AtomicU64,
    rx_bytes: AtomicU64,
    rx_packets: AtomicU64,
    /// Until when the peer's messages on the control channel have used up its share, in milliseconds.
    channel_used_ms: AtomicU64,
}

impl PeerShared {
    /// Nothing seen yet. Times are kept relative to `epoch`.
    #[must_use]
    pub fn new(epoch: Instant) -> Self {
        Self {
            epoch,
            data_sent_ms: AtomicU64::new(0),
            data_received_ms: AtomicU64::new(0),
            any_sent_ms: AtomicU64::new(0),
            any_received_ms: AtomicU64::new(0),
            tx_bytes: AtomicU64::new(0),
            rx_bytes: AtomicU64::new(0),
            tx_packets: AtomicU64::new(0),
            rx_packets: AtomicU64::new(0),
            active: AtomicBool::new(false),
            wants_session: AtomicBool::new(false),
            channel_used_ms: AtomicU64::new(0),
        }
    }

    /// How a time is kept.
    fn stamp_of(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.epoch).as_millis() as u64 + 1
    }

    fn time(&self, slot: &AtomicU64) -> Option<Instant> {
        match slot.load(Ordering::Relaxed) {
            0 => None,
            ms => Some(self.epoch + Duration::from_millis(ms - 1)),
        }
    }

    /// Reports a sealed burst: `datagram_bytes` of UDP payload in `packets` packets, `data` when at least
    /// one was not a keepalive. True when the peer was not marked active: the caller then tells the
    /// control task.
    pub fn sent(&self, now: Instant, packets: u64, datagram_bytes: u64, data: bool) -> bool {
        let ms = self.stamp_of(now);
        stamp(&self.any_sent_ms, ms);
        if data {
            stamp(&self.data_sent_ms, ms);
        }
        self.tx_packets.fetch_add(packets, Ordering::Relaxed);
        self.tx_bytes.fetch_add(datagram_bytes, Ordering::Relaxed);
        self.mark_active()
    }

    /// Reports an opened burst, in the same terms as [`PeerShared::sent`].
    pub fn received(&self, now: Instant, packets: u64, datagram_bytes: u64, data: bool) -> bool {
        let ms = self.stamp_of(now);
        stamp(&self.any_received_ms, ms);
        if data {
            stamp(&self.data_received_ms, ms);
        }
        self.rx_packets.fetch_add(packets, Ordering::Relaxed);
        self.rx_bytes.fetch_add(datagram_bytes, Ordering::Relaxed);
        self.mark_active()
    }

    /// Asks for what [`PeerShared::sent`] and [`PeerShared::received`] write: see [`landbridge_aead::prefetch()`].
    #[inline]
    pub fn prefetch(&self) {
        prefetch(self);
    }

    fn mark_active(&self) -> bool {
        !self.active.load(Ordering::Relaxed) && !self.active.swap(true, Ordering::AcqRel)
    }

    /// Clears the mark that [`PeerShared::sent`] and [`PeerShared::received`] set; true when it was set.
    pub fn take_active(&self) -> bool {
        self.active.swap(false, Ordering::AcqRel)
    }

    /// Notes that a packet waits for a session; true for the first caller, who tells the control task.
    pub fn want_session(&self) -> bool {
        !self.wants_session.load(Ordering::Relaxed) && !self.wants_session.swap(true, Ordering::AcqRel)
    }

    /// Clears the mark that [`PeerShared::want_session`] set; true when it was set.
    pub fn take_wants_session(&self) -> bool {
        self.wants_session.swap(false, Ordering::AcqRel)
    }

    /// Whether one more message of the control channel is within the peer's share; it is then counted.
    pub fn admit_channel(&self, now: Instant) -> bool {
        let now_ms = now.saturating_duration_since(self.epoch).as_millis() as u64;
        let used = |used: u64| {
            let used = used.max(now_ms) + CHANNEL_INTERVAL_MS;
            (used - now_ms <= CHANNEL_INTERVAL_MS * CHANNEL_BURST).then_some(used)
        };
        self.channel_used_ms.fetch_update(Ordering::Relaxed, Ordering::Relaxed, used).is_ok()
    }

    /// When transport data that was not a keepalive was last sent.
    #[must_use]
    pub fn data_sent(&self) -> Option<Instant> {
        self.time(&self.data_sent_ms)
    }

    /// When transport data that was not a keepalive was last received.
    #[must_use]
    pub fn data_received(&self) -> Option<Instant> {
        self.time(&self.data_received_ms)
    }

    /// When any transport data was last sent.
    #[must_use]
    pub fn any_sent(&self) -> Option<Instant> {
        self.time(&self.any_sent_ms)
    }

    /// When any transport data was last received.
    #[must_use]
    pub fn any_received(&self) -> Option<Instant> {
        self.time(&self.any_received_ms)
    }

    /// Adds the bytes of a handshake message that was sent.
    pub fn add_handshake_sent(&self, bytes: u64) {
        self.tx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds the bytes of a handshake message that was received.
    pub fn add_handshake_received(&self, bytes: u64) {
        self.rx_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// UDP payload bytes sent, handshakes included.
    #[must_use]
    pub fn tx_bytes(&self) -> u64 {
        self.tx_bytes.load(Ordering::Relaxed)
    }

    /// UDP payload bytes received, handshakes included.
    #[must_use]
    pub fn rx_bytes(&self) -> u64 {
        self.rx_bytes.load(Ordering::Relaxed)
    }

    /// Transport data packets sent.
    #[must_use]
    pub fn tx_packets(&self) -> u64 {
        self.tx_packets.load(Ordering::Relaxed)
    }

    /// Transport data packets received.
    #[must_use]
    pub fn rx_packets(&self) -> u64 {
        self.rx_packets.load(Ordering::Relaxed)
    }
}

#[inline]
fn stamp(slot: &AtomicU64, ms: u64) {
    // Most bursts come within the same millisecond as the last.
    if slot.load(Ordering::Relaxed) < ms {
        slot.fetch_max(ms, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::thread;

    use super::*;

    const LIMIT: u64 = 1000;

    fn session() -> Session {
        let now = Instant::now();
        let limits = SessionLimits { reject_after: Duration::from_secs(180), reject_after_messages: LIMIT };
        let peer = PeerId { slot: 0, generation: 1 };
        let shared = Arc::new(PeerShared::new(now));
        let (seal, open) = (Key::new(&[1; 32]), Key::new(&[2; 32]));
        Session::new(peer, shared, ReceiverIndex(1), ReceiverIndex(2), Role::Initiator, now, seal, open, limits)
    }

    #[test]
    fn bursts_that_do_not_fit_below_the_limit_take_nothing() {
        let session = session();
        session.set_sent_messages(LIMIT - 3);
        assert_eq!(session.take_counters(4), None);
        assert_eq!(session.take_counters(u64::MAX), None);
        assert_eq!(session.sent_messages(), LIMIT - 3);
        assert_eq!(session.take_counters(3), Some(LIMIT - 3));
        assert_eq!(session.take_counters(1), None);
    }

    #[test]
    fn a_peer_has_a_burst_of_channel_messages_and_then_its_rate() {
        let start = Instant::now();
        let shared = PeerShared::new(start);
        let admitted = (0..1000).filter(|_| shared.admit_channel(start)).count() as u64;
        assert_eq!(admitted, CHANNEL_BURST);
        let later = (1..=1000).filter(|ms| shared.admit_channel(start + Duration::from_millis(*ms))).count() as u64;
        assert_eq!(later, 1000 / CHANNEL_INTERVAL_MS);
    }

    /// Lanes whose bursts do not fit any more must not move the counter under those whose do.
    #[test]
    fn no_counter_is_handed_out_twice_at_the_limit() {
        const LANES: u64 = 3;
        for round in 0..400 {
            let session = session();
            session.set_sent_messages(LIMIT - 60);
            let start = Barrier::new(LANES as usize);
            let lane = |burst: u64| {
                start.wait();
                let taken = (0..200).filter_map(|_| session.take_counters(burst));
                taken.flat_map(|first| first..first + burst).collect::<Vec<_>>()
            };
            let mut taken: Vec<u64> = thread::scope(|scope| {
                let lane = &lane;
                let threads: Vec<_> = (0..LANES).map(|n| scope.spawn(move || lane(1 + 7 * n))).collect();
                threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect()
            });
            taken.sort_unstable();
            assert!(taken.windows(2).all(|two| two[0] < two[1]), "a counter twice in round {round}");
            assert!(taken.last().is_none_or(|last| *last < LIMIT));
        }
    }
}
