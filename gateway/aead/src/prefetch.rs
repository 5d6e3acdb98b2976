//! Hints to the CPU: what will be read soon.
//!
//! Enters: a reference. Leaves: nothing but time, where the cache lines behind it were far away. Never does: read, wait, or
//! change what a program computes.

/// Bytes of a cache line.
const LINE: usize = 64;

/// Asks for the cache lines that a value lies in, so that they come while other work is done. For small values: each line
/// costs an instruction, and the CPU keeps a dozen such requests at a time.
#[inline(always)]
pub fn prefetch<T>(value: &T) {
    let start = core::ptr::from_ref(value).cast::<u8>();
    let before = start.addr() % LINE;
    let lines = (before + size_of::<T>()).div_ceil(LINE).max(1);
    for line in 0..lines {
        prefetch_line(start.wrapping_sub(before).wrapping_add(line * LINE));
    }
}

#[inline(always)]
fn prefetch_line(at: *const u8) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a prefetch reads nothing that the program sees and ignores addresses that it cannot reach.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(at.cast());
    }
    #[cfg(target_arch = "aarch64")]
    // SAFETY: as above.
    unsafe {
        core::arch::asm!("prfm pldl1keep, [{}]", in(reg) at, options(nostack, preserves_flags, readonly));
    }
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    let _ = at;
}

#[cfg(test)]
mod tests {
    #[test]
    fn what_was_asked_for_is_as_it_was() {
        let values = [7_u64; 100];
        super::prefetch(&values);
        super::prefetch(&values[99]);
        super::prefetch(&());
        assert_eq!(values, [7; 100]);
    }
}
