//! What two gateways that look for each other call their meeting before an introducer or a relay.
//!
//! Enters: what the two have agreed on by their static keys, both public keys, the desk's. Leaves: a name that both work
//! out alike. Never does: tell anybody else who they are. Whoever knows every public key can not confirm a guess, as the
//! agreement takes one of the two private keys; and what one desk was told is of no use at another one.

use crate::KEY_LEN;
use crate::noise::{Secret, hash};

const LABEL: &[u8] = b"landbridge meeting v1";

/// The name of a meeting of two gateways at one desk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MeetingId(pub(crate) [u8; KEY_LEN]);

impl MeetingId {
    pub(crate) const MIN: Self = Self([0; KEY_LEN]);
    pub(crate) const MAX: Self = Self([u8::MAX; KEY_LEN]);

    /// Of two gateways, in whichever order, at the desk of this key.
    pub(crate) fn new(agreed: &Secret, keys: [&[u8; KEY_LEN]; 2], desk: &[u8; KEY_LEN]) -> Self {
        let [one, other] = keys;
        let (first, second) = if one < other { (one, other) } else { (other, one) };
        Self(hash(&[LABEL, &**agreed, desk, first, second]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::noise::{Identity, agree};

    #[test]
    fn both_ends_find_the_same_name_and_nobody_else_does() {
        let [one, other, third] = [1, 2, 3].map(|byte| Identity::new(&[byte; KEY_LEN].into()));
        let name = |by: &Identity, of: &Identity, desk: u8| {
            let agreed = agree(&by.secret, &of.public_key).expect("sound keys");
            MeetingId::new(&agreed, [&by.public_key, &of.public_key], &[desk; KEY_LEN])
        };
        assert_eq!(name(&one, &other, 9), name(&other, &one, 9));
        assert_ne!(name(&one, &other, 9), name(&one, &other, 8), "another desk");
        assert_ne!(name(&one, &other, 9), name(&one, &third, 9));
        let guessed = agree(&third.secret, &other.public_key).expect("sound keys");
        let keys = [&one.public_key, &other.public_key];
        assert_ne!(name(&one, &other, 9), MeetingId::new(&guessed, keys, &[9; KEY_LEN]), "who knows all public keys");
        let hex: String = name(&one, &other, 9).0.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "e128f204711925e9aa68674906fb3bf38d2a9125be224fe68e98d22eb4f851a7");
    }
}
