//! What on-policy agents share: one iteration around one [`Update`].
//!
//! An iteration gathers `num_steps` steps from every environment under the policy as it is, estimates advantages (Schulman
//! et al. 2016), and lets the algorithm improve policy and value function. The observation statistics are frozen while a
//! rollout and its update run, so that the first ratio is 1; they move between iterations. An episode cut by a time limit
//! bootstraps from its last state.

use std::sync::Arc;

use bregman_envs::rng::{NumpyRng, Seed};
use bregman_envs::{EnvSpec, Episode, Lane, Outcome};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::actor::NetworkShape;
use crate::actor_critic::{ActorCritic, Pass};
use crate::check;
use crate::evaluate::{Played, evaluate, play};
use crate::learner::{EvalRequest, Evaluation, LearnError, Learner, Metrics, Progress, Report, Setup, Snapshot};
use crate::nn::Activation;
use crate::normalize::{ObsNormalizer, RewardScaler};
use crate::policy::PolicyChain;
use crate::returns::{End, gae};
use crate::rollout::{Runner, Transitions};
use crate::workers::Workers;

/// Settings of every on-policy agent; defaults after Schulman et al. 2017, Table 3, and Huang et al. 2022, "The 37
/// implementation details of PPO".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct OnPolicyConfig {
    /// Steps of each environment per iteration.
    pub num_steps: usize,
    /// Discount per step, in [0, 1].
    pub gamma: f64,
    /// λ of generalised advantage estimation, in [0, 1].
    pub gae_lambda: f64,
    /// Over what advantages are standardised: `minibatch`, `batch` or `none`.
    pub advantage_norm: AdvantageNorm,
    /// Bootstrap from the last state of episodes cut by a time limit; otherwise such a state is worth nothing.
    pub bootstrap_truncated: bool,
    /// Widths of the hidden layers, of the policy and of the value function alike.
    pub hidden_sizes: Vec<usize>,
    /// Between the layers: `tanh`, `relu`, `elu` or `silu`.
    pub activation: Activation,
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

impl Default for OnPolicyConfig {
    fn default() -> OnPolicyConfig {
        OnPolicyConfig {
            num_steps: 2048,
            gamma: 0.99,
            gae_lambda: 0.95,
            advantage_norm: AdvantageNorm::Batch,
            bootstrap_truncated: true,
            hidden_sizes: vec![64, 64],
            activation: Activation::Tanh,
            orthogonal_init: true,
            log_std_init: 0.0,
            state_dependent_std: false,
            clip_actions: true,
            normalize_obs: true,
            obs_clip: 10.0,
            obs_warmup_steps: 1000,
            normalize_reward: true,
            reward_clip: 10.0,
        }
    }
}

impl OnPolicyConfig {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), LearnError> {
        check::count("num_steps", self.num_steps)?;
        check::fraction("gamma", self.gamma, "a discount")?;
        check::fraction("gae_lambda", self.gae_lambda, "λ")?;
        check::positive("obs_clip", self.obs_clip, "10")?;
        check::positive("reward_clip", self.reward_clip, "10")?;
        check::finite("log_std_init", self.log_std_init, "0")?;
        let widths = format!("{:?}", self.hidden_sizes);
        check::rule(
            self.hidden_sizes.iter().all(|&w| w > 0),
            "hidden_sizes",
            widths,
            "widths of at least 1, as [64, 64]",
        )
    }

    /// For algorithms whose policy steps take the whole rollout: refuses what belongs to minibatches.
    pub fn validate_full_batch(&self) -> Result<(), LearnError> {
        let rule = "policy steps take the whole rollout here: `batch` or `none`";
        check::rule(self.advantage_norm != AdvantageNorm::Minibatch, "advantage_norm", "minibatch", rule)?;
        self.validate()
    }
}

/// How an algorithm turns a rollout into a better policy.
pub trait Update: Send {
    /// Improves policy and value function; returns what to log.
    ///
    /// # Errors
    /// A number stops being finite.
    fn update(&mut self, agent: &mut Agent, batch: &Batch) -> Result<Metrics, LearnError>;

    /// Puts optimisers and streams into a snapshot.
    fn save(&self, snapshot: &mut Snapshot);

    /// Takes them from a snapshot.
    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError>;
}

/// What an update may read and change.
pub struct Agent {
    /// Policy and value function.
    pub model: ActorCritic,
    /// Counters; an update adds its `grad_steps`.
    pub progress: Progress,
    /// What the run is built from.
    pub setup: Setup,
    /// The run's threads. Updates run on them, so that [`Workers::join`] uses them.
    pub workers: Arc<Workers>,
}

/// What a rollout gives the update, all `[B]`.
pub struct Batch {
    /// Observations, actions, log-probabilities under the policy that acted; rewards as scaled.
    pub steps: Transitions,
    /// Values under the parameters that acted.
    pub value: Vec<f32>,
    /// Advantages, standardised where the settings say over the batch.
    pub advantage: Vec<f32>,
    /// Targets of the value function: advantage + value.
    pub returns: Vec<f32>,
}

/// An on-policy agent in training, whose algorithm is `U`.
pub struct OnPolicy<U> {
    config: OnPolicyConfig,
    agent: Agent,
    update: U,
    rewards: RewardScaler,
    runner: Runner,
    pass: Pass,
    /// What `repeat_update` works on, and where it starts from.
    repeated: Option<(Batch, Snapshot)>,
}

impl<U: Update> OnPolicy<U> {
    /// Fresh networks in fresh environments; one network for policy and value function unless `separate_networks`.
    ///
    /// # Errors
    /// Settings out of range, or an environment that cannot be made.
    pub fn new(
        config: OnPolicyConfig,
        separate_networks: bool,
        setup: &Setup,
        update: impl FnOnce(&ActorCritic) -> U,
    ) -> Result<OnPolicy<U>, LearnError> {
        config.validate()?;
        let seed = Seed(setup.seed);
        let runner = Runner::new(setup)?;
        let env = setup.envs.make(&setup.env)?;
        let spec = env.spec().clone();
        let mut normalizer = ObsNormalizer::new(spec.obs_dim, config.obs_clip, config.normalize_obs);
        if config.normalize_obs {
            let lane = Lane::new(0, env, setup.seed)?;
            normalizer.update(&random_observations(&spec, lane, config.obs_warmup_steps, seed)?);
        }
        let shape = NetworkShape {
            hidden_sizes: config.hidden_sizes.clone(),
            activation: config.activation,
            separate: separate_networks,
            orthogonal_init: config.orthogonal_init,
            log_std_init: config.log_std_init,
            state_dependent_std: config.state_dependent_std,
            device: setup.device,
        };
        let model = ActorCritic::new(&spec, &shape, normalizer, config.clip_actions, &mut seed.stream("init", 0));
        Ok(OnPolicy {
            rewards: RewardScaler::new(runner.num_envs(), config.gamma, config.reward_clip, config.normalize_reward),
            pass: model.pass(256),
            update: update(&model),
            agent: Agent {
                model,
                progress: Progress::default(),
                workers: Arc::new(Workers::new(setup.threads)?),
                setup: setup.clone(),
            },
            runner,
            repeated: None,
            config,
        })
    }

    /// Agent and algorithm by themselves, and a rollout.
    #[cfg(test)]
    pub(crate) fn apart(mut self) -> (Agent, U, Batch) {
        let workers = self.agent.workers.clone();
        let rollout = self.runner.rollout(&self.agent.model, self.config.num_steps, &workers);
        let batch = self.estimate(rollout.expect("an environment that steps").0);
        (self.agent, self.update, batch)
    }

    /// Policy and value function as they are now.
    pub fn model(&self) -> &ActorCritic {
        &self.agent.model
    }

    /// Values and advantages of a rollout under the parameters that acted.
    fn estimate(&mut self, mut steps: Transitions) -> Batch {
        scale_rewards(&mut steps, &mut self.rewards, self.runner.num_envs());
        let value = self.agent.model.values(&steps.obs, &mut self.pass);
        let cut_values = self.agent.model.values(&steps.cut_obs, &mut self.pass);
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
}

impl<U: Update> Learner for OnPolicy<U> {
    fn step(&mut self) -> Result<Report, LearnError> {
        let workers = self.agent.workers.clone();
        let (steps, episodes): (Transitions, Vec<Episode>) =
            self.runner.rollout(&self.agent.model, self.config.num_steps, &workers)?;
        let batch = self.estimate(steps);
        let metrics = workers.run(|| self.update.update(&mut self.agent, &batch))?;
        self.agent.model.normalizer.update(&batch.steps.raw_obs);
        self.agent.progress.iterations += 1;
        self.agent.progress.env_steps += batch.steps.len() as u64;
        self.agent.progress.episodes += episodes.len() as u64;
        let warnings = self.runner.take_warnings();
        let mut report = Report { metrics, episodes, warnings, ..Default::default() };
        if self.agent.setup.histograms {
            let model = &self.agent.model;
            report.histograms.push(("rollout/action".into(), batch.steps.action));
            report.histograms.push(("train/log_std".into(), model.actor.log_std(&model.params).to_vec()));
        }
        Ok(report)
    }

    fn repeat_update(&mut self) -> Result<bool, LearnError> {
        let workers = self.agent.workers.clone();
        let (batch, start) = match self.repeated.take() {
            Some((batch, start)) => {
                self.agent.model.load(&start)?;
                self.update.load(&start)?;
                (batch, start)
            }
            None => {
                let (steps, _) = self.runner.rollout(&self.agent.model, self.config.num_steps, &workers)?;
                let mut start = self.policy();
                self.update.save(&mut start);
                (self.estimate(steps), start)
            }
        };
        workers.run(|| self.update.update(&mut self.agent, &batch))?;
        self.repeated = Some((batch, start));
        Ok(true)
    }

    fn progress(&self) -> Progress {
        self.agent.progress
    }

    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError> {
        evaluate(&self.agent.model, &self.agent.setup, request, &self.agent.workers)
    }

    fn play(
        &mut self,
        request: &EvalRequest,
        keep: &mut dyn FnMut(&Played) -> Result<bool, LearnError>,
    ) -> Result<(), LearnError> {
        play(&self.agent.model, &self.agent.setup, request, keep)
    }

    fn save(&self) -> Snapshot {
        let mut snapshot = self.policy();
        self.update.save(&mut snapshot);
        self.rewards.save(&mut snapshot);
        self.runner.save(&mut snapshot);
        snapshot.state.insert("progress".into(), serde_json::json!(self.agent.progress));
        snapshot
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError> {
        self.agent.model.load(snapshot)?;
        self.update.load(snapshot)?;
        self.rewards.load(snapshot)?;
        self.agent.progress = snapshot.get("progress")?;
        let restarted = self.runner.load(snapshot, self.agent.progress.env_steps)?;
        if restarted.is_some() {
            self.rewards.restart();
        }
        Ok(restarted.into_iter().collect())
    }

    fn policy(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        self.agent.model.save(&mut snapshot);
        snapshot
    }

    fn policy_chain(&self) -> Option<PolicyChain> {
        Some(self.agent.model.chain())
    }
}

impl Agent {
    /// The part of the budget that is left, in [0, 1].
    pub fn left(&self) -> f64 {
        1.0 - self.setup.budget.spent(&self.progress)
    }

    /// The error of a number that stopped being finite.
    pub fn non_finite(&self, what: &str, value: f64) -> LearnError {
        let Progress { iterations, env_steps, .. } = self.progress;
        LearnError::NonFinite { what: what.into(), value, iteration: iterations + 1, env_steps }
    }
}

/// Shifts to mean 0 and scales to sample standard deviation 1; a single number, which has none, stays.
pub fn standardize(x: &mut [f32]) {
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

/// 1 − Var(returns − values)/Var(returns): 1 is a perfect value function, 0 a constant one.
pub fn explained_variance(values: &[f32], returns: &[f32]) -> f64 {
    let var = |x: &dyn Fn(usize) -> f64| {
        let n = returns.len() as f64;
        let mean = (0..returns.len()).map(x).sum::<f64>() / n;
        (0..returns.len()).map(|i| (x(i) - mean).powi(2)).sum::<f64>() / n
    };
    let total = var(&|i| f64::from(returns[i]));
    1.0 - var(&|i| f64::from(returns[i] - values[i])) / total.max(f64::MIN_POSITIVE)
}

/// Fisher-Yates.
pub fn shuffle(rows: &mut [usize], rng: &mut NumpyRng) {
    for i in (1..rows.len()).rev() {
        rows.swap(i, rng.below(i + 1));
    }
}

/// The given rows of `all`, `[B, width]`, into `out`.
pub fn take_rows(all: &[f32], width: usize, rows: &[usize], out: &mut Vec<f32>) {
    out.clear();
    for &row in rows {
        out.extend_from_slice(&all[row * width..(row + 1) * width]);
    }
}

/// The stream saved as `name`.
pub(crate) fn load_stream(snapshot: &Snapshot, name: &str) -> Result<NumpyRng, LearnError> {
    let text: String = snapshot.get(name)?;
    NumpyRng::load(&text).ok_or_else(|| LearnError::Snapshot(format!("`{name}` is `{text}`, not a random stream")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::learner::Array;
    use crate::ppo::{Ppo, pendulums};
    use crate::rollout::Act;

    #[test]
    fn standardising_uses_the_sample_deviation() {
        let mut x = [1.0, 2.0, 3.0, 4.0];
        standardize(&mut x);
        assert!((x[3] - 1.161_895).abs() < 1e-6);
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

    fn small(change: impl FnOnce(&mut OnPolicyConfig)) -> OnPolicy<Ppo> {
        pendulums(|config| change(&mut config.common))
    }

    #[test]
    fn rewards_are_scaled_in_the_order_of_time() {
        // Lanes of rewards 1, 2 and 3, 4, discounted by 0.99.
        let outcome = |reward| Outcome { reward, terminated: false, truncated: false };
        let outcomes = [1.0, 2.0, 3.0, 4.0].map(outcome).to_vec();
        let mut steps = Transitions { num_steps: 2, outcome: outcomes, ..Default::default() };
        scale_rewards(&mut steps, &mut RewardScaler::new(2, 0.99, 10.0, true), 2);
        for (outcome, expected) in steps.outcome.iter().zip([0.999_900_0, 0.922_495_7, 2.999_700_1, 1.844_991_4]) {
            assert!((outcome.reward - expected).abs() < 1e-6, "{:?}", steps.outcome);
        }
    }

    #[test]
    fn normalisers_are_made_from_their_own_settings() {
        let both = |obs, reward| {
            let ppo = small(|c| {
                (c.normalize_obs, c.normalize_reward, c.gamma, c.gae_lambda) = (obs, reward, 0.9, 0.5);
                (c.obs_clip, c.reward_clip, c.obs_warmup_steps) = (3.0, 0.5, 40);
            });
            (ppo.agent.model.normalizer.clone(), ppo.rewards)
        };
        assert_eq!(both(false, true).1, RewardScaler::new(2, 0.9, 0.5, true));
        assert_eq!(both(true, false).1, RewardScaler::new(2, 0.9, 0.5, false));
        assert_eq!(both(false, true).0, ObsNormalizer::new(3, 3.0, false));
        assert_ne!(both(true, false).0, ObsNormalizer::new(3, 3.0, true));
    }

    #[test]
    fn moments_are_of_the_warm_up_and_of_every_rollout() {
        let mut ppo = small(|c| (c.normalize_obs, c.obs_warmup_steps) = (true, 40));
        let mut count = || {
            let Array::F64(count) = ppo.save().arrays["obs_norm/count"].clone() else { panic!("no number") };
            ppo.step().expect("finite numbers");
            count[0]
        };
        let counts = [count(), count(), count()];
        assert!(counts.iter().zip([40.0, 52.0, 64.0]).all(|(a, b)| (a - b).abs() < 1e-3), "{counts:?}");
    }

    #[test]
    fn advantages_are_of_the_settings_discounts_and_standardised_where_they_say() {
        // With λ = 0 an advantage is the residual r + γ V(s') − V(s).
        let (_, _, batch) = small(|c| (c.gamma, c.gae_lambda) = (0.9, 0.0)).apart();
        for row in (0..12).filter(|row| row % 6 < 5) {
            let residual = batch.steps.outcome[row].reward as f32 + 0.9 * batch.value[row + 1] - batch.value[row];
            assert!((batch.advantage[row] - residual).abs() < 1e-4, "{} is not {residual}", batch.advantage[row]);
            assert!((batch.returns[row] - batch.advantage[row] - batch.value[row]).abs() < 1e-4);
        }
        let mut standardised = batch.advantage.clone();
        standardize(&mut standardised);
        let (_, _, batch) =
            small(|c| (c.gamma, c.gae_lambda, c.advantage_norm) = (0.9, 0.0, AdvantageNorm::Batch)).apart();
        assert_eq!(batch.advantage, standardised);
        let (_, _, batch) =
            small(|c| (c.gamma, c.gae_lambda, c.advantage_norm) = (0.9, 0.0, AdvantageNorm::Minibatch)).apart();
        assert_ne!(batch.advantage, standardised);
    }

    #[test]
    fn actions_are_kept_as_drawn_whatever_is_sent() {
        // σ = e³ in bounds of ±2.
        let (agent, _, batch) = small(|c| c.log_std_init = 3.0).apart();
        assert!(batch.steps.action.iter().any(|a| a.abs() > 4.0), "{:?}", batch.steps.action);
        let dist = &agent.model.actor.dist;
        let mut action = [5.0];
        agent.model.bound(&mut action);
        assert_eq!((action, dist.num_log_stds()), ([2.0], 1));
        let (agent, ..) = small(|c| c.clip_actions = false).apart();
        let mut action = [5.0];
        agent.model.bound(&mut action);
        assert_eq!(action, [5.0]);
    }

    #[test]
    fn shuffles_are_even() {
        let (mut rng, mut counts) = (NumpyRng::new(1), std::collections::BTreeMap::new());
        for _ in 0..6000 {
            let mut rows = [0, 1, 2];
            shuffle(&mut rows, &mut rng);
            *counts.entry(rows).or_insert(0i32) += 1;
        }
        assert!(counts.len() == 6 && counts.values().all(|n| (n - 1000).abs() < 150), "{counts:?}");
    }
}
