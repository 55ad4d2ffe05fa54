//! Intel's MKL as it lies inside `libtorch_cpu.so`, found at run time.
//!
//! Nothing here is linked: the library is opened when a product first asks for it, and a program that never asks does
//! not pay for it. Its name is looked up along the program's own library path, where `scripts/setup` put libtorch.
#![allow(unsafe_code)] // foreign functions take pointers; what they may touch is checked before each call

use std::any::TypeId;
use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int};
use std::sync::OnceLock;

use libloading::Library;

use super::linalg::Matrix;
use super::{Real, bf16};

/// BLAS's `?gemm`, which reads and writes matrices column by column.
type Gemm<T> = unsafe extern "C" fn(
    trans_a: *const c_char,
    trans_b: *const c_char,
    m: *const c_int,
    n: *const c_int,
    k: *const c_int,
    alpha: *const T,
    a: *const T,
    lda: *const c_int,
    b: *const T,
    ldb: *const c_int,
    beta: *const T,
    c: *mut T,
    ldc: *const c_int,
);

/// MKL's product of bf16 matrices into an f32 one.
type GemmBf16 = unsafe extern "C" fn(
    layout: c_int,
    trans_a: c_int,
    trans_b: c_int,
    m: c_int,
    n: c_int,
    k: c_int,
    alpha: f32,
    a: *const u16,
    lda: c_int,
    b: *const u16,
    ldb: c_int,
    beta: f32,
    c: *mut f32,
    ldc: c_int,
);

/// `CBLAS_LAYOUT` and `CBLAS_TRANSPOSE`.
const ROW_MAJOR: c_int = 101;
const NO_TRANSPOSE: c_int = 111;
const TRANSPOSE: c_int = 112;

/// The functions that are used.
pub(super) struct Mkl {
    sgemm: Gemm<f32>,
    dgemm: Gemm<f64>,
    bf16: Option<GemmBf16>,
    set_num_threads_local: unsafe extern "C" fn(c_int) -> c_int,
}

/// MKL, opened at the first call; `None` where it is not to be found.
pub(super) fn library() -> Option<&'static Mkl> {
    static MKL: OnceLock<Option<Mkl>> = OnceLock::new();
    MKL.get_or_init(open).as_ref()
}

fn open() -> Option<Mkl> {
    // SAFETY: libtorch's initialisers make no demands, and the types are those of MKL's headers, with 32-bit integers as
    // libtorch is built. The library is never closed.
    unsafe {
        let library = Library::new("libtorch_cpu.so").ok()?;
        let mkl = Mkl {
            sgemm: *library.get(b"sgemm_\0").ok()?,
            dgemm: *library.get(b"dgemm_\0").ok()?,
            bf16: library.get(b"cblas_gemm_bf16bf16f32\0").ok().map(|symbol| *symbol),
            // Only MKL has it: another BLAS under the same names is not what is meant here.
            set_num_threads_local: *library.get(b"MKL_Set_Num_Threads_Local\0").ok()?,
        };
        std::mem::forget(library);
        Some(mkl)
    }
}

impl Mkl {
    /// Whether there is a product of bf16 matrices.
    pub(super) fn has_bf16(&self) -> bool {
        self.bf16.is_some()
    }

    /// `out = a b`, or `out += a b`, on the calling thread; false where there is no product for the type.
    pub(super) fn multiply<T: Real>(&self, a: Matrix<T>, b: Matrix<T>, out: &mut [T], add: bool) -> bool {
        self.keep_to_this_thread();
        if let (Some(a), Some(b), Some(out)) = (same::<T, f32>(a), same(b), same_mut(out)) {
            gemm(self.sgemm, a, b, out, if add { 1.0 } else { 0.0 }, 1.0);
        } else if let (Some(a), Some(b), Some(out)) = (same::<T, f64>(a), same(b), same_mut(out)) {
            gemm(self.dgemm, a, b, out, if add { 1.0 } else { 0.0 }, 1.0);
        } else {
            return false;
        }
        true
    }

    /// The same with both factors rounded to bf16 and sums in f32; false where this MKL has no such product.
    pub(super) fn multiply_bf16(&self, a: Matrix<f32>, b: Matrix<f32>, out: &mut [f32], add: bool) -> bool {
        let Some(function) = self.bf16 else { return false };
        thread_local! {
            static ROUNDED: RefCell<[Vec<u16>; 2]> = const { RefCell::new([Vec::new(), Vec::new()]) };
        }
        self.keep_to_this_thread();
        let (m, n, k) = check(a, b, out);
        ROUNDED.with_borrow_mut(|[a16, b16]| {
            for (from, to) in [(a, &mut *a16), (b, b16)] {
                to.clear();
                to.extend(from.data()[..from.rows() * from.cols()].iter().map(|&x| (bf16::round(x) >> 16) as u16));
            }
            let trans = |m: Matrix<f32>| if m.is_transposed() { TRANSPOSE } else { NO_TRANSPOSE };
            let (lda, ldb, beta) = (a.leading() as c_int, b.leading() as c_int, if add { 1.0 } else { 0.0 });
            let (a16, b16, c) = (a16.as_ptr(), b16.as_ptr(), out.as_mut_ptr());
            // SAFETY: `check` saw to the sizes, and the rounded copies have their matrices' layouts.
            unsafe { function(ROW_MAJOR, trans(a), trans(b), m, n, k, 1.0, a16, lda, b16, ldb, beta, c, n) }
        });
        true
    }

    /// Products stay on the thread that calls: the run's workers are the only parallelism.
    fn keep_to_this_thread(&self) {
        thread_local! {
            static SET: Cell<bool> = const { Cell::new(false) };
        }
        if !SET.replace(true) {
            // SAFETY: it sets a number for the calling thread.
            unsafe { (self.set_num_threads_local)(1) };
        }
    }
}

/// `out = alpha a b + beta out`. BLAS sees a row-major matrix as its transpose, so it is asked for bᵀ aᵀ = (a b)ᵀ.
fn gemm<T: Real>(function: Gemm<T>, a: Matrix<T>, b: Matrix<T>, out: &mut [T], beta: T, alpha: T) {
    let (m, n, k) = check(a, b, out);
    let trans = |m: Matrix<T>| if m.is_transposed() { b'T' as c_char } else { b'N' as c_char };
    let (trans_a, trans_b, lda, ldb) = (trans(a), trans(b), a.leading() as c_int, b.leading() as c_int);
    let (a, b, c) = (a.data().as_ptr(), b.data().as_ptr(), out.as_mut_ptr());
    // SAFETY: `check` saw to the sizes.
    unsafe { function(&trans_b, &trans_a, &n, &m, &k, &alpha, b, &ldb, a, &lda, &beta, c, &n) }
}

/// The product's sizes, m x k times k x n; everything that it touches lies inside the slices, because [`Matrix`] is only
/// made of slices that hold it.
fn check<T>(a: Matrix<T>, b: Matrix<T>, out: &[T]) -> (c_int, c_int, c_int) {
    let (m, n, k) = (a.rows(), b.cols(), a.cols());
    assert!(k == b.rows() && out.len() >= m * n, "a product of {m} x {k} and {} x {n}", b.rows());
    assert!([m, n, k].iter().all(|&size| c_int::try_from(size).is_ok()), "a product of {m} x {k} and {k} x {n}");
    (m as c_int, n as c_int, k as c_int)
}

/// The matrix, if `T` and `U` are one type.
pub(super) fn same<T: 'static, U: 'static>(matrix: Matrix<'_, T>) -> Option<Matrix<'_, U>> {
    // SAFETY: the types are the same.
    (TypeId::of::<T>() == TypeId::of::<U>()).then(|| unsafe { std::mem::transmute_copy(&matrix) })
}

/// The slice, if `T` and `U` are one type.
pub(super) fn same_mut<T: 'static, U: 'static>(slice: &mut [T]) -> Option<&mut [U]> {
    // SAFETY: the types are the same, and the one given is not used again.
    (TypeId::of::<T>() == TypeId::of::<U>())
        .then(|| unsafe { std::slice::from_raw_parts_mut(slice.as_mut_ptr().cast(), slice.len()) })
}
