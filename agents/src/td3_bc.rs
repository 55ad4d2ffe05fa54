//! TD3+BC (Fujimoto and Gu 2021, arXiv:2106.06860), offline: TD3 with the squared distance to the dataset's actions beside Q.
//!
//! One update fits two critics to r + γ min Q̄(s', π̄(s') + clipped noise); every `policy_delay`th also moves the policy along
//! λ Q(s, π(s)) − (π(s) − a)², λ = α / mean |Q| (Eq. 4 and 5), and the targets.
//! Beyond the paper: true successors at time limits.

use bregman_envs::rng::{NumpyRng, Seed};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::box_policy::{BoxPolicyPass, BoxPolicyShape};
use crate::check;
use crate::critics::{Judge, TwinCritics, join, polyak, smaller};
use crate::dataset::Batch;
use crate::learner::{Array, LearnError, Learner, Setup, Snapshot};
use crate::nn::{Activation, Mlp};
use crate::offline::{Means, Offline, OfflineAgent, OfflineConfig, OfflineUpdate, refill};
use crate::on_policy::load_stream;
use crate::optim::Adam;
use crate::registry::{AgentConfig, AgentEntry, Part};

/// Settings of [`Td3Bc`]; defaults from the paper, Table 3.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct Td3BcConfig {
    /// What offline agents share.
    #[serde(flatten)]
    pub common: OfflineConfig,
    /// Discount per step.
    pub gamma: f64,
    /// α, the weight of Q against the dataset's actions.
    pub alpha: f64,
    /// Standard deviation of the noise on target actions, in halves of the box's width.
    pub policy_noise: f64,
    /// Bound on that noise.
    pub noise_clip: f64,
    /// Updates of the critics for one of the policy and the targets.
    pub policy_delay: usize,
    /// Widths of all hidden layers.
    pub hidden_sizes: Vec<usize>,
    /// Adam's step size for all networks.
    pub learning_rate: f64,
    /// Weight of the new parameters in the target networks.
    pub tau: f64,
}

impl Default for Td3BcConfig {
    fn default() -> Td3BcConfig {
        Td3BcConfig {
            common: OfflineConfig { normalize_obs: true, ..Default::default() },
            gamma: 0.99,
            alpha: 2.5,
            policy_noise: 0.2,
            noise_clip: 0.5,
            policy_delay: 2,
            hidden_sizes: vec![256, 256],
            learning_rate: 3e-4,
            tau: 0.005,
        }
    }
}

impl Td3BcConfig {
    /// A component of a target action: with noise in halves of the box's width, clipped, and inside the box.
    fn target_action(&self, mean: f32, noise: f64, (low, high): (f32, f32)) -> f32 {
        let noise = (self.policy_noise * noise).clamp(-self.noise_clip, self.noise_clip) as f32;
        (mean + noise * (high - low) / 2.0).clamp(low, high)
    }
}

/// TD3+BC's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<Td3BcConfig>(
    "td3_bc",
    "TD3+BC, offline: twin delayed critics, and a policy that stays near the dataset's actions",
    &[
        ("train/qf_loss", "half the squared errors of the two critics, summed, mean over rows and updates"),
        ("train/q_value", "smaller critic's value of the dataset's actions, mean over rows and updates"),
        (
            "train/policy_loss",
            "−λ Q(s, π(s)) + (π(s) − a)², the square by component, mean over rows and policy updates",
        ),
        (
            "train/squared_error",
            "squared distance of the policy to the dataset's actions, mean over rows, components and policy updates",
        ),
        ("train/n_updates", "optimiser steps since the start"),
    ],
)
.offline()
.console(&["train/q_value", "train/qf_loss"]);

impl AgentConfig for Td3BcConfig {
    const PARTS: &'static [Part] = &[Part::of::<OfflineConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        check::fraction("gamma", self.gamma, "a discount")?;
        check::weight("alpha", self.alpha, "2.5")?;
        check::weight("policy_noise", self.policy_noise, "0.2")?;
        check::weight("noise_clip", self.noise_clip, "0.5")?;
        check::count("policy_delay", self.policy_delay)?;
        check::widths("hidden_sizes", &self.hidden_sizes)?;
        check::positive("learning_rate", self.learning_rate, "3e-4")?;
        check::fraction("tau", self.tau, "the weight of the new parameters")
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Td3Bc::learner(self, setup)?))
    }
}

/// TD3+BC.
pub struct Td3Bc {
    config: Td3BcConfig,
    critics: TwinCritics,
    policy_target: Vec<f32>,
    policy_optimizer: Adam,
    pass: BoxPolicyPass,
    grad: Vec<f32>,
    d_mean: Vec<f32>,
    joined: Vec<f32>,
    /// Target actions, `[B, act_dim]`, and the critics' targets, `[B]`.
    next_action: Vec<f32>,
    y: Vec<f32>,
    /// Of the target actions.
    noise: NumpyRng,
}

impl Td3Bc {
    /// A fresh agent; the data are read by [`prepare`](Learner::prepare).
    ///
    /// # Errors
    /// Settings out of range, no dataset, an environment that does not suit.
    pub fn learner(config: Td3BcConfig, setup: &Setup) -> Result<Offline<Td3Bc>, LearnError> {
        config.validate()?;
        let (common, hidden_sizes, seed) = (config.common.clone(), config.hidden_sizes.clone(), setup.seed);
        let (precision, device, batch_size) = (common.precision, setup.device, common.batch_size);
        let shape = BoxPolicyShape { hidden_sizes: &hidden_sizes, squash: true, stochastic: false, precision, device };
        Offline::new(common, &shape, setup, |spec, policy, _, rng| {
            let widths = [&[spec.obs_dim + policy.act_dim()], &config.hidden_sizes[..], &[1]].concat();
            let mlp = Mlp::new(&widths, Activation::Relu).on(device).with_precision(precision);
            Td3Bc {
                critics: TwinCritics::new(mlp, batch_size, 1e-8, rng),
                policy_target: policy.params.clone(),
                policy_optimizer: Adam::new(policy.params.len(), 1e-8),
                pass: policy.pass(batch_size),
                grad: vec![0.0; policy.params.len()],
                d_mean: Vec::new(),
                joined: Vec::new(),
                next_action: Vec::new(),
                y: Vec::new(),
                noise: Seed(seed).stream("target noise", 0),
                config,
            }
        })
    }
}

impl OfflineUpdate for Td3Bc {
    fn update(&mut self, agent: &mut OfflineAgent, batch: &Batch, means: &mut Means) -> Result<(), LearnError> {
        let Td3Bc { config, critics, pass, joined, next_action, y, d_mean, .. } = self;
        let (policy, workers, rows) = (&agent.policy, &agent.workers, batch.len());
        let act_dim = policy.act_dim();

        // Target actions with clipped noise, inside the box; then the critics.
        let (low, high) = policy.bounds();
        refill(next_action, policy.means(&self.policy_target, &batch.next_obs, pass, workers).iter().copied());
        for (k, a) in next_action.iter_mut().enumerate() {
            let bounds = (low[k % act_dim], high[k % act_dim]);
            *a = config.target_action(*a, self.noise.standard_normal(), bounds);
        }
        join(&batch.next_obs, next_action, rows, joined);
        let next = smaller(critics.target_values(joined, workers));
        let rewards = batch.reward.iter().zip(&batch.bootstraps);
        refill(y, rewards.zip(next).map(|((r, b), q)| r + config.gamma as f32 * b * q));
        join(&batch.obs, &batch.action, rows, joined);
        let losses = critics.fit(joined, y, config.learning_rate, workers);
        means.add("train/qf_loss", agent.finite("the critics' loss", losses.loss)?);
        means.add("train/q_value", losses.q_value);
        if !(agent.progress.grad_steps + 1).is_multiple_of(config.policy_delay as u64) {
            return Ok(());
        }

        // The policy along the first critic, and near the data; then the targets.
        let mean = policy.means(&policy.params, &batch.obs, pass, workers);
        let squares = policy.squared_loss(mean, &batch.action, d_mean);
        join(&batch.obs, mean, rows, joined);
        let q = &critics.values(joined, workers)[..rows];
        let average = |f: &dyn Fn(f32) -> f32| q.iter().map(|&q| f64::from(f(q))).sum::<f64>() / rows as f64;
        let lambda = config.alpha / average(&f32::abs).max(1e-8);
        let loss = agent.finite("the policy's loss", squares - lambda * average(&|q| q))?;
        let slope = critics.slope(Judge::First, workers);
        let obs_dim = slope.len() / rows - act_dim;
        for (d, row) in d_mean.chunks_exact_mut(act_dim).zip(slope.chunks_exact(obs_dim + act_dim)) {
            d.iter_mut().zip(&row[obs_dim..]).for_each(|(d, &x)| *d -= lambda as f32 * x);
        }
        policy.backward(d_mean, &[], pass, &mut self.grad, workers);
        self.policy_optimizer.step_on(&mut agent.policy.params, &self.grad, config.learning_rate, workers);
        critics.follow(config.tau, workers);
        polyak(&mut self.policy_target, &agent.policy.params, config.tau as f32, workers);
        means.add("train/policy_loss", loss);
        means.add("train/squared_error", squares);
        Ok(())
    }

    fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("policy_target", Array::F32(self.policy_target.clone()));
        self.critics.save(snapshot);
        self.policy_optimizer.save("adam", snapshot);
        snapshot.state.insert("noise".into(), self.noise.save().into());
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into("policy_target", &mut self.policy_target)?;
        self.critics.load(snapshot)?;
        self.policy_optimizer.load("adam", snapshot)?;
        self.noise = load_stream(snapshot, "noise")?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offline::unread;
    use crate::rollout::Act;

    /// A small agent on Pendulum and a minibatch; the target networks differ from those they follow.
    fn small(change: impl FnOnce(&mut Td3BcConfig)) -> (OfflineAgent, Td3Bc, Batch) {
        let common = OfflineConfig { batch_size: 6, ..Default::default() };
        let mut config = Td3BcConfig { common, hidden_sizes: vec![8], ..Default::default() };
        change(&mut config);
        let (agent, mut td3, batch) = Td3Bc::learner(config, &unread(10)).expect("the settings fit").apart();
        td3.policy_target.iter_mut().for_each(|p| *p *= -0.8);
        td3.critics.target.iter_mut().for_each(|p| *p = 0.1 - 0.7 * *p);
        (agent, td3, batch)
    }

    fn close(a: f32, b: f32, tolerance: f32) {
        assert!((a - b).abs() <= tolerance, "{a} is not {b}");
    }

    /// The mean actions of a policy with `params`, row by row.
    fn means(agent: &OfflineAgent, params: &[f32], obs: &[f32]) -> Vec<f32> {
        let mut policy = agent.policy.clone();
        policy.params.copy_from_slice(params);
        let mode = |obs| {
            let mut action = [0.0];
            policy.mode(obs, &mut Default::default(), &mut action);
            action[0]
        };
        obs.chunks_exact(policy.obs_dim()).map(mode).collect()
    }

    #[test]
    fn target_actions_by_hand() {
        // 0.2 z, at most 0.5, times half the box's width.
        let target = |mean, noise, bound: f32| Td3BcConfig::default().target_action(mean, noise, (-bound, bound));
        for (found, expected) in [
            (target(0.9, 1.0, 1.0), 1.0),
            (target(0.0, 4.0, 1.0), 0.5),
            (target(0.0, -4.0, 1.0), -0.5),
            (target(0.0, 1.0, 2.0), 0.4),
        ] {
            close(found, expected, 1e-6);
        }
    }

    #[test]
    fn the_critics_are_fitted_to_the_smaller_target_at_the_target_policys_action() {
        let (mut agent, mut td3, batch) = small(|config| config.gamma = 0.9);
        let next = means(&agent, &td3.policy_target, &batch.next_obs);
        let (mut target, mut noise, config) = (td3.critics.clone(), td3.noise.clone(), td3.config.clone());
        target.params.clone_from(&target.target);
        td3.update(&mut agent, &batch, &mut Means::default()).expect("finite numbers");
        for (i, &mean) in next.iter().enumerate() {
            let action = config.target_action(mean, noise.standard_normal(), (-2.0, 2.0));
            let q = target.values_of(&batch.next_obs[3 * i..3 * i + 3], &[action]);
            close(td3.y[i], batch.reward[i] + 0.9 * batch.bootstraps[i] * q[0].min(q[1]), 1e-5);
        }
    }

    #[test]
    fn the_policys_gradient_is_that_of_its_loss() {
        let (mut agent, mut td3, batch) = small(|config| config.policy_delay = 1);
        let params = agent.policy.params.clone();
        let mut logged = Means::default();
        td3.update(&mut agent, &batch, &mut logged).expect("finite numbers");
        // Q₁ and squared distances at the actions of other parameters, means over rows.
        let look = |params: &[f32]| {
            let actions = means(&agent, params, &batch.obs);
            let q = |i: usize| td3.critics.values_of(&batch.obs[3 * i..3 * i + 3], &actions[i..=i])[0];
            let q: Vec<f32> = (0..6).map(q).collect();
            let squares = actions.iter().zip(&batch.action).map(|(a, b)| (a - b).powi(2)).sum::<f32>();
            (q, squares / 6.0)
        };
        let mean = |x: &[f32]| x.iter().sum::<f32>() / 6.0;
        let (q, squares) = look(&params);
        // Values of both signs, so that the mean of |Q| is more than |the mean|.
        let lambda = 2.5 / (q.iter().map(|q| q.abs()).sum::<f32>() / 6.0);
        assert!(lambda * mean(&q).abs() < 2.4, "{q:?}");
        close(logged.mean("train/policy_loss") as f32, squares - lambda * mean(&q), 1e-4);
        let loss = |i: usize, by: f32| {
            let mut params = params.clone();
            params[i] += by;
            let (q, squares) = look(&params);
            squares - lambda * mean(&q)
        };
        for (i, &slope) in td3.grad.iter().enumerate() {
            let difference = (loss(i, 5e-4) - loss(i, -5e-4)) / 1e-3;
            close(slope, difference, 5e-3 * slope.abs().max(1.0));
        }
        assert!(td3.grad.iter().any(|slope| slope.abs() > 0.1), "{:?}", td3.grad);
    }

    #[test]
    fn the_policy_and_the_targets_wait_for_the_delay() {
        let (mut agent, mut td3, batch) = small(|config| (config.policy_delay, config.tau) = (3, 0.25));
        let mut steps = Vec::new();
        for _ in 0..6 {
            let before = (td3.policy_target.clone(), td3.critics.target.clone());
            td3.update(&mut agent, &batch, &mut Means::default()).expect("finite numbers");
            agent.progress.grad_steps += 1;
            let mut snapshot = Snapshot::default();
            td3.save(&mut snapshot);
            steps.push(snapshot.u64("adam/steps").expect("it is saved"));
            let followed = |before: &[f32], source: &[f32]| -> Vec<f32> {
                before.iter().zip(source).map(|(t, s)| t + 0.25 * (s - t)).collect()
            };
            let expected = match agent.progress.grad_steps % 3 {
                0 => (followed(&before.0, &agent.policy.params), followed(&before.1, &td3.critics.params)),
                _ => before,
            };
            assert_eq!((&td3.policy_target, &td3.critics.target), (&expected.0, &expected.1));
        }
        assert_eq!(steps, [0, 0, 1, 1, 1, 2]);
    }
}
