//! Squares of numbers whose rows become columns, as many as a vector of AVX-512 has lanes.
#![allow(unsafe_code)] // intrinsics, which are unsafe where a function is not marked with their instructions

/// 32-bit words of a vector.
pub(super) const LANES: usize = 16;

/// Words, row by row.
pub(super) type Square = [[u32; LANES]; LANES];

/// Whether the program is made for a processor that does it in vectors.
pub(super) const IS_FAST: bool = cfg!(target_feature = "avx512f");

/// Rows become columns.
#[cfg(any(test, not(target_feature = "avx512f")))]
pub(super) fn transposed_plainly(rows: &Square) -> Square {
    std::array::from_fn(|j| std::array::from_fn(|i| rows[i][j]))
}

#[cfg(not(target_feature = "avx512f"))]
pub(super) use transposed_plainly as transposed;

/// Rows become columns.
#[cfg(target_feature = "avx512f")]
#[inline(always)]
pub(super) fn transposed(rows: &Square) -> Square {
    use std::arch::x86_64::{
        _mm512_loadu_si512, _mm512_shuffle_i32x4, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
        _mm512_unpacklo_epi64,
    };
    use std::array::from_fn;
    use std::mem::transmute;

    // SAFETY: the whole program is made for processors with these instructions, and arrays become vectors of their size.
    unsafe {
        // A vector has four quarters of four lanes. First the quarters, four by four rows: x[4 b + c] has in quarter q column
        // 4 q + c of rows 4 b to 4 b + 3.
        let rows = rows.each_ref().map(|row| _mm512_loadu_si512(row.as_ptr().cast()));
        let mut x = rows;
        for b in [0, 4, 8, 12] {
            let [r0, r1, r2, r3] = [rows[b], rows[b + 1], rows[b + 2], rows[b + 3]];
            let (low, low_next) = (_mm512_unpacklo_epi32(r0, r1), _mm512_unpacklo_epi32(r2, r3));
            let (high, high_next) = (_mm512_unpackhi_epi32(r0, r1), _mm512_unpackhi_epi32(r2, r3));
            x[b] = _mm512_unpacklo_epi64(low, low_next);
            x[b + 1] = _mm512_unpackhi_epi64(low, low_next);
            x[b + 2] = _mm512_unpacklo_epi64(high, high_next);
            x[b + 3] = _mm512_unpackhi_epi64(high, high_next);
        }
        // Then quarters q of x[c], x[4 + c], x[8 + c] and x[12 + c] are column 4 q + c.
        let columns: [[_; 4]; 4] = from_fn(|c| {
            let even = [0, 8].map(|b| _mm512_shuffle_i32x4::<0b10_00_10_00>(x[b + c], x[b + 4 + c]));
            let odd = [0, 8].map(|b| _mm512_shuffle_i32x4::<0b11_01_11_01>(x[b + c], x[b + 4 + c]));
            [
                _mm512_shuffle_i32x4::<0b10_00_10_00>(even[0], even[1]),
                _mm512_shuffle_i32x4::<0b10_00_10_00>(odd[0], odd[1]),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(even[0], even[1]),
                _mm512_shuffle_i32x4::<0b11_01_11_01>(odd[0], odd[1]),
            ]
        });
        from_fn(|j| transmute(columns[j % 4][j / 4]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_do_what_plain_words_say() {
        let square = std::array::from_fn(|i| std::array::from_fn(|j| (i * LANES + j) as u32));
        assert_eq!(transposed(&square), transposed_plainly(&square));
        assert_eq!((transposed(&square)[3][5], transposed(&transposed(&square))), (5 * 16 + 3, square));
    }
}
