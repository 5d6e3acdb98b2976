//! Rows of words in registers to columns.
//!
//! Enters and leaves: registers. Never does: touch memory.

use core::arch::x86_64::*;

/// Rows of eight 64-bit words to columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_8(rows: &[__m512i; 8]) -> [__m512i; 8] {
    let mut pairs = *rows;
    for i in 0..4 {
        pairs[2 * i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
    }
    let mut columns = *rows;
    for parity in 0..2 {
        let [a, b, c, d] = [pairs[parity], pairs[2 + parity], pairs[4 + parity], pairs[6 + parity]];
        let quads = quarter_transpose(a, b, c, d);
        for (quarter, column) in quads.into_iter().enumerate() {
            columns[2 * quarter + parity] = column;
        }
    }
    columns
}

/// Four registers of four 128-bit quarters each: register `q` of the result holds quarter `q` of each.
#[inline]
#[target_feature(enable = "avx512f")]
fn quarter_transpose(a: __m512i, b: __m512i, c: __m512i, d: __m512i) -> [__m512i; 4] {
    let (ab_low, ab_high) = (_mm512_shuffle_i64x2::<0x44>(a, b), _mm512_shuffle_i64x2::<0xee>(a, b));
    let (cd_low, cd_high) = (_mm512_shuffle_i64x2::<0x44>(c, d), _mm512_shuffle_i64x2::<0xee>(c, d));
    [
        _mm512_shuffle_i64x2::<0x88>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0xdd>(ab_low, cd_low),
        _mm512_shuffle_i64x2::<0x88>(ab_high, cd_high),
        _mm512_shuffle_i64x2::<0xdd>(ab_high, cd_high),
    ]
}

/// Sixteen rows of sixteen 32-bit words to columns.
#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn transpose_16(rows: &[__m512i; 16]) -> [__m512i; 16] {
    let mut quads = *rows;
    for i in 0..4 {
        let [a, b, c, d] = [rows[4 * i], rows[4 * i + 1], rows[4 * i + 2], rows[4 * i + 3]];
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        quads[4 * i] = _mm512_unpacklo_epi64(ab_low, cd_low);
        quads[4 * i + 1] = _mm512_unpackhi_epi64(ab_low, cd_low);
        quads[4 * i + 2] = _mm512_unpacklo_epi64(ab_high, cd_high);
        quads[4 * i + 3] = _mm512_unpackhi_epi64(ab_high, cd_high);
    }
    // quads[4i + j], quarter q: words 4i..4i+4 of column 4q + j.
    let mut columns = *rows;
    for j in 0..4 {
        let joined = quarter_transpose(quads[j], quads[4 + j], quads[8 + j], quads[12 + j]);
        for (quarter, column) in joined.into_iter().enumerate() {
            columns[4 * quarter + j] = column;
        }
    }
    columns
}
