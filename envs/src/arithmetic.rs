//! NumPy's arithmetic where its last bits differ from the plain expression.

use std::hint::black_box;
use std::ops::Add;

/// `x ** 2` of a NumPy `float64`: the C library's `pow`, whose last bit differs from `x * x` about once in a thousand.
pub(crate) fn square(x: f64) -> f64 {
    // The compiler would turn a power that it knows to be 2 into a product.
    x.powf(black_box(2.0))
}

/// `np.sum` of `term(0) .. term(n - 1)`, contiguous: NumPy adds in pairs (`pairwise_sum`), which moves the last bits.
pub(crate) fn sum<T: Copy + Default + Add<Output = T>>(n: usize, term: impl Fn(usize) -> T) -> T {
    pairwise(0, n, &term)
}

fn pairwise<T: Copy + Default + Add<Output = T>>(start: usize, n: usize, term: &impl Fn(usize) -> T) -> T {
    let in_order = |first: T, range: std::ops::Range<usize>| range.fold(first, |sum, i| sum + term(start + i));
    match n {
        0..8 => in_order(T::default(), 0..n),
        8..=128 => {
            let mut r: [T; 8] = std::array::from_fn(|i| term(start + i));
            let whole = n - n % 8;
            for block in (8..whole).step_by(8) {
                for (i, sum) in r.iter_mut().enumerate() {
                    *sum = *sum + term(start + block + i);
                }
            }
            in_order(((r[0] + r[1]) + (r[2] + r[3])) + ((r[4] + r[5]) + (r[6] + r[7])), whole..n)
        }
        _ => {
            let half = n / 2 - n / 2 % 8;
            pairwise(start, half, term) + pairwise(start + half, n - half, term)
        }
    }
}

/// `np.sum(np.square(values))`.
pub(crate) fn sum_of_squares(values: &[f64]) -> f64 {
    sum(values.len(), |i| values[i] * values[i])
}

/// `np.linalg.norm(values)` of a few values: BLAS's kernel for AVX2, which is the one we have NumPy take, adds the squares in
/// order, without fused products below 32 of them.
pub(crate) fn norm<const N: usize>(values: [f64; N]) -> f64 {
    values.iter().fold(0.0, |sum, x| sum + x * x).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn norms_add_rounded_squares() {
        // numpy.linalg.norm([0.1, 0.4]) with OPENBLAS_CORETYPE=Haswell; SkylakeX's fused products end in 607.
        assert_eq!(norm([0.1, 0.4]), 0.4123105625617661);
    }

    #[test]
    fn sums_are_those_of_numpy() {
        // a = numpy.random.default_rng(1).random(300); a[:n].sum(), a[:n].astype(numpy.float32).sum()
        let mut rng = crate::rng::NumpyRng::new(1);
        let a: Vec<f64> = (0..300).map(|_| rng.double()).collect();
        let expected = [
            (0, 0.0, 0.0),
            (1, 0.5118216247002567, 0.5118216),
            (7, 4.117954875686573, 4.1179547),
            (8, 4.527154012055734, 4.527154),
            (17, 8.404858070812905, 8.404859),
            (84, 44.93055136845654, 44.93055),
            (128, 64.76522221631294, 64.76522),
            (129, 65.04902870525706, 65.04903),
            (300, 147.17343732830665, 147.17343),
        ];
        for (n, double, single) in expected {
            assert_eq!(sum(n, |i| a[i]), double, "{n}");
            assert_eq!(sum(n, |i| a[i] as f32), single, "{n}");
        }
    }
}
