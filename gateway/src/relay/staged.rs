//! Datagrams that leave as one message, which the kernel cuts (UDP_SEGMENT).
//!
//! Enters: datagrams in their order. Leaves: whether the next one can leave with those before it. Never does: change their
//! order, or put two together that the kernel would not cut where they met.

use arrayvec::ArrayVec;

/// Datagrams of one message at most.
pub(super) const SEGMENTS: usize = 64;
/// Bytes of payload in one send, of either family.
pub(super) const SEND_MAX: usize = 65_535 - 40 - 8;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Staged<'b> {
    pub(super) slices: ArrayVec<&'b [u8], SEGMENTS>,
    pub(super) bytes: usize,
    pub(super) ecn: u8,
    pub(super) hops: Option<u8>,
}

impl<'b> Staged<'b> {
    /// Whether a datagram can leave with those that are staged.
    pub(super) fn joins(&self, segments_max: usize, bytes: &[u8], ecn: u8, hops: Option<u8>) -> bool {
        let Some(first) = self.slices.first() else { return false };
        // Only the last datagram of a message may be shorter than the others.
        let closed = self.bytes < first.len() * self.slices.len();
        !closed
            && bytes.len() <= first.len()
            && self.slices.len() < segments_max.min(SEGMENTS)
            && self.bytes + bytes.len() <= SEND_MAX
            && self.ecn == ecn
            && self.hops == hops
    }

    /// Adds what [`Staged::joins`], or the first one.
    pub(super) fn push(&mut self, bytes: &'b [u8], ecn: u8, hops: Option<u8>) {
        (self.ecn, self.hops) = (ecn, hops);
        self.bytes += bytes.len();
        self.slices.push(bytes);
    }

    /// Forgets what has left.
    pub(super) fn clear(&mut self) {
        self.slices.clear();
        self.bytes = 0;
    }
}
