//! Pendulum-v1: swing a pendulum up and hold it there.

use std::f64::consts::PI;
use std::hint::black_box;

use super::write_single;
use crate::{
    ActionSpace, Env, EnvEntry, EnvError,
    arithmetic::square,
    kwargs::Kwargs,
    native::{Registration, Task},
    registry::EnvConfig,
    rng::NumpyRng,
};

/// Its line in the registry.
pub const ENTRY: EnvEntry = EnvEntry { id: "Pendulum-v1", summary: "Swing a pendulum up and hold it there.", make };

const MAX_SPEED: f64 = 8.0;
const MAX_TORQUE: f32 = 2.0;
/// Seconds per step.
const DT: f64 = 0.05;

struct Pendulum {
    /// Angle from upright, and angular velocity.
    state: [f64; 2],
    gravity: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let gravity = kwargs.number("g", 10.0)?;
    let registration = Registration {
        obs_dim: 3,
        action_space: ActionSpace::Box { low: vec![-MAX_TORQUE], high: vec![MAX_TORQUE] },
        max_episode_steps: 200,
        reward_threshold: None,
    };
    registration.env(kwargs, Pendulum { state: [0.0; 2], gravity })
}

impl Pendulum {
    fn observe(&self, obs: &mut [f64]) {
        let [theta, theta_dot] = self.state;
        write_single([theta.cos(), theta.sin(), theta_dot], obs);
    }
}

impl Task for Pendulum {
    fn reset(&mut self, rng: &mut NumpyRng, obs: &mut [f64]) {
        self.state = [rng.uniform(-PI, PI), rng.uniform(-1.0, 1.0)];
        self.observe(obs);
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> (f64, bool) {
        let [theta, theta_dot] = self.state;
        // The torque stays `float32`, and so does its product with a Python number.
        let torque = action[0].clamp(-MAX_TORQUE, MAX_TORQUE);
        let torque_cost = f64::from(0.001 * torque.powf(black_box(2.0)));
        let cost = square(angle_normalize(theta)) + 0.1 * square(theta_dot) + torque_cost;

        let acceleration = 3.0 * self.gravity / 2.0 * theta.sin() + f64::from(3.0 * torque);
        let theta_dot = (theta_dot + acceleration * DT).clamp(-MAX_SPEED, MAX_SPEED);
        self.state = [theta + theta_dot * DT, theta_dot];
        self.observe(next_obs);
        (-cost, false)
    }

    fn save(&self) -> Vec<f64> {
        self.state.to_vec()
    }

    fn load(&mut self, state: &[f64]) -> Option<()> {
        self.state = state.try_into().ok()?;
        Some(())
    }
}

/// The angle in [-π, π).
fn angle_normalize(theta: f64) -> f64 {
    (theta + PI).rem_euclid(2.0 * PI) - PI
}
