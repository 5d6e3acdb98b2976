//! What the thread counts: one writer, read by the control task.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use landbridge_proto::DropReason;

/// What an end has sent by way of the thread.
#[derive(Debug)]
pub struct EndStats {
    epoch: Instant,
    packets: AtomicU64,
    bytes: AtomicU64,
    limited: AtomicU64,
    /// When it was last heard, in milliseconds from `epoch` and 1; 0 for never.
    heard_ms: AtomicU64,
}

impl Default for EndStats {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { epoch: Instant::now(), packets: zero(), bytes: zero(), limited: zero(), heard_ms: zero() }
    }
}

impl EndStats {
    pub(super) fn forwarded(&self, packets: usize, bytes: usize) {
        self.packets.fetch_add(packets as u64, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn limited(&self) {
        self.limited.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn heard(&self, now: Instant) {
        let ms = now.saturating_duration_since(self.epoch).as_millis() as u64;
        self.heard_ms.store(ms + 1, Ordering::Relaxed);
    }

    /// Datagrams that were sent on, their bytes, and datagrams that came faster than permitted.
    #[must_use]
    pub fn counts(&self) -> [u64; 3] {
        [&self.packets, &self.bytes, &self.limited].map(|counter| counter.load(Ordering::Relaxed))
    }

    /// How long nothing has come from the bound place; `None`: nothing ever did.
    #[must_use]
    pub fn silent(&self, now: Instant) -> Option<Duration> {
        let ms = self.heard_ms.load(Ordering::Relaxed).checked_sub(1)?;
        Some(now.saturating_duration_since(self.epoch + Duration::from_millis(ms)))
    }
}

/// What the thread has dropped, by reason.
#[derive(Debug)]
pub struct RelayStats([AtomicU64; DropReason::COUNT]);

impl Default for RelayStats {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::COUNT])
    }
}

impl RelayStats {
    pub(super) fn drop_packets(&self, reason: DropReason, packets: usize) {
        self.0[reason as usize].fetch_add(packets as u64, Ordering::Relaxed);
    }

    /// Packets dropped for a reason.
    #[must_use]
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }
}
