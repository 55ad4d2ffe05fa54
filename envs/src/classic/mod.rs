//! Classic control, equal to Gymnasium 1.4.0 step for step, one task per file.
//!
//! "Equal" includes the floating-point types: Gymnasium computes with NumPy scalars, some of them `float32`, and returns
//! `float32` observations. The expressions keep its order of operations, and where it rounds to `float32` so do they.

mod acrobot;
mod cart_pole;
mod mountain_car_continuous;
mod pendulum;

use std::hint::black_box;

use crate::{
    ActionSpace, Env, EnvEntry, EnvError, EnvSpec, TimeLimit,
    native::{Native, Task},
    registry::EnvConfig,
};

/// The classic-control environments.
pub(crate) const ENTRIES: [EnvEntry; 4] =
    [acrobot::ENTRY, cart_pole::ENTRY, mountain_car_continuous::ENTRY, pendulum::ENTRY];

/// Gymnasium's registration of one environment.
struct Registration {
    id: &'static str,
    obs_dim: usize,
    action_space: ActionSpace,
    max_episode_steps: u32,
    reward_threshold: Option<f64>,
}

impl Registration {
    /// The task with its random stream and time limit.
    fn env(self, config: &EnvConfig, task: impl Task + 'static) -> Result<Box<dyn Env>, EnvError> {
        let spec = EnvSpec {
            id: self.id.into(),
            obs_dim: self.obs_dim,
            action_space: self.action_space,
            max_episode_steps: None,
            reward_threshold: self.reward_threshold,
            backend: "native",
            parallel: true,
        };
        let limit = config.max_episode_steps.unwrap_or(self.max_episode_steps);
        Ok(Box::new(TimeLimit::new(Native::new(spec, task), limit)?))
    }
}

/// `x ** 2` of a NumPy `float64`: the C library's `pow`, whose last bit differs from `x * x` about once in a thousand.
fn square(x: f64) -> f64 {
    // The compiler would turn a power that it knows to be 2 into a product.
    x.powf(black_box(2.0))
}

/// Writes an observation that Gymnasium returns as `float32`.
fn write_single<const N: usize>(values: [f64; N], obs: &mut [f64]) {
    obs.copy_from_slice(&values.map(single));
}

/// `x` rounded to `float32`.
fn single(x: f64) -> f64 {
    f64::from(x as f32)
}
