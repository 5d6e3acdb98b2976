//! Numbers that the specification leaves to us.

use std::time::Duration;

/// Peers of one endpoint. Each holds up to four receiver indices (a handshake and three sessions), so half of
/// all slots stay free and a random draw finds a free one at once.
pub const PEERS_MAX: usize = 1 << 17;

/// The shortest time between two initiations that are accepted from one peer: 20 a second. The Linux kernel
/// accepts 50; a peer that keeps to REKEY-TIMEOUT sends one in five seconds.
pub const INITIATION_SPACING: Duration = Duration::from_millis(50);

/// Sent timestamps are rounded down to this, so that they do not tell how precise our clock is.
pub(crate) const TIMESTAMP_GRAIN_NS: u32 = 1 << 24;

/// Handshake messages with a right mac1 are counted in windows of this length.
pub(crate) const LOAD_WINDOW: Duration = Duration::from_millis(100);
/// So many of them in one window are load: a handshake costs about 0.2 ms of one core.
pub const LOAD_THRESHOLD: u32 = 100;
/// For how long load is assumed after it was last seen.
pub(crate) const LOAD_HOLD: Duration = Duration::from_secs(1);

/// Under load, the mean time between handshake messages that are accepted from one source.
pub(crate) const SOURCE_INTERVAL: Duration = Duration::from_millis(50);
/// Under load, how many of them may come at once.
pub(crate) const SOURCE_BURST: u32 = 5;
/// Sources that are remembered: sets of [`SOURCE_WAYS`].
pub(crate) const SOURCE_SETS: usize = 1 << 10;
/// Places for the sources whose hashes fall together.
pub(crate) const SOURCE_WAYS: usize = 8;

/// Messages that wait for `poll_transmit`, beside one initiation and one keepalive per peer.
pub(crate) const OUTGOING_MAX: usize = 4096;

/// The mean time between messages on the control channel that are taken from one peer.
pub(crate) const CHANNEL_INTERVAL_MS: u64 = 20;
/// How many of them may come at once: a probe of each source port and as many answers, with room.
pub(crate) const CHANNEL_BURST: u64 = 64;
