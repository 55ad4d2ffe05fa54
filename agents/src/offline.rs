//! Offline agents: a dataset, a policy over a box, and an algorithm that turns minibatches into a better policy.
//!
//! An iteration is a number of updates; nothing is gathered, so that environments are for evaluation alone. The data are read
//! before the first step and not for evaluation or export.

use std::sync::Arc;

use bregman_envs::EnvSpec;
use bregman_envs::rng::{NumpyRng, Seed};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::box_policy::{BoxPolicy, BoxPolicyShape};
use crate::check;
use crate::dataset::{Batch, Dataset};
use crate::evaluate::{Played, evaluate, play};
use crate::learner::{
    Budget, EvalRequest, Evaluation, LearnError, Learner, Metrics, Progress, Report, Setup, Snapshot,
};
use crate::nn::Precision;
use crate::normalize::ObsNormalizer;
use crate::on_policy::load_stream;
use crate::policy::PolicyChain;
use crate::workers::Workers;

/// Settings that offline agents share.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct OfflineConfig {
    /// Transitions per update, drawn uniformly with replacement.
    pub batch_size: usize,
    /// Updates per iteration: a row of the logs is their mean.
    pub updates_per_iteration: usize,
    /// What becomes of rewards: none, range (divided by the range of the episodes' returns, times 1000), range_d4rl (the same
    /// range as D4RL's users find it), antmaze (0 to −3, else 0) or antmaze_iql (less 1).
    pub reward_scale: RewardScale,
    /// Shift observations by the dataset's mean and divide them by its standard deviation + 0.001.
    pub normalize_obs: bool,
    /// Of the products between hidden layers: f32 or bf16.
    pub precision: Precision,
}

/// What becomes of rewards before they are learned from; returns that are reported stay raw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RewardScale {
    /// Nothing.
    #[default]
    None,
    /// r · 1000 / (largest return − smallest).
    Range,
    /// The same with returns by [`Dataset::return_range_by_d4rl`].
    RangeD4rl,
    /// −3 where r = 0, else 0: AntMaze in O-DICE.
    Antmaze,
    /// r − 1: AntMaze in IQL.
    AntmazeIql,
}

impl Default for OfflineConfig {
    fn default() -> OfflineConfig {
        OfflineConfig {
            batch_size: 256,
            updates_per_iteration: 500,
            reward_scale: RewardScale::None,
            normalize_obs: false,
            precision: Precision::F32,
        }
    }
}

impl OfflineConfig {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), LearnError> {
        check::count("batch_size", self.batch_size)?;
        check::count("updates_per_iteration", self.updates_per_iteration)
    }
}

/// A reward as it is learned from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Reward {
    Times(f32),
    ZeroIsMinusThree,
    LessOne,
}

impl Reward {
    fn of(scale: RewardScale, data: &Dataset) -> Result<Reward, LearnError> {
        Ok(match scale {
            RewardScale::None => Reward::Times(1.0),
            RewardScale::Range => Reward::Times((1000.0 / data.return_range()?) as f32),
            RewardScale::RangeD4rl => Reward::Times((1000.0 / data.return_range_by_d4rl()?) as f32),
            RewardScale::Antmaze => Reward::ZeroIsMinusThree,
            RewardScale::AntmazeIql => Reward::LessOne,
        })
    }

    fn apply(self, rewards: &mut [f32]) {
        for r in rewards {
            *r = match self {
                Reward::Times(factor) => *r * factor,
                Reward::ZeroIsMinusThree => {
                    if *r == 0.0 {
                        -3.0
                    } else {
                        0.0
                    }
                }
                Reward::LessOne => *r - 1.0,
            };
        }
    }
}

/// How an algorithm turns minibatches into a better policy.
pub trait OfflineUpdate: Send {
    /// One update. Rewards are scaled and observations normalised.
    ///
    /// # Errors
    /// A number stops being finite.
    fn update(&mut self, agent: &mut OfflineAgent, batch: &Batch, means: &mut Means) -> Result<(), LearnError>;

    /// The rows to draw from; all where it says none.
    fn rows(&self, _data: &Dataset) -> Option<Vec<u32>> {
        None
    }

    /// What the user should hear of after an iteration.
    fn warning(&mut self, _metrics: &Metrics) -> Option<String> {
        None
    }

    /// Puts networks, optimisers and streams into a snapshot.
    fn save(&self, snapshot: &mut Snapshot);

    /// Takes them from a snapshot.
    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError>;
}

/// What an update may read and change.
pub struct OfflineAgent {
    /// The policy.
    pub policy: BoxPolicy,
    /// Counters.
    pub progress: Progress,
    /// What the run is built from.
    pub setup: Setup,
    /// The run's threads.
    pub workers: Arc<Workers>,
}

impl OfflineAgent {
    /// `value`, unless it is not finite.
    pub fn finite(&self, what: &str, value: f64) -> Result<f64, LearnError> {
        if value.is_finite() {
            return Ok(value);
        }
        let Progress { iterations, env_steps, .. } = self.progress;
        Err(LearnError::NonFinite { what: what.into(), value, iteration: iterations + 1, env_steps })
    }
}

/// Means of named numbers over the updates of an iteration.
#[derive(Default)]
pub struct Means(Vec<(&'static str, f64, f64)>);

impl Means {
    /// Takes in a number.
    pub fn add(&mut self, name: &'static str, value: f64) {
        match self.0.iter_mut().find(|(known, ..)| *known == name) {
            Some((_, sum, count)) => (*sum, *count) = (*sum + value, *count + 1.0),
            None => self.0.push((name, value, 1.0)),
        }
    }

    /// The mean of one number.
    #[cfg(test)]
    pub(crate) fn mean(&self, name: &str) -> f64 {
        self.metrics().get(name).expect("it was added")
    }

    fn metrics(&self) -> Metrics {
        let mut metrics = Metrics::default();
        self.0.iter().for_each(|(name, sum, count)| metrics.add(name, sum / count));
        metrics
    }
}

/// An offline agent in training, whose algorithm is `U`.
pub struct Offline<U> {
    config: OfflineConfig,
    agent: OfflineAgent,
    update: U,
    data: Option<Data>,
    /// Draws the minibatches.
    stream: NumpyRng,
    /// Of the data that a loaded snapshot was trained on.
    fingerprint: Option<u64>,
    /// Sentences for the next report.
    warnings: Vec<String>,
}

/// What is learned from, as it is drawn.
struct Data {
    dataset: Dataset,
    rows: Option<Vec<u32>>,
    reward: Reward,
    batch: Batch,
}

impl<U: OfflineUpdate> Offline<U> {
    /// A fresh policy and algorithm; the data are read by [`prepare`](Learner::prepare).
    ///
    /// # Errors
    /// Settings out of range, no dataset, an environment that cannot be made or does not suit.
    pub fn new(
        config: OfflineConfig,
        shape: &BoxPolicyShape,
        setup: &Setup,
        update: impl FnOnce(&EnvSpec, &BoxPolicy, &Arc<Workers>, &mut NumpyRng) -> U,
    ) -> Result<Offline<U>, LearnError> {
        config.validate()?;
        if setup.dataset.is_none() {
            return Err(LearnError::Unsuitable("it learns from a dataset: write `[dataset]` with its `path`".into()));
        }
        if !matches!(setup.budget, Budget::GradSteps(_)) {
            return Err(LearnError::Unsuitable("it takes no environment steps: give it `budget.grad_steps`".into()));
        }
        let spec = setup.envs.make(&setup.env)?.spec().clone();
        let mut rng = Seed(setup.seed).stream("init", 0);
        let still = vec![0.0; spec.obs_dim];
        let normalizer = match config.normalize_obs {
            true => ObsNormalizer::fixed(&still, &vec![1.0; spec.obs_dim]),
            false => ObsNormalizer::new(spec.obs_dim, 1.0, false),
        };
        let workers = Arc::new(Workers::new(setup.threads)?);
        let policy = BoxPolicy::new(&spec, shape, normalizer, &mut rng)?;
        Ok(Offline {
            update: update(&spec, &policy, &workers, &mut rng),
            agent: OfflineAgent { policy, progress: Progress::default(), setup: setup.clone(), workers },
            data: None,
            stream: Seed(setup.seed).stream("batch", 0),
            fingerprint: None,
            warnings: config.precision.available_on(setup.device).1.map(str::to_string).into_iter().collect(),
            config,
        })
    }

    /// Agent and algorithm by themselves, and a minibatch of random transitions, the first into an absorbing state.
    #[cfg(test)]
    pub(crate) fn apart(self) -> (OfflineAgent, U, Batch) {
        let (rows, mut rng) = (self.config.batch_size, NumpyRng::new(8));
        let mut draw = |n: usize| (0..n).map(|_| rng.standard_normal() as f32).collect::<Vec<f32>>();
        let policy = &self.agent.policy;
        let mut batch = Batch::default();
        (batch.obs, batch.next_obs) = (draw(rows * policy.obs_dim()), draw(rows * policy.obs_dim()));
        (batch.action, batch.reward) = (draw(rows * policy.act_dim()), draw(rows));
        batch.bootstraps = (0..rows).map(|i| if i == 0 { 0.0 } else { 1.0 }).collect();
        (self.agent, self.update, batch)
    }

    /// The policy as it is now.
    pub fn policy(&self) -> &BoxPolicy {
        &self.agent.policy
    }

    /// The algorithm.
    pub fn algorithm(&self) -> &U {
        &self.update
    }

    fn read(&self) -> Result<Data, LearnError> {
        let Some(source) = &self.agent.setup.dataset else {
            return Err(LearnError::Unsuitable("no dataset".into()));
        };
        let dataset = source.load()?;
        let (found, policy) = (&dataset.header, &self.agent.policy);
        let obs_dim = policy.obs_dim();
        if (found.obs_dim, found.act_dim) != (obs_dim, policy.act_dim()) {
            return Err(LearnError::Unsuitable(format!(
                "{}: observations of {} numbers and actions of {}, and {} has {obs_dim} and {}",
                source.config.path,
                found.obs_dim,
                found.act_dim,
                self.agent.setup.env.id,
                policy.act_dim()
            )));
        }
        if self.fingerprint.is_some_and(|before| before != dataset.fingerprint) {
            let path = &source.config.path;
            return Err(LearnError::Unsuitable(format!(
                "{path}: these are not the transitions that the run began with"
            )));
        }
        let (rows, reward) = (self.update.rows(&dataset), Reward::of(self.config.reward_scale, &dataset)?);
        Ok(Data { dataset, rows, reward, batch: Batch::default() })
    }
}

impl<U: OfflineUpdate> Learner for Offline<U> {
    fn prepare(&mut self) -> Result<(), LearnError> {
        if self.data.is_some() {
            return Ok(());
        }
        let data = self.read()?;
        if self.config.normalize_obs {
            let divisor: Vec<f64> = data.dataset.obs.std().iter().map(|std| std + 1e-3).collect();
            self.agent.policy.normalizer = ObsNormalizer::fixed(&data.dataset.obs.mean, &divisor);
        }
        self.fingerprint = Some(data.dataset.fingerprint);
        self.data = Some(data);
        Ok(())
    }

    fn step(&mut self) -> Result<Report, LearnError> {
        self.prepare()?;
        let Some(data) = &mut self.data else { return Ok(Report::default()) };
        let left = self.agent.setup.budget.total().saturating_sub(self.agent.progress.grad_steps);
        let updates = (self.config.updates_per_iteration as u64).min(left).max(1);
        let mut means = Means::default();
        let workers = self.agent.workers.clone();
        let Offline { agent, update, stream, config, .. } = self;
        workers.run(|| -> Result<(), LearnError> {
            for _ in 0..updates {
                let Data { dataset, rows, reward, batch } = data;
                dataset.sample(config.batch_size, rows.as_deref(), stream, batch)?;
                reward.apply(&mut batch.reward);
                agent.policy.see_rows(&mut batch.obs);
                agent.policy.see_rows(&mut batch.next_obs);
                update.update(agent, batch, &mut means)?;
                agent.progress.grad_steps += 1;
            }
            Ok(())
        })?;
        self.agent.progress.iterations += 1;
        let mut metrics = means.metrics();
        metrics.add("train/n_updates", self.agent.progress.grad_steps as f64);
        let mut warnings = std::mem::take(&mut self.warnings);
        warnings.extend(self.update.warning(&metrics));
        Ok(Report { metrics, warnings, ..Default::default() })
    }

    fn progress(&self) -> Progress {
        self.agent.progress
    }

    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError> {
        evaluate(&self.agent.policy, &self.agent.setup, request, &self.agent.workers)
    }

    fn play(
        &mut self,
        request: &EvalRequest,
        keep: &mut dyn FnMut(&Played) -> Result<bool, LearnError>,
    ) -> Result<(), LearnError> {
        play(&self.agent.policy, &self.agent.setup, request, keep)
    }

    fn save(&self) -> Snapshot {
        let mut snapshot = Learner::policy(self);
        self.update.save(&mut snapshot);
        snapshot.state.insert("batch".into(), self.stream.save().into());
        snapshot.state.insert("progress".into(), serde_json::json!(self.agent.progress));
        snapshot.state.insert("dataset".into(), serde_json::json!(self.fingerprint));
        snapshot
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError> {
        self.agent.policy.load(snapshot)?;
        self.update.load(snapshot)?;
        self.stream = load_stream(snapshot, "batch")?;
        self.agent.progress = snapshot.get("progress")?;
        self.fingerprint = snapshot.get("dataset")?;
        Ok(Vec::new())
    }

    fn policy(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.agent.policy.save(&mut snapshot);
        snapshot
    }

    fn policy_chain(&self) -> Option<PolicyChain> {
        Some(self.agent.policy.chain())
    }
}

/// Puts numbers in the place of others, in the same memory.
pub fn refill(room: &mut Vec<f32>, numbers: impl Iterator<Item = f32>) {
    room.clear();
    room.extend(numbers);
}

/// A run on Pendulum, whose actions lie in [−2, 2], with data that nobody reads.
#[cfg(test)]
pub(crate) fn unread(grad_steps: u64) -> Setup {
    use crate::dataset::DatasetConfig;
    use crate::learner::DataSource;
    Setup {
        seed: 1,
        threads: 1,
        device: Default::default(),
        env: bregman_envs::EnvConfig::new("Pendulum-v1"),
        envs: Default::default(),
        dataset: Some(DataSource::new(DatasetConfig::new("nowhere"))),
        budget: Budget::GradSteps(grad_steps),
        histograms: false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rewards_of_antmaze_by_both_conventions() {
        let apply = |reward: Reward| {
            let mut rewards = [0.0, 1.0, 0.0];
            reward.apply(&mut rewards);
            rewards
        };
        assert_eq!(apply(Reward::ZeroIsMinusThree), [-3.0, 0.0, -3.0]);
        assert_eq!(apply(Reward::LessOne), [-1.0, 0.0, -1.0]);
        assert_eq!(apply(Reward::Times(0.5)), [0.0, 0.5, 0.0]);
    }
}
