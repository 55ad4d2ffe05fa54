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

/// Columns of the right factor, pair by pair.
type Panel = Vec<[Pair; WIDTH]>;

/// All rows of the left factor, each row's pairs together; or where the factor is stored column by column the first pairs of
/// all rows, then their second ones, and so on. Some rows after the last are zeros.
type Left = Vec<Pair>;

/// A block of rows times a panel.
type Tile = [[f32; WIDTH]; BLOCK];

/// Whether the program is made for a processor that has the instruction.
pub(super) const IS_FAST: bool = cfg!(target_feature = "avx512bf16");

/// `out = a b`, or `out += a b`.
pub(super) fn multiply(a: Matrix<f32>, b: Matrix<f32>, out: &mut [f32], add: bool) {
    thread_local! {
        static SCRATCH: RefCell<(Panel, Left)> = const { RefCell::new((Vec::new(), Vec::new())) };
    }
    let (rows, cols, inner) = (a.rows(), b.cols(), a.cols());
    assert!(inner == b.rows() && out.len() >= rows * cols, "a product of {rows} x {inner} and {} x {cols}", b.rows());
    SCRATCH.with_borrow_mut(|(panel, left)| {
        for start in (0..inner).step_by(DEPTH) {
            let depth = DEPTH.min(inner - start);
            let (pairs, add) = (depth.div_ceil(2), add || start > 0);
            // From one pair of a row to its next: an odd number of cache lines, so that they do not fall on one another.
            let stride = (rows.next_multiple_of(BLOCK) + 15) / 32 * 32 + 16;
            left.clear();
            if a.is_transposed() {
                left.resize(pairs * stride, 0);
                for (to, k) in left.chunks_exact_mut(stride).zip((start..).step_by(2)) {
                    pack_lines(a.t(), k, start + depth, 0, &mut to[..rows]);
                }
            } else {
                left.resize(pairs * rows.next_multiple_of(BLOCK), 0);
                for (to, row) in left.chunks_exact_mut(pairs).zip(0..rows) {
                    pack(a.t(), start, depth, row, to.as_chunks_mut::<1>().0);
                }
            }
            panel.resize(pairs, [0; WIDTH]);
            for first in (0..cols).step_by(WIDTH) {
                panel.fill([0; WIDTH]);
                pack(b, start, depth, first, panel);
                let lines = out[..rows * cols].chunks_mut(BLOCK * cols);
                for (lines, row) in lines.zip((0..).step_by(BLOCK)) {
                    let sums = match a.is_transposed() {
                        true => sums_by_pairs(&left[row..], stride, panel),
                        false => sums_by_rows(&left[row * pairs..], panel),
                    };
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
        for (to, k) in to.iter_mut().zip((start..).step_by(2)) {
            pack_lines(matrix, k, start + depth, first, &mut to[..width]);
        }
    }
}

/// Copies rows `k` and `k + 1` of `matrix`, from column `first` on, as pairs; from row `end` on all are zeros.
#[inline(always)]
fn pack_lines(matrix: Matrix<f32>, k: usize, end: usize, first: usize, to: &mut [Pair]) {
    let len = to.len();
    let line = |k: usize| &matrix.data()[k * matrix.leading() + first..][..len];
    if k + 1 < end {
        let (even, odd) = (line(k), line(k + 1));
        to.iter_mut().zip(even.iter().zip(odd)).for_each(|(to, (&even, &odd))| *to = pair(even, odd));
    } else {
        to.iter_mut().zip(line(k)).for_each(|(to, &even)| *to = pair(even, 0.0));
    }
}

/// Writes a row's sums to what there is of the result, or adds them.
fn put(sums: &[f32; WIDTH], line: &mut [f32], add: bool) {
    match line.first_chunk_mut::<WIDTH>() {
        Some(line) if !add => *line = *sums,
        _ => line.iter_mut().zip(sums).for_each(|(y, &x)| *y = if add { *y + x } else { x }),
    }
}

/// The product of a block whose rows have their pairs together, and a panel.
#[inline(never)]
fn sums_by_rows(left: &[Pair], panel: &[[Pair; WIDTH]]) -> Tile {
    let rows: [&[Pair]; BLOCK] = std::array::from_fn(|i| &left[i * panel.len()..][..panel.len()]);
    sums(panel, (0..panel.len()).map(|k| move |i: usize| rows[i][k]))
}

/// The product of a block whose rows have their pairs `stride` apart, and a panel.
#[inline(never)]
fn sums_by_pairs(left: &[Pair], stride: usize, panel: &[[Pair; WIDTH]]) -> Tile {
    let blocks = left.chunks(stride).map_while(|pairs| pairs.first_chunk::<BLOCK>());
    sums(panel, blocks.map(|pairs| |i: usize| pairs[i]))
}

/// Place by place along the inner dimension `left` gives row `i`'s pair.
#[cfg(target_feature = "avx512bf16")]
#[inline(always)]
fn sums(panel: &[[Pair; WIDTH]], left: impl Iterator<Item = impl Fn(usize) -> Pair>) -> Tile {
    use std::arch::x86_64::{__m512bh, _mm512_dpbf16_ps, _mm512_set1_epi32, _mm512_setzero_ps};
    use std::mem::transmute;

    // SAFETY: the whole program is made for processors with these instructions, and arrays become vectors of their size.
    unsafe {
        let mut sums = [[_mm512_setzero_ps(); 2]; BLOCK];
        for (right, left) in panel.iter().zip(left) {
            let right: [__m512bh; 2] = transmute(*right);
            for (i, sums) in sums.iter_mut().enumerate() {
                let left: __m512bh = transmute(_mm512_set1_epi32(left(i).cast_signed()));
                *sums = [0, 1].map(|j| _mm512_dpbf16_ps(sums[j], left, right[j]));
            }
        }
        transmute(sums)
    }
}

#[cfg(not(target_feature = "avx512bf16"))]
#[inline(always)]
fn sums(panel: &[[Pair; WIDTH]], left: impl Iterator<Item = impl Fn(usize) -> Pair>) -> Tile {
    let [even, odd] = [|pair: Pair| f32::from_bits(pair << 16), |pair: Pair| f32::from_bits(pair & 0xffff_0000)];
    let mut sums = [[0.0; WIDTH]; BLOCK];
    for (right, left) in panel.iter().zip(left) {
        for (i, sums) in sums.iter_mut().enumerate() {
            let left = left(i);
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
