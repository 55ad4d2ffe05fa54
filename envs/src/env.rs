//! One environment: a Markov decision process that can be reset and stepped.

use crate::{ActionSpace, EnvError};

/// What one step gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Outcome {
    /// Reward of the step.
    pub reward: f64,
    /// The successor is absorbing: nothing more can be earned.
    pub terminated: bool,
    /// The episode was cut, by a time limit as a rule. A step can be both.
    pub truncated: bool,
}

impl Outcome {
    /// Whether the successor's value counts: an episode cut by a time limit would have gone on.
    pub fn bootstraps(&self) -> bool {
        !self.terminated
    }

    /// Whether this was the episode's last step.
    pub fn ends_episode(&self) -> bool {
        self.terminated || self.truncated
    }
}

/// What an environment looks like from outside.
#[derive(Clone, Debug, PartialEq)]
pub struct EnvSpec {
    /// Its id, `Hopper-v5`.
    pub id: String,
    /// Length of an observation, flattened.
    pub obs_dim: usize,
    /// The actions it takes.
    pub action_space: ActionSpace,
    /// Steps after which an episode is truncated, where there is a limit.
    pub max_episode_steps: Option<u32>,
    /// Return from which the task counts as solved, where its authors gave one.
    pub reward_threshold: Option<f64>,
    /// What steps it: `native` or `gymnasium`.
    pub backend: &'static str,
    /// Whether stepping on several threads is faster: false behind Python's global lock.
    pub parallel: bool,
}

/// A keyword argument of an environment's constructor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// What counts where it is not given, as the environment's own language writes it, if it is known.
    pub default: Option<String>,
}

/// One environment. It does not restart by itself: after an end, [`Lane`](crate::Lane) resets it.
pub trait Env: Send {
    /// Its shape and limits; constant.
    fn spec(&self) -> &EnvSpec;

    /// Starts an episode and writes its first observation, `[obs_dim]`.
    ///
    /// With a seed the environment's random stream starts anew; without one it continues.
    fn reset(&mut self, seed: Option<u64>, obs: &mut [f64]) -> Result<(), EnvError>;

    /// Takes one step with an action row (see [`ActionSpace`]) and writes the true successor, `[obs_dim]`.
    ///
    /// Actions outside a box are passed on as they are: clipping is the agent's choice.
    fn step(&mut self, action: &[f32], next_obs: &mut [f64]) -> Result<Outcome, EnvError>;

    /// Values of Gymnasium's `info` after the last reset or step, an array as its elements in order under one name.
    /// Empty where there are none, and after [`load`](Env::load).
    fn info(&self) -> &[(&'static str, f64)] {
        &[]
    }

    /// The names in Gymnasium's `info` after a reset, whether or not [`info`](Env::info) has their values.
    fn info_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.info().iter().map(|(name, _)| (*name).into()).collect();
        names.dedup();
        names
    }

    /// The keyword arguments of the constructor, where they are known.
    fn arguments(&self) -> Vec<Argument> {
        Vec::new()
    }

    /// Something that the user should hear of once, such as an unstable simulation; taken when read.
    fn take_warning(&mut self) -> Option<String> {
        None
    }

    /// Moves the physics on by one step and does nothing else, no observation, reward or end: the yardstick of
    /// `bregman bench env`. False where an environment has no physics apart.
    fn step_physics(&mut self, _action: &[f32]) -> bool {
        false
    }

    /// All that is needed to go on from here exactly, random stream included; `None` where that cannot be had.
    fn save(&self) -> Option<Vec<u8>> {
        None
    }

    /// Goes back to where [`save`](Env::save) was called.
    fn load(&mut self, _state: &[u8]) -> Result<(), EnvError> {
        Err(EnvError::State { id: self.spec().id.clone(), message: "this environment cannot be restored".into() })
    }
}
