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

impl IqlConfig {
    /// exp(β A), at most the clip (Eq. 7).
    fn weight(&self, advantage: f32) -> f32 {
        (self.beta as f32 * advantage).exp().min(self.weight_clip as f32)
    }

    /// The policy's step size when a part of the budget is spent.
    fn policy_learning_rate(&self, spent: f64) -> f64 {
        let anneal = if self.anneal_policy_lr { (1.0 + (std::f64::consts::PI * spent).cos()) / 2.0 } else { 1.0 };
        anneal * self.learning_rate
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
        refill(&mut self.weight, advantage.iter().map(|&a| config.weight(a)));
        let step_size = config.policy_learning_rate(agent.setup.budget.spent(&agent.progress));
        let (weight, grad) = (&self.weight, &mut self.grad);
        let policy_loss = self.pass.gradient(&agent.policy, &batch.obs, &batch.action, weight, grad, workers);
        let policy_loss = agent.finite("the policy's loss", policy_loss)?;
        self.policy_optimizer.step_on(&mut agent.policy.params, &self.grad, step_size, workers);

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
    use crate::offline::unread;

    fn close(a: f64, b: f64, tolerance: f64) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    #[test]
    fn weights_and_step_sizes_by_hand() {
        // β = 3: e³, and e⁶ = 403 is clipped.
        let config = IqlConfig { learning_rate: 1.0, ..Default::default() };
        for (advantage, weight) in [(0.0, 1.0), (1.0, 20.085_537), (-1.0, 0.049_787_07), (2.0, 100.0)] {
            close(config.weight(advantage).into(), weight, 1e-5);
        }
        for (spent, rate) in [(0.0, 1.0), (0.25, 0.853_553_4), (0.5, 0.5), (1.0, 0.0)] {
            close(config.policy_learning_rate(spent), rate, 1e-7);
            close(IqlConfig { anneal_policy_lr: false, ..config.clone() }.policy_learning_rate(spent), 1.0, 0.0);
        }
    }

    #[test]
    fn v_learns_from_the_target_critics_and_the_critics_and_the_policy_from_the_new_v() {
        let common = OfflineConfig { batch_size: 6, ..Default::default() };
        let config = IqlConfig { common, hidden_sizes: vec![8], gamma: 0.9, tau: 0.25, ..Default::default() };
        let (mut agent, mut iql, batch) = Iql::learner(config, &unread(10)).expect("the settings fit").apart();
        iql.critics.target.iter_mut().for_each(|p| *p = 0.1 - 0.7 * *p);
        let (mut target, policy, old_value) = (iql.critics.clone(), agent.policy.params.clone(), iql.value.clone());
        target.params.clone_from(&target.target);
        agent.progress.grad_steps = 5;
        let mut logged = Means::default();
        iql.update(&mut agent, &batch, &mut logged).expect("finite numbers");
        let v = |params: &[f32], obs: &[f32]| {
            let mut v = [0.0];
            iql.value_mlp.forward_row(params, obs, &mut Default::default(), &mut v);
            v[0]
        };
        let (mut vf_loss, mut advantage) = (0.0, 0.0);
        for i in 0..6 {
            let (obs, next_obs) = (&batch.obs[3 * i..3 * i + 3], &batch.next_obs[3 * i..3 * i + 3]);
            let q = target.values_of(obs, &batch.action[i..=i]);
            let q = q[0].min(q[1]);
            vf_loss += f64::from(expectile_loss(q - v(&old_value, obs), 0.7).0) / 6.0;
            let a = q - v(&iql.value, obs);
            advantage += f64::from(a) / 6.0;
            close(iql.weight[i].into(), iql.config.weight(a).into(), 1e-4);
            let y = batch.reward[i] + 0.9 * batch.bootstraps[i] * v(&iql.value, next_obs);
            close(iql.y[i].into(), y.into(), 1e-5);
        }
        close(logged.mean("train/vf_loss"), vf_loss, 1e-5);
        close(logged.mean("train/advantage"), advantage, 1e-5);
        // Adam's first step is the step size, of which half the budget leaves the policy a half.
        let moved = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
        close(moved(&policy, &agent.policy.params), 1.5e-4, 1e-6);
        close(moved(&old_value, &iql.value), 3e-4, 1e-6);
        let followed = target.target.iter().zip(&iql.critics.params).map(|(t, s)| t + 0.25 * (s - t));
        assert!(followed.eq(iql.critics.target.iter().copied()));
    }

    #[test]
    fn the_expectile_loss_by_hand() {
        // τ = 0.75: 0.75 · 2² above, 0.25 · 2² below; the value is pulled up harder than down.
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
