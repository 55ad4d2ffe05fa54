//! The matrix product with both factors rounded to bf16, the upper half of an f32, and sums in f32.
//!
//! The processor's instruction (AVX512_BF16) adds two products of neighbours along the inner dimension to every sum, so
//! both factors are copied as such pairs, the one at the even place in the lower half of a word. Blocks and panels are as in
//! [`kernel`](super::kernel).
#![allow(unsafe_code)] // intrinsics, which are unsafe where a function is not marked with their instructions

use std::cell::RefCell;

use super::linalg::Matrix;

/// Columns of a panel: two vectors of sixteen sums.
const WIDTH: usize = 32;

/// Rows of the result whose sums stay in registers.
const BLOCK: usize = 8;

/// Length of the inner dimension that a panel holds: 32 KiB of pairs.
const DEPTH: usize = 512;

/// Two neighbours along the inner dimension.
type Pair = u32;

/// Columns of the right factor, and all rows of the left one in blocks, each pair by pair.
type Panel = Vec<[Pair; WIDTH]>;
type Blocks = Vec<[Pair; BLOCK]>;

/// Whether the program is made for a processor that has the instruction.
pub(super) const IS_FAST: bool = cfg!(target_feature = "avx512bf16");

/// `out = a b`, or `out += a b`.
pub(super) fn multiply(a: Matrix<f32>, b: Matrix<f32>, out: &mut [f32], add: bool) {
    thread_local! {
        static SCRATCH: RefCell<(Panel, Blocks)> = const { RefCell::new((Vec::new(), Vec::new())) };
    }
    let (rows, cols, inner) = (a.rows(), b.cols(), a.cols());
    assert!(inner == b.rows() && out.len() >= rows * cols, "a product of {rows} x {inner} and {} x {cols}", b.rows());
    SCRATCH.with_borrow_mut(|(panel, blocks)| {
        for start in (0..inner).step_by(DEPTH) {
            let depth = DEPTH.min(inner - start);
            let (pairs, add) = (depth.div_ceil(2), add || start > 0);
            blocks.clear();
            blocks.resize(pairs * rows.div_ceil(BLOCK), [0; BLOCK]);
            for (block, first) in blocks.chunks_exact_mut(pairs).zip((0..rows).step_by(BLOCK)) {
                pack(a.t(), start, depth, first, block);
            }
            panel.resize(pairs, [0; WIDTH]);
            for first in (0..cols).step_by(WIDTH) {
                panel.fill([0; WIDTH]);
                pack(b, start, depth, first, panel);
                for (block, lines) in blocks.chunks_exact(pairs).zip(out[..rows * cols].chunks_mut(BLOCK * cols)) {
                    let sums = sums(block, panel);
                    for (line, sums) in lines.chunks_exact_mut(cols).zip(&sums) {
                        put(sums, &mut line[first..], add);
                    }
                }
            }
        }
    });
}

/// Rounds to the nearest bf16, ties to even, as an f32's bits; what is no number stays none.
#[inline(always)]
pub(super) fn round(x: f32) -> u32 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + (bits >> 16 & 1)) & 0xffff_0000;
    if x.is_nan() { 0x7fc0_0000 } else { rounded }
}

#[inline(always)]
fn pair(even: f32, odd: f32) -> Pair {
    round(even) >> 16 | round(odd)
}

/// Copies the columns of `matrix` from `first` on, as many as there are and fit, over `depth` rows from `start` on. `to` is
/// zeros before; the last pair of an odd depth has a zero at its end.
fn pack<const N: usize>(matrix: Matrix<f32>, start: usize, depth: usize, first: usize, to: &mut [[Pair; N]]) {
    let (width, leading) = (N.min(matrix.cols() - first), matrix.leading());
    if matrix.is_transposed() {
        for j in 0..width {
            let (whole, rest) = matrix.data()[(first + j) * leading + start..][..depth].as_chunks::<2>();
            to.iter_mut().zip(whole).for_each(|(to, &[even, odd])| to[j] = pair(even, odd));
            if let (Some(to), &[even]) = (to.last_mut(), rest) {
                to[j] = pair(even, 0.0);
            }
        }
    } else {
        for (to, k) in to.iter_mut().zip((start..start + depth).step_by(2)) {
            let even = &matrix.data()[k * leading + first..];
            let odd = if k + 1 < start + depth { &matrix.data()[(k + 1) * leading + first..] } else { &[0.0; N] };
            // Whole rows have a length that the compiler knows.
            match (even.first_chunk::<N>(), odd.first_chunk::<N>()) {
                (Some(even), Some(odd)) if width == N => (0..N).for_each(|j| to[j] = pair(even[j], odd[j])),
                _ => (0..width).for_each(|j| to[j] = pair(even[j], odd[j])),
            }
        }
    }
}

/// Writes a row's sums to what there is of the result, or adds them.
fn put(sums: &[f32; WIDTH], line: &mut [f32], add: bool) {
    match line.first_chunk_mut::<WIDTH>() {
        Some(line) if !add => *line = *sums,
        _ => line.iter_mut().zip(sums).for_each(|(y, &x)| *y = if add { *y + x } else { x }),
    }
}

/// The product of a block of rows and a panel.
#[cfg(target_feature = "avx512bf16")]
#[inline(never)]
fn sums(block: &[[Pair; BLOCK]], panel: &[[Pair; WIDTH]]) -> [[f32; WIDTH]; BLOCK] {
    use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps};
    use std::mem::transmute;

    // SAFETY: the whole program is made for processors with these instructions, and arrays become vectors of their size.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; BLOCK];
        for (left, right) in block.iter().zip(panel) {
            let right: [__m512bh; 2] = transmute(*right);
            for i in 0..BLOCK {
                let left: __m512bh = transmute(_mm512_set1_epi32(left[i].cast_signed()));
                sums[i][0] = _mm512_dpbf16_ps(sums[i][0], left, right[0]);
                sums[i][1] = _mm512_dpbf16_ps(sums[i][1], left, right[1]);
            }
        }
        transmute(sums)
    }
}

#[cfg(not(target_feature = "avx512bf16"))]
fn sums(block: &[[Pair; BLOCK]], panel: &[[Pair; WIDTH]]) -> [[f32; WIDTH]; BLOCK] {
    let [even, odd] = [|pair: Pair| f32::from_bits(pair << 16), |pair: Pair| f32::from_bits(pair & 0xffff_0000)];
    let mut sums = [[0.0; WIDTH]; BLOCK];
    for (left, right) in block.iter().zip(panel) {
        for (sums, &left) in sums.iter_mut().zip(left) {
            for (sum, &right) in sums.iter_mut().zip(right) {
                *sum += even(left) * even(right) + odd(left) * odd(right);
            }
        }
    }
    sums
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_by_hand() {
        // bf16 has 8 significant bits: 1 + 2⁻⁸ lies halfway between 1 and 1 + 2⁻⁷ and goes to the even one.
        let x = [1.0, 1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), -3.0, f32::INFINITY, f32::NAN];
        let rounded = x.map(|x| round(x) >> 16);
        assert_eq!(rounded, [0x3f80, 0x3f80, 0x3f82, 0xc040, 0x7f80, 0x7fc0]);
    }
}
