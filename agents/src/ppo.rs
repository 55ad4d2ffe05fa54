//! Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), with the details that implementations agreed on
//! (Huang et al. 2022, "The 37 implementation details of PPO").
//!
//! One iteration gathers `num_steps` steps from every environment, estimates advantages (Schulman et al. 2016) and takes
//! several epochs of minibatch steps on the clipped surrogate (Eq. 7), the value loss and the entropy bonus (Eq. 9).
//! Beyond the paper: an episode cut by a time limit bootstraps from its last state, and the observation statistics are
//! frozen while a rollout and its update run, so that the first ratio is 1; they move between iterations.

use std::sync::Arc;

use bregman_envs::rng::{NumpyRng, Seed};
use bregman_envs::{EnvSpec, Lane, Outcome};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::actor_critic::{ActorCritic, NetworkShape, Pass, PolicyRows};
use crate::evaluate::evaluate;
use crate::learner::{EvalRequest, Evaluation, LearnError, Learner, Metrics, Progress, Report, Setup, Snapshot};
use crate::nn::Activation;
use crate::normalize::{ObsNormalizer, RewardScaler};
use crate::optim::{Adam, clip_grad_norm, grad_norm};
use crate::policy::PolicyChain;
use crate::registry::{AgentConfig, AgentEntry};
use crate::returns::{End, gae};
use crate::rollout::{Runner, Transitions};
use crate::workers::Workers;

/// Settings of [`Ppo`]; defaults from Schulman et al. 2017, Table 3, and from the details above.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(deny_unknown_fields, default)]
pub struct PpoConfig {
    /// Steps of each environment per iteration.
    pub num_steps: usize,
    /// Transitions per optimiser step.
    pub batch_size: usize,
    /// Passes over a rollout.
    pub num_epochs: usize,
    /// Adam's step size at the start.
    pub learning_rate: f64,
    /// Let the step size fall linearly to 0 over the budget.
    pub anneal_lr: bool,
    /// Adam's ε.
    pub adam_eps: f64,
    /// Discount per step, in [0, 1].
    pub gamma: f64,
    /// λ of generalised advantage estimation, in [0, 1].
    pub gae_lambda: f64,
    /// Half-width of the interval the ratio is clipped to, ε in Eq. 7.
    pub clip_coef: f64,
    /// Let the clip interval shrink linearly to 0 over the budget.
    pub anneal_clip: bool,
    /// Half-width of the interval around the old value that the new value is clipped to; none leaves it free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vf_clip_coef: Option<f64>,
    /// Weight of the mean squared value error, c₁ in Eq. 9. Implementations that put ½ into the loss have twice this.
    pub vf_coef: f64,
    /// Weight of the entropy bonus, c₂ in Eq. 9.
    pub ent_coef: f64,
    /// Bound on the gradient's global norm; none leaves it free.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_grad_norm: Option<f64>,
    /// Over what advantages are standardised: `minibatch`, `batch` or `none`.
    pub advantage_norm: AdvantageNorm,
    /// Stop an iteration's updates once the KL estimate exceeds 1.5 times this; none never stops.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_kl: Option<f64>,
    /// Widths of the hidden layers, of the policy and of the value function alike.
    pub hidden_sizes: Vec<usize>,
    /// Between the layers: `tanh`, `relu`, `elu` or `silu`.
    pub activation: Activation,
    /// Two networks; otherwise one, whose last output is the value.
    pub separate_networks: bool,
    /// Orthogonal weights with gains √2, 0.01 (policy output) and 1 (value output), biases 0; otherwise uniform ±1/√inputs.
    pub orthogonal_init: bool,
    /// ln σ of the Gaussian at the start.
    pub log_std_init: f64,
    /// ln σ as an output of the policy network; otherwise a free parameter for each action component.
    pub state_dependent_std: bool,
    /// Clip actions to the box for the environment; the unclipped action is stored and scored.
    pub clip_actions: bool,
    /// Shift and scale observations by running moments.
    pub normalize_obs: bool,
    /// Bound on normalised observations.
    pub obs_clip: f64,
    /// Random steps that the observation moments start from; they are not counted as environment steps.
    pub obs_warmup_steps: usize,
    /// Divide rewards by the running standard deviation of the discounted return.
    pub normalize_reward: bool,
    /// Bound on scaled rewards.
    pub reward_clip: f64,
    /// Bootstrap from the last state of episodes cut by a time limit; otherwise such a state is worth nothing.
    pub bootstrap_truncated: bool,
}

/// The advantages that share a mean and a standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdvantageNorm {
    /// Those of a minibatch.
    Minibatch,
    /// Those of a rollout.
    Batch,
    /// None: advantages are used as they are.
    None,
}

impl Default for PpoConfig {
    fn default() -> PpoConfig {
        PpoConfig {
            num_steps: 2048,
            batch_size: 64,
            num_epochs: 10,
            learning_rate: 3e-4,
            anneal_lr: false,
            adam_eps: 1e-5,
            gamma: 0.99,
            gae_lambda: 0.95,
            clip_coef: 0.2,
            anneal_clip: false,
            vf_clip_coef: None,
            vf_coef: 0.5,
            ent_coef: 0.0,
            max_grad_norm: Some(0.5),
            advantage_norm: AdvantageNorm::Minibatch,
            target_kl: None,
            hidden_sizes: vec![64, 64],
            activation: Activation::Tanh,
            separate_networks: true,
            orthogonal_init: true,
            log_std_init: 0.0,
            state_dependent_std: false,
            clip_actions: true,
            normalize_obs: true,
            obs_clip: 10.0,
            obs_warmup_steps: 1000,
            normalize_reward: true,
            reward_clip: 10.0,
            bootstrap_truncated: true,
        }
    }
}

/// PPO's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<PpoConfig>(
    "ppo",
    "proximal policy optimisation: several epochs of minibatch steps on a clipped surrogate",
    &[
        ("train/policy_gradient_loss", "negative clipped surrogate, mean over the iteration's minibatches"),
        ("train/value_loss", "squared error of the value function in scaled units, mean over minibatches"),
        ("train/entropy_loss", "negative entropy of the policy, mean over minibatches"),
        ("train/loss", "policy loss + vf_coef × value loss + ent_coef × entropy loss, mean over minibatches"),
        ("train/approx_kl", "estimate of KL(old ‖ new), mean of ratio − 1 − ln ratio over the last epoch"),
        ("train/clip_fraction", "part of the ratios outside the clip interval, mean over minibatches"),
        ("train/explained_variance", "1 − Var(returns − values) / Var(returns) of the rollout, before the update"),
        ("train/grad_norm", "norm of the gradient before clipping, mean over minibatches"),
        ("train/learning_rate", "Adam's step size in this iteration"),
        ("train/clip_range", "half-width of the clip interval in this iteration"),
        ("train/std", "mean standard deviation of the policy, where it is a free parameter"),
        ("train/n_updates", "optimiser steps since the start"),
    ],
);

impl AgentConfig for PpoConfig {
    fn validate(&self) -> Result<(), LearnError> {
        let positive = |x: f64| x > 0.0 && x.is_finite();
        let weight = |x: f64| x >= 0.0 && x.is_finite();
        let check = |ok: bool, key: &str, value: String, rule: &str| match ok {
            true => Ok(()),
            false => Err(LearnError::Config { key: key.into(), value, rule: rule.into() }),
        };
        let number = |ok: bool, key: &str, value: f64, rule: &str| check(ok, key, value.to_string(), rule);
        let count = |key: &str, value: usize| check(value > 0, key, value.to_string(), "at least 1");
        count("num_steps", self.num_steps)?;
        count("batch_size", self.batch_size)?;
        count("num_epochs", self.num_epochs)?;
        number(positive(self.learning_rate), "learning_rate", self.learning_rate, "a positive number, 3e-4 as a rule")?;
        number(positive(self.adam_eps), "adam_eps", self.adam_eps, "a positive number, 1e-5 as a rule")?;
        number((0.0..=1.0).contains(&self.gamma), "gamma", self.gamma, "a discount lies in [0, 1]")?;
        number((0.0..=1.0).contains(&self.gae_lambda), "gae_lambda", self.gae_lambda, "λ lies in [0, 1]")?;
        number(positive(self.clip_coef), "clip_coef", self.clip_coef, "a positive number, 0.2 as a rule")?;
        number(weight(self.vf_coef), "vf_coef", self.vf_coef, "at least 0, 0.5 as a rule")?;
        number(self.ent_coef.is_finite(), "ent_coef", self.ent_coef, "a finite number, 0 as a rule")?;
        number(positive(self.obs_clip), "obs_clip", self.obs_clip, "a positive number, 10 as a rule")?;
        number(positive(self.reward_clip), "reward_clip", self.reward_clip, "a positive number, 10 as a rule")?;
        number(self.log_std_init.is_finite(), "log_std_init", self.log_std_init, "a finite number, 0 as a rule")?;
        let optional =
            [("vf_clip_coef", self.vf_clip_coef), ("max_grad_norm", self.max_grad_norm), ("target_kl", self.target_kl)];
        for (key, value) in optional {
            number(value.is_none_or(positive), key, value.unwrap_or_default(), "a positive number, or left out")?;
        }
        let widths = format!("{:?}", self.hidden_sizes);
        check(self.hidden_sizes.iter().all(|&w| w > 0), "hidden_sizes", widths, "widths of at least 1, as [64, 64]")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Ppo::new(self, setup)?))
    }
}

/// Proximal policy optimisation in training.
pub struct Ppo {
    config: PpoConfig,
    setup: Setup,
    model: ActorCritic,
    optimizer: Adam,
    rewards: RewardScaler,
    runner: Runner,
    /// Draws the order of the minibatches.
    shuffle: NumpyRng,
    progress: Progress,
    pass: Pass,
    grad: Vec<f32>,
    workers: Arc<Workers>,
}

/// What one rollout gives the update, all `[B]`.
struct Batch {
    steps: Transitions,
    value: Vec<f32>,
    advantage: Vec<f32>,
    returns: Vec<f32>,
}

/// Rows of a batch, gathered.
#[derive(Default)]
struct Minibatch {
    obs: Vec<f32>,
    action: Vec<f32>,
    log_prob: Vec<f32>,
    value: Vec<f32>,
    advantage: Vec<f32>,
    returns: Vec<f32>,
}

/// Means over the rows of a minibatch.
#[derive(Clone, Copy, Default)]
struct Losses {
    policy: f64,
    value: f64,
    entropy: f64,
    approx_kl: f64,
    clip_fraction: f64,
}

impl Ppo {
    /// Fresh networks in fresh environments.
    ///
    /// # Errors
    /// Settings out of range, a minibatch larger than the rollout, or an environment that cannot be made.
    pub fn new(config: PpoConfig, setup: &Setup) -> Result<Ppo, LearnError> {
        config.validate()?;
        let rows = config.num_steps * setup.env.num_envs;
        if config.batch_size > rows {
            return Err(LearnError::Config {
                key: "batch_size".into(),
                value: config.batch_size.to_string(),
                rule: format!("at most num_steps × num_envs = {rows}, the rows of a rollout"),
            });
        }
        let seed = Seed(setup.seed);
        let runner = Runner::new(setup)?;
        let env = setup.envs.make(&setup.env)?;
        let spec = env.spec().clone();
        let mut normalizer = ObsNormalizer::new(spec.obs_dim, config.obs_clip, config.normalize_obs);
        if config.normalize_obs {
            normalizer.update(&random_observations(
                &spec,
                Lane::new(0, env, setup.seed)?,
                config.obs_warmup_steps,
                seed,
            )?);
        }
        let shape = NetworkShape {
            hidden_sizes: config.hidden_sizes.clone(),
            activation: config.activation,
            separate: config.separate_networks,
            orthogonal_init: config.orthogonal_init,
            log_std_init: config.log_std_init,
            state_dependent_std: config.state_dependent_std,
        };
        let model = ActorCritic::new(&spec, &shape, normalizer, config.clip_actions, &mut seed.stream("init", 0));
        Ok(Ppo {
            optimizer: Adam::new(model.params.len(), config.adam_eps),
            rewards: RewardScaler::new(runner.num_envs(), config.gamma, config.reward_clip, config.normalize_reward),
            runner,
            shuffle: seed.stream("shuffle", 0),
            progress: Progress::default(),
            pass: model.pass(config.batch_size.max(256)),
            grad: vec![0.0; model.params.len()],
            workers: Arc::new(Workers::new(setup.threads)?),
            setup: setup.clone(),
            model,
            config,
        })
    }

    /// Policy and value function as they are now.
    pub fn model(&self) -> &ActorCritic {
        &self.model
    }

    /// Values and advantages of a rollout under the parameters that acted.
    fn estimate(&mut self, mut steps: Transitions) -> Batch {
        scale_rewards(&mut steps, &mut self.rewards, self.runner.num_envs());
        let value = self.model.values(&steps.obs, &mut self.pass);
        let cut_values = self.model.values(&steps.cut_obs, &mut self.pass);
        let ends = ends(&steps, &cut_values, self.config.bootstrap_truncated);
        let rewards: Vec<f32> = steps.outcome.iter().map(|o| o.reward as f32).collect();
        let (gamma, lambda, len) = (self.config.gamma as f32, self.config.gae_lambda as f32, steps.num_steps);
        let mut advantage = vec![0.0; steps.len()];
        for (lane, out) in advantage.chunks_mut(len).enumerate() {
            let rows = lane * len..(lane + 1) * len;
            gae(&rewards[rows.clone()], &value[rows.clone()], &ends[rows], gamma, lambda, out);
        }
        let returns = advantage.iter().zip(&value).map(|(a, v)| a + v).collect();
        if self.config.advantage_norm == AdvantageNorm::Batch {
            standardize(&mut advantage);
        }
        Batch { steps, value, advantage, returns }
    }

    /// Several epochs of minibatch steps over a batch; returns what to log.
    fn update(&mut self, batch: &Batch) -> Result<Metrics, LearnError> {
        let left = 1.0 - self.setup.budget.spent(&self.progress);
        let learning_rate = self.config.learning_rate * if self.config.anneal_lr { left } else { 1.0 };
        let clip_coef = self.config.clip_coef * if self.config.anneal_clip { left } else { 1.0 };
        let mut rows: Vec<usize> = (0..batch.steps.len()).collect();
        let mut minibatch = Minibatch::default();
        let (mut all, mut last_epoch, mut norms) = (Mean::default(), Mean::default(), 0.0);
        let mut updates = 0;
        'epochs: for _ in 0..self.config.num_epochs {
            shuffle(&mut rows, &mut self.shuffle);
            last_epoch = Mean::default();
            for rows in rows.chunks(self.config.batch_size) {
                minibatch.gather(batch, rows);
                if self.config.advantage_norm == AdvantageNorm::Minibatch {
                    standardize(&mut minibatch.advantage);
                }
                let losses = self.gradient(&minibatch, clip_coef as f32);
                all.add(losses);
                last_epoch.add(losses);
                if self.config.target_kl.is_some_and(|target| losses.approx_kl > 1.5 * target) {
                    break 'epochs;
                }
                let norm = match self.config.max_grad_norm {
                    Some(max) => clip_grad_norm(&mut self.grad, max),
                    None => grad_norm(&self.grad),
                };
                if !norm.is_finite() {
                    return Err(self.non_finite("the gradient's norm", norm));
                }
                self.optimizer.step(&mut self.model.params, &self.grad, learning_rate);
                norms += norm;
                updates += 1;
            }
        }
        self.progress.grad_steps += updates;

        let mean = all.mean();
        let mut metrics = Metrics::default();
        metrics.add("train/policy_gradient_loss", mean.policy);
        metrics.add("train/value_loss", mean.value);
        metrics.add("train/entropy_loss", -mean.entropy);
        let loss = mean.policy + self.config.vf_coef * mean.value - self.config.ent_coef * mean.entropy;
        metrics.add("train/loss", loss);
        metrics.add("train/approx_kl", last_epoch.mean().approx_kl);
        metrics.add("train/clip_fraction", mean.clip_fraction);
        metrics.add("train/explained_variance", explained_variance(&batch.value, &batch.returns));
        metrics.add("train/grad_norm", norms / updates.max(1) as f64);
        metrics.add("train/learning_rate", learning_rate);
        metrics.add("train/clip_range", clip_coef);
        if let Some(std) = self.model.mean_std() {
            metrics.add("train/std", std);
        }
        metrics.add("train/n_updates", self.progress.grad_steps as f64);
        Ok(metrics)
    }

    /// Losses of a minibatch, and the gradient of their weighted sum (Eq. 9, descending) into `self.grad`.
    fn gradient(&mut self, minibatch: &Minibatch, clip_coef: f32) -> Losses {
        let rows = minibatch.log_prob.len();
        let scale = 1.0 / rows as f32;
        let d_entropy = -(self.config.ent_coef as f32) * scale;
        let (vf_coef, vf_clip) = (self.config.vf_coef as f32, self.config.vf_clip_coef.map(|c| c as f32));
        let policy_part = |mut policy: PolicyRows| {
            let mut losses = Losses::default();
            for (i, action) in minibatch.action.chunks_exact(minibatch.action.len() / rows).enumerate() {
                let log_ratio = policy.log_prob(i, action) - minibatch.log_prob[i];
                let surrogate = clipped_surrogate(log_ratio, minibatch.advantage[i], clip_coef);
                policy.add_gradient(i, action, -surrogate.slope * scale, d_entropy);

                let clipped = (log_ratio.exp() - 1.0).abs() > clip_coef;
                losses.policy -= f64::from(surrogate.loss * scale);
                losses.entropy += f64::from(policy.entropy(i) * scale);
                losses.approx_kl += f64::from(approx_kl(log_ratio) * scale);
                losses.clip_fraction += f64::from(scale) * f64::from(u8::from(clipped));
            }
            losses
        };
        let value_part = |values: &[f32], d_values: &mut [f32]| {
            let mut sum = 0.0;
            for (i, d_value) in d_values.iter_mut().enumerate() {
                let loss = value_loss(values[i], minibatch.value[i], minibatch.returns[i], vf_clip);
                *d_value = vf_coef * loss.slope * scale;
                sum += f64::from(loss.loss * scale);
            }
            sum
        };
        let (losses, value) =
            self.model.gradient(&minibatch.obs, policy_part, value_part, &mut self.pass, &mut self.grad, &self.workers);
        Losses { value, ..losses }
    }

    fn non_finite(&self, what: &str, value: f64) -> LearnError {
        let Progress { iterations, env_steps, .. } = self.progress;
        LearnError::NonFinite { what: what.into(), value, iteration: iterations + 1, env_steps }
    }
}

impl Learner for Ppo {
    fn step(&mut self) -> Result<Report, LearnError> {
        let (steps, episodes) = self.runner.rollout(&self.model, self.config.num_steps, &self.workers)?;
        let batch = self.estimate(steps);
        let workers = self.workers.clone();
        let metrics = workers.run(|| self.update(&batch))?;
        self.model.normalizer.update(&batch.steps.raw_obs);
        self.progress.iterations += 1;
        self.progress.env_steps += batch.steps.len() as u64;
        self.progress.episodes += episodes.len() as u64;
        let warnings = self.runner.take_warnings();
        let mut report = Report { metrics, episodes, warnings, ..Default::default() };
        if self.setup.histograms {
            report.histograms.push(("rollout/action".into(), batch.steps.action));
            report.histograms.push(("train/log_std".into(), self.model.log_std().to_vec()));
        }
        Ok(report)
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError> {
        evaluate(&self.model, &self.setup, request, &self.workers)
    }

    fn save(&self) -> Snapshot {
        let mut snapshot = self.policy();
        self.optimizer.save("adam", &mut snapshot);
        self.rewards.save(&mut snapshot);
        self.runner.save(&mut snapshot);
        snapshot.state.insert("shuffle".into(), self.shuffle.save().into());
        snapshot.state.insert("progress".into(), serde_json::json!(self.progress));
        snapshot
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError> {
        self.model.load(snapshot)?;
        self.optimizer.load("adam", snapshot)?;
        self.rewards.load(snapshot)?;
        self.progress = snapshot.get("progress")?;
        let shuffle: String = snapshot.get("shuffle")?;
        self.shuffle = NumpyRng::load(&shuffle)
            .ok_or_else(|| LearnError::Snapshot(format!("`shuffle` is `{shuffle}`, not a random stream")))?;
        let restarted = self.runner.load(snapshot, self.progress.env_steps)?;
        if restarted.is_some() {
            self.rewards.restart();
        }
        Ok(restarted.into_iter().collect())
    }

    fn policy(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.model.save(&mut snapshot);
        snapshot
    }

    fn policy_chain(&self) -> Option<PolicyChain> {
        Some(self.model.chain())
    }
}

/// A row's objective or loss and its derivative.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sloped {
    /// The value.
    pub loss: f32,
    /// Its derivative in the log-probability or in the value.
    pub slope: f32,
}

/// Clipped surrogate objective, to be maximised (Schulman et al. 2017, Eq. 7), and its derivative in ln π.
pub fn clipped_surrogate(log_ratio: f32, advantage: f32, clip_coef: f32) -> Sloped {
    let ratio = log_ratio.exp();
    let clipped = ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef);
    if ratio * advantage <= clipped * advantage {
        Sloped { loss: ratio * advantage, slope: ratio * advantage }
    } else {
        Sloped { loss: clipped * advantage, slope: 0.0 }
    }
}

/// Squared error of a value, and its derivative; with a clip, the larger one of the free and the clipped value's.
pub fn value_loss(value: f32, old_value: f32, returns: f32, clip_coef: Option<f32>) -> Sloped {
    let error = value - returns;
    let free = Sloped { loss: error * error, slope: 2.0 * error };
    let Some(clip_coef) = clip_coef else { return free };
    let clipped_error = old_value + (value - old_value).clamp(-clip_coef, clip_coef) - returns;
    if free.loss >= clipped_error * clipped_error {
        free
    } else {
        Sloped { loss: clipped_error * clipped_error, slope: 0.0 }
    }
}

/// Estimate of KL(old ‖ new) from a sample of the old policy: ratio − 1 − ln ratio, never negative.
pub fn approx_kl(log_ratio: f32) -> f32 {
    log_ratio.exp_m1() - log_ratio
}

/// Shifts to mean 0 and scales to sample standard deviation 1; a single number, which has none, stays.
fn standardize(x: &mut [f32]) {
    if x.len() < 2 {
        return;
    }
    let n = x.len() as f64;
    let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n;
    let var = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / (n - 1.0);
    let (mean, scale) = (mean as f32, (1.0 / (var.sqrt() + 1e-8)) as f32);
    x.iter_mut().for_each(|x| *x = (*x - mean) * scale);
}

/// How each row joins its successor.
fn ends(steps: &Transitions, cut_values: &[f32], bootstrap_truncated: bool) -> Vec<End> {
    let terminated = |o: &Outcome| if o.terminated { End::Terminated } else { End::Open };
    let mut ends: Vec<End> = steps.outcome.iter().map(terminated).collect();
    for (&row, &value) in steps.cut_rows.iter().zip(cut_values) {
        let worthless = steps.outcome[row].truncated && !bootstrap_truncated;
        ends[row] = if worthless { End::Terminated } else { End::Cut(value) };
    }
    ends
}

/// Scales the rewards of a rollout in the order of time, all lanes of a step together.
fn scale_rewards(steps: &mut Transitions, scaler: &mut RewardScaler, num_envs: usize) {
    let len = steps.num_steps;
    for t in 0..len {
        let mut step: Vec<Outcome> = (0..num_envs).map(|lane| steps.outcome[lane * len + t]).collect();
        scaler.scale(&mut step);
        for (lane, outcome) in step.into_iter().enumerate() {
            steps.outcome[lane * len + t] = outcome;
        }
    }
}

/// Observations along `num_steps` uniformly random actions, `[num_steps, obs_dim]`.
fn random_observations(spec: &EnvSpec, mut lane: Lane, num_steps: usize, seed: Seed) -> Result<Vec<f64>, LearnError> {
    let mut rng = seed.stream("warm-up", 0);
    lane.restart(Some(rng.next_u64() >> 32))?;
    let (mut action, mut next_obs) = (vec![0.0; spec.action_space.row_len()], vec![0.0; spec.obs_dim]);
    let mut all = Vec::with_capacity(num_steps * spec.obs_dim);
    for _ in 0..num_steps {
        all.extend_from_slice(lane.obs());
        spec.action_space.sample(&mut rng, &mut action);
        lane.step(&action, &mut next_obs)?;
    }
    Ok(all)
}

/// Fisher-Yates.
fn shuffle(rows: &mut [usize], rng: &mut NumpyRng) {
    for i in (1..rows.len()).rev() {
        rows.swap(i, rng.below(i + 1));
    }
}

/// 1 − Var(returns − values)/Var(returns): 1 is a perfect value function, 0 a constant one.
fn explained_variance(values: &[f32], returns: &[f32]) -> f64 {
    let var = |x: &dyn Fn(usize) -> f64| {
        let n = returns.len() as f64;
        let mean = (0..returns.len()).map(x).sum::<f64>() / n;
        (0..returns.len()).map(|i| (x(i) - mean).powi(2)).sum::<f64>() / n
    };
    let total = var(&|i| f64::from(returns[i]));
    1.0 - var(&|i| f64::from(returns[i] - values[i])) / total.max(f64::MIN_POSITIVE)
}

/// A running mean of losses.
#[derive(Default)]
struct Mean {
    sum: Losses,
    count: f64,
}

impl Mean {
    fn add(&mut self, losses: Losses) {
        self.sum.policy += losses.policy;
        self.sum.value += losses.value;
        self.sum.entropy += losses.entropy;
        self.sum.approx_kl += losses.approx_kl;
        self.sum.clip_fraction += losses.clip_fraction;
        self.count += 1.0;
    }

    fn mean(&self) -> Losses {
        let per = |x: f64| x / self.count.max(1.0);
        Losses {
            policy: per(self.sum.policy),
            value: per(self.sum.value),
            entropy: per(self.sum.entropy),
            approx_kl: per(self.sum.approx_kl),
            clip_fraction: per(self.sum.clip_fraction),
        }
    }
}

impl Minibatch {
    /// Copies the given rows of a batch.
    fn gather(&mut self, batch: &Batch, rows: &[usize]) {
        let steps = &batch.steps;
        take_rows(&steps.obs, steps.obs.len() / steps.len(), rows, &mut self.obs);
        take_rows(&steps.action, steps.action.len() / steps.len(), rows, &mut self.action);
        take_rows(&steps.log_prob, 1, rows, &mut self.log_prob);
        take_rows(&batch.value, 1, rows, &mut self.value);
        take_rows(&batch.advantage, 1, rows, &mut self.advantage);
        take_rows(&batch.returns, 1, rows, &mut self.returns);
    }
}

fn take_rows(all: &[f32], width: usize, rows: &[usize], out: &mut Vec<f32>) {
    out.clear();
    for &row in rows {
        out.extend_from_slice(&all[row * width..(row + 1) * width]);
    }
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn the_surrogate_takes_the_worse_of_ratio_and_clipped_ratio() {
        let at = |ratio: f32, advantage| clipped_surrogate(ratio.ln(), advantage, 0.2);
        for (ratio, advantage, loss, slope) in
            [(1.5, 1.0, 1.2, 0.0), (1.5, -1.0, -1.5, -1.5), (0.5, 1.0, 0.5, 0.5), (0.5, -1.0, -0.8, 0.0)]
        {
            close(at(ratio, advantage).loss, loss);
            close(at(ratio, advantage).slope, slope);
        }
    }

    #[test]
    fn the_value_loss_takes_the_larger_of_free_and_clipped() {
        close(value_loss(0.5, 0.0, 1.0, Some(0.2)).loss, 0.64);
        assert_eq!(value_loss(0.5, 0.0, 1.0, Some(0.2)).slope, 0.0);
        assert_eq!(value_loss(0.5, 0.0, 1.0, None), Sloped { loss: 0.25, slope: -1.0 });
    }

    #[test]
    fn the_kl_estimate_by_hand() {
        close(approx_kl(0.1), 0.005_170_918);
        close(approx_kl(-0.1), 0.004_837_418);
    }

    #[test]
    fn standardising_uses_the_sample_deviation() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        standardize(&mut x);
        close(x[3], 1.161_895);
        let mut single = [3.0];
        standardize(&mut single);
        assert_eq!(single, [3.0]);
    }

    #[test]
    fn both_ends_at_once_do_not_bootstrap() {
        let outcome = |terminated, truncated| Outcome { reward: 0.0, terminated, truncated };
        let steps = Transitions {
            num_steps: 4,
            outcome: vec![outcome(false, false), outcome(true, true), outcome(false, true), outcome(false, false)],
            cut_rows: vec![2, 3],
            ..Default::default()
        };
        assert_eq!(ends(&steps, &[5.0, 6.0], true), [End::Open, End::Terminated, End::Cut(5.0), End::Cut(6.0)]);
        assert_eq!(ends(&steps, &[5.0, 6.0], false), [End::Open, End::Terminated, End::Terminated, End::Cut(6.0)]);
    }

    #[test]
    fn a_perfect_value_function_explains_everything() {
        assert_eq!(explained_variance(&[1.0, 2.0], &[1.0, 2.0]), 1.0);
        assert_eq!(explained_variance(&[1.5, 1.5], &[1.0, 2.0]), 0.0);
    }

    /// The whole loss as CleanRL and the paper write it, differentiated by autograd in log-probabilities and values.
    #[test]
    fn the_loss_gradients_agree_with_autograd() {
        let mut rng = NumpyRng::new(5);
        let mut draw = |scale: f64| -> Vec<f32> { (0..64).map(|_| (scale * rng.standard_normal()) as f32).collect() };
        let (log_ratio, advantage) = (draw(0.3), draw(1.0));
        let (value, old_value, returns) = (draw(1.0), draw(1.0), draw(1.0));
        let leaf = |x: &[f32]| Tensor::from_slice(x).set_requires_grad(true);
        let (lr, v) = (leaf(&log_ratio), leaf(&value));
        let (a, old, r) =
            (Tensor::from_slice(&advantage), Tensor::from_slice(&old_value), Tensor::from_slice(&returns));
        let ratio = lr.exp();
        let surrogate = (&ratio * &a).minimum(&(ratio.clamp(0.8, 1.2) * &a));
        let clipped = &old + (&v - &old).clamp(-0.2, 0.2);
        let error = (&v - &r).square().maximum(&(clipped - &r).square());
        (surrogate.sum(Kind::Float) + error.sum(Kind::Float)).backward();
        let slopes = |t: &Tensor| Vec::<f32>::try_from(t.grad()).expect("64 numbers");
        for i in 0..64 {
            close(clipped_surrogate(log_ratio[i], advantage[i], 0.2).slope, slopes(&lr)[i]);
            close(value_loss(value[i], old_value[i], returns[i], Some(0.2)).slope, slopes(&v)[i]);
        }
    }
}
