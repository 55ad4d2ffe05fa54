//! Implicit Q-learning (Kostrikov et al. 2021, arXiv:2110.06169), offline.
//!
//! One update fits V to an expectile of the target critics (Eq. 5), clones the dataset's actions with weights exp(β A) (Eq. 7)
//! and fits two critics to r + γ V(s') (Eq. 6), in the order of the authors' code. No action is ever taken from the policy.
//! Beyond the paper: true successors at time limits. Networks start as PyTorch's do; the authors' are orthogonal.

use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::box_policy::{BoxPolicyShape, CloningPass};
use crate::check;
use crate::critics::{TwinCritics, join, smaller};
use crate::dataset::Batch;
use crate::learner::{Array, LearnError, Learner, Setup, Snapshot};
use crate::nn::{Activation, Init, Mlp, Workspace};
use crate::offline::{Means, Offline, OfflineAgent, OfflineConfig, OfflineUpdate, RewardScale, refill};
use crate::optim::Adam;
use crate::registry::{AgentConfig, AgentEntry, Part};

/// Settings of [`Iql`]; defaults from the authors' code for locomotion.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct IqlConfig {
    /// What offline agents share.
    #[serde(flatten)]
    pub common: OfflineConfig,
    /// Discount per step.
    pub gamma: f64,
    /// τ of the expectile: 0.5 is the mean, towards 1 the maximum.
    pub expectile: f64,
    /// β, how sharply weights grow with the advantage: 3 for locomotion, 10 for AntMaze.
    pub beta: f64,
    /// Bound on the weights.
    pub weight_clip: f64,
    /// Widths of all hidden layers.
    pub hidden_sizes: Vec<usize>,
    /// Adam's step size for all networks.
    pub learning_rate: f64,
    /// Let the policy's step size fall to 0 over the budget, along a cosine.
    pub anneal_policy_lr: bool,
    /// Weight of the new parameters in the target critics, every update.
    pub tau: f64,
}

impl Default for IqlConfig {
    fn default() -> IqlConfig {
        IqlConfig {
            common: OfflineConfig { reward_scale: RewardScale::Range, ..Default::default() },
            gamma: 0.99,
            expectile: 0.7,
            beta: 3.0,
            weight_clip: 100.0,
            hidden_sizes: vec![256, 256],
            learning_rate: 3e-4,
            anneal_policy_lr: true,
            tau: 0.005,
        }
    }
}

/// IQL's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<IqlConfig>(
    "iql",
    "implicit Q-learning, offline: expectile regression, then advantage-weighted cloning",
    &[
        ("train/vf_loss", "expectile loss of V, mean over rows and updates"),
        ("train/qf_loss", "half the squared errors of the two critics, summed, mean over rows and updates"),
        ("train/advantage", "Q(s, a) − V(s) by the target critics, mean over rows and updates"),
        ("train/policy_loss", "−w ln π(a|s), mean over rows and updates"),
        ("train/std", "mean standard deviation of the policy"),
        ("train/n_updates", "optimiser steps since the start"),
    ],
)
.offline()
.console(&["train/advantage", "train/qf_loss"]);

impl AgentConfig for IqlConfig {
    const PARTS: &'static [Part] = &[Part::of::<OfflineConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        check::fraction("gamma", self.gamma, "a discount")?;
        check::rule(self.expectile > 0.0 && self.expectile < 1.0, "expectile", self.expectile, "between 0 and 1")?;
        check::weight("beta", self.beta, "3")?;
        check::positive("weight_clip", self.weight_clip, "100")?;
        check::widths("hidden_sizes", &self.hidden_sizes)?;
        check::positive("learning_rate", self.learning_rate, "3e-4")?;
        check::fraction("tau", self.tau, "the weight of the new parameters")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Iql::learner(self, setup)?))
    }
}

/// Implicit Q-learning.
pub struct Iql {
    config: IqlConfig,
    critics: TwinCritics,
    value: Vec<f32>,
    value_mlp: Mlp,
    value_room: Workspace<f32>,
    value_optimizer: Adam,
    value_grad: Vec<f32>,
    policy_optimizer: Adam,
    pass: CloningPass,
    grad: Vec<f32>,
    weight: Vec<f32>,
    joined: Vec<f32>,
    /// The smaller target critic's values, the slope of V's loss in V, advantages, and the critics' targets, each `[B]`.
    q: Vec<f32>,
    d_value: Vec<f32>,
    advantage: Vec<f32>,
    y: Vec<f32>,
}

/// Expectile loss of u = target − value and its derivative in the value (Eq. 5): |τ − 1[u < 0]| u².
pub fn expectile_loss(u: f32, expectile: f32) -> (f32, f32) {
    let weight = if u < 0.0 { 1.0 - expectile } else { expectile };
    (weight * u * u, -2.0 * weight * u)
}

impl Iql {
    /// A fresh agent; the data are read by [`prepare`](Learner::prepare).
    ///
    /// # Errors
    /// Settings out of range, no dataset, an environment that does not suit.
    pub fn learner(config: IqlConfig, setup: &Setup) -> Result<Offline<Iql>, LearnError> {
        config.validate()?;
        let (common, hidden_sizes) = (config.common.clone(), config.hidden_sizes.clone());
        let (precision, device, batch_size) = (common.precision, setup.device, common.batch_size);
        let shape = BoxPolicyShape { hidden_sizes: &hidden_sizes, squash: true, stochastic: true, precision, device };
        Offline::new(common, &shape, setup, |spec, policy, _, rng| {
            let network = |inputs: usize| {
                let widths = [&[inputs], &config.hidden_sizes[..], &[1]].concat();
                Mlp::new(&widths, Activation::Relu).on(device).with_precision(precision)
            };
            let value_mlp = network(spec.obs_dim);
            let value: Vec<f32> = value_mlp.init(Init::Uniform, rng);
            Iql {
                critics: TwinCritics::new(network(spec.obs_dim + policy.act_dim()), batch_size, 1e-8, rng),
                value_room: value_mlp.workspace(batch_size),
                value_mlp,
                value_optimizer: Adam::new(value.len(), 1e-8),
                value_grad: vec![0.0; value.len()],
                value,
                policy_optimizer: Adam::new(policy.params.len(), 1e-8),
                pass: CloningPass::new(policy, batch_size),
                grad: vec![0.0; policy.params.len()],
                weight: Vec::new(),
                joined: Vec::new(),
                q: Vec::new(),
                d_value: Vec::new(),
                advantage: Vec::new(),
                y: Vec::new(),
                config,
            }
        })
    }
}

impl OfflineUpdate for Iql {
    fn update(&mut self, agent: &mut OfflineAgent, batch: &Batch, means: &mut Means) -> Result<(), LearnError> {
        let Iql { config, critics, value, value_mlp, value_room, value_grad, joined, .. } = self;
        let Iql { q, d_value, advantage, y, .. } = self;
        let (workers, rows) = (&agent.workers, batch.len());
        let scale = 1.0 / rows as f32;
        join(&batch.obs, &batch.action, rows, joined);

        // V towards an expectile of the smaller target critic.
        refill(q, smaller(critics.target_values(joined, workers)));
        let mut vf_loss = 0.0;
        d_value.clear();
        for (v, q) in value_mlp.forward(value, &batch.obs, value_room).iter().zip(&*q) {
            let (loss, slope) = expectile_loss(q - v, config.expectile as f32);
            vf_loss += f64::from(loss * scale);
            d_value.push(slope * scale);
        }
        means.add("train/vf_loss", agent.finite("the loss of V", vf_loss)?);
        value_mlp.backward(value, value_room, d_value, value_grad);
        self.value_optimizer.step(value, value_grad, config.learning_rate);

        // The policy, weighted by the advantage over the new V.
        let v = value_mlp.forward(value, &batch.obs, value_room);
        refill(advantage, q.iter().zip(v).map(|(q, v)| q - v));
        let (beta, clip) = (config.beta as f32, config.weight_clip as f32);
        refill(&mut self.weight, advantage.iter().map(|a| (beta * a).exp().min(clip)));
        let spent = agent.setup.budget.spent(&agent.progress);
        let anneal = if config.anneal_policy_lr { (1.0 + (std::f64::consts::PI * spent).cos()) / 2.0 } else { 1.0 };
        let (weight, grad) = (&self.weight, &mut self.grad);
        let policy_loss = self.pass.gradient(&agent.policy, &batch.obs, &batch.action, weight, grad, workers);
        let policy_loss = agent.finite("the policy's loss", policy_loss)?;
        self.policy_optimizer.step_on(&mut agent.policy.params, &self.grad, anneal * config.learning_rate, workers);

        // The critics towards r + γ V(s'), and their targets after them.
        let next = value_mlp.forward(value, &batch.next_obs, value_room);
        let gamma = config.gamma as f32;
        refill(y, (0..rows).map(|i| batch.reward[i] + gamma * batch.bootstraps[i] * next[i]));
        let qf_loss = critics.fit(joined, y, config.learning_rate, workers).loss;
        critics.follow(config.tau, workers);

        means.add("train/qf_loss", agent.finite("the critics' loss", qf_loss)?);
        means.add("train/advantage", advantage.iter().map(|&a| f64::from(a * scale)).sum());
        means.add("train/policy_loss", policy_loss);
        means.add("train/std", agent.policy.mean_std());
        Ok(())
    }

    fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("value", Array::F32(self.value.clone()));
        self.value_optimizer.save("vf_adam", snapshot);
        self.critics.save(snapshot);
        self.policy_optimizer.save("adam", snapshot);
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into("value", &mut self.value)?;
        self.value_optimizer.load("vf_adam", snapshot)?;
        self.critics.load(snapshot)?;
        self.policy_optimizer.load("adam", snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expectile_loss_by_hand() {
        // τ = 0.7: 0.7 · 2² above, 0.3 · 2² below; the value is pulled up harder than down.
        assert_eq!(expectile_loss(2.0, 0.75), (3.0, -3.0));
        assert_eq!(expectile_loss(-2.0, 0.75), (1.0, 1.0));
    }

    #[test]
    fn the_expectile_of_two_numbers() {
        // Of 0 and 1 the expectile m solves τ (1 − m) = (1 − τ) m, so that m = τ.
        let mut value = 0.0f32;
        for _ in 0..2000 {
            let slope: f32 = [0.0, 1.0].map(|q| expectile_loss(q - value, 0.7).1).iter().sum();
            value -= 0.05 * slope;
        }
        assert!((value - 0.7).abs() < 1e-5, "{value}");
    }
}
