//! Trust region policy optimisation (Schulman et al. 2015, arXiv:1502.05477).
//!
//! One iteration gathers a rollout under π_k and maximises E[ratio · A] subject to a mean KL of at most δ: conjugate gradients
//! solve (F + damping · I) x = g (Appendix C), the step √(2δ / xᵀ(F + damping · I)x) · x is the longest that the quadratic model
//! allows, and a backtracking line search over the whole rollout keeps the constraint and demands improvement. The value
//! function is fitted beside it. F v is Jᵀ M J v, from one tangent forwards and one gradient back.
//!
//! Beyond the paper: a time limit bootstraps. Where the gradient vanishes or a curvature is not positive the policy stays as it
//! is, to the bit, and the value function still learns.

use bregman_envs::rng::Seed;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::actor::PolicyRows;
use crate::check;
use crate::full_batch::{FullBatch, PolicyBatch, Row};
use crate::learner::{LearnError, Learner, Metrics, Setup, Snapshot};
use crate::on_policy::{Agent, Batch, OnPolicy, OnPolicyConfig, Update, explained_variance};
use crate::optim::grad_norm;
use crate::registry::{AgentConfig, AgentEntry, Part};
use crate::value::{ValueConfig, ValueFit};

/// Settings of [`Trpo`]; defaults from SB3-contrib.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct TrpoConfig {
    /// What on-policy agents share.
    #[serde(flatten)]
    pub common: OnPolicyConfig,
    /// The value function.
    #[serde(flatten)]
    pub critic: ValueConfig,
    /// Bound on the mean KL of a step, δ.
    pub target_kl: f64,
    /// Which KL is bounded: `old_new` (the paper) or `new_old` (SB3-contrib, Spinning Up); their second orders agree.
    pub kl_direction: KlDirection,
    /// The line search accepts a KL of up to this times δ; baselines has 1.5.
    pub kl_slack: f64,
    /// Conjugate-gradient steps, at most.
    pub cg_iterations: usize,
    /// Conjugate gradients stop where the squared norm of the residual falls below this, or below this part of the gradient's
    /// where that is below 1.
    pub cg_tolerance: f64,
    /// Multiple of the identity added to the Fisher information.
    pub cg_damping: f64,
    /// Steps that the line search tries, at most.
    pub line_search_steps: usize,
    /// Factor from one tried step to the next, in (0, 1).
    pub line_search_factor: f64,
}

/// The order of the two policies in the constraint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KlDirection {
    /// KL(old ‖ new).
    OldNew,
    /// KL(new ‖ old).
    NewOld,
}

impl Default for TrpoConfig {
    fn default() -> TrpoConfig {
        TrpoConfig {
            common: OnPolicyConfig::default(),
            critic: ValueConfig::default(),
            target_kl: 0.01,
            kl_direction: KlDirection::NewOld,
            kl_slack: 1.0,
            cg_iterations: 15,
            cg_tolerance: 1e-10,
            cg_damping: 0.1,
            line_search_steps: 10,
            line_search_factor: 0.8,
        }
    }
}

/// TRPO's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<TrpoConfig>(
    "trpo",
    "trust region policy optimisation: natural gradient steps of bounded KL with a line search",
    &[
        ("train/policy_objective", "mean of ratio × advantage over the rollout, after the update"),
        ("train/kl", "KL(new ‖ old), exact, mean over the rollout, after the update"),
        ("train/forward_kl", "KL(old ‖ new), exact, mean over the rollout, after the update"),
        ("train/entropy", "entropy of the policy, mean over the rollout, after the update"),
        ("train/policy_grad_norm", "norm of the policy's gradient"),
        ("train/cg_residual", "squared norm of what conjugate gradients left of the gradient"),
        ("train/cg_iterations", "conjugate-gradient steps taken"),
        ("train/line_search", "part of the longest step that the line search accepted; 0 where it refused all"),
        ("train/value_loss", "squared error of the value function in scaled units, mean over minibatches"),
        ("train/explained_variance", "1 − Var(returns − values) / Var(returns) of the rollout, before the update"),
        ("train/std", "mean standard deviation of the policy, where it is a free parameter"),
        ("train/n_updates", "optimiser steps since the start"),
    ],
)
.console(&["train/kl", "train/explained_variance"]);

impl AgentConfig for TrpoConfig {
    const PARTS: &'static [Part] = &[Part::of::<OnPolicyConfig>("common"), Part::of::<ValueConfig>("critic")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate_full_batch()?;
        self.critic.validate()?;
        check::positive("target_kl", self.target_kl, "0.01")?;
        check::positive("kl_slack", self.kl_slack, "1")?;
        check::count("cg_iterations", self.cg_iterations)?;
        check::weight("cg_tolerance", self.cg_tolerance, "1e-10")?;
        check::weight("cg_damping", self.cg_damping, "0.1")?;
        check::count("line_search_steps", self.line_search_steps)?;
        let factor = self.line_search_factor;
        check::rule(factor > 0.0 && factor < 1.0, "line_search_factor", factor, "a number between 0 and 1")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Trpo::learner(self, setup)?))
    }
}

/// Trust region policy optimisation.
pub struct Trpo {
    config: TrpoConfig,
    value_fit: ValueFit,
    full_batch: FullBatch,
}

/// What became of a policy step.
#[derive(Clone, Copy, Debug, Default)]
struct Step {
    grad_norm: f64,
    residual: f64,
    iterations: usize,
    /// Part of the longest step that was taken; 0 for none.
    taken: f64,
    /// Objective, KL(new ‖ old), KL(old ‖ new) and entropy afterwards.
    after: [f64; 4],
}

impl Trpo {
    /// Fresh networks in fresh environments.
    ///
    /// # Errors
    /// Settings out of range, or an environment that cannot be made.
    pub fn learner(config: TrpoConfig, setup: &Setup) -> Result<OnPolicy<Trpo>, LearnError> {
        config.validate()?;
        let rows = config.common.num_steps * setup.env.num_envs;
        OnPolicy::new(config.common.clone(), true, setup, |model| {
            let critic = model.critic.as_ref().expect("separate networks were asked for");
            Trpo {
                value_fit: ValueFit::new(config.critic.clone(), critic, rows, Seed(setup.seed)),
                full_batch: FullBatch::new(&model.actor, rows),
                config,
            }
        })
    }
}

impl Update for Trpo {
    fn update(&mut self, agent: &mut Agent, batch: &Batch) -> Result<Metrics, LearnError> {
        let (left, workers) = (agent.left(), agent.workers.clone());
        let parts = agent.model.parts().expect("separate networks were asked for");
        let Trpo { config, value_fit, full_batch } = self;
        let (step, value_loss) = workers.join(
            || policy_step(config, &mut full_batch.of(parts.actor, batch, &workers), parts.actor_params),
            || value_fit.fit(parts.critic, parts.critic_params, batch, left),
        );
        if !step.grad_norm.is_finite() {
            return Err(agent.non_finite("the norm of the policy's gradient", step.grad_norm));
        }
        if !value_loss.is_finite() {
            return Err(agent.non_finite("the value loss", value_loss));
        }
        agent.progress.grad_steps += 1;
        let [objective, kl, forward_kl, entropy] = step.after;
        let mut metrics = Metrics::default();
        metrics.add("train/policy_objective", objective);
        metrics.add("train/kl", kl);
        metrics.add("train/forward_kl", forward_kl);
        metrics.add("train/entropy", entropy);
        metrics.add("train/policy_grad_norm", step.grad_norm);
        metrics.add("train/cg_residual", step.residual);
        metrics.add("train/cg_iterations", step.iterations as f64);
        metrics.add("train/line_search", step.taken);
        metrics.add("train/value_loss", value_loss);
        metrics.add("train/explained_variance", explained_variance(&batch.value, &batch.returns));
        if let Some(std) = agent.model.mean_std() {
            metrics.add("train/std", std);
        }
        metrics.add("train/n_updates", agent.progress.grad_steps as f64);
        Ok(metrics)
    }

    fn save(&self, snapshot: &mut Snapshot) {
        self.value_fit.save(snapshot);
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.value_fit.load(snapshot)
    }
}

/// The gradient below which there is nothing to follow.
const NO_GRADIENT: f64 = 1e-8;

/// One step of the policy inside the trust region, or none.
fn policy_step(config: &TrpoConfig, policy: &mut PolicyBatch<'_>, params: &mut [f32]) -> Step {
    let old = policy.freeze(params);
    let old = old.rows();
    let measure = |row: &mut Row<'_, '_>| measure(row, &old);
    let mut gradient = vec![0.0; params.len()];
    let before = policy.mean(params, objective, Some(&mut gradient))[0];
    let grad_norm = grad_norm(&gradient);
    let mut step = Step { grad_norm, residual: grad_norm * grad_norm, ..Default::default() };

    if grad_norm.is_finite() && grad_norm > NO_GRADIENT {
        let damping = config.cg_damping as f32;
        let mut product = |v: &[f32], out: &mut [f32]| {
            policy.fisher_product(params, v, out);
            out.iter_mut().zip(v).for_each(|(out, v)| *out += damping * v);
        };
        let solution = conjugate_gradient(&mut product, &gradient, config.cg_iterations, config.cg_tolerance);
        (step.residual, step.iterations) = (solution.residual, solution.iterations);
        if let Some(scale) = solution.scale(&mut product, config.target_kl) {
            let start = params.to_vec();
            step.taken = line_search(config, |part| {
                let length = (scale * part) as f32;
                params.iter_mut().zip(&start).zip(&solution.x).for_each(|((p, s), x)| *p = s + length * x);
                let [objective, kl, forward_kl, _] = policy.mean(params, measure, None);
                let kl = match config.kl_direction {
                    KlDirection::NewOld => kl,
                    KlDirection::OldNew => forward_kl,
                };
                (objective - before, kl)
            });
            if step.taken == 0.0 {
                params.copy_from_slice(&start);
            }
        }
    }
    step.after = policy.mean(params, measure, None);
    step
}

/// A row's ratio · A, to be maximised, and its gradient.
fn objective(row: &mut Row<'_, '_>) -> [f64; 1] {
    let objective = row.log_ratio().exp() * row.advantage();
    row.add(objective, 0.0);
    [f64::from(objective)]
}

/// A row's objective, both divergences from the policy that acted, and entropy.
fn measure(row: &mut Row<'_, '_>, old: &PolicyRows<'_>) -> [f64; 4] {
    [row.log_ratio().exp() * row.advantage(), row.kl(old), row.forward_kl(old), row.entropy()].map(f64::from)
}

/// What conjugate gradients found.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// The approximate solution.
    pub x: Vec<f32>,
    /// Squared norm of the residual.
    pub residual: f64,
    /// Steps taken.
    pub iterations: usize,
}

/// Conjugate gradients for H x = b from x = 0 (Schulman et al. 2015, Appendix C; Nocedal & Wright, Algorithm 5.2).
///
/// `product` writes H v. Stops after `iterations` steps, where the squared residual falls below `tolerance` · min(1, |b|²), or
/// before a direction whose curvature is not positive: H is then not what it should be along it.
pub fn conjugate_gradient(
    mut product: impl FnMut(&[f32], &mut [f32]),
    b: &[f32],
    iterations: usize,
    tolerance: f64,
) -> Solution {
    let mut x = vec![0.0f32; b.len()];
    let (mut r, mut p) = (b.to_vec(), b.to_vec());
    let mut h_p = vec![0.0; b.len()];
    let mut residual = dot(&r, &r);
    // A small b is solved as well as a large one.
    let enough = tolerance * residual.min(1.0);
    for done in 0..iterations {
        if residual <= enough || !residual.is_finite() {
            return Solution { x, residual, iterations: done };
        }
        product(&p, &mut h_p);
        let curvature = dot(&p, &h_p);
        if curvature.is_nan() || curvature <= 0.0 {
            return Solution { x, residual, iterations: done };
        }
        let alpha = (residual / curvature) as f32;
        x.iter_mut().zip(&p).for_each(|(x, p)| *x += alpha * p);
        r.iter_mut().zip(&h_p).for_each(|(r, h)| *r -= alpha * h);
        let next = dot(&r, &r);
        let beta = (next / residual) as f32;
        p.iter_mut().zip(&r).for_each(|(p, r)| *p = r + beta * *p);
        residual = next;
    }
    Solution { x, residual, iterations }
}

impl Solution {
    /// √(2δ / xᵀHx): the multiple of x at which the quadratic model of the KL reaches δ; `None` where there is none.
    pub fn scale(&self, mut product: impl FnMut(&[f32], &mut [f32]), delta: f64) -> Option<f64> {
        let mut h_x = vec![0.0; self.x.len()];
        product(&self.x, &mut h_x);
        let curvature = dot(&self.x, &h_x);
        let scale = (2.0 * delta / curvature).sqrt();
        (curvature > 0.0 && scale.is_finite()).then_some(scale)
    }
}

/// The largest of the parts 1, c, c², … at which the objective improves and the constraint holds; 0 where there is none. `at`
/// goes to a part and returns improvement and KL there.
fn line_search(config: &TrpoConfig, mut at: impl FnMut(f64) -> (f64, f64)) -> f64 {
    let mut part = 1.0;
    for _ in 0..config.line_search_steps {
        let (improvement, kl) = at(part);
        if improvement > 0.0 && improvement.is_finite() && kl < config.kl_slack * config.target_kl {
            return part;
        }
        part *= config.line_search_factor;
    }
    0.0
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::full_batch::exact::{alone, close, gaussian, integral};

    fn two_by_two(v: &[f32], out: &mut [f32]) {
        out.copy_from_slice(&[4.0 * v[0] + v[1], v[0] + 3.0 * v[1]]);
    }

    #[test]
    fn conjugate_gradients_by_hand() {
        let solution = conjugate_gradient(two_by_two, &[1.0, 2.0], 1, 1e-10);
        close(&solution.x, &[0.25, 0.5], 1e-6);
        let solution = conjugate_gradient(two_by_two, &[1.0, 2.0], 10, 1e-10);
        close(&solution.x, &[0.090_909_09, 0.636_363_6], 1e-6);
        assert!(solution.residual < 1e-10 && solution.iterations == 2, "{solution:?}");
        // xᵀHx = 1.36364, so δ = 0.01 allows √(0.02/1.36364).
        let scale = solution.scale(two_by_two, 0.01).expect("a positive curvature");
        assert!((scale - 0.121_106_014_2).abs() < 1e-7, "{scale}");
    }

    #[test]
    fn nothing_to_solve_and_nothing_to_trust() {
        let solution = conjugate_gradient(two_by_two, &[0.0, 0.0], 10, 1e-10);
        assert_eq!((solution.x.as_slice(), solution.iterations), (&[0.0, 0.0][..], 0));
        assert_eq!(solution.scale(two_by_two, 0.01), None);
        let indefinite = |v: &[f32], out: &mut [f32]| out.copy_from_slice(&[v[0], -v[1]]);
        let solution = conjugate_gradient(indefinite, &[0.0, 1.0], 10, 1e-10);
        assert_eq!((solution.x.as_slice(), solution.scale(indefinite, 0.01)), (&[0.0, 0.0][..], None));
    }

    /// One step from N(0, 1) with A = c a: parameters afterwards, and what it says.
    fn stepped(change: impl Fn(&mut TrpoConfig), c: f32) -> (Vec<f32>, Step) {
        let mut config = TrpoConfig { cg_damping: 0.0, kl_slack: 1.01, ..Default::default() };
        change(&mut config);
        let (actor, mut params) = gaussian(0.0, 1.0);
        // The rollout is drawn evenly; ratios under the policy that acted are its density over that.
        let batch = integral(|a| c * a);
        let (mut room, workers) = (FullBatch::new(&actor, 1000), alone());
        let step = policy_step(&config, &mut room.of(&actor, &batch, &workers), &mut params);
        (params, step)
    }

    #[test]
    fn a_step_has_the_length_of_the_trust_region() {
        for c in [5e-6, 0.1, 1.0, 30.0] {
            // F = 1 for the mean: √(2δ) = 0.1414, whose KL is δ.
            let (params, step) = stepped(|_| (), c);
            close(&params, &[0.0, 0.141_421_36, 0.0], 2e-5);
            assert!((step.after[1] - 0.01).abs() < 1e-5 && step.taken == 1.0, "{step:?}");
            // Damped by 0.1: √(2δ/1.1).
            let (params, step) = stepped(|config| (config.cg_damping, config.kl_slack) = (0.1, 1.0), c);
            close(&params, &[0.0, 0.134_839_97, 0.0], 2e-5);
            assert!((step.after[1] - 0.009_090_909).abs() < 1e-5, "{step:?}");
        }
    }

    #[test]
    fn the_line_search_shortens_by_its_factor() {
        // Half of δ is allowed, and the KL falls with the square of the part: 0.8² squared is 0.41.
        let (params, step) = stepped(|config| config.kl_slack = 0.5, 1.0);
        assert!((step.taken - 0.64).abs() < 1e-12, "{step:?}");
        close(&params, &[0.0, 0.141_421_36 * 0.64, 0.0], 2e-5);
    }

    #[test]
    fn a_refused_step_leaves_no_trace() {
        let (_, start) = gaussian(0.0, 1.0);
        let (params, step) = stepped(|config| config.kl_slack = 1e-9, 1.0);
        assert_eq!((params, step.taken), (start.clone(), 0.0));
        // Nor does a gradient that vanishes.
        let (params, step) = stepped(|_| (), 0.0);
        assert_eq!((params, step.taken, step.iterations), (start, 0.0, 0));
    }

    #[test]
    fn both_directions_bound_their_own_divergence() {
        // The step also narrows the policy, so that the two divergences differ.
        for direction in [KlDirection::OldNew, KlDirection::NewOld] {
            let (actor, mut params) = gaussian(0.0, 1.0);
            let batch = integral(|a| -a * a);
            let config = TrpoConfig { kl_direction: direction, target_kl: 0.5, ..Default::default() };
            let (mut room, workers) = (FullBatch::new(&actor, 1000), alone());
            let step = policy_step(&config, &mut room.of(&actor, &batch, &workers), &mut params);
            let [_, kl, forward_kl, _] = step.after;
            // F = 2 for ln σ, damped by 0.1: −√(2δ/2.1) = −0.690066, where KL(new ‖ old) is 0.316 and KL(old ‖ new) 0.798.
            let (bounded, taken, log_std) = match direction {
                KlDirection::NewOld => (kl, 1.0, -0.690_066),
                KlDirection::OldNew => (forward_kl, 0.8, -0.552_052),
            };
            assert!(bounded < 0.5 && (step.taken - taken).abs() < 1e-12, "{step:?}");
            close(&params[2..], &[log_std], 1e-4);
        }
    }

    #[test]
    fn the_line_search_asks_for_an_improvement_and_as_often_as_it_may() {
        let config =
            |line_search_steps| TrpoConfig { line_search_steps, line_search_factor: 0.5, ..Default::default() };
        // Nothing gained at the whole step, the constraint met everywhere.
        let searched = |steps, gained: fn(f64) -> f64| line_search(&config(steps), |part| (gained(part), 0.0));
        assert_eq!(searched(10, |part| if part > 0.9 { 0.0 } else { 1.0 }), 0.5);
        assert_eq!(searched(10, |_| -1.0), 0.0);
        assert_eq!(searched(10, |part| if part > 0.2 { -1.0 } else { 1.0 }), 0.125);
        assert_eq!(searched(3, |part| if part > 0.2 { -1.0 } else { 1.0 }), 0.0);
    }

    #[test]
    fn conjugate_gradients_take_as_many_steps_as_they_may() {
        // N(0, ¼), A = a + a²: the gradient is (1, ½) and F (4, 2), so that F⁻¹g is even and g itself is not.
        let stepped = |cg_iterations| {
            let (actor, mut params) = gaussian(0.0, 0.5);
            let batch = integral(|a| a + a * a);
            let config =
                TrpoConfig { cg_iterations, cg_damping: 0.0, target_kl: 1e-4, kl_slack: 1.1, ..Default::default() };
            let (mut room, workers) = (FullBatch::new(&actor, 1000), alone());
            let step = policy_step(&config, &mut room.of(&actor, &batch, &workers), &mut params);
            (vec![params[1], params[2] - 0.5f32.ln()], step.iterations)
        };
        let (moved, iterations) = stepped(10);
        close(&moved, &[0.005_773_5, 0.005_773_5], 1e-5);
        assert!(iterations >= 2);
        let (moved, iterations) = stepped(1);
        close(&moved, &[0.006_666_7, 0.003_333_3], 1e-5);
        assert_eq!(iterations, 1);
    }
}
