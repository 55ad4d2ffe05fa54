//! What native environments share: the random stream, the check of actions, saved states.

use crate::{ActionSpace, Argument, Env, EnvError, EnvSpec, Outcome, TimeLimit, kwargs::Kwargs, rng::NumpyRng};

/// The rules of one native environment.
pub(crate) trait Task: Send {
    /// Draws a first state and writes its observation.
    fn reset(&mut self, rng: &mut NumpyRng, obs: &mut [f64]);

    /// Moves on by one step, writes the next observation and returns the reward and whether the episode terminated.
    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> (f64, bool);

    /// See [`Env::info`].
    fn info(&self) -> &[(&'static str, f64)] {
        &[]
    }

    /// See [`Env::step_physics`].
    fn step_physics(&mut self, _action: &[f32]) -> bool {
        false
    }

    /// See [`Env::take_warning`].
    fn take_warning(&mut self) -> Option<String> {
        None
    }

    /// The state, all of it.
    fn save(&self) -> Vec<f64>;

    /// Goes back to a state; `None` if the numbers are not one.
    fn load(&mut self, state: &[f64]) -> Option<()>;
}

/// What an environment looks like from outside, as Gymnasium registers it.
pub(crate) struct Registration {
    pub obs_dim: usize,
    pub action_space: ActionSpace,
    pub max_episode_steps: u32,
    pub reward_threshold: Option<f64>,
}

impl Registration {
    /// The task with its random stream and its time limit, which the configuration may override.
    ///
    /// # Errors
    /// Arguments that the task did not ask for, or a time limit of 0.
    pub fn env(self, kwargs: Kwargs, task: impl Task + 'static) -> Result<Box<dyn Env>, EnvError> {
        let (config, arguments) = kwargs.finish()?;
        let spec = EnvSpec {
            id: config.id.clone(),
            obs_dim: self.obs_dim,
            action_space: self.action_space,
            max_episode_steps: None,
            reward_threshold: self.reward_threshold,
            backend: "native",
            parallel: true,
        };
        let limit = config.max_episode_steps.unwrap_or(self.max_episode_steps);
        Ok(Box::new(TimeLimit::new(Native::new(spec, arguments, task), limit)?))
    }
}

/// An environment made of a [`Task`] and a random stream; until a seed is given, the stream is that of seed 0.
struct Native<T> {
    spec: EnvSpec,
    arguments: Vec<Argument>,
    rng: NumpyRng,
    task: T,
}

impl<T: Task> Native<T> {
    /// Puts a task in its frame.
    fn new(spec: EnvSpec, arguments: Vec<Argument>, task: T) -> Native<T> {
        Native { spec, arguments, rng: NumpyRng::new(0), task }
    }
}

impl<T: Task> Env for Native<T> {
    fn spec(&self) -> &EnvSpec {
        &self.spec
    }

    fn reset(&mut self, seed: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError> {
        if let Some(seed) = seed {
            self.rng = NumpyRng::new(seed);
        }
        self.task.reset(&mut self.rng, obs);
        Ok(())
    }

    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, EnvError> {
        let invalid = |message| EnvError::Invalid { id: self.spec.id.clone(), message };
        self.spec.action_space.check(action).map_err(invalid)?;
        let (reward, terminated) = self.task.step(action, next_obs);
        Ok(Outcome { reward, terminated, truncated: false })
    }

    fn info(&self) -> &[(&'static str, f64)] {
        self.task.info()
    }

    fn arguments(&self) -> Vec<Argument> {
        self.arguments.clone()
    }

    fn step_physics(&mut self, action: &[f32]) -> bool {
        self.task.step_physics(action)
    }

    fn take_warning(&mut self) -> Option<String> {
        self.task.take_warning()
    }

    /// A line of text with the random stream, then the state's numbers as bytes.
    fn save(&self) -> Option<Vec<u8>> {
        let mut bytes = self.rng.save().into_bytes();
        bytes.push(b'\n');
        bytes.extend(self.task.save().into_iter().flat_map(f64::to_le_bytes));
        Some(bytes)
    }

    fn load(&mut self, state: &[u8]) -> Result<(), EnvError> {
        let parsed = || {
            let line = state.iter().position(|&byte| byte == b'\n')?;
            let rng = NumpyRng::load(std::str::from_utf8(&state[..line]).ok()?)?;
            let (numbers, []) = state[line + 1..].as_chunks() else { return None };
            Some((rng, numbers.iter().map(|&bytes| f64::from_le_bytes(bytes)).collect::<Vec<_>>()))
        };
        let loaded = parsed().and_then(|(rng, numbers)| {
            self.task.load(&numbers)?;
            self.rng = rng;
            Some(())
        });
        loaded.ok_or_else(|| EnvError::State {
            id: self.spec.id.clone(),
            message: "it was not written by this environment".into(),
        })
    }
}
