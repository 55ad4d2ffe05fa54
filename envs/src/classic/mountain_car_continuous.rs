//! MountainCarContinuous-v0: rock an under-powered car up a hill (Moore 1990).

use super::single;
use crate::{
    ActionSpace, Env, EnvEntry, EnvError,
    arithmetic::square,
    kwargs::Kwargs,
    native::{Registration, Task},
    registry::EnvConfig,
    rng::NumpyRng,
};

/// Its line in the registry.
pub const ENTRY: EnvEntry =
    EnvEntry { id: "MountainCarContinuous-v0", summary: "Rock an under-powered car up a hill.", make };

const MIN_POSITION: f64 = -1.2;
const MAX_POSITION: f64 = 0.6;
const MAX_SPEED: f64 = 0.07;
const GOAL_POSITION: f64 = 0.45;
const POWER: f64 = 0.0015;

/// Gymnasium's state is `float64` after a reset and `float32` after each step, and NumPy computes in the state's type. All
/// numbers here are `f64`; [`round`](MountainCar::round) rounds them where the state is `float32`, which gives the same
/// bits, since an `f64` has more than twice the digits of an `f32`.
struct MountainCar {
    position: f64,
    velocity: f64,
    /// Whether the state is `float32`.
    is_single: bool,
    /// The least velocity that counts at the goal.
    goal_velocity: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let goal_velocity = kwargs.number("goal_velocity", 0.0)?;
    let registration = Registration {
        obs_dim: 2,
        action_space: ActionSpace::Box { low: vec![-1.0], high: vec![1.0] },
        max_episode_steps: 999,
        reward_threshold: Some(90.0),
    };
    registration.env(kwargs, MountainCar { position: 0.0, velocity: 0.0, is_single: false, goal_velocity })
}

impl MountainCar {
    /// Rounds to the state's type.
    fn round(&self, x: f64) -> f64 {
        if self.is_single { single(x) } else { x }
    }
}

impl Task for MountainCar {
    fn reset(&mut self, rng: &mut NumpyRng, obs: &mut [f64]) {
        (self.position, self.velocity, self.is_single) = (rng.uniform(-0.6, -0.4), 0.0, false);
        obs.copy_from_slice(&[single(self.position), 0.0]);
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> (f64, bool) {
        let action = f64::from(action[0]);
        let slope = 0.0025 * self.round(3.0 * self.position).cos();
        // An action inside the bounds is `float32` and makes the sum so; a clipped one is a Python number.
        let push = if action.abs() > 1.0 {
            POWER.copysign(action) - slope
        } else {
            single(single(action * single(POWER)) - single(slope))
        };

        let mut velocity = self.round(self.velocity + self.round(push));
        // Python numbers again once they are clipped: these compare with the goal's in `float64`.
        let mut is_clipped = false;
        if velocity.abs() > self.round(MAX_SPEED) {
            (velocity, is_clipped) = (MAX_SPEED.copysign(velocity), true);
        }
        let position = self.round(self.position + self.round(velocity));
        let position = position.clamp(self.round(MIN_POSITION), self.round(MAX_POSITION));
        if position == self.round(MIN_POSITION) && velocity < 0.0 {
            (velocity, is_clipped) = (0.0, true);
        }
        let goal_velocity = if is_clipped { self.goal_velocity } else { self.round(self.goal_velocity) };
        let terminated = position >= self.round(GOAL_POSITION) && velocity >= goal_velocity;

        (self.position, self.velocity, self.is_single) = (single(position), single(velocity), true);
        next_obs.copy_from_slice(&[self.position, self.velocity]);
        let bonus = if terminated { 100.0 } else { 0.0 };
        (bonus - square(action) * 0.1, terminated)
    }

    fn save(&self) -> Vec<f64> {
        vec![self.position, self.velocity, self.is_single.into()]
    }

    fn load(&mut self, state: &[f64]) -> Option<()> {
        let &[position, velocity, is_single] = state else { return None };
        (self.position, self.velocity, self.is_single) = (position, velocity, is_single != 0.0);
        Some(())
    }
}
