//! Constants of the specification, each with its section of the paper.

use std::time::Duration;

use crate::session::SessionLimits;

/// Section 5.4: hashed into the first chaining key.
pub(crate) const CONSTRUCTION: &[u8] = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
/// Section 5.4: hashed into the first transcript hash.
pub(crate) const IDENTIFIER: &[u8] = b"WireGuard v1 zx2c4 Jason@zx2c4.com";
/// Section 5.4.4.
pub(crate) const LABEL_MAC1: &[u8] = b"mac1----";
/// Section 5.4.7.
pub(crate) const LABEL_COOKIE: &[u8] = b"cookie--";

/// Section 6.1: the counter from which a session is renewed.
pub const REKEY_AFTER_MESSAGES: u64 = 1 << 60;
/// Section 6.1: the first counter that must not be used.
pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);
/// Section 6.1: the age from which the initiator renews a session that it sends with.
pub const REKEY_AFTER_TIME: Duration = Duration::from_secs(120);
/// Section 6.1: the age at which a session neither seals nor opens.
pub const REJECT_AFTER_TIME: Duration = Duration::from_secs(180);
/// Section 6.1: for how long a handshake is tried.
pub const REKEY_ATTEMPT_TIME: Duration = Duration::from_secs(90);
/// Section 6.1: the shortest time between two initiations of ours to one peer.
pub const REKEY_TIMEOUT: Duration = Duration::from_secs(5);
/// Section 6.1: jitter added to [`REKEY_TIMEOUT`].
pub const REKEY_TIMEOUT_JITTER_MAX: Duration = Duration::from_millis(334);
/// Section 6.1: the silence after which received data is answered with a keepalive.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// Section 6.3: how long after a session began all of a peer's keys are wiped.
pub const ZERO_KEYS_AFTER: Duration = REJECT_AFTER_TIME.saturating_mul(3);
/// Section 5.4.7: the life of a cookie, and of the secret that cookies are made from.
pub const COOKIE_LIFETIME: Duration = Duration::from_secs(120);

/// The limits that a session gets.
pub const SESSION_LIMITS: SessionLimits =
    SessionLimits { reject_after: REJECT_AFTER_TIME, reject_after_messages: REJECT_AFTER_MESSAGES };

/// Section 6.2: the age at which the initiator renews a session that it only receives with.
pub const REKEY_ON_RECEIVE_AFTER: Duration =
    Duration::from_secs(REJECT_AFTER_TIME.as_secs() - KEEPALIVE_TIMEOUT.as_secs() - REKEY_TIMEOUT.as_secs());
/// Section 6.5: the silence after sent data that makes us try a handshake.
pub const NEW_HANDSHAKE_AFTER: Duration = Duration::from_secs(KEEPALIVE_TIMEOUT.as_secs() + REKEY_TIMEOUT.as_secs());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn derived_times_are_those_of_the_specification() {
        assert_eq!(REJECT_AFTER_MESSAGES, u64::MAX - 8192);
        assert_eq!(REKEY_ON_RECEIVE_AFTER.as_secs(), 165);
        assert_eq!(NEW_HANDSHAKE_AFTER.as_secs(), 15);
        assert_eq!(ZERO_KEYS_AFTER.as_secs(), 540);
    }
}
