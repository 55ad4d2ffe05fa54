//! Acrobot-v1: swing a two-link arm above a line by torque on its middle joint (Sutton 1996).

use std::f64::consts::{FRAC_PI_2, PI};

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
pub const ENTRY: EnvEntry = EnvEntry { id: "Acrobot-v1", summary: "Swing a two-link arm above a line.", make };

/// Seconds per step.
const DT: f64 = 0.2;
/// Mass and length of both links are 1; their centres of mass lie in the middle.
const LENGTH_COM: f64 = 0.5;
/// Moment of inertia of each link.
const INERTIA: f64 = 1.0;
const GRAVITY: f64 = 9.8;
const MAX_SPEED: [f64; 2] = [4.0 * PI, 9.0 * PI];

/// The angles of the two links and their velocities.
type State = [f64; 4];

struct Acrobot {
    state: State,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let registration = Registration {
        obs_dim: 6,
        action_space: ActionSpace::Discrete { n: 3 },
        max_episode_steps: 500,
        reward_threshold: Some(-100.0),
    };
    registration.env(Kwargs::new(config), Acrobot { state: [0.0; 4] })
}

impl Task for Acrobot {
    fn reset(&mut self, rng: &mut NumpyRng, obs: &mut [f64]) {
        // Gymnasium keeps the first state as `float32`, so NumPy takes its sines and cosines in `float32`.
        let state: [f32; 4] = std::array::from_fn(|_| rng.uniform(-0.1, 0.1) as f32);
        self.state = state.map(f64::from);
        let [theta1, theta2, ..] = state;
        obs[..4].copy_from_slice(&[cos_f32(theta1), sin_f32(theta1), cos_f32(theta2), sin_f32(theta2)].map(f64::from));
        obs[4..].copy_from_slice(&self.state[2..]);
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> (f64, bool) {
        let torque = f64::from(action[0]) - 1.0;
        let [theta1, theta2, speed1, speed2] = runge_kutta(self.state, torque);
        let [theta1, theta2] = [theta1, theta2].map(wrap);
        let [speed1, speed2] = [speed1.clamp(-MAX_SPEED[0], MAX_SPEED[0]), speed2.clamp(-MAX_SPEED[1], MAX_SPEED[1])];
        self.state = [theta1, theta2, speed1, speed2];
        write_single([theta1.cos(), theta1.sin(), theta2.cos(), theta2.sin(), speed1, speed2], next_obs);

        let terminated = -theta1.cos() - (theta2 + theta1).cos() > 1.0;
        (if terminated { 0.0 } else { -1.0 }, terminated)
    }

    fn save(&self) -> Vec<f64> {
        self.state.to_vec()
    }

    fn load(&mut self, state: &[f64]) -> Option<()> {
        self.state = state.try_into().ok()?;
        Some(())
    }
}

/// One step of the fourth-order Runge-Kutta method.
fn runge_kutta(state: State, torque: f64) -> State {
    let shifted = |k: State, dt: f64| std::array::from_fn(|i| state[i] + dt * k[i]);
    let k1 = derivative(state, torque);
    let k2 = derivative(shifted(k1, DT / 2.0), torque);
    let k3 = derivative(shifted(k2, DT / 2.0), torque);
    let k4 = derivative(shifted(k3, DT), torque);
    std::array::from_fn(|i| state[i] + DT / 6.0 * (k1[i] + 2.0 * k2[i] + 2.0 * k3[i] + k4[i]))
}

/// Equations of motion from Sutton and Barto's book. Factors that are exactly 1 are left out.
fn derivative([theta1, theta2, speed1, speed2]: State, torque: f64) -> State {
    let (sin2, cos2) = (theta2.sin(), theta2.cos());
    let com2 = LENGTH_COM * LENGTH_COM;
    let d1 = com2 + (1.0 + com2 + 2.0 * LENGTH_COM * cos2) + INERTIA + INERTIA;
    let d2 = (com2 + LENGTH_COM * cos2) + INERTIA;
    let phi2 = LENGTH_COM * GRAVITY * (theta1 + theta2 - FRAC_PI_2).cos();
    let phi1 = -LENGTH_COM * square(speed2) * sin2 - 2.0 * LENGTH_COM * speed2 * speed1 * sin2
        + (LENGTH_COM + 1.0) * GRAVITY * (theta1 - FRAC_PI_2).cos()
        + phi2;
    let acceleration2 =
        (torque + d2 / d1 * phi1 - LENGTH_COM * square(speed1) * sin2 - phi2) / (com2 + INERTIA - square(d2) / d1);
    let acceleration1 = -(d2 * acceleration2 + phi1) / d1;
    [speed1, speed2, acceleration1, acceleration2]
}

/// The angle moved into [-π, π] by whole turns.
fn wrap(mut angle: f64) -> f64 {
    while angle > PI {
        angle -= 2.0 * PI;
    }
    while angle < -PI {
        angle += 2.0 * PI;
    }
    angle
}

/// NumPy's `float32` cosine between -π/4 and π/4, where its range reduction does nothing: a polynomial with fused
/// products, as on every x86-64 processor with FMA3 (`loops_trigonometric`, NumPy 2.4).
fn cos_f32(x: f32) -> f32 {
    let square = x * x;
    [-0.001388652, 0.04166662, -0.5, 1.0].into_iter().fold(2.4372266e-5, |sum: f32, c| sum.mul_add(square, c))
}

/// NumPy's `float32` sine between -π/4 and π/4, as [`cos_f32`].
fn sin_f32(x: f32) -> f32 {
    let square = x * x;
    let sum = [-0.00019856491, 0.008333397, -0.16666667, 0.0].into_iter();
    sum.fold(2.8404097e-6, |sum: f32, c| sum.mul_add(square, c)).mul_add(x, x)
}
