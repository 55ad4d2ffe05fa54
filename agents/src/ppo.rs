//! Proximal policy optimisation (Schulman et al. 2017, arXiv:1707.06347), with the details that implementations agreed on
//! (Huang et al. 2022, "The 37 implementation details of PPO").
//!
//! One iteration gathers `num_steps` steps from every environment, estimates advantages (Schulman et al. 2016) and takes
//! several epochs of minibatch steps on the clipped surrogate (Eq. 7), the value loss and the entropy bonus (Eq. 9).
//! Beyond the paper: an episode cut by a time limit bootstraps from its last state, and the observation statistics are
//! frozen while a rollout and its update run, so that the first ratio is 1; they move between iterations.

use bregman_envs::rng::{NumpyRng, Seed};
use documented::DocumentedFields;
use serde::{Deserialize, Serialize};

use crate::actor::PolicyGradient;
use crate::actor_critic::{ActorCritic, Pass};
use crate::check;
use crate::learner::{LearnError, Learner, Metrics, Setup, Snapshot};
use crate::on_policy::{
    AdvantageNorm, Agent, Batch, OnPolicy, OnPolicyConfig, Update, explained_variance, load_stream, shuffle,
    standardize, take_rows,
};
use crate::optim::{Adam, clip_grad_norm};
use crate::optional;
use crate::registry::{AgentConfig, AgentEntry, Part};
use crate::value::{Sloped, value_loss};

/// Settings of [`Ppo`]; defaults from Schulman et al. 2017, Table 3, and from the details above.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, DocumentedFields)]
#[serde(default)]
pub struct PpoConfig {
    /// What on-policy agents share.
    #[serde(flatten)]
    pub common: OnPolicyConfig,
    /// Transitions per optimiser step.
    pub batch_size: usize,
    /// Passes over a rollout.
    pub num_epochs: usize,
    /// Adam's step size at the start.
    pub learning_rate: f64,
    /// Let the step size fall linearly to 0 over the budget.
    pub anneal_lr: bool,
    /// Adam's ε.
    pub adam_eps: f64,
    /// Half-width of the interval the ratio is clipped to, ε in Eq. 7.
    pub clip_coef: f64,
    /// Let the clip interval shrink linearly to 0 over the budget.
    pub anneal_clip: bool,
    /// Half-width of the interval around the old value that the new value is clipped to; "none" leaves it free.
    #[serde(with = "optional")]
    pub vf_clip_coef: Option<f64>,
    /// Weight of the mean squared value error, c₁ in Eq. 9. Implementations that put ½ into the loss have twice this.
    pub vf_coef: f64,
    /// Weight of the entropy bonus, c₂ in Eq. 9.
    pub ent_coef: f64,
    /// Bound on the gradient's global norm; "none" leaves it free.
    #[serde(with = "optional")]
    pub max_grad_norm: Option<f64>,
    /// Stop an iteration's updates once the KL estimate exceeds 1.5 times this; "none" never stops.
    #[serde(with = "optional")]
    pub target_kl: Option<f64>,
    /// Two networks; otherwise one, whose last output is the value.
    pub separate_networks: bool,
}

impl Default for PpoConfig {
    fn default() -> PpoConfig {
        PpoConfig {
            common: OnPolicyConfig { advantage_norm: AdvantageNorm::Minibatch, ..Default::default() },
            batch_size: 64,
            num_epochs: 10,
            learning_rate: 3e-4,
            anneal_lr: false,
            adam_eps: 1e-5,
            clip_coef: 0.2,
            anneal_clip: false,
            vf_clip_coef: None,
            vf_coef: 0.5,
            ent_coef: 0.0,
            max_grad_norm: Some(0.5),
            target_kl: None,
            separate_networks: true,
        }
    }
}

/// PPO's line in the registry.
pub const ENTRY: AgentEntry = AgentEntry::of::<PpoConfig>(
    "ppo",
    "proximal policy optimisation: several epochs of minibatch steps on a clipped surrogate",
    &[
        ("train/policy_gradient_loss", "negative clipped surrogate, mean over the iteration's minibatches"),
        ("train/value_loss", "squared error of the value function in scaled units, mean over minibatches"),
        ("train/entropy_loss", "negative entropy of the policy, mean over minibatches"),
        ("train/loss", "policy loss + vf_coef × value loss + ent_coef × entropy loss, mean over minibatches"),
        ("train/approx_kl", "estimate of KL(old ‖ new), mean of ratio − 1 − ln ratio over the last epoch"),
        ("train/clip_fraction", "part of the ratios outside the clip interval, mean over minibatches"),
        ("train/explained_variance", "1 − Var(returns − values) / Var(returns) of the rollout, before the update"),
        ("train/grad_norm", "norm of the gradient before clipping, mean over minibatches"),
        ("train/learning_rate", "Adam's step size in this iteration"),
        ("train/clip_range", "half-width of the clip interval in this iteration"),
        ("train/std", "mean standard deviation of the policy, where it is a free parameter"),
        ("train/n_updates", "optimiser steps since the start"),
    ],
)
.console(&["train/approx_kl", "train/explained_variance"]);

impl AgentConfig for PpoConfig {
    const PARTS: &'static [Part] = &[Part::of::<OnPolicyConfig>("common")];

    fn validate(&self) -> Result<(), LearnError> {
        self.common.validate()?;
        check::count("batch_size", self.batch_size)?;
        check::count("num_epochs", self.num_epochs)?;
        check::positive("learning_rate", self.learning_rate, "3e-4")?;
        check::positive("adam_eps", self.adam_eps, "1e-5")?;
        check::positive("clip_coef", self.clip_coef, "0.2")?;
        check::weight("vf_coef", self.vf_coef, "0.5")?;
        check::finite("ent_coef", self.ent_coef, "0")?;
        check::positive_or_none("vf_clip_coef", self.vf_clip_coef)?;
        check::positive_or_none("max_grad_norm", self.max_grad_norm)?;
        check::positive_or_none("target_kl", self.target_kl)
    }

    fn build(self, setup: &Setup) -> Result<Box<dyn Learner>, LearnError> {
        Ok(Box::new(Ppo::learner(self, setup)?))
    }
}

/// Proximal policy optimisation.
pub struct Ppo {
    config: PpoConfig,
    optimizer: Adam,
    /// Draws the order of the minibatches.
    shuffle: NumpyRng,
    pass: Pass,
    grad: Vec<f32>,
}

/// Rows of a batch, gathered.
#[derive(Default)]
struct Minibatch {
    obs: Vec<f32>,
    action: Vec<f32>,
    log_prob: Vec<f32>,
    value: Vec<f32>,
    advantage: Vec<f32>,
    returns: Vec<f32>,
}

/// Means over the rows of a minibatch.
#[derive(Clone, Copy, Default)]
struct Losses {
    policy: f64,
    value: f64,
    entropy: f64,
    approx_kl: f64,
    clip_fraction: f64,
}

impl Ppo {
    /// Fresh networks in fresh environments.
    ///
    /// # Errors
    /// Settings out of range, a minibatch larger than the rollout, or an environment that cannot be made.
    pub fn learner(config: PpoConfig, setup: &Setup) -> Result<OnPolicy<Ppo>, LearnError> {
        config.validate()?;
        let rows = config.common.num_steps * setup.env.num_envs;
        let rule = format!("at most num_steps × num_envs = {rows}, the rows of a rollout");
        check::rule(config.batch_size <= rows, "batch_size", config.batch_size, &rule)?;
        let (common, separate) = (config.common.clone(), config.separate_networks);
        OnPolicy::new(common, separate, setup, |model| Ppo::new(config, Seed(setup.seed), model))
    }

    fn new(config: PpoConfig, seed: Seed, model: &ActorCritic) -> Ppo {
        Ppo {
            optimizer: Adam::new(model.params.len(), config.adam_eps),
            shuffle: seed.stream("shuffle", 0),
            pass: model.pass(config.batch_size),
            grad: vec![0.0; model.params.len()],
            config,
        }
    }
}

impl Update for Ppo {
    /// Several epochs of minibatch steps over a batch.
    fn update(&mut self, agent: &mut Agent, batch: &Batch) -> Result<Metrics, LearnError> {
        let left = agent.left();
        let learning_rate = self.config.learning_rate * if self.config.anneal_lr { left } else { 1.0 };
        let clip_coef = self.config.clip_coef * if self.config.anneal_clip { left } else { 1.0 };
        let mut rows: Vec<usize> = (0..batch.steps.len()).collect();
        let mut minibatch = Minibatch::default();
        let (mut all, mut last_epoch, mut norms) = (Mean::default(), Mean::default(), 0.0);
        let mut updates = 0;
        'epochs: for _ in 0..self.config.num_epochs {
            shuffle(&mut rows, &mut self.shuffle);
            last_epoch = Mean::default();
            for rows in rows.chunks(self.config.batch_size) {
                minibatch.gather(batch, rows);
                if self.config.common.advantage_norm == AdvantageNorm::Minibatch {
                    standardize(&mut minibatch.advantage);
                }
                let losses = self.gradient(agent, &minibatch, clip_coef as f32);
                all.add(losses);
                last_epoch.add(losses);
                if self.config.target_kl.is_some_and(|target| losses.approx_kl > 1.5 * target) {
                    break 'epochs;
                }
                let norm = clip_grad_norm(&mut self.grad, self.config.max_grad_norm);
                if !norm.is_finite() {
                    return Err(agent.non_finite("the gradient's norm", norm));
                }
                self.optimizer.step(&mut agent.model.params, &self.grad, learning_rate);
                norms += norm;
                updates += 1;
            }
        }
        agent.progress.grad_steps += updates;

        let mean = all.mean();
        let mut metrics = Metrics::default();
        metrics.add("train/policy_gradient_loss", mean.policy);
        metrics.add("train/value_loss", mean.value);
        metrics.add("train/entropy_loss", -mean.entropy);
        let loss = mean.policy + self.config.vf_coef * mean.value - self.config.ent_coef * mean.entropy;
        metrics.add("train/loss", loss);
        metrics.add("train/approx_kl", last_epoch.mean().approx_kl);
        metrics.add("train/clip_fraction", mean.clip_fraction);
        metrics.add("train/explained_variance", explained_variance(&batch.value, &batch.returns));
        metrics.add("train/grad_norm", norms / updates.max(1) as f64);
        metrics.add("train/learning_rate", learning_rate);
        metrics.add("train/clip_range", clip_coef);
        if let Some(std) = agent.model.mean_std() {
            metrics.add("train/std", std);
        }
        metrics.add("train/n_updates", agent.progress.grad_steps as f64);
        Ok(metrics)
    }

    fn save(&self, snapshot: &mut Snapshot) {
        self.optimizer.save("adam", snapshot);
        snapshot.state.insert("shuffle".into(), self.shuffle.save().into());
    }

    fn load(&mut self, snapshot: &Snapshot) -> Result<(), LearnError> {
        self.optimizer.load("adam", snapshot)?;
        self.shuffle = load_stream(snapshot, "shuffle")?;
        Ok(())
    }
}

impl Ppo {
    /// Losses of a minibatch, and the gradient of their weighted sum (Eq. 9, descending) into `self.grad`.
    fn gradient(&mut self, agent: &Agent, minibatch: &Minibatch, clip_coef: f32) -> Losses {
        let rows = minibatch.log_prob.len();
        let scale = 1.0 / rows as f32;
        let d_entropy = -(self.config.ent_coef as f32) * scale;
        let (vf_coef, vf_clip) = (self.config.vf_coef as f32, self.config.vf_clip_coef.map(|c| c as f32));
        let policy_part = |mut policy: PolicyGradient| {
            let mut losses = Losses::default();
            for (i, action) in minibatch.action.chunks_exact(minibatch.action.len() / rows).enumerate() {
                let log_ratio = policy.rows.log_prob(i, action) - minibatch.log_prob[i];
                let surrogate = clipped_surrogate(log_ratio, minibatch.advantage[i], clip_coef);
                policy.add(i, action, -surrogate.slope * scale, d_entropy);

                let clipped = (log_ratio.exp() - 1.0).abs() > clip_coef;
                losses.policy -= f64::from(surrogate.loss * scale);
                losses.entropy += f64::from(policy.rows.entropy(i) * scale);
                losses.approx_kl += f64::from(approx_kl(log_ratio) * scale);
                losses.clip_fraction += f64::from(scale) * f64::from(u8::from(clipped));
            }
            losses
        };
        let value_part = |values: &[f32], d_values: &mut [f32]| {
            let mut sum = 0.0;
            for (i, d_value) in d_values.iter_mut().enumerate() {
                let loss = value_loss(values[i], minibatch.value[i], minibatch.returns[i], vf_clip);
                *d_value = vf_coef * loss.slope * scale;
                sum += f64::from(loss.loss * scale);
            }
            sum
        };
        let Ppo { pass, grad, .. } = self;
        let (losses, value) = agent.model.gradient(&minibatch.obs, policy_part, value_part, pass, grad, &agent.workers);
        Losses { value, ..losses }
    }
}

/// Clipped surrogate objective, to be maximised (Schulman et al. 2017, Eq. 7), and its derivative in ln π.
pub fn clipped_surrogate(log_ratio: f32, advantage: f32, clip_coef: f32) -> Sloped {
    let ratio = log_ratio.exp();
    let clipped = ratio.clamp(1.0 - clip_coef, 1.0 + clip_coef);
    if ratio * advantage <= clipped * advantage {
        Sloped { loss: ratio * advantage, slope: ratio * advantage }
    } else {
        Sloped { loss: clipped * advantage, slope: 0.0 }
    }
}

/// Estimate of KL(old ‖ new) from a sample of the old policy: ratio − 1 − ln ratio, never negative.
pub fn approx_kl(log_ratio: f32) -> f32 {
    log_ratio.exp_m1() - log_ratio
}

/// A running mean of losses.
#[derive(Default)]
struct Mean {
    sum: Losses,
    count: f64,
}

impl Mean {
    fn add(&mut self, losses: Losses) {
        self.sum.policy += losses.policy;
        self.sum.value += losses.value;
        self.sum.entropy += losses.entropy;
        self.sum.approx_kl += losses.approx_kl;
        self.sum.clip_fraction += losses.clip_fraction;
        self.count += 1.0;
    }

    fn mean(&self) -> Losses {
        let per = |x: f64| x / self.count.max(1.0);
        Losses {
            policy: per(self.sum.policy),
            value: per(self.sum.value),
            entropy: per(self.sum.entropy),
            approx_kl: per(self.sum.approx_kl),
            clip_fraction: per(self.sum.clip_fraction),
        }
    }
}

impl Minibatch {
    /// Copies the given rows of a batch.
    fn gather(&mut self, batch: &Batch, rows: &[usize]) {
        let steps = &batch.steps;
        take_rows(&steps.obs, steps.obs.len() / steps.len(), rows, &mut self.obs);
        take_rows(&steps.action, steps.action.len() / steps.len(), rows, &mut self.action);
        take_rows(&steps.log_prob, 1, rows, &mut self.log_prob);
        take_rows(&batch.value, 1, rows, &mut self.value);
        take_rows(&batch.advantage, 1, rows, &mut self.advantage);
        take_rows(&batch.returns, 1, rows, &mut self.returns);
    }
}

/// PPO on two copies of Pendulum with rollouts of 2 · 6 rows, nothing normalised; one minibatch unless changed, and a budget of two
/// rollouts.
#[cfg(test)]
pub(crate) fn pendulums(change: impl FnOnce(&mut PpoConfig)) -> OnPolicy<Ppo> {
    let common = OnPolicyConfig {
        num_steps: 6,
        hidden_sizes: vec![8],
        advantage_norm: AdvantageNorm::None,
        normalize_obs: false,
        normalize_reward: false,
        ..Default::default()
    };
    let mut config = PpoConfig { common, batch_size: 12, num_epochs: 1, max_grad_norm: None, ..Default::default() };
    change(&mut config);
    let setup = Setup {
        seed: 1,
        threads: 1,
        device: Default::default(),
        env: bregman_envs::EnvConfig { num_envs: 2, ..bregman_envs::EnvConfig::new("Pendulum-v1") },
        envs: Default::default(),
        dataset: None,
        budget: crate::learner::Budget::EnvSteps(24),
        histograms: false,
    };
    Ppo::learner(config, &setup).expect("the settings fit")
}

#[cfg(test)]
mod tests {
    use tch::{Kind, Tensor};

    use super::*;
    use crate::on_policy::standardize;

    fn close(a: f32, b: f32) {
        assert!((a - b).abs() < 1e-6, "{a} is not {b}");
    }

    #[test]
    fn the_surrogate_takes_the_worse_of_ratio_and_clipped_ratio() {
        let at = |ratio: f32, advantage| clipped_surrogate(ratio.ln(), advantage, 0.2);
        for (ratio, advantage, loss, slope) in
            [(1.5, 1.0, 1.2, 0.0), (1.5, -1.0, -1.5, -1.5), (0.5, 1.0, 0.5, 0.5), (0.5, -1.0, -0.8, 0.0)]
        {
            close(at(ratio, advantage).loss, loss);
            close(at(ratio, advantage).slope, slope);
        }
    }

    #[test]
    fn the_kl_estimate_by_hand() {
        close(approx_kl(0.1), 0.005_170_918);
        close(approx_kl(-0.1), 0.004_837_418);
    }

    /// The whole loss as CleanRL and the paper write it, differentiated by autograd in log-probabilities and values.
    #[test]
    fn the_loss_gradients_agree_with_autograd() {
        let mut rng = NumpyRng::new(5);
        let mut draw = |scale: f64| -> Vec<f32> { (0..64).map(|_| (scale * rng.standard_normal()) as f32).collect() };
        let (log_ratio, advantage) = (draw(0.3), draw(1.0));
        let (value, old_value, returns) = (draw(1.0), draw(1.0), draw(1.0));
        let leaf = |x: &[f32]| Tensor::from_slice(x).set_requires_grad(true);
        let (lr, v) = (leaf(&log_ratio), leaf(&value));
        let (a, old, r) =
            (Tensor::from_slice(&advantage), Tensor::from_slice(&old_value), Tensor::from_slice(&returns));
        let ratio = lr.exp();
        let surrogate = (&ratio * &a).minimum(&(ratio.clamp(0.8, 1.2) * &a));
        let clipped = &old + (&v - &old).clamp(-0.2, 0.2);
        let error = (&v - &r).square().maximum(&(clipped - &r).square());
        (surrogate.sum(Kind::Float) + error.sum(Kind::Float)).backward();
        let slopes = |t: &Tensor| Vec::<f32>::try_from(t.grad()).expect("64 numbers");
        for i in 0..64 {
            close(clipped_surrogate(log_ratio[i], advantage[i], 0.2).slope, slopes(&lr)[i]);
            close(value_loss(value[i], old_value[i], returns[i], Some(0.2)).slope, slopes(&v)[i]);
        }
    }

    /// Agent, algorithm and a rollout of [`pendulums`].
    fn small(change: impl FnOnce(&mut PpoConfig)) -> (Agent, Ppo, Batch) {
        pendulums(change).apart()
    }

    /// All rows of a rollout.
    fn whole(batch: &Batch) -> Minibatch {
        let mut minibatch = Minibatch::default();
        minibatch.gather(batch, &(0..batch.steps.len()).collect::<Vec<_>>());
        minibatch
    }

    #[test]
    fn metrics_of_a_minibatch_by_hand() {
        let (agent, mut ppo, batch) = small(|_| ());
        let mut minibatch = whole(&batch);
        let losses = ppo.gradient(&agent, &minibatch, 0.2);
        assert!(losses.approx_kl < 1e-6 && losses.clip_fraction == 0.0);
        let mean = minibatch.advantage.iter().sum::<f32>() / 12.0;
        assert!((losses.policy as f32 + mean).abs() < 1e-3 * mean.abs(), "{} is not −{mean}", losses.policy);
        // Ratios of e^0.1; then half of them of 1.3.
        minibatch.log_prob.iter_mut().for_each(|p| *p -= 0.1);
        let losses = ppo.gradient(&agent, &minibatch, 0.2);
        assert!((losses.approx_kl - 0.005_170_9).abs() < 1e-5 && losses.clip_fraction == 0.0, "{}", losses.approx_kl);
        minibatch.log_prob.iter_mut().step_by(2).for_each(|p| *p += 0.1 - 1.3f32.ln());
        assert!((ppo.gradient(&agent, &minibatch, 0.2).clip_fraction - 0.5).abs() < 1e-6);
    }

    #[test]
    fn the_parts_of_the_loss_have_their_weights() {
        let (agent, mut ppo, batch) = small(|config| (config.ent_coef, config.vf_coef) = (0.3, 0.7));
        let mut minibatch = whole(&batch);
        // Without advantages the slope in ln σ is the entropy's, 1 for a component; the critic's bias has 2 (V − R).
        minibatch.advantage.fill(0.0);
        ppo.gradient(&agent, &minibatch, 0.2);
        let log_std = agent.model.actor.num_params() - 1;
        close(ppo.grad[log_std], -0.3);
        let error = minibatch.value.iter().zip(&minibatch.returns).map(|(v, r)| v - r).sum::<f32>() / 12.0;
        let bias = ppo.grad[ppo.grad.len() - 1];
        assert!((bias - 0.7 * 2.0 * error).abs() < 1e-4 * error.abs().max(1.0), "{bias} {error}");
    }

    #[test]
    fn the_values_clip_reaches_the_loss() {
        let (agent, mut ppo, batch) = small(|config| config.vf_clip_coef = Some(0.2));
        let mut minibatch = whole(&batch);
        // Old values 0.3 below and returns 0.5 above: the clipped error of 0.6 counts, without a slope.
        minibatch.returns = minibatch.value.iter().map(|v| v + 0.5).collect();
        minibatch.value.iter_mut().for_each(|v| *v -= 0.3);
        assert!((ppo.gradient(&agent, &minibatch, 0.2).value - 0.36).abs() < 1e-4);
        assert_eq!(ppo.grad[ppo.grad.len() - 1], 0.0);
    }

    #[test]
    fn every_row_is_used_and_means_are_over_what_they_say() {
        let update = |change: &dyn Fn(&mut PpoConfig)| {
            let (mut agent, mut ppo, batch) = small(|config| {
                config.learning_rate = 1e-12;
                change(config);
            });
            let metrics = ppo.update(&mut agent, &batch).expect("finite numbers");
            (move |name: &str| metrics.get(name).expect("it is logged"), batch)
        };
        // Twelve rows by five.
        assert_eq!(update(&|config| config.batch_size = 5).0("train/n_updates"), 3.0);
        // The same gradient three times.
        let (once, thrice) = (update(&|_| ()).0, update(&|config| config.num_epochs = 3).0);
        let norm = once("train/grad_norm");
        assert!((thrice("train/grad_norm") - norm).abs() < 1e-4 * norm && norm > 0.1, "{norm}");
        let (metric, batch) = update(&|_| ());
        assert_eq!(metric("train/explained_variance"), explained_variance(&batch.value, &batch.returns));
        assert_ne!(metric("train/explained_variance"), explained_variance(&batch.returns, &batch.value));
    }

    #[test]
    fn the_kl_is_that_of_the_last_epoch() {
        let update = |num_epochs| {
            let (mut agent, mut ppo, batch) =
                small(|config| (config.num_epochs, config.learning_rate) = (num_epochs, 0.02));
            let metrics = ppo.update(&mut agent, &batch).expect("finite numbers");
            (metrics.get("train/approx_kl").expect("it is logged"), ppo.gradient(&agent, &whole(&batch), 0.2).approx_kl)
        };
        let ((first, after_one), (second, _)) = (update(1), update(2));
        assert!(first < 1e-6 && after_one > 1e-4, "{first} {after_one}");
        assert!((second - after_one).abs() < 1e-3 * after_one, "{second} is not {after_one}");
    }

    #[test]
    fn advantages_are_standardised_by_the_minibatch_where_that_is_said() {
        let loss = |advantage_norm| {
            let (mut agent, mut ppo, mut batch) = small(|config| {
                config.common.advantage_norm = advantage_norm;
                config.learning_rate = 1e-12;
            });
            batch.advantage.iter_mut().for_each(|a| *a = *a * 3.0 + 7.0);
            let metrics = ppo.update(&mut agent, &batch).expect("finite numbers");
            let mut standardised = batch.advantage.clone();
            standardize(&mut standardised);
            let mean = |x: &[f32]| f64::from(x.iter().sum::<f32>()) / 12.0;
            (
                metrics.get("train/policy_gradient_loss").expect("it is logged"),
                mean(&batch.advantage),
                mean(&standardised),
            )
        };
        let (found, raw, _) = loss(AdvantageNorm::None);
        assert!((found + raw).abs() < 1e-3 * raw.abs(), "{found} is not −{raw}");
        let (found, raw, standardised) = loss(AdvantageNorm::Minibatch);
        assert!((found + standardised).abs() < 1e-4 && raw.abs() > 1.0, "{found} is not −{standardised}");
    }

    #[test]
    fn steps_are_clipped_and_annealed_as_the_settings_say() {
        let moved = |max_grad_norm| {
            let (mut agent, mut ppo, batch) = small(|config| {
                (config.adam_eps, config.max_grad_norm, config.learning_rate) = (1.0, max_grad_norm, 0.1);
            });
            let before = agent.model.params.clone();
            ppo.update(&mut agent, &batch).expect("finite numbers");
            before.iter().zip(&agent.model.params).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max)
        };
        assert!(moved(Some(1e-5)) < 2e-6 && moved(None) > 1e-3, "{} {}", moved(Some(1e-5)), moved(None));
        for (anneal, part) in [(true, 0.5), (false, 1.0)] {
            let (mut agent, mut ppo, batch) = small(|config| {
                (config.anneal_lr, config.anneal_clip, config.learning_rate) = (anneal, anneal, 0.1);
            });
            agent.progress.env_steps = 12;
            let metrics = ppo.update(&mut agent, &batch).expect("finite numbers");
            let logged = ["train/learning_rate", "train/clip_range"].map(|name| metrics.get(name).expect("logged"));
            assert_eq!(logged, [0.1 * part, 0.2 * part]);
        }
    }
}
