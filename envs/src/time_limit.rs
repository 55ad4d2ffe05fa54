//! Episodes cut after a number of steps.

use crate::{Argument, Env, EnvError, EnvSpec, Outcome};

/// An environment whose episodes are truncated after `limit` steps, as by Gymnasium's `TimeLimit`: a last step that
/// also terminates carries both flags.
pub struct TimeLimit<E> {
    env: E,
    spec: EnvSpec,
    limit: u32,
    elapsed: u32,
}

impl<E: Env> TimeLimit<E> {
    /// Cuts the episodes of `env` after `limit` steps.
    ///
    /// # Errors
    /// A limit of 0.
    pub fn new(env: E, limit: u32) -> Result<TimeLimit<E>, EnvError> {
        let spec = EnvSpec { max_episode_steps: Some(limit), ..env.spec().clone() };
        if limit == 0 {
            return Err(EnvError::Invalid {
                id: spec.id,
                message: "max_episode_steps is 0; it must be at least 1".into(),
            });
        }
        Ok(TimeLimit { env, spec, limit, elapsed: 0 })
    }
}

impl<E: Env> Env for TimeLimit<E> {
    fn spec(&self) -> &EnvSpec {
        &self.spec
    }

    fn reset(&mut self, seed: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError> {
        self.elapsed = 0;
        self.env.reset(seed, obs)
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
        let outcome = self.env.step(action, next_obs)?;
        self.elapsed += 1;
        Ok(Outcome { truncated: outcome.truncated || self.elapsed >= self.limit, ..outcome })
    }

    fn info(&self) -> &[(&'static str, f64)] {
        self.env.info()
    }

    fn info_names(&self) -> Vec<String> {
        self.env.info_names()
    }

    fn arguments(&self) -> Vec<Argument> {
        self.env.arguments()
    }

    fn step_physics(&mut self, action: &[f32]) -> bool {
        self.env.step_physics(action)
    }

    fn take_warning(&mut self) -> Option<String> {
        self.env.take_warning()
    }

    /// The steps taken, then the environment's own state.
    fn save(&self) -> Option<Vec<u8>> {
        let mut state = self.elapsed.to_le_bytes().to_vec();
        state.extend(self.env.save()?);
        Some(state)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), EnvError> {
        let Some((elapsed, inner)) = state.split_first_chunk() else {
            let message = format!("{} bytes are too few", state.len());
            return Err(EnvError::State { id: self.spec.id.clone(), message });
        };
        self.env.load(inner)?;
        self.elapsed = u32::from_le_bytes(*elapsed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ActionSpace;

    /// Terminates at its third step.
    struct Three {
        spec: EnvSpec,
        steps: u8,
    }

    impl Env for Three {
        fn spec(&self) -> &EnvSpec {
            &self.spec
        }
        fn reset(&mut self, _seed: Option<u64>, _obs: &mut [f64]) -> Result<(), EnvError> {
            self.steps = 0;
            Ok(())
        }
        fn step(&mut self, _action: &[f32], _next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
            self.steps += 1;
            Ok(Outcome { reward: 1.0, terminated: self.steps == 3, truncated: false })
        }
        fn save(&self) -> Option<Vec<u8>> {
            Some(vec![self.steps])
        }
        fn load(&mut self, state: &[u8]) -> Result<(), EnvError> {
            self.steps = state[0];
            Ok(())
        }
    }

    fn limited(limit: u32) -> Result<TimeLimit<Three>, EnvError> {
        let spec = EnvSpec {
            id: "Three".into(),
            obs_dim: 0,
            action_space: ActionSpace::Discrete { n: 1 },
            max_episode_steps: None,
            reward_threshold: None,
            backend: "native",
            parallel: true,
        };
        TimeLimit::new(Three { spec, steps: 0 }, limit)
    }

    fn flags(env: &mut TimeLimit<Three>) -> (bool, bool) {
        let outcome = env.step(&[0.0], &mut []).expect("it cannot fail");
        (outcome.terminated, outcome.truncated)
    }

    #[test]
    fn the_limit_truncates_and_never_hides_a_termination() {
        let mut env = limited(2).expect("a fair limit");
        assert_eq!(env.spec().max_episode_steps, Some(2));
        assert_eq!([flags(&mut env), flags(&mut env)], [(false, false), (false, true)]);
        let mut env = limited(3).expect("a fair limit");
        assert_eq!([flags(&mut env), flags(&mut env), flags(&mut env)], [(false, false), (false, false), (true, true)]);
        env.reset(None, &mut []).expect("it cannot fail");
        assert_eq!(flags(&mut env), (false, false));
    }

    #[test]
    fn a_limit_of_zero_is_refused() {
        let error = limited(0).err().expect("refused");
        assert_eq!(error.to_string(), "environment `Three`: max_episode_steps is 0; it must be at least 1");
    }

    #[test]
    fn the_steps_taken_are_part_of_the_state() {
        let mut env = limited(2).expect("a fair limit");
        flags(&mut env);
        let state = env.save().expect("it can be saved");
        let mut other = limited(2).expect("a fair limit");
        other.load(&state).expect("its own state");
        assert_eq!(flags(&mut other), (false, true));
        assert!(other.load(&state[..3]).is_err());
    }
}
