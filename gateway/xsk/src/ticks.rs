//! The CPU's time stamp counter, for measuring what takes nanoseconds.
//!
//! Enters: nothing. Leaves: a number that grows steadily while this machine runs. Never does: say how long a tick is;
//! who wants to know compares two readings with two of [`std::time::Instant`].

/// The counter of this moment; nanoseconds where the CPU has none that programs may read.
#[inline]
#[must_use]
pub fn now() -> u64 {
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: every CPU of this architecture has the instruction, and Linux lets programs use it unless they
        // forbade it themselves by prctl, which nothing here does.
        unsafe { core::arch::x86_64::_rdtsc() }
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        static START: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        START.get_or_init(std::time::Instant::now).elapsed().as_nanos() as u64
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_counter_grows() {
        let before = super::now();
        std::thread::sleep(std::time::Duration::from_millis(2));
        assert!(super::now() > before);
    }
}
