//! Matrix products on row-major slices.

use super::Real;

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
}

/// `out = a b`, row by row, on the calling thread.
pub(super) fn matmul<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T]) {
    product(a, b, out, false);
}

/// `out += a b`, row by row, on the calling thread.
pub(super) fn matmul_add<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T]) {
    product(a, b, out, true);
}

#[allow(unsafe_code)] // the product library takes pointers; the assertions cover every element it touches
fn product<T: Real>(a: Matrix<T>, b: Matrix<T>, out: &mut [T], add: bool) {
    assert_eq!(a.cols, b.rows, "inner dimensions");
    assert!(out.len() >= a.rows * b.cols, "the product has {} x {} elements", a.rows, b.cols);
    // SAFETY: `Matrix::new` checked that both operands lie inside their slices, strides included, and `out` is ours
    // alone and large enough.
    unsafe {
        gemm::gemm(
            a.rows,
            b.cols,
            a.cols,
            out.as_mut_ptr(),
            1,
            b.cols as isize,
            add,
            a.data.as_ptr(),
            a.col_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.col_stride as isize,
            b.row_stride as isize,
            T::one(),
            T::one(),
            false,
            false,
            false,
            gemm::Parallelism::None,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_and_transposes_by_hand() {
        // [1 2; 3 4; 5 6] [1 0 2; 0 1 1] = [1 2 4; 3 4 10; 5 6 16]
        let a = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
        let b = [1.0, 0.0, 2.0, 0.0, 1.0, 1.0];
        let mut out = [0.0; 9];
        matmul(Matrix::new(&a, 3, 2), Matrix::new(&b, 2, 3), &mut out);
        assert_eq!(out, [1.0, 2.0, 4.0, 3.0, 4.0, 10.0, 5.0, 6.0, 16.0]);

        // A^T A = [35 44; 44 56]
        let mut out = [0.0; 4];
        matmul(Matrix::new(&a, 3, 2).t(), Matrix::new(&a, 3, 2), &mut out);
        assert_eq!(out, [35.0, 44.0, 44.0, 56.0]);
        matmul_add(Matrix::new(&a, 3, 2).t(), Matrix::new(&a, 3, 2), &mut out);
        assert_eq!(out, [70.0, 88.0, 88.0, 112.0]);
    }
}
