//! `lqr`: a scalar linear-quadratic regulator, s' = A s + B a, r = −(Q s² + R a²), s₀ normal.

use crate::kwargs::Kwargs;
use crate::native::{Registration, Task};
use crate::rng::NumpyRng;
use crate::{ActionSpace, Env, EnvConfig, EnvEntry, EnvError};

/// Its line in the registry.
pub(super) const ENTRY: EnvEntry =
    EnvEntry { id: "lqr", summary: "A scalar linear-quadratic regulator, whose returns are closed forms.", make };

/// The system: what the environment's arguments say.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Lqr {
    /// A, what remains of the state.
    pub a: f64,
    /// B, what an action adds.
    pub b: f64,
    /// Q, cost of the squared state.
    pub q: f64,
    /// R, cost of the squared action.
    pub r: f64,
    /// Mean of the first state.
    pub start_mean: f64,
    /// Its standard deviation.
    pub start_std: f64,
}

impl Default for Lqr {
    fn default() -> Lqr {
        Lqr { a: 1.0, b: 0.5, q: 1.0, r: 0.1, start_mean: 1.0, start_std: 0.5 }
    }
}

impl Lqr {
    /// The system that an environment's arguments describe.
    ///
    /// # Errors
    /// Arguments out of range.
    pub fn of(config: &EnvConfig) -> Result<Lqr, EnvError> {
        Lqr::read(&mut Kwargs::new(config))
    }

    fn read(kwargs: &mut Kwargs) -> Result<Lqr, EnvError> {
        let default = Lqr::default();
        Ok(Lqr {
            a: kwargs.number("a", default.a)?,
            b: kwargs.number("b", default.b)?,
            q: kwargs.scale("q", default.q)?,
            r: kwargs.scale("r", default.r)?,
            start_mean: kwargs.number("start_mean", default.start_mean)?,
            start_std: kwargs.scale("start_std", default.start_std)?,
        })
    }

    /// The infinite horizon's solution at discount `gamma`: P with V(s) = −P s² under the best policy a = −K s, and K.
    ///
    /// The fixed point of P = Q + γA²P − (γABP)²/(R + γB²P), by iteration from P = Q.
    pub fn riccati(&self, gamma: f64) -> (f64, f64) {
        let Lqr { a, b, q, r, .. } = *self;
        let gain = |p: f64| {
            let curvature = r + gamma * b * b * p;
            if curvature > 0.0 { gamma * a * b * p / curvature } else { 0.0 }
        };
        let p = (0..10_000).fold(q, |p, _| q + gamma * a * p * (a - b * gain(p)));
        (p, gain(p))
    }
}

struct Regulator {
    system: Lqr,
    state: f64,
}

fn make(config: &EnvConfig) -> Result<Box<dyn Env>, EnvError> {
    let mut kwargs = Kwargs::new(config);
    let system = Lqr::read(&mut kwargs)?;
    let registration = Registration {
        obs_dim: 1,
        action_space: ActionSpace::Box { low: vec![f32::NEG_INFINITY], high: vec![f32::INFINITY] },
        max_episode_steps: 10,
        reward_threshold: None,
    };
    registration.env(kwargs, Regulator { system, state: 0.0 })
}

impl Task for Regulator {
    fn reset(&mut self, rng: &mut NumpyRng, obs: &mut [f64]) {
        self.state = self.system.start_mean + self.system.start_std * rng.standard_normal();
        obs[0] = self.state;
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> (f64, bool) {
        let Lqr { a, b, q, r, .. } = self.system;
        let action = f64::from(action[0]);
        let reward = -(q * self.state * self.state + r * action * action);
        self.state = a * self.state + b * action;
        next_obs[0] = self.state;
        (reward, false)
    }

    fn save(&self) -> Vec<f64> {
        vec![self.state]
    }

    fn load(&mut self, state: &[f64]) -> Option<()> {
        let &[state] = state else { return None };
        self.state = state;
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_riccati_solution_of_the_default_system() {
        let (p, k) = Lqr::default().riccati(0.9);
        assert!((p - 1.297_970_468_2).abs() < 1e-9 && (k - 1.489_852_340_9).abs() < 1e-9, "{p} {k}");
        // P = 1 + 0.9 P − (0.45 P)²/(0.1 + 0.225 P).
        assert!((1.0 + 0.9 * p - (0.45 * p).powi(2) / (0.1 + 0.225 * p) - p).abs() < 1e-12);
        // Nothing costs anything: nothing is done.
        assert_eq!(Lqr { q: 0.0, r: 0.0, ..Lqr::default() }.riccati(0.9), (0.0, 0.0));
    }

    #[test]
    fn a_step_by_hand() {
        // s = 2, a = 3: reward −(4 + 0.9), s' = 2 + 1.5.
        let mut regulator = Regulator { system: Lqr::default(), state: 2.0 };
        let mut obs = [0.0];
        assert_eq!(regulator.step(&[3.0], &mut obs), (-4.9, false));
        assert_eq!((obs, regulator.save()), ([3.5], vec![3.5]));
    }
}
