//! The matrix product with both factors rounded to bf16, the upper half of an f32, and sums in f32.
//!
//! The processor's instruction (AVX512_BF16) adds two products of neighbours along the inner dimension to every sum, so
//! both factors are copied as such pairs, the one at the even place in the lower half of a word. Blocks and panels are as in
//! [`kernel`](super::kernel).
#![allow(unsafe_code)] // intrinsics, which are unsafe where a function is not marked with their instructions

use std::cell::RefCell;
use std::ops::Range;

use super::lanes::{self, LANES};
use super::linalg::Matrix;

/// Columns of a panel: two vectors of sums.
const WIDTH: usize = 2 * LANES;

/// Rows of the result whose sums stay in registers.
const BLOCK: usize = 8;

/// Length of the inner dimension that a panel holds: 32 KiB of pairs.
const DEPTH: usize = 512;

/// Two neighbours along the inner dimension.
type Pair = u32;

/// Columns of the right factor, pair by pair. What lies beyond the last column has no meaning.
type Panel = Vec<[Pair; WIDTH]>;

/// All rows of the left factor, each row's pairs together; or where the factor is stored column by column the first pairs of
/// all rows, then their second ones, and so on. There is room for some rows after the last, which have no meaning.
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
    if inner == 0 && !add {
        out[..rows * cols].fill(0.0);
    }
    SCRATCH.with_borrow_mut(|(panel, left)| {
        for start in (0..inner).step_by(DEPTH) {
            let places = start..inner.min(start + DEPTH);
            let (pairs, add) = (places.len().div_ceil(2), add || start > 0);
            // From one pair of a row to its next: an odd number of cache lines, so that they do not fall on one another.
            let stride = (rows.next_multiple_of(BLOCK) + 15) / 32 * 32 + 16;
            if a.is_transposed() {
                left.resize(pairs * stride, 0);
                let to = left.chunks_exact_mut(stride).map(|to| &mut to[..rows]);
                pack_lines(a.t(), places.clone(), 0, to);
            } else {
                left.resize(pairs * rows.next_multiple_of(BLOCK), 0);
                for (to, row) in left.chunks_exact_mut(pairs).zip(0..rows) {
                    pack_line(&a.data()[row * a.leading()..][places.clone()], to);
                }
            }
            panel.resize(pairs, [0; WIDTH]);
            for first in (0..cols).step_by(WIDTH) {
                let width = WIDTH.min(cols - first);
                match b.is_transposed() {
                    true => pack_columns(b, places.clone(), first, panel),
                    false => pack_lines(b, places.clone(), first, panel.iter_mut().map(|to| &mut to[..width])),
                }
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

/// Pairs of neighbours in `line`; the last of an odd number has a zero beside it.
#[inline(always)]
fn pack_line(line: &[f32], to: &mut [Pair]) {
    let (whole, rest) = line.as_chunks::<{ 2 * LANES }>();
    let (to, to_rest) = to.split_at_mut(whole.len() * LANES);
    to.as_chunks_mut().0.iter_mut().zip(whole).for_each(|(to, line)| *to = pairs::neighbours(line));
    let (whole, rest) = rest.as_chunks::<2>();
    to_rest.iter_mut().zip(whole).for_each(|(to, &[even, odd])| *to = pair(even, odd));
    if let &[even] = rest {
        to_rest[whole.len()] = pair(even, 0.0);
    }
}

/// Pairs of two rows of `matrix`, which is stored row by row, for all rows in `places`, from column `first` on.
fn pack_lines<'a>(matrix: Matrix<f32>, places: Range<usize>, first: usize, to: impl Iterator<Item = &'a mut [Pair]>) {
    for (to, k) in to.zip(places.clone().step_by(2)) {
        let line = |k: usize| &matrix.data()[k * matrix.leading() + first..][..to.len()];
        if k + 1 < places.end {
            let ((even, even_rest), (odd, odd_rest)) = (line(k).as_chunks(), line(k + 1).as_chunks());
            let (to, to_rest) = to.as_chunks_mut();
            to.iter_mut().zip(even.iter().zip(odd)).for_each(|(to, (even, odd))| *to = pairs::zipped(even, odd));
            to_rest
                .iter_mut()
                .zip(even_rest.iter().zip(odd_rest))
                .for_each(|(to, (&even, &odd))| *to = pair(even, odd));
        } else {
            let line = line(k);
            to.iter_mut().zip(line).for_each(|(to, &even)| *to = pair(even, 0.0));
        }
    }
}

/// The same for a matrix that is stored column by column, as many columns as there are and fit.
fn pack_columns(matrix: Matrix<f32>, places: Range<usize>, first: usize, panel: &mut [[Pair; WIDTH]]) {
    for (part, columns) in (0..WIDTH.min(matrix.cols() - first)).step_by(LANES).enumerate() {
        let columns = first + columns..matrix.cols();
        for (to, start) in panel.chunks_mut(LANES).zip(places.clone().step_by(2 * LANES)) {
            let mut square = [[0; LANES]; LANES];
            for (square, column) in square.iter_mut().zip(columns.clone()) {
                let end = places.end.min(start + 2 * LANES);
                pack_line(&matrix.data()[column * matrix.leading()..][start..end], square);
            }
            for (to, pairs) in to.iter_mut().zip(lanes::transposed(&square)) {
                to.as_chunks_mut().0[part] = pairs;
            }
        }
    }
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

/// What a vector's lanes do at once, in plain words.
#[cfg(any(test, not(target_feature = "avx512bf16")))]
mod plain {
    use std::array::from_fn;

    use super::{LANES, Pair, pair};

    /// Pairs of neighbours.
    pub(super) fn neighbours(line: &[f32; 2 * LANES]) -> [Pair; LANES] {
        from_fn(|i| pair(line[2 * i], line[2 * i + 1]))
    }

    /// Pairs of one number of each line.
    pub(super) fn zipped(even: &[f32; LANES], odd: &[f32; LANES]) -> [Pair; LANES] {
        from_fn(|i| pair(even[i], odd[i]))
    }
}

/// The same in AVX-512. Numbers below the normal ones become 0, for which the product takes them anyway.
#[cfg(target_feature = "avx512bf16")]
mod wide {
    use std::arch::x86_64::{__m512bh, __m512i, _mm512_cvtne2ps_pbh, _mm512_loadu_ps, _mm512_permutexvar_epi16};
    use std::mem::transmute;

    use super::{LANES, Pair};

    #[inline(always)]
    pub(super) fn neighbours(line: &[f32; 2 * LANES]) -> [Pair; LANES] {
        // SAFETY: the whole program is made for processors with these instructions, and arrays become vectors of their size.
        unsafe {
            let [low, high] = [0, LANES].map(|at| _mm512_loadu_ps(line[at..].as_ptr()));
            transmute(_mm512_cvtne2ps_pbh(high, low))
        }
    }

    #[inline(always)]
    pub(super) fn zipped(even: &[f32; LANES], odd: &[f32; LANES]) -> [Pair; LANES] {
        const IN_TURN: [u16; 2 * LANES] = {
            let mut places = [0; 2 * LANES];
            let mut i = 0;
            while i < 2 * LANES {
                places[i] = (i / 2 + i % 2 * LANES) as u16;
                i += 1;
            }
            places
        };
        // SAFETY: as above.
        unsafe {
            let both = _mm512_cvtne2ps_pbh(_mm512_loadu_ps(odd.as_ptr()), _mm512_loadu_ps(even.as_ptr()));
            let in_turn = transmute::<[u16; 2 * LANES], __m512i>(IN_TURN);
            transmute(_mm512_permutexvar_epi16(in_turn, transmute::<__m512bh, __m512i>(both)))
        }
    }
}

#[cfg(not(target_feature = "avx512bf16"))]
use plain as pairs;
#[cfg(target_feature = "avx512bf16")]
use wide as pairs;

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
    use std::array::from_fn;

    use bregman_envs::rng::NumpyRng;

    use super::*;

    #[test]
    fn rounding_by_hand() {
        // bf16 has 8 significant bits: 1 + 2⁻⁸ lies halfway between 1 and 1 + 2⁻⁷ and goes to the even one.
        let x = [1.0, 1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), -3.0, f32::INFINITY, f32::NAN];
        let rounded = x.map(|x| round(x) >> 16);
        assert_eq!(rounded, [0x3f80, 0x3f80, 0x3f82, 0xc040, 0x7f80, 0x7fc0]);
    }

    #[test]
    fn vectors_do_what_plain_words_say() {
        let mut rng = NumpyRng::new(1);
        let mut draw = || rng.standard_normal() as f32;
        let (line, even, odd) = (from_fn(|_| draw()), from_fn(|_| draw()), from_fn(|_| draw()));
        assert_eq!(pairs::neighbours(&line), plain::neighbours(&line));
        assert_eq!(pairs::zipped(&even, &odd), plain::zipped(&even, &odd));
        for x in [f32::MAX, f32::INFINITY, -0.0, 1.0 + 2f32.powi(-8), 1.0 + 3.0 * 2f32.powi(-8), -1e-30] {
            assert_eq!(pairs::zipped(&[x; LANES], &[1.0; LANES]), plain::zipped(&[x; LANES], &[1.0; LANES]), "{x}");
        }
        assert!(f32::from_bits(pairs::zipped(&[f32::NAN; LANES], &[1.0; LANES])[3] << 16).is_nan());
    }

    /// Whole numbers are exact. Odd sizes, more than one stretch of the inner dimension, and what an earlier product left behind.
    #[test]
    fn products_of_all_shapes_are_exact_in_whole_numbers() {
        let (mut rng, unknown) = (NumpyRng::new(1), vec![f32::NAN; 70 * 90]);
        multiply(Matrix::new(&unknown, 70, 90), Matrix::new(&unknown, 90, 70), &mut [0.0; 70 * 70], false);
        let sizes =
            [(1, 1, 1), (3, 5, 7), (8, 32, 32), (17, 33, 31), (9, 513, 50), (40, 1100, 33), (33, 2, 65), (64, 64, 16)];
        for (m, k, n) in sizes.into_iter().chain([(3, 0, 5)]) {
            let mut draw =
                |n: usize| (0..n).map(|_| (rng.standard_normal() * 4.0).round() as f32).collect::<Vec<f32>>();
            let (a, b) = (draw(m * k), draw(k * n));
            let turned = |x: &[f32], rows: usize, cols: usize| {
                (0..rows * cols).map(|i| x[i % rows * cols + i / rows]).collect::<Vec<f32>>()
            };
            let (a_turned, b_turned) = (turned(&a, m, k), turned(&b, k, n));
            let by_hand: Vec<f32> =
                (0..m * n).map(|i| (0..k).map(|j| a[i / n * k + j] * b[j * n + i % n]).sum()).collect();
            for left in [Matrix::new(&a, m, k), Matrix::new(&a_turned, k, m).t()] {
                for right in [Matrix::new(&b, k, n), Matrix::new(&b_turned, n, k).t()] {
                    let mut out = vec![f32::NAN; m * n];
                    multiply(left, right, &mut out, false);
                    assert_eq!(out, by_hand, "{m} {k} {n}");
                    multiply(left, right, &mut out, true);
                    assert!(out.iter().zip(&by_hand).all(|(x, y)| *x == 2.0 * y), "{m} {k} {n}");
                }
            }
        }
    }
}
