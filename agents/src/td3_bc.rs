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
use crate::dataset::Batch;
use crate::iql::join_rows;
use crate::learner::{Array, LearnError, Learner, Setup, Snapshot};
use crate::nn::{Activation, Init, Mlp, Twins, TwinsWorkspace};
use crate::odice::polyak;
use crate::offline::{Means, Offline, OfflineAgent, OfflineConfig, OfflineUpdate};
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

/// TD3+BC's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<Td3BcConfig>(
    "td3_bc",
    "TD3+BC, offline: twin delayed critics, and a policy that stays near the dataset's actions",
    &[
        ("train/qf_loss", "squared errors of the two critics, summed over them, mean over rows and updates"),
        ("train/q_value", "Q(s, a) of the first critic, mean over rows and updates"),
        ("train/policy_loss", "−λ Q(s, π(s)) + (π(s) − a)², mean over rows and policy updates"),
        (
            "train/squared_error",
            "squared distance of the policy to the dataset's actions, mean over rows, components and updates",
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
    twins: Twins,
    critics: Vec<f32>,
    critics_target: Vec<f32>,
    critics_optimizer: Adam,
    critics_grad: Vec<f32>,
    room: TwinsWorkspace<f32>,
    policy_target: Vec<f32>,
    policy_optimizer: Adam,
    pass: BoxPolicyPass,
    grad: Vec<f32>,
    d_mean: Vec<f32>,
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
        let (precision, batch_size) = (common.precision, common.batch_size);
        let shape = BoxPolicyShape { hidden_sizes: &hidden_sizes, squash: true, stochastic: false, precision };
        Offline::new(common, &shape, setup, |spec, policy, _, rng| {
            let widths = [&[spec.obs_dim + policy.act_dim()], &config.hidden_sizes[..], &[1]].concat();
            let twins = Twins::new(Mlp::new(&widths, Activation::Relu).with_precision(precision), 2);
            let critics: Vec<f32> = twins.init(Init::Uniform, rng);
            Td3Bc {
                critics_target: critics.clone(),
                critics_optimizer: Adam::new(critics.len(), 1e-8),
                critics_grad: vec![0.0; critics.len()],
                critics,
                room: twins.workspace(batch_size),
                twins,
                policy_target: policy.params.clone(),
                policy_optimizer: Adam::new(policy.params.len(), 1e-8),
                pass: policy.pass(batch_size),
                grad: vec![0.0; policy.params.len()],
                d_mean: Vec::new(),
                noise: Seed(seed).stream("target noise", 0),
                config,
            }
        })
    }
}

impl OfflineUpdate for Td3Bc {
    fn update(&mut self, agent: &mut OfflineAgent, batch: &Batch, means: &mut Means) -> Result<(), LearnError> {
        let Td3Bc { config, twins, critics, critics_target, room, pass, .. } = self;
        let (policy, workers, rows) = (&mut agent.policy, &agent.workers, batch.len());
        let (scale, act_dim) = (1.0 / rows as f32, policy.act_dim());

        // Target actions with clipped noise, inside the box; then the critics.
        let (low, high) = policy.bounds();
        let mut next_action = policy.means(&self.policy_target, &batch.next_obs, pass, workers).to_vec();
        for (k, a) in next_action.iter_mut().enumerate() {
            let (low, high) = (low[k % act_dim], high[k % act_dim]);
            let noise = config.policy_noise * self.noise.standard_normal();
            let noise = noise.clamp(-config.noise_clip, config.noise_clip) as f32;
            *a = (*a + noise * (high - low) / 2.0).clamp(low, high);
        }
        let next = twins.forward(critics_target, &join_rows(&batch.next_obs, &next_action, rows), room, workers);
        let gamma = config.gamma as f32;
        let target: Vec<f32> =
            (0..rows).map(|i| batch.reward[i] + gamma * batch.bootstraps[i] * next[i].min(next[rows + i])).collect();
        let q = twins.forward(critics, &join_rows(&batch.obs, &batch.action, rows), room, workers);
        let errors: Vec<f32> = q.iter().enumerate().map(|(k, q)| q - target[k % rows]).collect();
        let q_value: f64 = q[..rows].iter().map(|&q| f64::from(q * scale)).sum();
        let qf_loss: f64 = errors.iter().map(|e| f64::from(e * e * scale)).sum();
        let d_q: Vec<f32> = errors.iter().map(|e| 2.0 * scale * e).collect();
        twins.backward(critics, room, &d_q, &mut self.critics_grad, workers);
        self.critics_optimizer.step(critics, &self.critics_grad, config.learning_rate);
        means.add("train/qf_loss", agent.finite("the critics' loss", qf_loss)?);
        means.add("train/q_value", q_value);
        if !(agent.progress.grad_steps + 1).is_multiple_of(config.policy_delay as u64) {
            return Ok(());
        }

        // The policy along the first critic, and near the data.
        let policy = &mut agent.policy;
        let mean = policy.means(&policy.params, &batch.obs, pass, workers).to_vec();
        let squares = policy.squared_loss(&mean, &batch.action, &mut self.d_mean);
        let q = twins.forward(critics, &join_rows(&batch.obs, &mean, rows), room, workers);
        let size: f64 = q[..rows].iter().map(|&q| f64::from(q.abs() * scale)).sum();
        let lambda = config.alpha / size.max(1e-8);
        let q_mean: f64 = q[..rows].iter().map(|&q| f64::from(q * scale)).sum();
        let d_q: Vec<f32> = (0..2 * rows).map(|k| if k < rows { -(lambda as f32) * scale } else { 0.0 }).collect();
        let d_joined = twins.backward_input(critics, room, &d_q, workers);
        let obs_dim = d_joined.len() / rows - act_dim;
        for (d, row) in self.d_mean.chunks_exact_mut(act_dim).zip(d_joined.chunks_exact(obs_dim + act_dim)) {
            d.iter_mut().zip(&row[obs_dim..]).for_each(|(d, &x)| *d += x);
        }
        policy.backward(&self.d_mean, &[], pass, &mut self.grad, workers);
        self.policy_optimizer.step(&mut policy.params, &self.grad, config.learning_rate);
        polyak(critics_target, critics, config.tau as f32);
        polyak(&mut self.policy_target, &policy.params, config.tau as f32);
        means.add("train/policy_loss", agent.finite("the policy's loss", squares - lambda * q_mean)?);
        means.add("train/squared_error", squares);
        Ok(())
    }

    fn save(&self, snapshot: &mut Snapshot) {
        snapshot.put("critics", Array::F32(self.critics.clone()));
        snapshot.put("critics_target", Array::F32(self.critics_target.clone()));
        snapshot.put("policy_target", Array::F32(self.policy_target.clone()));
        self.critics_optimizer.save("qf_adam", snapshot);
        self.policy_optimizer.save("adam", snapshot);
        snapshot.state.insert("noise".into(), self.noise.save().into());
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        snapshot.f32_into("critics", &mut self.critics)?;
        snapshot.f32_into("critics_target", &mut self.critics_target)?;
        snapshot.f32_into("policy_target", &mut self.policy_target)?;
        self.critics_optimizer.load("qf_adam", snapshot)?;
        self.policy_optimizer.load("adam", snapshot)?;
        self.noise = load_stream(snapshot, "noise")?;
        Ok(())
    }
}
