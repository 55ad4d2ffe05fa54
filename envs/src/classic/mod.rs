//! Classic control, equal to Gymnasium 1.4.0 step for step, one task per file.
//!
//! "Equal" includes the floating-point types: Gymnasium computes with NumPy scalars, some of them `float32`, and returns
//! `float32` observations. The expressions keep its order of operations, and where it rounds to `float32` so do they.

mod acrobot;
mod cart_pole;
mod mountain_car_continuous;
mod pendulum;

use crate::EnvEntry;

/// The classic-control environments.
pub(crate) const ENTRIES: [EnvEntry; 4] =
    [acrobot::ENTRY, cart_pole::ENTRY, mountain_car_continuous::ENTRY, pendulum::ENTRY];

/// Writes an observation that Gymnasium returns as `float32`.
fn write_single<const N: usize>(values: [f64; N], obs: &mut [f64]) {
    obs.copy_from_slice(&values.map(single));
}

/// `x` rounded to `float32`.
fn single(x: f64) -> f64 {
    f64::from(x as f32)
}
