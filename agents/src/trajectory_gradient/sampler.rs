//! An [`Oracle`] that plays episodes: estimates of the gradient, of Hessian-vector products and of the gradient elsewhere.

use bregman_envs::rng::NumpyRng;
use bregman_envs::{ActionSpace, Episode};

use super::{Oracle, TrajectoryConfig, combine, dot};
use crate::actor::{Actor, PolicyRows, RowScratch};
use crate::baseline::Baseline;
use crate::learner::{LearnError, Setup};
use crate::rollout::{Act, Runner};
use crate::score::{HessianEstimator, Score, Trajectory, returns_to_go, reweighted, weights};
use crate::workers::Workers;

/// The policy of a point in parameter space.
pub(super) struct At<'a> {
    actor: &'a Actor,
    params: Vec<f32>,
    action_space: &'a ActionSpace,
    clip_actions: bool,
}

impl At<'_> {
    fn row<'a>(&'a self, seen: &[f32], scratch: &'a mut RowScratch) -> PolicyRows<'a> {
        self.actor.forward_row(&self.params, seen, scratch)
    }
}

impl Act for At<'_> {
    type Scratch = RowScratch;

    fn see(&self, obs: &[f64], seen: &mut [f32]) {
        seen.iter_mut().zip(obs).for_each(|(y, &x)| *y = x as f32);
    }

    fn sample(&self, seen: &[f32], rng: &mut NumpyRng, scratch: &mut RowScratch, action: &mut [f32]) -> f32 {
        let (output, log_std) = self.row(seen, scratch).head(0);
        self.actor.dist.sample(output, log_std, rng, action)
    }

    fn mode(&self, seen: &[f32], scratch: &mut RowScratch, action: &mut [f32]) {
        self.actor.dist.mode(self.row(seen, scratch).head(0).0, action);
    }

    fn bound(&self, action: &mut [f32]) {
        if self.clip_actions {
            self.action_space.clip(action);
        }
    }
}

/// How Hessian-vector products are estimated, where an algorithm asks for them.
#[derive(Clone, Copy, Debug)]
pub struct Curvature {
    /// The estimator.
    pub estimator: HessianEstimator,
    /// Whole episodes behind every product.
    pub trajectories: usize,
}

/// An [`Oracle`] that plays episodes.
pub struct Sampler {
    pub(super) estimator: Estimator,
    curvature: Option<Curvature>,
    pub(super) runner: Runner,
    /// Times `trajectories` in the next gradient.
    pub(super) batch_factor: usize,
    played: Played,
}

/// What makes estimates of episodes.
pub(super) struct Estimator {
    pub(super) config: TrajectoryConfig,
    /// Bound on importance ratios, if there is one.
    max_ratio: Option<f64>,
    pub(super) actor: Actor,
    score: Score,
    pub(super) action_space: ActionSpace,
    pub(super) baseline: Baseline,
    pub(super) workers: Workers,
}

/// What an iteration played.
#[derive(Default)]
pub(super) struct Played {
    pub(super) trajectories: Vec<Trajectory<f32>>,
    returns: Vec<Vec<f64>>,
    pub(super) episodes: Vec<Episode>,
    /// The baseline's predictions and the returns of the gradient's trajectories.
    pub(super) predicted: Vec<f32>,
    pub(super) realized: Vec<f32>,
    pub(super) max_ratio: Option<f64>,
}

/// Episodes with their returns to go and the baseline's predictions, and what the lanes say of them.
struct Batch {
    trajectories: Vec<Trajectory<f32>>,
    returns: Vec<Vec<f64>>,
    predicted: Vec<Vec<f64>>,
    episodes: Vec<Episode>,
}

impl Estimator {
    pub(super) fn at(&self, params: Vec<f32>) -> At<'_> {
        let (actor, action_space) = (&self.actor, &self.action_space);
        At { actor, params, action_space, clip_actions: self.config.clip_actions }
    }

    /// Plays `count` episodes of the policy at `params`.
    fn play(&self, runner: &mut Runner, params: &[f32], count: usize) -> Result<Batch, LearnError> {
        let (trajectories, episodes) = runner.trajectories(&self.at(params.to_vec()), count, &self.workers)?;
        let returns = trajectories.iter().map(|t| returns_to_go(&t.reward, self.config.gamma)).collect();
        let predicted = trajectories.iter().map(|t| self.baseline.predict(t)).collect();
        Ok(Batch { trajectories, returns, predicted, episodes })
    }

    /// w_t of every trajectory.
    fn weights(&self, returns: &[Vec<f64>], predicted: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let (gamma, from_start) = (self.config.gamma, self.config.discount_state_weighting);
        returns.iter().zip(predicted).map(|(r, b)| weights(r, b, gamma, from_start)).collect()
    }

    fn gradient(&self, params: &[f32], batch: &Batch) -> Vec<f64> {
        let weights = self.weights(&batch.returns, &batch.predicted);
        self.score.gradient(params, &batch.trajectories, &weights, &self.workers)
    }

    fn hessian_product(&self, estimator: HessianEstimator, params: &[f32], v: &[f32], batch: &Batch) -> Vec<f64> {
        let weights = self.weights(&batch.returns, &batch.predicted);
        self.score.hessian_product(estimator, params, v, &batch.trajectories, &weights, &self.workers)
    }

    /// The gradient at `params` from episodes of another policy, and the largest importance ratio.
    fn weighted_gradient(&self, params: &[f32], batch: &Batch) -> (Vec<f64>, f64) {
        let mut ratios = self.score.importance(params, &batch.trajectories, &self.workers);
        let largest = ratios.iter().flatten().fold(0.0f64, |max, &ratio| max.max(ratio));
        if let Some(max) = self.max_ratio {
            ratios.iter_mut().flatten().for_each(|ratio| *ratio = ratio.min(max));
        }
        let (gamma, from_start) = (self.config.gamma, self.config.discount_state_weighting);
        let rows = batch.trajectories.iter().zip(&batch.predicted).zip(&ratios);
        let weights: Vec<_> = rows.map(|((t, b), ratio)| reweighted(&t.reward, b, ratio, gamma, from_start)).collect();
        (self.score.gradient(params, &batch.trajectories, &weights, &self.workers), largest)
    }

    /// Measures |d − ∇J(θ)|², |∇J(θ)|² and ⟨d, ∇J(θ)⟩ without bias, by two independent estimates of the gradient.
    pub(super) fn probe(&self, runner: &mut Runner, theta: &[f64], direction: &[f64]) -> Result<[f64; 3], LearnError> {
        let (params, half) = (single(theta), self.config.probe_trajectories / 2);
        let mut estimate = || Ok::<_, LearnError>(self.gradient(&params, &self.play(runner, &params, half)?));
        let [first, second] = [estimate()?, estimate()?];
        let off = |estimate: &[f64]| combine(direction, 1.0, estimate, -1.0);
        let along = 0.5 * (dot(direction, &first) + dot(direction, &second));
        Ok([dot(&off(&first), &off(&second)), dot(&first, &second), along])
    }
}

impl Sampler {
    /// In fresh environments.
    ///
    /// # Errors
    /// Settings out of range, an environment that cannot be made or whose episodes have no limit.
    pub fn new(config: TrajectoryConfig, setup: &Setup) -> Result<Sampler, LearnError> {
        config.validate()?;
        setup.on_processor()?;
        let spec = setup.envs.make(&setup.env)?.spec().clone();
        let Some(horizon) = spec.max_episode_steps else {
            return Err(LearnError::Unsuitable(format!(
                "`{}` has no time limit, and whole episodes are asked for: set env.max_episode_steps",
                spec.id
            )));
        };
        let actor = Actor::new(&spec, &config.shape());
        let estimator = Estimator {
            score: Score::new(&actor, config.learn_std),
            baseline: Baseline::new(config.baseline, spec.obs_dim, horizon as usize),
            workers: Workers::new(setup.threads)?,
            actor,
            action_space: spec.action_space,
            max_ratio: None,
            config,
        };
        let (runner, played) = (Runner::new(setup)?, Played::default());
        Ok(Sampler { estimator, curvature: None, runner, batch_factor: 1, played })
    }

    /// With Hessian-vector products.
    pub fn with_curvature(self, curvature: Curvature) -> Sampler {
        Sampler { curvature: Some(curvature), ..self }
    }

    /// With importance ratios bounded, if there is a bound.
    pub fn with_max_ratio(mut self, max_ratio: Option<f64>) -> Sampler {
        self.estimator.max_ratio = max_ratio;
        self
    }

    /// Which parameters are learnt.
    pub fn learnt(&self) -> Vec<bool> {
        let Estimator { score, actor, config, .. } = &self.estimator;
        let net = score.num_params() - actor.dist.num_log_stds();
        (0..score.num_params()).map(|i| i < net || config.learn_std).collect()
    }

    /// Plays episodes for the next gradient of the run.
    fn gradient_batch(&mut self, params: &[f32]) -> Result<Batch, LearnError> {
        let count = self.estimator.config.trajectories * self.batch_factor;
        let batch = self.estimator.play(&mut self.runner, params, count)?;
        let flat = |rows: &[Vec<f64>]| rows.iter().flatten().map(|&x| x as f32).collect();
        (self.played.predicted, self.played.realized) = (flat(&batch.predicted), flat(&batch.returns));
        Ok(batch)
    }

    /// Counts a batch, and keeps it for the baseline to learn from.
    fn keep(&mut self, batch: Batch) {
        self.played.trajectories.extend(batch.trajectories);
        self.played.returns.extend(batch.returns);
        self.played.episodes.extend(batch.episodes);
    }

    /// Ends an iteration: the baseline learns from what was played, for those to come.
    pub(super) fn finish(&mut self) -> Played {
        let played = std::mem::take(&mut self.played);
        self.estimator.baseline.fit(&played.trajectories, &played.returns);
        played
    }
}

impl Oracle for Sampler {
    fn gradient(&mut self, x: &[f64]) -> Result<Vec<f64>, LearnError> {
        let params = single(x);
        let batch = self.gradient_batch(&params)?;
        let gradient = self.estimator.gradient(&params, &batch);
        self.keep(batch);
        Ok(gradient)
    }

    fn hessian_product(&mut self, y: &[f64], v: &[f64]) -> Result<Vec<f64>, LearnError> {
        let Some(Curvature { estimator, trajectories }) = self.curvature else {
            return Err(LearnError::Unsuitable("this agent estimates no Hessian-vector products".into()));
        };
        let (params, v) = (single(y), single(v));
        let batch = self.estimator.play(&mut self.runner, &params, trajectories)?;
        let product = self.estimator.hessian_product(estimator, &params, &v, &batch);
        self.keep(batch);
        Ok(product)
    }

    fn gradients(&mut self, x: &[f64], old: &[f64]) -> Result<[Vec<f64>; 2], LearnError> {
        let params = single(x);
        let batch = self.gradient_batch(&params)?;
        let gradient = self.estimator.gradient(&params, &batch);
        let (before, largest) = self.estimator.weighted_gradient(&single(old), &batch);
        self.played.max_ratio = Some(largest);
        self.keep(batch);
        Ok([gradient, before])
    }
}

/// A kind of estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Estimate {
    /// The gradient.
    Gradient,
    /// The Hessian's product with a vector.
    HessianProduct,
    /// The gradient at a point from another point's episodes, by importance weights.
    Reweighted,
}

/// The estimates of an agent, to be looked at by themselves.
pub struct Estimates {
    /// Which there are.
    pub kinds: &'static [Estimate],
    /// The discount of the return whose derivatives they estimate.
    pub gamma: f64,
    /// Which parameters are learnt; estimates are 0 in the others.
    pub learnt: Vec<bool>,
    sampler: Sampler,
}

impl Estimates {
    /// Of a linear policy, whatever network the settings name.
    ///
    /// # Errors
    /// [`Sampler::new`]'s.
    pub fn of_linear_policy(
        config: TrajectoryConfig,
        kinds: &'static [Estimate],
        setup: &Setup,
        complete: impl FnOnce(Sampler) -> Sampler,
    ) -> Result<Estimates, LearnError> {
        let gamma = config.gamma;
        let sampler = complete(Sampler::new(TrajectoryConfig { hidden_sizes: Vec::new(), ..config }, setup)?);
        Ok(Estimates { kinds, gamma, learnt: sampler.learnt(), sampler })
    }

    /// One estimate at `x`: of the gradient there; of the Hessian's product with `v`; of the gradient at x + v/10 from
    /// episodes at x. The baseline then learns from its episodes, for the next.
    pub fn draw(&mut self, kind: Estimate, x: &[f64], v: &[f64]) -> Result<Vec<f64>, LearnError> {
        let estimate = match kind {
            Estimate::Gradient => self.sampler.gradient(x),
            Estimate::HessianProduct => self.sampler.hessian_product(x, v),
            Estimate::Reweighted => self.sampler.gradients(x, &Estimates::elsewhere(x, v)).map(|[_, other]| other),
        };
        self.sampler.finish();
        estimate
    }

    /// x + v/10.
    pub fn elsewhere(x: &[f64], v: &[f64]) -> Vec<f64> {
        combine(x, 1.0, v, 0.1)
    }

    /// Episodes behind an estimate.
    pub fn trajectories(&self, kind: Estimate) -> usize {
        match (kind, &self.sampler.curvature) {
            (Estimate::HessianProduct, Some(curvature)) => curvature.trajectories,
            _ => self.sampler.estimator.config.trajectories,
        }
    }
}

/// In single precision.
pub(super) fn single(x: &[f64]) -> Vec<f32> {
    x.iter().map(|&x| x as f32).collect()
}

#[cfg(test)]
mod regulator;
