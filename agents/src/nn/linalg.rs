//! Matrix products on row-major slices, on the calling thread.
//!
//! Two can do them: our own [`kernel`], in bf16 [`bf16`], and MKL inside libtorch, which has to be opened first. Which one does
//! is a matter of the processor and the product's size alone, so that a run gives the same numbers every time on the same machine.

use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use super::{Device, Real, bf16, kernel, mkl};
use crate::workers::Workers;

/// A row-major matrix, or the transpose of one.
#[derive(Clone, Copy)]
pub(super) struct Matrix<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    /// The `rows` x `cols` matrix stored row by row in `data`.
    pub(super) fn new(data: &'a [T], rows: usize, cols: usize) -> Self {
        assert!(data.len() >= rows * cols, "a {rows} x {cols} matrix in {} numbers", data.len());
        Matrix { data, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The transpose, without copying.
    pub(super) fn t(self) -> Self {
        Matrix {
            data: self.data,
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
        }
    }

    /// The first `at` rows, and the others.
    fn split_rows(self, at: usize) -> (Self, Self) {
        let rest = &self.data[at * self.row_stride..];
        (Matrix { rows: at, ..self }, Matrix { rows: self.rows - at, data: rest, ..self })
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    pub(super) fn cols(&self) -> usize {
        self.cols
    }

    pub(super) fn data(&self) -> &'a [T] {
        self.data
    }

    /// Whether it is stored column by column, as the transpose of a row-major matrix.
    pub(super) fn is_transposed(&self) -> bool {
        self.col_stride != 1
    }

    /// The distance between stored rows; BLAS wants it to be at least their length, also where there is but one.
    pub(super) fn leading(&self) -> usize {
        if self.is_transposed() { self.col_stride } else { self.row_stride.max(self.cols) }
    }
}

/// The numbers that products between hidden layers are made of. Parameters, sums, the first and the last layer are in single
/// precision either way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Single precision.
    #[default]
    F32,
    /// Factors rounded to 8 significant bits, where the device multiplies such.
    Bf16,
}

impl Precision {
    /// What will do in its place on `device`, with a sentence why where that is not the same. GPUs that PyTorch knows have bf16.
    pub fn available_on(self, device: Device) -> (Precision, Option<&'static str>) {
        if device == Device::Cpu { self.available() } else { (self, None) }
    }

    /// The same on the processor.
    pub fn available(self) -> (Precision, Option<&'static str>) {
        let why = match self {
            Precision::F32 => None,
            Precision::Bf16 if bf16::IS_FAST || mkl_for_bf16().is_some() => None,
            Precision::Bf16 => Some(
                "this processor has no bf16 products (AVX512_BF16 or AMX), or the program was not built for it, so the networks compute in f32",
            ),
        };
        (if why.is_some() { Precision::F32 } else { self }, why)
    }
}

/// `out = a b`, row by row.
pub(super) fn matmul<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], precision: Precision) {
    product(a, b, out, false, precision);
}

/// The same on the run's workers: the upper and the lower half of a product that is [worth it](worth_sharing) are made side by
/// side. Every bit is the same for any number of threads.
pub(super) fn matmul_on<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], precision: Precision, workers: &Workers) {
    // Rounded copies are made of whole matrices. Our kernel sums every row by itself, MKL promises nothing of the kind: what
    // MKL does is cut for one thread too.
    let whole = precision == Precision::Bf16 || a.rows < 2 || b.cols < 2;
    let alone = !workers.parallel() && a.rows * a.cols * b.cols < smallest_for_mkl();
    if whole || alone || !worth_sharing(a.rows, a.cols, b.cols) {
        return product(a, b, out, false, precision);
    }
    let (upper, lower) = a.split_rows(a.rows.div_ceil(2));
    let (out_upper, out_lower) = out[..a.rows * b.cols].split_at_mut(upper.rows * b.cols);
    workers.join(|| product(upper, b, out_upper, false, precision), || product(lower, b, out_lower, false, precision));
}

/// Whether half of a product takes longer than to wake the thread that makes the other half: some ten microseconds.
pub(super) fn worth_sharing(rows: usize, inner: usize, cols: usize) -> bool {
    rows * inner * cols >= 1 << 19
}

/// `out += a b`, row by row.
pub(super) fn matmul_add<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], precision: Precision) {
    product(a, b, out, true, precision);
}

fn product<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], add: bool, precision: Precision) {
    if precision == Precision::Bf16 && product_of_bf16(a, b, out, add) {
        return;
    }
    let wanted = a.rows * a.cols * b.cols >= smallest_for_mkl();
    if wanted && mkl::library().is_some_and(|mkl| mkl.multiply(a, b, out, add)) {
        return;
    }
    kernel::multiply(a, b, out, add);
}

/// The size (rows x columns x inner dimension) from which products go to MKL: where the processor is Intel's with AVX-512,
/// whose 512-bit units our kernel leaves idle, 64 x 64 x 64; elsewhere none, because the kernel is as fast and its start is free.
/// `BREGMAN_PRODUCTS=mkl` and `=own` choose one for everything.
fn smallest_for_mkl() -> usize {
    static SMALLEST: OnceLock<usize> = OnceLock::new();
    *SMALLEST.get_or_init(|| match std::env::var("BREGMAN_PRODUCTS").as_deref() {
        Ok("mkl") => 0,
        Ok("own") => usize::MAX,
        _ if is_intel_with_avx512() => 64 * 64 * 64,
        _ => usize::MAX,
    })
}

#[cfg(target_arch = "x86_64")]
fn is_intel_with_avx512() -> bool {
    let id = std::arch::x86_64::__cpuid(0);
    let vendor = [id.ebx, id.edx, id.ecx].map(u32::to_le_bytes).concat();
    vendor == b"GenuineIntel" && is_x86_feature_detected!("avx512f")
}

#[cfg(not(target_arch = "x86_64"))]
fn is_intel_with_avx512() -> bool {
    false
}

/// The product with factors rounded to bf16; false where `T` is not f32.
fn product_of_bf16<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], add: bool) -> bool {
    let (Some(a), Some(b), Some(out)) = (mkl::same(a), mkl::same(b), mkl::same_mut(out)) else { return false };
    if !mkl_for_bf16().is_some_and(|mkl| mkl.multiply_bf16(a, b, out, add)) {
        bf16::multiply(a, b, out, add);
    }
    true
}

/// MKL, on Intel's processors with bf16 products: it knows their AMX, and is slow on others'.
fn mkl_for_bf16() -> Option<&'static mkl::Mkl> {
    static FITS: OnceLock<bool> = OnceLock::new();
    let fits = *FITS.get_or_init(|| is_intel_with_avx512() && has_bf16());
    if fits { mkl::library().filter(|mkl| mkl.has_bf16()) } else { None }
}

/// Every processor with AMX has these instructions too.
#[cfg(target_arch = "x86_64")]
fn has_bf16() -> bool {
    is_x86_feature_detected!("avx512bf16")
}

#[cfg(not(target_arch = "x86_64"))]
fn has_bf16() -> bool {
    false
}

#[cfg(test)]
mod tests {
    use bregman_envs::rng::NumpyRng;

    use super::*;

    type Multiply<'a, T> = &'a dyn Fn(Matrix<T>, Matrix<T>, &mut [T], bool);

    fn by_hand<T: Real>(multiply: Multiply<T>) {
        let all = |x: &[f64]| x.iter().map(|&x| T::of(x)).collect::<Vec<T>>();
        // [1 2; 3 4; 5 6] [1 0 2; 0 1 1] = [1 2 4; 3 4 10; 5 6 16]
        let (a, b) = (all(&[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]), all(&[1.0, 0.0, 2.0, 0.0, 1.0, 1.0]));
        let mut out = all(&[7.0; 9]);
        multiply(Matrix::new(&a, 3, 2), Matrix::new(&b, 2, 3), &mut out, false);
        assert_eq!(out, all(&[1.0, 2.0, 4.0, 3.0, 4.0, 10.0, 5.0, 6.0, 16.0]));

        // A^T A = [35 44; 44 56]
        let mut out = all(&[7.0; 4]);
        multiply(Matrix::new(&a, 3, 2).t(), Matrix::new(&a, 3, 2), &mut out, false);
        assert_eq!(out, all(&[35.0, 44.0, 44.0, 56.0]));
        multiply(Matrix::new(&a, 3, 2).t(), Matrix::new(&a, 3, 2), &mut out, true);
        assert_eq!(out, all(&[70.0, 88.0, 88.0, 112.0]));

        // Two rows of B times their transpose: [5 2; 2 2]. One row, one column: the strides are both 1.
        let mut out = all(&[7.0; 4]);
        multiply(Matrix::new(&b, 2, 3), Matrix::new(&b, 2, 3).t(), &mut out, false);
        assert_eq!(out, all(&[5.0, 2.0, 2.0, 2.0]));
        let mut out = all(&[7.0; 6]);
        multiply(Matrix::new(&a, 3, 1), Matrix::new(&a, 1, 2), &mut out, false);
        assert_eq!(out, all(&[1.0, 2.0, 2.0, 4.0, 3.0, 6.0]));
        let mut out = all(&[7.0; 6]);
        multiply(Matrix::new(&a, 1, 3).t(), Matrix::new(&a, 2, 1).t(), &mut out, false);
        assert_eq!(out, all(&[1.0, 2.0, 2.0, 4.0, 3.0, 6.0]));
    }

    #[test]
    fn products_and_transposes_by_hand() {
        by_hand::<f32>(&|a, b, out, add| kernel::multiply(a, b, out, add));
        by_hand::<f64>(&|a, b, out, add| kernel::multiply(a, b, out, add));
        let mkl = mkl::library().expect("libtorch is linked to the tests");
        by_hand::<f32>(&|a, b, out, add| assert!(mkl.multiply(a, b, out, add)));
        by_hand::<f64>(&|a, b, out, add| assert!(mkl.multiply(a, b, out, add)));
        // Whole numbers up to 256 are exact in bf16; both compute it on any processor, slowly on most.
        by_hand::<f32>(&|a, b, out, add| assert!(mkl.multiply_bf16(a, b, out, add)));
        by_hand::<f32>(&bf16::multiply);
    }

    #[test]
    fn halves_of_a_product_are_the_product() {
        let mut rng = NumpyRng::new(1);
        let workers = Workers::new(2).expect("threads start");
        for (m, k, n) in [(64, 128, 64), (129, 90, 300), (1, 1024, 512), (2, 1024, 256), (1024, 512, 1), (7, 3, 5)] {
            let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal() as f32).collect::<Vec<f32>>();
            let (a, b) = (draw(m * k), draw(k * n));
            for (a, b) in [
                (Matrix::new(&a, m, k), Matrix::new(&b, k, n)),
                (Matrix::new(&a, k, m).t(), Matrix::new(&b, k, n)),
                (Matrix::new(&a, m, k), Matrix::new(&b, n, k).t()),
            ] {
                let (mut whole, mut halves) = (vec![0.0; m * n], vec![7.0; m * n]);
                matmul(a, b, &mut whole, Precision::F32);
                workers.run(|| matmul_on(a, b, &mut halves, Precision::F32, &workers));
                assert!(whole.iter().zip(&halves).all(|(a, b)| (a - b).abs() < 1e-4), "{m} {k} {n}");
                // Our kernel's rows do not know of one another.
                if m > 1 && n > 1 {
                    let (upper, lower) = a.split_rows(m.div_ceil(2));
                    let (out_upper, out_lower) = halves.split_at_mut(m.div_ceil(2) * n);
                    kernel::multiply(a, b, &mut whole, false);
                    kernel::multiply(upper, b, out_upper, false);
                    kernel::multiply(lower, b, out_lower, false);
                    assert_eq!(whole, halves, "{m} {k} {n}");
                }
            }
        }
    }

    #[test]
    fn kernel_and_mkl_agree_at_the_sizes_of_networks() {
        let mut rng = NumpyRng::new(1);
        let mkl = mkl::library().expect("libtorch is linked to the tests");
        // The last have an inner dimension of several panels: of few rows, and of so many that the left factor is packed.
        for (m, k, n) in [
            (64, 17, 64),
            (64, 64, 64),
            (17, 64, 64),
            (256, 23, 256),
            (256, 256, 1),
            (50, 600, 70),
            (8, 600, 64),
            (130, 600, 64),
        ] {
            let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal() as f32).collect::<Vec<f32>>();
            let (a, b) = (draw(m * k), draw(k * n));
            for (a, b) in [
                (Matrix::new(&a, m, k), Matrix::new(&b, k, n)),
                (Matrix::new(&a, k, m).t(), Matrix::new(&b, k, n)),
                (Matrix::new(&a, m, k), Matrix::new(&b, n, k).t()),
            ] {
                let [mut own, mut other, mut rounded, mut bf16s] = std::array::from_fn(|_| vec![0.0; m * n]);
                kernel::multiply(a, b, &mut own, false);
                assert!(mkl.multiply(a, b, &mut other, false));
                assert!(mkl.multiply_bf16(a, b, &mut rounded, false));
                bf16::multiply(a, b, &mut bf16s, false);
                let apart = |x: &[f32], y: &[f32]| x.iter().zip(y).map(|(x, y)| (x - y).abs()).fold(0.0, f32::max);
                assert!(apart(&own, &other) < 1e-4, "{m} {k} {n}: {}", apart(&own, &other));
                assert!(apart(&bf16s, &rounded) < 1e-4, "{m} {k} {n}: {}", apart(&bf16s, &rounded));
                // Each factor is off by up to 2⁻⁹ of itself, so a sum of k products by about 2⁻⁹ √(2k) as a rule.
                let rule = (2.0 * k as f32).sqrt() / 512.0;
                assert!(
                    (0.1 * rule..6.0 * rule).contains(&apart(&own, &bf16s)),
                    "{m} {k} {n}: {}",
                    apart(&own, &bf16s)
                );
            }
        }
    }

    #[test]
    fn bf16_is_used_where_the_processor_has_it_and_else_a_sentence_says_why_not() {
        assert_eq!(Precision::F32.available(), (Precision::F32, None));
        match Precision::Bf16.available() {
            (Precision::Bf16, why) => assert!(has_bf16() && why.is_none()),
            (Precision::F32, why) => assert!(!bf16::IS_FAST && why.is_some_and(|why| why.contains("f32"))),
        }
    }
}
