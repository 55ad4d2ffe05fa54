//! Layer normalisation (Ba et al. 2016): every row shifted to mean 0 and scaled to variance 1, then `gain x̂ + shift`.

use super::Real;

/// What the way back needs of a normalised batch.
#[derive(Clone, Debug)]
pub(super) struct Normalized<T> {
    /// x̂, `[rows, width]`.
    x_hat: Vec<T>,
    /// 1/√(variance + ε), `[rows]`.
    inverse_std: Vec<T>,
}

impl<T: Real> Normalized<T> {
    pub(super) fn new(capacity: usize, width: usize) -> Self {
        Normalized { x_hat: vec![T::zero(); capacity * width], inverse_std: vec![T::zero(); capacity] }
    }

    /// Normalises `x`, `[rows, width]`, in place, as the rows from `first` on; `gain` and `shift` are `[width]`.
    pub(super) fn forward(&mut self, x: &mut [T], gain: &[T], shift: &[T], first: usize) {
        let width = gain.len();
        let kept = self.x_hat.chunks_exact_mut(width).zip(&mut self.inverse_std).skip(first);
        for (x, (x_hat, inverse_std)) in x.chunks_exact_mut(width).zip(kept) {
            let mean;
            (mean, *inverse_std) = moments(x);
            let numbers = x.iter_mut().zip(x_hat).zip(gain.iter().zip(shift));
            for ((x, x_hat), (&gain, &shift)) in numbers {
                *x_hat = (*x - mean) * *inverse_std;
                *x = gain * *x_hat + shift;
            }
        }
    }

    /// Writes the gradients in gain and shift, given the gradient `d` in the result, `[rows, width]`.
    pub(super) fn backward_parameters(&self, d: &[T], d_gain: &mut [T], d_shift: &mut [T]) {
        let width = d_gain.len();
        d_gain.fill(T::zero());
        d_shift.fill(T::zero());
        for (d, x_hat) in d.chunks_exact(width).zip(self.x_hat.chunks_exact(width)) {
            d_shift.iter_mut().zip(d).for_each(|(sum, &d)| *sum += d);
            d_gain.iter_mut().zip(d).zip(x_hat).for_each(|((sum, &d), &x)| *sum += d * x);
        }
    }

    /// Takes the gradient `d` in row `row` of the result to the gradient in the input.
    pub(super) fn backward_row(&self, row: usize, d: &mut [T], gain: &[T]) {
        d.iter_mut().zip(gain).for_each(|(d, &gain)| *d *= gain);
        self.project(row, d);
    }

    /// Takes `t`, the tangent of the input, `[rows, width]`, to the tangent of the result, where gain and shift move
    /// along `d_gain` and `d_shift`.
    pub(super) fn tangent(&self, t: &mut [T], gain: &[T], d_gain: &[T], d_shift: &[T]) {
        for (row, t) in t.chunks_exact_mut(gain.len()).enumerate() {
            self.project(row, t);
            let x_hat = &self.x_hat[row * gain.len()..];
            for (i, t) in t.iter_mut().enumerate() {
                *t = gain[i] * *t + d_gain[i] * x_hat[i] + d_shift[i];
            }
        }
    }

    /// Multiplies by the Jacobian of x̂ in x, which is symmetric: takes away the mean and the part along x̂, and divides
    /// by the standard deviation.
    fn project(&self, row: usize, d: &mut [T]) {
        let (width, scale) = (T::of(d.len() as f64), self.inverse_std[row]);
        let x_hat = &self.x_hat[row * d.len()..(row + 1) * d.len()];
        let mean = sum(d, x_hat, |d, _| d) / width;
        let along = sum(d, x_hat, |d, x| d * x) / width;
        d.iter_mut().zip(x_hat).for_each(|(d, &x)| *d = scale * (*d - mean - x * along));
    }
}

/// One row, as [`Normalized::forward`] without keeping anything; the same operations in the same order.
pub(super) fn forward_row<T: Real>(x: &mut [T], gain: &[T], shift: &[T]) {
    let (mean, inverse_std) = moments(x);
    let numbers = x.iter_mut().zip(gain.iter().zip(shift));
    numbers.for_each(|(x, (&gain, &shift))| *x = gain * ((*x - mean) * inverse_std) + shift);
}

/// A row's mean and 1/√(variance + ε), with PyTorch's default ε.
fn moments<T: Real>(x: &[T]) -> (T, T) {
    let width = T::of(x.len() as f64);
    let mean = sum(x, x, |x, _| x) / width;
    let variance = sum(x, x, |x, _| (x - mean) * (x - mean)) / width;
    (mean, T::one() / (variance + T::of(1e-5)).sqrt())
}

/// The sum of `f(x, y)` over two rows of one length, as partial sums that the compiler keeps side by side: so many that no
/// addition waits for the one before.
#[inline(always)]
fn sum<T: Real>(x: &[T], y: &[T], f: impl Fn(T, T) -> T) -> T {
    let mut sums = [T::zero(); 64];
    let ((x, x_rest), (y, y_rest)) = (x.as_chunks::<64>(), y.as_chunks::<64>());
    for (x, y) in x.iter().zip(y) {
        sums.iter_mut().zip(x.iter().zip(y)).for_each(|(sum, (&x, &y))| *sum += f(x, y));
    }
    sums.iter_mut().zip(x_rest.iter().zip(y_rest)).for_each(|(sum, (&x, &y))| *sum += f(x, y));
    let mut half = sums.len() / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(low, high)| *low += *high);
        half /= 2;
    }
    sums[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_by_hand() {
        // Mean 3, variance 5: x̂ = (-3, -1, 1, 3)/√5 but for ε; gain 2 and shift 1.
        let mut x = [0.0, 2.0, 4.0, 6.0];
        forward_row(&mut x, &[2.0; 4], &[1.0; 4]);
        for (x, above) in x.iter().zip([-3.0, -1.0, 1.0, 3.0]) {
            let expected: f64 = 1.0 + 2.0 * above / 5.00001f64.sqrt();
            assert!((x - expected).abs() < 1e-12, "{x} is not {expected}");
        }
    }

    #[test]
    fn a_constant_row_becomes_the_shift() {
        let mut x = [7.0f32; 11];
        forward_row(&mut x, &[2.0; 11], &[0.5; 11]);
        assert_eq!(x, [0.5; 11]);
    }

    #[test]
    fn a_row_longer_than_the_partial_sums_by_hand() {
        // 0 to 129, two chunks of 64 and a rest: mean 64.5, variance (130² − 1)/12 = 1408.25.
        let mut x: Vec<f64> = (0..130).map(f64::from).collect();
        forward_row(&mut x, &[1.0; 130], &[0.0; 130]);
        for (i, x) in x.iter().enumerate() {
            let expected = (i as f64 - 64.5) / 1408.25001f64.sqrt();
            assert!((x - expected).abs() < 1e-12, "{x} is not {expected}");
        }
    }
}
