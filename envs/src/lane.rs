//! A lane: one environment and its place in an episode.
//!
//! Lanes restart their environment when an episode ends; everything above sees transitions whose `next_obs` is the true
//! successor and never the first observation of the next episode.

use crate::{Env, EnvError, Outcome, Registry, registry::EnvConfig};

/// A finished episode, counted by us from raw rewards.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Episode {
    /// Index of the environment.
    pub lane: usize,
    /// Sum of raw rewards.
    pub reward: f64,
    /// Number of steps.
    pub length: u32,
}

/// One step of a lane.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LaneStep {
    /// Reward and how the step ended.
    pub outcome: Outcome,
    /// The episode that this step finished.
    pub finished: Option<Episode>,
}

/// One environment with its current observation and its place in the episode.
pub struct Lane {
    index: usize,
    env: Box<dyn Env>,
    obs: Vec<f64>,
    episode: u64,
    length: u32,
    reward: f64,
}

/// Makes `config.num_envs` lanes of one environment, lane `i` seeded with `seed + i`, and resets them.
pub fn lanes(registry: &Registry, config: &EnvConfig, seed: u64) -> Result<Vec<Lane>, EnvError> {
    (0..config.num_envs).map(|i| Lane::new(i, registry.make(config)?, seed.wrapping_add(i as u64))).collect()
}

impl Lane {
    /// Takes an environment, seeds it and starts its first episode.
    pub fn new(index: usize, env: Box<dyn Env>, seed: u64) -> Result<Lane, EnvError> {
        let obs = vec![0.0; env.spec().obs_dim];
        let mut lane = Lane { index, env, obs, episode: 0, length: 0, reward: 0.0 };
        lane.restart(Some(seed))?;
        Ok(lane)
    }

    /// The environment.
    pub fn env(&self) -> &dyn Env {
        self.env.as_ref()
    }

    /// Gives the environment back.
    pub fn into_env(self) -> Box<dyn Env> {
        self.env
    }

    /// What the environment shows now, `[obs_dim]`.
    pub fn obs(&self) -> &[f64] {
        &self.obs
    }

    /// Takes one step and writes the true successor into `next_obs`, `[obs_dim]`. When the episode ends the
    /// environment restarts and [`obs`](Lane::obs) is the first observation of the next one.
    ///
    /// # Errors
    /// What the environment reports, and a reward or observation that is not finite.
    pub fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<LaneStep, EnvError> {
        let outcome = self.env.step(action, next_obs).map_err(|e| self.place(e, self.length + 1))?;
        self.length += 1;
        self.reward += outcome.reward;
        if !outcome.reward.is_finite() {
            return Err(self.non_finite("reward".into(), outcome.reward));
        }
        self.check(next_obs)?;
        let finished =
            outcome.ends_episode().then_some(Episode { lane: self.index, reward: self.reward, length: self.length });
        if finished.is_some() {
            self.episode += 1;
            self.restart(None)?;
        } else {
            self.obs.copy_from_slice(next_obs);
        }
        Ok(LaneStep { outcome, finished })
    }

    /// Starts a new episode, on a new random stream if a seed is given.
    pub fn restart(&mut self, seed: Option<u64>) -> Result<(), EnvError> {
        self.length = 0;
        self.reward = 0.0;
        self.env.reset(seed, &mut self.obs).map_err(|e| self.place(e, 0))?;
        self.check(&self.obs)
    }

    /// What the environment has to report, once, and where; see [`Env::take_warning`].
    pub fn take_warning(&mut self) -> Option<String> {
        let message = self.env.take_warning()?;
        Some(format!("environment {} in episode {} near step {}: {message}", self.index, self.episode, self.length))
    }

    /// The lane's whole state, the environment's included; `None` where the environment cannot be saved.
    pub fn save(&self) -> Option<LaneState> {
        let env = self.env.save()?;
        Some(LaneState { env, obs: self.obs.clone(), episode: self.episode, length: self.length, reward: self.reward })
    }

    /// Goes back to a saved state.
    pub fn load(&mut self, state: &LaneState) -> Result<(), EnvError> {
        if state.obs.len() != self.obs.len() {
            return Err(EnvError::State {
                id: self.env.spec().id.clone(),
                message: format!("an observation of {} numbers where {} belong", state.obs.len(), self.obs.len()),
            });
        }
        self.env.load(&state.env)?;
        self.obs.copy_from_slice(&state.obs);
        (self.episode, self.length, self.reward) = (state.episode, state.length, state.reward);
        Ok(())
    }

    fn check(&self, obs: &[f64]) -> Result<(), EnvError> {
        match obs.iter().position(|x| !x.is_finite()) {
            Some(i) => Err(self.non_finite(format!("observation[{i}]"), obs[i])),
            None => Ok(()),
        }
    }

    fn non_finite(&self, what: String, value: f64) -> EnvError {
        EnvError::NonFinite { lane: self.index, episode: self.episode, step: self.length, what, value }
    }

    /// Says in which lane, episode and step Python raised.
    fn place(&self, error: EnvError, step: u32) -> EnvError {
        match error {
            EnvError::Python { id, exception, traceback, .. } => {
                let place = format!("environment {} in episode {} at step {step}", self.index, self.episode);
                EnvError::Python { id, place, exception, traceback }
            }
            other => other,
        }
    }
}

/// What [`Lane::save`] keeps.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct LaneState {
    /// The environment's own state.
    pub env: Vec<u8>,
    /// The current observation.
    pub obs: Vec<f64>,
    /// Episodes finished.
    pub episode: u64,
    /// Steps taken in this episode.
    pub length: u32,
    /// Reward earned in this episode.
    pub reward: f64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ActionSpace, EnvSpec};

    /// Shows NaN from the start.
    struct Ill(EnvSpec);

    impl Env for Ill {
        fn spec(&self) -> &EnvSpec {
            &self.0
        }

        fn reset(&mut self, _seed: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError> {
            obs[0] = f64::NAN;
            Ok(())
        }

        fn step(&mut self, _action: &[f32], _next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
            Ok(Outcome { reward: 0.0, terminated: false, truncated: false })
        }
    }

    #[test]
    fn a_first_observation_that_is_not_finite_is_refused() {
        let spec = EnvSpec {
            id: "Ill".into(),
            obs_dim: 1,
            action_space: ActionSpace::Discrete { n: 1 },
            max_episode_steps: None,
            reward_threshold: None,
            backend: "native",
            parallel: true,
        };
        let error = Lane::new(0, Box::new(Ill(spec)), 0).err().expect("refused").to_string();
        assert_eq!(error, "environment 0: observation[0] is NaN in episode 0 at step 0");
    }
}
