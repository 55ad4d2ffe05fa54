//! The functions between linear layers.

use serde::{Deserialize, Serialize};

use super::Real;

/// The function between two linear layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activation {
    /// Hyperbolic tangent.
    Tanh,
    /// max(x, 0).
    Relu,
    /// x above 0, eˣ − 1 below (Clevert et al. 2016 with α = 1).
    Elu,
    /// x/(1 + e⁻ˣ), also called swish.
    Silu,
}

impl Activation {
    /// Whether the derivative cannot be told from the output, so that [`apply_keeping`](Activation::apply_keeping) keeps it.
    pub(super) fn keeps_slope(self) -> bool {
        self == Activation::Silu
    }

    #[inline(always)]
    pub(super) fn apply<T: Real>(self, values: &mut [T]) {
        self.apply_with_bias(values, &[]);
    }

    /// The same of rows that still lack their bias, in one pass.
    #[inline(always)]
    pub(super) fn apply_with_bias<T: Real>(self, rows: &mut [T], bias: &[T]) {
        match self {
            Activation::Tanh => add_bias(rows, bias, T::tanh_fast),
            Activation::Relu => add_bias(rows, bias, |x| x.max(T::zero())),
            Activation::Elu => add_bias(rows, bias, |x| {
                let below = x.min(T::zero()).exp_m1_fast();
                if x > T::zero() { x } else { below }
            }),
            Activation::Silu => add_bias(rows, bias, |x| x * sigmoid(x)),
        }
    }

    /// As [`apply`](Activation::apply); writes the derivatives into `slopes` where they are kept.
    #[inline(always)]
    pub(super) fn apply_keeping<T: Real>(self, values: &mut [T], slopes: &mut [T]) {
        if self.keeps_slope() {
            for (x, slope) in values.iter_mut().zip(slopes) {
                let s = sigmoid(*x);
                *x *= s;
                *slope = s + *x * (T::one() - s);
            }
        } else {
            self.apply(values);
        }
    }

    /// Multiplies `d`, a gradient or a tangent, by the derivative, given the activation's output `y` or, where they are
    /// kept, the derivatives themselves.
    #[inline(always)]
    pub(super) fn multiply_by_slope<T: Real>(self, y: &[T], slopes: &[T], d: &mut [T]) {
        let one = T::one();
        match self {
            Activation::Tanh => d.iter_mut().zip(y).for_each(|(d, &y)| *d *= one - y * y),
            // A product and not a choice, which would become masked stores, slow on some processors.
            Activation::Relu => {
                d.iter_mut().zip(y).for_each(|(d, &y)| *d *= if y > T::zero() { one } else { T::zero() })
            }
            Activation::Elu => d.iter_mut().zip(y).for_each(|(d, &y)| *d *= one + y.min(T::zero())),
            Activation::Silu => d.iter_mut().zip(slopes).for_each(|(d, &slope)| *d *= slope),
        }
    }
}

impl Activation {
    /// Multiplies `d` by the second derivative, given the activation's output `y` or, where slopes are kept, what went into
    /// it, `z`.
    pub(super) fn multiply_by_second_slope<T: Real>(self, y: &[T], z: &[T], d: &mut [T]) {
        let (zero, one, two) = (T::zero(), T::one(), T::of(2.0));
        match self {
            Activation::Tanh => d.iter_mut().zip(y).for_each(|(d, &y)| *d *= -two * y * (one - y * y)),
            Activation::Relu => d.fill(zero),
            Activation::Elu => d.iter_mut().zip(y).for_each(|(d, &y)| *d *= if y < zero { one + y } else { zero }),
            Activation::Silu => d.iter_mut().zip(z).for_each(|(d, &z)| {
                let s = sigmoid(z);
                *d *= s * (one - s) * (two + z * (one - two * s));
            }),
        }
    }
}

/// `y = f(y + b)` in every row, each of its numbers with a `b` of its own; `f(y)` where there are none.
#[inline(always)]
pub(super) fn add_bias<T: Real>(rows: &mut [T], bias: &[T], f: impl Fn(T) -> T) {
    match bias {
        [] => rows.iter_mut().for_each(|y| *y = f(*y)),
        &[b] => rows.iter_mut().for_each(|y| *y = f(*y + b)),
        _ => rows.chunks_exact_mut(bias.len()).for_each(|row| {
            row.iter_mut().zip(bias).for_each(|(y, &b)| *y = f(*y + b));
        }),
    }
}

/// 1/(1 + e⁻ˣ).
#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::one() / (T::one() + (-x).exp_fast())
}
