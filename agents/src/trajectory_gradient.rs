//! Policy gradients from whole trajectories: what N-PG-IGT, HARPG and their relatives share.
//!
//! An iteration asks an [`Oracle`] for gradients and Hessian-vector products wherever in parameter space the algorithm wants
//! them, combines them into a direction d_t, and steps from θ_t: by γ_t d_t, or by γ_t d_t/|d_t|. The oracle plays episodes with
//! the policy at that very point. θ_t changes at the end of an iteration alone, so an environment that fails leaves it as it was.
//!
//! The objective is E[Σ_{t<H} γᵗ r_t] with H the time limit: an episode that is cut simply ends. Iterates are in double
//! precision, since look-ahead points extrapolate their differences; networks compute in single precision.

mod sampler;

use bregman_envs::rng::{NumpyRng, Seed};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::actor::NetworkShape;
use crate::actor_critic::chain;
use crate::baseline::BaselineKind;
use crate::check;
use crate::evaluate::{evaluate, play};
use crate::learner::{
    Array, Budget, EvalRequest, Evaluation, LearnError, Learner, Metrics, Progress, Report, Setup, Snapshot,
};
use crate::nn::{Activation, Device};
use crate::on_policy::{explained_variance, load_stream};
use crate::policy::PolicyChain;
use crate::rollout::Runner;

pub use sampler::{Curvature, Estimate, Estimates, Sampler};
use sampler::{Estimator, single};

/// Iterations in a row without a step, of which the last ends a run if its direction is not finite.
const PATIENCE: u32 = 20;

/// Settings of every agent that learns from whole trajectories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct TrajectoryConfig {
    /// Whole episodes behind every estimate, M.
    pub trajectories: usize,
    /// The first iteration takes this many times as many: its estimate is all of the first direction.
    pub first_batch: usize,
    /// Discount per step, in [0, 1].
    pub gamma: f64,
    /// γ₀ of the step size γ_t = γ₀ (2/(t+2))^p.
    pub step_size: f64,
    /// p, at least 0; 0 is a constant step size.
    pub step_decay: f64,
    /// Subtracted from returns: `none`, `time` (a number for every step) or `linear` (in features of observation and time).
    pub baseline: BaselineKind,
    /// Weigh the step at time t by γᵗ, as the gradient of the discounted return wants; otherwise all steps alike, which is no
    /// function's gradient.
    pub discount_state_weighting: bool,
    /// Widths of the hidden layers; [] is a linear policy.
    pub hidden_sizes: Vec<usize>,
    /// Between the layers: `tanh`, `relu`, `elu` or `silu`.
    pub activation: Activation,
    /// Orthogonal weights with gains √2 and 0.01 (output), biases 0; otherwise uniform ±1/√inputs.
    pub orthogonal_init: bool,
    /// ln σ of the Gaussian at the start.
    pub log_std_init: f64,
    /// ln σ is learnt, a parameter for each action component; otherwise it stays, as the theory has it.
    pub learn_std: bool,
    /// Lower bound on a learnt ln σ.
    pub min_log_std: f64,
    /// Clip actions to the box for the environment; the unclipped action is scored.
    pub clip_actions: bool,
    /// Episodes, an even number, that measure the error of the direction; they count as evaluation. 0 measures nothing.
    pub probe_trajectories: usize,
    /// Iterations between such measurements.
    pub probe_every: u64,
}

impl Default for TrajectoryConfig {
    fn default() -> TrajectoryConfig {
        TrajectoryConfig {
            trajectories: 10,
            first_batch: 1,
            gamma: 0.99,
            step_size: 0.1,
            step_decay: 1.0,
            baseline: BaselineKind::Time,
            discount_state_weighting: true,
            hidden_sizes: vec![64, 64],
            activation: Activation::Tanh,
            orthogonal_init: true,
            log_std_init: 0.0,
            learn_std: true,
            min_log_std: -13.8,
            clip_actions: true,
            probe_trajectories: 0,
            probe_every: 10,
        }
    }
}

impl TrajectoryConfig {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), LearnError> {
        check::count("trajectories", self.trajectories)?;
        check::count("first_batch", self.first_batch)?;
        check::fraction("gamma", self.gamma, "a discount")?;
        check::positive("step_size", self.step_size, "0.1")?;
        check::weight("step_decay", self.step_decay, "1")?;
        check::finite("log_std_init", self.log_std_init, "0")?;
        check::finite("min_log_std", self.min_log_std, "-13.8")?;
        let rule = "at least min_log_std";
        check::rule(self.log_std_init >= self.min_log_std, "log_std_init", self.log_std_init, rule)?;
        let even = self.probe_trajectories.is_multiple_of(2);
        check::rule(even, "probe_trajectories", self.probe_trajectories, "an even number: two halves are compared")?;
        check::count("probe_every", self.probe_every as usize)?;
        let widths = format!("{:?}", self.hidden_sizes);
        let rule = "widths of at least 1, as [64, 64], or none for a linear policy";
        check::rule(self.hidden_sizes.iter().all(|&w| w > 0), "hidden_sizes", widths, rule)
    }

    fn shape(&self) -> NetworkShape {
        NetworkShape {
            hidden_sizes: self.hidden_sizes.clone(),
            activation: self.activation,
            separate: true,
            orthogonal_init: self.orthogonal_init,
            log_std_init: self.log_std_init,
            state_dependent_std: false,
            device: Device::Cpu,
        }
    }
}

/// Settings of the running mean of gradients: d_t = (1 − η_t) d_{t−1} + η_t g_t in the plainest case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct MomentumConfig {
    /// η₀ of the newest gradient's weight η_t = η₀ (2/(t+2))^q, in (0, 1].
    pub momentum: f64,
    /// q, at least 0; 0 is a constant weight, and with η₀ = 1 the newest gradient is all there is.
    pub momentum_decay: f64,
}

impl Default for MomentumConfig {
    fn default() -> MomentumConfig {
        MomentumConfig { momentum: 1.0, momentum_decay: 0.8 }
    }
}

impl MomentumConfig {
    /// Refuses values that cannot work.
    pub fn validate(&self) -> Result<(), LearnError> {
        let rule = "the newest gradient's weight lies above 0 and up to 1";
        check::rule(self.momentum > 0.0 && self.momentum <= 1.0, "momentum", self.momentum, rule)?;
        check::weight("momentum_decay", self.momentum_decay, "0.8")
    }

    /// η_t.
    pub fn at(&self, t: u64) -> f64 {
        decayed(self.momentum, self.momentum_decay, t)
    }
}

/// first (2/(t+2))^power.
pub fn decayed(first: f64, power: f64, t: u64) -> f64 {
    first * (2.0 / (t as f64 + 2.0)).powf(power)
}

/// What all of these agents log, and more.
macro_rules! metrics {
    ($($more:expr),*) => {
        &[
            ("train/grad_norm", "norm of the iteration's estimate of the gradient"),
            ("train/direction_norm", "norm of the direction, the running mean of gradients"),
            ("train/cosine", "cosine of the angle between that estimate and the direction"),
            ("train/step_size", "step size in this iteration"),
            ("train/explained_variance", "1 − Var(returns − baseline) / Var(returns) of the gradient's episodes, before the baseline learnt from them"),
            ("train/skipped", "iterations since the start that made no step, since the direction had no length"),
            ("train/std", "mean standard deviation of the policy"),
            ("train/direction_error", "squared distance from the direction to the gradient, unbiased, where it is measured"),
            ("train/true_grad_square", "squared norm of the gradient, unbiased, where it is measured"),
            ("train/true_grad_along", "inner product of direction and gradient, unbiased, where it is measured"),
            $($more),*
        ]
    };
}
pub(crate) use metrics;

/// Where gradients come from.
pub trait Oracle: Send {
    /// An estimate of ∇J at `x`, from fresh episodes of the policy there.
    fn gradient(&mut self, x: &[f64]) -> Result<Vec<f64>, LearnError>;

    /// An estimate of ∇²J(y) v, from fresh episodes of the policy at `y`.
    fn hessian_product(&mut self, y: &[f64], v: &[f64]) -> Result<Vec<f64>, LearnError>;

    /// Estimates of ∇J at `x` and at `old` from the same fresh episodes of the policy at `x`.
    fn gradients(&mut self, x: &[f64], old: &[f64]) -> Result<[Vec<f64>; 2], LearnError>;
}

/// An algorithm: how estimates become a direction.
pub trait Method: Send {
    /// d_t, to ascend along; what it draws comes from `rng`, and what else there is to log goes into `metrics`.
    ///
    /// # Errors
    /// The oracle's.
    fn direction(
        &self,
        oracle: &mut dyn Oracle,
        at: &Iterates,
        rng: &mut NumpyRng,
        metrics: &mut Metrics,
    ) -> Result<Direction, LearnError>;

    /// Whether a step is as long as the step size says, rather than |d_t| times that.
    fn normalized(&self) -> bool;
}

/// What an iteration found.
#[derive(Clone, Debug, PartialEq)]
pub struct Direction {
    /// The gradient estimated in this iteration.
    pub gradient: Vec<f64>,
    /// d_t.
    pub direction: Vec<f64>,
}

/// Where an algorithm stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Iterates {
    /// Updates so far, t.
    pub t: u64,
    /// θ_t.
    pub theta: Vec<f64>,
    /// θ_{t−1}; θ_0 at the start.
    pub previous: Vec<f64>,
    /// d_{t−1}; 0 at the start.
    pub direction: Vec<f64>,
}

impl Iterates {
    /// At the start.
    pub fn new(theta: Vec<f64>) -> Iterates {
        Iterates { t: 0, previous: theta.clone(), direction: vec![0.0; theta.len()], theta }
    }

    /// θ_t − θ_{t−1}.
    pub fn last_step(&self) -> Vec<f64> {
        combine(&self.theta, 1.0, &self.previous, -1.0)
    }

    /// θ_t + k (θ_t − θ_{t−1}).
    pub fn beyond(&self, k: f64) -> Vec<f64> {
        self.theta.iter().zip(&self.previous).map(|(x, previous)| x + k * (x - previous)).collect()
    }

    /// θ_{t+1} = θ_t + γ_t d_t, or γ_t d_t/|d_t| if `normalized`; a direction of length 0 stays where it is.
    pub fn advance(&mut self, direction: Vec<f64>, step_size: f64, normalized: bool) {
        let length = norm(&direction);
        let factor = match normalized {
            true if length == 0.0 => 0.0,
            true => step_size / length,
            false => step_size,
        };
        let next = combine(&self.theta, 1.0, &direction, factor);
        self.previous = std::mem::replace(&mut self.theta, next);
        self.direction = direction;
        self.t += 1;
    }
}

/// a x + b y.
pub fn combine(x: &[f64], a: f64, y: &[f64], b: f64) -> Vec<f64> {
    x.iter().zip(y).map(|(x, y)| a * x + b * y).collect()
}

/// The inner product.
pub fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// The Euclidean norm.
pub fn norm(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

/// An agent in training, whose algorithm is `M`.
pub struct TrajectoryGradient<M> {
    method: M,
    sampler: Sampler,
    iterates: Iterates,
    /// The policy that is judged: θ_t in single precision.
    params: Vec<f32>,
    /// What the algorithm draws from.
    rng: NumpyRng,
    progress: Progress,
    skipped: u64,
    skipped_in_a_row: u32,
    setup: Setup,
}

impl<M: Method> TrajectoryGradient<M> {
    /// A fresh policy.
    pub fn new(sampler: Sampler, method: M, setup: &Setup) -> TrajectoryGradient<M> {
        let (seed, Estimator { actor, config, .. }) = (Seed(setup.seed), &sampler.estimator);
        let params = actor.init(&config.shape(), &mut seed.stream("init", 0));
        TrajectoryGradient {
            iterates: Iterates::new(params.iter().map(|&p| p.into()).collect()),
            params,
            rng: seed.stream("method", 0),
            progress: Progress::default(),
            skipped: 0,
            skipped_in_a_row: 0,
            setup: setup.clone(),
            method,
            sampler,
        }
    }

    /// Where it stands.
    pub fn iterates(&self) -> &Iterates {
        &self.iterates
    }

    /// Starts from `theta` instead of random parameters.
    pub fn start_from(&mut self, theta: &[f64]) {
        self.params = single(theta);
        self.iterates = Iterates::new(theta.to_vec());
    }

    fn config(&self) -> &TrajectoryConfig {
        &self.sampler.estimator.config
    }

    fn log_std(&self) -> &[f32] {
        self.sampler.estimator.actor.log_std(&self.params)
    }

    /// θ_{t+1}, log standard deviations no smaller than their bound.
    fn advance(&mut self, direction: Vec<f64>, step_size: f64) {
        let (len, min) = (self.log_std().len(), self.config().min_log_std);
        self.iterates.advance(direction, step_size, self.method.normalized());
        let start = self.iterates.theta.len() - len;
        self.iterates.theta[start..].iter_mut().for_each(|s| *s = s.max(min));
        self.params = single(&self.iterates.theta);
        self.progress.grad_steps += 1;
        self.skipped_in_a_row = 0;
    }

    /// How far d_t is from the gradient at θ_t, in environments made for the purpose.
    fn measure(&self, direction: &[f64], metrics: &mut Metrics) -> Result<(), LearnError> {
        let seed = Seed(self.setup.seed).stream("probe", self.progress.iterations).next_u64() >> 32;
        let mut runner = Runner::new(&Setup { seed, ..self.setup.clone() })?;
        let [error, square, along] = self.sampler.estimator.probe(&mut runner, &self.iterates.theta, direction)?;
        metrics.add("train/direction_error", error);
        metrics.add("train/true_grad_square", square);
        metrics.add("train/true_grad_along", along);
        Ok(())
    }
}

impl<M: Method> Learner for TrajectoryGradient<M> {
    fn step(&mut self) -> Result<Report, LearnError> {
        let mut metrics = Metrics::default();
        let t = self.iterates.t;
        self.sampler.batch_factor = if t == 0 { self.config().first_batch } else { 1 };
        let found = self.method.direction(&mut self.sampler, &self.iterates, &mut self.rng, &mut metrics)?;
        let Direction { gradient, direction } = found;
        let played = self.sampler.finish();
        let (length, step_size) = (norm(&direction), decayed(self.config().step_size, self.config().step_decay, t));

        metrics.add("train/grad_norm", norm(&gradient));
        metrics.add("train/direction_norm", length);
        let lengths = norm(&gradient) * length;
        metrics.add("train/cosine", if lengths > 0.0 { dot(&gradient, &direction) / lengths } else { 0.0 });
        metrics.add("train/step_size", step_size);
        if self.config().baseline != BaselineKind::None {
            metrics.add("train/explained_variance", explained_variance(&played.predicted, &played.realized));
        }
        if let Some(ratio) = played.max_ratio {
            metrics.add("train/max_ratio", ratio);
        }
        let config = self.config();
        let due = config.probe_trajectories > 0 && self.progress.iterations.is_multiple_of(config.probe_every);
        if due && length.is_finite() {
            self.measure(&direction, &mut metrics)?;
        }

        self.progress.iterations += 1;
        self.progress.env_steps += played.episodes.iter().map(|episode| u64::from(episode.length)).sum::<u64>();
        self.progress.episodes += played.episodes.len() as u64;
        let mut warnings = self.sampler.runner.take_warnings();
        if length.is_finite() && (length > 0.0 || !self.method.normalized()) {
            self.advance(direction, step_size);
        } else {
            warnings.extend(self.skip(length)?);
        }
        metrics.add("train/skipped", self.skipped as f64);
        let log_std = self.log_std();
        if !log_std.is_empty() {
            let sum: f64 = log_std.iter().map(|&s| f64::from(s).exp()).sum();
            metrics.add("train/std", sum / log_std.len() as f64);
        }
        let mut report = Report { metrics, episodes: played.episodes, warnings, ..Default::default() };
        if self.setup.histograms {
            let actions = played.trajectories.iter().flat_map(|t| t.action.iter().copied()).collect();
            report.histograms.push(("rollout/action".into(), actions));
            report.histograms.push(("train/log_std".into(), self.log_std().to_vec()));
        }
        Ok(report)
    }

    fn progress(&self) -> Progress {
        self.progress
    }

    fn evaluate(&mut self, request: &EvalRequest) -> Result<Evaluation, LearnError> {
        let estimator = &self.sampler.estimator;
        evaluate(&estimator.at(self.params.clone()), &self.setup, request, &estimator.workers)
    }

    fn play(
        &mut self,
        request: &EvalRequest,
        keep: &mut dyn FnMut(&crate::evaluate::Played) -> Result<bool, LearnError>,
    ) -> Result<(), LearnError> {
        play(&self.sampler.estimator.at(self.params.clone()), &self.setup, request, keep)
    }

    fn save(&self) -> Snapshot {
        let mut snapshot = self.policy();
        let Iterates { t, theta, previous, direction } = &self.iterates;
        snapshot.put("theta", Array::F64(theta.clone()));
        snapshot.put("previous", Array::F64(previous.clone()));
        snapshot.put("direction", Array::F64(direction.clone()));
        self.sampler.estimator.baseline.save(&mut snapshot);
        self.sampler.runner.save(&mut snapshot);
        let counters = serde_json::json!([t, self.skipped, self.skipped_in_a_row]);
        snapshot.state.insert("updates".into(), counters);
        snapshot.state.insert("progress".into(), serde_json::json!(self.progress));
        snapshot.state.insert("method_stream".into(), self.rng.save().into());
        snapshot
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<Vec<String>, LearnError> {
        snapshot.f32_into("params", &mut self.params)?;
        snapshot.f64_into("theta", &mut self.iterates.theta)?;
        snapshot.f64_into("previous", &mut self.iterates.previous)?;
        snapshot.f64_into("direction", &mut self.iterates.direction)?;
        self.sampler.estimator.baseline.load(snapshot)?;
        (self.iterates.t, self.skipped, self.skipped_in_a_row) = snapshot.get("updates")?;
        self.progress = snapshot.get("progress")?;
        self.rng = load_stream(snapshot, "method_stream")?;
        Ok(self.sampler.runner.load(snapshot, self.progress.env_steps)?.into_iter().collect())
    }

    fn policy(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        snapshot.put("params", Array::F32(self.params.clone()));
        snapshot
    }

    fn policy_chain(&self) -> Option<PolicyChain> {
        let estimator = &self.sampler.estimator;
        let bounds = estimator.config.clip_actions.then_some(&estimator.action_space);
        Some(chain(&estimator.actor, &self.params, None, bounds))
    }
}

impl<M> TrajectoryGradient<M> {
    /// Leaves θ, d and t as they are, since `length` is no length to step by; a sentence for the first in a row.
    fn skip(&mut self, length: f64) -> Result<Option<String>, LearnError> {
        self.skipped += 1;
        self.skipped_in_a_row += 1;
        let Progress { iterations: iteration, env_steps, .. } = self.progress;
        if self.skipped_in_a_row >= PATIENCE && !length.is_finite() {
            return Err(LearnError::NonFinite {
                what: "the direction's length".into(),
                value: length,
                iteration,
                env_steps,
            });
        }
        if self.skipped_in_a_row >= PATIENCE && matches!(self.setup.budget, Budget::GradSteps(_)) {
            return Err(LearnError::Unsuitable(format!(
                "the direction has been 0 for {PATIENCE} iterations, and only steps count for budget.grad_steps: the run would not \
                 end; budget.env_steps ends it"
            )));
        }
        let first = self.skipped_in_a_row == 1;
        Ok(first.then(|| format!("iteration {iteration} made no step: the direction's length is {length}")))
    }
}

#[cfg(test)]
pub(crate) mod exact {
    use super::*;

    /// J = −Σ c_i θ_i²/2, without noise.
    pub(crate) struct Quadratic {
        curvature: Vec<f64>,
        /// The last point asked about.
        pub asked: Vec<f64>,
    }

    impl Quadratic {
        pub(crate) fn new(curvature: &[f64]) -> Quadratic {
            Quadratic { curvature: curvature.to_vec(), asked: Vec::new() }
        }
    }

    impl Oracle for Quadratic {
        fn gradient(&mut self, x: &[f64]) -> Result<Vec<f64>, LearnError> {
            self.asked = x.to_vec();
            Ok(x.iter().zip(&self.curvature).map(|(x, c)| -c * x).collect())
        }

        fn hessian_product(&mut self, y: &[f64], v: &[f64]) -> Result<Vec<f64>, LearnError> {
            let product = self.gradient(v);
            self.asked = y.to_vec();
            product
        }

        fn gradients(&mut self, x: &[f64], old: &[f64]) -> Result<[Vec<f64>; 2], LearnError> {
            Ok([self.gradient(x)?, self.gradient(old)?])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_as_long_as_the_step_size_or_that_times_the_direction() {
        for (normalized, theta) in [(false, 2.5), (true, 1.5)] {
            let mut at = Iterates::new(vec![1.0]);
            at.advance(vec![3.0], 0.5, normalized);
            assert_eq!((at.theta, at.previous, at.direction, at.t), (vec![theta], vec![1.0], vec![3.0], 1));
        }
    }
}
