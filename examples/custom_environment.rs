//! An environment from outside: a point on a line that is to be brought to the origin, in one file, with the whole command
//! line and every agent.
//!
//! ```text
//! cargo run --release --example custom_environment -- train examples/point.toml
//! ```

use std::process::ExitCode;

use bregman::envs::rng::NumpyRng;
use bregman::envs::{ActionSpace, Env, EnvEntry, EnvError, EnvSpec, Outcome};
use bregman::{Bregman, cli};

fn main() -> ExitCode {
    let mut bregman = Bregman::default();
    bregman.envs.add(EnvEntry {
        id: "Point-v0",
        summary: "a point on a line, pushed to the origin; reward is minus the squared distance",
        make: |config| Ok(Box::new(Point::new(config.max_episode_steps.unwrap_or(50)))),
    });
    cli::run(bregman)
}

/// Position and velocity; the action is a force in [-1, 1].
struct Point {
    spec: EnvSpec,
    rng: NumpyRng,
    state: [f64; 2],
    step: u32,
    limit: u32,
}

impl Point {
    fn new(limit: u32) -> Point {
        let spec = EnvSpec {
            id: "Point-v0".into(),
            obs_dim: 2,
            action_space: ActionSpace::Box { low: vec![-1.0], high: vec![1.0] },
            max_episode_steps: Some(limit),
            reward_threshold: None,
            backend: "native",
            parallel: true,
        };
        Point { spec, rng: NumpyRng::new(0), state: [0.0; 2], step: 0, limit }
    }
}

impl Env for Point {
    fn spec(&self) -> &EnvSpec {
        &self.spec
    }

    fn reset(&mut self, seed: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError> {
        if let Some(seed) = seed {
            self.rng = NumpyRng::new(seed);
        }
        (self.state, self.step) = ([self.rng.uniform(-1.0, 1.0), 0.0], 0);
        obs.copy_from_slice(&self.state);
        Ok(())
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
        self.step += 1;
        self.state[1] += 0.1 * f64::from(action[0].clamp(-1.0, 1.0));
        self.state[0] += 0.1 * self.state[1];
        next_obs.copy_from_slice(&self.state);
        let reward = -self.state[0].powi(2) - 0.1 * self.state[1].powi(2);
        Ok(Outcome { reward, terminated: false, truncated: self.step == self.limit })
    }

    // Saving makes an interrupted run resume to the bit; without it, episodes start anew.
    fn save(&self) -> Option<Vec<u8>> {
        serde_json::to_vec(&(self.state, self.step, self.rng.save())).ok()
    }

    fn load(&mut self, state: &[u8]) -> Result<(), EnvError> {
        let misfit = |message: String| EnvError::State { id: "Point-v0".into(), message };
        let (state, step, rng): ([f64; 2], u32, String) =
            serde_json::from_slice(state).map_err(|e| misfit(e.to_string()))?;
        self.rng = NumpyRng::load(&rng).ok_or_else(|| misfit("no random stream".into()))?;
        (self.state, self.step) = (state, step);
        Ok(())
    }
}
