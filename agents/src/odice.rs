//! O-DICE: offline reinforcement learning by orthogonal-gradient distribution correction (Mao et al. 2024,
//! arXiv:2402.00348), with the details of the authors' released code.
//!
//! One update fits V by the dual objective (1−λ) E[V(s)] + λ E[f*(δ)], δ = r + γ V(s') − V(s), and clones the dataset's
//! actions with weights that grow with δ. There is no Q. The gradient through V(s') is projected off the gradient through
//! V(s), over all parameters as one vector, so that it cannot undo what that does to first order.
//! Beyond the paper: true successors at time limits, the exact density ratio as a weight, a bound on f* of the reverse KL,
//! and a warning when no weight is positive.

mod value;

use std::sync::Arc;

use bregman_envs::rng::NumpyRng;
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::box_policy::{BoxPolicy, BoxPolicyShape, CloningPass};
use crate::check;
use crate::critics::polyak;
use crate::dataset::Batch;
use crate::learner::{Array, LearnError, Learner, Metrics, Setup, Snapshot};
use crate::nn::{Activation, Device, Init, Mlp, Twins, TwinsWorkspace};
use crate::offline::{Means, Offline, OfflineAgent, OfflineConfig, OfflineUpdate, RewardScale};
use crate::optim::Adam;
use crate::optional;
use crate::registry::{AgentConfig, AgentEntry, Part};
use crate::workers::Workers;

pub use value::{Divergence, GradientRule, PolicyWeight, Side, ValueBatch, ValueRule, ValueStep, Values, orthogonal};

/// Settings of [`Odice`]; defaults from the authors' code for locomotion, rewards excepted.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct OdiceConfig {
    /// What offline agents share.
    #[serde(flatten)]
    pub common: OfflineConfig,
    /// Discount per step.
    pub gamma: f64,
    /// λ, the weight of f*(δ) against V(s): 0.5 leaves V at the mean of its targets, more lifts it above.
    pub lambda: f64,
    /// η, the weight of the gradient through the successor before it is projected.
    pub eta: f64,
    /// How V is moved: orthogonal, semi (not through the successor) or true (through both, no target network).
    pub gradient: GradientRule,
    /// The f of the divergence from the dataset: chi_square or reverse_kl.
    pub divergence: Divergence,
    /// From this residual on, f* of the reverse KL goes on as its tangent; "none" leaves it, and it overflows at 89.7.
    #[serde(with = "optional")]
    pub residual_cap: Option<f64>,
    /// The weight of an action: official (max(δ, 0), as the authors' code has it) or exact (the density ratio max(δ/2 + 1, 0)).
    /// Both are exp(δ − 1) for the reverse KL.
    pub policy_weight: PolicyWeight,
    /// Bound on the weights.
    pub weight_clip: f64,
    /// Learn from demonstrations: every reward counts as 0.
    pub imitation: bool,
    /// Widths of V's hidden layers.
    pub value_hidden_sizes: Vec<usize>,
    /// Layer normalisation in V, between every hidden layer and its activation.
    pub layer_norm: bool,
    /// Two heads of V, of which targets take the smaller.
    pub twin_values: bool,
    /// Adam's step size for V.
    pub vf_learning_rate: f64,
    /// Weight of the new parameters in the target network, every update.
    pub tau: f64,
    /// Widths of the policy's hidden layers.
    pub hidden_sizes: Vec<usize>,
    /// Take the policy's mean into the box by tanh.
    pub squash_mean: bool,
    /// Adam's step size for the policy.
    pub learning_rate: f64,
    /// L2 regularisation of the policy, as part of the gradient.
    pub weight_decay: f64,
}

impl Default for OdiceConfig {
    fn default() -> OdiceConfig {
        OdiceConfig {
            common: OfflineConfig { reward_scale: RewardScale::Range, ..Default::default() },
            gamma: 0.99,
            lambda: 0.6,
            eta: 1.0,
            gradient: GradientRule::Orthogonal,
            divergence: Divergence::ChiSquare,
            residual_cap: Some(5.0),
            policy_weight: PolicyWeight::Official,
            weight_clip: 100.0,
            imitation: false,
            value_hidden_sizes: vec![256, 256],
            layer_norm: true,
            twin_values: true,
            vf_learning_rate: 2e-4,
            tau: 0.005,
            hidden_sizes: vec![1024, 1024],
            squash_mean: false,
            learning_rate: 2e-4,
            weight_decay: 1e-4,
        }
    }
}

/// O-DICE's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<OdiceConfig>(
    "odice",
    "O-DICE, offline: dual value learning with an orthogonal gradient, then weighted cloning",
    &[
        ("train/value_loss", "(1 − λ) V(s) + λ f*(δ), mean over heads, rows and the iteration's updates"),
        ("train/value", "V(s), mean over heads, rows and updates"),
        ("train/residual", "δ = r + γ V(s') − V(s) in scaled units, mean over heads, rows and updates"),
        ("train/active_weights", "share of the policy weights above 0; at 0 the policy does not learn"),
        ("train/weight", "policy weight after clipping, mean over heads, rows and updates"),
        ("train/gradient_cosine", "cosine of the gradients through V(s) and V(s'), mean over updates; orthogonal only"),
        ("train/policy_loss", "−w ln π(a|s), mean over rows and updates"),
        ("train/std", "mean standard deviation of the policy"),
        ("train/n_updates", "optimiser steps since the start"),
    ],
)
.offline()
.console(&["train/active_weights", "train/value"]);

impl AgentConfig for OdiceConfig {
    const PARTS: &'static [Part] = &[Part::of::<OfflineConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        check::fraction("gamma", self.gamma, "a discount")?;
        check::rule(self.lambda > 0.0 && self.lambda < 1.0, "lambda", self.lambda, "between 0 and 1, 0.6 as a rule")?;
        check::weight("eta", self.eta, "1")?;
        check::positive_or_none("residual_cap", self.residual_cap)?;
        check::positive("weight_clip", self.weight_clip, "100")?;
        check::widths("value_hidden_sizes", &self.value_hidden_sizes)?;
        check::widths("hidden_sizes", &self.hidden_sizes)?;
        check::positive("vf_learning_rate", self.vf_learning_rate, "2e-4")?;
        check::fraction("tau", self.tau, "the weight of the new parameters")?;
        check::positive("learning_rate", self.learning_rate, "2e-4")?;
        check::weight("weight_decay", self.weight_decay, "1e-4")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Odice::learner(self, setup)?))
    }
}

/// Twin networks with room for their passes.
struct TwinValues {
    twins: Twins,
    here: TwinsWorkspace<f32>,
    next: TwinsWorkspace<f32>,
    target: TwinsWorkspace<f32>,
    workers: Arc<Workers>,
}

impl TwinValues {
    fn new(twins: Twins, batch_size: usize, workers: Arc<Workers>) -> TwinValues {
        let room = || twins.workspace(batch_size);
        TwinValues { here: room(), next: room(), target: room(), twins, workers }
    }

    fn room(&mut self, side: Side) -> (&Twins, &mut TwinsWorkspace<f32>, &Workers) {
        let room = match side {
            Side::Here => &mut self.here,
            Side::Next => &mut self.next,
            Side::Target => &mut self.target,
        };
        (&self.twins, room, &self.workers)
    }
}

impl Values<f32> for TwinValues {
    fn heads(&self) -> usize {
        self.twins.count()
    }

    fn forward(&mut self, params: &[f32], obs: &[f32], side: Side) -> &[f32] {
        let (twins, room, workers) = self.room(side);
        twins.forward(params, obs, room, workers)
    }

    fn backward(&mut self, params: &[f32], side: Side, d_values: &[f32], grad: &mut [f32]) {
        let (twins, room, workers) = self.room(side);
        twins.backward(params, room, d_values, grad, workers);
    }

    fn backward_two(&mut self, params: &[f32], side: Side, d_values: [&[f32]; 2], grads: [&mut [f32]; 2]) {
        let (twins, room, workers) = self.room(side);
        twins.backward_two(params, room, d_values, grads, workers);
    }
}

/// O-DICE.
pub struct Odice {
    config: OdiceConfig,
    rule: ValueRule<f32>,
    values: TwinValues,
    params: Vec<f32>,
    target: Vec<f32>,
    step: ValueStep<f32>,
    vf_optimizer: Adam,
    optimizer: Adam,
    pass: CloningPass,
    grad: Vec<f32>,
    weight: Vec<f32>,
    reward: Vec<f32>,
    /// Whether the last iteration's policy weights were all 0.
    dead: bool,
}

impl Odice {
    /// A fresh agent; the data are read by [`prepare`](Learner::prepare).
    ///
    /// # Errors
    /// Settings out of range, no dataset, an environment that does not suit.
    pub fn learner(config: OdiceConfig, setup: &Setup) -> Result<Offline<Odice>, LearnError> {
        config.validate()?;
        let hidden_sizes = config.hidden_sizes.clone();
        let shape = BoxPolicyShape {
            hidden_sizes: &hidden_sizes,
            squash: config.squash_mean,
            stochastic: true,
            precision: config.common.precision,
            device: setup.device,
        };
        Offline::new(config.common.clone(), &shape, setup, |spec, policy, workers, rng| {
            Odice::new(config, setup.device, spec.obs_dim, policy, workers, rng)
        })
    }

    fn new(
        config: OdiceConfig,
        device: Device,
        obs_dim: usize,
        policy: &BoxPolicy,
        workers: &Arc<Workers>,
        rng: &mut NumpyRng,
    ) -> Odice {
        let widths = [&[obs_dim], &config.value_hidden_sizes[..], &[1]].concat();
        let shape = if config.layer_norm { Mlp::normalized } else { Mlp::new };
        let mlp = shape(&widths, Activation::Relu).on(device).with_precision(config.common.precision);
        let twins = Twins::new(mlp, if config.twin_values { 2 } else { 1 });
        let params: Vec<f32> = twins.init(Init::Uniform, rng);
        let batch_size = config.common.batch_size;
        Odice {
            rule: ValueRule {
                gamma: config.gamma as f32,
                lambda: config.lambda as f32,
                eta: config.eta as f32,
                gradient: config.gradient,
                divergence: config.divergence,
                cap: config.residual_cap.map(|cap| cap as f32),
            },
            values: TwinValues::new(twins, batch_size, workers.clone()),
            target: params.clone(),
            step: ValueStep::new(params.len()),
            vf_optimizer: Adam::new(params.len(), 1e-8),
            params,
            optimizer: Adam::new(policy.params.len(), 1e-8).with_weight_decay(config.weight_decay),
            pass: CloningPass::new(policy, batch_size),
            grad: vec![0.0; policy.params.len()],
            weight: Vec::new(),
            reward: Vec::new(),
            dead: false,
            config,
        }
    }
}

impl OfflineUpdate for Odice {
    /// The weights come from V as it is before its own step.
    fn update(&mut self, agent: &mut OfflineAgent, batch: &Batch, means: &mut Means) -> Result<(), LearnError> {
        let Odice { config, rule, values, params, target, step, vf_optimizer, optimizer, .. } = self;
        let Odice { pass, grad, weight, reward, .. } = self;
        reward.clear();
        reward.extend(batch.reward.iter().map(|&r| if config.imitation { 0.0 } else { r }));
        let transitions =
            ValueBatch { obs: &batch.obs, next_obs: &batch.next_obs, reward, bootstraps: &batch.bootstraps };
        step.look(values, params, target, &transitions, rule);

        let (rows, count) = (batch.len(), step.residual.len());
        let clip = config.weight_clip as f32;
        let weigh = |delta: f32| rule.divergence.weight(delta, config.policy_weight, clip);
        weight.clear();
        weight.resize(rows, 0.0);
        let heads = (count / rows) as f32;
        step.residual.iter().enumerate().for_each(|(k, &delta)| weight[k % rows] += weigh(delta) / heads);

        let mean = |f: &dyn Fn(usize) -> f32| (0..count).map(|k| f64::from(f(k))).sum::<f64>() / count as f64;
        let (value, residual) = (mean(&|k| step.value[k]), mean(&|k| step.residual[k]));
        let conjugate = mean(&|k| rule.divergence.conjugate(step.residual[k], rule.cap));
        means.add("train/value_loss", (1.0 - config.lambda) * value + config.lambda * conjugate);
        means.add("train/value", value);
        means.add("train/residual", residual);
        means.add("train/active_weights", mean(&|k| f32::from(u8::from(weigh(step.residual[k]) > 0.0))));
        means.add("train/weight", mean(&|k| weigh(step.residual[k])));
        agent.finite("the mean value", value)?;
        agent.finite("the mean residual", residual)?;

        let OfflineAgent { policy, workers, .. } = agent;
        let (cosine, loss) = workers.join(
            || {
                let cosine = step.gradient(values, params, &transitions, rule);
                vf_optimizer.step_on(params, &step.grad, config.vf_learning_rate, workers);
                polyak(target, params, config.tau as f32, workers);
                cosine
            },
            || {
                let loss = pass.gradient(policy, &batch.obs, &batch.action, weight, grad, workers);
                if loss.is_finite() {
                    optimizer.step_on(&mut policy.params, grad, config.learning_rate, workers);
                }
                loss
            },
        );
        if rule.gradient == GradientRule::Orthogonal {
            means.add("train/gradient_cosine", cosine);
        }
        means.add("train/policy_loss", loss);
        means.add("train/std", agent.policy.mean_std());
        agent.finite("the policy's loss", loss).map(drop)
    }

    fn warning(&mut self, metrics: &Metrics) -> Option<String> {
        let dead = metrics.get("train/active_weights") == Some(0.0);
        let before = std::mem::replace(&mut self.dead, dead);
        (dead && !before).then(|| {
            "every policy weight of this iteration was 0, so the policy does not learn: rewards may be too small for lambda; \
             `reward_scale = \"range\"`, a smaller `lambda` or `policy_weight = \"exact\"` mends it"
                .into()
        })
    }

    fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("value", Array::F32(self.params.clone()));
        snapshot.put("value_target", Array::F32(self.target.clone()));
        self.vf_optimizer.save("vf_adam", snapshot);
        self.optimizer.save("adam", snapshot);
        snapshot.state.insert("dead".into(), self.dead.into());
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into("value", &mut self.params)?;
        snapshot.f32_into("value_target", &mut self.target)?;
        self.vf_optimizer.load("vf_adam", snapshot)?;
        self.optimizer.load("adam", snapshot)?;
        self.dead = snapshot.get("dead")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::unread;

    /// A small agent on Pendulum and a minibatch.
    fn small(change: impl FnOnce(&mut OdiceConfig)) -> (OfflineAgent, Odice, Batch) {
        let mut config = OdiceConfig {
            common: OfflineConfig { batch_size: 6, ..Default::default() },
            value_hidden_sizes: vec![8],
            hidden_sizes: vec![8],
            ..Default::default()
        };
        change(&mut config);
        Odice::learner(config, &unread(10)).expect("the settings fit").apart()
    }

    /// The largest distance between two parameter vectors.
    fn moved(a: &[f32], b: &[f32]) -> f32 {
        a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
    }

    #[test]
    fn settings_reach_the_rule() {
        let (_, odice, _) = small(|config| {
            (config.gamma, config.lambda, config.eta) = (0.9, 0.7, 0.3);
            (config.gradient, config.divergence) = (GradientRule::Semi, Divergence::ReverseKl);
            config.residual_cap = Some(2.0);
        });
        let ValueRule { gamma, lambda, eta, gradient, divergence, cap } = odice.rule;
        assert_eq!((gamma, lambda, eta, cap), (0.9, 0.7, 0.3, Some(2.0)));
        assert_eq!((gradient, divergence), (GradientRule::Semi, Divergence::ReverseKl));
    }

    #[test]
    fn a_row_weighs_the_mean_of_its_heads_each_clipped() {
        let (mut agent, mut odice, batch) = small(|config| config.weight_clip = 0.5);
        odice.update(&mut agent, &batch, &mut Means::default()).expect("finite numbers");
        let residual = &odice.step.residual;
        for i in 0..6 {
            let expected = (residual[i].clamp(0.0, 0.5) + residual[6 + i].clamp(0.0, 0.5)) / 2.0;
            assert!((odice.weight[i] - expected).abs() < 1e-6, "{} is not {expected}", odice.weight[i]);
        }
        assert!(residual.iter().any(|&delta| delta > 0.5) && residual.iter().any(|&delta| delta < 0.0), "{residual:?}");
    }

    #[test]
    fn each_part_moves_by_its_own_step_size_and_the_target_by_tau() {
        let (mut agent, mut odice, batch) =
            small(|config| (config.vf_learning_rate, config.learning_rate, config.tau) = (1e-3, 2e-3, 0.25));
        let (policy, value, target) = (agent.policy.params.clone(), odice.params.clone(), odice.target.clone());
        odice.update(&mut agent, &batch, &mut Means::default()).expect("finite numbers");
        // Adam's first step moves whatever has a slope by the step size.
        assert!((moved(&value, &odice.params) - 1e-3).abs() < 1e-6, "{}", moved(&value, &odice.params));
        assert!((moved(&policy, &agent.policy.params) - 2e-3).abs() < 1e-6, "{}", moved(&policy, &agent.policy.params));
        let followed = target.iter().zip(&odice.params).map(|(t, s)| t + 0.25 * (s - t));
        assert!(followed.eq(odice.target.iter().copied()));
    }

    #[test]
    fn weight_decay_is_part_of_the_policys_gradient() {
        for (weight_decay, step) in [(0.0, 0.0), (0.1, 2e-3)] {
            let (mut agent, mut odice, mut batch) =
                small(|config| (config.weight_decay, config.learning_rate) = (weight_decay, 2e-3));
            // No residual is positive, so that no action has a weight.
            batch.reward.fill(-100.0);
            let before = agent.policy.params.clone();
            odice.update(&mut agent, &batch, &mut Means::default()).expect("finite numbers");
            assert_eq!(odice.weight, [0.0; 6]);
            for (&before, &after) in before.iter().zip(&agent.policy.params).filter(|(before, _)| before.abs() > 1e-2) {
                assert!((before - after - step * before.signum()).abs() < 1e-6, "{before} became {after}");
            }
        }
    }
}
