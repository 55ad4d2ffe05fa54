//! The numbers that networks compute with: `f32` to train, `f64` to test.

use std::cell::RefCell;

use bytemuck::Pod;
use num_traits::{Float, NumAssign};

/// A floating-point type with the activation functions that networks need.
pub trait Real: Float + NumAssign + Pod + Default + Send + Sync + std::iter::Sum + std::fmt::Debug {
    /// Hyperbolic tangent, in a form that the compiler vectorises for `f32`.
    fn tanh_fast(self) -> Self;

    /// eˣ, likewise.
    fn exp_fast(self) -> Self;

    /// eˣ − 1, likewise.
    fn exp_m1_fast(self) -> Self;

    /// Lends room that the calling thread keeps for products. Not to be called from within `work`.
    fn with_scratch<R>(work: impl FnOnce(&mut Vec<Self>) -> R) -> R;

    /// Conversion from `f64`, rounded.
    fn of(x: f64) -> Self;

    /// Conversion to `f64`.
    fn to_f64(self) -> f64;
}

impl Real for f32 {
    /// A ratio of odd and even polynomials in x on |x| < 9, where `tanh` saturates in single precision; relative error
    /// below 4e-7. The coefficients are the minimax fit that Eigen uses (`generic_fast_tanh_float`, MPL-2.0).
    #[inline(always)]
    fn tanh_fast(self) -> f32 {
        const P: [f32; 7] = [
            -2.760_768_5e-16,
            2.000_188e-13,
            -8.604_672e-11,
            5.122_297_1e-8,
            1.485_722_4e-5,
            6.372_619_3e-4,
            4.893_524_6e-3,
        ];
        const Q: [f32; 4] = [1.198_258_4e-6, 1.185_347_1e-4, 2.268_434_7e-3, 4.893_525e-3];
        let x = self.clamp(-7.998_811_7, 7.998_811_7);
        let x2 = x * x;
        let p = P[1..].iter().fold(P[0], |sum, &c| sum * x2 + c) * x;
        let q = Q[1..].iter().fold(Q[0], |sum, &c| sum * x2 + c);
        p / q
    }

    /// 2ⁿ times a polynomial in the rest, |r| ≤ ln 2/2, with the coefficients of Cephes (`expf`, public domain); relative
    /// error below 2e-7. Beyond ±87 the result stays at e^±87, short of infinity and of subnormal numbers.
    #[inline(always)]
    fn exp_fast(self) -> f32 {
        const C: [f32; 6] = [1.987_569_1e-4, 1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5];
        // Adding 1.5 · 2²³ rounds to a whole number and leaves it in the lowest bits.
        const ROUND: f32 = 12_582_912.0;
        let x = self.clamp(-87.0, 87.0);
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        // ln 2 in two parts, the first with few enough bits that its multiples are exact.
        let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
        let p = C[1..].iter().fold(C[0], |sum, &c| sum * r + c) * r * r + r + 1.0;
        p * f32::from_bits(shifted.to_bits().wrapping_add(127) << 23)
    }

    /// 2t/(1 − t) with t = tanh(x/2), which loses nothing near 0.
    #[inline(always)]
    fn exp_m1_fast(self) -> f32 {
        let t = (0.5 * self).tanh_fast();
        2.0 * t / (1.0 - t)
    }

    fn with_scratch<R>(work: impl FnOnce(&mut Vec<f32>) -> R) -> R {
        thread_local! {
            static SCRATCH: RefCell<Vec<f32>> = const { RefCell::new(Vec::new()) };
        }
        SCRATCH.with_borrow_mut(work)
    }

    #[inline(always)]
    fn of(x: f64) -> f32 {
        x as f32
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self.into()
    }
}

impl Real for f64 {
    #[inline(always)]
    fn tanh_fast(self) -> f64 {
        self.tanh()
    }

    #[inline(always)]
    fn exp_fast(self) -> f64 {
        self.exp()
    }

    #[inline(always)]
    fn exp_m1_fast(self) -> f64 {
        self.exp_m1()
    }

    fn with_scratch<R>(work: impl FnOnce(&mut Vec<f64>) -> R) -> R {
        thread_local! {
            static SCRATCH: RefCell<Vec<f64>> = const { RefCell::new(Vec::new()) };
        }
        SCRATCH.with_borrow_mut(work)
    }

    #[inline(always)]
    fn of(x: f64) -> f64 {
        x
    }

    #[inline(always)]
    fn to_f64(self) -> f64 {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fast_tanh_is_right_to_single_precision() {
        for i in -200_000..=200_000 {
            let x = i as f32 * 1e-4;
            let exact = f64::from(x).tanh();
            assert!((f64::from(x.tanh_fast()) - exact).abs() <= 4e-7 * exact.abs(), "at {x}");
        }
        assert!(f32::NAN.tanh_fast().is_nan());
        assert!((f32::INFINITY.tanh_fast() - 1.0).abs() < 1e-6);
    }

    #[test]
    fn the_fast_exponentials_are_right_to_single_precision() {
        for i in -86_000..=86_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            assert!((f64::from(x.exp_fast()) - exact).abs() <= 2e-7 * exact, "exp at {x}");
        }
        for i in -20_000..=0 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp_m1();
            assert!((f64::from(x.exp_m1_fast()) - exact).abs() <= 1e-6 * exact.abs(), "exp_m1 at {x}");
        }
        assert!(f32::NAN.exp_fast().is_nan() && f32::NAN.exp_m1_fast().is_nan());
        assert!(f32::INFINITY.exp_fast() > 6e37 && f32::NEG_INFINITY.exp_fast() < 2e-38);
    }
}
