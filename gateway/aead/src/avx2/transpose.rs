//! Rows of words in registers to columns.
//!
//! Enters and leaves: registers. Never does: touch memory.

use core::arch::x86_64::*;

/// Eight rows of eight 32-bit words to columns.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose_8(rows: &[__m256i]) -> [__m256i; 8] {
    let mut quads = [_mm256_setzero_si256(); 8];
    for i in 0..2 {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
        quads[4 * i] = _mm256_unpacklo_epi64(ab_low, cd_low);
        quads[4 * i + 1] = _mm256_unpackhi_epi64(ab_low, cd_low);
        quads[4 * i + 2] = _mm256_unpacklo_epi64(ab_high, cd_high);
        quads[4 * i + 3] = _mm256_unpackhi_epi64(ab_high, cd_high);
    }
    // quads[4i + j], half q: words 4i..4i+4 of column 4q + j.
    let mut columns = quads;
    for j in 0..4 {
        columns[j] = _mm256_permute2x128_si256::<0x20>(quads[j], quads[4 + j]);
        columns[4 + j] = _mm256_permute2x128_si256::<0x31>(quads[j], quads[4 + j]);
    }
    columns
}

/// Four rows of four 64-bit words to columns.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn transpose_4(rows: &[__m256i; 4]) -> [__m256i; 4] {
    let (low_01, high_01) = (_mm256_unpacklo_epi64(rows[0], rows[1]), _mm256_unpackhi_epi64(rows[0], rows[1]));
    let (low_23, high_23) = (_mm256_unpacklo_epi64(rows[2], rows[3]), _mm256_unpackhi_epi64(rows[2], rows[3]));
    [
        _mm256_permute2x128_si256::<0x20>(low_01, low_23),
        _mm256_permute2x128_si256::<0x20>(high_01, high_23),
        _mm256_permute2x128_si256::<0x31>(low_01, low_23),
        _mm256_permute2x128_si256::<0x31>(high_01, high_23),
    ]
}
