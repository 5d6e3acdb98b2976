//! The program's counters.

use landbridge_ebpf_common::Verdict;

/// Packets per verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counters([u64; Verdict::COUNT]);

impl Default for Counters {
    fn default() -> Self {
        Self([0; Verdict::COUNT])
    }
}

impl Counters {
    /// Packets with this verdict.
    #[must_use]
    pub const fn packets(&self, verdict: Verdict) -> u64 {
        self.0[verdict.index() as usize]
    }

    /// All verdicts with their packets.
    pub fn iter(&self) -> impl Iterator<Item = (Verdict, u64)> {
        Verdict::ALL.into_iter().zip(self.0)
    }

    pub(super) const fn set(&mut self, verdict: Verdict, packets: u64) {
        self.0[verdict.index() as usize] = packets;
    }
}
