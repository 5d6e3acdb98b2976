//! Routines that leak their secret, each in another way: what the checks of this directory have to find.

use core::hint::black_box;

/// A jump that depends on the secret.
#[inline(never)]
pub(crate) fn leaky_branch(secret: &[u8; 32]) -> u64 {
    let mut sum = 0_u64;
    for byte in secret {
        if byte & 0x10 != 0 {
            sum = black_box(sum + 1);
        }
    }
    sum
}

/// A table, indexed by the secret.
#[inline(never)]
pub(crate) fn leaky_table(secret: &[u8; 32]) -> u64 {
    static TABLE: [u8; 256] = [7; 256];
    secret.iter().map(|&byte| u64::from(black_box(&TABLE)[usize::from(byte)])).sum()
}

/// A comparison that ends at the first difference.
#[inline(never)]
pub(crate) fn leaky_comparison(secret: &[u8; 32]) -> u64 {
    let (left, right) = secret.split_at(16);
    for (i, (left, right)) in left.iter().zip(right).enumerate() {
        if left & 3 != right & 3 {
            return i as u64;
        }
    }
    16
}

/// A quotient of the secret: its time depends on the operands.
#[inline(never)]
pub(crate) fn leaky_division(secret: &[u8; 32]) -> u64 {
    let word = |at: usize| u64::from(secret[at]) << 40 | u64::from(secret[at + 1]);
    black_box(word(0)) / black_box(word(2) | 1)
}

/// A load of which the secret says how much.
#[inline(never)]
pub(crate) fn leaky_mask(secret: &[u8; 32]) -> u64 {
    static TABLE: [i32; 8] = [7; 8];
    #[target_feature(enable = "avx2")]
    fn leaky_masked_load(secret: &[u8; 32]) -> u64 {
        use core::arch::x86_64::*;
        // SAFETY: the secret has the size of a register, and the table that of the load.
        let loaded = unsafe {
            let mask = _mm256_loadu_si256(secret.as_ptr().cast());
            black_box(_mm256_maskload_epi32(black_box(&TABLE).as_ptr(), mask))
        };
        _mm256_extract_epi64::<0>(loaded) as u64
    }
    assert!(is_x86_feature_detected!("avx2"));
    // SAFETY: the CPU has AVX2.
    unsafe { leaky_masked_load(secret) }
}

/// What does not leak, though it looks at every bit.
#[inline(never)]
pub(crate) fn tight(secret: &[u8; 32]) -> u64 {
    let mut sum = 0_u64;
    for byte in secret {
        sum = black_box(sum.rotate_left(5) ^ (u64::from(*byte).wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    }
    sum
}
