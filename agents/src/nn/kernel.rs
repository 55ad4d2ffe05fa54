//! The matrix product of the processor at hand, in plain loops that the compiler turns into its widest multiply-adds.
//!
//! The right factor is copied into panels, two vectors wide, that stay in the nearest cache, and blocks of up to six rows of the
//! result stay in registers while the inner dimension runs by (Goto & van de Geijn 2008). What is left of the columns, and
//! fits, goes into a panel of one vector. No memory is asked for once the calling thread's scratch has grown to size.

use std::array::from_fn;

use super::Real;
use super::lanes::{self, LANES};
use super::linalg::Matrix;

/// Numbers of a vector, for `f32`.
const VECTOR: usize = if cfg!(target_feature = "avx512f") { 16 } else { 8 };

/// Columns of a panel, and of a narrow one.
const WIDE: usize = 2 * VECTOR;
const NARROW: usize = VECTOR;

/// Length of the inner dimension that a panel holds: of `f32` 16 KiB, half of the nearest cache, or with the longer vectors
/// 32 of 48.
const DEPTH: usize = 256;

/// Up to this many rows a panel is read where it is stored: copying it would cost as much as the product.
const FEW_ROWS: usize = 12;

/// Rows of the result whose sums stay in registers.
const BLOCK: usize = 6;

/// From this row length on, rows under one another fall on the same few cache lines, and a transposed left factor is copied
/// into blocks first, if it meets enough panels.
const LONG_ROW: usize = 128;
const MANY_COLUMNS: usize = 64;

/// `out = a b`, or `out += a b`.
pub(super) fn multiply<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], add: bool) {
    let (rows, cols, inner) = (a.rows(), b.cols(), a.cols());
    assert!(inner == b.rows() && out.len() >= rows * cols, "a product of {rows} x {inner} and {} x {cols}", b.rows());
    if cols == 1 {
        return times_column(a, &b.data()[..inner], &mut out[..rows], add);
    }
    if inner == 1 && !add {
        return column_times_row(&a.data()[..rows], &b.data()[..cols], out);
    }
    let packs = a.is_transposed() && a.leading() >= LONG_ROW && rows > FEW_ROWS && cols >= MANY_COLUMNS;
    T::with_scratch(|scratch| {
        let wanted = DEPTH.min(inner) * (WIDE + if packs { rows } else { 0 });
        if scratch.len() < wanted {
            scratch.resize(wanted, T::zero());
        }
        for start in (0..inner).step_by(DEPTH) {
            let depth = DEPTH.min(inner - start);
            let (panel, blocks) = scratch.split_at_mut(depth * WIDE);
            let left = if packs {
                pack_left(a, start, depth, blocks);
                Left::Packed(&blocks[..depth * rows], depth)
            } else if a.is_transposed() {
                Left::Columns(&a.data()[start * a.leading()..], a.leading())
            } else {
                Left::Rows(&a.data()[start..], a.leading())
            };
            for first in (0..cols).step_by(WIDE) {
                let place = Place { first, cols, add: add || start > 0 };
                let right = (b, start, depth);
                if cols - first > NARROW {
                    times_panel::<T, WIDE>(left, right, panel, rows, place, out);
                } else {
                    times_panel::<T, NARROW>(left, right, panel, rows, place, out);
                }
            }
        }
    });
}

/// The product with `W` columns of the right factor `b`, over `depth` of the inner dimension from `start` on.
fn times_panel<T: Real, const W: usize>(
    left: Left<T>,
    (b, start, depth): (Matrix<T>, usize, usize),
    panel: &mut [T],
    rows: usize,
    place: Place,
    out: &mut [T],
) {
    if rows <= FEW_ROWS && !b.is_transposed() && place.first + W <= place.cols {
        let stored = &b.data()[start * b.leading() + place.first..];
        columns::<T, W>(left, Right::Stored(stored, b.leading(), depth), rows, place, out);
    } else {
        let panel = &mut panel[..depth * W];
        pack::<T, W>(b, start, place.first, panel);
        columns::<T, W>(left, Right::Packed(panel.as_chunks::<W>().0), rows, place, out);
    }
}

/// A matrix times a column: `out = a b`, or `out += a b`.
fn times_column<T: Real>(a: Matrix<T>, b: &[T], out: &mut [T], add: bool) {
    if !add {
        out.fill(T::zero());
    }
    if a.is_transposed() {
        for (column, &x) in a.data().chunks_exact(a.leading()).zip(b) {
            out.iter_mut().zip(column).for_each(|(y, &a)| *y = multiply_add(a, x, *y));
        }
    } else {
        for (row, y) in a.data().chunks_exact(a.leading()).zip(out) {
            *y += sum_of_products(row, b);
        }
    }
}

/// `out = a b` of a column and a row.
fn column_times_row<T: Real>(a: &[T], b: &[T], out: &mut [T]) {
    for (row, &x) in out.chunks_exact_mut(b.len()).zip(a) {
        row.iter_mut().zip(b).for_each(|(y, &b)| *y = x * b);
    }
}

/// A stretch of the left factor's inner dimension: as it lies in memory, row by row or column by column, with the distance
/// between them; or in blocks of [`BLOCK`] rows, each column by column, with the stretch's length.
#[derive(Clone, Copy)]
enum Left<'a, T> {
    Rows(&'a [T], usize),
    Columns(&'a [T], usize),
    Packed(&'a [T], usize),
}

/// A panel of the right factor: copied together, or where it is stored, with the distance between its rows and their number.
#[derive(Clone, Copy)]
enum Right<'a, T, const W: usize> {
    Packed(&'a [[T; W]]),
    Stored(&'a [T], usize, usize),
}

impl<'a, T, const W: usize> Right<'a, T, W> {
    fn depth(&self) -> usize {
        match self {
            Right::Packed(panel) => panel.len(),
            Right::Stored(_, _, depth) => *depth,
        }
    }

    /// The rows of a stored panel.
    #[inline(always)]
    fn stored(data: &'a [T], stride: usize, depth: usize) -> impl Iterator<Item = &'a [T; W]> {
        data.chunks(stride).take(depth).map_while(|row| row.first_chunk::<W>())
    }
}

/// Where a panel's product goes: from column `first` of a result with `cols` columns.
#[derive(Clone, Copy)]
struct Place {
    first: usize,
    cols: usize,
    add: bool,
}

/// Copies the columns of `a`, which are stored as rows, from `start` on into `blocks` of [`BLOCK`] rows, each `[depth, BLOCK]`;
/// the last has what rows are left.
fn pack_left<T: Real>(a: Matrix<T>, start: usize, depth: usize, blocks: &mut [T]) {
    for (first, block) in (0..a.rows()).step_by(BLOCK).zip(blocks.chunks_mut(depth * BLOCK)) {
        let rows = BLOCK.min(a.rows() - first);
        for (to, k) in block.chunks_exact_mut(rows).zip(start..start + depth) {
            let from = &a.data()[k * a.leading() + first..];
            match (to.first_chunk_mut::<BLOCK>(), from.first_chunk::<BLOCK>()) {
                (Some(to), Some(from)) => *to = *from,
                _ => to.copy_from_slice(&from[..rows]),
            }
        }
    }
}

/// Copies `W` columns of `b` from `first` on into `panel`, `[depth, W]`; columns beyond the last are 0.
fn pack<T: Real, const W: usize>(b: Matrix<T>, start: usize, first: usize, panel: &mut [T]) {
    let (width, depth) = (W.min(b.cols() - first), panel.len() / W);
    if width < W {
        panel.fill(T::zero());
    }
    if b.is_transposed() {
        let column = |j: usize| &b.data()[(first + j) * b.leading() + start..][..depth];
        let (done, columns) = pack_squares(column, width, panel.as_chunks_mut::<W>().0);
        for j in 0..width {
            let done = if j < columns { done } else { 0 };
            panel.chunks_exact_mut(W).zip(column(j)).skip(done).for_each(|(row, &x)| row[j] = x);
        }
    } else {
        for (row, k) in panel.as_chunks_mut::<W>().0.iter_mut().zip(start..start + depth) {
            let from = &b.data()[k * b.leading() + first..];
            // Whole rows have a length that the compiler knows: two loads, not a call.
            match from.first_chunk::<W>().filter(|_| width == W) {
                Some(whole) => *row = *whole,
                None => row[..width].copy_from_slice(&from[..width]),
            }
        }
    }
}

/// Copies as many of the first `width` columns, and as much of them, as whole squares hold; returns how much, and of how many. Of other
/// numbers and on other processors that is nothing: there the compiler copies column by column well.
fn pack_squares<'a, T: Real, const W: usize>(
    column: impl Fn(usize) -> &'a [T],
    width: usize,
    panel: &mut [[T; W]],
) -> (usize, usize) {
    if !lanes::IS_FAST || size_of::<T>() != size_of::<u32>() {
        return (0, 0);
    }
    let (depth, width) = (panel.len() / LANES * LANES, width / LANES * LANES);
    for first in (0..width).step_by(LANES) {
        let columns: [&[[T; LANES]]; LANES] = from_fn(|j| column(first + j).as_chunks().0);
        for (k, rows) in panel.as_chunks_mut::<LANES>().0.iter_mut().enumerate() {
            let square = columns.map(|column| bytemuck::cast(column[k]));
            for (row, numbers) in rows.iter_mut().zip(lanes::transposed(&square)) {
                row.as_chunks_mut::<LANES>().0[first / LANES] = bytemuck::cast(numbers);
            }
        }
    }
    (depth, width)
}

/// The product with a panel, in blocks of rows.
fn columns<T: Real, const W: usize>(left: Left<T>, right: Right<T, W>, rows: usize, place: Place, out: &mut [T]) {
    let mut row = 0;
    while row < rows {
        row += match rows - row {
            BLOCK.. => block::<T, W, BLOCK>(left, right, row, place, out),
            4.. => block::<T, W, 4>(left, right, row, place, out),
            2.. => block::<T, W, 2>(left, right, row, place, out),
            _ => block::<T, W, 1>(left, right, row, place, out),
        };
    }
}

/// `R` rows from `row` on; returns `R`.
fn block<T: Real, const W: usize, const R: usize>(
    left: Left<T>,
    right: Right<T, W>,
    row: usize,
    place: Place,
    out: &mut [T],
) -> usize {
    let mut lines = out[row * place.cols..].chunks_mut(place.cols).map(|line| &mut line[place.first..]);
    if place.cols - place.first >= W {
        let whole = |_| lines.next().and_then(|line| line.first_chunk_mut::<W>()).expect("a panel's width");
        sums::<T, W, R>(left, right, row, from_fn(whole), place.add);
    } else {
        let mut spare = [[T::zero(); W]; R];
        sums::<T, W, R>(left, right, row, spare.each_mut(), false);
        for (line, sums) in lines.zip(&spare) {
            line.iter_mut().zip(sums).for_each(|(y, &x)| *y = if place.add { *y + x } else { x });
        }
    }
    R
}

/// The rows of `out` are those of the left factor from `row` on.
#[inline(always)]
fn sums<T: Real, const W: usize, const R: usize>(
    left: Left<T>,
    right: Right<T, W>,
    row: usize,
    out: [&mut [T; W]; R],
    add: bool,
) {
    let rows = |data, stride| -> [&[T]; R] {
        let data: &[T] = data;
        from_fn(|i| &data[(row + i) * stride..][..right.depth()])
    };
    match (left, right) {
        (Left::Rows(data, stride), Right::Packed(panel)) => sums_of_rows(rows(data, stride), panel, out, add),
        (Left::Rows(data, stride), Right::Stored(panel, apart, depth)) => {
            sums_of_rows_stored(rows(data, stride), panel, apart, depth, out, add);
        }
        (Left::Columns(data, stride), Right::Packed(panel)) => {
            sums_of_columns(&data[row..], stride, panel.iter(), out, add);
        }
        (Left::Columns(data, stride), Right::Stored(panel, apart, depth)) => {
            sums_of_columns(&data[row..], stride, Right::<T, W>::stored(panel, apart, depth), out, add);
        }
        (Left::Packed(data, depth), Right::Packed(panel)) => {
            let block = data.chunks(depth * BLOCK).nth(row / BLOCK).unwrap_or_default();
            sums_of_columns(&block[row % BLOCK..], block.len() / depth, panel.iter(), out, add);
        }
        (Left::Packed(..), Right::Stored(..)) => unreachable!("few rows are not packed"),
    }
}

/// Writes `sums` to `out`, or adds them.
#[inline(always)]
fn put<T: Real, const W: usize, const R: usize>(sums: [[T; W]; R], out: [&mut [T; W]; R], add: bool) {
    for (out, sums) in out.into_iter().zip(sums) {
        if add {
            out.iter_mut().zip(sums).for_each(|(y, x)| *y += x);
        } else {
            *out = sums;
        }
    }
}

// The functions below are not inlined, and nothing in them can panic: so the compiler keeps all sums in registers, and
// writes them once.

/// `R` rows, each of the panel's length, times the panel.
#[inline(never)]
fn sums_of_rows<T: Real, const W: usize, const R: usize>(
    rows: [&[T]; R],
    panel: &[[T; W]],
    out: [&mut [T; W]; R],
    add: bool,
) {
    let rows: [&[T]; R] = from_fn(|i| &rows[i][..panel.len()]);
    let mut sums = [[T::zero(); W]; R];
    for (k, right) in panel.iter().enumerate() {
        for i in 0..R {
            let left = rows[i][k];
            for j in 0..W {
                sums[i][j] = multiply_add(left, right[j], sums[i][j]);
            }
        }
    }
    put(sums, out, add);
}

/// The same with a panel whose rows are `apart` numbers from one another.
#[inline(never)]
fn sums_of_rows_stored<T: Real, const W: usize, const R: usize>(
    rows: [&[T]; R],
    panel: &[T],
    apart: usize,
    depth: usize,
    out: [&mut [T; W]; R],
    add: bool,
) {
    let rows: [&[T]; R] = from_fn(|i| &rows[i][..depth]);
    let mut sums = [[T::zero(); W]; R];
    for (right, k) in Right::<T, W>::stored(panel, apart, depth).zip(0..depth) {
        for i in 0..R {
            let left = rows[i][k];
            for j in 0..W {
                sums[i][j] = multiply_add(left, right[j], sums[i][j]);
            }
        }
    }
    put(sums, out, add);
}

/// `R` rows that lie side by side, `stride` numbers from one column to the next, times the panel.
#[inline(never)]
fn sums_of_columns<'a, T: Real, const W: usize, const R: usize, P: Iterator<Item = &'a [T; W]>>(
    columns: &[T],
    stride: usize,
    panel: P,
    out: [&mut [T; W]; R],
    add: bool,
) {
    let mut sums = [[T::zero(); W]; R];
    for (column, right) in columns.chunks(stride).zip(panel) {
        let Some(column) = column.first_chunk::<R>() else { break };
        for i in 0..R {
            for j in 0..W {
                sums[i][j] = multiply_add(column[i], right[j], sums[i][j]);
            }
        }
    }
    put(sums, out, add);
}

/// Σ x y over two rows of one length, as eight partial sums, which the compiler keeps side by side.
#[inline(always)]
pub(super) fn sum_of_products<T: Real>(x: &[T], y: &[T]) -> T {
    let mut sums = [T::zero(); 8];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<8>(), y.as_chunks::<8>());
    let rest: T = x_rest.iter().zip(y_rest).map(|(&x, &y)| x * y).sum();
    for (x, y) in x.iter().zip(y) {
        for i in 0..8 {
            sums[i] = multiply_add(x[i], y[i], sums[i]);
        }
    }
    sums.into_iter().sum::<T>() + rest
}

/// x y + z, in one instruction where there is one.
#[inline(always)]
fn multiply_add<T: Real>(x: T, y: T, z: T) -> T {
    if cfg!(target_feature = "fma") { x.mul_add(y, z) } else { x * y + z }
}
