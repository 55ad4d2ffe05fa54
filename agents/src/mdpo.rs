//! Mirror descent policy optimisation, on-policy (Tomar et al. 2022, arXiv:2005.09814).
//!
//! One iteration gathers a rollout under π_k and takes m full-batch steps on the linearised objective with a proximity term,
//! E[ratio · A] − KL(π ‖ π_k)/t_k: the new policy first, in closed form, and no clipping of the ratio. The value function is
//! fitted beside it.
//!
//! Departures from the released code (github.com/manantomar/Mirror-Descent-Policy-Optimization, c9bd3ba): the old policy is
//! the policy that acted from the first iteration on, where the code starts from two independent networks; a time limit
//! bootstraps; t_k never reaches 0 (the code's schedule divides by 0 in runs shorter than a rollout and turns negative after
//! the planned end); the KL weight is that of the settings, where the code ignores its argument; value minibatches keep the
//! last, smaller one; advantages are standardised with the sample deviation. The code's Tsallis branch has no importance
//! weights and is not a Bregman divergence's gradient: it is left out, as the paper tests none on-policy.

use bregman_envs::rng::Seed;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::actor::PolicyRows;
use crate::check;
use crate::full_batch::Row;
use crate::inner::InnerConfig;
use crate::learner::{Budget, LearnError, Learner, Metrics, Setup, Snapshot};
use crate::mirror::{METRICS, MirrorStep};
use crate::on_policy::{Agent, Batch, OnPolicy, OnPolicyConfig, Update};
use crate::registry::{AgentConfig, AgentEntry, Part};
use crate::value::ValueConfig;

/// Settings of [`Mdpo`]; defaults from the paper, with what it leaves open from the released code.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct MdpoConfig {
    /// What on-policy agents share.
    #[serde(flatten)]
    pub common: OnPolicyConfig,
    /// The m steps on the surrogate.
    #[serde(flatten)]
    pub inner: InnerConfig,
    /// The value function.
    #[serde(flatten)]
    pub critic: ValueConfig,
    /// t at the start: the proximity term has the weight 1/t. Advantages of unit variance make it free of scale.
    pub step_size: f64,
    /// How t goes on: `linear` (the paper), `released` (the released code), `constant` or `adaptive`.
    pub step_size_schedule: StepSizeSchedule,
    /// `adaptive`: t is halved after an iteration whose KL exceeds 1.5 times this, and doubled where 1.5 times the KL is less,
    /// between a thousandth and a thousand times `step_size`.
    pub target_kl: f64,
    /// Weight of the entropy bonus.
    pub ent_coef: f64,
}

/// How the step size t_k of mirror descent goes on, in an iteration k of K.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StepSizeSchedule {
    /// t (1 − k/K), at least t/K.
    Linear,
    /// t (1 − (k − 1)/K), at least t/K: the released code's count starts one early.
    Released,
    /// t.
    Constant,
    /// Doubled and halved to keep the KL near its target (Schulman et al. 2017, Section 4, for their penalty's weight).
    Adaptive,
}

impl Default for MdpoConfig {
    fn default() -> MdpoConfig {
        MdpoConfig {
            common: OnPolicyConfig::default(),
            inner: InnerConfig { inner_steps: 10, learning_rate: 3e-4, adam_eps: 1e-5, ..Default::default() },
            critic: ValueConfig {
                vf_learning_rate: 3e-4,
                vf_adam_eps: 1e-8,
                vf_epochs: 5,
                vf_batch_size: 128,
                ..Default::default()
            },
            step_size: 1.0,
            step_size_schedule: StepSizeSchedule::Linear,
            target_kl: 0.01,
            ent_coef: 0.0,
        }
    }
}

/// MDPO's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<MdpoConfig>(
    "mdpo",
    "mirror descent policy optimisation, on-policy: m steps on the linearised objective with a KL proximity term",
    METRICS,
)
.console(&["train/kl", "train/explained_variance"]);

impl AgentConfig for MdpoConfig {
    const PARTS: &'static [Part] =
        &[Part::of::<OnPolicyConfig>("common"), Part::of::<InnerConfig>("inner"), Part::of::<ValueConfig>("critic")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate_full_batch()?;
        self.inner.validate()?;
        self.critic.validate()?;
        check::positive("step_size", self.step_size, "1")?;
        check::positive("target_kl", self.target_kl, "0.01")?;
        check::finite("ent_coef", self.ent_coef, "0")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Mdpo::learner(self, setup)?))
    }
}

/// On-policy mirror descent policy optimisation.
pub struct Mdpo {
    config: MdpoConfig,
    mirror: MirrorStep,
    /// t of the adaptive schedule.
    adapted: f64,
}

impl Mdpo {
    /// Fresh networks in fresh environments.
    ///
    /// # Errors
    /// Settings out of range, or an environment that cannot be made.
    pub fn learner(config: MdpoConfig, setup: &Setup) -> Result<OnPolicy<Mdpo>, LearnError> {
        config.validate()?;
        let rows = config.common.num_steps * setup.env.num_envs;
        OnPolicy::new(config.common.clone(), true, setup, |model| {
            let (inner, critic) = (config.inner.clone(), config.critic.clone());
            let mirror = MirrorStep::new(inner, critic, model, rows, Seed(setup.seed));
            Mdpo { mirror, adapted: config.step_size, config }
        })
    }

    /// t_k.
    fn step_size(&self, agent: &Agent, rows: usize) -> f64 {
        let budget = agent.setup.budget;
        let per_iteration = match budget {
            Budget::EnvSteps(_) => rows,
            Budget::GradSteps(_) => self.mirror.inner_steps(),
        };
        let iterations = budget.total() / per_iteration as u64;
        match self.config.step_size_schedule {
            StepSizeSchedule::Adaptive => self.adapted,
            schedule => self.config.step_size * schedule.factor(agent.progress.iterations, iterations),
        }
    }
}

impl StepSizeSchedule {
    /// t_k / t_0 in iteration `k` of `iterations`, counted from 0; never 0, however long a run goes on.
    pub fn factor(self, k: u64, iterations: u64) -> f64 {
        let total = iterations.max(1) as f64;
        let linear = |k: f64| (1.0 - k / total).max(1.0 / total);
        match self {
            StepSizeSchedule::Linear => linear(k as f64),
            StepSizeSchedule::Released => linear(k as f64 - 1.0),
            StepSizeSchedule::Constant | StepSizeSchedule::Adaptive => 1.0,
        }
    }
}

impl Update for Mdpo {
    fn update(&mut self, agent: &mut Agent, batch: &Batch) -> Result<Metrics, LearnError> {
        let step_size = self.step_size(agent, batch.steps.len());
        let (weight, ent_coef) = ((1.0 / step_size) as f32, self.config.ent_coef as f32);
        let metrics = self.mirror.update(agent, batch, step_size, |row, old| surrogate(row, old, weight, ent_coef))?;
        let kl = metrics.get("train/kl").unwrap_or_default();
        let t = self.config.step_size;
        self.adapted = adapt(self.adapted, kl, self.config.target_kl).clamp(1e-3 * t, 1e3 * t);
        Ok(metrics)
    }

    fn save(&self, snapshot: &mut Snapshot) {
        self.mirror.save(snapshot);
        snapshot.state.insert("step_size".into(), self.adapted.into());
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.mirror.load(snapshot)?;
        self.adapted = snapshot.get("step_size")?;
        Ok(())
    }
}

/// A row's −ratio · A + `weight` · KL(π ‖ π_k) − `ent_coef` · H, to be minimised: the objective of the paper's mirror step
/// with its expectation over π taken by importance weights, `weight` = 1/t_k.
fn surrogate(row: &mut Row<'_, '_>, old: &PolicyRows<'_>, weight: f32, ent_coef: f32) -> f32 {
    let objective = row.log_ratio().exp() * row.advantage();
    row.add(-objective, -ent_coef);
    row.add_kl(old, weight);
    -objective + weight * row.kl(old) - ent_coef * row.entropy()
}

/// The adaptive schedule's next t.
fn adapt(step_size: f64, kl: f64, target_kl: f64) -> f64 {
    if kl > 1.5 * target_kl {
        step_size / 2.0
    } else if 1.5 * kl < target_kl {
        step_size * 2.0
    } else {
        step_size
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::full_batch::FullBatch;
    use crate::full_batch::exact::{alone, categorical, close, gaussian, integral, softmax, sum};
    use crate::inner::{InnerLoop, InnerOptimizer};
    use crate::{actor::Actor, on_policy::Batch};

    /// Gradient descent on the surrogate until it stands still.
    fn solved(start: (Actor, Vec<f32>), batch: &Batch, step_size: f32) -> Vec<f32> {
        solved_with(start, batch, step_size, 0.0)
    }

    fn solved_with((actor, params): (Actor, Vec<f32>), batch: &Batch, step_size: f32, ent_coef: f32) -> Vec<f32> {
        let config = InnerConfig { inner_steps: 300, inner_optimizer: InnerOptimizer::Armijo, ..Default::default() };
        let (mut room, workers, mut solution) = (FullBatch::new(&actor, batch.steps.len()), alone(), params.clone());
        let mut policy = room.of(&actor, batch, &workers);
        let old = policy.freeze(&params);
        InnerLoop::new(config, params.len()).minimize(&mut solution, 1.0, |params, grad| {
            policy.mean(params, |row| [f64::from(surrogate(row, &old.rows(), 1.0 / step_size, ent_coef))], grad)[0]
        });
        solution
    }

    #[test]
    fn the_divergence_has_the_new_policy_first() {
        // π_k = N(0, 1), A = −(a − 1)²/2, t = 1: precision 1 + t = 2 and mean t/2. The other direction has 0.408 and 0.831.
        let solution = solved(gaussian(0.0, 1.0), &integral(|a| -(a - 1.0).powi(2) / 2.0), 1.0);
        close(&[solution[1], solution[2].exp()], &[0.5, 0.5f32.sqrt()], 1e-3);
        // From N(0, 1/2) with t = 2: precision 4 + 2, mean 2/6.
        let solution = solved(gaussian(0.0, 0.5), &integral(|a| -(a - 1.0).powi(2) / 2.0), 2.0);
        close(&[solution[1], solution[2].exp()], &[1.0 / 3.0, 6.0f32.powf(-0.5)], 1e-3);
    }

    #[test]
    fn the_tabular_solution_is_the_exponentiated_one() {
        // p exp(tA)/norm: e/(e + 1/e).
        let solution = solved(categorical(&[0.5, 0.5]), &sum(&[1.0, -1.0]), 1.0);
        close(&softmax(&solution[2..]), &[0.880_797, 0.119_203], 1e-4);
        let solution = solved(categorical(&[0.5, 0.3, 0.2]), &sum(&[0.4, -0.6, -0.1]), 0.5);
        close(&softmax(&solution[3..]), &[0.596_859, 0.217_208, 0.185_934], 1e-4);
    }

    #[test]
    fn an_entropy_bonus_flattens_the_solution() {
        // ln π = (t A + ln p)/(1 + t c): at A = 0 and t c = 1 the roots of p.
        let solution = solved_with(categorical(&[0.5, 0.3, 0.2]), &sum(&[0.0; 3]), 2.0, 0.5);
        close(&softmax(&solution[3..]), &[0.415_444, 0.321_802, 0.262_750], 1e-4);
    }

    #[test]
    fn the_first_step_is_a_policy_gradient_step_of_bounded_length() {
        let (actor, params) = gaussian(0.3, 0.7);
        // Drawn evenly, but scored as if the policy had drawn them: ratios are 1.
        let mut batch = integral(|a| a.sin());
        batch.steps.log_prob =
            batch.steps.action.iter().map(|&a| actor.dist.log_prob(&[0.3], &[0.7f32.ln()], &[a])).collect();
        let (mut room, workers) = (FullBatch::new(&actor, 1000), alone());
        let mut policy = room.of(&actor, &batch, &workers);
        let old = policy.freeze(&params);
        let (mut ours, mut plain) = (vec![0.0; 3], vec![0.0; 3]);
        let term =
            |row: &mut Row<'_, '_>| [surrogate(row, &old.rows(), 1.0, 0.0), row.log_ratio(), row.kl(&old.rows())];
        let means = policy.mean(&params, |row| term(row).map(f64::from), Some(&mut ours));
        let vanilla = |row: &mut Row<'_, '_>| {
            row.add(-row.advantage(), 0.0);
            [0.0]
        };
        policy.mean(&params, vanilla, Some(&mut plain));
        close(&ours, &plain, 1e-6);
        assert_eq!(means[1..], [0.0, 0.0]);

        let mut moved = params.clone();
        let config = InnerConfig { inner_steps: 1, learning_rate: 3e-4, ..Default::default() };
        InnerLoop::new(config, 3).minimize(&mut moved, 1.0, |params, grad| {
            policy.mean(params, |row| [f64::from(surrogate(row, &old.rows(), 1.0, 0.0))], grad)[0]
        });
        let longest = moved.iter().zip(&params).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(longest > 2e-4 && longest <= 3e-4 * 1.001, "{longest}");
    }

    #[test]
    fn the_step_size_falls_and_never_vanishes() {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-10, "{a} is not {b}");
        let (linear, released) = (StepSizeSchedule::Linear, StepSizeSchedule::Released);
        // 10M steps in rollouts of 2048: 4882 whole ones.
        close(released.factor(0, 4882), 1.000_204_834_1);
        close(released.factor(1, 4882), 1.0);
        close(released.factor(4882, 4882), 0.000_204_834_1);
        close(linear.factor(0, 4882), 1.0);
        close(linear.factor(2441, 4882), 0.5);
        close(released.factor(488, 488), 0.002_049_180_3);
        // Beyond the plan, and in runs shorter than a rollout.
        close(linear.factor(9999, 4882), 1.0 / 4882.0);
        close(linear.factor(0, 0), 1.0);
        close(StepSizeSchedule::Constant.factor(7, 10), 1.0);
    }

    #[test]
    fn the_adaptive_step_size_follows_the_kl() {
        assert_eq!(adapt(1.0, 0.016, 0.01), 0.5);
        assert_eq!(adapt(1.0, 0.006, 0.01), 2.0);
        assert_eq!(adapt(1.0, 0.01, 0.01), 1.0);
    }
}
