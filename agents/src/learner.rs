//! What the training loop asks of every agent.
//!
//! A learner gathers its own experience inside [`step`](Learner::step): on-policy, off-policy, offline and GFlowNet
//! agents differ exactly in when, and where in parameter space, they sample. The loop needs four verbs: `step`,
//! `evaluate`, `save`, `load`.

use std::collections::BTreeMap;
use std::sync::Arc;

use bregman_envs::{EnvConfig, EnvError, Episode};
use serde::{Deserialize, Serialize};

use crate::dataset::{Dataset, DatasetConfig, DatasetError};
use crate::evaluate::Played;
use crate::nn::Device;
use crate::policy::PolicyChain;
use crate::rows::Rows;

/// One agent in training.
pub trait Learner: Send {
    /// One iteration: gathers experience, updates, reports.
    ///
    /// # Errors
    /// An environment that fails, or a number that stops being finite. The learner is then not to be stepped again;
    /// the last checkpoint holds.
    fn step(&mut self) -> Result<Report, LearnError>;

    /// One update on experience gathered before, for measurements: after the first call nothing is gathered any more. `false`
    /// where the agent has no such thing.
    ///
    /// # Errors
    /// As [`step`](Learner::step).
    fn repeat_update(&mut self) -> Result<bool, LearnError> {
        Ok(false)
    }

    /// Reads what it learns from, before the first step; evaluation and export do without.
    ///
    /// # Errors
    /// Data that are missing, broken or of another kind.
    fn prepare(&mut self) -> Result<(), LearnError> {
        Ok(())
    }

    /// How far it is.
    fn progress(&self) -> Progress;

    /// Judges the policy as it is now, on environments of its own; leaves the learner untouched.
    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError>;

    /// Acts in an environment of its own as `request` says, episode after episode, for the making of datasets; `keep` is
    /// given every step and says whether to go on. [`evaluate::play`](crate::evaluate::play) does it for any policy.
    ///
    /// # Errors
    /// An agent that does not do this, an environment that fails, what `keep` returns.
    fn play(
        &mut self,
        _request: &EvalRequest,
        _keep: &mut dyn FnMut(&Played) -> Result<bool, LearnError>,
    ) -> Result<(), LearnError> {
        Err(LearnError::Unsuitable("the steps of this agent cannot be recorded".into()))
    }

    /// Hands on the transitions of its replay buffer, oldest first, with the environment each is of, until `keep` says no.
    ///
    /// # Errors
    /// An agent without one, what `keep` returns.
    fn replay(&self, _keep: &mut dyn FnMut(usize, &Played) -> Result<bool, LearnError>) -> Result<(), LearnError> {
        Err(LearnError::Unsuitable("this agent keeps no replay buffer; an off-policy agent does".into()))
    }

    /// Draws finished objects from the policy; `None` where the agent builds none.
    fn sample(&mut self, _count: usize, _seed: u64) -> Result<Option<Vec<Drawn>>, LearnError> {
        Ok(None)
    }

    /// All that is needed to go on from here exactly.
    fn save(&self) -> Snapshot;

    /// Goes back to a saved state. Returns what could not be restored, in a sentence each: nothing for most, that
    /// episodes start anew where the environments cannot be saved.
    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError>;

    /// The policy alone, with its normaliser: what acting needs and no more.
    fn policy(&self) -> Snapshot;

    /// The deterministic policy as plain operations, for export; `None` where it is not of that kind.
    fn policy_chain(&self) -> Option<PolicyChain> {
        None
    }
}

/// Counters of a learner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// Calls of `step`.
    pub iterations: u64,
    /// Environment steps taken, all environments together.
    pub env_steps: u64,
    /// Optimiser steps taken on the policy.
    pub grad_steps: u64,
    /// Episodes finished.
    pub episodes: u64,
}

/// What a run may spend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Budget {
    /// Environment steps, all environments together.
    EnvSteps(u64),
    /// Optimiser steps.
    GradSteps(u64),
}

impl Budget {
    /// How much, in its own unit.
    pub fn total(&self) -> u64 {
        let (Budget::EnvSteps(total) | Budget::GradSteps(total)) = *self;
        total
    }

    /// The part of the budget that is spent, in [0, 1].
    pub fn spent(&self, progress: &Progress) -> f64 {
        let done = match self {
            Budget::EnvSteps(_) => progress.env_steps,
            Budget::GradSteps(_) => progress.grad_steps,
        };
        let total = self.total();
        if total == 0 { 1.0 } else { (done as f64 / total as f64).min(1.0) }
    }
}

/// What an iteration has to say.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Numbers for the log.
    pub metrics: Metrics,
    /// Episodes that finished during the iteration, in the order of lane and time.
    pub episodes: Vec<Episode>,
    /// Samples for histograms, by name, where `observe.histograms` asked for them.
    pub histograms: Vec<(String, Vec<f32>)>,
    /// What environments had to say, such as a simulation that became unstable.
    pub warnings: Vec<String>,
}

/// Named numbers in the order in which they were added.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metrics(Vec<(String, f64)>);

impl Metrics {
    /// Adds a number; every name stands in `docs/metrics.md` and in the agent's [`AgentEntry`](crate::registry::AgentEntry).
    pub fn add(&mut self, name: &str, value: f64) {
        self.0.push((name.into(), value));
    }

    /// The number called `name`.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.0.iter().find(|(n, _)| n == name).map(|&(_, v)| v)
    }

    /// Names and numbers.
    pub fn iter(&self) -> impl Iterator<Item = (&str, f64)> {
        self.0.iter().map(|(n, v)| (n.as_str(), *v))
    }
}

/// How to judge a policy.
#[derive(Clone, Debug, PartialEq)]
pub struct EvalRequest {
    /// Complete episodes.
    pub episodes: u32,
    /// Sample actions instead of taking the most probable one.
    pub stochastic: bool,
    /// Episode `j` starts from seed `seed + j`, so two evaluations see the same starts.
    pub seed: u64,
    /// Another time limit than in training, if any.
    pub max_episode_steps: Option<u32>,
}

/// Returns of evaluation episodes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// One entry per episode: undiscounted return from raw rewards, and length.
    pub episodes: Vec<Episode>,
    /// The first thing that an environment had to say, such as a simulation that became unstable.
    pub warning: Option<String>,
    /// Other numbers for the log.
    pub metrics: Metrics,
    /// What the best checkpoint is chosen by, one of the metrics; the mean return where it is not said.
    pub criterion: Option<Criterion>,
}

/// A number that policies are judged by in place of the mean return.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Criterion {
    /// Its name on the terminal: `L1`.
    pub name: String,
    /// Its name in the log: `eval/l1`.
    pub metric: String,
    /// Whether the least value is the best, as of a distance; otherwise the highest is.
    pub least: bool,
}

impl Criterion {
    /// Whether `value` is as good as `goal` or better; the mean return, where there is no criterion, had better be high.
    pub fn reaches(criterion: Option<&Criterion>, value: f64, goal: f64) -> bool {
        if criterion.is_some_and(|criterion| criterion.least) { value <= goal } else { value >= goal }
    }

    /// The metric and its name, as `L1 0.0086`; of the mean return the number alone.
    pub fn written(criterion: Option<&Criterion>, value: f64) -> String {
        // A distance is a small number, and a return a large one.
        let digits = if value.abs() < 10.0 { 4 } else { 1 };
        let name = criterion.map_or(String::new(), |criterion| format!("{} ", criterion.name));
        format!("{name}{value:.digits$}")
    }
}

/// An object that a policy built.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Drawn {
    /// As text.
    pub object: String,
    /// ln R.
    pub log_reward: f64,
    /// Estimate of the probability's logarithm, by backward importance sampling.
    pub log_prob: f64,
}

impl Evaluation {
    /// Mean return.
    pub fn mean_reward(&self) -> f64 {
        self.episodes.iter().map(|e| e.reward).sum::<f64>() / self.episodes.len() as f64
    }

    /// What the best checkpoint is chosen by.
    pub fn score(&self) -> f64 {
        let metric = self.criterion.as_ref().and_then(|criterion| self.metrics.get(&criterion.metric));
        metric.unwrap_or_else(|| self.mean_reward())
    }

    /// Population standard deviation of the returns.
    pub fn std_reward(&self) -> f64 {
        let mean = self.mean_reward();
        let sum: f64 = self.episodes.iter().map(|e| (e.reward - mean).powi(2)).sum();
        (sum / self.episodes.len() as f64).sqrt()
    }

    /// Mean number of steps.
    pub fn mean_length(&self) -> f64 {
        self.episodes.iter().map(|e| f64::from(e.length)).sum::<f64>() / self.episodes.len() as f64
    }
}

/// A saved state: named arrays for the large things, rows for what only grows, JSON for counters and random streams.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Replay buffers, shared with the learner.
    pub rows: BTreeMap<String, Rows>,
    /// Parameters, moments, statistics, environment states.
    pub arrays: BTreeMap<String, Array>,
    /// Counters and streams.
    pub state: serde_json::Map<String, serde_json::Value>,
}

impl Snapshot {
    /// Adds an array.
    pub fn put(&mut self, name: &str, array: Array) {
        self.arrays.insert(name.into(), array);
    }

    /// Copies the single-precision array `name` into `out`, whose length it must have.
    pub fn f32_into(&self, name: &str, out: &mut [f32]) -> Result<(), LearnError> {
        match self.arrays.get(name) {
            Some(Array::F32(data)) if data.len() == out.len() => out.copy_from_slice(data),
            other => return Err(misfit(name, "f32", out.len(), other)),
        }
        Ok(())
    }

    /// Copies the double-precision array `name` into `out`, whose length it must have.
    pub fn f64_into(&self, name: &str, out: &mut [f64]) -> Result<(), LearnError> {
        match self.arrays.get(name) {
            Some(Array::F64(data)) if data.len() == out.len() => out.copy_from_slice(data),
            other => return Err(misfit(name, "f64", out.len(), other)),
        }
        Ok(())
    }

    /// The counter `name`.
    pub fn u64(&self, name: &str) -> Result<u64, LearnError> {
        self.get(name)
    }

    /// The entry `name` of the state.
    pub fn get<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, LearnError> {
        let value = self.state.get(name).ok_or_else(|| LearnError::Snapshot(format!("`{name}` is missing")))?;
        T::deserialize(value).map_err(|e| LearnError::Snapshot(format!("`{name}`: {e}")))
    }
}

fn misfit(name: &str, kind: &str, len: usize, found: Option<&Array>) -> LearnError {
    let found = match found {
        None => "nothing".to_string(),
        Some(Array::F32(data)) => format!("{} of f32", data.len()),
        Some(Array::F64(data)) => format!("{} of f64", data.len()),
        Some(Array::U8(data)) => format!("{} bytes", data.len()),
    };
    LearnError::Snapshot(format!("`{name}` should be {len} of {kind} and is {found}"))
}

/// A flat array of a snapshot.
#[derive(Clone, Debug, PartialEq)]
pub enum Array {
    /// Single precision.
    F32(Vec<f32>),
    /// Double precision.
    F64(Vec<f64>),
    /// Bytes.
    U8(Vec<u8>),
}

/// What a learner is built from, beside its own settings.
#[derive(Clone)]
pub struct Setup {
    /// The run's seed.
    pub seed: u64,
    /// Worker threads.
    pub threads: usize,
    /// Where updates compute their networks.
    pub device: Device,
    /// The environment to learn in.
    pub env: EnvConfig,
    /// Where environments come from.
    pub envs: bregman_envs::Registry,
    /// The dataset to learn from, for those that do.
    pub dataset: Option<DataSource>,
    /// What the run may spend: schedules are fractions of it.
    pub budget: Budget,
    /// Whether reports should carry histograms.
    pub histograms: bool,
}

impl Setup {
    /// Refuses a GPU, for agents that do not use one.
    pub fn on_processor(&self) -> Result<(), LearnError> {
        match self.device {
            Device::Cpu => Ok(()),
            other => Err(LearnError::Config {
                key: "device".into(),
                value: format!("\"{other}\""),
                rule: "this agent's networks are computed on the processor, \"cpu\"".into(),
            }),
        }
    }
}

/// A dataset that is read when it is needed.
#[derive(Clone)]
pub struct DataSource {
    /// Where and how.
    pub config: DatasetConfig,
    /// Hears of rows read and rows in the file.
    pub progress: Arc<dyn Fn(usize, usize) + Send + Sync>,
}

impl DataSource {
    /// The dataset, read in silence.
    pub fn new(config: DatasetConfig) -> DataSource {
        DataSource { config, progress: Arc::new(|_, _| {}) }
    }

    /// Reads it.
    pub fn load(&self) -> Result<Dataset, DatasetError> {
        Dataset::load(&self.config, &mut |done, all| (self.progress)(done, all))
    }
}

/// Why learning stopped.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LearnError {
    /// An environment failed.
    #[error(transparent)]
    Env(#[from] EnvError),
    /// A dataset cannot be used.
    #[error(transparent)]
    Data(#[from] DatasetError),
    /// A setting is out of range or does not fit the others.
    #[error("`{key} = {value}`: {rule}")]
    Config {
        /// The setting's name inside its table, `gamma`.
        key: String,
        /// Its value, as written.
        value: String,
        /// What would do: `the discount lies in [0, 1]`.
        rule: String,
    },
    /// The agent cannot act in this environment.
    #[error("{0}")]
    Unsuitable(String),
    /// A number stopped being finite.
    #[error("{what} is {value} at iteration {iteration}, {env_steps} environment steps")]
    NonFinite {
        /// `policy loss`, `gradient`.
        what: String,
        /// NaN or an infinity.
        value: f64,
        /// The iteration, counted from 1.
        iteration: u64,
        /// Environment steps taken.
        env_steps: u64,
    },
    /// Rows that are kept on disk could not be written.
    #[error("{0}")]
    Storage(String),
    /// A snapshot does not belong to this learner.
    #[error("the saved state does not fit: {0}")]
    Snapshot(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_had_better_be_small_and_returns_large() {
        let l1 = Criterion { name: "L1".into(), metric: "eval/l1".into(), least: true };
        let by_distance = Some(&l1);
        assert!(Criterion::reaches(by_distance, 0.1, 0.2) && !Criterion::reaches(by_distance, 0.3, 0.2));
        assert!(Criterion::reaches(None, 0.3, 0.2) && !Criterion::reaches(None, 0.1, 0.2));
        assert_eq!(Criterion::written(by_distance, 0.00861), "L1 0.0086");
        assert_eq!(Criterion::written(None, 3000.44), "3000.4");
        let mut judged = Evaluation { criterion: Some(l1), ..Default::default() };
        judged.metrics.add("eval/l1", 0.25);
        assert_eq!(judged.score(), 0.25);
    }

    #[test]
    fn deviations_are_those_of_a_population() {
        // Returns 1 and 5: mean 3, variance (4 + 4)/2.
        let episode = |reward, length| Episode { lane: 0, reward, length };
        let judged = Evaluation { episodes: vec![episode(1.0, 10), episode(5.0, 20)], ..Default::default() };
        assert_eq!((judged.mean_reward(), judged.std_reward(), judged.mean_length()), (3.0, 2.0, 15.0));
    }
}
