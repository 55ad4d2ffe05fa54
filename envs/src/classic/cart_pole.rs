//! CartPole-v1: a pole on a cart that is pushed left or right (Barto, Sutton and Anderson 1983).

use std::f64::consts::PI;

use super::write_single;
use crate::{
    ActionSpace, Env, EnvEntry, EnvError,
    kwargs::Kwargs,
    native::{Registration, Task},
    registry::EnvConfig,
    rng::NumpyRng,
};

/// Its line in the registry.
pub const ENTRY: EnvEntry =
    EnvEntry { id: "CartPole-v1", summary: "Keep a pole upright on a cart pushed left or right.", make };

const GRAVITY: f64 = 9.8;
const POLE_MASS: f64 = 0.1;
const TOTAL_MASS: f64 = POLE_MASS + 1.0;
/// Half the pole's length.
const LENGTH: f64 = 0.5;
const POLE_MASS_LENGTH: f64 = POLE_MASS * LENGTH;
const FORCE: f64 = 10.0;
/// Seconds per step.
const TAU: f64 = 0.02;
/// Where the pole counts as fallen, in radians.
const MAX_ANGLE: f64 = 12.0 * 2.0 * PI / 360.0;
/// Where the cart leaves the track.
const MAX_POSITION: f64 = 2.4;

struct CartPole {
    /// Position, velocity, the pole's angle and its angular velocity.
    state: [f64; 4],
    fallen: bool,
    /// Reward 0 on a step and -1 on the last, as in Sutton and Barto, instead of 1 on every step.
    sutton_barto_reward: bool,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let sutton_barto_reward = kwargs.flag("sutton_barto_reward", false)?;
    let registration = Registration {
        obs_dim: 4,
        action_space: ActionSpace::Discrete { n: 2 },
        max_episode_steps: 500,
        reward_threshold: Some(475.0),
    };
    registration.env(kwargs, CartPole { state: [0.0; 4], fallen: false, sutton_barto_reward })
}

impl Task for CartPole {
    fn reset(&mut self, rng: &mut NumpyRng, obs: &mut [f64]) {
        self.state = std::array::from_fn(|_| rng.uniform(-0.05, 0.05));
        self.fallen = false;
        write_single(self.state, obs);
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> (f64, bool) {
        let [x, x_dot, theta, theta_dot] = self.state;
        let force = if action[0] == 1.0 { FORCE } else { -FORCE };
        let (sin, cos) = (theta.sin(), theta.cos());
        // Florian (2007), "Correct equations for the dynamics of the cart-pole system".
        let temp = (force + POLE_MASS_LENGTH * (theta_dot * theta_dot) * sin) / TOTAL_MASS;
        let theta_acc = (GRAVITY * sin - cos * temp) / (LENGTH * (4.0 / 3.0 - POLE_MASS * (cos * cos) / TOTAL_MASS));
        let x_acc = temp - POLE_MASS_LENGTH * theta_acc * cos / TOTAL_MASS;
        self.state = [x + TAU * x_dot, x_dot + TAU * x_acc, theta + TAU * theta_dot, theta_dot + TAU * theta_acc];
        write_single(self.state, next_obs);

        let [x, _, theta, _] = self.state;
        let terminated = x.abs() > MAX_POSITION || theta.abs() > MAX_ANGLE;
        let reward = match (self.sutton_barto_reward, terminated) {
            (true, true) => -1.0,
            (true, false) => 0.0,
            (false, true) if self.fallen => 0.0,
            (false, _) => 1.0,
        };
        self.fallen |= terminated;
        (reward, terminated)
    }

    fn save(&self) -> Vec<f64> {
        let [x, x_dot, theta, theta_dot] = self.state;
        vec![x, x_dot, theta, theta_dot, self.fallen.into()]
    }

    fn load(&mut self, state: &[f64]) -> Option<()> {
        let &[x, x_dot, theta, theta_dot, fallen] = state else { return None };
        self.state = [x, x_dot, theta, theta_dot];
        self.fallen = fallen != 0.0;
        Some(())
    }
}
