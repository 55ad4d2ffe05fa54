//! Layer normalisation (Ba et al. 2016): every row shifted to mean 0 and scaled to variance 1, then `gain x̂ + shift`.

use super::Real;
use super::kernel::sum_of_products;

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
            *inverse_std = normalize(x);
            x_hat.copy_from_slice(x);
            scale_and_shift(x, gain, shift);
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
        let mean = sum(d, |d| d) / width;
        let along = sum_of_products(d, x_hat) / width;
        d.iter_mut().zip(x_hat).for_each(|(d, &x)| *d = scale * (*d - mean - x * along));
    }
}

/// One row, as [`Normalized::forward`] without keeping anything; the same operations in the same order.
pub(super) fn forward_row<T: Real>(x: &mut [T], gain: &[T], shift: &[T]) {
    normalize(x);
    scale_and_shift(x, gain, shift);
}

/// Takes a row to mean 0 and variance 1; returns what it was scaled by. PyTorch's default ε.
fn normalize<T: Real>(x: &mut [T]) -> T {
    let width = T::of(x.len() as f64);
    let mean = sum(x, |x| x) / width;
    x.iter_mut().for_each(|x| *x -= mean);
    let variance = sum(x, |x| x * x) / width;
    let inverse_std = T::one() / (variance + T::of(1e-5)).sqrt();
    x.iter_mut().for_each(|x| *x *= inverse_std);
    inverse_std
}

fn scale_and_shift<T: Real>(x: &mut [T], gain: &[T], shift: &[T]) {
    x.iter_mut().zip(gain).zip(shift).for_each(|((x, &gain), &shift)| *x = gain * *x + shift);
}

/// A sum of `f(x)` as eight partial sums, which the compiler keeps side by side.
#[inline(always)]
fn sum<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    let mut sums = [T::zero(); 8];
    let chunks = x.chunks_exact(8);
    let rest: T = chunks.remainder().iter().map(|&x| f(x)).sum();
    for chunk in chunks {
        sums.iter_mut().zip(chunk).for_each(|(sum, &x)| *sum += f(x));
    }
    sums.into_iter().sum::<T>() + rest
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
}
